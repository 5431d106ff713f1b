//! TLS towards endpoints: auto-mTLS, and what a DestinationRule asks for (contract §3.2, §6.3 `tls.mode`).

use envoy_types::pb::{
    envoy::{
        config::{
            cluster::v3::{Cluster, Filter, cluster::TransportSocketMatch},
            core::v3::{TransportSocket, UpstreamHttpProtocolOptions, transport_socket},
        },
        extensions::transport_sockets::tls::v3::{
            CertificateValidationContext, CommonTlsContext, TlsParameters, UpstreamTlsContext, common_tls_context::ValidationContextType,
            tls_parameters::TlsProtocol,
        },
        r#type::matcher::v3::string_matcher::MatchPattern,
    },
    google::protobuf::Any,
};
use smol_str::SmolStr;

use crate::{
    api::istio::{ClientTls, ClientTlsMode},
    mesh::model::{Flavour, ProxyKind, Service},
    proto::udpa::TypedStruct,
    translate::{tls, wkt},
};

/// What auto-mTLS does for a cluster whose DestinationRule says nothing about TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum AutoMtls {
    /// Plaintext.
    Off,
    /// mTLS to endpoints that say they can, plaintext to others.
    Match,
    /// mTLS always (no endpoint metadata to match on: original destination).
    Direct,
}

/// Who a cluster talks to.
pub(super) struct Peer<'a> {
    pub(super) service: &'a Service,
    pub(super) sni: SmolStr,
    pub(super) http2: bool,
    pub(super) kind: ProxyKind,
    pub(super) flavour: Flavour,
}

/// Gives the cluster its transport sockets.
pub(super) fn apply(cluster: &mut Cluster, peer: &Peer<'_>, settings: Option<&ClientTls>, auto: AutoMtls) {
    match settings {
        Some(settings) => cluster.transport_socket = explicit(peer, settings),
        None => match auto {
            AutoMtls::Off => {}
            AutoMtls::Direct => cluster.transport_socket = Some(istio_mutual(peer, None)),
            AutoMtls::Match => cluster.transport_socket_matches = vec![mtls_match(peer), plaintext_match()],
        },
    }
}

/// `auto_sni` and `auto_san_validation` where the rule names neither SNI nor names to verify: the request's host is
/// used for both.
pub(super) fn http_options(settings: Option<&ClientTls>) -> Option<UpstreamHttpProtocolOptions> {
    let settings = settings.filter(|tls| matches!(tls.mode, ClientTlsMode::Simple | ClientTlsMode::Mutual))?;
    settings.sni.is_empty().then(|| UpstreamHttpProtocolOptions {
        auto_sni: true,
        auto_san_validation: settings.subject_alt_names.is_empty() && !settings.insecure_skip_verify,
        ..Default::default()
    })
}

/// Whether the rule makes the proxy originate TLS of the user's own.
pub(super) fn originates(settings: Option<&ClientTls>) -> bool {
    settings.is_some_and(|tls| matches!(tls.mode, ClientTlsMode::Simple | ClientTlsMode::Mutual))
}

/// Istio's proxy exchanges metadata over TCP by an upstream filter; it goes with the ALPN name of the same purpose.
pub(super) fn peer_exchange_filter(flavour: Flavour) -> Vec<Filter> {
    if flavour == Flavour::Stock {
        return Vec::new();
    }
    let value = wkt::structure([("enable_discovery", wkt::bool_value(true)), ("protocol", wkt::text_value(tls::PEER_EXCHANGE))]);
    let config =
        TypedStruct { type_url: "type.googleapis.com/envoy.tcp.metadataexchange.config.MetadataExchange".into(), value: Some(value) };
    let typed_config: Any = wkt::any(&config);
    vec![Filter { name: "istio.metadata_exchange".into(), typed_config: Some(typed_config), ..Default::default() }]
}

fn explicit(peer: &Peer<'_>, settings: &ClientTls) -> Option<TransportSocket> {
    match settings.mode {
        ClientTlsMode::Disable => None,
        ClientTlsMode::IstioMutual => Some(istio_mutual(peer, Some(settings))),
        // Secrets by name are for those that own them: a sidecar would be handed other people's keys.
        ClientTlsMode::Simple | ClientTlsMode::Mutual if !settings.credential_name.is_empty() && peer.kind == ProxyKind::Sidecar => None,
        ClientTlsMode::Simple | ClientTlsMode::Mutual => Some(originate(peer, settings)),
    }
}

fn istio_mutual(peer: &Peer<'_>, settings: Option<&ClientTls>) -> TransportSocket {
    let alpn = tls::mesh_alpn(peer.flavour, peer.http2);
    let sni = settings.map(|settings| &settings.sni).filter(|sni| !sni.is_empty()).unwrap_or(&peer.sni);
    match settings.filter(|settings| !settings.subject_alt_names.is_empty()) {
        Some(settings) => tls::upstream_istio_mutual(&[], &settings.subject_alt_names, sni, alpn),
        None => tls::upstream_istio_mutual(&peer.service.service_accounts, &peer.service.subject_alt_names, sni, alpn),
    }
}

fn originate(peer: &Peer<'_>, settings: &ClientTls) -> TransportSocket {
    let mut common = CommonTlsContext {
        tls_params: Some(TlsParameters {
            tls_minimum_protocol_version: TlsProtocol::TlSv12 as i32,
            tls_maximum_protocol_version: TlsProtocol::TlSv13 as i32,
            ..Default::default()
        }),
        alpn_protocols: peer.http2.then(|| "h2".to_owned()).into_iter().collect(),
        ..Default::default()
    };
    let named = !settings.credential_name.is_empty();
    if settings.mode == ClientTlsMode::Mutual {
        let certificate = if named {
            tls::secret(&format!("kubernetes://{}", settings.credential_name), tls::ads(false))
        } else {
            file_secret(&format!("file-cert:{}~{}", settings.client_certificate, settings.private_key))
        };
        common.tls_certificate_sds_secret_configs = vec![certificate];
    }
    common.validation_context_type = validation(peer, settings, named);
    let context = UpstreamTlsContext { common_tls_context: Some(common), sni: settings.sni.to_string(), ..Default::default() };
    TransportSocket {
        name: "envoy.transport_sockets.tls".into(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(wkt::any(&context))),
    }
}

fn validation(peer: &Peer<'_>, settings: &ClientTls, named: bool) -> Option<ValidationContextType> {
    if settings.insecure_skip_verify {
        return Some(ValidationContextType::ValidationContext(CertificateValidationContext::default()));
    }
    let names = if settings.subject_alt_names.is_empty() { &peer.service.subject_alt_names } else { &settings.subject_alt_names };
    let bundle = match (named, settings.ca_certificates.as_str()) {
        (true, _) => tls::secret(&format!("kubernetes://{}-cacert", settings.credential_name), tls::ads(false)),
        (false, "") => file_secret("file-root:system"),
        (false, path) => file_secret(&format!("file-root:{path}")),
    };
    Some(tls::validation(names.iter().map(|name| MatchPattern::Exact(name.to_string())), bundle))
}

// Files are served by the agent too; a listener need not wait for them for ever.
fn file_secret(name: &str) -> envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::SdsSecretConfig {
    let mut source = tls::agent_sds();
    source.initial_fetch_timeout = None;
    tls::secret(name, source)
}

fn mtls_match(peer: &Peer<'_>) -> TransportSocketMatch {
    TransportSocketMatch {
        name: "tlsMode-istio".into(),
        r#match: Some(wkt::structure([("tlsMode", wkt::text_value("istio"))])),
        transport_socket: Some(istio_mutual(peer, None)),
    }
}

fn plaintext_match() -> TransportSocketMatch {
    TransportSocketMatch { name: "tlsMode-disabled".into(), r#match: Some(wkt::structure([])), transport_socket: Some(tls::raw_buffer()) }
}

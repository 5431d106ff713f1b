//! TLS towards endpoints: auto-mTLS, and what a DestinationRule asks for (contract §3.2, §6.3 `tls.mode`).

use envoy_types::pb::{
    envoy::{
        config::{
            cluster::v3::{Cluster, Filter, cluster::TransportSocketMatch},
            core::v3::{TransportSocket, UpstreamHttpProtocolOptions, transport_socket},
        },
        extensions::transport_sockets::tls::v3::{
            CertificateValidationContext, CommonTlsContext, SdsSecretConfig, TlsParameters, UpstreamTlsContext,
            common_tls_context::ValidationContextType, tls_parameters::TlsProtocol,
        },
        r#type::matcher::v3::string_matcher::MatchPattern,
    },
    google::protobuf::Any,
};
use smol_str::SmolStr;

use crate::{
    mesh::{
        model::{Flavour, Registry, Service, SpiffeId},
        settings::TlsSettings,
        traffic::{ClientCredentials, ClientFiles, ClientTls, TlsOrigination},
    },
    proto::udpa::TypedStruct,
    translate::{
        tls::{self, PeerNames, TrustSource},
        wkt,
    },
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

/// Whom a cluster talks to.
pub(super) struct Peer<'a> {
    pub(super) service: &'a Service,
    pub(super) sni: SmolStr,
    pub(super) http2: bool,
    pub(super) flavour: Flavour,
    /// Who says which roots peers of the mesh are verified with.
    pub(super) trust: TrustSource,
    /// What MeshConfig asks of TLS that the proxy originates.
    pub(super) defaults: &'a TlsSettings,
}

/// Gives the cluster its transport sockets.
pub(super) fn apply(cluster: &mut Cluster, peer: &Peer<'_>, settings: Option<&ClientTls>, auto: AutoMtls) {
    match settings {
        Some(settings) => cluster.transport_socket = explicit(peer, settings),
        None => match auto {
            AutoMtls::Off => {}
            AutoMtls::Direct => cluster.transport_socket = Some(auto_mtls(peer)),
            AutoMtls::Match => cluster.transport_socket_matches = vec![mtls_match(peer), plaintext_match()],
        },
    }
}

/// Which names a cluster takes from each request, as its rule has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NamesOfRequest {
    /// The SNI is the request's host.
    sni: bool,
    /// The server's certificate must have the request's host.
    verified: bool,
}

impl NamesOfRequest {
    /// Returns what follows from a rule; `None` where the proxy originates no TLS to a host of the user's. A `dynamic` cluster
    /// connects to the host of each request, within the mesh too, and verifies it whatever other names there are.
    pub(super) fn of(settings: Option<&ClientTls>, auto: AutoMtls, dynamic: bool) -> Option<Self> {
        let (sni, names, insecure): (&str, &[SmolStr], bool) = match settings {
            Some(ClientTls::Originate(tls)) => (&tls.sni, &tls.subject_alt_names, tls.insecure_skip_verify),
            Some(ClientTls::IstioMutual { sni, subject_alt_names, insecure_skip_verify, .. }) if dynamic => {
                (sni, subject_alt_names, *insecure_skip_verify)
            }
            None if dynamic && auto != AutoMtls::Off => ("", &[], false),
            _ => return None,
        };
        let (sni, unnamed) = (sni.is_empty(), names.is_empty());
        Some(Self { sni, verified: (dynamic || (sni && unnamed)) && !insecure })
    }

    /// Returns whether the cluster does without one of them, which Envoy has to be told for a dynamic one.
    pub(super) fn is_incomplete(self) -> bool {
        !self.sni || !self.verified
    }

    /// Returns `auto_sni` and `auto_san_validation`, unless both are off.
    pub(super) fn http_options(self) -> Option<UpstreamHttpProtocolOptions> {
        let options = UpstreamHttpProtocolOptions { auto_sni: self.sni, auto_san_validation: self.verified, ..Default::default() };
        (self.sni || self.verified).then_some(options)
    }
}

/// Returns whether the rule makes the proxy originate TLS of the user's own.
pub(super) fn originates(settings: Option<&ClientTls>) -> bool {
    settings.and_then(ClientTls::origination).is_some()
}

/// Returns the upstream filter by which Istio's proxy exchanges metadata over TCP. It goes with the ALPN name of the same
/// purpose.
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
    match settings {
        // Without endpoints there is nothing to secure.
        ClientTls::Disable | ClientTls::Unavailable => None,
        ClientTls::IstioMutual { sni, subject_alt_names, crl, .. } => Some(istio_mutual(peer, sni, subject_alt_names, crl)),
        ClientTls::Originate(origination) => Some(originate(peer, origination)),
    }
}

fn auto_mtls(peer: &Peer<'_>) -> TransportSocket {
    istio_mutual(peer, "", &[], "")
}

fn istio_mutual(peer: &Peer<'_>, sni: &str, names: &[SmolStr], crl: &str) -> TransportSocket {
    let alpn = tls::mesh_alpn(peer.flavour, peer.http2);
    let sni = if sni.is_empty() { &peer.sni } else { sni };
    let (identities, others) = match names {
        [] => (peer.service.service_accounts.as_slice(), peer.service.subject_alt_names.as_slice()),
        names => (&[][..], names),
    };
    tls::upstream_istio_mutual(PeerNames { identities, others, crl, trust: peer.trust }, sni, alpn)
}

fn originate(peer: &Peer<'_>, origination: &TlsOrigination) -> TransportSocket {
    let (certificate, trusted) = secrets(&origination.credentials);
    let common = CommonTlsContext {
        tls_params: Some(TlsParameters {
            tls_minimum_protocol_version: TlsProtocol::TlSv12 as i32,
            tls_maximum_protocol_version: TlsProtocol::TlSv13 as i32,
            cipher_suites: texts(&peer.defaults.cipher_suites),
            ecdh_curves: texts(&peer.defaults.ecdh_curves),
            ..Default::default()
        }),
        alpn_protocols: peer.http2.then(|| "h2".to_owned()).into_iter().collect(),
        tls_certificate_sds_secret_configs: origination.mutual.then_some(certificate).into_iter().collect(),
        validation_context_type: validation(peer, origination, trusted),
        ..Default::default()
    };
    let context = UpstreamTlsContext { common_tls_context: Some(common), sni: origination.sni.to_string(), ..Default::default() };
    TransportSocket {
        name: "envoy.transport_sockets.tls".into(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(wkt::any(&context))),
    }
}

/// Returns the client's certificate, and what it trusts.
fn secrets(credentials: &ClientCredentials) -> (SdsSecretConfig, SdsSecretConfig) {
    match credentials {
        ClientCredentials::Secret { certificate, trusted, .. } => (tls::ads_secret(certificate), tls::ads_secret(trusted)),
        ClientCredentials::Files(ClientFiles { certificate, private_key, ca_certificates, .. }) => {
            let trusted = if ca_certificates.is_empty() { "system" } else { ca_certificates };
            (file_secret(&format!("file-cert:{certificate}~{private_key}")), file_secret(&format!("file-root:{trusted}")))
        }
    }
}

fn validation(peer: &Peer<'_>, origination: &TlsOrigination, trusted: SdsSecretConfig) -> Option<ValidationContextType> {
    let crl = match &origination.credentials {
        ClientCredentials::Secret { .. } if origination.insecure_skip_verify => return None,
        ClientCredentials::Secret { crl, .. } | ClientCredentials::Files(ClientFiles { crl, .. }) => crl,
    };
    if origination.insecure_skip_verify {
        return Some(ValidationContextType::ValidationContext(CertificateValidationContext::default()));
    }
    let names = if origination.subject_alt_names.is_empty() { names_of(peer.service) } else { texts(&origination.subject_alt_names) };
    let names = tls::named(names.into_iter().map(MatchPattern::Exact));
    Some(tls::validation(CertificateValidationContext { crl: tls::revoked(crl), ..names }, trusted))
}

// Of Kubernetes' services nothing is known that a certificate from outside the mesh would have.
fn names_of(service: &Service) -> Vec<String> {
    if service.registry == Registry::Kubernetes {
        return Vec::new();
    }
    let accounts = service.service_accounts.iter().map(SpiffeId::to_string);
    let mut names: Vec<String> = accounts.chain(texts(&service.subject_alt_names)).collect();
    names.sort();
    names
}

fn texts(names: &[SmolStr]) -> Vec<String> {
    names.iter().map(SmolStr::to_string).collect()
}

// The agent serves files too; a listener need not wait for them for ever.
fn file_secret(name: &str) -> SdsSecretConfig {
    let mut source = tls::agent_sds();
    source.initial_fetch_timeout = None;
    tls::secret(name, source)
}

fn mtls_match(peer: &Peer<'_>) -> TransportSocketMatch {
    TransportSocketMatch {
        name: "tlsMode-istio".into(),
        r#match: Some(wkt::structure([("tlsMode", wkt::text_value("istio"))])),
        transport_socket: Some(auto_mtls(peer)),
    }
}

fn plaintext_match() -> TransportSocketMatch {
    TransportSocketMatch { name: "tlsMode-disabled".into(), r#match: Some(wkt::structure([])), transport_socket: Some(tls::raw_buffer()) }
}

//! TLS contexts and secrets by SDS (contract §3.2, §3.4).
//!
//! Workload certificates come from the agent beside the proxy: secret `default` and trust bundle `ROOTCA` from the
//! static cluster `sds-grpc`. They are never sent over ADS.

use std::sync::LazyLock;

use envoy_types::pb::{
    envoy::{
        config::core::v3::{
            AggregatedConfigSource, ApiConfigSource, ApiVersion, ConfigSource, DataSource, GrpcService, TransportSocket,
            api_config_source::ApiType, config_source::ConfigSourceSpecifier, data_source, grpc_service, transport_socket,
        },
        extensions::transport_sockets::{
            raw_buffer::v3::RawBuffer,
            tls::v3::{
                CertificateValidationContext, CommonTlsContext, DownstreamTlsContext, SdsSecretConfig, TlsParameters, UpstreamTlsContext,
                common_tls_context::{CombinedCertificateValidationContext, ValidationContextType},
                tls_parameters::TlsProtocol,
            },
        },
        r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern},
    },
    google::protobuf::{Any, Duration},
};
use prost::{Message, Name};
use smol_str::SmolStr;

use super::{
    wire::{nested, text},
    wkt,
};
use crate::mesh::{
    credential::SecretName,
    gateway::TlsVersion,
    model::{Flavour, SpiffeId},
    settings::{MeshSettings, TlsSettings},
};

/// The secret that holds the workload's own certificate.
pub const WORKLOAD_CERTIFICATE: &str = "default";
/// The secret that holds what the workload trusts.
pub const TRUST_BUNDLE: &str = "ROOTCA";
/// The static cluster of the agent's secret server.
pub const SDS_CLUSTER: &str = "sds-grpc";
/// ALPN name by which two Istio proxies agree to exchange metadata before the first byte of TCP. Offered only by
/// proxies that have the filter: a side without it would pass the preamble on as payload.
pub const PEER_EXCHANGE: &str = "istio-peer-exchange";
/// ALPN name of mTLS between proxies of the mesh.
pub const ISTIO: &str = "istio";

const CIPHER_SUITES: [&str; 6] = [
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "AES128-GCM-SHA256",
];

/// Returns the `sds_config` of secrets that the agent serves. It waits without end, because a proxy without its
/// certificate must not answer.
pub fn agent_sds() -> ConfigSource {
    let grpc = GrpcService {
        target_specifier: Some(grpc_service::TargetSpecifier::EnvoyGrpc(grpc_service::EnvoyGrpc {
            cluster_name: SDS_CLUSTER.into(),
            ..Default::default()
        })),
        ..Default::default()
    };
    ConfigSource {
        initial_fetch_timeout: Some(Duration::default()),
        resource_api_version: ApiVersion::V3 as i32,
        config_source_specifier: Some(ConfigSourceSpecifier::ApiConfigSource(ApiConfigSource {
            api_type: ApiType::Grpc as i32,
            transport_api_version: ApiVersion::V3 as i32,
            grpc_services: vec![grpc],
            set_node_on_first_message_only: true,
            ..Default::default()
        })),
        ..Default::default()
    }
}

/// Returns the source of resources over the ADS stream. It waits without end, as what comes over it is always answered.
pub fn ads() -> ConfigSource {
    ConfigSource {
        initial_fetch_timeout: Some(Duration::default()),
        resource_api_version: ApiVersion::V3 as i32,
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        ..Default::default()
    }
}

/// Returns a secret that comes over the ADS stream. A listener or cluster does not wait for it without end, as the Secret that is
/// meant may not exist: only what needs it is closed then.
pub fn ads_secret(name: &SecretName) -> SdsSecretConfig {
    secret(&name.to_string(), ConfigSource { initial_fetch_timeout: None, ..ads() })
}

/// Returns the ALPN names that clients offer on in-mesh mTLS to a cluster (contract §3.2).
pub fn mesh_alpn(flavour: Flavour, http2: bool) -> &'static [&'static str] {
    match (flavour, http2) {
        (Flavour::Istio, true) => &[PEER_EXCHANGE, ISTIO, "h2"],
        (Flavour::Istio, false) => &[PEER_EXCHANGE, ISTIO],
        (Flavour::Stock, true) => &[ISTIO, "h2"],
        (Flavour::Stock, false) => &[ISTIO],
    }
}

/// Who says what the mesh's own peers are verified with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TrustSource {
    /// The agent beside the proxy, which has the roots from the CA.
    Agent,
    /// The control plane, which knows the roots of other meshes.
    ControlPlane,
}

impl TrustSource {
    /// Returns who says it in a mesh.
    pub fn of(mesh: &MeshSettings) -> Self {
        if mesh.says_roots() { Self::ControlPlane } else { Self::Agent }
    }

    /// Returns the trust bundle for a context that asks for `verified` besides. What verifies by trust domain looks neither at lists of
    /// revoked certificates nor at pins: where there are such, the agent's bundle counts, which has the roots of our own CA.
    fn bundle(self, verified: &CertificateValidationContext) -> SdsSecretConfig {
        let is_plain = verified.crl.is_none() && verified.verify_certificate_spki.is_empty() && verified.verify_certificate_hash.is_empty();
        match self {
            Self::ControlPlane if is_plain => secret(TRUST_BUNDLE, ads()),
            Self::ControlPlane | Self::Agent => secret(TRUST_BUNDLE, agent_sds()),
        }
    }
}

/// Whom a client of the mesh takes its peer for.
#[derive(Clone, Copy, Debug)]
pub struct PeerNames<'a> {
    /// It must have one of these, or of `others`; if both are empty, any certificate of the trust bundle will do.
    pub identities: &'a [SpiffeId],
    /// Other names.
    pub others: &'a [SmolStr],
    /// The path of a list of certificates of which its must be none; empty: there is none.
    pub crl: &'a str,
    /// Who says which roots are trusted.
    pub trust: TrustSource,
}

/// Returns the client side of in-mesh mTLS with this SNI and these ALPN names. It presents the workload's certificate.
///
/// Every cluster of the mesh has one of these, and most of what they say is the same: it is written straight on the
/// wire from parts that are encoded once. Numbers are those of the fields of `UpstreamTlsContext` and below.
pub fn upstream_istio_mutual(peer: PeerNames<'_>, sni: &str, alpn: &[&str]) -> TransportSocket {
    let (parts, PeerNames { identities, others, crl, trust }) = (&*UPSTREAM_PARTS, peer);
    let bundle = if trust == TrustSource::ControlPlane && crl.is_empty() { &parts.given_bundle } else { &parts.bundle };
    let mut value = Vec::with_capacity(384);
    nested(&mut value, 1, |common| {
        nested(common, 1, |bytes| bytes.extend_from_slice(&parts.versions));
        nested(common, 8, |combined| {
            nested(combined, 1, |context| {
                if !crl.is_empty() {
                    nested(context, 7, |source| text(source, 1, crl));
                }
                identities.iter().for_each(|identity| nested(context, 9, |exact| text(exact, 1, &identity.to_string())));
                others.iter().for_each(|name| nested(context, 9, |exact| text(exact, 1, name)));
            });
            nested(combined, 2, |bytes| bytes.extend_from_slice(bundle));
        });
        alpn.iter().for_each(|name| text(common, 4, name));
        nested(common, 6, |bytes| bytes.extend_from_slice(&parts.certificate));
    });
    text(&mut value, 2, sni);
    TransportSocket {
        name: "envoy.transport_sockets.tls".into(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(Any { type_url: UpstreamTlsContext::type_url(), value })),
    }
}

/// What all clients say, encoded.
struct UpstreamParts {
    versions: Vec<u8>,
    certificate: Vec<u8>,
    /// From the agent.
    bundle: Vec<u8>,
    /// From the control plane.
    given_bundle: Vec<u8>,
}

static UPSTREAM_PARTS: LazyLock<UpstreamParts> = LazyLock::new(|| {
    let versions = TlsParameters {
        tls_minimum_protocol_version: TlsProtocol::TlSv12 as i32,
        tls_maximum_protocol_version: TlsProtocol::TlSv13 as i32,
        ..Default::default()
    };
    UpstreamParts {
        versions: versions.encode_to_vec(),
        certificate: secret(WORKLOAD_CERTIFICATE, agent_sds()).encode_to_vec(),
        bundle: secret(TRUST_BUNDLE, agent_sds()).encode_to_vec(),
        given_bundle: secret(TRUST_BUNDLE, ads()).encode_to_vec(),
    }
});

/// Returns the transport socket without TLS.
pub fn raw_buffer() -> TransportSocket {
    socket("envoy.transport_sockets.raw_buffer", &RawBuffer {})
}

/// Returns the server side of in-mesh mTLS: a client certificate is required, and its identity must be of one of these
/// trust domains. What the mesh does not say of TLS is as safe as clients of the mesh can do.
pub fn downstream_istio_mutual(trust_domains: &[SmolStr], trust: TrustSource, alpn: &[&str], settings: &TlsSettings) -> TransportSocket {
    let prefixes = trust_domains.iter().map(|domain| MatchPattern::Prefix(format!("spiffe://{domain}/")));
    let mut common = workload_context(named(prefixes), trust, alpn.iter().map(|name| (*name).to_owned()).collect());
    common.tls_params = Some(TlsParameters {
        tls_minimum_protocol_version: version(settings.min_version.or(Some(TlsVersion::V1_2))) as i32,
        tls_maximum_protocol_version: TlsProtocol::TlSv13 as i32,
        cipher_suites: match settings.cipher_suites.as_slice() {
            [] => CIPHER_SUITES.map(str::to_owned).to_vec(),
            suites => suites.iter().map(SmolStr::to_string).collect(),
        },
        ecdh_curves: settings.ecdh_curves.iter().map(SmolStr::to_string).collect(),
        ..Default::default()
    });
    downstream(common, true)
}

/// Returns a version as Envoy's number; `None` leaves it to Envoy.
pub fn version(wanted: Option<TlsVersion>) -> TlsProtocol {
    match wanted {
        None => TlsProtocol::TlsAuto,
        Some(TlsVersion::V1_0) => TlsProtocol::TlSv10,
        Some(TlsVersion::V1_1) => TlsProtocol::TlSv11,
        Some(TlsVersion::V1_2) => TlsProtocol::TlSv12,
        Some(TlsVersion::V1_3) => TlsProtocol::TlSv13,
    }
}

/// Returns a downstream TLS socket around a context.
pub fn downstream(common: CommonTlsContext, require_client_certificate: bool) -> TransportSocket {
    let context = DownstreamTlsContext {
        common_tls_context: Some(common),
        require_client_certificate: wkt::boolean(require_client_certificate),
        ..Default::default()
    };
    socket("envoy.transport_sockets.tls", &context)
}

/// Returns the workload's certificate and trust bundle, and what else of the peer's certificate is verified.
pub fn workload_context(verified: CertificateValidationContext, trust: TrustSource, alpn: Vec<String>) -> CommonTlsContext {
    let bundle = trust.bundle(&verified);
    CommonTlsContext {
        alpn_protocols: alpn,
        tls_certificate_sds_secret_configs: vec![secret(WORKLOAD_CERTIFICATE, agent_sds())],
        validation_context_type: Some(validation(verified, bundle)),
        ..Default::default()
    }
}

/// Returns a trust bundle from SDS, combined with what else of a certificate is verified.
pub fn validation(verified: CertificateValidationContext, bundle: SdsSecretConfig) -> ValidationContextType {
    ValidationContextType::CombinedValidationContext(CombinedCertificateValidationContext {
        default_validation_context: Some(verified),
        validation_context_sds_secret_config: Some(bundle),
        ..Default::default()
    })
}

/// Verifies that a certificate has one of these names; none: any name will do.
pub fn named(names: impl IntoIterator<Item = MatchPattern>) -> CertificateValidationContext {
    let matchers = names.into_iter().map(|pattern| StringMatcher { match_pattern: Some(pattern), ..Default::default() });
    // As istiod does: the typed successor would have to be told the kind of each name, which Istio's API leaves open.
    #[allow(deprecated)]
    CertificateValidationContext { match_subject_alt_names: matchers.collect(), ..Default::default() }
}

/// Returns the file of revoked certificates; an empty path is none.
pub fn revoked(crl: &str) -> Option<DataSource> {
    let file = data_source::Specifier::Filename(crl.to_owned());
    (!crl.is_empty()).then(|| DataSource { specifier: Some(file), ..Default::default() })
}

/// Returns a secret by name from a source.
pub fn secret(name: &str, source: ConfigSource) -> SdsSecretConfig {
    SdsSecretConfig { name: name.into(), sds_config: Some(source) }
}

fn socket<M: Message + Name>(name: &str, config: &M) -> TransportSocket {
    TransportSocket { name: name.into(), config_type: Some(transport_socket::ConfigType::TypedConfig(wkt::any(config))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_istios_proxy_offers_the_metadata_exchange() {
        assert_eq!(mesh_alpn(Flavour::Istio, true), ["istio-peer-exchange", "istio", "h2"]);
        assert_eq!(mesh_alpn(Flavour::Stock, false), ["istio"]);
    }

    #[test]
    fn what_is_written_on_the_wire_is_the_message() {
        let identity = |account: &str| SpiffeId { trust_domain: "td".into(), namespace: "shop".into(), service_account: account.into() };
        let both = (vec![identity("a"), identity("b")], vec!["other.example.com".into()], "/etc/revoked.pem");
        let cases = [(vec![], vec![], ""), both]
            .into_iter()
            .flat_map(|case| [TrustSource::Agent, TrustSource::ControlPlane].map(|trust| (case.clone(), trust)));
        for ((identities, names, crl), trust) in cases {
            let patterns = identities.iter().map(SpiffeId::to_string).chain(names.iter().map(SmolStr::to_string)).map(MatchPattern::Exact);
            let verified = CertificateValidationContext { crl: revoked(crl), ..named(patterns) };
            let mut common = workload_context(verified, trust, vec!["istio".into(), "h2".into()]);
            common.tls_params = Some(TlsParameters {
                tls_minimum_protocol_version: TlsProtocol::TlSv12 as i32,
                tls_maximum_protocol_version: TlsProtocol::TlSv13 as i32,
                ..Default::default()
            });
            let expected = UpstreamTlsContext { common_tls_context: Some(common), sni: "outbound_.80_._.a".into(), ..Default::default() };
            let written = upstream_istio_mutual(
                PeerNames { identities: &identities, others: &names, crl, trust },
                "outbound_.80_._.a",
                &[ISTIO, "h2"],
            );
            assert_eq!(written, socket("envoy.transport_sockets.tls", &expected));
        }
    }
}

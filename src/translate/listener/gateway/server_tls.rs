//! How a listener of a Gateway ends TLS (contract §3.7 `Server.tls.mode`).

use std::sync::Arc;

use envoy_types::pb::envoy::{
    config::core::v3::{ConfigSource, TransportSocket},
    extensions::transport_sockets::tls::v3::{CommonTlsContext, TlsParameters, tls_parameters},
    r#type::matcher::v3::string_matcher::MatchPattern,
};
use smol_str::SmolStr;

use crate::{
    mesh::{
        gateway::{ClientCertificates, ServerCertificate, TlsTermination, TlsVersion},
        model::Flavour,
    },
    translate::tls::{PEER_EXCHANGE, ads, agent_sds, downstream, secret, validation, workload_context},
};

/// How a listener ends TLS, and what is inside.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct ServerTls {
    pub(super) termination: Arc<TlsTermination>,
    /// Whether bytes, and not HTTP, are inside.
    pub(super) tcp: bool,
}

impl ServerTls {
    /// Returns whether TCP metadata is exchanged inside, as proxies of the mesh do.
    pub(super) fn exchanges_metadata(&self) -> bool {
        self.tcp && self.termination.certificate == ServerCertificate::Workload
    }

    /// Returns the transport socket.
    pub(super) fn socket(&self, flavour: Flavour) -> TransportSocket {
        let exchange = (self.exchanges_metadata() && flavour == Flavour::Istio).then_some(PEER_EXCHANGE);
        let alpn = exchange.into_iter().chain(["h2", "http/1.1"]).map(str::to_owned).collect();
        let mut context = match &self.termination.certificate {
            ServerCertificate::Workload => workload_context(self.patterns(), alpn),
            ServerCertificate::Credential(name) => {
                let name = if name.contains("://") { name.to_string() } else { format!("kubernetes://{name}") };
                self.context(&name, &format!("{name}-cacert"), ads(false), alpn)
            }
            ServerCertificate::Files { certificate, private_key, ca_certificates } => {
                let from_agent = ConfigSource { initial_fetch_timeout: None, ..agent_sds() };
                let (certificate, ca) = (format!("file-cert:{certificate}~{private_key}"), format!("file-root:{ca_certificates}"));
                self.context(&certificate, &ca, from_agent, alpn)
            }
        };
        context.tls_params = self.parameters();
        downstream(context, self.termination.clients == ClientCertificates::Required)
    }

    fn context(&self, certificate: &str, ca: &str, source: ConfigSource, alpn_protocols: Vec<String>) -> CommonTlsContext {
        let verifies = self.termination.clients != ClientCertificates::Ignored;
        CommonTlsContext {
            alpn_protocols,
            tls_certificate_sds_secret_configs: vec![secret(certificate, source.clone())],
            validation_context_type: verifies.then(|| validation(self.patterns(), secret(ca, source))),
            ..Default::default()
        }
    }

    fn patterns(&self) -> impl Iterator<Item = MatchPattern> {
        self.termination.subject_alt_names.iter().map(|name| MatchPattern::Exact(name.to_string()))
    }

    fn parameters(&self) -> Option<TlsParameters> {
        let parameters = TlsParameters {
            tls_minimum_protocol_version: version(self.termination.min_version).into(),
            tls_maximum_protocol_version: version(self.termination.max_version).into(),
            cipher_suites: self.termination.cipher_suites.iter().map(SmolStr::to_string).collect(),
            ..Default::default()
        };
        (parameters != TlsParameters::default()).then_some(parameters)
    }
}

fn version(wanted: Option<TlsVersion>) -> tls_parameters::TlsProtocol {
    match wanted {
        None => tls_parameters::TlsProtocol::TlsAuto,
        Some(TlsVersion::V1_0) => tls_parameters::TlsProtocol::TlSv10,
        Some(TlsVersion::V1_1) => tls_parameters::TlsProtocol::TlSv11,
        Some(TlsVersion::V1_2) => tls_parameters::TlsProtocol::TlSv12,
        Some(TlsVersion::V1_3) => tls_parameters::TlsProtocol::TlSv13,
    }
}

//! How a server of a Gateway ends TLS (contract §3.7 `Server.tls.mode`).

use envoy_types::pb::envoy::{
    config::core::v3::{ConfigSource, TransportSocket},
    extensions::transport_sockets::tls::v3::{CommonTlsContext, TlsParameters, tls_parameters},
    r#type::matcher::v3::string_matcher::MatchPattern,
};
use smol_str::SmolStr;

use crate::{
    api::istio::{ServerTls, ServerTlsMode, TlsProtocol},
    mesh::model::Flavour,
    translate::tls::{PEER_EXCHANGE, ads, agent_sds, downstream, secret, validation, workload_context},
};

/// What a server presents and asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct ServerSecrets {
    source: Source,
    /// Ask for a client certificate.
    verify: bool,
    /// Refuse clients without one.
    require: bool,
    names: Vec<SmolStr>,
    minimum: TlsProtocol,
    maximum: TlsProtocol,
    ciphers: Vec<SmolStr>,
    /// Bytes, not HTTP, are inside.
    tcp: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Source {
    /// The workload's own certificate (`ISTIO_MUTUAL`).
    Workload,
    /// A Kubernetes Secret, sent by the control plane.
    Credential(SmolStr),
    /// Files of the gateway: certificate, key, trusted CA.
    Files(SmolStr, SmolStr, SmolStr),
}

impl ServerSecrets {
    /// `None` for servers that do not end TLS.
    pub(super) fn of(tls: &ServerTls, tcp: bool) -> Option<Self> {
        let (verify, require) = match tls.mode {
            ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough => return None,
            ServerTlsMode::Simple => (false, false),
            ServerTlsMode::OptionalMutual => (true, false),
            ServerTlsMode::Mutual | ServerTlsMode::IstioMutual => (true, true),
        };
        let credential = Some(&tls.credential_name).filter(|name| !name.is_empty()).or_else(|| tls.credential_names.first());
        let source = match (tls.mode, credential) {
            (ServerTlsMode::IstioMutual, _) => Source::Workload,
            (_, Some(name)) => Source::Credential(name.clone()),
            (_, None) => Source::Files(tls.server_certificate.clone(), tls.private_key.clone(), tls.ca_certificates.clone()),
        };
        Some(Self {
            source,
            verify,
            require,
            names: tls.subject_alt_names.clone(),
            minimum: tls.min_protocol_version,
            maximum: tls.max_protocol_version,
            ciphers: tls.cipher_suites.clone(),
            tcp,
        })
    }

    /// Whether TCP metadata is exchanged inside: between proxies of the mesh.
    pub(super) fn exchanges_metadata(&self) -> bool {
        self.tcp && self.source == Source::Workload
    }

    /// The transport socket.
    pub(super) fn socket(&self, flavour: Flavour) -> TransportSocket {
        let exchange = (self.exchanges_metadata() && flavour == Flavour::Istio).then_some(PEER_EXCHANGE);
        let alpn = exchange.into_iter().chain(["h2", "http/1.1"]).map(str::to_owned).collect();
        let mut context = match &self.source {
            Source::Workload => workload_context(self.patterns(), alpn),
            Source::Credential(name) => {
                let name = if name.contains("://") { name.to_string() } else { format!("kubernetes://{name}") };
                self.context(&name, &format!("{name}-cacert"), ads(false), alpn)
            }
            Source::Files(certificate, key, ca) => {
                let from_agent = ConfigSource { initial_fetch_timeout: None, ..agent_sds() };
                self.context(&format!("file-cert:{certificate}~{key}"), &format!("file-root:{ca}"), from_agent, alpn)
            }
        };
        context.tls_params = self.parameters();
        downstream(context, self.require)
    }

    fn context(&self, certificate: &str, ca: &str, source: ConfigSource, alpn_protocols: Vec<String>) -> CommonTlsContext {
        CommonTlsContext {
            alpn_protocols,
            tls_certificate_sds_secret_configs: vec![secret(certificate, source.clone())],
            validation_context_type: self.verify.then(|| validation(self.patterns(), secret(ca, source))),
            ..Default::default()
        }
    }

    fn patterns(&self) -> impl Iterator<Item = MatchPattern> {
        self.names.iter().map(|name| MatchPattern::Exact(name.to_string()))
    }

    fn parameters(&self) -> Option<TlsParameters> {
        let parameters = TlsParameters {
            tls_minimum_protocol_version: version(self.minimum).into(),
            tls_maximum_protocol_version: version(self.maximum).into(),
            cipher_suites: self.ciphers.iter().map(SmolStr::to_string).collect(),
            ..Default::default()
        };
        (parameters != TlsParameters::default()).then_some(parameters)
    }
}

fn version(written: TlsProtocol) -> tls_parameters::TlsProtocol {
    match written {
        TlsProtocol::Auto => tls_parameters::TlsProtocol::TlsAuto,
        TlsProtocol::V1_0 => tls_parameters::TlsProtocol::TlSv10,
        TlsProtocol::V1_1 => tls_parameters::TlsProtocol::TlSv11,
        TlsProtocol::V1_2 => tls_parameters::TlsProtocol::TlSv12,
        TlsProtocol::V1_3 => tls_parameters::TlsProtocol::TlSv13,
    }
}

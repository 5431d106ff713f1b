//! Converts an Istio Gateway.

use std::{collections::BTreeSet, sync::Arc};

use smol_str::{SmolStr, format_smolstr};

use super::{
    host::{ListenerHost, RoutesFrom},
    listener::{Gateway, Listener},
    tls::{CertificateFiles, ClientCertificates, ListenerTls, ServerCertificate, TlsTermination, TlsVersion},
};
use crate::{
    api::istio,
    mesh::{credential, model::Hostname, protocol, unsupported},
    visits::{Visit, Visited},
};

/// Converts a Gateway of `namespace`.
pub(in crate::mesh) fn gateway(written: &istio::Gateway, namespace: &SmolStr) -> Gateway {
    // With less than it asks for, a server would let in more than it should.
    let servers = written.servers.iter().enumerate();
    let whole = servers.filter(|(_, server)| server.tls.as_ref().is_none_or(|tls| unsupported::server_tls(tls).is_empty()));
    let listeners = whole.map(|(at, server)| listener(at, server, namespace));
    Gateway { selector: written.selector.clone(), listeners: listeners.collect() }
}

fn listener(at: usize, server: &istio::Server, namespace: &SmolStr) -> Listener {
    Listener {
        field: format_smolstr!("spec.servers[{at}]"),
        port: server.port.number,
        port_name: server.port.name.clone(),
        protocol: protocol::named(&server.port.protocol),
        bind: server.bind.clone(),
        hosts: server.hosts.iter().map(|written| host(written, namespace)).collect(),
        tls: server.tls.as_ref().map(tls),
        https_redirect: server.tls.as_ref().is_some_and(|tls| tls.https_redirect),
    }
}

// `[namespace/]host`; `.` is the Gateway's own namespace, `*` any.
fn host(written: &str, own: &SmolStr) -> ListenerHost {
    let (namespace, host) = written.split_once('/').unwrap_or(("*", written));
    let routes_from = match namespace {
        "*" => RoutesFrom::All,
        "." => RoutesFrom::Namespace(own.clone()),
        named => RoutesFrom::Namespace(named.into()),
    };
    ListenerHost { host: Hostname::new(host), routes_from }
}

fn tls(written: &istio::ServerTls) -> ListenerTls {
    let clients = match written.mode {
        istio::ServerTlsMode::Passthrough => return ListenerTls::Passthrough,
        istio::ServerTlsMode::AutoPassthrough => return ListenerTls::AutoPassthrough,
        istio::ServerTlsMode::Simple => ClientCertificates::Ignored,
        istio::ServerTlsMode::OptionalMutual => ClientCertificates::Optional,
        istio::ServerTlsMode::Mutual | istio::ServerTlsMode::IstioMutual => ClientCertificates::Required,
    };
    ListenerTls::Terminate(Arc::new(TlsTermination {
        certificate: certificate(written),
        clients,
        subject_alt_names: written.subject_alt_names.clone(),
        verify_certificate_spki: written.verify_certificate_spki.clone(),
        verify_certificate_hash: written.verify_certificate_hash.clone(),
        crl: written.ca_crl.clone(),
        min_version: TlsVersion::of(written.min_protocol_version),
        max_version: TlsVersion::of(written.max_protocol_version),
        cipher_suites: cipher_suites(&written.cipher_suites),
    }))
}

fn certificate(written: &istio::ServerTls) -> ServerCertificate {
    if written.mode == istio::ServerTlsMode::IstioMutual {
        return ServerCertificate::Workload;
    }
    let secrets = credential::server_tls(written);
    let certificates: Vec<_> = secrets.certificates.into_iter().filter_map(|(_, name)| name.ok()).collect();
    if !certificates.is_empty() {
        return ServerCertificate::Secrets { certificates, trusted: secrets.trusted.and_then(|(_, name)| name.ok()) };
    }
    let files = |certificate: &SmolStr, private_key: &SmolStr| CertificateFiles {
        certificate: certificate.clone(),
        private_key: private_key.clone(),
    };
    let several = written.tls_certificates.iter().map(|of| files(&of.server_certificate, &of.private_key));
    let mut certificates: Vec<_> = several.collect();
    if certificates.is_empty() {
        certificates.push(files(&written.server_certificate, &written.private_key));
    }
    ServerCertificate::Files { certificates, ca_certificates: written.ca_certificates.clone() }
}

/// Returns the suites that Envoy knows, each once.
fn cipher_suites(written: &[SmolStr]) -> Vec<SmolStr> {
    let mut seen = BTreeSet::new();
    written.iter().visiting(Visited::Written).filter(|suite| istio::is_cipher_suite(suite) && seen.insert(*suite)).cloned().collect()
}

impl TlsVersion {
    /// Returns the version that is written; `None` if it is left to the proxy.
    pub fn of(written: istio::TlsProtocol) -> Option<Self> {
        match written {
            istio::TlsProtocol::Auto => None,
            istio::TlsProtocol::V1_0 => Some(Self::V1_0),
            istio::TlsProtocol::V1_1 => Some(Self::V1_1),
            istio::TlsProtocol::V1_2 => Some(Self::V1_2),
            istio::TlsProtocol::V1_3 => Some(Self::V1_3),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::model::Protocol;

    fn terminated(written: istio::ServerTls) -> Option<Arc<TlsTermination>> {
        match tls(&written) {
            ListenerTls::Terminate(termination) => Some(termination),
            ListenerTls::Passthrough | ListenerTls::AutoPassthrough => None,
        }
    }

    #[test]
    fn hosts_may_name_the_namespace_whose_routes_attach() {
        let of = |written| host(written, &"shop".into());
        let expected = |host, routes_from| ListenerHost { host: Hostname::new(host), routes_from };
        assert_eq!(of("a.b"), expected("a.b", RoutesFrom::All));
        assert_eq!(of("*/a.b"), expected("a.b", RoutesFrom::All));
        assert_eq!(of("./a.b"), expected("a.b", RoutesFrom::Namespace("shop".into())));
        assert_eq!(of("bank/*"), expected("*", RoutesFrom::Namespace("bank".into())));
    }

    #[test]
    fn a_server_is_a_listener_with_its_place() {
        let port = istio::Port { number: 80, protocol: "HTTP2".into(), name: "web".into(), target_port: 0 };
        let redirected = istio::ServerTls { https_redirect: true, ..Default::default() };
        let server = istio::Server { port, hosts: vec!["a".into()], tls: Some(redirected), ..Default::default() };
        let converted = gateway(&istio::Gateway { servers: vec![server.clone(), server], ..Default::default() }, &"shop".into());
        let second = &converted.listeners[1];
        assert_eq!((second.field.as_str(), second.port, second.port_name.as_str()), ("spec.servers[1]", 80, "web"));
        assert_eq!((second.protocol, second.https_redirect), (Protocol::Http2, true));
        assert_eq!(second.tls, Some(ListenerTls::Passthrough));
    }

    #[test]
    fn tls_ends_by_mode_with_the_files_that_are_named() {
        let mode = |mode| istio::ServerTls { mode, server_certificate: "/cert".into(), ..Default::default() };
        assert_eq!(tls(&mode(istio::ServerTlsMode::AutoPassthrough)), ListenerTls::AutoPassthrough);
        let named = |termination: &TlsTermination| match &termination.certificate {
            ServerCertificate::Files { certificates, .. } => certificates.iter().map(|of| of.certificate.to_string()).collect(),
            ServerCertificate::Workload | ServerCertificate::Secrets { .. } => Vec::new(),
        };
        let simple = terminated(mode(istio::ServerTlsMode::Simple)).unwrap();
        assert_eq!((simple.clients, named(&simple)), (ClientCertificates::Ignored, vec!["/cert".to_owned()]));
        let of = |certificate: &str| istio::TlsCertificate { server_certificate: certificate.into(), private_key: "/key".into() };
        let both = istio::ServerTls {
            tls_certificates: vec![of("/rsa"), of("/ecdsa")],
            server_certificate: SmolStr::default(),
            ..mode(istio::ServerTlsMode::OptionalMutual)
        };
        let optional = terminated(both.clone()).unwrap();
        assert_eq!((optional.clients, named(&optional)), (ClientCertificates::Optional, vec!["/rsa".to_owned(), "/ecdsa".to_owned()]));
        let mutual = terminated(istio::ServerTls { mode: istio::ServerTlsMode::IstioMutual, ..both }).unwrap();
        assert_eq!((&mutual.certificate, mutual.clients), (&ServerCertificate::Workload, ClientCertificates::Required));
        let suites = ["AES128-SHA", "TLS_AES_128_GCM_SHA256", "AES128-SHA", "!DES"].map(SmolStr::from).to_vec();
        let versions = istio::ServerTls {
            min_protocol_version: istio::TlsProtocol::V1_2,
            cipher_suites: suites,
            ..mode(istio::ServerTlsMode::Simple)
        };
        let versions = terminated(versions).unwrap();
        assert_eq!((versions.min_version, versions.max_version), (Some(TlsVersion::V1_2), None));
        assert_eq!(versions.cipher_suites, ["AES128-SHA", "!DES"], "Envoy refuses a listener for one that it does not know");
    }

    #[test]
    fn secrets_go_by_the_names_that_proxies_ask_for() {
        let names = |written: istio::ServerTls| match &terminated(written).unwrap().certificate {
            ServerCertificate::Secrets { certificates, trusted } => {
                (certificates.iter().map(ToString::to_string).collect::<Vec<_>>(), trusted.as_ref().map(ToString::to_string))
            }
            other => panic!("{other:?}"),
        };
        let simple = istio::ServerTls { mode: istio::ServerTlsMode::Simple, credential_name: "till".into(), ..Default::default() };
        assert_eq!(names(simple.clone()), (vec!["kubernetes://till".to_owned()], None));
        let mutual = istio::ServerTls { mode: istio::ServerTlsMode::OptionalMutual, ..simple.clone() };
        assert_eq!(names(mutual).1.as_deref(), Some("kubernetes://till-cacert"));
        let both = istio::ServerTls {
            mode: istio::ServerTlsMode::Mutual,
            credential_name: SmolStr::default(),
            credential_names: vec!["rsa".into(), "ecdsa".into()],
            ..simple
        };
        let expected = vec!["kubernetes://rsa".to_owned(), "kubernetes://ecdsa".to_owned()];
        assert_eq!(names(both.clone()), (expected, Some("kubernetes://rsa-cacert".into())));
        let other = istio::ServerTls { ca_cert_credential_name: "clients".into(), ..both };
        assert_eq!(names(other).1.as_deref(), Some("kubernetes://clients-cacert"));
    }
}

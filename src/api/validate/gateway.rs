//! Rules for Gateway and for the TLS settings of servers.

use super::{
    Check,
    host::is_partial_wildcard,
    repeated::repeated,
    text::{ProtocolClass, is_dns_label, protocol_class},
};
use crate::api::{
    findings::Path,
    istio::{Gateway, Server, ServerTls, ServerTlsMode, TlsProtocol, is_cipher_suite},
};

impl Check<'_> {
    pub(super) fn gateway(self, gateway: &Gateway, at: &Path<'_>) {
        let name = self.object.name.as_str();
        if !is_dns_label(name) {
            self.error(&Path::Root.field("metadata").field("name"), format!("must be without dots and at most 63 long, is {name:?}"));
        }
        let servers = at.field("servers");
        if gateway.servers.is_empty() {
            self.error(&servers, "must not be empty");
        }
        self.selector(&gateway.selector, &at.field("selector"));
        let has_name_again = repeated(gateway.servers.iter().map(|server| &server.port.name));
        for ((index, server), has_name_again) in gateway.servers.iter().enumerate().zip(has_name_again) {
            let at = servers.index(index);
            self.server(server, &at);
            if has_name_again && !server.port.name.is_empty() {
                self.error(&at.field("port").field("name"), format!("{} is given twice: port names must differ", server.port.name));
            }
        }
    }

    fn server(self, server: &Server, at: &Path<'_>) {
        let port = at.field("port");
        self.protocol(&server.port.protocol, &port.field("protocol"));
        if server.port.name.is_empty() {
            self.error(&port.field("name"), "is missing");
        }
        if server.port.target_port != 0 {
            self.error(&port.field("targetPort"), "has no meaning for Gateways");
        }
        match server.bind.strip_prefix("unix://") {
            Some(path) => {
                self.socket_path(path, &at.field("bind"));
                if server.port.number != 0 {
                    self.error(&port.field("number"), "must be 0 for a Unix socket");
                }
            }
            None => {
                self.port_number(server.port.number, &port.field("number"));
                if !server.bind.is_empty() {
                    self.ip_address(&server.bind, &at.field("bind"));
                }
            }
        }
        let hosts = at.field("hosts");
        if server.hosts.is_empty() {
            self.error(&hosts, "must not be empty");
        }
        // With AUTO_PASSTHROUGH the names of clusters are matched, and hosts only choose among services.
        let passes_all = server.tls.as_ref().is_some_and(|tls| tls.mode == ServerTlsMode::AutoPassthrough);
        let by_server_name = protocol_class(&server.port.protocol) == ProtocolClass::Tls && !passes_all;
        for (index, host) in server.hosts.iter().enumerate() {
            self.namespaced_host(host, &["*", "."], false, &hosts.index(index));
            if by_server_name && is_partial_wildcard(host.split_once('/').map_or(host, |(_, name)| name)) {
                self.error(&hosts.index(index), format!("with TLS a wildcard must be a whole label (*.example.com), is {host:?}"));
            }
        }
        self.server_protocol_and_tls(server, at);
    }

    fn server_protocol_and_tls(self, server: &Server, at: &Path<'_>) {
        let tls = at.field("tls");
        match (protocol_class(&server.port.protocol), &server.tls) {
            (ProtocolClass::Tls, None) => self.error(&tls, "is missing: protocols HTTPS and TLS need it"),
            (ProtocolClass::Http, Some(settings)) if settings.mode != ServerTlsMode::Passthrough || has_files(settings) => {
                self.error(&tls, "is not possible for plain HTTP, but for httpsRedirect");
            }
            (ProtocolClass::Tcp | ProtocolClass::Udp, Some(_)) => self.error(&tls, "is possible for protocols HTTPS and TLS only"),
            (ProtocolClass::Tls, Some(settings)) if settings.https_redirect => {
                self.warning(&tls.field("httpsRedirect"), "has an effect on HTTP servers only");
            }
            _ => {}
        }
        if let Some(settings) = &server.tls {
            self.server_tls(settings, &tls);
        }
    }

    pub(super) fn server_tls(self, tls: &ServerTls, at: &Path<'_>) {
        let credential = !tls.credential_name.is_empty() || !tls.credential_names.is_empty();
        let certificate = !tls.server_certificate.is_empty() && !tls.private_key.is_empty();
        let several = !tls.tls_certificates.is_empty();
        let sources = [certificate, several, !tls.credential_name.is_empty(), !tls.credential_names.is_empty()];
        match tls.mode {
            ServerTlsMode::IstioMutual if credential || has_files(tls) => {
                self.error(at, "has certificates, which mode ISTIO_MUTUAL does not: the mesh has its own");
            }
            ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough if credential || has_files(tls) => {
                self.warning(at, "has certificates, which have no effect: TLS is not terminated in this mode");
            }
            ServerTlsMode::Simple | ServerTlsMode::Mutual | ServerTlsMode::OptionalMutual => {
                if sources.into_iter().filter(|given| *given).count() > 1 {
                    self.error(
                        at,
                        "only one of credentialName, credentialNames, tlsCertificates and serverCertificate with privateKey may be set",
                    );
                }
                if !credential {
                    self.certificate_files(tls, at);
                }
            }
            ServerTlsMode::IstioMutual | ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough => {}
        }
        self.pins(tls, at);
        self.subject_alt_names(&tls.subject_alt_names, &at.field("subjectAltNames"));
        let suites = at.field("cipherSuites");
        for ((index, suite), again) in tls.cipher_suites.iter().enumerate().zip(repeated(&tls.cipher_suites)) {
            if !is_cipher_suite(suite) {
                self.warning(&suites.index(index), format!("{suite:?} is no cipher suite that Envoy knows: it is left out"));
            } else if again {
                self.warning(&suites.index(index), format!("{suite} is given twice"));
            }
        }
        if matches!(tls.min_protocol_version, TlsProtocol::V1_0 | TlsProtocol::V1_1) && tls.cipher_suites.is_empty() {
            self.warning(&at.field("minProtocolVersion"), "needs cipherSuites: those of today have none for versions before TLS 1.2");
        }
    }

    fn certificate_files(self, tls: &ServerTls, at: &Path<'_>) {
        if tls.tls_certificates.is_empty() {
            for (name, file) in [("serverCertificate", &tls.server_certificate), ("privateKey", &tls.private_key)] {
                if file.is_empty() {
                    self.error(&at.field(name), "is missing, and so is credentialName");
                }
            }
        }
        let several = at.field("tlsCertificates");
        for (index, certificate) in tls.tls_certificates.iter().enumerate() {
            for (name, file) in [("serverCertificate", &certificate.server_certificate), ("privateKey", &certificate.private_key)] {
                if file.is_empty() {
                    self.error(&several.index(index).field(name), "is missing");
                }
            }
        }
        if tls.mode != ServerTlsMode::Simple && tls.ca_certificates.is_empty() {
            self.error(&at.field("caCertificates"), "is missing: clients' certificates are held against it");
        }
    }

    // Envoy refuses the whole listener for a pin that has not its length.
    fn pins(self, tls: &ServerTls, at: &Path<'_>) {
        let spki =
            (&tls.verify_certificate_spki, "verifyCertificateSpki", "the SHA-256 of a key in base64", is_spki_pin as fn(&str) -> bool);
        let hash =
            (&tls.verify_certificate_hash, "verifyCertificateHash", "the SHA-256 of a certificate in hexadecimal digits", is_hash_pin as _);
        for (pins, name, form, is_pin) in [spki, hash] {
            let at = at.field(name);
            for (index, pin) in pins.iter().enumerate().filter(|(_, pin)| !is_pin(pin)) {
                self.error(&at.index(index), format!("must be {form}, is {pin:?}"));
            }
            if tls.mode == ServerTlsMode::Simple && !pins.is_empty() {
                self.error(&at, "needs mode MUTUAL: in mode SIMPLE clients present no certificate");
            }
        }
        if tls.mode == ServerTlsMode::Simple && !tls.ca_crl.is_empty() {
            self.error(&at.field("caCrl"), "needs mode MUTUAL: in mode SIMPLE clients present no certificate");
        }
    }
}

fn has_files(tls: &ServerTls) -> bool {
    let files = [&tls.server_certificate, &tls.private_key, &tls.ca_certificates];
    files.into_iter().any(|file| !file.is_empty()) || !tls.tls_certificates.is_empty()
}

/// Returns whether the text is 32 bytes in base64.
fn is_spki_pin(text: &str) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/';
    text.len() == 44 && text.strip_suffix('=').is_some_and(|digits| digits.bytes().all(is_digit))
}

/// Returns whether the text is 32 bytes in hexadecimal digits, with or without colons between them.
fn is_hash_pin(text: &str) -> bool {
    let is_byte = |byte: &str| byte.len() == 2 && byte.bytes().all(|digit| digit.is_ascii_hexdigit());
    match text.len() {
        64 => text.bytes().all(|digit| digit.is_ascii_hexdigit()),
        95 => text.split(':').all(is_byte),
        _ => false,
    }
}

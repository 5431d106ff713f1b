//! Checks Sidecar.

use super::{
    Check,
    repeated::repeated,
    text::{ProtocolClass, protocol_class},
};
use crate::api::{
    findings::Path,
    istio::{CaptureMode, EgressListener, IngressListener, Port, ServerTlsMode, Sidecar},
};

/// The addresses at which a workload may listen, as seen from its proxy.
const LOCAL: [&str; 5] = ["", "127.0.0.1", "0.0.0.0", "[::1]", "[::]"];

/// Each egress listener has a view of the whole mesh of its own.
const MOST_LISTENERS: usize = 1000;

/// At a socket each has the routes to all that it sees, whatever the port.
const MOST_SOCKETS: usize = 50;

impl Check<'_> {
    pub(super) fn sidecar(self, sidecar: &Sidecar, at: &Path<'_>) {
        if let Some(selector) = &sidecar.workload_selector {
            self.selector(selector, &at.field("workloadSelector").field("labels"));
        }
        let says_nothing = Sidecar { workload_selector: None, ..sidecar.clone() } == Sidecar::default();
        if says_nothing {
            self.error(at, "needs ingress, egress, outboundTrafficPolicy or inboundConnectionPool");
        }
        for (name, listeners) in [("ingress", sidecar.ingress.len()), ("egress", sidecar.egress.len())] {
            if listeners > MOST_LISTENERS {
                self.error(&at.field(name), format!("has {listeners} listeners, more than the {MOST_LISTENERS} that are possible"));
            }
        }
        let sockets = sidecar.egress.iter().filter(|listener| listener.bind.starts_with("unix:")).count();
        if sockets > MOST_SOCKETS {
            self.error(&at.field("egress"), format!("has {sockets} listeners at sockets, more than the {MOST_SOCKETS} that are possible"));
        }
        let ingress = at.field("ingress");
        let has_port_again = repeated(sidecar.ingress.iter().map(|listener| listener.port.number));
        for ((index, listener), has_port_again) in sidecar.ingress.iter().enumerate().zip(has_port_again) {
            let at = ingress.index(index);
            self.ingress(listener, &at);
            if has_port_again {
                self.error(&at.field("port").field("number"), format!("{} is given twice", listener.port.number));
            }
        }
        self.pool(sidecar.inbound_connection_pool.as_ref(), &at.field("inboundConnectionPool"));
        let egress = at.field("egress");
        let has_place_again = repeated(sidecar.egress.iter().enumerate().map(place));
        for ((index, listener), has_place_again) in sidecar.egress.iter().enumerate().zip(has_place_again) {
            let at = egress.index(index);
            self.egress(listener, &at);
            if listener.port.is_none() && index + 1 < sidecar.egress.len() {
                self.error(&at.field("port"), "is missing: only the last listener may be without one");
            }
            if has_place_again {
                self.error(&at.field("port"), "another listener has the same port or socket");
            }
        }
    }

    fn ingress(self, listener: &IngressListener, at: &Path<'_>) {
        let port = at.field("port");
        self.sidecar_port(&listener.port, &port);
        self.port_number(listener.port.number, &port.field("number"));
        if !listener.bind.is_empty() {
            self.ip_address(&listener.bind, &at.field("bind"));
        }
        self.default_endpoint(&listener.default_endpoint, &at.field("defaultEndpoint"));
        self.pool(listener.connection_pool.as_ref(), &at.field("connectionPool"));
        let Some(tls) = &listener.tls else { return };
        let at = at.field("tls");
        if protocol_class(&listener.port.protocol) != ProtocolClass::Tls {
            self.error(&at, "is possible for protocols HTTPS and TLS only");
        }
        if matches!(tls.mode, ServerTlsMode::IstioMutual | ServerTlsMode::AutoPassthrough) {
            self.error(&at.field("mode"), "must be SIMPLE, MUTUAL, OPTIONAL_MUTUAL or PASSTHROUGH at a sidecar");
        }
        let secret = !tls.credential_name.is_empty() || !tls.credential_names.is_empty() || !tls.ca_cert_credential_name.is_empty();
        if tls.https_redirect || secret || !tls.tls_certificates.is_empty() || !tls.subject_alt_names.is_empty() {
            self.error(&at, "httpsRedirect, credentialName(s), tlsCertificates and subjectAltNames are not possible at a sidecar");
        }
        self.server_tls(tls, &at);
    }

    fn sidecar_port(self, port: &Port, at: &Path<'_>) {
        if !port.name.is_empty() {
            self.port_name(&port.name, &at.field("name"));
        }
        if !port.protocol.is_empty() {
            self.protocol(&port.protocol, &at.field("protocol"));
        }
        if port.target_port != 0 {
            self.error(&at.field("targetPort"), "has no meaning for Sidecars");
        }
    }

    fn default_endpoint(self, endpoint: &str, at: &Path<'_>) {
        if endpoint.is_empty() {
            return;
        }
        if let Some(path) = endpoint.strip_prefix("unix://") {
            return self.socket_path(path, at);
        }
        let valid =
            endpoint.rsplit_once(':').is_some_and(|(host, port)| LOCAL.contains(&host) && port.parse::<u16>().is_ok_and(|port| port != 0));
        if !valid {
            self.error(at, format!("must be 127.0.0.1:PORT, 0.0.0.0:PORT, [::1]:PORT, [::]:PORT or unix://PATH, is {endpoint:?}"));
        }
    }

    fn egress(self, listener: &EgressListener, at: &Path<'_>) {
        if let Some(port) = &listener.port {
            self.sidecar_port(port, &at.field("port"));
        }
        let socket = listener.bind.strip_prefix("unix://");
        if let Some(path) = socket {
            self.socket_path(path, &at.field("bind"));
            if listener.capture_mode == CaptureMode::Iptables {
                self.error(&at.field("captureMode"), "must be DEFAULT or NONE for a Unix socket");
            }
        } else if !listener.bind.is_empty() {
            self.ip_address(&listener.bind, &at.field("bind"));
        }
        if socket.is_none() && listener.port.as_ref().is_some_and(|port| port.number == 0) {
            self.error(&at.field("port").field("number"), "must be from 1 to 65535, or bind a Unix socket");
        }
        let hosts = at.field("hosts");
        if listener.hosts.is_empty() {
            self.error(&hosts, "must not be empty");
        }
        for (index, host) in listener.hosts.iter().enumerate() {
            self.namespaced_host(host, &["*", ".", "~"], true, &hosts.index(index));
        }
    }
}

/// What no two egress listeners may have in common.
#[derive(PartialEq, Eq, Hash)]
enum Place<'a> {
    /// Whatever address it is bound to.
    Port(u16),
    /// Unix sockets have no port.
    Socket(&'a str),
    /// Without a port a listener is in nobody's way.
    Own(usize),
}

fn place((index, listener): (usize, &EgressListener)) -> Place<'_> {
    match &listener.port {
        Some(port) if port.number == 0 => Place::Socket(&listener.bind),
        Some(port) => Place::Port(port.number),
        None => Place::Own(index),
    }
}

//! Which protocol a port speaks (contract §6.4).

use super::model::Protocol;
use crate::api::kubernetes::ServicePort;

/// Ports on which the server speaks first, so that sniffing would wait for ever: SMTP, DNS, MySQL, MongoDB.
const SERVER_FIRST: [u16; 4] = [25, 53, 3306, 27017];

/// Returns the protocol of a Kubernetes Service's port: `protocol: UDP`, then `appProtocol`, then the name's prefix, then
/// well-known ports.
pub(in crate::mesh) fn of_service_port(port: &ServicePort) -> Protocol {
    if port.protocol.eq_ignore_ascii_case("UDP") {
        return Protocol::Udp;
    }
    let said = if port.app_protocol.is_empty() { of_port_name(&port.name) } else { of_app_protocol(&port.app_protocol) };
    said.unwrap_or(if SERVER_FIRST.contains(&port.port) { Protocol::Tcp } else { Protocol::Auto })
}

/// Returns the protocol that a ServiceEntry, Gateway or Sidecar port names; [`Protocol::Auto`] for what is not known.
pub fn named(protocol: &str) -> Protocol {
    by_word(protocol).unwrap_or(Protocol::Auto)
}

fn of_app_protocol(app_protocol: &str) -> Option<Protocol> {
    match app_protocol.to_ascii_lowercase().as_str() {
        "kubernetes.io/h2c" => Some(Protocol::Http2),
        "kubernetes.io/ws" => Some(Protocol::Http),
        "kubernetes.io/wss" => Some(Protocol::Https),
        other => by_word(other),
    }
}

fn of_port_name(name: &str) -> Option<Protocol> {
    if name.get(..8).is_some_and(|prefix| prefix.eq_ignore_ascii_case("grpc-web")) {
        return Some(Protocol::GrpcWeb);
    }
    by_word(name.split_once('-').map_or(name, |(prefix, _)| prefix))
}

fn by_word(word: &str) -> Option<Protocol> {
    Some(match word.to_ascii_lowercase().as_str() {
        "http" | "http1.1" => Protocol::Http,
        "http2" => Protocol::Http2,
        "grpc" => Protocol::Grpc,
        "grpc-web" => Protocol::GrpcWeb,
        "https" => Protocol::Https,
        "tls" => Protocol::Tls,
        "tcp" => Protocol::Tcp,
        "mongo" => Protocol::Mongo,
        "mysql" => Protocol::Mysql,
        "redis" => Protocol::Redis,
        "udp" => Protocol::Udp,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(name: &str, number: u16, app_protocol: &str) -> Protocol {
        of_service_port(&ServicePort { name: name.into(), port: number, app_protocol: app_protocol.into(), ..Default::default() })
    }

    #[test]
    fn app_protocol_beats_the_name_and_names_match_up_to_a_hyphen() {
        assert_eq!(port("http", 80, ""), Protocol::Http);
        assert_eq!(port("http2-x", 81, ""), Protocol::Http2);
        assert_eq!(port("grpc-web", 83, ""), Protocol::GrpcWeb);
        assert_eq!(port("httpfoo", 93, ""), Protocol::Auto);
        assert_eq!(port("http-but-tcp", 90, "tcp"), Protocol::Tcp);
        assert_eq!(port("app", 89, "kubernetes.io/h2c"), Protocol::Http2);
        assert_eq!(port("http", 91, "example.com/custom"), Protocol::Auto);
    }

    #[test]
    fn server_first_ports_are_not_sniffed() {
        assert_eq!(port("smtp", 25, ""), Protocol::Tcp);
        assert_eq!(port("mysql", 3306, ""), Protocol::Mysql);
        assert_eq!(port("plain", 88, ""), Protocol::Auto);
    }
}

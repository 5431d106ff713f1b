use std::collections::HashMap;

use envoy_types::pb::{
    envoy::{
        config::{
            cluster::v3::{
                Cluster,
                cluster::{ClusterDiscoveryType, DiscoveryType, LbConfig, RingHashLbConfig},
            },
            core::v3::{
                Address, CidrRange, HeaderValue, HeaderValueOption, Pipe, SocketAddress, TransportSocket, address, transport_socket,
            },
            endpoint::v3::{ClusterLoadAssignment, LocalityLbEndpoints},
            listener::v3::FilterChainMatch,
            rbac::v3::{Permission, permission},
            route::v3::{
                DirectResponseAction, HeaderMatcher, Route, RouteAction, RouteMatch, VirtualHost, header_matcher, route, route_action,
                route_match,
            },
        },
        extensions::{
            filters::network::http_connection_manager::v3::HttpConnectionManager, transport_sockets::tls::v3::UpstreamTlsContext,
        },
        r#type::matcher::v3::RegexMatcher,
    },
    google::protobuf::{Any, Duration, UInt32Value, UInt64Value},
};
use prost::{Message, Name};

use super::*;

fn said<M: Message + Name>(message: &M) -> Vec<String> {
    violations::<M>(&message.encode_to_vec()).iter().map(ToString::to_string).collect()
}

fn host() -> VirtualHost {
    let action = RouteAction { cluster_specifier: Some(route_action::ClusterSpecifier::Cluster("a".into())), ..RouteAction::default() };
    let matched = RouteMatch { path_specifier: Some(route_match::PathSpecifier::Prefix("/".into())), ..RouteMatch::default() };
    let route = Route { r#match: Some(matched), action: Some(route::Action::Route(action)), ..Route::default() };
    VirtualHost { name: "a".into(), domains: vec!["a".into()], routes: vec![route.clone(), route], ..VirtualHost::default() }
}

/// Returns what is said of a host whose second route's action was changed.
fn with(change: impl FnOnce(&mut RouteAction)) -> Vec<String> {
    let mut host = host();
    if let Some(route::Action::Route(action)) = &mut host.routes[1].action {
        change(action);
    }
    said(&host)
}

fn header(key: &str, value: &str) -> VirtualHost {
    let header = HeaderValue { key: key.into(), value: value.into(), ..HeaderValue::default() };
    let option = HeaderValueOption { header: Some(header), ..HeaderValueOption::default() };
    VirtualHost { request_headers_to_add: vec![option], ..host() }
}

fn cluster() -> Cluster {
    Cluster {
        name: "a".into(),
        connect_timeout: Some(Duration { seconds: 1, nanos: 0 }),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)),
        ..Cluster::default()
    }
}

#[test]
fn what_is_right_is_passed_over() {
    assert!(said(&host()).is_empty(), "{:?}", said(&host()));
    assert!(said(&cluster()).is_empty(), "{:?}", said(&cluster()));
    assert!(violations_of("no.such.Type", &[1, 2, 3]).is_empty());
    assert!(violations_of("envoy.config.cluster.v3.Cluster", &[0xff, 0xff]).iter().all(|violation| violation.path.len() == 1));
}

#[test]
fn a_fault_is_named_with_its_path() {
    assert_eq!(said(&VirtualHost { name: String::new(), ..host() }), ["name: must not be empty"]);
    assert_eq!(said(&VirtualHost { domains: Vec::new(), ..host() }), ["domains: is required"]);
    assert_eq!(said(&VirtualHost { domains: vec!["a".into(), "a\n".into()], ..host() }), ["domains[1]: must be one line"]);
    assert_eq!(said(&VirtualHost { require_tls: 9, ..host() }), ["require_tls: 9 has no meaning"]);
    assert_eq!(with(|action| action.prefix_rewrite = "/\r".into()), ["routes[1].route.prefix_rewrite: must be one line"]);
    assert_eq!(with(|action| action.cluster_specifier = None), ["routes[1].route.cluster_specifier: one must be chosen"]);
    let empty = with(|action| action.cluster_specifier = Some(route_action::ClusterSpecifier::Cluster(String::new())));
    assert_eq!(empty, ["routes[1].route.cluster: must not be empty"]);
}

#[test]
fn messages_that_must_be_there_are_missed() {
    let mut without = host();
    without.routes[0].r#match = None;
    without.routes[1].action = None;
    assert_eq!(said(&without), ["routes[0].match: is required", "routes[1].action: one must be chosen"]);
    // What is not there is not judged; what is there and empty is.
    let range = |port: Option<u32>| FilterChainMatch { destination_port: port.map(|value| UInt32Value { value }), ..Default::default() };
    assert!(said(&range(None)).is_empty() && said(&range(Some(80))).is_empty());
    assert_eq!(said(&range(Some(0))), ["destination_port: must be from 1 to 65535, is 0"]);
    assert_eq!(said(&range(Some(65_536))), ["destination_port: must be from 1 to 65535, is 65536"]);
}

#[test]
fn numbers_have_bounds_also_one_behind_the_other() {
    let ports = |source_ports: Vec<u32>| said(&FilterChainMatch { source_ports, ..FilterChainMatch::default() });
    assert!(ports(vec![1, 65_535]).is_empty());
    assert_eq!(ports(vec![1, 0]).len(), 1);
    let status = |status| said(&DirectResponseAction { status, ..DirectResponseAction::default() });
    assert!(status(200).is_empty() && status(599).is_empty());
    assert_eq!(status(600), ["status: must be from 200 to 599, is 600"]);
    assert_eq!(status(0).len(), 1);
    let ring = |size| {
        let config = RingHashLbConfig { maximum_ring_size: Some(UInt64Value { value: size }), ..RingHashLbConfig::default() };
        said(&Cluster { lb_config: Some(LbConfig::RingHashLbConfig(config)), ..cluster() })
    };
    assert!(ring(8_388_608).is_empty());
    assert_eq!(ring(8_388_609).len(), 1);
}

#[test]
fn durations_have_bounds_everywhere() {
    let timeout = |seconds, nanos| with(|action| action.timeout = Some(Duration { seconds, nanos }));
    assert!(timeout(0, 0).is_empty() && timeout(9_223_372_035, 0).is_empty());
    assert_eq!(timeout(9_223_372_036, 0), ["routes[1].route.timeout: must be at most 9223372035s, is 9223372036s"]);
    assert_eq!(timeout(0, -1), ["routes[1].route.timeout: must not be negative"]);
    // A rule of its own: more than nothing.
    let connect = |nanos| said(&Cluster { connect_timeout: Some(Duration { seconds: 0, nanos }), ..cluster() });
    assert!(connect(1).is_empty());
    assert_eq!(connect(0), ["connect_timeout: must be 0.000000001s or more, is 0s"]);
}

#[test]
fn headers_that_are_added_have_names_and_formats() {
    assert!(said(&header("x-a", "%REQ(x-b)% 100%%")).is_empty());
    let at = "request_headers_to_add[0].header";
    assert!(said(&header("x-a", "%X%"))[0].starts_with(&format!("{at}: Envoy knows no command")), "{:?}", said(&header("x-a", "%X%")));
    assert_eq!(said(&header("x-a", "a\0")), [format!("{at}.value: must be one line")]);
    assert_eq!(said(&header("", "a")), [format!("{at}.key: must not be empty")]);
    assert_eq!(said(&header("a\n", "a")), [format!("{at}.key: must be one line")]);
    assert_eq!(said(&header("Host", "a")), [format!("{at}: Host cannot be changed here")]);
    let long = "a".repeat(16_385);
    assert_eq!(said(&header("x-a", &long)), [format!("{at}.value: has 16385 bytes, more than the 16384 that are possible")]);
    assert!(said(&header("x-a", &long[1..])).is_empty());
}

#[test]
#[allow(deprecated, reason = "what Istio sends")]
fn expressions_are_compiled() {
    let matching = |regex: &str| {
        let regex = RegexMatcher { regex: regex.into(), ..RegexMatcher::default() };
        let specifier = header_matcher::HeaderMatchSpecifier::SafeRegexMatch(regex);
        let mut host = host();
        let header = HeaderMatcher { name: "x".into(), header_match_specifier: Some(specifier), ..HeaderMatcher::default() };
        host.routes[0].r#match.as_mut().unwrap().headers = vec![header];
        said(&host)
    };
    assert!(matching("a+b").is_empty());
    assert!(matching("a++")[0].starts_with("routes[0].match.headers[0].safe_regex_match.regex: is no RE2 expression"));
    assert_eq!(matching(""), ["routes[0].match.headers[0].safe_regex_match.regex: must not be empty"]);
}

#[test]
fn what_is_in_an_any_is_judged_too() {
    let with_name = |sni: &str| {
        let context = UpstreamTlsContext { sni: sni.into(), ..UpstreamTlsContext::default() };
        let config = Any { type_url: UpstreamTlsContext::type_url(), value: context.encode_to_vec() };
        let config_type = Some(transport_socket::ConfigType::TypedConfig(config));
        said(&Cluster { transport_socket: Some(TransportSocket { name: "tls".into(), config_type }), ..cluster() })
    };
    assert!(with_name(&"a".repeat(255)).is_empty());
    let at = "transport_socket.typed_config.sni";
    assert_eq!(with_name(&"a".repeat(256)), [format!("{at}: has 256 bytes, more than the 255 that are possible")]);
    assert_eq!(with_name("a\0b"), [format!("{at}: has a NUL byte")]);

    let unknown = Any { type_url: "type.googleapis.com/no.such.Type".into(), value: vec![0xff] };
    let options = |any: Any| Cluster { typed_extension_protocol_options: HashMap::from([("x".into(), any)]), ..cluster() };
    assert!(said(&options(unknown)).is_empty());
    let manager = Any { type_url: HttpConnectionManager::type_url(), value: Vec::new() };
    let found = said(&options(manager));
    let at = "typed_extension_protocol_options[0].value";
    assert_eq!(found, [format!("{at}.route_specifier: one must be chosen"), format!("{at}.stat_prefix: must not be empty")]);
}

#[test]
fn paths_of_sockets_have_an_end() {
    let pipe = |path: String| {
        let pipe = address::Address::Pipe(Pipe { path, ..Pipe::default() });
        said(&Address { address: Some(pipe) })
    };
    assert!(pipe("/".repeat(107)).is_empty());
    assert_eq!(pipe("/".repeat(108)), ["pipe.path: has 108 bytes, more than the 107 that are possible"]);
    assert_eq!(pipe(String::new()), ["pipe.path: must not be empty"]);
    let socket = address::Address::SocketAddress(SocketAddress { address: "1.2.3.4".into(), ..SocketAddress::default() });
    assert_eq!(said(&Address { address: Some(socket) }), ["socket_address.port_specifier: one must be chosen"]);
}

#[test]
fn networks_have_addresses() {
    let range = |address: &str| said(&CidrRange { address_prefix: address.into(), prefix_len: None });
    assert!(range("10.0.0.0").is_empty() && range("fd00::").is_empty());
    assert_eq!(range("10.0.0"), ["address_prefix: must be an IP address, is \"10.0.0\""]);
}

#[test]
fn items_are_counted() {
    let priority = |priority| LocalityLbEndpoints { priority, ..LocalityLbEndpoints::default() };
    let assignment =
        |priority_| ClusterLoadAssignment { cluster_name: "a".into(), endpoints: vec![priority(priority_)], ..Default::default() };
    assert!(said(&assignment(128)).is_empty());
    assert_eq!(said(&assignment(129)), ["endpoints[0].priority: must be from 0 to 128, is 129"]);
    let codes = |codes: Vec<u32>| {
        with(|action| {
            action.internal_redirect_policy = Some(envoy_types::pb::envoy::config::route::v3::InternalRedirectPolicy {
                redirect_response_codes: codes,
                allow_cross_scheme_redirect: true,
                ..Default::default()
            });
        })
    };
    assert!(codes(vec![301]).is_empty());
    // Numbers stand one behind the other, as one item on the wire.
    assert_eq!(codes(vec![301; 6]).len(), 1);
}

#[test]
fn a_flag_that_must_be_true_is() {
    let any = |any| said(&Permission { rule: Some(permission::Rule::Any(any)) });
    assert!(any(true).is_empty());
    assert_eq!(any(false), ["any: must be true"]);
}

#[test]
fn each_field_is_looked_at_once() {
    let bytes = host().encode_to_vec();
    let mut walk = walk::Walk::default();
    walk.message(table::find(&VirtualHost::full_name()).unwrap(), &bytes, 0);
    // name, domains, twice a route: match with prefix, route with cluster.
    assert_eq!(walk.fields, 2 + 2 * (1 + 2 + 2));
}

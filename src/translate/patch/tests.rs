use std::fmt::Debug;

use envoy_types::pb::envoy::config::{
    cluster::v3::Cluster,
    listener::v3::Listener,
    route::v3::{RouteConfiguration, VirtualHost},
};
use prost::{Message, Name};
use serde_json::{Value, json};

use super::{Patched, TableIdentity, added_host, cluster, listener, route_configuration_header, virtual_host};
use crate::{
    api::{mesh_config::MeshConfig, parse},
    mesh::{
        engine::Engine,
        model::{Proxy, ProxyKind},
        policy::envoy_filter::Patches,
    },
    reflection,
};

const MANAGER: &str = "envoy.filters.network.http_connection_manager";
const OF_MANAGER: &str = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";

/// Returns the patches of a filter, as a sidecar has them.
fn patches(written: Value) -> Patches {
    let filter = json!({
        "apiVersion": "networking.istio.io/v1alpha3",
        "kind": "EnvoyFilter",
        "metadata": {"name": "a", "namespace": "shop"},
        "spec": {"configPatches": written},
    });
    let parsed = parse(&filter, &"Kubernetes".into());
    assert_eq!(parsed.refused, [], "{:?}", parsed.diagnostics);
    let mut engine = Engine::new("cluster.local", MeshConfig::default());
    let world = engine.apply(parsed.objects.into_iter().map(|object| (object.key.clone(), Some(object)))).world;
    Patches::of(&world, &Proxy::new(ProxyKind::Sidecar, "client.shop"))
}

fn message<M: Message + Name + Default>(written: &Value) -> M {
    let written = reflection::from_json(&M::full_name(), written).unwrap();
    assert_eq!(written.unknown, [""; 0]);
    M::decode(&written.message[..]).unwrap()
}

/// Holds a patched message against what it should be, and against how many of the patches found what they are for.
fn is<M: Message + Name + Default + PartialEq + Debug>(patched: &Patched<M>, applied: usize, expected: &Value) {
    assert_eq!(patched.message.as_ref(), Some(&message(expected)));
    assert_eq!((patched.applied.as_slice().len(), failures(patched)), (applied, vec![]));
}

fn failures<M>(patched: &Patched<M>) -> Vec<&str> {
    patched.failures.iter().map(|failure| failure.why.as_str()).collect()
}

fn http_filter(name: &str) -> Value {
    json!({"name": name, "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}})
}

fn manager(filters: &[Value]) -> Value {
    json!({"name": MANAGER, "typed_config": {"@type": OF_MANAGER, "http_filters": filters}})
}

fn listener_of(chains: &[Value]) -> Value {
    json!({"name": "l", "address": {"socket_address": {"address": "0.0.0.0", "port_value": 80}}, "filter_chains": chains})
}

/// Returns what a patch of the HTTP filters `a` and `b` leaves.
fn filters_after(operation: &str, sub_filter: Option<&str>) -> Vec<String> {
    let mut filter = json!({"name": MANAGER});
    if let Some(name) = sub_filter {
        filter["subFilter"] = json!({"name": name});
    }
    let patches = patches(json!([{
        "applyTo": "HTTP_FILTER",
        "match": {"listener": {"filterChain": {"filter": filter}}},
        "patch": {"operation": operation, "value": http_filter("new")},
    }]));
    let base = message(&listener_of(&[json!({"filters": [manager(&[http_filter("a"), http_filter("b")])]})]));
    let made = listener(base, &patches).message.unwrap();
    http_filter_names(&made)
}

fn http_filter_names(listener: &Listener) -> Vec<String> {
    use envoy_types::pb::envoy::{
        config::listener::v3::filter::ConfigType, extensions::filters::network::http_connection_manager::v3::HttpConnectionManager,
    };
    let filters = listener.filter_chains.iter().flat_map(|chain| &chain.filters);
    let managers = filters.filter_map(|filter| match &filter.config_type {
        Some(ConfigType::TypedConfig(config)) => HttpConnectionManager::decode(&config.value[..]).ok(),
        _ => None,
    });
    managers.flat_map(|manager| manager.http_filters).map(|filter| filter.name).collect()
}

#[test]
fn http_filters_are_put_where_the_operation_says() {
    for (operation, sub_filter, expected) in [
        ("ADD", None, &["a", "b", "new"][..]),
        ("INSERT_FIRST", Some("b"), &["new", "a", "b"]),
        ("INSERT_BEFORE", Some("b"), &["a", "new", "b"]),
        ("INSERT_BEFORE", None, &["new", "a", "b"]),
        ("INSERT_AFTER", Some("a"), &["a", "new", "b"]),
        ("INSERT_AFTER", None, &["a", "b", "new"]),
        ("INSERT_AFTER", Some("none"), &["a", "b"]),
        ("INSERT_BEFORE", Some("none"), &["a", "b"]),
        ("REPLACE", Some("a"), &["new", "b"]),
        ("REPLACE", None, &["a", "b"]),
        ("REMOVE", Some("a"), &["b"]),
        ("REMOVE", None, &["a", "b"]),
        ("MERGE", Some("b"), &["a", "new"]),
    ] {
        assert_eq!(filters_after(operation, sub_filter), expected, "{operation} {sub_filter:?}");
    }
}

#[test]
fn a_listener_is_matched_by_name_and_port_and_its_chains_by_what_they_match() {
    let chain = |name: &str, port: u32| json!({"name": name, "filter_chain_match": {"destination_port": port, "transport_protocol": "tls"}, "filters": [{"name": "f"}]});
    let base = listener_of(&[chain("a", 1), chain("b", 2)]);
    let patch = |apply_to: &str, matching: Value, value: Value| {
        patches(json!([{"applyTo": apply_to, "match": {"listener": matching}, "patch": {"operation": "MERGE", "value": value}}]))
    };
    let by_port = patch("LISTENER", json!({"portNumber": 80}), json!({"per_connection_buffer_limit_bytes": 5}));
    let mut expected = base.clone();
    expected["per_connection_buffer_limit_bytes"] = json!(5);
    is(&listener(message(&base), &by_port), 1, &expected);
    let elsewhere = patch("LISTENER", json!({"portNumber": 81}), json!({"per_connection_buffer_limit_bytes": 5}));
    is(&listener(message(&base), &elsewhere), 0, &base);

    let timeout = json!({"transport_socket_connect_timeout": "7s"});
    let mut expected = base.clone();
    expected["filter_chains"][1]["transport_socket_connect_timeout"] = json!("7s");
    for matching in [json!({"destinationPort": 2}), json!({"name": "b", "transportProtocol": "tls"})] {
        is(&listener(message(&base), &patch("FILTER_CHAIN", json!({"filterChain": matching}), timeout.clone())), 1, &expected);
    }
    let others = json!({"filterChain": {"sni": "x"}});
    is(&listener(message(&base), &patch("FILTER_CHAIN", others, timeout.clone())), 0, &base);

    // Of captured traffic it is the chain that has the port.
    let mut captured = base.clone();
    captured["name"] = json!("virtualInbound");
    let mut expected = captured.clone();
    expected["filter_chains"][1]["transport_socket_connect_timeout"] = json!("7s");
    is(&listener(message(&captured), &patch("FILTER_CHAIN", json!({"portNumber": 2}), timeout)), 1, &expected);
}

#[test]
fn a_transport_socket_of_the_same_name_is_merged_and_nothing_else_is() {
    let of_tls = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
    let tls = |fields: Value| {
        let mut config = json!({"@type": of_tls});
        config.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        json!({"name": "tls", "typed_config": config})
    };
    let base = json!({"name": "c", "transport_socket": tls(json!({"sni": "a", "allow_renegotiation": true}))});
    let merging = |value: Value| patches(json!([{"applyTo": "CLUSTER", "patch": {"operation": "MERGE", "value": value}}]));
    let expected = json!({"name": "c", "transport_socket": tls(json!({"sni": "b", "allow_renegotiation": true}))});
    let patch = merging(json!({"transport_socket": tls(json!({"sni": "b"})), "connect_timeout": "9s"}));
    is(&cluster(message(&base), &patch), 1, &expected);

    let other = merging(json!({"transport_socket": {"name": "raw"}}));
    is(&cluster(message(&base), &other), 1, &json!({"name": "c", "transport_socket": {"name": "raw"}}));
    let renamed = merging(json!({"name": "d"}));
    let made = cluster(message(&base), &renamed);
    assert_eq!(made.message, Some(message(&base)));
    assert_eq!(failures(&made), ["c cannot be renamed: others know it by this name"]);
    let removed = patches(json!([{"applyTo": "CLUSTER", "patch": {"operation": "REMOVE"}}]));
    assert_eq!(cluster(message::<Cluster>(&base), &removed).message, None);
}

#[test]
fn what_is_merged_into_another_type_is_left_out() {
    let patches = patches(json!([{
        "applyTo": "NETWORK_FILTER",
        "match": {"listener": {"filterChain": {"filter": {"name": MANAGER}}}},
        "patch": {"operation": "MERGE", "value": {"typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo"}}},
    }]));
    let base = listener_of(&[json!({"filters": [manager(&[http_filter("a")])]})]);
    let made = listener(message(&base), &patches);
    assert_eq!(made.message, Some(message(&base)));
    assert!(failures(&made)[0].contains("cannot be merged with envoy.extensions.filters.network.echo.v3.Echo"), "{:?}", failures(&made));
}

fn of_table(name: &str, servers: Option<&[u16]>) -> TableIdentity {
    TableIdentity { name: name.to_owned(), servers: servers.map(Into::into) }
}

fn routes_after(patch: Value) -> Vec<String> {
    let route = |name: &str| json!({"name": name, "match": {"prefix": "/"}, "direct_response": {"status": 200}});
    let host: VirtualHost = message(&json!({"name": "h", "domains": ["h"], "routes": [route("a"), route("b")]}));
    let made = virtual_host(host, &of_table("80", None), &patches(json!([patch])));
    made.message.unwrap().routes.into_iter().map(|route| route.name).collect()
}

#[test]
fn routes_are_put_where_the_operation_says() {
    let patch = |operation: &str, route: Option<&str>| {
        let mut host = json!({"name": "h"});
        if let Some(route) = route {
            host["route"] = json!({"name": route});
        }
        let value = json!({"name": "new", "match": {"prefix": "/new"}});
        json!({"applyTo": "HTTP_ROUTE", "match": {"routeConfiguration": {"vhost": host}}, "patch": {"operation": operation, "value": value}})
    };
    for (operation, route, expected) in [
        ("ADD", Some("a"), &["a", "b", "new"][..]),
        ("INSERT_FIRST", None, &["new", "a", "b"]),
        ("INSERT_FIRST", Some("b"), &["new", "a", "b"]),
        ("INSERT_FIRST", Some("none"), &["a", "b"]),
        ("INSERT_BEFORE", Some("b"), &["a", "new", "b"]),
        ("INSERT_AFTER", Some("a"), &["a", "new", "b"]),
        ("INSERT_AFTER", None, &["a", "b", "new"]),
        ("REMOVE", Some("a"), &["b"]),
        ("REMOVE", None, &[]),
        ("REPLACE", Some("a"), &["a", "b"]),
        ("MERGE", Some("a"), &["new", "b"]),
    ] {
        assert_eq!(routes_after(patch(operation, route)), expected, "{operation} {route:?}");
    }
    let mut redirects = patch("REMOVE", None);
    redirects["match"]["routeConfiguration"]["vhost"]["route"] = json!({"action": "REDIRECT"});
    assert_eq!(routes_after(redirects), ["a", "b"]);
    let mut elsewhere = patch("REMOVE", None);
    elsewhere["match"]["routeConfiguration"] = json!({"portNumber": 81});
    assert_eq!(routes_after(elsewhere), ["a", "b"]);
}

#[test]
fn tables_of_gateways_are_matched_by_the_ports_of_their_servers() {
    let merging = |matching: Value| {
        let patch = json!({"operation": "MERGE", "value": {"response_headers_to_remove": ["x"]}});
        patches(json!([{"applyTo": "ROUTE_CONFIGURATION", "match": {"routeConfiguration": matching}, "patch": patch}]))
    };
    let fits = |table: &TableIdentity, matching: Value| {
        let base = RouteConfiguration { name: table.name.clone(), ..RouteConfiguration::default() };
        !route_configuration_header(base, table, &merging(matching)).applied.is_empty()
    };
    let plain = of_table("http.8080", Some(&[80]));
    assert!(fits(&plain, json!({"portNumber": 80})) && !fits(&plain, json!({"portNumber": 8080})));
    assert!(fits(&plain, json!({"name": "http.8080"})) && !fits(&plain, json!({"gateway": "shop/public"})));
    let tls = of_table("https.8443.web.public.shop", Some(&[443]));
    assert!(fits(&tls, json!({"gateway": "shop/public", "portName": "web", "portNumber": 443})));
    assert!(!fits(&tls, json!({"gateway": "shop/private"})) && !fits(&tls, json!({"portName": "other"})));
    let inbound = of_table("inbound|8080||", None);
    assert!(fits(&inbound, json!({"portNumber": 8080})) && !fits(&inbound, json!({"portNumber": 80})));
    let sniffed = of_table("a.shop.svc.cluster.local:80", None);
    assert!(!fits(&sniffed, json!({"portNumber": 80})) && fits(&sniffed, json!({})));
}

#[test]
fn a_virtual_host_is_added_where_its_table_is_matched() {
    let patches = patches(json!([{
        "applyTo": "VIRTUAL_HOST",
        "match": {"routeConfiguration": {"name": "80"}},
        "patch": {"operation": "ADD", "value": {"name": "new", "domains": ["new"]}},
    }]));
    is(&added_host(&of_table("80", None), &patches), 1, &json!({"name": "new", "domains": ["new"]}));
    assert_eq!(added_host(&of_table("81", None), &patches).message, None);
}

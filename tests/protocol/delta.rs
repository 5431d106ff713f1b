//! Incremental xDS.

use std::time::{Duration, Instant};

use envoy_types::pb::envoy::{
    config::{core::v3::Node, route::v3::RouteConfiguration},
    service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
};
use istiod_lite::{
    budget::Budget,
    mesh::model::{Caller, SpiffeId},
    xds::{
        bounds::Bounds,
        resource::Resource,
        resource_type::ResourceType::{Cluster, Endpoint, ExtensionConfig, Listener, Route, Secret},
        transport::Options,
    },
};
use prost::Message;
use tonic::Code;

use super::{
    client::{DeltaClient, node, said},
    server::{SETTINGS, Server, cluster, endpoint, extension, listener, route},
};

fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

fn small_mesh() -> Vec<Resource> {
    vec![cluster("a", 1), cluster("b", 1), endpoint("a", 1), endpoint("b", 1), listener("l", 1, &[]), route("r", 1, &["a", "b"])]
}

#[tokio::test]
async fn a_first_connect_gets_everything_and_an_ack_no_answer() {
    let server = Server::start(SETTINGS, small_mesh()).await;
    let mut client = DeltaClient::connect(server.address).await;
    client.open(Cluster, &[], &[]);
    assert_eq!(client.take().await, (Cluster, strings(&["a", "b"]), strings(&[])));
    client.open(Endpoint, &["a", "b"], &[]);
    assert_eq!(client.take().await, (Endpoint, strings(&["a", "b"]), strings(&[])));
    client.open(Listener, &["*"], &[]);
    assert_eq!(client.take().await, (Listener, strings(&["l"]), strings(&[])));
    client.open(Route, &["r"], &[]);
    assert_eq!(client.take().await, (Route, strings(&["r"]), strings(&[])));
    client.silent().await;
    assert_eq!((server.status()[0].wanted, server.status()[0].current), (1, 1));
    assert_eq!(server.resources_sent(Cluster, "requested"), 2);
}

#[tokio::test]
async fn a_reconnect_transfers_only_differences() {
    let server = Server::start(SETTINGS, small_mesh()).await;
    let held = |resource: &Resource| (resource.name.to_string(), resource.version.to_string());
    let versions: Vec<_> = small_mesh().iter().map(held).collect();
    let of =
        |range: std::ops::Range<usize>| versions[range].iter().map(|(name, version)| (name.as_str(), version.as_str())).collect::<Vec<_>>();
    let mut client = DeltaClient::connect(server.address).await;
    client.open(Cluster, &[], &of(0..2));
    client.open(Endpoint, &["a", "b"], &of(2..4));
    client.open(Listener, &[], &of(4..5));
    client.open(Route, &["r"], &of(5..6));
    client.silent().await;

    let mut changed = small_mesh();
    changed[3] = endpoint("b", 2);
    server.set(changed);
    assert_eq!(client.take().await, (Endpoint, strings(&["b"]), strings(&[])));
    client.silent().await;
}

#[tokio::test]
async fn a_cluster_changed_while_away_is_followed_by_its_unchanged_endpoints() {
    let server = Server::start(SETTINGS, small_mesh()).await;
    let [a, b] = [endpoint("a", 1), endpoint("b", 1)].map(|resource| resource.version.to_string());
    let unchanged = cluster("b", 1).version.to_string();
    let mut client = DeltaClient::connect(server.address).await;
    client.open(Cluster, &[], &[("a", "0000000000000000"), ("b", &unchanged)]);
    client.open(Endpoint, &["a", "b"], &[("a", &a), ("b", &b)]);
    assert_eq!(client.take().await, (Cluster, strings(&["a"]), strings(&[])));
    assert_eq!(client.take().await, (Endpoint, strings(&["a"]), strings(&[])));
    client.silent().await;
    assert_eq!((server.resources_sent(Cluster, "reconnect"), server.resources_sent(Endpoint, "warming")), (1, 1));
}

#[tokio::test]
async fn a_client_that_warms_and_speaks_of_no_clusters_gets_its_endpoints() {
    let server = Server::start(SETTINGS, small_mesh()).await;
    let version = endpoint("a", 1).version.to_string();
    let mut client = DeltaClient::connect(server.address).await;
    client.open(Endpoint, &["a"], &[("a", &version)]);
    assert_eq!(client.take().await, (Endpoint, strings(&["a"]), strings(&[])));
}

#[tokio::test]
async fn a_changed_cluster_is_followed_by_its_endpoints() {
    let (server, mut client) = connected(small_mesh()).await;
    let mut changed = small_mesh();
    changed[0] = cluster("a", 2);
    server.set(changed);
    assert_eq!(client.take().await, (Cluster, strings(&["a"]), strings(&[])));
    assert_eq!(client.take().await, (Endpoint, strings(&["a"]), strings(&[])));
    client.silent().await;
    assert_eq!(server.resources_sent(Endpoint, "warming"), 1);
}

#[tokio::test]
async fn a_name_gone_while_away_is_removed_once_listeners_may_have_drained() {
    let server = Server::start(SETTINGS, vec![cluster("a", 1), listener("l", 1, &[])]).await;
    let (a, l) = (cluster("a", 1).version.to_string(), listener("l", 1, &[]).version.to_string());
    let mut client = DeltaClient::connect(server.address).await;
    let begun = Instant::now();
    client.open(Cluster, &[], &[("a", &a), ("gone", "00000000000000aa")]);
    client.open(Listener, &[], &[("l", &l), ("old", "00000000000000bb")]);
    client.open(Endpoint, &[], &[("gone", "00000000000000cc")]);
    let mut removed = Vec::new();
    for _ in 0..3 {
        let (kind, resources, names) = client.take().await;
        assert_eq!(resources, strings(&[]));
        removed.push((kind, names));
    }
    assert_eq!(removed.pop(), Some((Cluster, strings(&["gone"]))));
    assert!(begun.elapsed() >= SETTINGS.drain);
    removed.sort();
    assert_eq!(removed, [(Endpoint, strings(&["gone"])), (Listener, strings(&["old"]))]);
}

#[tokio::test]
async fn a_refused_content_is_not_sent_again_unasked() {
    let (server, mut client) = connected(small_mesh()).await;
    let bad = |others: u64| {
        let mut mesh = small_mesh();
        (mesh[0], mesh[1]) = (cluster("a", 666), cluster("b", others));
        mesh
    };
    server.set(bad(1));
    let response = client.next().await;
    assert_eq!(said(&response).1, ["a"]);
    client.nack(&response, "Error adding/updating cluster(s) a: no");
    assert_eq!(client.take().await.0, Endpoint);
    client.silent().await;
    assert_eq!(server.status()[0].rejected[&Cluster].resources, ["a"]);

    // Another object's change still arrives, and this one only when it changed or is asked for.
    server.set(bad(2));
    assert_eq!(client.take().await, (Cluster, strings(&["b"]), strings(&[])));
    assert_eq!(client.take().await, (Endpoint, strings(&["b"]), strings(&[])));
    client.silent().await;
    client.change(Cluster, &["a"], &[]);
    assert_eq!(client.take().await, (Cluster, strings(&["a"]), strings(&[])));
    assert_eq!(client.take().await.0, Endpoint);
    client.silent().await;
    assert!(server.status()[0].rejected.is_empty());
}

#[tokio::test]
async fn an_unexplained_refusal_is_narrowed_down_to_its_cause() {
    let mesh = |content: u64| (0..8).map(|i| route(&format!("r{i}"), content + i % 2 * content, &[])).collect::<Vec<_>>();
    let server = Server::start(SETTINGS, mesh(1)).await;
    let mut client = DeltaClient::connect(server.address).await;
    let names: Vec<_> = (0..8).map(|i| format!("r{i}")).collect();
    client.open(Route, &names.iter().map(String::as_str).collect::<Vec<_>>(), &[]);
    client.take().await;
    server.set(mesh(2));
    let mut taken = Vec::new();
    while taken.len() < 7 {
        let response = client.next().await;
        let (_, names, _) = said(&response);
        if names.contains(&"r5".to_string()) {
            client.nack(&response, "a virtual host is bad");
        } else {
            client.ack(&response);
            taken.extend(names);
        }
    }
    client.silent().await;
    taken.sort();
    assert_eq!(taken, ["r0", "r1", "r2", "r3", "r4", "r6", "r7"]);
}

#[tokio::test]
async fn content_that_changes_and_changes_back_is_told_truly() {
    let (server, mut client) = connected(small_mesh()).await;
    let with = |content: u64| {
        let mut mesh = small_mesh();
        mesh[3] = endpoint("b", content);
        mesh
    };
    server.set(with(2));
    let response = client.next().await;
    server.set(with(1));
    let back = client.next().await;
    assert_eq!((said(&response).1, said(&back).1), (strings(&["b"]), strings(&["b"])));
    assert_ne!(response.resources[0].version, back.resources[0].version);
    client.ack(&response);
    client.ack(&back);
    client.silent().await;
}

#[tokio::test]
async fn names_that_do_not_exist_are_answered() {
    let server = Server::start(SETTINGS, small_mesh()).await;
    let mut client = DeltaClient::connect(server.address).await;
    client.open(Endpoint, &["none"], &[]);
    assert_eq!(client.take().await, (Endpoint, strings(&[]), strings(&["none"])));
    client.open(Route, &["none"], &[]);
    let response = client.next().await;
    assert_eq!(said(&response), (Route, strings(&["none"]), strings(&[])));
    let table = RouteConfiguration::decode(&response.resources[0].resource.as_ref().unwrap().value[..]).unwrap();
    assert_eq!((table.name.as_str(), table.validate_clusters.unwrap().value, table.virtual_hosts.len()), ("none", false, 0));
    client.ack(&response);
    client.silent().await;
    // It comes to exist.
    server.set(vec![endpoint("none", 1), route("none", 1, &[])]);
    assert_eq!(client.take().await, (Endpoint, strings(&["none"]), strings(&[])));
    assert_eq!(client.take().await, (Route, strings(&["none"]), strings(&[])));
}

#[tokio::test]
async fn an_empty_view_is_an_answer_too() {
    let server = Server::start(SETTINGS, Vec::new()).await;
    let mut client = DeltaClient::connect(server.address).await;
    client.open(Cluster, &[], &[]);
    assert_eq!(client.take().await, (Cluster, strings(&[]), strings(&[])));
}

#[tokio::test]
async fn a_name_asked_for_again_is_answered_though_current() {
    let (_server, mut client) = connected(small_mesh()).await;
    client.change(Endpoint, &["a"], &[]);
    assert_eq!(client.take().await, (Endpoint, strings(&["a"]), strings(&[])));
    client.change(Endpoint, &[], &["a"]);
    client.silent().await;
    client.change(Endpoint, &["a"], &[]);
    assert_eq!(client.take().await, (Endpoint, strings(&["a"]), strings(&[])));
}

#[tokio::test]
async fn a_name_given_up_is_not_spoken_of() {
    let (server, mut client) = connected(small_mesh()).await;
    client.change(Endpoint, &[], &["a"]);
    client.silent().await;
    let mut changed = small_mesh();
    (changed[2], changed[3]) = (endpoint("a", 2), endpoint("b", 2));
    server.set(changed);
    assert_eq!(client.take().await, (Endpoint, strings(&["b"]), strings(&[])));
}

#[tokio::test]
async fn an_answer_to_nothing_that_was_sent_is_ignored() {
    let (_server, mut client) = connected(small_mesh()).await;
    let foreign = DeltaDiscoveryResponse { type_url: Cluster.type_url().into(), nonce: "4711".into(), ..Default::default() };
    client.ack(&foreign);
    client.nack(&foreign, "no");
    client.silent().await;
}

#[tokio::test]
async fn a_backend_is_replaced_in_the_right_order() {
    let (server, mut client) = connected(small_mesh()).await;
    server.set(vec![
        cluster("b", 1),
        cluster("c", 1),
        endpoint("b", 1),
        endpoint("c", 1),
        listener("l", 1, &[]),
        route("r", 2, &["b", "c"]),
    ]);
    let clusters = client.next().await;
    assert_eq!(said(&clusters), (Cluster, strings(&["c"]), strings(&[])));
    client.change(Endpoint, &["c"], &[]);
    assert_eq!(client.take().await, (Endpoint, strings(&["c"]), strings(&[])));
    client.silent().await;
    // Warm.
    client.ack(&clusters);
    let routes = client.next().await;
    assert_eq!(said(&routes), (Route, strings(&["r"]), strings(&[])));
    client.silent().await;
    client.ack(&routes);
    assert_eq!(client.take().await, (Cluster, strings(&[]), strings(&["a"])));
    client.silent().await;
}

#[tokio::test]
async fn a_cluster_that_never_warms_holds_nothing_else_up() {
    let (server, mut client) = connected(small_mesh()).await;
    let mut mesh = small_mesh();
    mesh.extend([cluster("cold", 1), endpoint("cold", 1)]);
    mesh[5] = route("r", 2, &["a", "b", "cold"]);
    server.set(mesh.clone());
    assert_eq!(said(&client.next().await), (Cluster, strings(&["cold"]), strings(&[])));
    // Not ACKed. What does not need it goes on at once,
    mesh[2] = endpoint("a", 2);
    mesh[4] = listener("l", 2, &["a"]);
    mesh.push(cluster("other", 1));
    server.set(mesh);
    assert_eq!(said(&client.next().await), (Cluster, strings(&["other"]), strings(&[])));
    assert_eq!(client.take().await, (Endpoint, strings(&["a"]), strings(&[])));
    assert_eq!(client.take().await, (Listener, strings(&["l"]), strings(&[])));
    client.silent().await;
    // and what needs it at the deadline.
    assert_eq!(client.take().await, (Route, strings(&["r"]), strings(&[])));
    assert_eq!(server.ledger.metrics().gates_opened.get_or_create(&[("type", "cds")]).get(), 1);
}

#[tokio::test]
async fn a_refused_cluster_keeps_back_what_needs_it_and_no_more() {
    let (server, mut client) = connected(small_mesh()).await;
    let mut mesh = small_mesh();
    mesh.extend([cluster("bad", 1), route("s", 1, &["a"])]);
    mesh[4] = listener("l", 2, &["a"]);
    mesh[5] = route("r", 2, &["bad"]);
    server.set(mesh);
    let clusters = client.next().await;
    assert_eq!(said(&clusters).1, ["bad"]);
    client.nack(&clusters, "no");
    assert_eq!(client.take().await, (Listener, strings(&["l"]), strings(&[])));
    client.silent().await;
}

#[tokio::test]
async fn a_cluster_that_a_listener_named_stays_while_it_drains() {
    let mesh = |clusters: &[&str], content| {
        let listener = listener("l", content, clusters);
        clusters.iter().map(|name| cluster(name, 1)).chain([listener]).collect::<Vec<_>>()
    };
    let server = Server::start(SETTINGS, mesh(&["a", "b"], 1)).await;
    let mut client = DeltaClient::connect(server.address).await;
    client.open(Cluster, &[], &[]);
    client.take().await;
    client.open(Listener, &[], &[]);
    client.take().await;
    server.set(mesh(&["b"], 2));
    assert_eq!(client.take().await, (Listener, strings(&["l"]), strings(&[])));
    let begun = Instant::now();
    assert_eq!(client.take().await, (Cluster, strings(&[]), strings(&["a"])));
    assert!(begun.elapsed() > SETTINGS.drain / 2, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_cluster_stays_while_a_draining_listener_has_a_table_that_names_it() {
    let with_table = |clusters: &[&str]| vec![listener("m", 1, &[]), route("t", 1, clusters)];
    let (server, mut client) = connected([small_mesh(), with_table(&["a"])].concat()).await;
    client.change(Route, &["t"], &[]);
    client.take().await;
    server.set(vec![cluster("b", 1), endpoint("b", 1), listener("l", 1, &[]), route("r", 2, &["b"])]);
    assert_eq!(client.take().await, (Route, strings(&["r"]), strings(&[])));
    assert_eq!(client.take().await, (Listener, strings(&[]), strings(&["m"])));
    client.silent().await;
    client.change(Route, &[], &["t"]);
    assert_eq!(client.take().await, (Cluster, strings(&[]), strings(&["a"])));
}

#[tokio::test]
async fn types_that_are_not_served_are_answered_once() {
    let server = Server::start(SETTINGS, Vec::new()).await;
    let mut client = DeltaClient::connect(server.address).await;
    let scopes = "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration";
    let ask = |names: &[&str]| DeltaDiscoveryRequest {
        node: Some(node()),
        type_url: scopes.into(),
        resource_names_subscribe: names.iter().map(ToString::to_string).collect(),
        ..DeltaDiscoveryRequest::default()
    };
    client.send(ask(&["some.scope"]));
    let response = client.next().await;
    assert_eq!((response.type_url.as_str(), &response.removed_resources[..]), (scopes, &strings(&["some.scope"])[..]));
    client.nack(&response, "missing");
    client.silent().await;
}

/// Envoy has a listener wait for its secrets until they are there, or are said not to be.
#[tokio::test]
async fn a_secret_that_does_not_exist_is_answered_at_once() {
    let server = Server::start(SETTINGS, Vec::new()).await;
    let mut client = DeltaClient::connect(server.address).await;
    client.open(Secret, &["kubernetes://cert"], &[]);
    assert_eq!(client.take().await, (Secret, strings(&[]), strings(&["kubernetes://cert"])));
    client.silent().await;
}

#[tokio::test]
async fn a_filter_is_replaced_without_its_listener_and_stays_while_it_is_asked_for() {
    let mesh = |content| vec![listener("l", 1, &[]), extension("f", content, &[])];
    let server = Server::start(SETTINGS, mesh(1)).await;
    let mut client = DeltaClient::connect(server.address).await;
    client.open(Listener, &[], &[]);
    assert_eq!(client.take().await, (Listener, strings(&["l"]), strings(&[])));
    client.open(ExtensionConfig, &["f"], &[]);
    assert_eq!(client.take().await, (ExtensionConfig, strings(&["f"]), strings(&[])));
    server.set(mesh(2));
    assert_eq!(client.take().await, (ExtensionConfig, strings(&["f"]), strings(&[])));
    client.silent().await;
    // A listener that still has the filter would answer all requests with an error.
    server.set(vec![listener("l", 2, &[])]);
    assert_eq!(client.take().await, (Listener, strings(&["l"]), strings(&[])));
    client.silent().await;
    client.change(ExtensionConfig, &[], &["f"]);
    client.silent().await;
    server.set(mesh(3));
    assert_eq!(client.take().await, (Listener, strings(&["l"]), strings(&[])));
    client.change(ExtensionConfig, &["f"], &[]);
    assert_eq!(client.take().await, (ExtensionConfig, strings(&["f"]), strings(&[])));
}

#[tokio::test]
async fn a_filter_that_does_not_exist_is_answered_and_sent_once_it_does() {
    let server = Server::start(SETTINGS, Vec::new()).await;
    let mut client = DeltaClient::connect(server.address).await;
    client.open(ExtensionConfig, &["f"], &[]);
    assert_eq!(client.take().await, (ExtensionConfig, strings(&[]), strings(&["f"])));
    server.set(vec![extension("f", 1, &[])]);
    assert_eq!(client.take().await, (ExtensionConfig, strings(&["f"]), strings(&[])));
    client.silent().await;
}

#[tokio::test]
async fn a_filter_comes_after_the_clusters_that_it_calls_and_these_go_after_it() {
    let mesh = |name: &str| vec![cluster(name, 1), endpoint(name, 1), listener("l", 1, &[]), extension("f", 1, &[name])];
    let replaced = |mut mesh: Vec<Resource>| {
        mesh[3] = extension("f", 2, &["b"]);
        mesh
    };
    let server = Server::start(SETTINGS, mesh("a")).await;
    let mut client = DeltaClient::connect(server.address).await;
    for (kind, names) in [(Cluster, &[][..]), (Endpoint, &["a"]), (Listener, &[]), (ExtensionConfig, &["f"])] {
        client.open(kind, names, &[]);
        client.take().await;
    }
    server.set(replaced(mesh("b")));
    let clusters = client.next().await;
    assert_eq!(said(&clusters), (Cluster, strings(&["b"]), strings(&[])));
    client.silent().await;
    client.ack(&clusters);
    let filters = client.next().await;
    assert_eq!(said(&filters), (ExtensionConfig, strings(&["f"]), strings(&[])));
    client.silent().await;
    client.ack(&filters);
    assert_eq!(client.take().await, (Cluster, strings(&[]), strings(&["a"])));
}

#[tokio::test]
async fn a_refused_filter_keeps_no_other_back() {
    let mesh = |content| vec![extension("f", content, &[]), extension("g", content, &[])];
    let server = Server::start(SETTINGS, mesh(1)).await;
    let mut client = DeltaClient::connect(server.address).await;
    client.open(ExtensionConfig, &["f", "g"], &[]);
    client.take().await;
    server.set(mesh(2));
    let mut taken = Vec::new();
    while taken.is_empty() {
        let response = client.next().await;
        let (_, names, _) = said(&response);
        if names.contains(&"f".to_string()) {
            client.nack(&response, "no such module");
        } else {
            client.ack(&response);
            taken.extend(names);
        }
    }
    client.silent().await;
    assert_eq!(taken, ["g"]);
    assert_eq!(server.status()[0].rejected[&ExtensionConfig].resources, ["f"]);
}

#[tokio::test]
async fn a_stream_needs_a_node_that_is_the_callers() {
    let refusal = async |options: Options, caller: Caller, node: Option<Node>| {
        let server = Server::start_with(options, caller, Vec::new()).await;
        let mut client = DeltaClient::connect(server.address).await;
        let health = "type.googleapis.com/istio.v1.HealthInformation".to_string();
        client.send(DeltaDiscoveryRequest { type_url: health, ..Default::default() });
        client.send(DeltaDiscoveryRequest { node, type_url: Cluster.type_url().into(), ..Default::default() });
        client.receive().await.err().map(|status| (status.code(), status.message().to_string()))
    };
    let caller = |namespace: &str| Caller::Workload(SpiffeId::parse(&format!("spiffe://td/ns/{namespace}/sa/web")).unwrap());
    let missing = Some((Code::InvalidArgument, "missing node information".to_string()));
    assert_eq!(refusal(Options::default(), Caller::Anonymous, None).await, missing);
    assert_eq!(refusal(Options::default(), caller("shop"), Some(node())).await, None);
    let foreign = Some((Code::PermissionDenied, "authorization failed".to_string()));
    assert_eq!(refusal(Options::default(), caller("bank"), Some(node())).await, foreign);

    let options = Options { authenticated: true, ..Options::default() };
    let server = Server::start_with(options, Caller::Anonymous, Vec::new()).await;
    assert_eq!(DeltaClient::refusal(server.address).await.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn a_first_request_may_not_be_of_any_size() {
    let options = Options { bounds: Bounds { first_request: 1000, ..Bounds::default() }, ..Options::default() };
    let server = Server::start_with(options, Caller::Anonymous, Vec::new()).await;
    let mut client = DeltaClient::connect(server.address).await;
    client.open(Cluster, &["x".repeat(2000).as_str()], &[]);
    let status = client.receive().await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, "request: may have at most 1000 bytes"));
    assert_eq!(server.ledger.metrics().refused_requests.get_or_create(&[("reason", "size")]).get(), 1);
}

#[tokio::test]
async fn names_of_ones_own_are_taken_from_the_budget() {
    // Of which anonymous streams have a quarter.
    let options = Options { budget: Budget::of(1 << 20), ..Options::default() };
    let server = Server::start_with(options, Caller::Anonymous, small_mesh()).await;
    let names = (0..150).map(|number| format!("n{number}")).collect::<Vec<_>>();
    let ask = async || {
        let mut client = DeltaClient::connect(server.address).await;
        client.open(Endpoint, &names.iter().map(String::as_str).collect::<Vec<_>>(), &[]);
        client.receive().await.map(|_| client)
    };
    let client = ask().await.unwrap();
    assert_eq!(ask().await.err().unwrap().code(), Code::ResourceExhausted);
    drop(client);
    // What the first had is given back when its stream has ended.
    let again = async || {
        while ask().await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), again()).await.unwrap();
}

#[tokio::test]
async fn a_client_that_does_not_read_is_behind_by_one_difference() {
    let large = |content: u64| Resource { body: vec![content as u8; 400_000].into(), ..endpoint("a", content) };
    let server = Server::start(SETTINGS, vec![large(1)]).await;
    let mut client = DeltaClient::connect(server.address).await;
    client.open(Endpoint, &["a"], &[]);
    for content in 2..60 {
        server.set(vec![large(content)]);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let mut read = 1;
    while client.next().await.resources[0].version != endpoint("a", 59).version.to_string() {
        read += 1;
    }
    assert!(read < 20, "{read} of 59 states were sent to a client that did not read");
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_not_waited_for_for_ever() {
    let large = |content: u64| Resource { body: vec![content as u8; 400_000].into(), ..endpoint("a", content) };
    let options = Options { take_time: Duration::from_millis(300), ..Options::default() };
    let server = Server::start_with(options, Caller::Anonymous, vec![large(1)]).await;
    let mut client = DeltaClient::connect(server.address).await;
    client.open(Endpoint, &["a"], &[]);
    client.next().await;
    // While it takes what there is, and while there is nothing newer, it is waited for.
    tokio::time::sleep(Duration::from_millis(600)).await;
    for content in 2..60 {
        server.set(vec![large(content)]);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let gone = async || {
        while !server.status().is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), gone()).await.expect("nothing is kept for it");
    let mut ended = async || loop {
        if let Err(status) = client.receive().await {
            return status.code();
        }
    };
    assert_eq!(tokio::time::timeout(Duration::from_secs(10), ended()).await.unwrap(), Code::DeadlineExceeded);
}

async fn connected(mesh: Vec<Resource>) -> (Server, DeltaClient) {
    let server = Server::start(SETTINGS, mesh).await;
    let mut client = DeltaClient::connect(server.address).await;
    for (kind, names) in [(Cluster, &[][..]), (Endpoint, &["a", "b"]), (Listener, &[]), (Route, &["r"])] {
        client.open(kind, names, &[]);
        assert_eq!(client.take().await.0, kind);
    }
    (server, client)
}

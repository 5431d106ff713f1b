//! State of the world.

use envoy_types::pb::envoy::{config::endpoint::v3::ClusterLoadAssignment, service::discovery::v3::DiscoveryResponse};
use istiod_lite::xds::{
    resource::Resource,
    resource_type::ResourceType::{self, Cluster, Endpoint, ExtensionConfig, Listener, Route},
};
use prost::Message;

use super::{
    client::SotwClient,
    server::{SETTINGS, Server, cluster, endpoint, extension, listener, route},
};

fn small_mesh() -> Vec<Resource> {
    vec![cluster("a", 1), cluster("b", 1), endpoint("a", 1), endpoint("b", 1), listener("l", 1, &[]), route("r", 1, &["a", "b"])]
}

/// Returns a connected client and, by type, what it was sent first.
async fn connected(mesh: Vec<Resource>) -> (Server, SotwClient, Vec<DiscoveryResponse>) {
    let server = Server::start(SETTINGS, mesh).await;
    let mut client = SotwClient::connect(server.address).await;
    let mut first = Vec::new();
    for (kind, names) in [(Cluster, &[][..]), (Endpoint, &["a", "b"]), (Listener, &[]), (Route, &["r"])] {
        client.open(kind, names, "");
        let response = client.next().await;
        assert_eq!(response.type_url, kind.type_url());
        client.ack(&response, names);
        first.push(response);
    }
    (server, client, first)
}

fn kind(response: &DiscoveryResponse) -> ResourceType {
    ResourceType::from_type_url(&response.type_url).unwrap()
}

#[tokio::test]
async fn an_ack_has_no_answer_and_a_reconnect_with_the_same_is_silent() {
    let (server, mut client, first) = connected(small_mesh()).await;
    assert_eq!(first.iter().map(|response| response.resources.len()).collect::<Vec<_>>(), [2, 2, 1, 1]);
    client.silent().await;
    assert_eq!(server.status()[0].current, 1);

    let mut again = SotwClient::connect(server.address).await;
    for (response, names) in first.iter().zip([&[][..], &["a", "b"], &[], &["r"]]) {
        again.open(kind(response), names, &response.version_info);
    }
    again.silent().await;
    // The same version with other names is not the same.
    let mut other = SotwClient::connect(server.address).await;
    other.open(Endpoint, &["a"], &first[1].version_info);
    assert_eq!(other.next().await.resources.len(), 1);
}

#[tokio::test]
async fn a_cluster_changed_while_away_is_followed_by_its_unchanged_endpoints() {
    let (server, mut stayed, first) = connected(small_mesh()).await;
    let mut changed = small_mesh();
    changed[0] = cluster("a", 2);
    server.set(changed);
    assert_eq!((kind(&stayed.next().await), kind(&stayed.next().await)), (Cluster, Endpoint));
    let mut client = SotwClient::connect(server.address).await;
    client.open(Cluster, &[], &first[0].version_info);
    client.open(Endpoint, &["a", "b"], &first[1].version_info);
    let clusters = client.next().await;
    assert_eq!((kind(&clusters), clusters.resources.len()), (Cluster, 2));
    let endpoints = client.next().await;
    assert_eq!((kind(&endpoints), endpoints.resources.len()), (Endpoint, 2));
    client.silent().await;
    // One for the client that stayed and is known to lack one, two for the client that came back.
    assert_eq!(server.resources_sent(Endpoint, "warming"), 3);
}

#[tokio::test]
async fn a_client_that_subscribes_in_parts_is_sent_the_parts() {
    let server = Server::start(SETTINGS, small_mesh()).await;
    let mut client = SotwClient::connect(server.address).await;
    client.open(Endpoint, &["a"], "");
    let one = client.next().await;
    assert_eq!(one.resources.len(), 1);
    client.ack(&one, &["a", "b"]);
    let two = client.next().await;
    assert_eq!(two.resources, [any(&endpoint("b", 1))]);
    assert_ne!(one.version_info, two.version_info);
    client.ack(&two, &["a", "b"]);
    client.ack(&two, &["b"]);
    client.silent().await;
    client.ack(&two, &["a", "b"]);
    assert_eq!(client.next().await.resources, [any(&endpoint("a", 1))]);
}

#[tokio::test]
async fn a_stale_request_acknowledges_nothing_and_its_new_names_are_answered_once() {
    let (server, mut client, first) = connected(small_mesh()).await;
    let mut changed = small_mesh();
    changed[2] = endpoint("a", 2);
    server.set(changed);
    let second = client.next().await;
    client.ack(&first[1], &["a", "b"]);
    client.silent().await;
    assert_eq!(server.status()[0].current, 1);
    client.ack(&second, &["a", "b"]);
    client.silent().await;
    assert_eq!(server.status()[0].current, 2);
}

#[tokio::test]
async fn missing_endpoints_and_tables_are_answered_as_empty() {
    let server = Server::start(SETTINGS, small_mesh()).await;
    let mut client = SotwClient::connect(server.address).await;
    client.open(Endpoint, &["none"], "");
    let response = client.next().await;
    let assignment = ClusterLoadAssignment::decode(&response.resources[0].value[..]).unwrap();
    assert_eq!((assignment.cluster_name.as_str(), assignment.endpoints.len()), ("none", 0));
    client.open(Route, &["none"], "");
    let tables = client.next().await;
    assert_eq!((kind(&tables), tables.resources.len()), (Route, 1));
    client.ack(&response, &["none"]);
    client.ack(&tables, &["none"]);
    client.silent().await;
    server.set(vec![route("none", 1, &[])]);
    assert_eq!(client.next().await.resources, [any(&route("none", 1, &[]))]);
}

#[tokio::test]
async fn a_filter_is_replaced_alone_and_its_removal_is_not_told() {
    let mesh = |content| vec![extension("f", content, &[]), extension("g", 1, &[])];
    let server = Server::start(SETTINGS, mesh(1)).await;
    let mut client = SotwClient::connect(server.address).await;
    client.open(ExtensionConfig, &["f", "g"], "");
    let first = client.next().await;
    assert_eq!(first.resources.len(), 2);
    client.ack(&first, &["f", "g"]);
    server.set(mesh(2));
    let second = client.next().await;
    assert_eq!(second.resources, [any(&mesh(2)[0])]);
    client.ack(&second, &["f", "g"]);
    server.set(Vec::new());
    client.silent().await;
}

#[tokio::test]
async fn a_backend_is_replaced_with_old_and_new_together() {
    let (server, mut client, _) = connected(small_mesh()).await;
    let mut changed = small_mesh();
    changed[0] = cluster("c", 1);
    changed[2] = endpoint("c", 1);
    changed[5] = route("r", 2, &["b", "c"]);
    server.set(changed);
    let both = client.next().await;
    assert_eq!(both.resources, [any(&cluster("a", 1)), any(&cluster("b", 1)), any(&cluster("c", 1))]);
    // "b" is repeated in it, but not new.
    client.silent().await;
    client.ack(&both, &[]);
    let routes = client.next().await;
    assert_eq!(routes.resources, [any(&route("r", 2, &[]))]);
    client.silent().await;
    client.ack(&routes, &["r"]);
    let last = client.next().await;
    assert_eq!(last.resources, [any(&cluster("b", 1)), any(&cluster("c", 1))]);
    assert_ne!(last.version_info, both.version_info);
}

#[tokio::test]
async fn a_refused_content_is_not_repeated_and_the_rest_goes_on() {
    let (server, mut client, _) = connected(small_mesh()).await;
    let mut changed = small_mesh();
    changed[0] = cluster("a", 666);
    server.set(changed.clone());
    let refused = client.next().await;
    assert_eq!(refused.resources, [any(&cluster("a", 666)), any(&cluster("b", 1))]);
    client.nack(&refused, &[], "Error adding/updating cluster(s) a: no");
    let endpoints = client.next().await;
    assert_eq!(kind(&endpoints), Endpoint);
    client.ack(&endpoints, &["a", "b"]);
    client.silent().await;
    changed[1] = cluster("b", 2);
    server.set(changed);
    assert_eq!(client.next().await.resources, [any(&cluster("a", 1)), any(&cluster("b", 2))]);
}

fn any(resource: &Resource) -> envoy_types::pb::google::protobuf::Any {
    envoy_types::pb::google::protobuf::Any { type_url: resource.kind.type_url().into(), value: resource.body.to_vec() }
}

//! Incremental xDS.

use istiod_lite::xds::resource::ResourceType::{Cluster, Endpoint, Listener, Route};

use super::{
    client::DeltaClient,
    server::{SETTINGS, Server, cluster, endpoint, listener, route},
};

fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

fn small_mesh() -> Vec<istiod_lite::xds::resource::Resource> {
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

//! Callers that ask for the whole of their own configuration again and again, which is long: others are answered all the same.

use std::time::Duration;

use envoy_types::pb::envoy::{
    config::core::v3::Node,
    service::discovery::v3::{DiscoveryRequest, aggregated_discovery_service_client::AggregatedDiscoveryServiceClient},
};
use harness::http_client::get_text;
use istiod_lite::xds::resource_type::ResourceType::Cluster;
use tokio::{sync::mpsc, task::JoinSet, time::sleep};
use tokio_stream::wrappers::ReceiverStream;

use super::{
    good::{GoodClient, NODE},
    requests::metric,
    stage::{Stage, services},
};

/// How much longer a good call may take beside them.
const RATIO: f64 = 6.0;
/// How many ask at the same time.
const CALLERS: usize = 16;
/// What all dumps under way may add to memory: a part of the budget.
const MEMORY: u64 = 256 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dumps_of_a_large_configuration_keep_nobody_waiting() {
    let stage = Stage::of_mesh(&services(500), &[]).await;
    let quiet = stage.good().measure().await.unwrap();
    let idle = stage.cost().resident;
    stage.forget_peak();
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let (good, monitoring) = (stage.good(), stage.monitoring());
        callers.spawn(async move {
            loop {
                let _ = match caller % 2 {
                    0 => dump(&good).await,
                    _ => get_text(monitoring, "/debug/config_dump?proxyID=client-1.shop").await.map(drop).map_err(|_| ()),
                };
                sleep(Duration::from_millis(5)).await;
            }
        });
    }
    sleep(Duration::from_secs(1)).await;
    let beside = stage.good().measure().await.unwrap_or_else(|error| panic!("{error:#}\n{}", stage.log()));
    // Whoever watches it sees it meanwhile.
    let turn = metric(&stage, "istiod_lite_xds_largest_turn").await;
    callers.shutdown().await;
    beside.assert_within(RATIO, &quiet, &format!("{CALLERS} callers that ask for dumps of 500 services"));
    let added = stage.cost().peak.saturating_sub(idle);
    println!("{} MB added; the longest turn looked at {turn} names", added >> 20);
    assert!(added < MEMORY, "{} MB added", added >> 20);
}

/// Connects as a proxy, and asks for what that proxy has.
async fn dump(good: &GoodClient) -> Result<(), ()> {
    let channel = good.secure_channel().await.map_err(drop)?;
    let (requests, stream) = mpsc::channel(4);
    let node = || Some(Node { id: NODE.into(), ..Node::default() });
    let request = DiscoveryRequest { node: node(), type_url: Cluster.type_url().into(), ..DiscoveryRequest::default() };
    requests.send(request).await.map_err(drop)?;
    let call = good.with_token(ReceiverStream::new(stream));
    let mut client = AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(64 << 20);
    let mut responses = client.stream_aggregated_resources(call).await.map_err(drop)?.into_inner();
    responses.message().await.map_err(drop)?;
    let asked = DiscoveryRequest {
        node: node(),
        type_url: "istio.io/debug/config_dump".into(),
        resource_names: vec!["client-1.shop".into()],
        ..DiscoveryRequest::default()
    };
    requests.send(asked).await.map_err(drop)?;
    responses.message().await.map(drop).map_err(drop)
}

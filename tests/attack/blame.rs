//! Callers that are not the proxy that they say they are, and refusals of such that have proven nothing: nobody's object is blamed.

use envoy_types::pb::{
    envoy::{
        config::core::v3::Node,
        service::discovery::v3::{DiscoveryRequest, aggregated_discovery_service_client::AggregatedDiscoveryServiceClient},
    },
    google::{
        protobuf::{Struct, Value, value::Kind},
        rpc,
    },
};
use harness::{http_client::get_text, mesh::CONVERGE, wait};
use istiod_lite::xds::resource_type::ResourceType::Cluster;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, transport::Channel};

use super::stage::{Stage, services};

const CLUSTER: &str = "outbound|80||svc-0.shop.svc.cluster.local";

type Requests = ReceiverStream<DiscoveryRequest>;

/// Asks for clusters as this node and refuses whatever comes in these words, until the stream ends: after the first answer unless it
/// `stays`.
pub(crate) async fn refuse(
    channel: &Channel,
    call: impl FnOnce(Requests) -> Request<Requests>,
    node: Node,
    message: &str,
    stays: bool,
) -> Result<(), Status> {
    let (requests, stream) = mpsc::channel(4);
    let mut requests = Some(requests);
    let first = DiscoveryRequest { node: Some(node), type_url: Cluster.type_url().into(), ..DiscoveryRequest::default() };
    say(&requests, first.clone()).await;
    let mut client = AggregatedDiscoveryServiceClient::new(channel.clone());
    let mut responses = client.stream_aggregated_resources(call(ReceiverStream::new(stream))).await?.into_inner();
    while let Some(response) = responses.message().await? {
        let error_detail = Some(rpc::Status { code: 13, message: message.into(), ..rpc::Status::default() });
        say(&requests, DiscoveryRequest { response_nonce: response.nonce, error_detail, ..first.clone() }).await;
        requests = requests.filter(|_| stays);
    }
    Ok(())
}

async fn say(requests: &Option<mpsc::Sender<DiscoveryRequest>>, request: DiscoveryRequest) {
    if let Some(requests) = requests {
        // Nobody listens where the stream has ended.
        let _ = requests.send(request).await;
    }
}

/// Returns a node that says of itself that it is in this namespace.
pub(crate) fn node(id: &str, namespace: &str) -> Node {
    let text = Value { kind: Some(Kind::StringValue(namespace.into())) };
    let metadata = Struct { fields: [("NAMESPACE".to_owned(), text)].into() };
    Node { id: id.into(), metadata: Some(metadata), ..Node::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_a_proxy_of_another_namespace_by_its_name() {
    let stage = Stage::start().await;
    let good = stage.good();
    let (plain, secure) = (good.plain_channel().await.unwrap(), good.secure_channel().await.unwrap());
    let named = |namespace: &str| format!("sidecar~10.9.9.9~client.{namespace}~{namespace}.svc.cluster.local");
    let ours = "sidecar~10.9.9.9~client.bank~shop.svc.cluster.local";
    // By the id, by what it says, and by both: with a token of shop, and without any.
    for node in [node(&named("bank"), "shop"), node(ours, "shop"), node(&named("shop"), "bank"), node(&named("bank"), "bank")] {
        let agree = node.id == named("bank") && node.metadata == self::node("", "bank").metadata;
        let refused = refuse(&secure, |requests| good.with_token(requests), node.clone(), "no", false).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{node:?}");
        let plain = refuse(&plain, Request::new, node.clone(), "no", false).await;
        assert_eq!(plain.map_err(|status| status.code()), if agree { Ok(()) } else { Err(Code::PermissionDenied) }, "{node:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_of_callers_who_have_proven_nothing_blame_no_object() {
    let stage = Stage::of_mesh(&services(3), &[]).await;
    let good = stage.good();
    let words = format!("Error adding/updating cluster(s) {CLUSTER}: I do not like it");
    let id = "sidecar~10.9.9.9~client-7.shop~shop.svc.cluster.local";
    let refused_objects = async || {
        let metrics = get_text(stage.monitoring(), "/metrics").await.unwrap();
        metrics.lines().filter(|line| line.starts_with("istiod_lite_xds_refused_objects") && !line.ends_with(" 0")).count()
    };
    let told = async || get_text(stage.monitoring(), "/debug/diagnostics").await.unwrap().contains("proxies refuse");
    let plain = good.plain_channel().await.unwrap();
    let anonymous = tokio::spawn({
        let words = words.clone();
        async move { refuse(&plain, Request::new, node(id, "shop"), &words, true).await }
    });
    wait::until("the refusal", CONVERGE, async || {
        let log = stage.log();
        anyhow::ensure!(log.contains("the proxy refused configuration") && log.contains("I do not like it"), "none is logged");
        Ok(())
    })
    .await
    .unwrap();
    assert!(refused_objects().await == 0 && !told().await, "an object is blamed by somebody who may be anybody");
    // Who has proven it may.
    let secure = good.secure_channel().await.unwrap();
    let proven = tokio::spawn({
        let (good, words) = (good.clone(), words.clone());
        async move { refuse(&secure, |requests| good.with_token(requests), node(id, "shop"), &words, true).await }
    });
    wait::until("the object is blamed", CONVERGE, async || {
        anyhow::ensure!(refused_objects().await > 0 && told().await, "it is not");
        Ok(())
    })
    .await
    .unwrap();
    anonymous.abort();
    proven.abort();
}

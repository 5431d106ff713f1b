//! Floods of whole requests, and of answers that nobody reads or acknowledges: what all of them may have the process hold is
//! bounded, whoever means well is answered meanwhile, and whoever is refused is told so and counted.

use std::{collections::BTreeMap, time::Duration};

use envoy_types::pb::envoy::{
    config::core::v3::Node,
    service::discovery::v3::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    },
};
use harness::http_client::get_text;
use http::{Request, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::handshake;
use hyper_util::rt::{TokioExecutor, TokioIo};
use istiod_lite::xds::resource_type::ResourceType::{Cluster, Endpoint, Listener};
use tokio::{sync::mpsc, task::JoinSet, time::sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use super::{
    good::{GoodClient, NODE, tls},
    memory::{CERTIFICATE, LIMIT, MOST, STREAM, ask, encrypted, endless, plain, unfinished},
    reviews::{pod, review, virtual_service},
    stage::{Stage, services},
};

/// How much longer a good call may take beside a flood.
const RATIO: f64 = 10.0;
/// How long what was sent is held.
const HELD: Duration = Duration::from_secs(3);

/// A stage, and what its process has in memory when the good client was answered and it rests.
async fn rested(mesh: &str) -> (Stage, u64) {
    let stage = Stage::of_mesh(mesh, &LIMIT).await;
    stage.good().measure().await.unwrap();
    let idle = stage.cost().resident;
    stage.forget_peak();
    (stage, idle)
}

#[track_caller]
fn assert_bounded(stage: &Stage, idle: u64, flood: &str) {
    let added = stage.cost().peak.saturating_sub(idle);
    println!("{flood}: {} MB added", added >> 20);
    assert!(added < MOST, "{flood}: {} MB added", added >> 20);
}

/// Returns how often callers were refused since there was no memory for them, by purpose.
async fn refusals(stage: &Stage, purpose: &str) -> u64 {
    let text = get_text(stage.monitoring(), "/metrics").await.unwrap();
    let prefix = format!("istiod_lite_budget_refusals{{purpose=\"{purpose}\"");
    let lines = text.lines().filter(|line| line.starts_with(&prefix));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_reviews_of_three_megabytes() {
    let (stage, idle) = rested(&services(3)).await;
    let objects = [("/inject", pod("containers", r#"{"name":"a"},"#)), ("/validate", virtual_service("http", r#"{"":0},"#))];
    let bodies = objects.map(|(path, object)| (path, bytes::Bytes::from(review(&object, "null"))));
    let mut flood = JoinSet::new();
    for connection in 0..8 {
        let stream = TokioIo::new(tls(stage.webhooks(), &stage.root(), "h2").await.unwrap());
        let (sender, driver) = handshake(TokioExecutor::new(), stream).await.unwrap();
        tokio::spawn(driver);
        for _ in 0..40 {
            let (mut sender, (path, body)) = (sender.clone(), bodies[connection % 2].clone());
            flood.spawn(async move {
                let request = Request::post(format!("https://istiod{path}")).header(CONTENT_TYPE, "application/json");
                let answer = sender.send_request(request.body(Full::new(body)).unwrap()).await;
                let status = answer.as_ref().map_or(0, |answer| answer.status().as_u16());
                if let Ok(answer) = answer {
                    let _ = answer.into_body().collect().await;
                }
                status
            });
        }
    }
    sleep(HELD).await;
    // Small reviews have turns and memory of their own.
    stage.good().measure().await.unwrap_or_else(|error| panic!("{error:#}\n{}", stage.log()));
    let mut statuses = BTreeMap::<u16, usize>::new();
    while let Some(status) = flood.join_next().await {
        *statuses.entry(status.unwrap()).or_default() += 1;
    }
    println!("{statuses:?}");
    assert_bounded(&stage, idle, "320 reviews of 3 MB at once");
    assert!(statuses.keys().all(|status| matches!(status, 200 | 503)) && statuses.contains_key(&200), "{statuses:?}");
    assert!(!statuses.contains_key(&503) || refusals(&stage, "reviews").await > 0);
}

/// Of what waits for memory, the beginning is here already: as much as may come unread.
#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_reviews_that_wait() {
    let (stage, idle) = rested(&services(3)).await;
    // As long as what may come unread, so that all of it is here before any of it is paid for.
    let containers = [r#"{"name":"a"}"#; 4_500].join(",");
    let pod = format!(r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"a"}},"spec":{{"containers":[{containers}]}}}}"#);
    let body = bytes::Bytes::from(review(&pod, "null"));
    assert!(body.len() < 64 << 10);
    let mut flood = JoinSet::new();
    for _ in 0..600 {
        let Ok(stream) = tls(stage.webhooks(), &stage.root(), "h2").await else { continue };
        let Ok((sender, driver)) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await else { continue };
        tokio::spawn(driver);
        for _ in 0..16 {
            let (mut sender, body) = (sender.clone(), body.clone());
            flood.spawn(async move {
                let request = Request::post("https://istiod/inject").header(CONTENT_TYPE, "application/json");
                let answer = sender.send_request(request.body(Full::new(body)).unwrap()).await;
                answer.map_or(0, |answer| answer.status().as_u16())
            });
        }
    }
    sleep(HELD).await;
    stage.good().measure().await.unwrap_or_else(|error| panic!("{error:#}\n{}", stage.log()));
    let mut statuses = BTreeMap::<u16, usize>::new();
    while let Some(status) = flood.join_next().await {
        *statuses.entry(status.unwrap()).or_default() += 1;
    }
    println!("{statuses:?}");
    assert_bounded(&stage, idle, "9,600 reviews of 60 kB on 600 connections");
    assert!(statuses.contains_key(&503) && refusals(&stage, "reviews").await > 0, "{statuses:?}");
}

fn node() -> Node {
    Node { id: NODE.into(), ..Node::default() }
}

fn long_names(count: usize, length: usize, mark: usize) -> Vec<String> {
    (0..count).map(|number| format!("o{number:06}-{mark:03}{}", "o".repeat(length - 11))).collect()
}

/// Both directions of a stream, which keep it open.
type Held = (mpsc::Sender<DeltaDiscoveryRequest>, Streaming<DeltaDiscoveryResponse>);

/// Opens a stream, sends requests one after the other, and reads what is said, until it is refused or there is nothing more. Returns
/// the stream, so that what it holds is held.
async fn say(good: GoodClient, is_proven: bool, requests: Vec<DeltaDiscoveryRequest>) -> Result<Held, Code> {
    let channel = if is_proven { good.secure_channel().await } else { good.plain_channel().await };
    let channel = channel.map_err(|_| Code::Unavailable)?;
    let (sender, stream) = mpsc::channel(1);
    let mut call = tonic::Request::new(ReceiverStream::new(stream));
    if is_proven {
        call.metadata_mut().insert("authorization", format!("Bearer {}", good.token).parse().unwrap());
    }
    let mut client = AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(64 << 20);
    let mut responses = client.delta_aggregated_resources(call).await.map_err(|status| status.code())?.into_inner();
    for request in requests {
        if sender.send(request).await.is_err() {
            break;
        }
        loop {
            match tokio::time::timeout(Duration::from_secs(2), responses.message()).await {
                Ok(Ok(Some(_))) => {}
                Ok(Ok(None)) => return Err(Code::Ok),
                Ok(Err(status)) => return Err(status.code()),
                Err(_) => break,
            }
        }
    }
    Ok((sender, responses))
}

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_first_requests_of_four_megabytes_and_names_of_many_types() {
    let (stage, idle) = rested(&services(3)).await;
    let mut flood = JoinSet::new();
    for number in 0..200 {
        let of = |kind: &str, mark: usize| DeltaDiscoveryRequest {
            node: Some(node()),
            type_url: kind.into(),
            resource_names_subscribe: long_names(1_000, 3_800, mark),
            ..DeltaDiscoveryRequest::default()
        };
        let mut requests = vec![of(Endpoint.type_url(), number)];
        requests.extend((0..6).map(|other| of(&format!("type.googleapis.com/other.{other}"), number)));
        flood.spawn(say(stage.good(), number % 2 == 1, requests));
        sleep(Duration::from_millis(20)).await;
    }
    let (mut held, mut refused) = (Vec::new(), BTreeMap::<String, usize>::new());
    while let Some(said) = flood.join_next().await {
        match said.unwrap() {
            Ok(stream) => held.push(stream),
            Err(code) => *refused.entry(format!("{code:?}")).or_default() += 1,
        }
    }
    println!("{} held, refused {refused:?}", held.len());
    assert_bounded(&stage, idle, "200 streams with names of 4 MB");
    assert!(refused.contains_key("ResourceExhausted"), "{refused:?}");
    assert!(refusals(&stage, "messages").await + refusals(&stage, "streams").await > 0);
    // Who has proven nothing is refused before who has; these all hold what they have.
    stage.good().ready().await.unwrap();
    stage.good().review().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_reads_or_acknowledges() {
    let (stage, idle) = rested(&services(500)).await;
    let mut flood = JoinSet::new();
    let mut channels = Vec::new();
    for _ in 0..8 {
        channels.push((stage.good().plain_channel().await.unwrap(), stage.good().secure_channel().await.unwrap()));
    }
    for number in 0..800 {
        let is_proven = number % 2 == 1;
        let (plain, secure) = &channels[number / 2 % channels.len()];
        let (channel, token) = (if is_proven { secure } else { plain }.clone(), stage.token());
        flood.spawn(async move {
            let (sender, stream) = mpsc::channel(4);
            let mut call = tonic::Request::new(ReceiverStream::new(stream));
            if is_proven {
                call.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
            }
            for kind in [Cluster, Listener] {
                let request = DeltaDiscoveryRequest { node: Some(node()), type_url: kind.type_url().into(), ..Default::default() };
                let _ = sender.send(request).await;
            }
            let Ok(responses) = AggregatedDiscoveryServiceClient::new(channel).delta_aggregated_resources(call).await else { return };
            let mut responses = responses.into_inner();
            // Every other one reads, and answers nothing.
            let reads = number % 4 < 2;
            while reads && matches!(responses.message().await, Ok(Some(_))) {}
            std::future::pending::<()>().await;
        });
    }
    for change in 0..10 {
        stage.write(&services(400 + change * 20));
        sleep(Duration::from_millis(500)).await;
    }
    assert_bounded(&stage, idle, "800 streams that are not read or not acknowledged, and 10 changes");
    stage.good().ready().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_of_requests_and_requests_for_certificates_that_never_end() {
    let (stage, idle) = rested(&services(3)).await;
    let quiet = stage.good().measure().await.unwrap();
    let mut flood = JoinSet::new();
    for connection in 0..16 {
        let sender = if connection % 4 == 0 { plain(&stage).await } else { encrypted(&stage).await };
        for number in 0..900 {
            match connection % 4 {
                // Heads of 15 kB of streams that say nothing, and of callers who are nobody.
                0 | 1 => {
                    let (mut sender, pad) = (sender.clone(), format!("{number:05}").repeat(700));
                    flood.spawn(async move {
                        let mut request = Request::post(format!("http://istiod{STREAM}")).header(CONTENT_TYPE, "application/grpc");
                        for name in ["a", "b", "c", "d"] {
                            request = request.header(name, &pad);
                        }
                        let request = request.header("authorization", "Bearer x.y.z");
                        if let Ok(answer) = sender.send_request(request.body(endless(futures::stream::empty())).unwrap()).await {
                            let _ = answer.into_body().collect().await;
                        }
                    });
                }
                _ => {
                    flood.spawn(ask(sender.clone(), CERTIFICATE, Some(stage.token()), unfinished(60 << 10, 59 << 10)));
                }
            }
        }
    }
    sleep(HELD).await;
    let beside = stage.good().measure().await.unwrap_or_else(|error| panic!("{error:#}\n{}", stage.log()));
    beside.assert_within(RATIO, &quiet, "14,400 requests that do not end");
    assert_bounded(&stage, idle, "14,400 requests that do not end");
    assert!(refusals(&stage, "requests").await > 0);
}

//! Everything at once on the ports for proxies: handshakes that do not go on, streams of proven callers that say nothing more, tokens
//! that are none, and requests for certificates as large as can be. Whoever means well waits no longer than at an instance that is left
//! alone, but for what the machine itself adds, and memory stays where it is.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use anyhow::ensure;
use envoy_types::pb::envoy::{
    config::core::v3::Node,
    service::discovery::v3::{DiscoveryRequest, aggregated_discovery_service_client::AggregatedDiscoveryServiceClient},
};
use harness::wait;
use istiod_lite::{
    proto::auth::{IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient},
    xds::resource_type::ResourceType,
};
use rcgen::{CertificateParams, KeyPair};
use tokio::{
    io::{AsyncWriteExt, copy, sink},
    time::{Duration, sleep},
};
use tokio_stream::wrappers::ReceiverStream;

use super::{
    crowd::{Crowd, as_many_as_allowed},
    good::{GoodClient, NODE},
    stage::{Stage, connect_from, services},
};

/// How much longer the slowest in a hundred calls may take than at an instance that is left alone: this machine has the callers'
/// work, too. A port that is locked answers after ten seconds, or never.
const RATIO: f64 = 20.0;
/// How often the good client makes each call.
const CALLS: usize = 100;
/// How many proven callers have a stream that is idle.
const STREAMS: usize = 300;
/// How many callers ask for certificates again and again: one half with tokens that are none, the other with requests that are huge.
const ASKING: usize = 60;
/// How often each of them asks on one connection.
const EACH: usize = 5;
/// How long their streams may take to be served.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long the flood is there before it is measured beside.
const GATHERED: Duration = Duration::from_secs(3);
/// The memory that the process is told it may take. What callers may have it hold is a part of that.
const LIMIT: [&str; 2] = ["--memory-limit", "1Gi"];

/// Returns a request for a certificate that is as large as it may be, and one that is far beyond.
fn huge_requests() -> [Arc<str>; 2] {
    [150, 3_000].map(|names| {
        let names: Vec<String> = (0..names).map(|number| format!("{number:06}{}.example.com", "a".repeat(50))).collect();
        let request = CertificateParams::new(names).unwrap().serialize_request(&KeyPair::generate().unwrap());
        request.unwrap().pem().unwrap().into()
    })
}

/// Asks for certificates on one connection. Whatever is answered, the attack goes on.
async fn ask(good: &GoodClient, token: &str, csr: &str) {
    let Ok(channel) = good.secure_channel().await else { return };
    let mut client = IstioCertificateServiceClient::new(channel);
    for _ in 0..EACH {
        let mut request = tonic::Request::new(IstioCertificateRequest { csr: csr.into(), validity_duration: 3600, metadata: None });
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        let _ = client.create_certificate(request).await;
    }
}

/// Opens a stream, takes the first answer, counts itself among those that have one, and says nothing until it is ended.
async fn idle(good: &GoodClient, served: &AtomicUsize) {
    let request = DiscoveryRequest {
        node: Some(Node { id: NODE.into(), ..Node::default() }),
        type_url: ResourceType::Cluster.type_url().into(),
        ..DiscoveryRequest::default()
    };
    let (requests, stream) = tokio::sync::mpsc::channel(1);
    let _ = requests.send(request).await;
    let Ok(channel) = good.secure_channel().await else { return };
    let mut client = AggregatedDiscoveryServiceClient::new(channel);
    let Ok(responses) = client.stream_aggregated_resources(good.with_token(ReceiverStream::new(stream))).await else { return };
    let mut responses = responses.into_inner();
    let mut is_first = true;
    while matches!(responses.message().await, Ok(Some(_))) {
        served.fetch_add(usize::from(std::mem::take(&mut is_first)), SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_at_once_leaves_good_callers_their_time_and_memory_where_it_is() {
    let stage = Stage::of_mesh(&services(300), &LIMIT).await;
    let alone = Stage::beside(&stage, &services(300)).await;
    let half_open = as_many_as_allowed();
    let good = stage.good();
    // To the process these are proxies like others, and what it holds for them is what it holds for these.
    let served = Arc::<AtomicUsize>::default();
    let streams = Crowd::gather(&stage, STREAMS, {
        let (good, served) = (good.clone(), Arc::clone(&served));
        move |_, _| {
            let (good, served) = (good.clone(), Arc::clone(&served));
            async move { idle(&good, &served).await }
        }
    });
    wait::until("idle streams", PATIENCE, || async {
        let served = served.load(SeqCst);
        ensure!(served >= STREAMS, "{served} of {STREAMS}");
        Ok(())
    })
    .await
    .unwrap();
    good.measure().await.unwrap();
    let before = stage.cost().resident;
    stage.forget_peak();
    let (secure, plain) = (stage.secure_grpc(), stage.plain_grpc());
    let handshakes = Crowd::gather(&stage, half_open, move |number, from| async move {
        let to = if number % 2 == 0 { secure } else { plain };
        if let Ok(mut stream) = connect_from(from, to).await {
            // The beginning of a handshake, and of HTTP/2.
            let _ = stream.write_all(if number % 2 == 0 { &[22, 3, 1] } else { b"PRI" }).await;
            let _ = copy(&mut stream, &mut sink()).await;
        }
    });
    let requests = huge_requests();
    assert!(requests[0].len() < 16 << 10 && requests[1].len() > 64 << 10, "{:?}", requests.each_ref().map(|request| request.len()));
    let asking = Crowd::gather(&stage, ASKING, {
        let good = good.clone();
        move |number, _| {
            let (good, request) = (good.clone(), Arc::clone(&requests[number / 2 % 2]));
            async move {
                let token = if number % 2 == 0 { "e30.e30.e30" } else { &good.token };
                ask(&good, token, &request).await;
            }
        }
    });
    sleep(GATHERED).await;
    let calls = good.slowest_beside(&alone.good(), CALLS).await;
    let [beside, quiet] = calls.unwrap_or_else(|error| panic!("{error:#}\n{:.20000}", stage.log()));
    let peak = stage.cost().peak;
    println!("{half_open} connections half open, {} MB before, {} MB at most", before >> 20, peak >> 20);
    beside.assert_within(RATIO, &quiet, "everything at once, the 99th of 100 calls");
    drop((handshakes, streams, asking));
    assert!(peak <= 2 * before, "{} MB before, {} MB at most", before >> 20, peak >> 20);
}

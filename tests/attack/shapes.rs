//! Proxies of as many shapes as wanted that come and go: what was made for them goes with them. Memory, series and what the next
//! change looks at are then what they were.
//!
//! `SHAPES` says how many come (2,000 without it).

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use envoy_types::pb::{
    envoy::{
        config::core::v3::{Locality, Node},
        service::discovery::v3::{
            DeltaDiscoveryRequest, DiscoveryRequest, aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
        },
    },
    google::{
        protobuf::{Struct, Value, value::Kind},
        rpc,
    },
};
use harness::{http_client::get_text, wait};
use istiod_lite::xds::resource_type::ResourceType::{Cluster, Listener};
use tokio::{
    sync::mpsc,
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::{
    good::{GoodClient, NODE},
    stage::{Stage, services},
};

/// How many come before anything is measured: memory is then as much as that many take at once.
const FIRST: usize = 300;
/// How many come after that, unless `SHAPES` says otherwise.
const USUAL: usize = 2_000;
/// How many are there at a time.
const AT_ONCE: usize = 16;
/// How much more memory there may be after all of them than after the first: what the allocator cannot give back.
const MEMORY: f64 = 1.1;
/// For how long what was made for a proxy is kept for one that comes back, and some more.
const KEPT: Duration = Duration::from_secs(7);
/// When memory that is free must have been given back: the allocator takes its time.
const GIVEN_BACK: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(30);
/// How the series of a type end.
const TYPES: [&str; 4] = [r#"{type="cds"}"#, r#"{type="eds"}"#, r#"{type="lds"}"#, r#"{type="rds"}"#];
/// The counters of what a change costs.
const COSTS: [&str; 6] = [
    "istiod_lite_visited",
    "istiod_lite_translated",
    "istiod_lite_values_recomputed",
    "istiod_lite_resources_changed",
    "istiod_lite_proxies_concerned",
    "istiod_lite_objects_applied",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_of_proxies_that_came_and_went() {
    let count = env::var("SHAPES").map_or(USUAL, |text| text.parse().unwrap());
    let stage = Stage::of_mesh(&services(10), &[]).await;
    let stays = stay(&stage).await;
    come_and_go(&stage, 0..FIRST).await;
    sleep(KEPT * 2).await;
    let (cost, all, resident) = (cost_of_a_change(&stage).await, series(&stage).await, stage.cost().resident);
    let (began, cpu) = (Instant::now(), stage.cost().cpu);
    come_and_go(&stage, FIRST..FIRST + count).await;
    println!("{count} shapes came and went in {:?}; CPU {:?}", began.elapsed(), stage.cost().cpu - cpu);
    sleep(KEPT).await;
    assert_eq!(cost_of_a_change(&stage).await, cost, "what a change costs");
    let now = series(&stage).await;
    assert!(now == all, "new: {:?}; gone: {:?}", now.difference(&all), all.difference(&now));
    let most = (resident as f64 * MEMORY) as u64;
    let given_back = || async {
        let now = stage.cost().resident;
        anyhow::ensure!(now <= most, "{} kB after {FIRST} shapes, {} kB after {count} more", resident >> 10, now >> 10);
        Ok(())
    };
    wait::until("memory is what it was", GIVEN_BACK, given_back).await.unwrap();
    println!(
        "{} kB after {FIRST}, {} kB after {count} more; peak {} kB",
        resident >> 10,
        stage.cost().resident >> 10,
        stage.cost().peak >> 10
    );
    println!("a change: {cost:?}; {} series", all.len());
    assert!(cost["istiod_lite_visited{what=\"proxies\"}"] > 0, "the one that stays is looked at: {cost:?}");
    stays.abort();
}

/// Connects a proxy that takes what it is sent and stays.
async fn stay(stage: &Stage) -> JoinHandle<()> {
    let good = stage.good();
    let channel = good.secure_channel().await.unwrap();
    let (requests, stream) = mpsc::channel(8);
    for kind in [Cluster, Listener] {
        let node = Some(Node { id: NODE.into(), ..Node::default() });
        requests.send(DeltaDiscoveryRequest { node, type_url: kind.type_url().into(), ..DeltaDiscoveryRequest::default() }).await.unwrap();
    }
    let call = good.with_token(ReceiverStream::new(stream));
    let mut responses = AggregatedDiscoveryServiceClient::new(channel).delta_aggregated_resources(call).await.unwrap().into_inner();
    tokio::spawn(async move {
        while let Ok(Some(response)) = responses.message().await {
            let answer =
                DeltaDiscoveryRequest { type_url: response.type_url, response_nonce: response.nonce, ..DeltaDiscoveryRequest::default() };
            let _ = requests.send(answer).await;
        }
    })
}

/// Lets proxies of these numbers come and go, some at a time, and waits until none is left.
async fn come_and_go(stage: &Stage, numbers: std::ops::Range<usize>) {
    let good = Arc::new(stage.good());
    let (next, end) = (Arc::new(AtomicUsize::new(numbers.start)), numbers.end);
    let mut visitors = JoinSet::new();
    for _ in 0..AT_ONCE {
        let (good, next) = (Arc::clone(&good), Arc::clone(&next));
        visitors.spawn(async move {
            let channels = [good.plain_channel().await.unwrap(), good.secure_channel().await.unwrap()];
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= end {
                    return;
                }
                let visit = Visitor { number, proven: number.is_multiple_of(8) };
                timeout(PATIENCE, visit.come(&good, &channels)).await.unwrap_or_else(|_| panic!("{number} is not answered"));
            }
        });
    }
    while let Some(ended) = visitors.join_next().await {
        ended.unwrap();
    }
    let gone = || async {
        let text = get_text(stage.monitoring(), "/metrics").await?;
        let open: f64 = samples(&text).filter(|(name, _)| name.starts_with("pilot_xds{")).map(|(_, value)| value).sum();
        anyhow::ensure!(open == 1.0, "{open} proxies");
        Ok(())
    };
    wait::until("all have gone", PATIENCE, gone).await.unwrap();
}

/// A proxy of a shape of its own that takes two types, or refuses them, and goes.
#[derive(Clone, Copy)]
struct Visitor {
    number: usize,
    /// Whether it has a token, which is one for `shop`.
    proven: bool,
}

impl Visitor {
    async fn come(self, good: &GoodClient, [plain, secure]: &[Channel; 2]) {
        let mut client = AggregatedDiscoveryServiceClient::new(if self.proven { secure } else { plain }.clone());
        if self.number.is_multiple_of(2) {
            let (requests, stream) = mpsc::channel(8);
            let call = self.call(good, stream);
            let mut responses = client.delta_aggregated_resources(call).await.unwrap().into_inner();
            for kind in [Cluster, Listener] {
                let request = || DeltaDiscoveryRequest { node: Some(self.node()), type_url: kind.type_url().into(), ..Default::default() };
                requests.send(request()).await.unwrap();
                let response = responses.message().await.unwrap().unwrap();
                let (response_nonce, error_detail) = (response.nonce, self.refusal());
                requests.send(DeltaDiscoveryRequest { response_nonce, error_detail, ..request() }).await.unwrap();
            }
        } else {
            let (requests, stream) = mpsc::channel(8);
            let call = self.call(good, stream);
            let mut responses = client.stream_aggregated_resources(call).await.unwrap().into_inner();
            for kind in [Cluster, Listener] {
                let request = || DiscoveryRequest { node: Some(self.node()), type_url: kind.type_url().into(), ..Default::default() };
                requests.send(request()).await.unwrap();
                let response = responses.message().await.unwrap().unwrap();
                let (response_nonce, error_detail) = (response.nonce, self.refusal());
                requests.send(DiscoveryRequest { response_nonce, error_detail, ..request() }).await.unwrap();
            }
        }
    }

    fn call<T>(self, good: &GoodClient, requests: mpsc::Receiver<T>) -> tonic::Request<ReceiverStream<T>> {
        let requests = ReceiverStream::new(requests);
        if self.proven { good.with_token(requests) } else { tonic::Request::new(requests) }
    }

    /// Says of itself what no other says: a name and an address, and in turn every other field that is read.
    fn node(self) -> Node {
        let number = self.number;
        let namespace = if self.proven { "shop".to_owned() } else { format!("ns-{number}") };
        let kind = if number.is_multiple_of(5) { "router" } else { "sidecar" };
        let domain =
            if number.is_multiple_of(7) { format!("{namespace}.svc.d{number}.example") } else { format!("{namespace}.svc.cluster.local") };
        let [high, low] = [(number >> 8) as u8, number as u8];
        let labels = Struct { fields: [("app".to_owned(), text(format!("app-{number}")))].into() };
        let own = match number % 11 {
            0 => ("IDLE_TIMEOUT", text(format!("{number}s"))),
            1 => ("LABELS", Value { kind: Some(Kind::StructValue(labels)) }),
            2 => ("CLUSTER_ID", text(format!("cluster-{number}"))),
            3 => ("NETWORK", text(format!("network-{number}"))),
            4 => ("NODE_NAME", text(format!("node-{number}"))),
            5 => ("HTTP_PROXY_PORT", text((20_000 + number % 40_000).to_string())),
            6 => ("ENVOY_STATUS_PORT", Value { kind: Some(Kind::NumberValue((20_000 + number % 40_000) as f64)) }),
            7 => ("POD_PORTS", text(format!(r#"[{{"name":"p","containerPort":{}}}]"#, 1 + number % 60_000))),
            8 => ("WORKLOAD_NAME", text(format!("workload-{number}"))),
            9 => ("MESH_ID", text(format!("mesh-{number}"))),
            _ => ("INTERCEPTION_MODE", text("TPROXY".to_owned())),
        };
        let said = [("NAMESPACE", text(namespace.clone())), ("ISTIO_VERSION", text(format!("1.{number}.0"))), own];
        Node {
            id: format!("{kind}~10.{}.{high}.{low}~visitor-{number}.{namespace}~{domain}", 20 + (number >> 16)),
            metadata: Some(Struct { fields: said.into_iter().map(|(name, value)| (name.to_owned(), value)).collect() }),
            locality: Some(Locality { region: format!("region-{number}"), zone: format!("zone-{number}"), ..Locality::default() }),
            extensions: Vec::new(),
            ..Node::default()
        }
    }

    /// Refuses what it is sent, if it is one of those that do.
    fn refusal(self) -> Option<rpc::Status> {
        let message = format!("Error adding/updating cluster(s) outbound|80||svc-0.shop.svc.cluster.local: of {}", self.number);
        self.number.is_multiple_of(3).then(|| rpc::Status { code: 13, message, ..rpc::Status::default() })
    }
}

fn text(text: String) -> Value {
    Value { kind: Some(Kind::StringValue(text)) }
}

/// Returns what a change of one object adds to the counters of cost.
async fn cost_of_a_change(stage: &Stage) -> BTreeMap<String, u64> {
    change(stage, 7).await;
    let before = costs(stage).await;
    change(stage, 8).await;
    let after = costs(stage).await;
    after.into_iter().map(|(name, value)| (name.clone(), value - before.get(&name).copied().unwrap_or_default())).collect()
}

/// Changes a DestinationRule, and waits until that is published.
async fn change(stage: &Stage, seconds: u32) {
    let before = batches(stage).await;
    let rule = format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: svc-1, namespace: shop}}\n\
         spec: {{host: svc-1, trafficPolicy: {{connectionPool: {{tcp: {{connectTimeout: {seconds}s}}}}}}}}\n"
    );
    stage.write_file("rule.yaml", &rule);
    let published = || async {
        anyhow::ensure!(batches(stage).await > before, "no batch");
        Ok(())
    };
    wait::until("the change", PATIENCE, published).await.unwrap();
    // What it cost is counted just after it is.
    sleep(Duration::from_millis(300)).await;
}

async fn batches(stage: &Stage) -> u64 {
    let text = get_text(stage.monitoring(), "/metrics").await.unwrap();
    samples(&text).find(|(name, _)| name.starts_with("istiod_lite_batches")).unwrap().1 as u64
}

async fn costs(stage: &Stage) -> BTreeMap<String, u64> {
    let text = get_text(stage.monitoring(), "/metrics").await.unwrap();
    let of_changes = samples(&text).filter(|(name, _)| COSTS.iter().any(|cost| name.starts_with(cost)));
    of_changes.map(|(name, value)| (name.to_owned(), value as u64)).collect()
}

/// Returns the names of all series, with their labels: but for those of the four types, which begin with the first thing that they
/// count, and are no more than four.
async fn series(stage: &Stage) -> BTreeSet<String> {
    let text = get_text(stage.monitoring(), "/metrics").await.unwrap();
    let of_a_type = |name: &str| TYPES.iter().any(|of| name.ends_with(of));
    samples(&text).filter(|(name, _)| !of_a_type(name)).map(|(name, _)| name.to_owned()).collect()
}

fn samples(text: &str) -> impl Iterator<Item = (&str, f64)> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.rsplit_once(' ')).map(|(name, value)| (name, value.parse().unwrap()))
}

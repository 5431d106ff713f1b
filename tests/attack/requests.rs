//! Requests of peers that mean ill, one stream at a time: each attack that once stopped all ports. A good client beside them is
//! answered about as soon as it is quietly, and no turn of a stream is long.

use std::{net::SocketAddr, time::Duration};

use envoy_types::pb::{
    envoy::{
        config::core::v3::Node,
        service::discovery::v3::{
            DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest,
            aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
        },
    },
    google::{
        protobuf::{Struct, Value, value::Kind},
        rpc,
    },
};
use harness::http_client::get_text;
use istiod_lite::xds::resource_type::ResourceType::{self, Cluster, Endpoint, Route};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming, transport::Channel};

use super::stage::{Stage, services};

/// How much longer a good call may take beside an attack. The attacks that this is about took all ports for seconds.
const RATIO: f64 = 6.0;
/// How many names a turn may look at: a few milliseconds. Streams pause at 2,048 counted once; each is looked at several times.
const TURN: i64 = 64 << 10;
/// How many streams attack at once.
const ATTACKERS: usize = 3;

/// A stream of the incremental protocol whose client does what it likes.
struct Attacker {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl Attacker {
    async fn connect(address: SocketAddr) -> Result<Self, Status> {
        let endpoint = Channel::from_shared(format!("http://{address}")).unwrap();
        let channel = endpoint.connect().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let mut client = AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(64 << 20);
        let (requests, stream) = mpsc::channel(4);
        let responses = client.delta_aggregated_resources(ReceiverStream::new(stream)).await?.into_inner();
        Ok(Self { requests, responses })
    }

    /// Sends a request; returns whether the stream still stands.
    async fn say(&self, request: DeltaDiscoveryRequest) -> bool {
        // A peer whose requests are not read waits, as it should.
        matches!(timeout(Duration::from_millis(500), self.requests.send(request)).await, Ok(Ok(())))
    }

    async fn hear(&mut self) -> Result<Option<DeltaDiscoveryResponse>, Status> {
        timeout(Duration::from_secs(20), self.responses.message()).await.unwrap_or(Ok(None))
    }
}

fn node() -> Node {
    Node { id: "sidecar~10.9.9.9~mallory-1.shop~shop.svc.cluster.local".into(), ..Node::default() }
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("none-{number}")).collect()
}

fn ask(kind: ResourceType, resource_names_subscribe: Vec<String>) -> DeltaDiscoveryRequest {
    let type_url = kind.type_url().into();
    DeltaDiscoveryRequest { node: Some(node()), type_url, resource_names_subscribe, ..DeltaDiscoveryRequest::default() }
}

fn held(kind: ResourceType, count: usize) -> DeltaDiscoveryRequest {
    let initial_resource_versions = names(count).into_iter().map(|name| (name, "0123456789abcdef".into())).collect();
    DeltaDiscoveryRequest { initial_resource_versions, ..ask(kind, Vec::new()) }
}

fn addresses(count: u32) -> DeltaDiscoveryRequest {
    let listed = (0..count).map(|number| std::net::Ipv4Addr::from(number + 1).to_string()).collect::<Vec<_>>().join(",");
    let fields = [("INSTANCE_IPS".to_owned(), Value { kind: Some(Kind::StringValue(listed)) })].into();
    DeltaDiscoveryRequest { node: Some(Node { metadata: Some(Struct { fields }), ..node() }), ..ask(Cluster, Vec::new()) }
}

/// One attack, from its first request to where it is refused or has done its worst.
#[derive(Clone, Copy, Debug)]
enum Attack {
    HeldAndGone(ResourceType, usize),
    NamesThatAreNotThere(usize),
    WholeStateOfNames(usize),
    Addresses(u32),
    LongError(usize),
    LessThanAll,
    AllAndNotAll,
    UnservedType,
    SmallRequestsWhileMuchIsPending,
    AskedAgainAndAgain,
}

impl Attack {
    const ALL: [Self; 14] = [
        Self::HeldAndGone(Route, 30_000),
        Self::HeldAndGone(Route, 9_000),
        Self::HeldAndGone(Cluster, 9_000),
        Self::NamesThatAreNotThere(9_000),
        // As many as four megabytes hold of one byte each.
        Self::NamesThatAreNotThere(300_000),
        Self::WholeStateOfNames(9_000),
        Self::WholeStateOfNames(30_000),
        Self::Addresses(50_000),
        Self::LongError(3 << 20),
        Self::LessThanAll,
        Self::AllAndNotAll,
        Self::UnservedType,
        Self::SmallRequestsWhileMuchIsPending,
        Self::AskedAgainAndAgain,
    ];

    async fn run(self, address: SocketAddr) -> Result<(), Status> {
        if let Self::WholeStateOfNames(count) = self {
            return whole_state(address, count).await;
        }
        let mut attacker = Attacker::connect(address).await?;
        let flood = async |attacker: &Attacker, first: DeltaDiscoveryRequest, then: DeltaDiscoveryRequest| {
            // Nothing is read: what is to be said piles up.
            let mut stands = attacker.say(first).await;
            for _ in 0..4_000 {
                stands = stands && attacker.say(then.clone()).await;
            }
        };
        let small = DeltaDiscoveryRequest { node: None, ..ask(Endpoint, Vec::new()) };
        let all = || vec!["*".to_owned()];
        match self {
            Self::HeldAndGone(kind, count) => drop(attacker.say(held(kind, count)).await),
            Self::NamesThatAreNotThere(count) => drop(attacker.say(ask(Endpoint, names(count))).await),
            Self::Addresses(count) => drop(attacker.say(addresses(count)).await),
            Self::LongError(bytes) => {
                attacker.say(ask(Cluster, Vec::new())).await;
                let Some(response) = attacker.hear().await? else { return Ok(()) };
                let error_detail = Some(rpc::Status { message: "outbound|80||x ".repeat(bytes / 15), ..rpc::Status::default() });
                let refusal = DeltaDiscoveryRequest { response_nonce: response.nonce, error_detail, ..ask(Cluster, Vec::new()) };
                attacker.say(refusal).await;
            }
            Self::LessThanAll => {
                let less = DeltaDiscoveryRequest { resource_names_unsubscribe: vec!["*".to_owned(); 50], ..small };
                flood(&attacker, ask(Endpoint, names(9_000)), less).await;
            }
            Self::AllAndNotAll => {
                let both = DeltaDiscoveryRequest {
                    type_url: Cluster.type_url().into(),
                    resource_names_unsubscribe: all(),
                    resource_names_subscribe: all(),
                    ..small
                };
                flood(&attacker, ask(Cluster, Vec::new()), both).await;
            }
            Self::UnservedType => {
                let unserved = DeltaDiscoveryRequest {
                    type_url: "type.googleapis.com/some.Secret".into(),
                    resource_names_subscribe: names(3),
                    ..small
                };
                flood(&attacker, ask(Endpoint, Vec::new()), unserved).await;
            }
            Self::SmallRequestsWhileMuchIsPending => flood(&attacker, ask(Endpoint, names(9_000)), small).await,
            Self::AskedAgainAndAgain => {
                let again = DeltaDiscoveryRequest { resource_names_subscribe: names(1), ..small };
                flood(&attacker, ask(Route, names(9_000)), again).await;
            }
            Self::WholeStateOfNames(_) => {}
        }
        attacker.hear().await.map(|_| ())
    }
}

async fn whole_state(address: SocketAddr, count: usize) -> Result<(), Status> {
    let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    let (requests, stream) = mpsc::channel(4);
    let request = DiscoveryRequest {
        node: Some(node()),
        type_url: Endpoint.type_url().into(),
        resource_names: names(count),
        ..DiscoveryRequest::default()
    };
    requests.send(request).await.unwrap();
    let mut client = AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(64 << 20);
    let mut responses = client.stream_aggregated_resources(ReceiverStream::new(stream)).await?.into_inner();
    timeout(Duration::from_secs(20), responses.message()).await.unwrap_or(Ok(None)).map(|_| ())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_attack_of_a_few_streams_keeps_others_waiting() {
    let stage = Stage::of_mesh(&services(50), &[]).await;
    let quiet = stage.good().measure().await.unwrap();
    for attack in Attack::ALL {
        let mut attackers = JoinSet::new();
        for _ in 0..ATTACKERS {
            let address = stage.plain_grpc();
            attackers.spawn(async move {
                loop {
                    // What is refused is tried again.
                    let _ = attack.run(address).await;
                    sleep(Duration::from_millis(20)).await;
                }
            });
        }
        let beside = stage.good().measure().await.unwrap();
        attackers.shutdown().await;
        beside.assert_within(RATIO, &quiet, &format!("{attack:?}"));
    }
    assert_no_turn_is_long(&stage).await;
}

#[tokio::test]
async fn what_goes_over_a_bound_is_told_and_counted() {
    let stage = Stage::start().await;
    let address = stage.plain_grpc();
    let refused = async |attack: Attack| attack.run(address).await.unwrap_err();
    for (attack, code, says) in [
        (Attack::HeldAndGone(Route, 30_000), Code::ResourceExhausted, "initial_resource_versions: at most 100"),
        (Attack::NamesThatAreNotThere(30_000), Code::ResourceExhausted, "resource_names_subscribe: at most 100"),
        (Attack::WholeStateOfNames(300_000), Code::ResourceExhausted, "resource_names: at most 131072 names"),
    ] {
        let status = refused(attack).await;
        assert!(status.code() == code && status.message().contains(says), "{attack:?}: {status:?}");
    }
    let refusals = metric(&stage, "istiod_lite_xds_refused_requests_total{reason=\"names\"}").await;
    assert_eq!(refusals, 3);
    assert_eq!(Attack::Addresses(50_000).run(address).await.map_err(|status| status.to_string()), Ok(()), "cut, and served");
}

pub(crate) async fn assert_no_turn_is_long(stage: &Stage) {
    let turn = metric(stage, "istiod_lite_xds_largest_turn").await;
    assert!((1..TURN).contains(&turn), "{turn} names in one turn");
    println!("the longest turn looked at {turn} names");
}

pub(crate) async fn metric(stage: &Stage, name: &str) -> i64 {
    let text = get_text(stage.monitoring(), "/metrics").await.unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name}"));
    line.trim().parse::<f64>().unwrap() as i64
}

//! Requests of peers that mean ill, one stream at a time: the largest of every field, made from Envoy's descriptors, and each attack that
//! once stopped all ports. A good client beside them is answered about as soon as it is quietly, and no turn of a stream is long.

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
use istiod_lite::{
    proto,
    xds::{
        bounds::{Bounds, DELTA_REQUEST, Field, Message, Most, REQUEST, measure},
        resource_type::ResourceType::{self, Cluster, Endpoint, Route},
    },
};
use prost::{
    Message as _,
    encoding::{WireType, encode_key, encode_varint},
};
use prost_reflect::{DescriptorPool, FieldDescriptor, Kind as FieldKind, MessageDescriptor};
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

// === the largest of every field ===

/// Requests with one field at its largest each: in number, and in length.
fn largest(message: &'static Message, name: &str) -> Vec<(String, Vec<u8>)> {
    let pool = DescriptorPool::decode(proto::DESCRIPTORS).unwrap();
    let descriptor = pool.get_message_by_name(&format!("envoy.service.discovery.v3.{name}")).unwrap();
    let mut found = Vec::new();
    fill(message, &descriptor, &mut Vec::new(), &mut Vec::new(), &mut found);
    found
}

fn fill(
    message: &'static Message,
    descriptor: &MessageDescriptor,
    path: &mut Vec<(&'static Field, String)>,
    seen: &mut Vec<String>,
    found: &mut Vec<(String, Vec<u8>)>,
) {
    if seen.contains(&descriptor.full_name().to_owned()) {
        return;
    }
    seen.push(descriptor.full_name().to_owned());
    for field in descriptor.fields() {
        let row =
            message.fields.iter().find(|row| row.number == field.number()).unwrap_or_else(|| panic!("{} has no bound", field.full_name()));
        let at = path.iter().map(|(_, name)| name.as_str()).chain([field.name()]).collect::<Vec<_>>().join(".");
        for (what, value) in values(row, &field) {
            // Within what holds it, and the first request of a stream.
            let value = path.iter().rev().fold(value, |value, (row, _)| delimited(row.number, &value));
            found.push((format!("{at}: {what}"), value));
        }
        if let (Some(row_message), FieldKind::Message(within)) = (row.message, field.kind()) {
            path.push((row, field.name().to_owned()));
            fill(row_message, &within, path, seen, found);
            path.pop();
        }
    }
}

/// The most of a field, and the longest.
fn values(row: &Field, field: &FieldDescriptor) -> Vec<(&'static str, Vec<u8>)> {
    let most = match row.most {
        Most::Times(times) => times,
        // The view has a few more.
        Most::Names => Bounds::default().unknown_names,
    };
    let one = |length: usize, number: usize| match field.kind() {
        FieldKind::String | FieldKind::Bytes => delimited(row.number, &text(length, number)),
        FieldKind::Message(_) if field.is_map() => delimited(row.number, &delimited(1, number.to_string().as_bytes())),
        FieldKind::Message(_) => delimited(row.number, &[]),
        FieldKind::Double => [&[u8::try_from(row.number << 3 | 1).unwrap()][..], &f64::MAX.to_le_bytes()].concat(),
        _ => [u8::try_from(row.number << 3).unwrap(), 1].to_vec(),
    };
    let many = (0..most).flat_map(|number| one(8, number)).collect();
    let long = one(row.bytes.min(900 << 10), 0);
    vec![("in number", many), ("in length", long)]
}

fn text(length: usize, number: usize) -> Vec<u8> {
    let mut text = format!("{number:08}");
    text.extend(std::iter::repeat_n('x', length.saturating_sub(8)));
    text.into_bytes()
}

fn delimited(number: u32, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_key(number, WireType::LengthDelimited, &mut bytes);
    encode_varint(value.len() as u64, &mut bytes);
    bytes.extend(value);
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_of_every_field_keeps_nobody_waiting() {
    let stage = Stage::of_mesh(&services(50), &[]).await;
    let quiet = stage.good().measure().await.unwrap();
    let address = stage.plain_grpc();
    let sending = tokio::spawn(async move {
        let mut sent = 0;
        for (what, bytes) in largest(&DELTA_REQUEST, "DeltaDiscoveryRequest") {
            send_delta(address, &what, &bytes).await;
            sent += 1;
        }
        for (what, bytes) in largest(&REQUEST, "DiscoveryRequest") {
            assert_eq!(measure(&REQUEST, &bytes, 10_000), Ok(()), "{what}");
            let request = DiscoveryRequest::decode(&bytes[..]).unwrap();
            send_whole(address, request).await;
            sent += 1;
        }
        sent
    });
    let beside = stage.good().measure().await.unwrap();
    beside.assert_within(RATIO, &quiet, "the largest of every field");
    let sent = sending.await.unwrap();
    assert!(sent > 100, "{sent}");
    assert_no_turn_is_long(&stage).await;
    assert!(stage.good().plain().await.is_ok());
}

/// Sends a field as the first request of a stream, and as a later one.
async fn send_delta(address: SocketAddr, what: &str, bytes: &[u8]) {
    assert_eq!(measure(&DELTA_REQUEST, bytes, 10_000), Ok(()), "{what}");
    let mut request = DeltaDiscoveryRequest::decode(bytes).unwrap();
    if request.type_url.is_empty() {
        request.type_url = Endpoint.type_url().into();
    }
    for later in [false, true] {
        let mut attacker = Attacker::connect(address).await.unwrap();
        if later {
            attacker.say(ask(Cluster, Vec::new())).await;
            attacker.hear().await.unwrap();
        } else {
            let own = request.node.get_or_insert_default();
            if own.id.is_empty() {
                own.id = node().id;
            }
        }
        attacker.say(request.clone()).await;
        // Whatever it is asked, it says something, or there is nothing to be said.
        let _ = timeout(Duration::from_millis(10), attacker.hear()).await;
    }
}

async fn send_whole(address: SocketAddr, mut request: DiscoveryRequest) {
    let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    if request.type_url.is_empty() {
        request.type_url = Endpoint.type_url().into();
    }
    let own = request.node.get_or_insert_default();
    if own.id.is_empty() {
        own.id = node().id;
    }
    let (requests, stream) = mpsc::channel(4);
    requests.send(request).await.unwrap();
    let mut client = AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(64 << 20);
    let Ok(responses) = client.stream_aggregated_resources(ReceiverStream::new(stream)).await else { return };
    let _ = timeout(Duration::from_millis(10), responses.into_inner().message()).await;
}

async fn assert_no_turn_is_long(stage: &Stage) {
    let turn = metric(stage, "istiod_lite_xds_largest_turn").await;
    assert!((1..TURN).contains(&turn), "{turn} names in one turn");
    println!("the longest turn looked at {turn} names");
}

async fn metric(stage: &Stage, name: &str) -> i64 {
    let text = get_text(stage.monitoring(), "/metrics").await.unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name}"));
    line.trim().parse::<f64>().unwrap() as i64
}

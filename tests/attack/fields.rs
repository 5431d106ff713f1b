//! The largest of every field of a request, made from Envoy's descriptors: of callers who have proven who they are and of others, in
//! both protocols, as the first request of a stream and as a later one. No thread that serves computes long at a stretch for any.

use std::time::Duration;

use envoy_types::pb::envoy::{
    config::core::v3::Node,
    service::discovery::v3::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
        aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    },
};
use harness::http_client::get_text;
use istiod_lite::{
    proto,
    xds::{
        bounds::{Bounds, DELTA_REQUEST, Field, Message, Most, REQUEST, measure},
        resource_type::ResourceType::{Cluster, Endpoint},
    },
};
use prost::encoding::{WireType, encode_key, encode_varint};
use prost_reflect::{DescriptorPool, FieldDescriptor, Kind as FieldKind, MessageDescriptor};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::{
    good::{GoodClient, NODE},
    requests::assert_no_turn_is_long,
    stage::{Stage, services},
};

/// How long a task may compute at a stretch, in CPU time. Without optimisation, when all takes about ten times as long, 14 ms were
/// measured (two busy cores); while messages were weighed where they are served, 270 ms.
const POLL: Duration = Duration::from_millis(50);
/// A type that nobody serves: what is asked of it is answered, and so tells that all before it has been taken.
const MARK: &str = "type.googleapis.com/attack.Mark";
/// When a request that is not answered counts as never taken.
const PATIENCE: Duration = Duration::from_secs(60);
/// What of a message other fields may need.
const ROOM: usize = 64 << 10;
/// The most of what is said of a node, and of what is in it.
const NODE_ROOM: usize = 900 << 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_of_every_field_is_taken_without_computing_long() {
    let stage = Stage::of_mesh(&services(300), &[]).await;
    let good = stage.good();
    let bounds = Bounds::default();
    let (mut sent, mut refused) = (0, 0);
    for is_proven in [false, true] {
        for is_later in [false, true] {
            let size = if is_proven && is_later { bounds.request } else { bounds.first_request };
            // What a proxy is it says once; what else it says of that is read and passed over.
            let counts = |what: &str| !(is_later && what.starts_with("node."));
            for (what, bytes) in largest(&DELTA_REQUEST, "DeltaDiscoveryRequest", size - ROOM) {
                if counts(&what) {
                    sent += 1;
                    refused +=
                        usize::from(!taken::<DeltaDiscoveryRequest>(&good, is_proven, is_later, &DELTA_REQUEST, &what, &bytes).await);
                }
            }
            for (what, bytes) in largest(&REQUEST, "DiscoveryRequest", size - ROOM) {
                if counts(&what) {
                    sent += 1;
                    refused += usize::from(!taken::<DiscoveryRequest>(&good, is_proven, is_later, &REQUEST, &what, &bytes).await);
                }
            }
            println!("proven {is_proven}, later {is_later}: {sent} sent, {refused} refused, polls {:?}", polls(&stage).await);
        }
    }
    // Ids that are none, and what cannot be paid.
    assert!(sent > 400 && refused * 10 < sent, "{refused} of {sent} refused");
    assert_no_turn_is_long(&stage).await;
    for (task, longest) in polls(&stage).await {
        assert!(!longest.is_zero() && longest < POLL, "{task}: {longest:?}");
    }
    assert!(good.plain().await.is_ok());
}

/// Returns how long each sort of task has computed at a stretch.
async fn polls(stage: &Stage) -> Vec<(String, Duration)> {
    let text = get_text(stage.monitoring(), "/metrics").await.unwrap();
    let lines = text.lines().filter_map(|line| line.strip_prefix("istiod_lite_longest_poll_seconds{task=\"")?.split_once("\"} "));
    lines.map(|(task, seconds)| (task.to_owned(), Duration::from_secs_f64(seconds.parse().unwrap()))).collect()
}

/// Sends a request with a field and then another; returns whether that is answered, which is after all before it was taken.
async fn taken<R: Request>(
    good: &GoodClient,
    is_proven: bool,
    is_later: bool,
    message: &'static Message,
    what: &str,
    bytes: &[u8],
) -> bool {
    assert_eq!(measure(message, bytes, Bounds::default().unknown_names), Ok(()), "{what}");
    let mut request = R::decode(bytes).unwrap();
    let mut stream = R::open(good, is_proven).await.unwrap();
    if is_later {
        stream.requests.send(R::of(Cluster.type_url(), Some(node()))).await.unwrap();
        let (_, nonce) = heard::<R>(&mut stream.responses).await.unwrap().unwrap();
        request.answer(nonce);
    } else {
        request.introduce();
    }
    let mark = R::of(MARK, None);
    for request in [request, mark] {
        if stream.requests.send(request).await.is_err() {
            return false;
        }
    }
    loop {
        match heard::<R>(&mut stream.responses).await {
            Ok(Some((kind, _))) if kind == MARK => return true,
            Ok(Some(_)) => {}
            Ok(None) => return false,
            Err(status) => {
                println!("{what}: {:?} {:.100}", status.code(), status.message());
                return false;
            }
        }
    }
}

async fn heard<R: Request>(responses: &mut Streaming<R::Response>) -> Result<Option<(String, String)>, Status> {
    let response = timeout(PATIENCE, responses.message()).await.expect("an answer")?;
    Ok(response.map(|response| R::kind_and_nonce(&response)))
}

fn node() -> Node {
    Node { id: NODE.into(), ..Node::default() }
}

/// A stream of which both directions are ours.
struct Stream<R: Request> {
    requests: mpsc::Sender<R>,
    responses: Streaming<R::Response>,
}

/// What the requests of the two protocols have in common.
trait Request: prost::Message + Default + 'static {
    type Response: std::fmt::Debug;

    async fn open(good: &GoodClient, is_proven: bool) -> anyhow::Result<Stream<Self>>;
    fn of(kind: &str, node: Option<Node>) -> Self;
    fn kind_and_nonce(response: &Self::Response) -> (String, String);
    /// Makes it the first request of a stream: a type and an id, where it has none.
    fn introduce(&mut self);
    /// Makes it the answer to a response for clusters, where it does not say otherwise.
    fn answer(&mut self, nonce: String);
}

macro_rules! requests {
    ($request:ident, $response:ident, $method:ident, $names:ident) => {
        impl Request for $request {
            type Response = $response;

            async fn open(good: &GoodClient, is_proven: bool) -> anyhow::Result<Stream<Self>> {
                let channel = if is_proven { good.secure_channel().await? } else { good.plain_channel().await? };
                let (requests, stream) = mpsc::channel(4);
                let mut call = tonic::Request::new(ReceiverStream::new(stream));
                if is_proven {
                    call.metadata_mut().insert("authorization", format!("Bearer {}", good.token).parse()?);
                }
                let mut client = AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(64 << 20);
                Ok(Stream { requests, responses: client.$method(call).await?.into_inner() })
            }

            fn of(kind: &str, node: Option<Node>) -> Self {
                Self { node, type_url: kind.into(), $names: vec!["*".into()], ..Self::default() }
            }

            fn kind_and_nonce(response: &$response) -> (String, String) {
                (response.type_url.clone(), response.nonce.clone())
            }

            fn introduce(&mut self) {
                let node = self.node.get_or_insert_default();
                if node.id.is_empty() {
                    node.id = NODE.into();
                }
                if self.type_url.is_empty() {
                    self.type_url = Endpoint.type_url().into();
                }
            }

            fn answer(&mut self, nonce: String) {
                if self.type_url.is_empty() {
                    // What is refused or taken is the response; names are asked for of a type that is asked for by name.
                    let is_answer = self.$names.is_empty();
                    self.type_url = if is_answer { Cluster.type_url() } else { Endpoint.type_url() }.into();
                    if is_answer && self.response_nonce.is_empty() {
                        self.response_nonce = nonce;
                    }
                }
            }
        }
    };
}

requests!(DeltaDiscoveryRequest, DeltaDiscoveryResponse, delta_aggregated_resources, resource_names_subscribe);
requests!(DiscoveryRequest, DiscoveryResponse, stream_aggregated_resources, resource_names);

// === the largest of every field ===

/// Returns requests of at most `size` bytes with one field at its largest each.
fn largest(message: &'static Message, name: &str, size: usize) -> Vec<(String, Vec<u8>)> {
    let pool = DescriptorPool::decode(proto::DESCRIPTORS).unwrap();
    let descriptor = pool.get_message_by_name(&format!("envoy.service.discovery.v3.{name}")).unwrap();
    let mut filling = Filling { size, path: Vec::new(), seen: Vec::new(), found: Vec::new() };
    filling.message(message, &descriptor);
    filling.found
}

struct Filling {
    size: usize,
    path: Vec<(&'static Field, String)>,
    seen: Vec<String>,
    found: Vec<(String, Vec<u8>)>,
}

impl Filling {
    fn message(&mut self, message: &'static Message, descriptor: &MessageDescriptor) {
        if self.seen.contains(&descriptor.full_name().to_owned()) {
            return;
        }
        self.seen.push(descriptor.full_name().to_owned());
        for field in descriptor.fields() {
            let row = message.fields.iter().find(|row| row.number == field.number());
            let row = row.unwrap_or_else(|| panic!("{} has no bound", field.full_name()));
            let at = self.path.iter().map(|(_, name)| name.as_str()).chain([field.name()]).collect::<Vec<_>>().join(".");
            for (what, value) in self.values(row, &field) {
                let value = self.path.iter().rev().fold(value, |value, (row, _)| delimited(row.number, &value));
                self.found.push((format!("{at}: {what}"), value));
            }
            if let (Some(row_message), FieldKind::Message(within)) = (row.message, field.kind()) {
                self.path.push((row, field.name().to_owned()));
                self.message(row_message, &within);
                self.path.pop();
            }
        }
    }

    /// Returns the most of a field, the longest, and both.
    fn values(&self, row: &Field, field: &FieldDescriptor) -> Vec<(&'static str, Vec<u8>)> {
        let most = match row.most {
            Most::Times(times) => times,
            // The view has a few more.
            Most::Names => Bounds::default().unknown_names,
        };
        let room = self.path.iter().fold(self.size, |room, (row, _)| room.min(row.bytes.saturating_sub(1024)));
        let room = if self.path.iter().any(|(_, name)| name == "node") { room.min(NODE_ROOM) } else { room };
        let one = |length: usize, number: usize, fill: char| match field.kind() {
            FieldKind::String | FieldKind::Bytes => delimited(row.number, &text(length, number, fill)),
            FieldKind::Message(_) if field.is_map() => delimited(row.number, &delimited(1, &text(length.min(900), number, fill))),
            FieldKind::Message(_) => delimited(row.number, &[]),
            FieldKind::Double => [&[u8::try_from(row.number << 3 | 1).unwrap()][..], &f64::MAX.to_le_bytes()].concat(),
            _ => [u8::try_from(row.number << 3).unwrap(), 1].to_vec(),
        };
        let many = (0..most).flat_map(|number| one(8, number, 'o')).collect();
        let mut values = vec![("in number", many), ("in length", one(row.bytes.min(room), 0, 'o'))];
        // Text that might be a message is weighed as one: it may be more than the caller can pay for.
        let each = row.bytes.min(room / most).saturating_sub(16);
        for (what, fill) in [("in number and length", 'o'), ("as text that looks like a message", 'x')] {
            if most > 1 || (fill == 'x' && self.path.len() < 2) {
                values.push((what, (0..most).flat_map(|number| one(each, number, fill)).collect()));
            }
        }
        values
    }
}

fn text(length: usize, number: usize, fill: char) -> Vec<u8> {
    let mut text = format!("{number:08}");
    text.extend(std::iter::repeat_n(fill, length.saturating_sub(8)));
    text.into_bytes()
}

fn delimited(number: u32, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_key(number, WireType::LengthDelimited, &mut bytes);
    encode_varint(value.len() as u64, &mut bytes);
    bytes.extend(value);
    bytes
}

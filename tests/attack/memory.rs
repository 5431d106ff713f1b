//! Requests that are never whole: what all of them may have the process hold is bounded.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{Request, header::CONTENT_TYPE};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpStream, task::JoinSet};

use super::{good::tls, stage::Stage};

/// What no sequence of requests may add to the process, with a limit of 1 GiB.
pub(crate) const MOST: u64 = 512 << 20;
pub(crate) const LIMIT: [&str; 2] = ["--memory-limit", "1Gi"];
pub(crate) const STREAM: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";
pub(crate) const CERTIFICATE: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";
const CHUNK: usize = 16 << 10;
/// How long what was sent is held.
const HELD: Duration = Duration::from_secs(3);

pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_never_end_fill_no_memory() {
    let stage = Stage::of_mesh(&super::stage::services(3), &LIMIT).await;
    let good = stage.good();
    let quiet = good.measure().await.unwrap();
    let idle = stage.cost().resident;
    for (announced, sent) in [(15 << 20, 15 << 20), (4 << 20, (4 << 20) - 1), (u32::MAX as usize, 1 << 20)] {
        let mut attack = JoinSet::new();
        for connection in 0..8 {
            let sender = if connection % 2 == 0 { plain(&stage).await } else { encrypted(&stage).await };
            for _ in 0..64 {
                let token = (connection % 2 == 1).then(|| stage.token());
                attack.spawn(ask(sender.clone(), STREAM, token, unfinished(announced, sent)));
            }
        }
        tokio::time::sleep(HELD).await;
        let beside = good.measure().await.unwrap_or_else(|error| panic!("{announced} bytes: {error:#}\n{}", stage.log()));
        beside.assert_within(3.0, &quiet, &format!("512 streams with {sent} of {announced} bytes"));
        let added = stage.cost().peak - idle;
        println!("{} MB added", added >> 20);
        assert!(added < MOST, "{} MB added by {sent} of {announced} bytes", added >> 20);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_many_names_fill_no_memory() {
    let stage = Stage::of_mesh(&super::stage::services(3), &LIMIT).await;
    let idle = stage.cost().resident;
    // 2 bytes each on the wire, and 24 and more decoded: resource_names = "".
    let names = [&[0][..], &(4_u32 << 20).to_be_bytes(), &[0x1a, 0].repeat(2 << 20)].concat();
    let mut attack = JoinSet::new();
    for _ in 0..32 {
        attack.spawn(ask(plain(&stage).await, STREAM, None, pieces(names.clone())));
    }
    tokio::time::sleep(HELD).await;
    stage.good().measure().await.unwrap();
    let added = stage.cost().peak - idle;
    println!("{} MB added", added >> 20);
    assert!(added < MOST, "{} MB added", added >> 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn reviews_that_never_end_fill_no_memory_and_hold_up_nobody() {
    let stage = Stage::of_mesh(&super::stage::services(3), &LIMIT).await;
    let good = stage.good();
    let quiet = good.measure().await.unwrap();
    let idle = stage.cost().resident;
    let mut attack = JoinSet::new();
    for path in ["/inject", "/validate"] {
        for _ in 0..8 {
            let sender = handshake(TokioExecutor::new(), TokioIo::new(tls(stage.webhooks(), &stage.root(), "h2").await.unwrap())).await;
            let (sender, connection) = sender.unwrap();
            tokio::spawn(connection);
            for _ in 0..50 {
                attack.spawn(ask(sender.clone(), path, None, blanks(7 << 20)));
            }
        }
    }
    tokio::time::sleep(HELD).await;
    let beside = good.measure().await.unwrap_or_else(|error| panic!("{error:#}\n{}", stage.log()));
    beside.assert_within(3.0, &quiet, "800 reviews of 7 MB that do not end");
    let added = stage.cost().peak - idle;
    println!("{} MB added", added >> 20);
    assert!(added < MOST, "{} MB added", added >> 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_for_certificates_that_never_end_fill_no_memory() {
    let stage = Stage::of_mesh(&super::stage::services(3), &LIMIT).await;
    let idle = stage.cost().resident;
    let mut attack = JoinSet::new();
    for _ in 0..24 {
        let sender = encrypted(&stage).await;
        for _ in 0..900 {
            attack.spawn(ask(sender.clone(), CERTIFICATE, Some(stage.token()), unfinished(64 << 10, 63 << 10)));
        }
    }
    tokio::time::sleep(HELD).await;
    let added = stage.cost().peak - idle;
    println!("{} MB added", added >> 20);
    assert!(added < MOST, "{} MB added", added >> 20);
    let ended = tokio::time::timeout(Duration::from_secs(120), async { while attack.join_next().await.is_some() {} }).await;
    assert!(ended.is_ok(), "each has a time to end");
}

pub(crate) async fn plain(stage: &Stage) -> SendRequest<Body> {
    let stream = TcpStream::connect(stage.plain_grpc()).await.unwrap();
    let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

pub(crate) async fn encrypted(stage: &Stage) -> SendRequest<Body> {
    let stream = tls(stage.secure_grpc(), &stage.root(), "h2").await.unwrap();
    let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// Sends a request, and reads what is said to it. Whatever happens to it, the attack goes on.
pub(crate) async fn ask(mut sender: SendRequest<Body>, path: &str, token: Option<String>, body: Body) {
    let kind = if [STREAM, CERTIFICATE].contains(&path) { "application/grpc" } else { "application/json" };
    let mut request = Request::post(format!("http://istiod{path}")).header(CONTENT_TYPE, kind).header("te", "trailers");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    if let Ok(response) = sender.send_request(request.body(body).unwrap()).await {
        let _ = response.into_body().collect().await;
    }
}

/// Returns a gRPC message of this length of which only so much is sent.
pub(crate) fn unfinished(announced: usize, sent: usize) -> Body {
    let header = [&[0][..], &u32::try_from(announced).unwrap().to_be_bytes()].concat();
    let first = stream::iter([Bytes::from(header)]);
    endless(first.chain(zeros(0, sent)))
}

/// Returns a body of blanks that does not end.
fn blanks(sent: usize) -> Body {
    endless(zeros(b' ', sent))
}

fn pieces(bytes: Vec<u8>) -> Body {
    let pieces: Vec<Bytes> = bytes.chunks(CHUNK).map(Bytes::copy_from_slice).collect();
    endless(stream::iter(pieces))
}

fn zeros(byte: u8, sent: usize) -> impl futures::Stream<Item = Bytes> + Send {
    let chunk = Bytes::from(vec![byte; CHUNK]);
    stream::iter((0..sent / CHUNK).map(move |_| chunk.clone()))
}

pub(crate) fn endless(pieces: impl futures::Stream<Item = Bytes> + Send + 'static) -> Body {
    StreamBody::new(pieces.map(|piece| Ok(Frame::data(piece))).chain(stream::pending())).boxed_unsync()
}

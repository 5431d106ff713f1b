//! Connections that say nothing, or not all of it: no port is locked by them.

use std::{net::SocketAddr, time::Duration};

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinSet,
    time::timeout,
};
use tonic::Code;

use super::{
    good::tls,
    stage::{Stage, connect_from},
};

/// How many connections are opened to each port, as far as this process may have that many.
const MOST: usize = 10_000;
/// How many files the test needs for other things.
const OTHERS: u64 = 2_000;
/// From how many addresses they come.
const ADDRESSES: usize = 20;
/// When something that was to be closed counts as never closed.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_lock_no_port() {
    let stage = Stage::start().await;
    let good = stage.good();
    let quiet = good.measure().await.unwrap();
    let many = as_many_as_allowed();
    for (port, address) in ports(&stage) {
        let silent = Silent::open(&stage, &[address], many).await;
        let beside = good.measure().await.unwrap_or_else(|error| panic!("{many} silent connections to {port}: {error:#}\n{}", stage.log()));
        beside.assert_within(2.0, &quiet, &format!("{many} silent connections to {port}"));
        drop(silent);
    }
    let all = ports(&stage).map(|(_, address)| address);
    let _silent = Silent::open(&stage, &all, many).await;
    let beside = good.measure().await.unwrap_or_else(|error| panic!("{many} silent connections to all ports: {error:#}\n{}", stage.log()));
    beside.assert_within(2.0, &quiet, &format!("{many} silent connections to all ports together"));
    println!("{:?}", stage.cost());
}

/// Connections that are opened again when they are closed. Dropping it closes them.
struct Silent(#[expect(dead_code, reason = "dropping it ends its tasks")] JoinSet<()>);

impl Silent {
    /// Opens that many, to the addresses in turn, and returns when each was open once.
    async fn open(stage: &Stage, to: &[SocketAddr], count: usize) -> Self {
        let (opened, mut all) = tokio::sync::mpsc::channel(count);
        let mut tasks = JoinSet::new();
        for number in 0..count {
            let (to, opened) = (to[number % to.len()], opened.clone());
            let from = stage.attacker(2 + u8::try_from(number / to_each(count)).unwrap());
            tasks.spawn(async move {
                loop {
                    if let Ok(mut stream) = connect_from(from, to).await {
                        let _ = opened.try_send(());
                        let _ = stream.read(&mut [0]).await;
                    }
                    // As the attack of the review: again when closed, but not as fast as the machine can.
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
            });
        }
        for _ in 0..count {
            all.recv().await.unwrap();
        }
        Self(tasks)
    }
}

/// Returns how many connections of `count` come from one address.
fn to_each(count: usize) -> usize {
    count.div_ceil(ADDRESSES)
}

#[tokio::test]
async fn what_is_not_said_to_the_end_is_closed() {
    let stage = Stage::start().await;
    let mut closed = JoinSet::new();
    for (port, address) in ports(&stage) {
        // Silence from the beginning, half a request, half a preface of HTTP/2, half a handshake.
        for said in [&b""[..], b"GET /ready HT", b"PRI * HTTP/2.0\r\n", &[0x16, 3, 1, 2, 0, 1]] {
            let mut stream = connect_from(stage.attacker(2), address).await.unwrap();
            closed.spawn(async move {
                stream.write_all(said).await.unwrap();
                let mut rest = Vec::new();
                let ended = timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
                assert!(ended.is_ok(), "{port}: open after {}", said.escape_ascii());
            });
        }
    }
    for (port, address, protocol) in
        [("15012", stage.secure_grpc(), "h2"), ("15017", stage.webhooks(), "h2"), ("15017", stage.webhooks(), "http/1.1")]
    {
        let mut stream = tls(address, &stage.root(), protocol).await.unwrap();
        closed.spawn(async move {
            let ended = timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await;
            assert!(ended.is_ok(), "{port}: open after the handshake, with {protocol}");
        });
    }
    while let Some(ended) = closed.join_next().await {
        ended.unwrap();
    }
}

#[tokio::test]
async fn streams_without_a_message_end() {
    let stage = Stage::start().await;
    let mut client = AggregatedDiscoveryServiceClient::connect(format!("http://{}", stage.plain_grpc())).await.unwrap();
    let mut streams = Vec::new();
    for _ in 0..100 {
        streams.push(client.stream_aggregated_resources(tokio_stream::pending()).await.unwrap().into_inner());
    }
    for stream in &mut streams {
        let ended = timeout(PATIENCE, stream.message()).await.expect("the stream ends");
        assert_eq!(ended.unwrap_err().code(), Code::DeadlineExceeded);
    }
}

fn ports(stage: &Stage) -> [(&'static str, SocketAddr); 5] {
    [
        ("8080", stage.http()),
        ("15010", stage.plain_grpc()),
        ("15012", stage.secure_grpc()),
        ("15014", stage.monitoring()),
        ("15017", stage.webhooks()),
    ]
}

/// Raises this process's own limit of files, and returns how many connections it allows.
fn as_many_as_allowed() -> usize {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    usize::try_from(hard.saturating_sub(OTHERS)).unwrap().min(MOST)
}

//! Connections that say nothing, or not all of it: no port is locked by them.

use std::{net::SocketAddr, time::Duration};

use envoy_types::pb::envoy::service::discovery::v3::{
    DiscoveryRequest, aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
};
use harness::{http_client::get_text, wait};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy, sink},
    sync::mpsc,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use super::{
    crowd::{Crowd, as_many_as_allowed},
    good::tls,
    stage::{Stage, connect_from, services},
};

/// How often the good client calls here and at the instance that is left alone, beside silent connections that stand: in less than
/// the ten seconds after which they are closed.
const CALLS: usize = 25;
/// How often beside those that are closed after ten seconds and opened again.
const CALLS_BESIDE_WAVES: usize = 150;
/// How much more CPU the calls may take here than at the instance that is left alone, beyond twice as much: what each process does
/// of itself meanwhile, told in ticks of 10 ms.
const CPU_BESIDES: Duration = Duration::from_millis(100);
/// How many files more than an idle process takes there are where there are few: the good client needs one or two at a time.
const SPARE_FILES: usize = 12;
/// When something that was to be closed counts as never closed.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_lock_no_port() {
    let stage = Stage::start().await;
    let alone = Stage::beside(&stage, &services(3)).await;
    for (port, address) in ports(&stage) {
        assert_stand_beside_calls(b"", &stage, &alone, port, address).await;
    }
    let (all, many) = (ports(&stage).map(|(_, address)| address), as_many_as_allowed());
    let _silent = silent(&stage, all.to_vec(), many).await;
    let attack = format!("{many} silent connections to all ports together, closed and opened again");
    let calls = stage.good().measure_beside(&alone.good(), CALLS_BESIDE_WAVES).await;
    let [beside, quiet] = calls.unwrap_or_else(|error| panic!("{attack}: {error:#}"));
    beside.assert_as_quick_as(&quiet, &attack);
    println!("{:?}", stage.cost());
}

/// What is begun and does not go on costs hardly more than silence: nothing is made for it before it is whole.
#[tokio::test(flavor = "multi_thread")]
async fn half_open_handshakes_lock_no_port() {
    let stage = Stage::start().await;
    let alone = Stage::beside(&stage, &services(3)).await;
    // A handshake of a record, of which nearly all was said.
    static MOST_OF_A_HANDSHAKE: [u8; 1_400] = {
        let mut said = [0; 1_400];
        [said[0], said[1], said[2], said[3], said[4], said[5], said[7], said[8]] = [0x16, 3, 1, 5, 0xdc, 1, 5, 0xd8];
        said
    };
    for (port, address, said) in [
        ("15012", stage.secure_grpc(), &[0x16, 3, 1, 2, 0, 1][..]),
        ("15012", stage.secure_grpc(), &MOST_OF_A_HANDSHAKE),
        ("15017", stage.webhooks(), &[0x16, 3, 1, 2, 0, 1]),
        ("15010", stage.plain_grpc(), b"PRI * HTTP/2.0\r\n"),
        ("15010", stage.plain_grpc(), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0"),
        ("8080", stage.http(), b"GET /ready HT"),
    ] {
        assert_stand_beside_calls(said, &stage, &alone, port, address).await;
    }
}

/// Asserts that as many connections as allowed, which say this and are silent then, stand and cost those who call meanwhile nothing.
async fn assert_stand_beside_calls(said: &'static [u8], stage: &Stage, alone: &Stage, port: &str, address: SocketAddr) {
    let many = as_many_as_allowed();
    let crowd = silent_after(said, stage, vec![address], many).await;
    let attack = format!("{many} connections to {port} that say {} bytes: {}", said.len(), said[..said.len().min(30)].escape_ascii());
    // The kernel opens them sooner than they are accepted, which is not what is measured.
    wait::until("all are accepted", PATIENCE, async || ensure_all_stand(stage, many).await).await.unwrap();
    let costs = [stage.cost(), alone.cost()];
    let calls = stage.good().measure_beside(&alone.good(), CALLS).await;
    let [beside, quiet] = calls.unwrap_or_else(|error| panic!("{attack}: {error:#}\n{}", stage.log()));
    beside.assert_as_quick_as(&quiet, &attack);
    let [cpu, cpu_alone] = [stage.cost().cpu - costs[0].cpu, alone.cost().cpu - costs[1].cpu];
    println!("  CPU {cpu:?}, alone {cpu_alone:?}");
    assert!(
        cpu <= 2 * cpu_alone + CPU_BESIDES,
        "{attack}: the same calls cost {cpu:?}, and {cpu_alone:?} at an instance that is left alone"
    );
    // Some may have been closed meanwhile since their time was over, where the machine has other work.
    ensure_none_had_to_go(stage).await;
    drop(crowd);
}

/// Fails unless nine in ten of the silent connections stand: some may be coming again, where the machine has other work.
async fn ensure_all_stand(stage: &Stage, many: usize) -> anyhow::Result<()> {
    let standing = metric(stage, "istiod_lite_connections{shown=\"nothing\"}").await;
    anyhow::ensure!(10 * standing >= 9 * many, "{standing} of {many} stand");
    Ok(())
}

async fn ensure_none_had_to_go(stage: &Stage) {
    for name in ["istiod_lite_connections_evicted", "istiod_lite_connections_refused"] {
        assert_eq!(metric(stage, name).await, 0, "{name}");
    }
}

async fn metric(stage: &Stage, name: &str) -> usize {
    let metrics = get_text(stage.monitoring(), "/metrics").await.unwrap();
    let value = metrics.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name}"));
    value.trim().parse().unwrap()
}

/// Opens that many silent connections, to the addresses in turn, and returns when each was open once. They are opened again when they
/// are closed.
async fn silent(stage: &Stage, to: Vec<SocketAddr>, count: usize) -> Crowd {
    silent_after(b"", stage, to, count).await
}

/// Opens connections that say something before they are silent.
async fn silent_after(said: &'static [u8], stage: &Stage, to: Vec<SocketAddr>, count: usize) -> Crowd {
    let (crowd, mut all) = opening(said, stage, to, count);
    for _ in 0..count {
        all.recv().await.unwrap();
    }
    crowd
}

/// Begins to open connections; tells of each that is open.
fn opening(said: &'static [u8], stage: &Stage, to: Vec<SocketAddr>, count: usize) -> (Crowd, mpsc::Receiver<()>) {
    let (opened, all) = mpsc::channel(count);
    let crowd = Crowd::gather(stage, count, move |number, from| {
        let (to, opened) = (to[number % to.len()], opened.clone());
        async move {
            if let Ok(mut stream) = connect_from(from, to).await {
                let _ = stream.write_all(said).await;
                let _ = opened.try_send(());
                let _ = copy(&mut stream, &mut sink()).await;
            }
        }
    });
    (crowd, all)
}

/// The limit of files is below what the process takes for itself and the connections that it would have: the kernel refuses to accept.
#[tokio::test(flavor = "multi_thread")]
async fn without_files_the_oldest_make_room() {
    let idle = Stage::start().await.open_files().await;
    let stage = Stage::with_files(idle + SPARE_FILES).await;
    let _silent = opening(b"", &stage, ports(&stage).map(|(_, address)| address).to_vec(), 20 * SPARE_FILES);
    let unable = || async {
        anyhow::ensure!(stage.log().contains("cannot accept connections"), "it can");
        Ok(())
    };
    wait::until("there are no files left", PATIENCE, unable).await.unwrap();
    let beside = stage.good().measure().await.unwrap_or_else(|error| panic!("{error:#}\n{}", stage.log()));
    println!("without files: {beside}");
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

/// Reports of health come from agents, between the requests of their proxies. Alone they are no proxy.
#[tokio::test]
async fn streams_that_ask_for_no_configuration_end() {
    let stage = Stage::start().await;
    let mut client = AggregatedDiscoveryServiceClient::new(stage.good().plain_channel().await.unwrap());
    let (reports, stream) = mpsc::channel(1);
    let mut responses = client.stream_aggregated_resources(ReceiverStream::new(stream)).await.unwrap().into_inner();
    let reporting = tokio::spawn(async move {
        let type_url = "type.googleapis.com/istio.v1.HealthInformation".to_owned();
        while reports.send(DiscoveryRequest { type_url: type_url.clone(), ..DiscoveryRequest::default() }).await.is_ok() {
            sleep(Duration::from_millis(500)).await;
        }
    });
    let ended = timeout(PATIENCE, responses.message()).await.expect("the stream ends");
    assert_eq!(ended.unwrap_err().code(), Code::DeadlineExceeded);
    reporting.await.unwrap();
}

/// gRPC's own services for health and reflection are not served: a call that would stand for ever is answered at once.
#[tokio::test]
async fn no_stream_of_a_service_that_there_is_not_stands() {
    let stage = Stage::start().await;
    let good = stage.good();
    for (port, channel) in [("15010", good.plain_channel().await.unwrap()), ("15012", good.secure_channel().await.unwrap())] {
        for path in [
            "/grpc.health.v1.Health/Watch",
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        ] {
            let mut client = tonic::client::Grpc::new(channel.clone());
            client.ready().await.unwrap();
            let call = good.with_token(tokio_stream::pending::<()>());
            let codec = tonic_prost::ProstCodec::<(), ()>::default();
            let answer = timeout(PATIENCE, client.streaming(call, path.parse().unwrap(), codec)).await.expect("answered");
            assert_eq!(answer.err().map(|status| status.code()), Some(Code::Unimplemented), "{port}: {path}");
        }
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

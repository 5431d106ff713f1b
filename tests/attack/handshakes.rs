//! Handshakes that were begun as a whole and do not go on, or lead to no request: each computes, and holds what a connection holds
//! that is served, of which there is less than for so many. They neither keep others from their turn nor put each other out for ever.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::{ClientConfig, ClientConnection, RootCertStore};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy, sink},
    time::sleep,
};

use super::{
    crowd::{Crowd, as_many_as_allowed},
    good::tls,
    stage::{Stage, connect_from, services},
};

/// How much longer a call may take than at an instance that is left alone: this machine has the callers' work, too. A port that is
/// locked answers after ten seconds, or never.
const RATIO: f64 = 10.0;
/// How often the good client calls.
const CALLS: usize = 15;
/// How long a crowd is there before.
const GATHERED: Duration = Duration::from_secs(3);
/// How many connections begin one and do not go on: many more than there is memory for.
const MANY: usize = 5_000;
/// How many connections finish their handshakes: more than there is memory for.
const FINISHED: usize = 2_500;

/// The first bytes of HTTP/2 with empty settings.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Returns what a client begins a handshake with. It may be said any number of times.
fn client_hello() -> Arc<[u8]> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let mut client = ClientConnection::new(Arc::new(config), "istiod".try_into().unwrap()).unwrap();
    let mut said = Vec::new();
    client.write_tls(&mut said).unwrap();
    said.into()
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_that_do_not_go_on_lock_no_port() {
    let stage = Stage::start().await;
    let alone = Stage::beside(&stage, &services(3)).await;
    let many = as_many_as_allowed().min(MANY);
    for (port, to, said) in [
        ("15012", stage.secure_grpc(), client_hello()),
        ("15017", stage.webhooks(), client_hello()),
        ("15010", stage.plain_grpc(), PREFACE.into()),
    ] {
        let crowd = Crowd::gather(&stage, many, move |_, from| {
            let said = Arc::clone(&said);
            async move {
                if let Ok(mut stream) = connect_from(from, to).await {
                    let _ = stream.write_all(&said).await;
                    let _ = copy(&mut stream, &mut sink()).await;
                }
            }
        });
        assert_answered_beside(crowd, &stage, &alone, &format!("{many} connections to {port} that begin and do not go on")).await;
    }
    let (hello, to) = (client_hello(), stage.secure_grpc());
    let crowd = Crowd::gather(&stage, many, move |_, from| {
        let hello = Arc::clone(&hello);
        async move {
            if let Ok(mut stream) = connect_from(from, to).await {
                let _ = stream.write_all(&hello).await;
                let _ = stream.read(&mut [0]).await;
            }
        }
    });
    assert_answered_beside(crowd, &stage, &alone, &format!("{many} callers who leave when they are answered, and come again")).await;
}

/// The callers have the address of the good client here.
#[tokio::test(flavor = "multi_thread")]
async fn handshakes_without_a_request_lock_no_port() {
    let stage = Stage::start().await;
    let alone = Stage::beside(&stage, &services(3)).await;
    as_many_as_allowed();
    let (to, root) = (stage.secure_grpc(), stage.root());
    let crowd = Crowd::gather(&stage, FINISHED, move |_, _| {
        let root = root.clone();
        async move {
            if let Ok(mut stream) = tls(to, &root, "h2").await {
                let _ = copy(&mut stream, &mut sink()).await;
            }
        }
    });
    assert_answered_beside(crowd, &stage, &alone, &format!("{FINISHED} connections that ask nothing after the handshake")).await;
}

/// Asserts that calls are answered beside a crowd.
async fn assert_answered_beside(crowd: Crowd, stage: &Stage, alone: &Stage, attack: &str) {
    sleep(GATHERED).await;
    let (began, costs) = (Instant::now(), stage.cost().cpu);
    let calls = stage.good().measure_beside(&alone.good(), CALLS).await;
    let [beside, quiet] = calls.unwrap_or_else(|error| panic!("{attack}: {error:#}\n{:.20000}", stage.log()));
    beside.assert_within(RATIO, &quiet, attack);
    println!("  CPU {:?} in {:?}", stage.cost().cpu - costs, began.elapsed());
    drop(crowd);
}

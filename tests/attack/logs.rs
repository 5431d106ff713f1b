//! Callers that do wrong again and again: the log has some lines of each sort, and says how many it leaves out.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::sleep,
};
use tonic::{Request, transport::Channel};

use super::{
    blame::{node, refuse},
    stage::{Stage, services},
};

/// How often each is done.
const TIMES: usize = 150;
/// How many lines each ten seconds may bring: ten of each sort.
const LINES: usize = 10 * 8;
/// How long it takes until a line says how many were left out.
const PERIOD: Duration = Duration::from_secs(11);
/// How often a line stands for many that were left out, at least.
const SORTS: usize = 4;

#[tokio::test(flavor = "multi_thread")]
async fn callers_who_do_wrong_again_and_again_fill_no_log() {
    let stage = Stage::of_mesh(&services(3), &[]).await;
    let (plain, secure) = (stage.good().plain_channel().await.unwrap(), stage.good().secure_channel().await.unwrap());
    let (began, before) = (Instant::now(), stage.log().lines().count());
    for number in 0..TIMES {
        do_wrong(&stage, &plain, &secure, number).await;
    }
    // What becomes of pods is written more often.
    let most = 2 * TIMES + LINES * (began.elapsed().as_secs() as usize / 10 + 2);
    sleep(PERIOD).await;
    do_wrong(&stage, &plain, &secure, TIMES).await;
    let log = stage.log();
    let lines: Vec<&str> = log.lines().skip(before).collect();
    println!("{} lines of {TIMES} times each", lines.len());
    assert!(lines.len() < most, "{} lines, the last of them\n{}", lines.len(), lines[lines.len() - 30..].join("\n"));
    let left_out = lines.iter().filter(|line| line.contains("left_out=") && !line.contains("left_out=0")).count();
    assert!(left_out >= SORTS, "{left_out} lines say how many were left out:\n{}", lines.join("\n"));
}

/// Does what is wrong once, on each port and in several ways.
async fn do_wrong(stage: &Stage, plain: &Channel, secure: &Channel, number: usize) {
    let good = stage.good();
    for address in [stage.secure_grpc(), stage.webhooks()] {
        garbage(address).await;
    }
    for path in ["/inject", "/validate"] {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("pod-{number}")}, "spec": {"containers": 5}});
        let request = json!({"uid": "u", "namespace": "shop", "operation": "CREATE", "object": pod});
        let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request});
        for body in ["{".to_owned(), "[]".to_owned(), review.to_string()] {
            let _ = good.post(path, body).await;
        }
    }
    // Without a token, as a proxy of another namespace, and as one that refuses what it is given.
    let id = |namespace: &str| format!("sidecar~10.9.9.9~mallory-{number}.{namespace}~{namespace}.svc.cluster.local");
    let _ = refuse(secure, Request::new, node(&id("shop"), "shop"), "no", false).await;
    let _ = refuse(secure, |requests| good.with_token(requests), node(&id("bank"), "bank"), "no", false).await;
    let _ = refuse(plain, Request::new, node(&id("shop"), "shop"), "no", false).await;
}

async fn garbage(address: SocketAddr) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let _ = stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await;
    let _ = stream.read(&mut [0; 64]).await;
}

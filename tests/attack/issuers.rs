//! Issuers of tokens that never answer, or never stop: the keys of others are fetched all the same, and nobody else waits.

use anyhow::ensure;
use harness::{http_client::get_text, mesh::CONVERGE, wait};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::stage::{Stage, services};

/// How many key sets of each sort are wanted.
const EACH: usize = 100;
/// How often the good client calls here and at the instance that is left alone.
const CALLS: usize = 25;
/// What all that issuers send may take of memory: what may be read at the same time, several times over.
const MEMORY: u64 = 128 << 20;

const KEYS: &str = r#"{"keys":[{"crv":"Ed25519","kty":"OKP","x":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"}]}"#;

/// What an issuer does with a connection.
#[derive(Clone, Copy)]
enum Manner {
    Good,
    Silent,
    Endless,
    Circular,
}

/// Starts an issuer; returns where it is.
async fn issuer(manner: Manner) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, manner));
        }
    });
    url
}

async fn answer(mut stream: TcpStream, manner: Manner) {
    let mut request = [0; 4096];
    let _ = stream.read(&mut request).await;
    let head = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n";
    match manner {
        Manner::Good => drop(stream.write_all(format!("{head}{KEYS}").as_bytes()).await),
        Manner::Silent => _ = stream.read(&mut request).await,
        Manner::Circular => {
            let again = "HTTP/1.1 302 Found\r\nlocation: /again\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            let _ = stream.write_all(again.as_bytes()).await;
        }
        Manner::Endless => {
            let _ = stream.write_all(head.as_bytes()).await;
            while stream.write_all(&[b' '; 65536]).await.is_ok() {}
        }
    }
}

fn authentication(namespace: &str, name: &str, url: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{jwtRules: [{{issuer: 'https://{name}.example.com', jwksUri: '{url}/{name}', timeout: 2s}}]}}\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn issuers_that_never_answer_or_never_stop_hold_back_nobody() {
    let sorts = [("silent", Manner::Silent), ("endless", Manner::Endless), ("circular", Manner::Circular)];
    let mut mesh = services(3);
    for (sort, manner) in sorts {
        let url = issuer(manner).await;
        mesh.extend((0..EACH).map(|at| authentication("crowd", &format!("{sort}-{at}"), &url)));
    }
    let good_issuer = issuer(Manner::Good).await;
    // It is ready although most of the keys that it is to have cannot be had.
    let arguments = ["--jwks-allowed-networks", "127.0.0.1", "--jwks-refresh-interval", "1s"];
    let stage = Stage::of_mesh(&mesh, &arguments).await;
    let alone = Stage::beside(&stage, &services(3)).await;
    stage.write_file("good.yaml", &authentication("shop", "good", &good_issuer));
    wait::until("the keys of the good issuer", CONVERGE, || async {
        let told = get_text(stage.monitoring(), "/debug/diagnostics").await?;
        ensure!(told.contains("RequestAuthentication/crowd/silent-0"), "nothing is told of those that do not answer: {told}");
        ensure!(!told.contains("RequestAuthentication/shop/good"), "they are not there");
        let metrics = get_text(stage.monitoring(), "/metrics").await?;
        let fetched = metrics.lines().find_map(|line| line.strip_prefix("pilot_jwks_resolver_network_fetch_success_total "));
        ensure!(fetched.is_some_and(|count| count != "0"), "nothing was fetched: {fetched:?}");
        Ok(())
    })
    .await
    .unwrap();
    let [beside, quiet] = stage.good().measure_beside(&alone.good(), CALLS).await.unwrap();
    beside.assert_within(4.0, &quiet, "issuers that never answer or never stop");
    let (cost, cost_alone) = (stage.cost(), alone.cost());
    println!("{cost:?}, alone {cost_alone:?}");
    assert!(cost.peak < cost_alone.peak + MEMORY, "{} MB, alone {} MB", cost.peak >> 20, cost_alone.peak >> 20);
}

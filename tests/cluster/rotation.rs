//! The root is replaced under load by annotations, with two replicas, of which whoever leads goes.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use harness::{
    cluster::{
        Cluster, PATIENCE,
        pods::Pod,
        shop::{ISTIOD, SHOP, SYSTEM, Shop},
    },
    http_client::get_text,
    said::say,
    wait,
};
use serde_json::{Value, json};

use crate::{
    control_plane::living_leader,
    identity::{ceremony, have_own_ca, serial},
    stage::Measured,
};

const ASKED: &str = "istiod-lite.io/ca-rotate";
const SAID: &str = "istiod-lite.io/ca-rotation";
/// The files of a CA.
const FILES: [&str; 4] = ["ca-cert.pem", "ca-key.pem", "cert-chain.pem", "root-cert.pem"];

/// Checks a whole rotation in which nobody who asks notices anything: one leader goes between two steps, one while a step waits.
pub(crate) async fn the_root_is_replaced_while_leaders_go(cluster: &Cluster) -> Result<()> {
    have_own_ca(cluster).await?;
    let home = tempfile::tempdir()?;
    ceremony(home.path())?;
    let next = home.path().join("first");
    scale(cluster, 2).await?;
    let shop = Shop::find(cluster).await?;
    // Without it connections between Envoys live for ever, and nobody looks at certificates again.
    few_requests(cluster, &json!({"connectionPool": {"http": {"maxRequestsPerConnection": 10}}})).await?;
    let mut measured = Measured::start(&shop, 100).await?;

    put_beside(cluster, &next).await?;
    ask(cluster, "next").await?;
    let mut waited = says(cluster, "distributing").await?;
    measured.reached("both roots are handed out");
    delete_leader(cluster, &["--now"]).await?;
    ask(cluster, "next").await?;
    waited.extend(says(cluster, "switched").await?);
    measured.reached("the next CA signs");
    ask(cluster, "next").await?;
    delete_leader(cluster, &["--grace-period=0", "--force"]).await?;
    waited.extend(says(cluster, "settled").await?);
    measured.reached("the old root is dropped");

    let root = serial(&next.join("root-cert.pem"))?;
    for pod in shop.versions().iter().chain([shop.client(), shop.gateway()]) {
        wait::until(&format!("{} to trust the new root alone", pod.name), PATIENCE, || only_root(pod, &root)).await?;
    }
    // Under load for a while as it now is.
    tokio::time::sleep(Duration::from_secs(2)).await;
    measured.expect_no_failures(&shop).await?;
    say(&format!("cluster: a root replaced; waited for {} times, first: {}", waited.len(), waited.first().map_or("nobody", |said| said)));
    few_requests(cluster, &Value::Null).await?;
    scale(cluster, 1).await?;
    wait::until("one control plane again", PATIENCE, || async { cluster.only_pod(SYSTEM, ISTIOD).await.map(drop) }).await
}

async fn scale(cluster: &Cluster, replicas: u8) -> Result<()> {
    cluster.kubectl(&["-n", SYSTEM, "scale", "deployment/istiod", &format!("--replicas={replicas}")]).await?;
    cluster.kubectl(&["-n", SYSTEM, "rollout", "status", "deployment/istiod", "--timeout=180s"]).await.map(drop)
}

async fn few_requests(cluster: &Cluster, policy: &Value) -> Result<()> {
    let patch = json!({"spec": {"trafficPolicy": policy}}).to_string();
    cluster.kubectl(&["-n", SHOP, "patch", "destinationrule", "reviews", "--type=merge", "-p", &patch]).await.map(drop)
}

async fn put_beside(cluster: &Cluster, next: &Path) -> Result<()> {
    let entry = |name: &&str| anyhow::Ok((format!("next-{name}"), BASE64_STANDARD.encode(fs::read(next.join(name))?)));
    let entries = FILES.iter().map(entry).collect::<Result<BTreeMap<_, _>>>()?;
    patch(cluster, &json!({"data": entries})).await
}

async fn ask(cluster: &Cluster, step: &str) -> Result<()> {
    patch(cluster, &json!({"metadata": {"annotations": {ASKED: step}}})).await
}

async fn patch(cluster: &Cluster, patch: &Value) -> Result<()> {
    cluster.kubectl(&["-n", SYSTEM, "patch", "secret", "cacerts", "--type=merge", "-p", &patch.to_string()]).await.map(drop)
}

/// Waits until no step is asked for any more, and that stage is said. Returns what was waited for meanwhile.
async fn says(cluster: &Cluster, stage: &str) -> Result<Vec<String>> {
    let waited = parking_lot::Mutex::new(Vec::new());
    wait::until(&format!("{stage:?} to be said"), PATIENCE, || async {
        let secret: Value = serde_json::from_str(&cluster.kubectl(&["-n", SYSTEM, "get", "secret", "cacerts", "-o", "json"]).await?)?;
        let annotations = &secret["metadata"]["annotations"];
        let said = annotations[SAID].as_str().unwrap_or_default();
        let mut waited = waited.lock();
        if said.contains("waiting") && waited.last().is_none_or(|last| last != said) {
            waited.push(said.to_owned());
        }
        ensure!(annotations[ASKED].is_null() && said.starts_with(stage), "{:?} {said:?}", annotations[ASKED]);
        Ok(())
    })
    .await?;
    Ok(waited.into_inner())
}

/// Deletes whoever leads, and waits until another one does.
async fn delete_leader(cluster: &Cluster, how: &[&str]) -> Result<()> {
    let first = wait::until("a leader that is alive", PATIENCE, || living_leader(cluster)).await?;
    cluster.kubectl(&[&["-n", SYSTEM, "delete", "pod", &first][..], how].concat()).await?;
    wait::until("another leader", PATIENCE, || async {
        let now = living_leader(cluster).await?;
        ensure!(now != first, "still {now}");
        Ok(())
    })
    .await
}

/// Fails unless a pod's Envoy trusts that root and no other. `serial` is as openssl says it.
async fn only_root(pod: &Pod, serial: &str) -> Result<()> {
    let text = pod.place().run(async { get_text(([127, 0, 0, 1], 15000).into(), "/certs").await }).await?;
    let certificates: Value = serde_json::from_str(&text)?;
    let entries = certificates["certificates"].as_array().context("a list")?.iter();
    let trusted = entries.flat_map(|entry| entry["ca_cert"].as_array().into_iter().flatten());
    let trusted = trusted.filter_map(|certificate| certificate["serial_number"].as_str()).map(digits).collect::<Vec<_>>();
    let wanted = digits(serial.trim_start_matches("serial="));
    ensure!(!trusted.is_empty() && trusted.iter().all(|trusted| *trusted == wanted), "{trusted:?}, not {wanted}");
    Ok(())
}

fn digits(serial: &str) -> String {
    serial.to_lowercase().trim_start_matches('0').to_owned()
}

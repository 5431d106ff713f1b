//! Tokens and the CA change while everything runs.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use base64::Engine;
use harness::{
    cluster::{
        Cluster, PATIENCE,
        pods::Pod,
        shop::{INGRESS, SHOP, SYSTEM, Shop, account, available},
    },
    process::run,
    tools, wait,
};
use serde_json::Value;
use tokio::time::sleep;

use crate::stage::Measured;

/// For how long pods must have been ready to be believed.
const SETTLED: Duration = Duration::from_secs(10);

/// Checks what follows when the key that signs tokens is replaced: the kubelet projects new ones, the old ones are worth
/// nothing, and the mesh goes on by the new ones. The kubelet is started again for that, which shows every pod as not
/// ready for a moment: load runs from then on.
pub(crate) async fn projected_tokens_are_rotated(cluster: &Cluster) -> Result<()> {
    let before = tokens(cluster).await?;
    cluster.rotate_token_key().await?;
    let after = wait::until("a new token in every pod", PATIENCE, || async {
        let now = tokens(cluster).await?;
        let old = now.iter().filter(|token| before.contains(token)).count();
        ensure!(old == 0 && now.len() == before.len(), "{old} of {} are still the old ones", now.len());
        Ok(now)
    })
    .await?;
    ensure!(key_id(&before[0])? != key_id(&after[0])?, "signed by the same key");
    probed_again(cluster).await?;
    let shop = Shop::find(cluster).await?;
    let measured = Measured::start(&shop, 50).await?;
    // A successor of the control plane never saw the old key: who comes to it with an old token is refused.
    let istiod = crate::control_plane::replace_it(cluster).await?;
    let metrics = istiod.monitoring("/metrics").await?;
    let refused = metrics.lines().filter(|line| line.starts_with("citadel_server_authentication_failure_count")).collect::<Vec<_>>();
    ensure!(!refused.is_empty() && refused.iter().all(|line| line.ends_with(" 0")), "someone came with an old token: {refused:?}");
    // A pod that starts now gets its first certificate by such a token.
    cluster.kubectl(&["-n", SHOP, "rollout", "restart", "deployment/reviews-v2"]).await?;
    cluster.kubectl(&["-n", SHOP, "rollout", "status", "deployment/reviews-v2", "--timeout=180s"]).await?;
    measured.expect_no_failures(&shop).await
}

/// Checks an operator's own CA, and its next intermediate.
pub(crate) async fn a_new_intermediate_is_taken_without_restart(cluster: &Cluster) -> Result<()> {
    let home = tempfile::tempdir()?;
    ceremony(home.path())?;
    move_to_own_ca(cluster, &home.path().join("first")).await?;
    let shop = Shop::find(cluster).await?;
    let measured = Measured::start(&shop, 50).await?;
    let istiod = shop.control_planes().await?.pop().context("a control plane")?;
    ensure!(issuer(cluster).await? == serial(&home.path().join("first/ca-cert.pem"))?, "leaves are not signed by the first intermediate");
    secret(cluster, &home.path().join("second")).await?;
    let second = serial(&home.path().join("second/ca-cert.pem"))?;
    // Whoever asks from now on gets a leaf of the second; everyone trusts both, for their root is one.
    wait::until("a leaf of the new intermediate", PATIENCE, || async {
        cluster.kubectl(&["-n", SHOP, "rollout", "restart", "deployment/reviews-v1"]).await?;
        cluster.kubectl(&["-n", SHOP, "rollout", "status", "deployment/reviews-v1", "--timeout=180s"]).await?;
        ensure!(issuer(cluster).await? == second, "still the old one");
        Ok(())
    })
    .await?;
    let same = cluster.only_pod(SYSTEM, harness::cluster::shop::ISTIOD).await?;
    ensure!(same.name == istiod.name, "the control plane was replaced");
    measured.expect_no_failures(&shop).await
}

/// Waits until every pod has stayed ready for a while: a kubelet that was started again shows pods as not ready until it
/// has probed them, at a time of its own, and kube-proxy refuses connections to a Service whose only pod is one of them.
async fn probed_again(cluster: &Cluster) -> Result<()> {
    let (begun, mut since) = (Instant::now(), Instant::now());
    while since.elapsed() < SETTLED {
        ensure!(begun.elapsed() < PATIENCE, "no {SETTLED:?} in which all pods were ready:\n{}", account(cluster, INGRESS).await);
        if !all_are_ready(cluster).await? {
            since = Instant::now();
        }
        sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

async fn all_are_ready(cluster: &Cluster) -> Result<bool> {
    let list: Value = serde_json::from_str(&cluster.kubectl(&["get", "pods", "--all-namespaces", "-o", "json"]).await?)?;
    let is_true = |condition: &Value| condition["type"] == "Ready" && condition["status"] == "True";
    let is_ready = |pod: &Value| pod["status"]["conditions"].as_array().is_some_and(|conditions| conditions.iter().any(is_true));
    Ok(list["items"].as_array().context("a list of pods")?.iter().all(is_ready))
}

/// Returns the tokens by which the mesh's proxies say who they are.
async fn tokens(cluster: &Cluster) -> Result<Vec<String>> {
    let mut tokens = Vec::new();
    for (namespace, labels) in
        [(SHOP, "app=client"), (SHOP, "app=reviews,version=v1"), (SHOP, "app=reviews,version=v2"), (INGRESS, "istio=ingressgateway")]
    {
        let pod = cluster.only_pod(namespace, labels).await?.name;
        tokens.push(cluster.file_in_pod(namespace, &pod, "istio-token/istio-token").await?);
    }
    Ok(tokens)
}

/// Returns the id of the key that signed a token: the first part says it.
fn key_id(token: &str) -> Result<String> {
    token.split('.').next().map(str::to_owned).context("not a token")
}

/// Makes one root, and two intermediates of it, as the CA's files.
pub(crate) fn ceremony(home: &Path) -> Result<()> {
    let program = tools::istiod_lite()?;
    let text = |path: &str| home.join(path).display().to_string();
    let (root, passphrase) = (text("root"), text("passphrase"));
    fs::write(&passphrase, "a passphrase of a test that is long enough\n")?;
    run(&program, &["ca", "root", "--out", &root, "--passphrase-file", &passphrase])?;
    for folder in ["first", "second"] {
        run(&program, &["ca", "intermediate", "--root", &root, "--out", &text(folder), "--passphrase-file", &passphrase])?;
    }
    Ok(())
}

/// Puts a CA's files into the Secret `cacerts`, as the docs say.
async fn secret(cluster: &Cluster, folder: &Path) -> Result<()> {
    let from = format!("--from-file={}", folder.display());
    let manifest =
        cluster.kubectl(&["-n", SYSTEM, "create", "secret", "generic", "cacerts", &from, "--dry-run=client", "-o", "yaml"]).await?;
    cluster.kubectl_with(&["apply", "--server-side", "--force-conflicts", "-f", "-"], &manifest).await.map(|_| ())
}

/// Moves to an operator's CA, unless an earlier test did.
pub(crate) async fn have_own_ca(cluster: &Cluster) -> Result<()> {
    if cluster.kubectl(&["-n", SYSTEM, "get", "secret", "cacerts", "--ignore-not-found", "-o", "name"]).await?.is_empty() {
        let home = tempfile::tempdir()?;
        ceremony(home.path())?;
        move_to_own_ca(cluster, &home.path().join("first")).await?;
    }
    Ok(())
}

/// Moves from the self-signed root to an operator's: another root, so everything starts anew.
async fn move_to_own_ca(cluster: &Cluster, folder: &Path) -> Result<()> {
    secret(cluster, folder).await?;
    for (namespace, deployments) in
        [(SYSTEM, &["istiod"][..]), (SHOP, &["reviews-v1", "reviews-v2", "client"]), (INGRESS, &["istio-ingressgateway"])]
    {
        cluster.kubectl(&["-n", namespace, "delete", "pods", "--all", "--now"]).await?;
        available(cluster, namespace, deployments).await?;
    }
    Ok(())
}

/// Returns the serial number of the certificate that signed the leaf of `reviews` v1: the second one of its chain.
async fn issuer(cluster: &Cluster) -> Result<String> {
    let pod = cluster.only_pod(SHOP, "app=reviews,version=v1").await?;
    let dump: Value = pod.place().run(async { Pod::admin().config_dump().await }).await?;
    let secrets = dump["configs"].as_array().into_iter().flatten().flat_map(|part| part["dynamic_active_secrets"].as_array());
    let own = secrets.flatten().find(|secret| secret["name"] == "default").context("Envoy has no certificate")?;
    let chain = own["secret"]["tls_certificate"]["certificate_chain"]["inline_bytes"].as_str().context("the chain is inline")?;
    let chain = String::from_utf8(base64::engine::general_purpose::STANDARD.decode(chain)?)?;
    let issuer = chain.split_inclusive("-----END CERTIFICATE-----\n").nth(1).with_context(|| format!("a leaf alone: {chain}"))?;
    let file = tempfile::NamedTempFile::new()?;
    fs::write(file.path(), issuer)?;
    serial(file.path())
}

/// Returns the serial number of a certificate in a file.
pub(crate) fn serial(file: &Path) -> Result<String> {
    Ok(run("openssl", &["x509", "-noout", "-serial", "-in", &file.display().to_string()])?.trim().to_owned())
}

//! Pods come and go under load.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::{
    canary::Stage,
    cluster::{
        Cluster,
        shop::{SHOP, Shop, available},
    },
};

use crate::stage::Measured;

const DEPLOYMENT: &str = "deployment/reviews-v1";

/// Goes from one replica to three and back, then to another image: no request may notice.
pub(crate) async fn a_deployment_is_scaled_and_rolled_under_load(cluster: &Cluster) -> Result<()> {
    let shop = Shop::find(cluster).await?;
    shop.shift(0).await?;
    let mut measured = Measured::start(&shop, 100).await?;
    for replicas in [3, 1] {
        cluster.kubectl(&["-n", SHOP, "scale", DEPLOYMENT, &format!("--replicas={replicas}")]).await?;
        settle(cluster, replicas).await?;
        measured.reached(if replicas == 1 { "one replica" } else { "three replicas" });
    }
    let old = cluster.only_pod(SHOP, "app=reviews,version=v1").await?.name;
    cluster.kubectl(&["-n", SHOP, "set", "image", DEPLOYMENT, "reviews=localhost/reviews:2"]).await?;
    cluster.kubectl(&["-n", SHOP, "rollout", "status", DEPLOYMENT, "--timeout=180s"]).await?;
    measured.reached("rolled out");
    settle(cluster, 1).await?;
    measured.reached("the old pod is gone");
    let new = cluster.only_pod(SHOP, "app=reviews,version=v1").await?.name;
    ensure!(old != new, "nothing was rolled: {old}");
    measured.expect_no_failures(&shop).await
}

/// The probes of all pods of a version fail while they serve: no request may notice. A pod that ends meanwhile is drained.
pub(crate) async fn probes_fail_while_all_pods_serve(cluster: &Cluster) -> Result<()> {
    let shop = Shop::find(cluster).await?;
    shop.shift(0).await?;
    cluster.kubectl(&["-n", SHOP, "scale", DEPLOYMENT, "--replicas=2"]).await?;
    settle(cluster, 2).await?;
    let mut measured = Measured::start(&shop, 100).await?;
    let pods = cluster.pods(SHOP, "app=reviews,version=v1").await?;
    for pod in &pods {
        cluster.kubectl(&["-n", SHOP, "exec", &pod.name, "-c", "reviews", "--", "/reviews", "turn", "unready"]).await?;
    }
    wait_for_ready(cluster, 0).await?;
    measured.reached("no pod is ready");
    tokio::time::sleep(Duration::from_secs(5)).await;
    let [stays, goes] = &pods[..] else { anyhow::bail!("two pods were asked for: {}", pods.len()) };
    cluster.kubectl(&["-n", SHOP, "exec", &stays.name, "-c", "reviews", "--", "/reviews", "turn", "ready"]).await?;
    wait_for_ready(cluster, 1).await?;
    measured.reached("one pod is ready again");
    cluster.kubectl(&["-n", SHOP, "delete", "pod", &goes.name]).await?;
    measured.reached("the other is gone");
    cluster.kubectl(&["-n", SHOP, "scale", DEPLOYMENT, "--replicas=1"]).await?;
    settle(cluster, 1).await?;
    measured.expect_no_failures(&shop).await
}

async fn wait_for_ready(cluster: &Cluster, wanted: usize) -> Result<()> {
    harness::wait::until(&format!("{wanted} ready pods of reviews v1"), harness::cluster::PATIENCE, || async {
        let ready = ready(cluster).await?;
        ensure!(ready == wanted, "{ready} are");
        Ok(())
    })
    .await
}

/// Waits until exactly so many pods are there, those that end being gone.
async fn settle(cluster: &Cluster, replicas: usize) -> Result<()> {
    available(cluster, SHOP, &["reviews-v1"]).await?;
    harness::wait::until(&format!("{replicas} pods of reviews v1"), harness::cluster::PATIENCE, || async {
        let listed = cluster.kubectl(&["-n", SHOP, "get", "pods", "-l", "app=reviews,version=v1", "-o", "name"]).await?;
        let (seen, ready) = (listed.lines().count(), ready(cluster).await?);
        ensure!(seen == replicas && ready == replicas, "{seen} there, {ready} ready");
        Ok(())
    })
    .await?;
    // Under load for a while as it now is.
    tokio::time::sleep(Duration::from_secs(2)).await;
    Ok(())
}

async fn ready(cluster: &Cluster) -> Result<usize> {
    let said = cluster.kubectl(&["-n", SHOP, "get", DEPLOYMENT, "-o", "jsonpath={.status.readyReplicas}"]).await?;
    Ok(said.parse().unwrap_or_default())
}

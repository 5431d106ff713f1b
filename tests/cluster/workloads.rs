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

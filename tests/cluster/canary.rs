//! The main job on a cluster: the scenario of `make demo-cluster`.

use anyhow::{Result, ensure};
use harness::{
    canary,
    cluster::{Cluster, shop::Shop},
};

pub(crate) async fn a_canary_is_shifted_and_rolled_back(cluster: &Cluster) -> Result<()> {
    let mut shop = Shop::find(cluster).await?;
    ensure!(canary::run(&mut shop).await?, "see the table above");
    Ok(())
}

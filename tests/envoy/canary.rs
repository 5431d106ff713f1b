//! The main job: v1 and v2 deployed, half to each through the gateway, then all to v2, then rolled back.

use anyhow::{Result, ensure};
use harness::{
    address::Loopback,
    canary,
    manifest::with_weights,
    mesh::{Mesh, VIRTUAL_SERVICE, VIRTUAL_SERVICE_FILE},
    said::skip,
    tools,
};

use crate::mesh::{Measured, judge_shares, options, start, turn};

const STEPS: [u32; 4] = [0, 50, 100, 0];

#[tokio::test(flavor = "multi_thread")]
async fn half_then_all_then_rolled_back() -> Result<()> {
    let _turn = turn().await?;
    let mut mesh = start("1.40", true).await?;
    let measured = Measured::start(&mesh, 200).await?;
    for v2_percent in STEPS {
        let text = with_weights(&mesh.manifests().read(VIRTUAL_SERVICE_FILE)?, 100 - v2_percent, v2_percent);
        mesh.apply(VIRTUAL_SERVICE_FILE, &text, VIRTUAL_SERVICE).await?;
        judge_shares(&measured, &mut mesh, 500, v2_percent, 2 * STEPS.len()).await?;
    }
    measured.expect_no_failures(&mut mesh).await?;
    Ok(())
}

/// Runs what `make demo ARGS="--judge prometheus"` shows.
#[tokio::test(flavor = "multi_thread")]
async fn metrics_alone_promote_a_good_release_and_roll_back_a_bad_one() -> Result<()> {
    if tools::prometheus("prometheus").is_err() {
        skip("metrics_alone_promote_a_good_release_and_roll_back_a_bad_one", "no Prometheus: run `scripts/setup-prometheus`");
        return Ok(());
    }
    let _turn = turn().await?;
    let mut mesh = Mesh::start_reporting(options("1.40", true)?, Loopback::free()?).await?;
    ensure!(canary::judged::run(&mut mesh).await?, "what it printed says why");
    Ok(())
}

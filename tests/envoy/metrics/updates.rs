//! Listeners are replaced: what they counted goes on.

use std::{fs, path::Path};

use anyhow::{Result, ensure};
use harness::{
    admin::Admin,
    mesh::{CLIENT, CONVERGE, GATEWAY, MESH_HOST, Mesh, PODS, PUBLIC_HOST},
    wait,
};

use super::{
    MESH_CONFIG, REPORTING, REQUESTS, REVIEWS, asked,
    expected::{Expected, Workload, of_http},
    scrape, version,
};

pub(super) async fn keep_counts(mesh: &Mesh, config: &Path, envoy_minor: &str) -> Result<()> {
    let before = scrape(mesh).await?;
    let modified = sum(mesh, &["listener_manager.listener_modified"]).await?;
    let draft = config.join("draft");
    fs::write(&draft, format!("{REPORTING}accessLogFile: /dev/null\n"))?;
    fs::rename(draft, config.join(MESH_CONFIG))?;
    wait::until("other listeners in all proxies", CONVERGE, || async {
        let now = sum(mesh, &["listener_manager.listener_modified"]).await?;
        ensure!(now >= modified + PODS.len() as u64, "{now} were modified, {modified} before");
        Ok(())
    })
    .await?;
    let mut expected = Expected::default();
    let (gateway, client) = (mesh.network().socket(GATEWAY.host, 8080), mesh.network().socket(CLIENT.host, 9080));
    for (target, host, from) in [(gateway, PUBLIC_HOST, Workload::of(GATEWAY)), (client, MESH_HOST, Workload::of(CLIENT))] {
        for _ in 0..20 {
            let answer = asked(target, host, "/", &[]).await?;
            expected.request(&from, version(&answer)?, REVIEWS, &of_http("200", "-"));
        }
    }
    wait::until("the old listeners to be gone", CONVERGE, || async {
        let draining = ["listener_manager.total_listeners_draining", "listener_manager.total_filter_chains_draining"];
        let left = sum(mesh, &draining).await?;
        ensure!(left == 0, "{left} are draining");
        Ok(())
    })
    .await?;
    expected.are_counted(mesh, &before).await?;
    if envoy_minor == "1.38" {
        // Series for which there was nothing to count in the meantime are gone.
        return Ok(());
    }
    let after = scrape(mesh).await?;
    for pod in PODS {
        let lost = before[pod.name].growth(&after[pod.name], REQUESTS).into_iter().find(|(_, by)| *by > 0.0);
        ensure!(lost.is_none(), "{}: {lost:#?}", pod.name);
    }
    Ok(())
}

/// Returns the sum of some of Envoy's own statistics over all proxies.
async fn sum(mesh: &Mesh, names: &[&str]) -> Result<u64> {
    let mut sum = 0;
    for pod in PODS {
        let stats = Admin::new(mesh.network().socket(pod.host, 15000)).stats().await?;
        sum += names.iter().filter_map(|name| stats.get(*name)).sum::<u64>();
    }
    Ok(sum)
}

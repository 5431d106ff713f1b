//! A canary by `kubectl` only, effective at real Envoys.

use anyhow::Result;
use harness::{
    kubernetes::succeeded,
    statistics::{binomial_p_value, share_agrees},
};

use crate::{objects::virtual_service, shop::Shop};

#[tokio::test(flavor = "multi_thread")]
async fn a_weight_changed_by_a_patch_is_effective_at_the_envoys() -> Result<()> {
    let mut shop = Shop::start().await?;
    let traffic = shop.traffic().await?;
    shop.wait_for_version(&traffic, "v1").await?;
    kubectl_patch(&shop, 50).await?;
    wait_for_even_split(&shop, &traffic).await?;
    kubectl_patch(&shop, 100).await?;
    shop.wait_for_version(&traffic, "v2").await?;
    // Roll back as one does: apply what was there.
    let manifest = virtual_service(100, 0).to_string();
    succeeded(&shop.api.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", "-"], &manifest).await?)?;
    shop.wait_for_version(&traffic, "v1").await?;
    traffic.judge(&mut shop).await?;
    Ok(())
}

async fn kubectl_patch(shop: &Shop, v2: u32) -> Result<()> {
    let patch = format!(
        r#"[{{"op": "replace", "path": "/spec/http/0/route/0/weight", "value": {}}},
            {{"op": "replace", "path": "/spec/http/0/route/1/weight", "value": {v2}}}]"#,
        100 - v2
    );
    let arguments = ["--namespace", "shop", "patch", "virtualservice", "reviews", "--type", "json", "--patch", &patch];
    succeeded(&shop.api.kubectl(&arguments, "").await?)?;
    Ok(())
}

/// Waits until both versions answer on both ways, and judges the shares of what is sent then.
async fn wait_for_even_split(shop: &Shop, traffic: &crate::shop::Traffic) -> Result<()> {
    shop.wait_for_mixture(traffic).await?;
    let window = traffic.window(std::time::Duration::from_secs(4)).await;
    for path in ["gateway", "mesh"] {
        let seen = window.sample(path);
        let p_value = binomial_p_value(seen.of("v2"), seen.total, 0.5);
        anyhow::ensure!(share_agrees(p_value, 2) && seen.total > 50, "{path}: {} of {} on v2 (p = {p_value:e})", seen.of("v2"), seen.total);
    }
    Ok(())
}

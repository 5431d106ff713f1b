//! Istio's own `istioctl`, unmodified, against this cluster.

use anyhow::Result;
use harness::{
    cluster::{
        Cluster, PATIENCE,
        shop::{ISTIOD, SHOP, SYSTEM, Shop},
    },
    istioctl::{Envoy, Listed},
    wait,
};
use istiod_lite::version::VERSION;

/// What a captured sidecar and a gateway with routes subscribe to.
const ALL: &str = "4 (CDS,LDS,EDS,RDS)";

/// Checks `proxy-status`, `version`, `proxy-config`, `experimental internal-debug` and `analyze`.
pub(crate) async fn istioctl_shows_the_truth(cluster: &Cluster) -> Result<()> {
    let shop = Shop::find(cluster).await?;
    let mut pods = vec![(&shop.gateway().namespace, &shop.gateway().name), (&shop.client().namespace, &shop.client().name)];
    pods.extend(shop.versions().iter().map(|pod| (&pod.namespace, &pod.name)));
    let names: Vec<String> = pods.iter().map(|(namespace, name)| format!("{name}.{namespace}")).collect();
    let listed: Vec<Listed<'_>> = names.iter().map(|name| Listed { name, types: ALL }).collect();
    let client = format!("{}.{SHOP}", shop.client().name);
    let istiod = cluster.only_pod(SYSTEM, ISTIOD).await?;
    let istioctl = cluster.istioctl();
    // Pods that another test let go are listed until their connection ends.
    wait::until("istioctl to list the proxies", PATIENCE, || istioctl.expect_proxies(&listed, &istiod.name)).await?;
    istioctl.expect_synced(&listed).await?;
    istioctl.expect_version(VERSION, listed.len()).await?;
    istioctl.expect_debug_pages(listed.len()).await?;
    istioctl.expect_in_sync(&client, Envoy::InItsPod).await?;
    istioctl.expect_proxy_config(&client, Envoy::InItsPod).await?;
    cluster.kubectl(&["create", "namespace", "analyzed"]).await?;
    let nowhere = "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: nowhere, namespace: analyzed}, \
                   spec: {hosts: [nowhere], http: [{route: [{destination: {host: nowhere}}]}]}}";
    cluster.apply(nowhere).await?;
    istioctl.expect_finding("analyzed", "IST0101", "VirtualService analyzed/nowhere").await?;
    cluster.kubectl(&["delete", "namespace", "analyzed", "--wait=false"]).await.map(|_| ())
}

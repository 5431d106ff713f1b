//! `istioctl` shows the truth. It reaches the control plane directly: port-forward needs a kubelet, which only the
//! tests of the cluster have.

use anyhow::Result;
use harness::{
    istioctl::{Envoy, Istioctl, Listed, Reach},
    kubernetes::{ApiServer, Who},
    mesh::Pod,
    pilot_agent,
};
use istiod_lite::version;

use crate::stage::Stage;

/// Whose certificate istioctl shows.
const OPERATOR: Pod =
    Pod { host: 9, name: "operator", namespace: "istio-system", service_account: "default", labels: &[], role: "sidecar" };

/// Who is connected. `reviews` calls nobody and routes nothing: it asks for no endpoints and no routes.
const PROXIES: [Listed<'_>; 2] =
    [Listed { name: "client-1.shop", types: "4 (CDS,LDS,EDS,RDS)" }, Listed { name: "reviews-v1-1.shop", types: "2 (CDS,LDS)" }];

#[tokio::test(flavor = "multi_thread")]
async fn it_shows_the_truth() -> Result<()> {
    let (api, stage) = (ApiServer::shared().await?, Stage::start(&[]).await?);
    stage.ask().await?;
    api.namespace("shop").await?;
    let istioctl = istioctl(&api, &stage).await?;
    istioctl.expect_proxies(&PROXIES, "istiod-lite").await?;
    istioctl.expect_synced(&PROXIES).await?;
    istioctl.expect_version(version::VERSION, 2).await?;
    istioctl.expect_debug_pages(2).await?;
    let envoy = Envoy::Here { admin: stage.client.admin(), folder: stage.home() };
    istioctl.expect_in_sync("client-1.shop", envoy).await?;
    istioctl.expect_proxy_config("client-1.shop", envoy).await
}

#[tokio::test(flavor = "multi_thread")]
async fn it_analyzes_what_users_wrote() -> Result<()> {
    let api = ApiServer::shared().await?;
    api.namespace("analyzed").await?;
    let nowhere = "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: nowhere, namespace: analyzed}
spec:
  hosts: [nowhere.analyzed.svc.cluster.local]
  http: [{route: [{destination: {host: nowhere.analyzed.svc.cluster.local}}]}]
";
    api.apply(nowhere).await?;
    let kubeconfig = api.kubeconfig("analyst", Who::Admin, api.address())?;
    Istioctl::new(kubeconfig, Reach::Cluster).expect_finding("analyzed", "IST0101", "VirtualService analyzed/nowhere").await
}

async fn istioctl(api: &ApiServer, stage: &Stage) -> Result<Istioctl> {
    let setup = stage.setup(OPERATOR);
    let certificates = pilot_agent::certificates(setup).await?;
    let address = setup.discovery;
    Ok(Istioctl::new(api.kubeconfig("operator", Who::Admin, api.address())?, Reach::ByCertificate { address, certificates }))
}

//! Both clients with what a cluster gives them: tokens of its API server, and the root certificate that the control plane
//! keeps there.

use std::fs;

use anyhow::{Context, Result};
use harness::{
    address::Loopback,
    istioctl::{Istioctl, Listed, Reach},
    kubernetes::{ApiServer, Object, Options, Who, crds},
    launch::{self, PORT_PLAIN_HTTP, PORT_SECURE_GRPC},
    mesh::{CLIENT, START, wait_until_ready},
    pilot_agent::{Credentials, PilotAgent, Setup},
    wait,
};
use istiod_lite::version;

use crate::stage::options;

/// A pod that calls nobody, so that nothing is bound for it.
const POD: &str = "apiVersion: v1
kind: ServiceAccount
metadata: {name: client, namespace: shop}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: default, namespace: shop}
spec: {egress: [{hosts: [\"~/*\"]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client-1, namespace: shop, labels: {app: client}}
spec: {serviceAccountName: client, nodeName: somewhere, containers: [{name: app, image: none}]}
status: {podIP: 10.1.2.3, podIPs: [{ip: 10.1.2.3}], phase: Running, conditions: [{type: Ready, status: \"True\"}]}
";

#[tokio::test(flavor = "multi_thread")]
async fn both_prove_themselves_by_tokens_of_the_cluster() -> Result<()> {
    let (network, home, options) = (Loopback::free()?, tempfile::tempdir()?, options()?);
    fs::create_dir(home.path().join("logs"))?;
    let api = ApiServer::start(Options::default()).await?;
    api.define(&crds::istio()).await?;
    for namespace in ["istio-system", "shop"] {
        api.namespace(namespace).await?;
    }
    api.apply(POD).await?;
    let kubeconfig = api.kubeconfig("everyone", Who::Admin, api.address())?;
    let arguments = ["--kubeconfig".into(), kubeconfig.clone().into(), "--pod-name".into(), "istiod-0".into()];
    let ca = ["--ca-dir".into(), home.path().join("none").into()];
    let mut control_plane = launch::replica("control-plane", &options, home.path(), network.address(1), &[&arguments[..], &ca].concat())?;
    wait_until_ready(&mut control_plane, network.socket(1, PORT_PLAIN_HTTP), "/ready").await?;

    let certificate = Object { api_version: "v1", kind: "ConfigMap", namespace: "shop", name: "istio-ca-root-cert" };
    let root = wait::until("the root certificate in the pod's namespace", START, || async {
        let found = api.get(certificate).await?;
        found["data"]["root-cert.pem"].as_str().map(str::to_owned).context("no certificate in it")
    })
    .await?;
    let token = api.token("shop", "client", Some("istio-ca"), Some("client-1")).await?;
    let (discovery, address) = (network.socket(1, PORT_SECURE_GRPC), network.address(CLIENT.host));
    let credentials = Credentials::Cluster { token: &token, root: &root };
    let setup = Setup { options: &options, home: home.path(), credentials, pod: CLIENT, address, discovery, environment: &[] };
    let mut agent = PilotAgent::start(setup)?;
    agent.wait_until_ready().await?;

    let istioctl = Istioctl::new(kubeconfig, Reach::ByToken { address: discovery });
    istioctl.expect_proxies(&[Listed { name: "client-1.shop", types: "2 (CDS,LDS)" }], "istiod-0").await?;
    istioctl.expect_version(version::VERSION, 1).await
}

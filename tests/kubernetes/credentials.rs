//! Secrets and ConfigMaps for gateways, by the rights that a real API server knows of.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use envoy_types::pb::envoy::{
    config::core::v3::Node,
    service::discovery::v3::{DeltaDiscoveryRequest, aggregated_discovery_service_client::AggregatedDiscoveryServiceClient},
};
use harness::{
    kubernetes::{ApiServer, Object},
    wait,
};
use istiod_lite::xds::resource_type::ResourceType;
use rcgen::{CertificateParams, KeyPair};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;

use crate::{
    replica::{Installation, Replica},
    shop::PATIENCE,
};

const NAMESPACE: &str = "credentials";
const KEY: &str = "kubernetes://till";
const ROOTS: &str = "kubernetes://till-cacert";
/// What the clients of another server are verified with.
const TELLERS: &str = "configmap://credentials/tellers-cacert";

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_is_given_a_key_if_its_account_may_list_secrets() -> Result<()> {
    let plane = Installation::new(ApiServer::shared().await?, "mesh-credentials").await?;
    for account in ["edge", "teller"] {
        plane.pod(NAMESPACE, account, &format!("{account}-0")).await?;
    }
    plane.api.put(&[gateway()]).await?;
    plane.api.put(&may_list_secrets("edge")).await?;
    plane.api.put(&[secret("till")?, secret("other")?, config_map()?]).await?;
    let istiod = plane.start("istiod-1", 1, plane.api.address())?;
    istiod.wait_until_ready().await?;
    let root = plane.secret("istio-ca-secret").await?["root-cert.pem"].clone();
    let given = async |account: &str| {
        let token = plane.api.token(NAMESPACE, account, Some("istio-ca"), Some(&format!("{account}-0"))).await?;
        given(&istiod, &root, account, &token).await
    };
    ensure!(given("edge").await? == [KEY, ROOTS, TELLERS].map(str::to_owned).into(), "{:?}", given("edge").await?);
    ensure!(given("teller").await? == [ROOTS, TELLERS].map(str::to_owned).into(), "{:?}", given("teller").await?);

    // What is deleted is still given, until nobody names it.
    plane.api.delete(Object { api_version: "v1", kind: "Secret", namespace: NAMESPACE, name: "till" }).await?;
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    ensure!(given("edge").await?.contains(KEY), "the last good one");
    plane.api.delete(Object { api_version: "networking.istio.io/v1", kind: "Gateway", namespace: NAMESPACE, name: "front" }).await?;
    wait::until("nothing is given that nobody names", PATIENCE, || async {
        let given = given("edge").await?;
        ensure!(given.is_empty(), "{given:?}");
        Ok(())
    })
    .await
}

/// Returns the names of the secrets that a gateway is given of those that it asks for.
async fn given(istiod: &Replica, root: &str, account: &str, token: &str) -> Result<BTreeSet<String>> {
    let asked = [KEY, ROOTS, TELLERS, "kubernetes://other", "kubernetes://mesh-credentials/istio-ca-secret"];
    let mut client = AggregatedDiscoveryServiceClient::new(istiod.connect(root).await?);
    let (requests, stream) = mpsc::channel(1);
    let node = Node { id: format!("router~10.1.2.3~{account}-0.{NAMESPACE}~{NAMESPACE}.svc.cluster.local"), ..Node::default() };
    let request = DeltaDiscoveryRequest {
        node: Some(node),
        type_url: ResourceType::Secret.type_url().into(),
        resource_names_subscribe: asked.map(str::to_owned).into(),
        ..DeltaDiscoveryRequest::default()
    };
    requests.send(request).await?;
    let mut stream = Request::new(ReceiverStream::new(stream));
    stream.metadata_mut().insert("authorization", format!("Bearer {token}").parse()?);
    let mut responses = client.delta_aggregated_resources(stream).await?.into_inner();
    let answer = responses.message().await?.context("the stream ended")?;
    ensure!(answer.resources.len() + answer.removed_resources.len() == asked.len(), "{:?}", answer.removed_resources);
    Ok(answer.resources.into_iter().map(|resource| resource.name).collect())
}

fn gateway() -> serde_json::Value {
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "Gateway", "metadata": {"name": "front", "namespace": NAMESPACE},
        "spec": {"selector": {"app": "edge"}, "servers": [{
            "port": {"number": 443, "name": "https", "protocol": "HTTPS"}, "hosts": ["till.example.com"],
            "tls": {"mode": "MUTUAL", "credentialName": "till"},
        }, {
            "port": {"number": 444, "name": "https-tellers", "protocol": "HTTPS"}, "hosts": ["tellers.example.com"],
            "tls": {"mode": "MUTUAL", "credentialName": "till", "caCertCredentialName": TELLERS},
        }]},
    })
}

fn may_list_secrets(account: &str) -> [serde_json::Value; 2] {
    let (group, metadata) = ("rbac.authorization.k8s.io", json!({"name": "secrets", "namespace": NAMESPACE}));
    let api_version = format!("{group}/v1");
    let rules = json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "watch", "list"]}]);
    [
        json!({"apiVersion": api_version, "kind": "Role", "metadata": metadata, "rules": rules}),
        json!({
            "apiVersion": api_version, "kind": "RoleBinding", "metadata": metadata,
            "roleRef": {"apiGroup": group, "kind": "Role", "name": "secrets"},
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}],
        }),
    ]
}

fn config_map() -> Result<serde_json::Value> {
    let certificate = CertificateParams::new(["teller".to_owned()])?.self_signed(&KeyPair::generate()?)?.pem();
    Ok(json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "tellers", "namespace": NAMESPACE},
        "data": {"ca.crt": certificate, "other": "not read"},
    }))
}

fn secret(name: &str) -> Result<serde_json::Value> {
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(["till.example.com".to_owned()])?.self_signed(&key)?.pem();
    Ok(json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": {"name": name, "namespace": NAMESPACE},
        "stringData": {"tls.crt": certificate, "tls.key": key.serialize_pem(), "ca.crt": certificate},
    }))
}

//! Who else than a pod asks for certificates: a node's proxy for the pods of its node, and machines with tokens of another issuer.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::{Context, Result, ensure};
use harness::{
    address::Loopback,
    issuer::Issuer,
    kubernetes::{ApiServer, Object},
    wait,
};
use istiod_lite::identity::local_issuer::{LocalIssuer, TokenRequest};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tonic::Code;

use crate::{
    objects,
    replica::{Installation, Replica},
    shop::PATIENCE,
};

const AUDIENCE: &str = "istio-ca";
const NODES: &str = "nodes";
const CART: &str = "spiffe://cluster.local/ns/nodes/sa/cart";
const TILL: &str = "spiffe://cluster.local/ns/nodes/sa/till";

#[tokio::test(flavor = "multi_thread")]
async fn a_nodes_proxy_is_given_certificates_of_the_pods_on_its_node_alone() -> Result<()> {
    let plane = Installation::new(ApiServer::shared().await?, "mesh-nodes").await?;
    plane.api.namespace(NODES).await?;
    for (account, node) in [("ztunnel", "node-a"), ("cart", "node-a"), ("till", "node-b")] {
        plane.api.put(&pod_on(account, node)).await?;
    }
    let flags = ["--trusted-node-accounts".to_owned(), format!("{NODES}/ztunnel")];
    let istiod = plane.start_with("istiod-1", 1, plane.api.address(), &flags)?;
    istiod.wait_until_ready().await?;
    let root = plane.secret("istio-ca-secret").await?["root-cert.pem"].clone();
    let token = async |account: &str| plane.api.token(NODES, account, Some(AUDIENCE), Some(&format!("{account}-1"))).await;
    let (ztunnel, cart) = (token("ztunnel").await?, token("cart").await?);
    let given = async |token: &str, wanted: Option<&str>| identity(&istiod, &root, token, wanted).await;

    // The pods are known a moment after they were written.
    wait::until("a certificate for a pod of the node", PATIENCE, || async {
        ensure!(given(&ztunnel, Some(CART)).await? == CART, "of somebody else");
        Ok(())
    })
    .await?;
    ensure!(given(&ztunnel, None).await? == "spiffe://cluster.local/ns/nodes/sa/ztunnel", "its own");
    let unbound = plane.api.token(NODES, "ztunnel", Some(AUDIENCE), None).await?;
    for (what, token, wanted) in [
        ("a pod of another node", &ztunnel, TILL),
        ("nobody", &ztunnel, "spiffe://cluster.local/ns/nodes/sa/nobody"),
        ("another trust domain", &ztunnel, "spiffe://example.org/ns/nodes/sa/cart"),
        ("no identity", &ztunnel, "cart"),
        ("a pod, by a token that is bound to none", &unbound, CART),
        ("a node's proxy, by a pod beside it", &cart, "spiffe://cluster.local/ns/nodes/sa/ztunnel"),
        ("the pod itself, by another way than its own", &cart, CART),
    ] {
        refused(&istiod, &root, token, Some(wanted)).await.context(what)?;
    }

    // A pod comes to the node, and goes from it.
    let pod = |name| Object { api_version: "v1", kind: "Pod", namespace: NODES, name };
    plane.api.delete(pod("till-1")).await?;
    plane.api.put(&pod_on("till", "node-a")).await?;
    wait::until("a certificate for the pod that came", PATIENCE, || async {
        ensure!(given(&ztunnel, Some(TILL)).await? == TILL, "of somebody else");
        Ok(())
    })
    .await?;
    plane.api.delete(pod("till-1")).await?;
    wait::until("no certificate for the pod that is gone", PATIENCE, || refused(&istiod, &root, &ztunnel, Some(TILL))).await?;
    plane.api.delete(pod("ztunnel-1")).await?;
    wait::until("no certificate without the proxy's pod", PATIENCE, || refused(&istiod, &root, &ztunnel, Some(CART))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_another_issuer_are_good_beside_those_of_the_cluster() -> Result<()> {
    let plane = Installation::new(ApiServer::shared().await?, "mesh-issuer").await?;
    plane.pod("pods-beside-machines", "reviews", "reviews-1").await?;
    let network = Loopback::free()?;
    let mut issuer = Issuer::new(network.socket(1, 8089))?;
    let (old, stranger) = (LocalIssuer::generate(&issuer.url())?, LocalIssuer::generate(&issuer.url())?);
    let elsewhere = LocalIssuer::generate("https://elsewhere.example.com")?;
    issuer.publish(&serde_json::from_str(&old.key_set())?)?;
    let flags = ["--jwt-rule".to_owned(), json!({"issuer": issuer.url(), "audiences": [AUDIENCE]}).to_string()];
    let istiod = plane.start_with("istiod-1", 1, plane.api.address(), &flags)?;
    istiod.wait_until_ready().await?;
    let root = plane.secret("istio-ca-secret").await?["root-cert.pem"].clone();

    // Nobody knows yet whether it is good: whoever calls may try again. Tokens of the cluster are not concerned.
    istiod.wait_for_answer(&root, &of_machine(&old, AUDIENCE, 0)?, Code::Unavailable).await?;
    let of_cluster = plane.api.token("pods-beside-machines", "reviews", Some(AUDIENCE), Some("reviews-1")).await?;
    istiod.wait_for_answer(&root, &of_cluster, Code::Ok).await?;
    issuer.start().await?;
    istiod.wait_for_answer(&root, &of_machine(&old, AUDIENCE, 0)?, Code::Ok).await?;
    let machine = "spiffe://cluster.local/ns/machines/sa/press";
    ensure!(identity(&istiod, &root, &of_machine(&old, AUDIENCE, 0)?, None).await? == machine);
    let audited = |line: &str| line.contains("istiod_lite::audit") && line.contains(machine) && line.contains("token of an OpenID issuer");
    ensure!(istiod.process.log().lines().any(audited), "no line of the audit log");
    for (what, token) in [
        ("an expired one", of_machine(&old, AUDIENCE, -2)?),
        ("one for another audience", of_machine(&old, "vault", 0)?),
        ("one of a stranger's key", of_machine(&stranger, AUDIENCE, 0)?),
        ("one of another issuer", of_machine(&elsewhere, AUDIENCE, 0)?),
    ] {
        refused(&istiod, &root, &token, None).await.context(what)?;
    }

    // Keys come and go, and so does the issuer.
    let next = LocalIssuer::generate(&issuer.url())?;
    issuer.publish(&serde_json::from_str(&next.key_set())?)?;
    istiod.wait_for_answer(&root, &of_machine(&next, AUDIENCE, 0)?, Code::Ok).await?;
    istiod.wait_for_answer(&root, &of_machine(&old, AUDIENCE, 0)?, Code::Unauthenticated).await?;
    issuer.kill()?;
    istiod.wait_for_answer(&root, &of_machine(&next, AUDIENCE, 0)?, Code::Ok).await?;
    istiod.wait_for_answer(&root, &of_cluster, Code::Ok).await
}

/// Returns a token of a machine, which was issued so many hours from now and is good for an hour.
fn of_machine(issuer: &LocalIssuer, audience: &str, hours: i64) -> Result<String> {
    let request = TokenRequest { namespace: "machines", service_account: "press", audience, ttl: Duration::from_secs(3_600) };
    Ok(issuer.token(&request, Timestamp::now() + SignedDuration::from_hours(hours))?)
}

/// Returns the service account and the one pod of it, on this node.
fn pod_on(account: &str, node: &str) -> [Value; 2] {
    let owner = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account, "namespace": NODES}});
    let address = Ipv4Addr::new(10, 1, 2, 3).into();
    let mut pod = objects::pod(NODES, &format!("{account}-1"), account, &json!({"app": account}), address);
    pod["spec"]["nodeName"] = node.into();
    [owner, pod]
}

async fn identity(istiod: &Replica, root: &str, token: &str, wanted: Option<&str>) -> Result<String> {
    let chain = istiod.certificate_for(root, token, wanted).await?;
    Ok(chain.first().and_then(|leaf| leaf.spiffe_id()).context("no SPIFFE id")?.to_string())
}

/// Fails unless the caller is refused as nobody who may have that.
async fn refused(istiod: &Replica, root: &str, token: &str, wanted: Option<&str>) -> Result<()> {
    match istiod.certificate_for(root, token, wanted).await {
        Err(status) if status.code() == Code::Unauthenticated => Ok(()),
        Err(status) => Err(status.into()),
        Ok(_) => anyhow::bail!("a certificate was given"),
    }
}

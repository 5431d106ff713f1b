//! The root in Secret `cacerts` is replaced by annotations, while control planes come and go.

use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, SocketAddr},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use envoy_types::pb::envoy::{
    config::core::v3::Node,
    service::discovery::v3::{DiscoveryRequest, DiscoveryResponse, aggregated_discovery_service_client::AggregatedDiscoveryServiceClient},
};
use futures::{StreamExt, stream};
use harness::{
    kubernetes::{ApiServer, Object, Who},
    launch::PORT_MONITORING,
    process::tail,
    wait,
};
use istiod_lite::{
    identity::{
        ca::Serial,
        ceremony::{self, CaRequest, CaSubject},
        certificate::Certificate,
        key::{KeyType, PrivateKey},
    },
    xds::resource_type::ResourceType,
};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tonic::{Request, Streaming};

use crate::{
    objects,
    replica::{Installation, Replica},
    shop::PATIENCE,
};

const ASKED: &str = "istiod-lite.io/ca-rotate";
const SAID: &str = "istiod-lite.io/ca-rotation";
/// An address at which nobody is.
const LOST: Ipv4Addr = Ipv4Addr::new(10, 1, 2, 4);

#[tokio::test(flavor = "multi_thread")]
async fn an_annotation_of_cacerts_replaces_the_root_under_changing_leaders() -> Result<()> {
    let plane = Installation::new(ApiServer::shared().await?, "mesh-rotation").await?;
    plane.pod("rotation", "reviews", "reviews-1").await?;
    let (old, next) = (authority("old")?, authority("next")?);
    plane.put_secret("cacerts", &old.clone().into_iter().chain(beside(&next)).collect()).await?;

    let first = start(&plane, "istiod-1", 1)?;
    first.wait_until_ready().await?;
    says(&plane, &first, "planned").await?;
    ask(&plane, "forward").await?;
    says(&plane, &first, "neither next nor abort").await?;
    ask(&plane, "next").await?;
    says(&plane, &first, "distributing").await?;
    handed_out(&plane, &[&old, &next]).await?;
    ensure!(plane.secret("cacerts").await?["ca-cert.pem"] == old["ca-cert.pem"]);

    // Another leader goes on where the last one was.
    drop(first);
    let second = start(&plane, "istiod-2", 2)?;
    second.wait_until_ready().await?;
    ask(&plane, "next").await?;
    says(&plane, &second, "switched").await?;
    handed_out(&plane, &[&next, &old]).await?;
    let token = plane.api.token("rotation", "reviews", Some("istio-ca"), Some("reviews-1")).await?;
    wait::until("a certificate under the next root", PATIENCE, || async {
        let chain = second.certificate(&format!("{}{}", next["root-cert.pem"], old["root-cert.pem"]), &token).await?;
        ensure!(chain.get(1).context("no intermediate")?.pem() == next["ca-cert.pem"]);
        Ok(())
    })
    .await?;
    ask(&plane, "next").await?;
    says(&plane, &second, "settled").await?;
    handed_out(&plane, &[&next]).await?;
    ensure!(plane.secret("cacerts").await? == next.iter().map(|(name, text)| ((*name).to_owned(), text.clone())).collect());
    Ok(())
}

/// Each replica knows of its own proxies; the leader asks all.
#[tokio::test(flavor = "multi_thread")]
async fn a_step_waits_for_the_proxies_of_every_replica() -> Result<()> {
    let plane = Installation::new(ApiServer::shared().await?, "mesh-rotation-replicas").await?;
    plane.pod("rotation-replicas", "reviews", "reviews-1").await?;
    let (old, next) = (authority("old")?, authority("next")?);
    plane.put_secret("cacerts", &old.clone().into_iter().chain(beside(&next)).collect()).await?;
    let leader = start(&plane, "istiod-1", 1)?;
    leader.wait_until_ready().await?;
    leader.wait_for_metric("istiod_lite_leader{lease=\"istio-namespace-controller-election\"} 1").await?;
    let other = start(&plane, "istiod-2", 2)?;
    other.wait_until_ready().await?;
    for (name, replica) in [("istiod-1", &leader), ("istiod-2", &other)] {
        plane.api.put(&[objects::pod(&plane.namespace, name, "default", &json!({"app": "istiod"}), replica.address)]).await?;
    }

    let token = plane.api.token("rotation-replicas", "reviews", Some("istio-ca"), Some("reviews-1")).await?;
    let both = format!("{}{}", old["root-cert.pem"], next["root-cert.pem"]);
    other.certificate(&both, &token).await?;
    let proxy = other.proxy(&both, &token, "sidecar~10.1.2.3~reviews-1.rotation-replicas~rotation-replicas.svc.cluster.local").await?;
    ask(&plane, "next").await?;
    says(&plane, &leader, "distributing").await?;
    ask(&plane, "next").await?;
    waits(&plane, &leader, "reviews-1.rotation-replicas: was last told what to trust").await?;
    // A pod with a proxy that is connected to nobody.
    let lost = objects::pod("rotation-replicas", "reviews-2", "reviews", &json!({"security.istio.io/tlsMode": "istio"}), LOST.into());
    plane.api.put(&[lost]).await?;
    waits(&plane, &leader, "reviews-2.rotation-replicas: its pod runs, but it is connected to none").await?;
    plane.api.delete(Object { api_version: "v1", kind: "Pod", namespace: "rotation-replicas", name: "reviews-2" }).await?;
    other.certificate(&both, &token).await?;
    says(&plane, &leader, "switched").await?;

    // Who does not answer may have proxies.
    ask(&plane, "next").await?;
    waits(&plane, &leader, "reviews-1.rotation-replicas: holds a certificate under the root that would go").await?;
    drop((proxy, other));
    waits(&plane, &leader, "the control plane istiod-2 (127.").await?;
    plane.api.delete(Object { api_version: "v1", kind: "Pod", namespace: &plane.namespace, name: "istiod-2" }).await?;
    says(&plane, &leader, "settled").await
}

/// The commands of an operator, against the API server.
#[tokio::test(flavor = "multi_thread")]
async fn the_command_replaces_the_root_in_a_secret() -> Result<()> {
    let plane = Installation::new(ApiServer::shared().await?, "mesh-rotation-command").await?;
    let (old, next) = (authority("old")?, authority("next")?);
    let folder = tempfile::tempdir()?;
    next.iter().try_for_each(|(name, text)| fs::write(folder.path().join(name), text))?;
    plane.put_secret("cacerts", &old).await?;
    let replica = start(&plane, "istiod-1", 1)?;
    replica.wait_until_ready().await?;
    let kubeconfig = plane.api.kubeconfig("rotation-command", Who::Admin, plane.api.address())?;
    let address = SocketAddr::new(replica.address, PORT_MONITORING).to_string();
    let rotate = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_istiod-lite"));
        command.env("KUBECONFIG", &kubeconfig).args(["ca", "rotate", "--secret", &plane.namespace, "--address", &address]).args(arguments);
        let output = tokio::task::block_in_place(|| command.output())?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        anyhow::Ok((output.status.success(), text))
    };
    let takes = |arguments: &[&str], stage: &str| {
        let (succeeded, text) = rotate(arguments)?;
        ensure!(succeeded && text.contains(stage), "{arguments:?}: {text}");
        Ok(())
    };
    let (succeeded, text) = rotate(&["--next"])?;
    ensure!(!succeeded && text.contains("no rotation is on"), "{text}");
    takes(&["--plan", &folder.path().display().to_string()], "planned")?;
    takes(&["--status"], "planned")?;
    takes(&["--next"], "distributing")?;
    handed_out(&plane, &[&old, &next]).await?;
    takes(&["--next", "--wait", "60"], "switched")?;
    takes(&["--abort", "--wait", "60"], "distributing")?;
    takes(&["--next", "--wait", "60"], "switched")?;
    takes(&["--next", "--wait", "60"], "settled")?;
    handed_out(&plane, &[&next]).await?;
    ensure!(plane.secret("cacerts").await? == next.iter().map(|(name, text)| ((*name).to_owned(), text.clone())).collect());
    Ok(())
}

/// Starts a replica that knows only of its own pods: other tests have some.
fn start(plane: &Installation, name: &str, host: u8) -> Result<Replica> {
    let namespace = plane.namespace.trim_start_matches("mesh-");
    plane.start_with(name, host, plane.api.address(), &["--watch-namespaces".to_owned(), namespace.to_owned()])
}

async fn cacerts(plane: &Installation) -> Result<Value> {
    plane.api.get(object(plane)).await
}

fn object(plane: &Installation) -> Object<'_> {
    Object { api_version: "v1", kind: "Secret", namespace: &plane.namespace, name: "cacerts" }
}

async fn ask(plane: &Installation, step: &str) -> Result<()> {
    plane.api.patch(object(plane), &json!({"metadata": {"annotations": {ASKED: step}}})).await
}

/// Waits until no step is asked for any more, and the annotation says this.
async fn says(plane: &Installation, leader: &Replica, words: &str) -> Result<()> {
    wait::until(&format!("{words:?} to be said"), PATIENCE, || async {
        let annotations = cacerts(plane).await?["metadata"]["annotations"].clone();
        let (asked, said) = (&annotations[ASKED], annotations[SAID].as_str().unwrap_or_default());
        ensure!(asked.is_null() && said.contains(words), "{asked} {said:?}; log:\n{}", tail(&leader.process.log(), 10));
        Ok(())
    })
    .await
}

/// Waits until the annotation says that a step waits for this.
async fn waits(plane: &Installation, leader: &Replica, words: &str) -> Result<()> {
    wait::until(&format!("{words:?} to be waited for"), PATIENCE, || async {
        let said = cacerts(plane).await?["metadata"]["annotations"][SAID].as_str().unwrap_or_default().to_owned();
        ensure!(said.contains("; waiting: ") && said.contains(words), "{said:?}; log:\n{}", tail(&leader.process.log(), 10));
        Ok(())
    })
    .await
}

/// Returns the entries of the next CA beside the one in use.
fn beside(next: &BTreeMap<&str, String>) -> [(&'static str, String); 4] {
    ["next-ca-cert.pem", "next-ca-key.pem", "next-cert-chain.pem", "next-root-cert.pem"]
        .map(|name| (name, next[name.trim_start_matches("next-")].clone()))
}

impl Replica {
    /// Connects a proxy that asks for clusters, and stays until it is dropped.
    async fn proxy(&self, root: &str, token: &str, id: &str) -> Result<Streaming<DiscoveryResponse>> {
        let node = Some(Node { id: id.to_owned(), ..Node::default() });
        let type_url = ResourceType::Cluster.type_url().to_owned();
        let first = DiscoveryRequest { node, type_url, ..DiscoveryRequest::default() };
        let mut asked = Request::new(stream::iter([first]).chain(stream::pending()));
        asked.metadata_mut().insert("authorization", format!("Bearer {token}").parse()?);
        let mut client = AggregatedDiscoveryServiceClient::new(self.connect(root).await?);
        let mut responses = client.stream_aggregated_resources(asked).await?.into_inner();
        responses.message().await?.context("no answer")?;
        Ok(responses)
    }
}

/// Waits until pods are given these roots, in this order.
async fn handed_out(plane: &Installation, authorities: &[&BTreeMap<&str, String>]) -> Result<()> {
    let wanted: String = authorities.iter().map(|authority| authority["root-cert.pem"].as_str()).collect();
    wait::until("the roots in every namespace", PATIENCE, || async {
        ensure!(plane.root_in(&plane.namespace).await?["data"]["root-cert.pem"] == wanted.as_str());
        Ok(())
    })
    .await
}

/// Makes a root and an intermediate of it, as the entries of `cacerts`.
fn authority(name: &str) -> Result<BTreeMap<&'static str, String>> {
    let yesterday = Timestamp::now() - SignedDuration::from_hours(24);
    let (root_key, key) = (PrivateKey::generate(KeyType::P256)?, PrivateKey::generate(KeyType::P256)?);
    let subject = CaSubject { organization: "Company".into(), common_name: name.into() };
    let request = CaRequest { key: &root_key, subject: &subject, days: 100, now: yesterday, serial: Serial::random()? };
    let root: Certificate = ceremony::root_certificate(&request)?;
    let subject = CaSubject { common_name: format!("signing of {name}"), ..subject.clone() };
    let request = CaRequest { key: &key, subject: &subject, days: 50, now: yesterday, serial: Serial::random()? };
    let signing = ceremony::intermediate_certificate(&request, 0, &root, root_key)?;
    let (chain, root) = (signing.pem(), root.pem());
    Ok([("ca-cert.pem", chain.clone()), ("ca-key.pem", key.to_pem()), ("cert-chain.pem", chain), ("root-cert.pem", root)].into())
}

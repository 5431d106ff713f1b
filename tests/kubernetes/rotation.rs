//! The root in Secret `cacerts` is replaced by annotations, while control planes come and go.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use harness::{
    kubernetes::{ApiServer, Object},
    process::tail,
    wait,
};
use istiod_lite::identity::{
    ca::Serial,
    ceremony::{self, CaRequest, CaSubject},
    certificate::Certificate,
    key::{KeyType, PrivateKey},
};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::{
    replica::{Installation, Replica},
    shop::PATIENCE,
};

const ASKED: &str = "istiod-lite.io/ca-rotate";
const SAID: &str = "istiod-lite.io/ca-rotation";

#[tokio::test(flavor = "multi_thread")]
async fn an_annotation_of_cacerts_replaces_the_root_under_changing_leaders() -> Result<()> {
    let plane = Installation::new(ApiServer::shared().await?, "mesh-rotation").await?;
    plane.pod("rotation", "reviews", "reviews-1").await?;
    let (old, next) = (authority("old")?, authority("next")?);
    let beside = ["next-ca-cert.pem", "next-ca-key.pem", "next-cert-chain.pem", "next-root-cert.pem"];
    let both = beside.map(|name| (name, next[name.trim_start_matches("next-")].clone()));
    plane.put_secret("cacerts", &old.clone().into_iter().chain(both).collect()).await?;

    let first = plane.start("istiod-1", 1, plane.api.address())?;
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
    let second = plane.start("istiod-2", 2, plane.api.address())?;
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

/// Waits until pods are given these roots, in this order.
async fn handed_out(plane: &Installation, authorities: &[&BTreeMap<&str, String>]) -> Result<()> {
    let wanted: String = authorities.iter().map(|authority| authority["root-cert.pem"].as_str()).collect();
    wait::until("the roots in every namespace", PATIENCE, || async {
        ensure!(plane.root_in("rotation").await?["data"]["root-cert.pem"] == wanted.as_str());
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

//! What the control plane keeps in a real API server, and who of several replicas does it.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use harness::{
    kubernetes::{ApiServer, Object},
    process::tail,
    wait,
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::{
    replica::{Installation, Replica},
    shop::PATIENCE,
};

const LEADS: &str = r#"istiod_lite_leader{lease="istio-namespace-controller-election"}"#;

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_make_one_root_and_the_next_leads_when_one_is_killed() -> Result<()> {
    let plane = Installation::new(ApiServer::shared().await?, "mesh-replicas").await?;
    let mut replicas = vec![plane.start("istiod-1", 1, plane.api.address())?, plane.start("istiod-2", 2, plane.api.address())?];
    for replica in &replicas {
        replica.wait_until_ready().await?;
    }
    let secret = plane.secret("istio-ca-secret").await?;
    ensure!(secret["ca-cert.pem"] == secret["root-cert.pem"] && secret["cert-chain.pem"].is_empty());
    // Both serve under the root of the Secret: a client that trusts no other connects to each.
    for replica in &replicas {
        replica.wait_for_answer(&secret["root-cert.pem"], "no token", tonic::Code::Unauthenticated).await?;
    }

    let leader = leader_of(&replicas).await?;
    ensure!(holder(&plane).await? == format!("istiod-{}", leader + 1));
    plane.api.namespace("before-the-kill").await?;
    wait_for_root(&plane, "before-the-kill", &secret["root-cert.pem"]).await?;
    replicas.remove(leader).process.kill()?;
    let heir = replicas.remove(0);
    heir.wait_for_metric(&format!("{LEADS} 1")).await?;
    plane.api.namespace("after-the-kill").await?;
    wait_for_root(&plane, "after-the-kill", &secret["root-cert.pem"]).await?;

    // Who is asked to stop lets go at once.
    heir.process.signal(Signal::SIGTERM)?;
    wait::until("the Lease to be released", PATIENCE, || async {
        let holder = holder(&plane).await?;
        ensure!(holder.is_empty(), "held by {holder:?}; log:\n{}", tail(&heir.process.log(), 10));
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_root_certificate_is_kept_in_every_namespace() -> Result<()> {
    let plane = Installation::new(ApiServer::shared().await?, "mesh-roots").await?;
    let istiod = plane.start("istiod-1", 1, plane.api.address())?;
    istiod.wait_until_ready().await?;
    let root = plane.secret("istio-ca-secret").await?["root-cert.pem"].clone();
    plane.api.namespace("roots").await?;
    for namespace in ["roots", "kube-system", &plane.namespace] {
        wait_for_root(&plane, namespace, &root).await?;
    }
    for ignored in ["kube-public", "kube-node-lease"] {
        ensure!(plane.root_in(ignored).await.is_err(), "{ignored} needs none");
    }

    let name = plane.root_certificate();
    let object = Object { api_version: "v1", kind: "ConfigMap", namespace: "roots", name: &name };
    plane.api.patch(object, &json!({ "data": { "root-cert.pem": "wrong" } })).await?;
    wait_for_root(&plane, "roots", &root).await?;
    plane.api.patch(object, &json!({ "metadata": { "labels": { "istio.io/config": null } } })).await?;
    wait_for_root(&plane, "roots", &root).await?;
    plane.api.delete(object).await?;
    wait_for_root(&plane, "roots", &root).await
}

#[tokio::test(flavor = "multi_thread")]
async fn ca_bundles_of_our_webhooks_are_written_and_repaired() -> Result<()> {
    let plane = Installation::new(ApiServer::shared().await?, "mesh-bundles").await?;
    let ours = |name: &str| webhooks("MutatingWebhookConfiguration", name, &plane.namespace, "namespace.sidecar-injector.istio.io");
    let validator = webhooks("ValidatingWebhookConfiguration", "istio-validator-mesh-bundles", &plane.namespace, "rev.validation.istio.io");
    let foreign = webhooks("MutatingWebhookConfiguration", "of-another-revision", "another", "namespace.sidecar-injector.istio.io");
    plane.api.put(&[ours("injector-mesh-bundles"), validator, foreign]).await?;
    let istiod = plane.start("istiod-1", 1, plane.api.address())?;
    istiod.wait_until_ready().await?;
    let root = plane.secret("istio-ca-secret").await?["root-cert.pem"].clone();
    let injector = configuration("MutatingWebhookConfiguration", "injector-mesh-bundles");
    let both = [&root, ""];
    wait_for_bundles(&plane, injector, &both).await?;
    wait_for_bundles(&plane, configuration("ValidatingWebhookConfiguration", "istio-validator-mesh-bundles"), &both).await?;

    // As an apply of the manifest by its owner, who does not know the bundle.
    plane.api.delete(injector).await?;
    plane.api.put(&[ours("injector-mesh-bundles")]).await?;
    wait_for_bundles(&plane, injector, &both).await?;
    let mut wrong = plane.api.get(injector).await?["webhooks"].clone();
    // The API server takes nothing but PEM, so it is one of another root.
    wrong[0]["clientConfig"]["caBundle"] = json!(BASE64_STANDARD.encode(another_root()?));
    plane.api.patch(injector, &json!({ "webhooks": wrong })).await?;
    wait_for_bundles(&plane, injector, &both).await?;
    wait_for_bundles(&plane, configuration("MutatingWebhookConfiguration", "of-another-revision"), &["", ""]).await?;
    istiod.wait_for_metric(r#"webhook_patch_attempts_total{name="injector-mesh-bundles"}"#).await?;
    ensure!(istiod.metric("galley_validation_config_updates").await? == 1, "{}", istiod.metrics().await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_given_certificate_is_served_and_its_root_is_what_clients_are_given() -> Result<()> {
    let plane = Installation::new(ApiServer::shared().await?, "mesh-given").await?;
    let webhook = webhooks("MutatingWebhookConfiguration", "injector-mesh-given", &plane.namespace, "namespace.sidecar-injector.istio.io");
    plane.api.put(&[webhook]).await?;
    let folder = tempfile::tempdir()?;
    let root = issue_to(folder.path(), &format!("istiod.{}.svc", plane.namespace))?;
    let file = |flag: &str, name: &str| format!("--{flag}={}", folder.path().join(name).display());
    let flags = [file("tlsCertFile", "tls.crt"), file("tlsKeyFile", "tls.key"), file("caCertFile", "ca.crt")];
    let istiod = plane.start_with("istiod-1", 1, plane.api.address(), &flags)?;
    istiod.wait_until_ready().await?;
    istiod.wait_for_answer(&root, "no token", tonic::Code::Unauthenticated).await?;
    wait_for_root(&plane, &plane.namespace, &root).await?;
    let injector = configuration("MutatingWebhookConfiguration", "injector-mesh-given");
    wait_for_bundles(&plane, injector, &[&root, ""]).await?;
    // What is signed for workloads is another matter.
    ensure!(plane.secret("istio-ca-secret").await?["root-cert.pem"] != root);
    // Replaced as a whole, as a kubelet does with a Secret.
    let next = issue_to(folder.path(), &format!("istiod.{}.svc", plane.namespace))?;
    istiod.wait_for_answer(&next, "no token", tonic::Code::Unauthenticated).await?;
    wait_for_root(&plane, &plane.namespace, &next).await?;
    wait_for_bundles(&plane, injector, &[&next, ""]).await
}

/// Writes a serving certificate for a name, with its key and the root that issued it; gives the root.
fn issue_to(folder: &Path, name: &str) -> Result<String> {
    let mut authority = rcgen::CertificateParams::default();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    authority.distinguished_name.push(rcgen::DnType::CommonName, "somebody else");
    let authority_key = rcgen::KeyPair::generate()?;
    let root = authority.self_signed(&authority_key)?.pem();
    let key = rcgen::KeyPair::generate()?;
    let leaf = rcgen::CertificateParams::new([name.to_owned()])?.signed_by(&key, &rcgen::Issuer::new(authority, authority_key))?;
    for (file, text) in [("tls.crt", leaf.pem()), ("tls.key", key.serialize_pem()), ("ca.crt", root.clone())] {
        fs::write(folder.join(file), text)?;
    }
    Ok(root)
}

/// Returns the replica that leads.
async fn leader_of(replicas: &[Replica]) -> Result<usize> {
    wait::until("one leader", PATIENCE, || async {
        let mut leaders = Vec::new();
        for (index, replica) in replicas.iter().enumerate() {
            if replica.metric(LEADS).await? == 1 {
                leaders.push(index);
            }
        }
        match leaders.as_slice() {
            [leader] => Ok(*leader),
            other => anyhow::bail!("leaders: {other:?}"),
        }
    })
    .await
}

async fn holder(plane: &Installation) -> Result<String> {
    let lease = Object {
        api_version: "coordination.k8s.io/v1",
        kind: "Lease",
        namespace: &plane.namespace,
        name: "istio-namespace-controller-election",
    };
    Ok(plane.api.get(lease).await?["spec"]["holderIdentity"].as_str().context("no holder")?.to_owned())
}

async fn wait_for_root(plane: &Installation, namespace: &str, root: &str) -> Result<()> {
    wait::until(&format!("the root certificate in {namespace}"), PATIENCE, || async {
        let found = plane.root_in(namespace).await?;
        ensure!(found["data"]["root-cert.pem"] == root && found["metadata"]["labels"]["istio.io/config"] == "true", "{found}");
        Ok(())
    })
    .await
}

fn configuration<'a>(kind: &'a str, name: &'a str) -> Object<'a> {
    Object { api_version: "admissionregistration.k8s.io/v1", kind, namespace: "", name }
}

/// Returns one webhook of ours and one of somebody else; they match no object.
fn webhooks(kind: &str, name: &str, revision: &str, webhook: &str) -> Value {
    let entry = |name: &str| {
        json!({
            "name": name, "sideEffects": "None", "admissionReviewVersions": ["v1"], "failurePolicy": "Ignore",
            "clientConfig": { "service": { "name": "istiod", "namespace": revision, "path": "/" } },
            "objectSelector": { "matchLabels": { "no": "object" } },
            "rules": [{ "operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"] }],
        })
    };
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": kind,
        "metadata": { "name": name, "labels": { "istio.io/rev": revision } },
        "webhooks": [entry(webhook), entry("webhook.somebody.example")],
    })
}

async fn wait_for_bundles(plane: &Installation, object: Object<'_>, wanted: &[&str]) -> Result<()> {
    wait::until(&format!("the bundles of {}", object.name), PATIENCE, || async {
        let found = plane.api.get(object).await?;
        let bundles = found["webhooks"].as_array().context("no webhooks")?.iter().map(|webhook| {
            let bundle = webhook["clientConfig"]["caBundle"].as_str().unwrap_or_default();
            anyhow::Ok(String::from_utf8(BASE64_STANDARD.decode(bundle)?)?)
        });
        let bundles = bundles.collect::<Result<Vec<_>>>()?;
        ensure!(bundles == wanted, "{bundles:?}");
        Ok(())
    })
    .await
}

fn another_root() -> Result<String> {
    let made = istiod_lite::identity::ca::SelfSigned::new("another.example").generate(jiff::Timestamp::now())?;
    Ok(String::from_utf8(made["root-cert.pem"].clone())?)
}

//! Callers of a remote cluster, with two real API servers: known by the Secret of the cluster, and given nothing of ours.

use std::fs;

use anyhow::{Context, Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use harness::{
    kubernetes::{ApiServer, Object, Options},
    process::tail,
    wait,
};
use istiod_lite::identity::{certificate::Certificate, key::PrivateKey};
use serde_json::{Value, json};
use tonic::{Code, Status};

use crate::{
    replica::{Asked, Installation, Replica},
    shop::PATIENCE,
};

const AUDIENCE: Option<&str> = Some("istio-ca");
const EAST: &str = "east";
/// There is such an account in both clusters.
const SHOP: &str = "shop-of-two";
const CART: &str = "cart";
const READERS: &str = "readers";

/// Our own cluster with a control plane, and a remote one.
struct Mesh {
    plane: Installation,
    istiod: Replica,
    remote: ApiServer,
    root: String,
    /// Tokens of the same account in both clusters.
    here: String,
    there: String,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_a_remote_cluster_is_checked_there_and_gives_nothing_of_ours() -> Result<()> {
    let mesh = Mesh::start("mesh-remote").await?;
    let Mesh { plane, istiod, here, there, root, .. } = &mesh;
    mesh.wait_for(there, Some(EAST), Code::Unauthenticated).await?;
    let refused = |line: &str| line.contains("cluster east is not known");
    ensure!(istiod.process.log().lines().any(refused), "no reason; log:\n{}", tail(&istiod.process.log(), 10));

    plane.api.put(&[mesh.secret("east", &[(EAST, mesh.kubeconfig("reader").await?)])]).await?;
    mesh.wait_for(there, Some(EAST), Code::Ok).await?;
    plane.wait_for_event("east", "OnlyCallersAreKnown", "Services, endpoints and Secrets are not read").await?;
    istiod.wait_for_metric(r#"istiod_managed_clusters{cluster_type="remote"} 1"#).await?;
    let (key, chain) = mesh.ask(there, Some(EAST)).await?;
    let identity = |chain: &[Certificate]| anyhow::Ok(chain.first().and_then(Certificate::spiffe_id).context("no SPIFFE id")?.to_string());
    ensure!(identity(&chain)? == format!("spiffe://cluster.local/ns/{SHOP}/sa/{CART}"));
    let audited = |line: &str| line.contains("istiod_lite::audit") && line.contains("remote_cluster=\"east\"");
    ensure!(istiod.process.log().lines().any(audited), "no line of the audit log:\n{}", tail(&istiod.process.log(), 10));

    // A token counts where it is from, and nowhere else.
    for (token, cluster, wanted) in [
        (here, None, Code::Ok),
        (here, Some("Kubernetes"), Code::Ok),
        (here, Some(EAST), Code::Unauthenticated),
        (here, Some("west"), Code::Unauthenticated),
        (there, None, Code::Unauthenticated),
        (there, Some("Kubernetes"), Code::Unauthenticated),
        (there, Some("west"), Code::Unauthenticated),
    ] {
        let code = mesh.code(token, cluster).await;
        ensure!(code == wanted, "{cluster:?}: {code:?}, not {wanted:?}");
    }

    // The certificate says no more than the token, and so do those that it gets.
    let pem: String = chain.iter().map(Certificate::pem).collect();
    let shown = istiod.connect_as(root, &pem, &key.to_pem()).await?;
    let (_, renewed) = Asked::default().over(shown).await?;
    ensure!(identity(&renewed)? == identity(&chain)?);
    for leaf in [&chain[0], &renewed[0]] {
        ensure!(leaf.remote_cluster.as_deref() == Some(EAST), "{:?}", leaf.remote_cluster);
    }
    ensure!(mesh.ask(here, None).await?.1[0].remote_cluster.is_none());

    // Without its Secret a cluster is nobody's, whatever its callers show.
    plane.api.delete(Object { api_version: "v1", kind: "Secret", namespace: &plane.namespace, name: "east" }).await?;
    mesh.wait_for(there, Some(EAST), Code::Unauthenticated).await?;
    let shown = istiod.connect_as(root, &pem, &key.to_pem()).await?;
    let refused = Asked::default().over(shown).await.map(drop).unwrap_err();
    ensure!(refused.code() == Code::Unauthenticated, "{refused}");
    mesh.wait_for(here, None, Code::Ok).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kubeconfig_that_cannot_be_used_and_a_remote_api_server_that_is_away_harm_only_their_own() -> Result<()> {
    let mut mesh = Mesh::start("mesh-remote-faults").await?;
    let (right, without_rights) = (mesh.kubeconfig("reader").await?, mesh.kubeconfig("nobody").await?);
    let mut runs = right.clone();
    runs["users"][0]["user"]["exec"] = json!({ "apiVersion": "client.authentication.k8s.io/v1", "command": "/bin/false" });
    let Mesh { plane, istiod, there, .. } = &mesh;

    // One Secret is in order, and another is not; one of another namespace counts as none.
    let mut elsewhere = mesh.secret("elsewhere", &[("west", right.clone())]);
    elsewhere["metadata"]["namespace"] = SHOP.into();
    plane.api.put(&[mesh.secret("east", &[(EAST, right.clone())]), mesh.secret("north", &[("north", runs.clone())]), elsewhere]).await?;
    mesh.wait_for(there, Some(EAST), Code::Ok).await?;
    plane.wait_for_event("north", "Refused", "exec is not allowed").await?;
    istiod.wait_for_metric("istiod_lite_remote_kubeconfigs_refused 1").await?;
    for cluster in ["north", "west"] {
        ensure!(mesh.code(there, Some(cluster)).await == Code::Unauthenticated, "{cluster}");
    }

    // The kubeconfig changes: to one that may not ask, to one that is refused, and to the right one.
    plane.api.put(&[mesh.secret("east", &[(EAST, without_rights.clone())])]).await?;
    mesh.wait_for(there, Some(EAST), Code::Unavailable).await?;
    plane.api.put(&[mesh.secret("east", &[(EAST, right.clone())])]).await?;
    mesh.wait_for(there, Some(EAST), Code::Ok).await?;
    plane.api.put(&[mesh.secret("east", &[(EAST, runs)])]).await?;
    plane.wait_for_event("east", "Refused", "the kubeconfig before it stays in use").await?;
    mesh.wait_for(there, Some(EAST), Code::Ok).await?;

    for kubeconfig in [&right, &without_rights] {
        let token = kubeconfig["users"][0]["user"]["token"].as_str().context("no token")?;
        ensure!(!istiod.process.log().contains(token), "a token of a kubeconfig is in the log");
    }

    // The remote API server goes away: its callers may try again, ours notice nothing.
    mesh.remote.kill()?;
    let Mesh { here, there, .. } = &mesh;
    mesh.wait_for(there, Some(EAST), Code::Unavailable).await?;
    let waiting = futures::future::join_all((0..40).map(|_| mesh.code(there, Some(EAST))));
    let ours = async {
        for _ in 0..10 {
            let code = mesh.code(here, None).await;
            ensure!(code == Code::Ok, "{code:?}");
        }
        anyhow::Ok(())
    };
    let (codes, ours) = tokio::join!(waiting, ours);
    ours?;
    ensure!(codes.iter().all(|code| *code == Code::Unavailable), "{codes:?}");
    mesh.remote.resume().await?;
    mesh.wait_for(&mesh.there, Some(EAST), Code::Ok).await
}

impl Mesh {
    async fn start(namespace: &str) -> Result<Self> {
        let remote = ApiServer::start(Options::default());
        let (plane, remote) = tokio::try_join!(async { Installation::new(ApiServer::shared().await?, namespace).await }, remote)?;
        plane.pod(SHOP, CART, "cart-1").await?;
        remote.namespace(SHOP).await?;
        remote.namespace(READERS).await?;
        remote.put(&readers()).await?;
        let istiod = plane.start("istiod-1", 1, plane.api.address())?;
        istiod.wait_until_ready().await?;
        let root = plane.secret("istio-ca-secret").await?["root-cert.pem"].clone();
        let here = plane.api.token(SHOP, CART, AUDIENCE, Some("cart-1")).await?;
        let there = remote.token(SHOP, CART, AUDIENCE, None).await?;
        Ok(Self { plane, istiod, remote, root, here, there })
    }

    /// Returns a kubeconfig of the remote cluster as istioctl writes it, of an account that may ask about tokens, or of one that may not.
    async fn kubeconfig(&self, account: &str) -> Result<Value> {
        let token = self.remote.token(READERS, account, None, None).await?;
        Ok(json!({
            "apiVersion": "v1", "kind": "Config", "current-context": EAST,
            "contexts": [{ "name": EAST, "context": { "cluster": EAST, "user": EAST } }],
            "clusters": [{ "name": EAST, "cluster": {
                "server": format!("https://{}", self.remote.address()),
                "certificate-authority-data": BASE64_STANDARD.encode(fs::read(self.remote.ca())?),
            } }],
            "users": [{ "name": EAST, "user": { "token": token } }],
        }))
    }

    fn secret(&self, name: &str, clusters: &[(&str, Value)]) -> Value {
        let entries: serde_json::Map<_, _> = clusters.iter().map(|(id, text)| ((*id).to_owned(), text.to_string().into())).collect();
        json!({
            "apiVersion": "v1", "kind": "Secret", "stringData": entries,
            "metadata": { "name": name, "namespace": self.plane.namespace, "labels": { "istio/multiCluster": "true" } },
        })
    }

    async fn ask(&self, token: &str, cluster: Option<&str>) -> Result<(PrivateKey, Vec<Certificate>), Status> {
        let channel = self.istiod.connect(&self.root).await.map_err(|error| Status::internal(format!("{error:?}")))?;
        Asked { token: Some(token), cluster, ..Asked::default() }.over(channel).await
    }

    async fn code(&self, token: &str, cluster: Option<&str>) -> Code {
        self.ask(token, cluster).await.map_or_else(|status| status.code(), |_| Code::Ok)
    }

    async fn wait_for(&self, token: &str, cluster: Option<&str>, wanted: Code) -> Result<()> {
        wait::until(&format!("the answer {wanted:?}"), PATIENCE, || async {
            let code = self.code(token, cluster).await;
            ensure!(code == wanted, "{code:?}; log:\n{}", tail(&self.istiod.process.log(), 10));
            Ok(())
        })
        .await
    }
}

/// Returns two accounts of the remote cluster, of which one may ask about tokens.
fn readers() -> Vec<Value> {
    let account = |name: &str| json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": name, "namespace": READERS } });
    let (api_version, role) = ("rbac.authorization.k8s.io/v1", "istio-reader");
    vec![
        account("reader"),
        account("nobody"),
        json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": CART, "namespace": SHOP } }),
        json!({
            "apiVersion": api_version, "kind": "ClusterRole", "metadata": { "name": role },
            "rules": [{ "apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"] }],
        }),
        json!({
            "apiVersion": api_version, "kind": "ClusterRoleBinding", "metadata": { "name": role },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role },
            "subjects": [{ "kind": "ServiceAccount", "name": "reader", "namespace": READERS }],
        }),
    ]
}

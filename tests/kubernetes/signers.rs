//! Certificates that a signer of the Kubernetes API signs, while the control plane says who is who; with the rights of
//! `manifests/components/external-signer` and no others.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use envoy_types::pb::google::protobuf::{Struct, Value as ProtoValue, value::Kind};
use harness::{
    http_client::get_text,
    kubernetes::{ApiServer, Options},
    launch::{PORT_MONITORING, PORT_SECURE_GRPC},
    mesh::{self, CLIENT},
    pilot_agent::{Credentials, PilotAgent, Setup},
    process::tail,
    tools, wait,
};
use istiod_lite::{
    identity::{
        certificate::Certificate,
        key::{KeyType, PrivateKey},
    },
    proto::auth::{IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient},
};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use rcgen::{CertificateParams, DistinguishedName, SanType};
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;
use tonic::{Code, Request, Status, transport::Channel};

use crate::{
    replica::{Installation, Replica},
    shop::PATIENCE,
    small_signer::{Conduct, SIGNER, SmallSigner},
};

const OWN: &str = "spiffe://cluster.local/ns/shop/sa/client";
/// A signer that every cluster has.
const CLUSTERS_OWN: &str = "kubernetes.io/kube-apiserver-client";
const COMPONENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/manifests/components/external-signer/kustomization.yaml");

/// An installation whose certificates the small signer signs.
struct Stage {
    plane: Installation,
    signer: SmallSigner,
    folder: TempDir,
    token: String,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signer_signs_everything_and_is_believed_nothing_that_was_not_asked_for() -> Result<()> {
    let stage = Stage::new("mesh-signed").await?;
    fs::write(stage.roots(), stage.signer.root())?;
    let istiod = stage.start(&["--cert-provider=k8s.io/example.com/mesh"])?;
    istiod.wait_until_ready().await?;
    let root = stage.signer.root().to_owned();

    // There is no CA of our own: its Secret was never made, and agents are told of the signer's root.
    ensure!(stage.plane.secret("istio-ca-secret").await.is_err(), "a CA of our own");
    stage.wait_for_root(&root).await?;
    let chain = stage.certificate(&istiod, &root, OWN, None).await?;
    ensure!(chain.len() == 3 && chain[0].uris == [OWN] && chain[2].pem() == root, "{chain:#?}");
    // By the name that a proxy says, too; and nobody else in that domain is known.
    stage.certificate(&istiod, &root, OWN, Some("mesh")).await?;
    let page: Value = serde_json::from_str(&get_text(SocketAddr::new(istiod.address(), PORT_MONITORING), "/debug/certificates").await?)?;
    let newest = &page["certificates"][0];
    ensure!(newest["signer"] == SIGNER && newest["identity"] == OWN, "{page}");
    ensure!(istiod.process.log().lines().any(|line| line.contains("istiod_lite::audit") && line.contains(SIGNER)), "no audit line");
    ensure!(istiod.metric("citadel_server_root_cert_expiry_timestamp ").await? > 0, "when the signer's root ends");
    let log = || tail(&istiod.process.log(), 30);

    // Istio's own agent, with a real Envoy.
    let (address, discovery) = (istiod.address(), SocketAddr::new(istiod.address(), PORT_SECURE_GRPC));
    let name = format!("istiod.{}.svc", stage.plane.namespace);
    let environment = [("ISTIOD_SAN", name.as_str()), ("ISTIO_META_CERT_SIGNER", "mesh")];
    let (options, credentials) = (options()?, Credentials::Cluster { token: &stage.token, root: &root });
    let home = stage.folder.path();
    let mut agent =
        PilotAgent::start(Setup { options: &options, home, credentials, pod: CLIENT, address, discovery, environment: &environment })?;
    agent.wait_until_ready().await.with_context(log)?;
    let shown = get_text(agent.admin().address(), "/certs").await?;
    ensure!(shown.contains(OWN), "{shown}");
    ensure!(istiod.metric("istiod_lite_signer_answers{result=\"signed\"} ").await? >= 4, "{}", log());

    // Whatever else is answered is not handed on, and the signer is named.
    for (conduct, says) in [
        (Conduct::OtherIdentity, "spiffe://cluster.local/ns/kube-system/sa/admin"),
        (Conduct::OtherKey, "another key"),
        (Conduct::OtherRoot, "nobody would accept"),
        (Conduct::TooLong, "longer than certificates may live"),
        (Conduct::Fail, "NoKey: the HSM is locked"),
    ] {
        stage.signer.conduct(conduct);
        let refused = stage.certificate(&istiod, &root, OWN, None).await.map(drop).unwrap_err();
        ensure!(refused.code() == Code::Internal && refused.message().contains(SIGNER), "{conduct:?}: {refused}");
        ensure!(refused.message().contains(says), "{conduct:?}: {refused}");
    }
    stage.signer.conduct(Conduct::Nothing);
    let silent = stage.certificate(&istiod, &root, OWN, None).await.map(drop).unwrap_err();
    ensure!(silent.code() == Code::Unavailable && silent.message().contains("no answer within"), "{silent}");
    stage.wait_for_no_requests().await?;

    // What a caller may not have is asked of nobody.
    for (uri, signer, code) in
        [("spiffe://cluster.local/ns/shop/sa/admin", None, Code::InvalidArgument), (OWN, Some("../mesh"), Code::InvalidArgument)]
    {
        let refused = stage.certificate(&istiod, &root, uri, signer).await.map(drop).unwrap_err();
        ensure!(refused.code() == code, "{refused}");
    }
    ensure!(stage.signer.requests().await?.is_empty());
    stage.signer.conduct(Conduct::Sign);
    stage.certificate(&istiod, &root, OWN, None).await.context("the signer is back")?;

    // Another root beside it: our own certificate is signed anew, and agents are told.
    let both = format!("{root}{}", SmallSigner::start(&stage.plane.api).await?.root());
    fs::write(stage.roots(), &both)?;
    stage.wait_for_root(&both).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_control_plane_left_behind_is_deleted_and_rights_are_needed() -> Result<()> {
    let stage = Stage::new("mesh-leftovers").await?;
    let mut istiod = stage.start(&[])?;
    istiod.wait_until_ready().await?;
    // Our own CA is there for our own ports alone.
    let own = stage.plane.secret("istio-ca-secret").await?["root-cert.pem"].clone();
    stage.wait_for_root(&own).await?;

    // Without a root nobody is asked, and MeshConfig says it while we run.
    let unknown = stage.certificate(&istiod, &own, OWN, None).await.map(drop).unwrap_err();
    ensure!(unknown.code() == Code::Unavailable && unknown.message().contains("certSigners: [example.com/mesh]"), "{unknown}");
    ensure!(stage.signer.requests().await?.is_empty());
    stage.plane.api.put(&[stage.mesh_config()]).await?;
    wait::until("a root that is known", PATIENCE, || async { Ok(stage.certificate(&istiod, &own, OWN, None).await.map(drop)?) }).await?;

    let key = PrivateKey::generate(KeyType::P256)?;
    let by_token = istiod.connect(&own).await?;
    let chain = ask(by_token, request(&key, OWN)?, Some(&stage.token), None).await?;
    ensure!(chain.last().context("no root")?.pem() == stage.signer.root(), "{chain:#?}");
    // Who shows that certificate is known by it.
    let shown = chain[..2].iter().map(Certificate::pem).collect::<String>();
    ask(istiod.connect_as(&own, &shown, &key.to_pem()).await?, request(&key, OWN)?, None, None).await?;

    stage.wait_for_no_requests().await?;
    stage.signer.conduct(Conduct::Nothing);
    let (channel, csr, token) = (istiod.connect(&own).await?, request(&key, OWN)?, stage.token.clone());
    let asking = tokio::spawn(async move { ask(channel, csr, Some(&token), None).await.map(drop) });
    wait::until("a request", PATIENCE, || async {
        let requests = stage.signer.requests().await?;
        ensure!(!requests.is_empty());
        Ok(())
    })
    .await?;
    istiod.process.kill()?;
    ensure!(asking.await?.is_err(), "answered by nobody");
    ensure!(stage.signer.requests().await?.len() == 1, "nobody has deleted it");
    let istiod = stage.start(&[])?;
    istiod.wait_until_ready().await?;
    stage.wait_for_no_requests().await?;
    istiod.wait_for_metric("istiod_lite_certificate_requests_deleted{reason=\"left_over\"} 1").await?;

    // Without the right to approve nobody is given a certificate, and it is said which right that is.
    stage.signer.conduct(Conduct::Sign);
    let rules = rules()?.into_iter().filter(|rule| rule["resources"] != json!(["signers"])).collect();
    stage.plane.api.put(&stage.rights(rules)).await?;
    wait::until("a refusal for want of a right", PATIENCE, || async {
        let refused = stage.certificate(&istiod, &own, OWN, None).await.map(drop).err().context("signed all the same")?;
        ensure!(refused.code() == Code::Unavailable && refused.message().contains("not permitted to approve"), "{refused}");
        Ok(())
    })
    .await?;
    stage.wait_for_no_requests().await
}

/// kube-controller-manager signs for clients of the API server, and for kubelets: never for who serves and calls. It says so of a
/// request, and we hand that on.
#[tokio::test(flavor = "multi_thread")]
async fn the_clusters_own_signer_refuses_workloads_and_says_why() -> Result<()> {
    let stage = Stage::of(Options { controller_manager: true, ..Options::default() }, "mesh-own-signer").await?;
    let rules = rules()?.into_iter().map(|mut rule| {
        if rule["resources"] == json!(["signers"]) {
            rule["resourceNames"] = json!([CLUSTERS_OWN]);
        }
        rule
    });
    stage.plane.api.put(&stage.rights(rules.collect())).await?;
    fs::write(stage.roots(), stage.signer.root())?;
    let istiod = stage.start_by(CLUSTERS_OWN, &[])?;
    istiod.wait_until_ready().await?;
    let own = stage.plane.secret("istio-ca-secret").await?["root-cert.pem"].clone();

    // It works: what it is for is signed.
    let requests = Api::<CertificateSigningRequest>::all(stage.plane.api.client().await?);
    let key = PrivateKey::generate(KeyType::P256)?;
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(rcgen::DnType::CommonName, "somebody");
    let csr = BASE64_STANDARD.encode(parameters.serialize_request(key.pair())?.pem()?);
    let spec = json!({ "request": csr, "signerName": CLUSTERS_OWN, "usages": ["client auth"] });
    let asked: CertificateSigningRequest = serde_json::from_value(json!({ "metadata": { "name": "somebody" }, "spec": spec }))?;
    requests.create(&PostParams::default(), &asked).await?;
    let approved = json!([{ "type": "Approved", "status": "True", "reason": "Test", "message": "by a test" }]);
    requests.patch_approval("somebody", &PatchParams::default(), &Patch::Merge(json!({ "status": { "conditions": approved } }))).await?;
    wait::until("a certificate of the cluster's own signer", PATIENCE, || async {
        let status = requests.get("somebody").await?.status.context("no status")?;
        ensure!(status.certificate.is_some(), "{:?}", status.conditions);
        Ok(())
    })
    .await?;

    let refused = stage.certificate(&istiod, &own, OWN, None).await.map(drop).unwrap_err();
    ensure!(refused.code() == Code::Internal && refused.message().contains(CLUSTERS_OWN), "{refused}");
    ensure!(refused.message().contains("SignerValidationFailure"), "{refused}");
    Ok(())
}

impl Stage {
    async fn new(namespace: &str) -> Result<Self> {
        Self::of(Options::default(), namespace).await
    }

    async fn of(options: Options, namespace: &str) -> Result<Self> {
        let api = ApiServer::start(options).await?;
        api.define(&harness::kubernetes::crds::istio()).await?;
        let signer = SmallSigner::start(&api).await?;
        let plane = Installation::new(api.into(), namespace).await?;
        plane.pod("shop", "client", "client-1").await?;
        let token = plane.api.token("shop", "client", Some("istio-ca"), Some("client-1")).await?;
        let stage = Self { plane, signer, folder: tempfile::tempdir()?, token };
        fs::create_dir(stage.folder.path().join("logs"))?;
        stage.plane.api.put(&stage.rights(rules()?)).await?;
        Ok(stage)
    }

    /// Returns where the control plane reads the signer's roots.
    fn roots(&self) -> PathBuf {
        self.folder.path().join("root-cert.pem")
    }

    /// Returns the ConfigMap that has the signer's roots.
    fn mesh_config(&self) -> Value {
        let entry = json!({ "pem": self.signer.root(), "certSigners": [SIGNER], "trustDomains": ["cluster.local"] });
        let (name, namespace) = (format!("istio-{}", self.plane.namespace), &self.plane.namespace);
        json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name, "namespace": namespace },
            "data": { "mesh": json!({ "caCertificates": [entry] }).to_string() },
        })
    }

    fn start(&self, flags: &[&str]) -> Result<Replica> {
        self.start_by(SIGNER, flags)
    }

    /// Starts the control plane with this signer.
    fn start_by(&self, signer: &str, flags: &[&str]) -> Result<Replica> {
        let (roots, signer) = (format!("--external-ca-cert={}", self.roots().display()), format!("--k8s-signer={signer}"));
        let always = ["--external-ca=ISTIOD_RA_KUBERNETES_API", &signer, "--cert-signer-domain=example.com"];
        let flags = always.iter().chain(flags).copied().chain(["--signer-timeout=15s", &roots]).map(ToOwned::to_owned);
        self.plane.start_with("istiod-1", 1, self.plane.api.address(), &flags.collect::<Vec<_>>())
    }

    /// Returns the objects that give the control plane these rights besides its others.
    fn rights(&self, rules: Vec<Value>) -> Vec<Value> {
        let (name, user) = (format!("{}-signer", self.plane.namespace), &self.plane.namespace);
        let (version, group) = ("rbac.authorization.k8s.io/v1", "rbac.authorization.k8s.io");
        vec![
            json!({ "apiVersion": version, "kind": "ClusterRole", "metadata": { "name": name }, "rules": rules }),
            json!({
                "apiVersion": version, "kind": "ClusterRoleBinding", "metadata": { "name": name },
                "roleRef": { "kind": "ClusterRole", "name": name, "apiGroup": group },
                "subjects": [{ "kind": "User", "name": user, "apiGroup": group }],
            }),
        ]
    }

    /// Asks for a certificate of this identity, by the signer that is named.
    async fn certificate(&self, istiod: &Replica, root: &str, uri: &str, signer: Option<&str>) -> Result<Vec<Certificate>, Status> {
        let failed = |error: anyhow::Error| Status::unknown(format!("{error:#}"));
        let key = PrivateKey::generate(KeyType::P256).map_err(|error| failed(error.into()))?;
        let channel = istiod.connect(root).await.map_err(failed)?;
        ask(channel, request(&key, uri).map_err(failed)?, Some(&self.token), signer).await
    }

    async fn wait_for_root(&self, root: &str) -> Result<()> {
        wait::until("the signer's root in every namespace", PATIENCE, || async {
            let found = self.plane.root_in("shop").await?;
            ensure!(found["data"]["root-cert.pem"] == root, "{found}");
            Ok(())
        })
        .await
    }

    async fn wait_for_no_requests(&self) -> Result<()> {
        wait::until("no request that is left", PATIENCE, || async {
            let left = self.signer.requests().await?;
            ensure!(left.is_empty(), "{left:#?}");
            Ok(())
        })
        .await
    }
}

/// Asks for a certificate, by the signer that is named.
async fn ask(channel: Channel, csr: String, token: Option<&str>, signer: Option<&str>) -> Result<Vec<Certificate>, Status> {
    let named = |signer: &str| {
        let value = ProtoValue { kind: Some(Kind::StringValue(signer.to_owned())) };
        Struct { fields: [("CertSigner".to_owned(), value)].into() }
    };
    let mut request = Request::new(IstioCertificateRequest { csr, validity_duration: 3_600, metadata: signer.map(named) });
    if let Some(token) = token {
        let header = format!("Bearer {token}").parse().map_err(|_| Status::unknown("no header"))?;
        request.metadata_mut().insert("authorization", header);
    }
    let answer = IstioCertificateServiceClient::new(channel).create_certificate(request).await?;
    Certificate::all_from_pem(&answer.into_inner().cert_chain.concat()).map_err(|error| Status::unknown(error.to_string()))
}

fn request(key: &PrivateKey, uri: &str) -> Result<String> {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
    Ok(parameters.serialize_request(key.pair())?.pem()?)
}

fn options() -> Result<mesh::Options> {
    Ok(mesh::Options {
        istiod_lite: PathBuf::from(env!("CARGO_BIN_EXE_istiod-lite")),
        envoy: tools::envoy("1.40")?,
        delta: true,
        debounce: Some("10ms"),
        certificate_ttl: None,
        listener_drain: None,
    })
}

/// Returns the rules that the component adds to the control plane's ClusterRole.
fn rules() -> Result<Vec<Value>> {
    #[derive(Deserialize)]
    struct Component {
        patches: Vec<ComponentPatch>,
    }
    #[derive(Deserialize)]
    struct ComponentPatch {
        target: Value,
        patch: String,
    }
    let component: Component = serde_norway::from_str(&fs::read_to_string(Path::new(COMPONENT))?)?;
    let patch = component.patches.iter().find(|patch| patch.target["kind"] == "ClusterRole").context("no patch of the ClusterRole")?;
    let operations: Vec<Value> = serde_norway::from_str(&patch.patch)?;
    Ok(operations.into_iter().map(|operation| operation["value"].clone()).collect())
}

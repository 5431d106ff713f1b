//! A control plane with all of its identity from the API server: CA, token keys, leadership; with the rights that it
//! documents and no others.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use envoy_types::pb::google::protobuf::{self, Struct};
use harness::{
    address::Loopback,
    http_client::{get, get_text},
    kubernetes::{ApiServer, Object, Who},
    launch::{self, PORT_MONITORING, PORT_PLAIN_HTTP, PORT_SECURE_GRPC},
    mesh::Options,
    process::{Process, tail},
    wait,
};
use istiod_lite::{
    identity::{
        certificate::Certificate,
        key::{KeyType, PrivateKey},
    },
    proto::auth::{IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient},
};
use k8s_openapi::api::events::v1::Event;
use kube::api::ListParams;
use serde_json::{Value, json};
use tempfile::TempDir;
use tonic::{
    Code, Request, Status,
    transport::{Channel, ClientTlsConfig, Identity},
};

use crate::{objects, shop::PATIENCE};

/// A leader that was killed holds back the next for so long.
pub(crate) const LEASE: Duration = Duration::from_secs(4);

/// An installation: a namespace of its own on an API server that others may use, too.
pub(crate) struct Installation {
    pub(crate) api: Arc<ApiServer>,
    pub(crate) namespace: String,
    network: Loopback,
    home: TempDir,
}

/// One process of it.
pub(crate) struct Replica {
    pub(crate) process: Process,
    pub(crate) address: IpAddr,
    server_name: String,
}

impl Installation {
    /// Makes namespace `namespace` and the rights of user `namespace`.
    pub(crate) async fn new(api: Arc<ApiServer>, namespace: &str) -> Result<Self> {
        let (network, home) = (Loopback::free()?, tempfile::Builder::new().prefix("istiod-lite-").tempdir()?);
        fs::create_dir(home.path().join("logs"))?;
        api.namespace(namespace).await?;
        api.put(&rights(namespace)).await?;
        Ok(Self { api, namespace: namespace.to_owned(), network, home })
    }

    /// Starts a replica, which reaches the API server at `server`. Its pod's name is `name`.
    pub(crate) fn start(&self, name: &str, host: u8, server: SocketAddr) -> Result<Replica> {
        self.start_with(name, host, server, &[])
    }

    /// Does the same with further flags.
    pub(crate) fn start_with(&self, name: &str, host: u8, server: SocketAddr, flags: &[String]) -> Result<Replica> {
        let who = Who::User { name: &self.namespace, group: None };
        let kubeconfig = self.api.kubeconfig(&format!("{}-{name}", self.namespace), who, server)?;
        let mut arguments: Vec<OsString> = vec!["--kubeconfig".into(), kubeconfig.into()];
        for (flag, value) in [
            ("--namespace", self.namespace.as_str()),
            ("--pod-name", name),
            ("--revision", &self.namespace),
            ("--root-certificate", &self.root_certificate()),
            ("--revocation-list", &self.revocation_list()),
            ("--lease", &format!("{}s", LEASE.as_secs())),
        ] {
            arguments.extend([flag.into(), value.into()]);
        }
        arguments.extend(["--ca-dir".into(), self.home.path().join("none").into()]);
        arguments.extend(flags.iter().map(OsString::from));
        let options = Options {
            istiod_lite: PathBuf::from(env!("CARGO_BIN_EXE_istiod-lite")),
            envoy: PathBuf::new(),
            delta: true,
            debounce: Some("10ms"),
            certificate_ttl: None,
            listener_drain: None,
        };
        let address = self.network.address(host);
        let process = launch::replica(name, &options, self.home.path(), address, &arguments)?;
        Ok(Replica { process, address, server_name: format!("istiod.{}.svc", self.namespace) })
    }

    /// Returns a name that installations on one API server do not share.
    pub(crate) fn root_certificate(&self) -> String {
        format!("root-of-{}", self.namespace)
    }

    /// Returns the same for the lists of revoked certificates.
    pub(crate) fn revocation_list(&self) -> String {
        format!("revoked-of-{}", self.namespace)
    }

    /// Waits for an Event about a Secret of its namespace, with this reason, that says so.
    pub(crate) async fn wait_for_event(&self, secret: &str, reason: &str, says: &str) -> Result<()> {
        wait::until(&format!("an Event {reason} on {secret}"), PATIENCE, || async {
            let client = self.api.client().await?;
            let events = kube::Api::<Event>::namespaced(client, &self.namespace).list(&ListParams::default()).await?.items;
            let about = |event: &Event| {
                let name = event.regarding.as_ref().and_then(|regarding| regarding.name.as_deref());
                let said = event.note.as_deref().is_some_and(|note| note.contains(says));
                name == Some(secret) && event.reason.as_deref() == Some(reason) && said
            };
            ensure!(events.iter().any(about), "not among {events:#?}");
            Ok(())
        })
        .await
    }

    /// Returns the root certificate in a namespace, if it is there.
    pub(crate) async fn root_in(&self, namespace: &str) -> Result<Value> {
        let name = self.root_certificate();
        self.api.get(Object { api_version: "v1", kind: "ConfigMap", namespace, name: &name }).await
    }

    /// Returns the entries of a Secret of its namespace.
    pub(crate) async fn secret(&self, name: &str) -> Result<BTreeMap<String, String>> {
        let secret = self.api.get(Object { api_version: "v1", kind: "Secret", namespace: &self.namespace, name }).await?;
        let entries = secret["data"].as_object().context("a Secret without data")?;
        let text = |value: &Value| anyhow::Ok(String::from_utf8(BASE64_STANDARD.decode(value.as_str().unwrap_or_default())?)?);
        entries.iter().map(|(name, value)| Ok((name.clone(), text(value)?))).collect()
    }

    /// Writes a Secret of its namespace.
    pub(crate) async fn put_secret(&self, name: &str, entries: &BTreeMap<&str, String>) -> Result<()> {
        self.api
            .put(&[json!({
                "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name, "namespace": self.namespace }, "stringData": entries,
            })])
            .await
    }

    /// Makes a pod `name` of service account `account` in `namespace`, and these too if they are missing.
    pub(crate) async fn pod(&self, namespace: &str, account: &str, name: &str) -> Result<()> {
        self.api.namespace(namespace).await?;
        let account_object =
            json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": account, "namespace": namespace } });
        let address = IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3));
        self.api.put(&[account_object, objects::pod(namespace, name, account, &json!({ "app": account }), address)]).await
    }
}

impl Replica {
    /// Returns where its ports are.
    pub(crate) fn address(&self) -> IpAddr {
        self.address
    }

    /// Waits until it serves.
    pub(crate) async fn wait_until_ready(&self) -> Result<()> {
        wait::until("a ready control plane", PATIENCE, || async {
            let response = get(SocketAddr::new(self.address, PORT_PLAIN_HTTP), "istiod", "/ready").await;
            let log = || tail(&self.process.log(), 20);
            let response = response.with_context(log)?;
            ensure!(response.status == http::StatusCode::OK, "{}: {}\n{}", response.status, response.text(), log());
            Ok(())
        })
        .await
    }

    /// Waits until its metrics have a line that starts so.
    pub(crate) async fn wait_for_metric(&self, line: &str) -> Result<()> {
        wait::until(line, PATIENCE, || async {
            let metrics = self.metrics().await?;
            ensure!(metrics.lines().any(|found| found.starts_with(line)), "no such line; log:\n{}", tail(&self.process.log(), 30));
            Ok(())
        })
        .await
    }

    /// Returns the number of a metric, given its line up to it; nothing counted is zero.
    pub(crate) async fn metric(&self, line: &str) -> Result<u64> {
        let metrics = self.metrics().await?;
        let found = metrics.lines().find_map(|found| found.strip_prefix(line)?.trim().parse().ok());
        Ok(found.unwrap_or(0))
    }

    /// Waits until its services are as is wanted, by their description as text.
    pub(crate) async fn wait_for_services(&self, wanted: impl Fn(&str) -> bool) -> Result<()> {
        wait::until("the services", PATIENCE, || async {
            let services = get_text(SocketAddr::new(self.address, PORT_MONITORING), "/debug/registryz").await?;
            ensure!(wanted(&services), "{services}; log:\n{}", tail(&self.process.log(), 30));
            Ok(())
        })
        .await
    }

    /// Returns all metrics, as text.
    pub(crate) async fn metrics(&self) -> Result<String> {
        get_text(SocketAddr::new(self.address, PORT_MONITORING), "/metrics").await
    }

    /// Returns the certificate chain for a new key that this token gets from those who trust `root`.
    pub(crate) async fn certificate(&self, root: &str, token: &str) -> Result<Vec<Certificate>, Status> {
        self.certificate_for(root, token, None).await
    }

    /// Does the same for the identity of somebody else, if one is wanted.
    pub(crate) async fn certificate_for(&self, root: &str, token: &str, wanted: Option<&str>) -> Result<Vec<Certificate>, Status> {
        let channel = self.connect(root).await.map_err(|error| Status::internal(format!("{error:?}")))?;
        let asked = Asked { token: Some(token), wanted, ..Asked::default() };
        Ok(asked.over(channel).await?.1)
    }

    /// Waits until this token is answered so.
    pub(crate) async fn wait_for_answer(&self, root: &str, token: &str, wanted: Code) -> Result<()> {
        wait::until(&format!("the answer {wanted:?}"), PATIENCE, || async {
            let code = self.certificate(root, token).await.map_or_else(|status| status.code(), |_| Code::Ok);
            ensure!(code == wanted, "{code:?}; log:\n{}", tail(&self.process.log(), 10));
            Ok(())
        })
        .await
    }

    /// Connects to the port for proven callers.
    pub(crate) async fn connect(&self, root: &str) -> Result<Channel> {
        self.connect_with(root, ClientTlsConfig::new()).await
    }

    /// Does the same, and shows this certificate.
    pub(crate) async fn connect_as(&self, root: &str, chain: &str, key: &str) -> Result<Channel> {
        self.connect_with(root, ClientTlsConfig::new().identity(Identity::from_pem(chain, key))).await
    }

    async fn connect_with(&self, root: &str, tls: ClientTlsConfig) -> Result<Channel> {
        let tls = tls.ca_certificate(tonic::transport::Certificate::from_pem(root)).domain_name(&self.server_name);
        let address = SocketAddr::new(self.address, PORT_SECURE_GRPC);
        Ok(Channel::from_shared(format!("https://{address}"))?.tls_config(tls)?.connect().await?)
    }
}

/// What a request for a certificate says.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Asked<'a> {
    pub(crate) token: Option<&'a str>,
    /// The cluster that the caller says it is in.
    pub(crate) cluster: Option<&'a str>,
    /// The identity of somebody else.
    pub(crate) wanted: Option<&'a str>,
}

impl Asked<'_> {
    /// Returns a new key and the certificate chain for it.
    pub(crate) async fn over(self, channel: Channel) -> Result<(PrivateKey, Vec<Certificate>), Status> {
        let failed = |error: &dyn std::fmt::Display| Status::internal(error.to_string());
        let key = PrivateKey::generate(KeyType::P256).map_err(|error| failed(&error))?;
        let csr = rcgen::CertificateParams::default().serialize_request(key.pair()).and_then(|request| request.pem());
        let csr = csr.map_err(|error| failed(&error))?;
        let impersonated = |wanted: &str| ("ImpersonatedIdentity".to_owned(), text(wanted));
        let metadata = self.wanted.map(|wanted| Struct { fields: [impersonated(wanted)].into() });
        let mut request = Request::new(IstioCertificateRequest { csr, validity_duration: 3600, metadata });
        let headers =
            [("authorization", self.token.map(|token| format!("Bearer {token}"))), ("clusterid", self.cluster.map(str::to_owned))];
        for (name, value) in headers {
            let Some(value) = value else { continue };
            request.metadata_mut().insert(name, value.parse().map_err(|_| failed(&"no header"))?);
        }
        let answer = IstioCertificateServiceClient::new(channel).create_certificate(request).await?;
        let chain = answer.into_inner().cert_chain.concat();
        Ok((key, Certificate::all_from_pem(&chain).map_err(|error| failed(&error))?))
    }
}

fn text(text: &str) -> protobuf::Value {
    protobuf::Value { kind: Some(protobuf::value::Kind::StringValue(text.to_owned())) }
}

/// Returns the rights that `src/controllers/mod.rs` and the source document.
fn rights(user: &str) -> Vec<Value> {
    let rule = |group: &str, resources: &[&str], names: &[&str], verbs: &[&str]| json!({ "apiGroups": [group], "resources": resources, "resourceNames": names, "verbs": verbs });
    let (read, follow) = (["get", "list", "watch"], ["list", "watch"]);
    let (root_certificate, revocation_list) = (format!("root-of-{user}"), format!("revoked-of-{user}"));
    let own = [
        rule("", &["secrets"], &["cacerts", "istio-ca-secret"], &read),
        rule("", &["secrets"], &[], &["create"]),
        rule("", &["secrets"], &["cacerts", "istio-ca-secret"], &["update"]),
        rule("coordination.k8s.io", &["leases"], &[], &["create"]),
        rule("coordination.k8s.io", &["leases"], &["istio-namespace-controller-election"], &["get", "update"]),
        rule("", &["configmaps"], &[&format!("istio-{user}")], &read),
    ];
    let cluster = [
        rule("", &["namespaces", "nodes", "pods", "secrets", "configmaps", "services"], &[], &read),
        rule("discovery.k8s.io", &["endpointslices"], &[], &read),
        rule("apiextensions.k8s.io", &["customresourcedefinitions"], &[], &read),
        rule("networking.istio.io", &["*"], &[], &follow),
        rule("security.istio.io", &["*"], &[], &follow),
        rule("telemetry.istio.io", &["*"], &[], &follow),
        rule("extensions.istio.io", &["*"], &[], &follow),
        rule("istiod-lite.io", &["*"], &[], &follow),
        rule("", &["configmaps"], &[&root_certificate, &revocation_list], &["list", "watch", "patch", "create"]),
        rule("events.k8s.io", &["events"], &[], &["create"]),
        rule(
            "admissionregistration.k8s.io",
            &["mutatingwebhookconfigurations", "validatingwebhookconfigurations"],
            &[],
            &["list", "watch", "patch"],
        ),
        rule("authentication.k8s.io", &["tokenreviews"], &[], &["create"]),
        rule("authorization.k8s.io", &["subjectaccessreviews"], &[], &["create"]),
        json!({ "nonResourceURLs": ["/.well-known/openid-configuration", "/openid/v1/jwks"], "verbs": ["get"] }),
    ];
    let api_version = "rbac.authorization.k8s.io/v1";
    let subjects = json!([{ "kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io" }]);
    let reference = |kind: &str| json!({ "kind": kind, "name": user, "apiGroup": "rbac.authorization.k8s.io" });
    let metadata = json!({ "name": user, "namespace": user });
    vec![
        json!({ "apiVersion": api_version, "kind": "Role", "metadata": metadata, "rules": own }),
        json!({ "apiVersion": api_version, "kind": "RoleBinding", "metadata": metadata, "roleRef": reference("Role"), "subjects": subjects }),
        json!({ "apiVersion": api_version, "kind": "ClusterRole", "metadata": { "name": user }, "rules": cluster }),
        json!({
            "apiVersion": api_version, "kind": "ClusterRoleBinding", "metadata": { "name": user },
            "roleRef": reference("ClusterRole"), "subjects": subjects,
        }),
    ]
}

//! Injection as the API server has it done: every fixture of `tests/inject` through the real webhook, by the configuration of
//! `manifests/base`, and what is created while nobody answers it.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use base64::{Engine, engine::general_purpose::STANDARD};
use harness::{
    address::Loopback,
    http_client::get_text,
    kubernetes::{ApiServer, Who, succeeded},
    launch::{self, PORT_MONITORING, PORT_PLAIN_HTTP, PORT_WEBHOOKS},
    mesh::{Options, wait_until_ready},
    process::Process,
    tools, wait,
};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{DeleteParams, PostParams},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::objects::{self, USER};

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Offline, the owner of a template's pod is what holds the template.
const OWNER: &str = "ISTIO_META_OWNER";
const STATUS: &str = "/metadata/annotations/sidecar.istio.io~1status";
/// A namespace of which the webhook is not told.
const UNWATCHED: &str = "unwatched";

#[tokio::test(flavor = "multi_thread")]
async fn every_fixture_goes_through_the_api_server() -> Result<()> {
    let cluster = Cluster::start().await?;
    let mut seen = 0;
    for fixture in fixtures()? {
        let refused = fixture.said.lines().any(|line| line.starts_with("error: ") && !line.starts_with("error: ProxyConfig/"));
        for (before, after) in fixture.pods() {
            let created = cluster.create(&before).await;
            let context = || format!("{}: {before}", fixture.name);
            if refused {
                let refusal = format!("{:#}", created.err().with_context(|| format!("not refused: {}", context()))?);
                ensure!(refusal.contains("annotation "), "{}: refused with {refusal}", fixture.name);
                continue;
            }
            if fixture.is_forbidden(&before) {
                let refusal = format!("{:#}", created.err().with_context(|| format!("not forbidden: {}", context()))?);
                ensure!(refusal.contains("violates PodSecurity"), "{}: {refusal}", fixture.name);
                continue;
            }
            let created = created.with_context(context)?;
            fixture.compare(&created, &after).with_context(context)?;
            // What was injected offline is accepted as it stands.
            cluster.create(&elsewhere(&after)).await.with_context(|| format!("injected offline: {}", context()))?;
            seen += 1;
        }
    }
    ensure!(seen > 40, "only {seen} pods were created");
    let metrics = get_text(cluster.network.socket(1, PORT_MONITORING), "/metrics").await?;
    for counter in ["requests", "success", "failure", "skip"] {
        let name = format!("sidecar_injection_{counter}_total ");
        let count = metrics.lines().find_map(|line| line.strip_prefix(&name)).with_context(|| format!("no {name}"))?;
        ensure!(count.parse::<u64>()? > 0, "{name}{count}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_shows_what_is_wrong_and_what_is_doubtful() -> Result<()> {
    let cluster = Cluster::start().await?;
    let text = |name: &str| fs::read_to_string(folder().join(name).join("in.yaml"));
    let doubtful = cluster.api.kubectl(&["apply", "-f", "-"], &text("unknown")?).await?;
    succeeded(&doubtful)?;
    let said = String::from_utf8_lossy(&doubtful.stderr);
    ensure!(said.contains("Warning: annotation sidecar.istio.io/proxyCpu: is unknown"), "{said}");
    let wrong = cluster.api.kubectl(&["create", "-f", "-"], &text("refused")?).await?;
    let said = String::from_utf8_lossy(&wrong.stderr);
    ensure!(!wrong.status.success() && said.contains("Pod shop/app cannot be injected: annotation"), "{said}");
    ensure!(said.contains(r#"annotation sidecar.istio.io/proxyCPU: "much" must be a quantity"#), "{said}");
    Ok(())
}

/// Checks what `manifests/base/mutating-webhook.yaml` says about `failurePolicy: Fail`.
#[tokio::test(flavor = "multi_thread")]
async fn while_nobody_answers_only_pods_that_want_a_proxy_are_refused() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    let pod = |namespace: &str, labels: Value| {
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "app", "namespace": namespace, "labels": labels },
            "spec": { "containers": [{ "name": "app", "image": "example.com/app:v1" }] },
        })
    };
    let wants = pod("shop", json!({}));
    ensure!(is_injected(&cluster.create(&wants).await?));
    cluster.control_plane.kill()?;
    let refusal = cluster.create(&wants).await.err().context("created without its proxy")?;
    let refusal = format!("{refusal:#}");
    ensure!(refusal.contains("failed calling webhook") && refusal.contains("namespace.sidecar-injector.istio.io"), "{refusal}");
    for other in [pod("shop", json!({ "sidecar.istio.io/inject": "false" })), pod("plain", json!({})), pod("kube-system", json!({}))] {
        ensure!(!is_injected(&cluster.create(&other).await?), "{other}");
    }
    cluster.control_plane = cluster.discovery()?;
    cluster.wait_until_ready().await?;
    ensure!(is_injected(&cluster.create(&wants).await?));
    Ok(())
}

// An API server and a control plane that it knows as webhook.
pub(crate) struct Cluster {
    control_plane: Process,
    pub(crate) api: ApiServer,
    network: Loopback,
    home: TempDir,
}

impl Cluster {
    pub(crate) async fn start() -> Result<Self> {
        let api = ApiServer::start(harness::kubernetes::Options::default()).await?;
        let (network, home) = (Loopback::free()?, tempfile::Builder::new().prefix("istiod-lite-").tempdir()?);
        fs::create_dir(home.path().join("logs"))?;
        launch::ceremony(&options()?.istiod_lite, home.path())?;
        for (namespace, labels) in [
            ("istio-system", json!({})),
            ("shop", json!({ "istio-injection": "enabled" })),
            ("plain", json!({})),
            ("canary", json!({ "istio.io/rev": "canary" })),
            ("safe", json!({ "istio-injection": "enabled", "pod-security.kubernetes.io/enforce": "restricted" })),
            (UNWATCHED, json!({ "istio-injection": "disabled" })),
        ] {
            api.namespace(namespace).await?;
            let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace, "labels": labels } });
            api.put(&[namespace]).await?;
        }
        let account =
            json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "default", "namespace": "kube-system" } });
        api.put(&[account]).await?;
        api.put(&objects::rights(&[])?).await?;
        let control_plane = discovery(&api, &network, &home)?;
        let mut cluster = Self { control_plane, api, network, home };
        cluster.wait_until_ready().await?;
        cluster.api.put(&[cluster.webhook()?]).await?;
        cluster.wait_until_asked().await?;
        Ok(cluster)
    }

    fn discovery(&self) -> Result<Process> {
        discovery(&self.api, &self.network, &self.home)
    }

    async fn wait_until_ready(&mut self) -> Result<()> {
        let ready = self.network.socket(1, PORT_PLAIN_HTTP);
        wait_until_ready(&mut self.control_plane, ready, "/ready").await
    }

    // The manifest, with the process where the Service would be.
    fn webhook(&self) -> Result<Value> {
        let mut webhook: Value =
            serde_norway::from_str(&fs::read_to_string(tools::project().join("manifests/base/mutating-webhook.yaml"))?)?;
        let roots = STANDARD.encode(fs::read(self.home.path().join("ca/root-cert.pem"))?);
        let address = self.network.socket(1, PORT_WEBHOOKS);
        for hook in webhook["webhooks"].as_array_mut().context("no webhooks")? {
            let path = hook["clientConfig"]["service"]["path"].as_str().context("no path")?;
            hook["clientConfig"] = json!({ "url": format!("https://{address}{path}"), "caBundle": roots });
        }
        Ok(webhook)
    }

    // The API server watches webhook configurations like others do.
    async fn wait_until_asked(&self) -> Result<()> {
        let probe = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "probe", "namespace": "shop" },
            "spec": { "containers": [{ "name": "app", "image": "example.com/app:v1" }] },
        });
        wait::until("the webhook to be asked", PATIENCE, || async {
            ensure!(is_injected(&self.create(&probe).await?), "not injected");
            Ok(())
        })
        .await
    }

    // What the API server made of it. It is not left behind, so that names can be used again.
    pub(crate) async fn create(&self, pod: &Value) -> Result<Value> {
        let metadata = |field: &str| pod["metadata"][field].as_str().with_context(|| format!("no {field}"));
        let pods = Api::<Pod>::namespaced(self.api.client().await?, metadata("namespace")?);
        let created = pods.create(&PostParams::default(), &serde_json::from_value(pod.clone())?).await?;
        pods.delete(metadata("name")?, &DeleteParams::default().grace_period(0)).await?;
        Ok(serde_json::to_value(created)?)
    }

    pub(crate) async fn diagnostics(&self) -> Result<String> {
        get_text(self.network.socket(1, PORT_MONITORING), "/debug/diagnostics").await
    }
}

fn discovery(api: &ApiServer, network: &Loopback, home: &TempDir) -> Result<Process> {
    let kubeconfig = api.kubeconfig(USER, Who::User { name: USER, group: None }, api.address())?;
    let address = network.address(1);
    let arguments = ["--kubeconfig".into(), kubeconfig.into(), "--tls-san".into(), address.to_string().into()];
    launch::discovery(&options()?, home.path(), address, &arguments)
}

fn options() -> Result<Options> {
    let istiod_lite = PathBuf::from(env!("CARGO_BIN_EXE_istiod-lite"));
    Ok(Options { istiod_lite, envoy: PathBuf::new(), delta: true, debounce: Some("10ms"), certificate_ttl: None, listener_drain: None })
}

// === fixtures ===

struct Fixture {
    name: String,
    before: Vec<Value>,
    after: Vec<Value>,
    said: String,
    /// Made with settings or ProxyConfigs of its own, which the control plane of this test has not.
    special: bool,
}

fn folder() -> PathBuf {
    tools::project().join("tests/inject")
}

fn fixtures() -> Result<Vec<Fixture>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder())? {
        let path = entry?.path();
        let before = documents(&path.join("in.yaml"))?;
        found.push(Fixture {
            name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            after: documents(&path.join("out.yaml"))?,
            said: fs::read_to_string(path.join("said.txt")).unwrap_or_default(),
            special: path.join("arguments").exists() || path.join("mesh.yaml").exists() || names_proxy_config(&before),
            before,
        });
    }
    Ok(found)
}

fn names_proxy_config(documents: &[Value]) -> bool {
    documents.iter().any(|document| document["kind"] == "ProxyConfig")
}

fn documents(path: &Path) -> Result<Vec<Value>> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let documents = serde_norway::Deserializer::from_str(&text).map(Value::deserialize).collect::<Result<Vec<_>, _>>()?;
    Ok(documents.into_iter().flat_map(|document| document["items"].as_array().cloned().unwrap_or_else(|| vec![document])).collect())
}

impl Fixture {
    // Before and after injection.
    fn pods(&self) -> Vec<(Value, Value)> {
        let pairs = self.before.iter().zip(&self.after);
        pairs.filter_map(|(before, after)| Some((pod_of(before)?, pod_of(after)?))).collect()
    }

    // Whether the user was warned that the namespace's pod security level forbids it.
    fn is_forbidden(&self, pod: &Value) -> bool {
        let Some((namespace, name)) = pod["metadata"]["namespace"].as_str().zip(pod["metadata"]["name"].as_str()) else { return false };
        let warned = format!("warning: Pod/{namespace}/{name}: namespace {namespace} enforces the pod security level");
        self.said.lines().any(|line| line.starts_with(&warned))
    }

    fn compare(&self, created: &Value, expected: &Value) -> Result<()> {
        ensure!(is_injected(created) == is_injected(expected), "injected: {}, expected: {}", is_injected(created), is_injected(expected));
        ensure!(names(created, "initContainers") == names(expected, "initContainers"), "init containers: {created}");
        if self.special {
            return Ok(());
        }
        let mut expected = expected.clone();
        // Both hold what the user wrote, to which the API server adds its defaults.
        without(&mut expected, "proxy.istio.io/overrides", &["ISTIO_KUBE_APP_PROBERS", OWNER]);
        contains(created, &expected, "")
    }
}

// The pod that a controller would make, without a reference to it.
fn pod_of(object: &Value) -> Option<Value> {
    let mut pod = match object["kind"].as_str()? {
        "Pod" => return Some(object.clone()),
        "CronJob" => object["spec"]["jobTemplate"]["spec"]["template"].clone(),
        "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "Job" => object["spec"]["template"].clone(),
        _ => return None,
    };
    pod["apiVersion"] = json!("v1");
    pod["kind"] = json!("Pod");
    pod["metadata"]["name"] = object["metadata"]["name"].clone();
    pod["metadata"]["namespace"] = object["metadata"]["namespace"].clone();
    Some(pod)
}

fn is_injected(pod: &Value) -> bool {
    pod.pointer(STATUS).is_some()
}

fn elsewhere(pod: &Value) -> Value {
    let mut pod = pod.clone();
    pod["metadata"]["namespace"] = json!(UNWATCHED);
    pod
}

/// Returns the container of that name.
pub(crate) fn container<'v>(pod: &'v Value, name: &str) -> Option<&'v Value> {
    let lists = ["initContainers", "containers"].into_iter().filter_map(|list| pod["spec"][list].as_array());
    lists.flatten().find(|container| container["name"] == name)
}

fn names<'v>(pod: &'v Value, list: &str) -> Vec<&'v str> {
    pod["spec"][list].as_array().into_iter().flatten().filter_map(|container| container["name"].as_str()).collect()
}

fn without(pod: &mut Value, annotation: &str, omitted: &[&str]) {
    if let Some(annotations) = pod.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.remove(annotation);
    }
    for list in ["/spec/initContainers", "/spec/containers"] {
        for container in pod.pointer_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(Value::Array(variables)) = container.get_mut("env") {
                variables.retain(|found| !omitted.iter().any(|name| found["name"] == *name));
            }
        }
    }
}

// The API server adds to maps and lists, and takes nothing away.
fn contains(found: &Value, expected: &Value, path: &str) -> Result<()> {
    match (found, expected) {
        (Value::Object(found), Value::Object(expected)) => {
            for (field, value) in expected.iter().filter(|(_, value)| !is_default(value)) {
                let path = format!("{path}.{field}");
                contains(found.get(field).with_context(|| format!("{path} is missing"))?, value, &path)?;
            }
        }
        (Value::Array(found), Value::Array(expected)) => {
            for (index, element) in expected.iter().enumerate() {
                let named = |other: &&Value| element.get("name").is_none() || other.get("name") == element.get("name");
                let tried: Vec<_> = found.iter().filter(named).map(|other| contains(other, element, &format!("{path}[{index}]"))).collect();
                if !tried.iter().any(Result::is_ok) {
                    return tried.into_iter().next().unwrap_or_else(|| bail!("{path}: no {element}"));
                }
            }
        }
        _ => ensure!(found == expected, "{path}: {found} is not {expected}"),
    }
    Ok(())
}

// The typed pod of this test leaves empty values out.
fn is_default(value: &Value) -> bool {
    value.as_object().is_some_and(serde_json::Map::is_empty) || *value == json!("")
}

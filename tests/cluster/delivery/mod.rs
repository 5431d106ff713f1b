//! Canary controllers, unmodified, with their own analysis by what proxies report: each promotes a good release and rolls back a bad
//! one, and the mesh fails no request meanwhile. `make test-delivery` runs them.

mod argo;
mod flagger;

use std::{net::SocketAddr, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use harness::{
    cluster::{
        Cluster, PATIENCE,
        pods::Pod,
        shop::{SHOP, account},
    },
    load::{Load, Path, Plan, Window},
    process::{Process, tail},
    prometheus::{Job, Prometheus},
    tools, wait,
    workload::HTTP_PORT,
};
use serde_json::json;
use tempfile::TempDir;

pub(crate) use self::{argo::argo_rollouts_promotes_and_rolls_back, flagger::flagger_promotes_and_rolls_back};

/// Where releases are made.
const NAMESPACE: &str = "release";
/// Where Prometheus answers, in the node's network.
const PROMETHEUS: ([u8; 4], u16) = ([127, 0, 0, 1], 9090);
/// Requests per second.
const RATE: u32 = 40;
/// An answer later than this is a failure. The machine starts pods while it answers.
const LATE: Duration = Duration::from_secs(5);
/// How long a release may take.
const RELEASE: Duration = Duration::from_secs(420);
/// Pods of a release: what `args` are is what release it is.
const GOOD: &str = r#"["serve", "good"]"#;
const BETTER: &str = r#"["serve", "better"]"#;
const BAD: &str = r#"["serve", "broken", "failing"]"#;

/// What a canary controller needs: Prometheus, a namespace, and who asks.
pub(crate) struct Delivery<'c> {
    cluster: &'c Cluster,
    home: TempDir,
    client: Pod,
    _prometheus: Prometheus,
}

impl<'c> Delivery<'c> {
    /// Has the proxies report, makes the namespace anew, and starts Prometheus on the node.
    async fn start(cluster: &'c Cluster) -> Result<Self> {
        report(cluster).await?;
        cluster.kubectl(&["delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=120s"]).await?;
        let namespace = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": NAMESPACE, "labels": {"istio-injection": "enabled"}},
        });
        cluster.apply(&namespace.to_string()).await?;
        let home = tempfile::tempdir()?;
        std::fs::create_dir(home.path().join("logs"))?;
        let client = cluster.only_pod(SHOP, "app=client").await?;
        let prometheus = prometheus(cluster, &home).await?;
        Ok(Self { cluster, home, client, _prometheus: prometheus })
    }

    /// Starts a program on the node; it reaches the cluster as its administrator.
    async fn start_program(&self, tools_name: &'static str, program: &'static str, arguments: Vec<String>) -> Result<Process> {
        let (kubeconfig, logs) = (self.cluster.kubeconfig(), self.home.path().join("logs"));
        let (istiod_lite, path) = (tools::istiod_lite()?, tools::go(tools_name, program)?);
        let started = async move {
            let mut command = Command::new(istiod_lite);
            command.args(["agent", "launch", &std::process::id().to_string()]).arg(path).args(arguments);
            command.arg("--kubeconfig").arg(&kubeconfig);
            Process::start(program, command, &logs)
        };
        self.cluster.node().run(started).await
    }

    /// Applies the definitions that lie beside a program.
    async fn define(&self, tools_name: &str) -> Result<()> {
        let file = tools::go(tools_name, "crds.yaml")?.display().to_string();
        self.cluster.kubectl(&["apply", "--server-side", "-f", &file]).await?;
        self.cluster.wait_for("default", "condition=Established", &["customresourcedefinition", "--all"]).await
    }

    /// Starts load on a Service of the namespace, from the client's pod through its sidecar.
    async fn load(&self, service: &str) -> Result<Load> {
        let address = self.cluster.service(NAMESPACE, service).await?;
        let path = Path { name: "mesh", target: SocketAddr::new(address, HTTP_PORT), host: format!("{service}.{NAMESPACE}:{HTTP_PORT}") };
        let _there = self.client.place().handle().enter();
        Ok(Load::start(&Plan { late: LATE, ..Plan::new(vec![path], RATE) }))
    }

    /// Waits until an object says that a release has come to this end.
    async fn wait_until(&self, controller: &mut Process, object: &str, field: &str, wanted: &str) -> Result<()> {
        let jsonpath = format!("jsonpath={field}");
        let reached = wait::until(&format!("{object} to be {wanted}"), RELEASE, || async {
            let said = self.cluster.kubectl(&["-n", NAMESPACE, "get", object, "-o", &jsonpath]).await?;
            ensure!(said == wanted, "it is {said:?}");
            tokio::time::sleep(Duration::from_millis(200)).await;
            Ok(())
        })
        .await;
        controller.check_running()?;
        match reached {
            Ok(()) => Ok(()),
            Err(error) => {
                let state = account(self.cluster, NAMESPACE).await;
                Err(error.context(format!("{}\n{state}", tail(&controller.log(), 40))))
            }
        }
    }
}

/// Has all proxies report Istio's standard metrics.
async fn report(cluster: &Cluster) -> Result<()> {
    let mesh = "rootNamespace: istio-system\ntrustDomain: cluster.local\ndefaultProviders: {metrics: [prometheus]}\n";
    let patch = json!({"data": {"mesh": mesh}}).to_string();
    cluster.kubectl(&["-n", "istio-system", "patch", "configmap", "istio", "--type=merge", "-p", &patch]).await.map(drop)
}

/// Starts a Prometheus on the node that follows the pods' annotations.
async fn prometheus(cluster: &Cluster, home: &TempDir) -> Result<Prometheus> {
    let keep = |from: &str, regex: &str| json!({"action": "keep", "source_labels": [from], "regex": regex});
    let put =
        |from: &[&str], regex: &str, to: &str| json!({"source_labels": from, "regex": regex, "replacement": "$1", "target_label": to});
    let annotation = |name: &str| format!("__meta_kubernetes_pod_annotation_prometheus_io_{name}");
    let further = json!({
        "kubernetes_sd_configs": [{"role": "pod", "kubeconfig_file": cluster.kubeconfig()}],
        "relabel_configs": [
            keep(&annotation("scrape"), "true"),
            keep("__meta_kubernetes_pod_phase", "Running"),
            put(&[&annotation("path")], "(.+)", "__metrics_path__"),
            json!({
                "source_labels": ["__meta_kubernetes_pod_ip", annotation("port")],
                "regex": "(.+);(.+)", "replacement": "$1:$2", "target_label": "__address__",
            }),
            put(&["__meta_kubernetes_namespace"], "(.+)", "namespace"),
            put(&["__meta_kubernetes_pod_name"], "(.+)", "pod"),
        ],
    });
    let (istiod_lite, home) = (tools::istiod_lite()?, home.path().to_owned());
    let started = async move {
        let job = Job { name: "pods", every: Duration::from_secs(2), path: "/metrics", targets: Vec::new(), further };
        Prometheus::start(&istiod_lite, &home, SocketAddr::from(PROMETHEUS), &[job]).await
    };
    cluster.node().run(started).await
}

/// Returns a Deployment's, or a Rollout's, `replicas`, `selector` and `template`, as JSON.
fn pods(app: &str, args: &str) -> Result<serde_json::Value> {
    let args: serde_json::Value = serde_json::from_str(args)?;
    Ok(json!({
        "replicas": 1,
        "selector": {"matchLabels": {"app": app}},
        "template": {
            "metadata": {"labels": {"app": app}},
            "spec": {
                "terminationGracePeriodSeconds": 30,
                "containers": [{
                    "name": "app",
                    "image": "localhost/reviews:1",
                    "args": args,
                    "ports": [{"name": "http", "containerPort": HTTP_PORT}],
                    "readinessProbe": {
                        "httpGet": {"path": "/ready", "port": "http"},
                        "periodSeconds": 2, "timeoutSeconds": 5, "failureThreshold": 6,
                    },
                    "lifecycle": {"preStop": {"sleep": {"seconds": 5}}},
                }],
            },
        },
    }))
}

/// Returns the patch that makes it another release.
fn release(args: &str) -> String {
    format!(r#"[{{"op": "replace", "path": "/spec/template/spec/containers/0/args", "value": {args}}}]"#)
}

/// Waits until every answer of a while comes from one release.
async fn wait_for_only(load: &Load, version: &str) -> Result<()> {
    wait::until(&format!("answers of {version} alone"), PATIENCE, || async {
        let since = std::time::Instant::now();
        tokio::time::sleep(Duration::from_secs(3)).await;
        let window = load.since(since);
        let answers = window.sample("mesh");
        let bad = window.bad_releases();
        ensure!(answers.total > 0 && answers.of(version) == answers.total && bad == 0, "{answers:?}, and {bad} of a bad release");
        Ok(())
    })
    .await
}

/// Fails if a request failed that no bad release answered by itself, or if none met the bad release.
fn expect_no_failures(window: &Window) -> Result<()> {
    let failures = window.failures_of_the_mesh();
    let first = failures.iter().take(8).map(|failure| format!("\n  {failure}")).collect::<String>();
    ensure!(failures.is_empty(), "{} of {} requests failed by the mesh:{first}", failures.len(), window.outcomes().len());
    ensure!(window.outcomes().len() > 1000, "only {} requests were sent", window.outcomes().len());
    ensure!(window.bad_releases() > 0, "no request met the bad release: it was never tried");
    Ok(())
}

/// Returns the address of Prometheus, as a URL.
fn prometheus_url() -> String {
    format!("http://{}", SocketAddr::from(PROMETHEUS))
}

/// Returns an object of the namespace.
async fn json_of(cluster: &Cluster, object: &str) -> Result<serde_json::Value> {
    serde_json::from_str(&cluster.kubectl(&["-n", NAMESPACE, "get", object, "-o", "json"]).await?).with_context(|| object.to_owned())
}

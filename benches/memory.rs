//! What the control plane costs in a large cluster before any proxy connects: 10,000 pods and 1,000 services watched.
//!
//! An own `main` instead of criterion: what counts is the memory of another process. The real `istiod-lite discovery`
//! reads a small API server in this process, which answers lists in pages and holds watches open, over plain HTTP. The
//! objects are as a Deployment, a kubelet and the endpoint controller leave them, with managedFields, environment and
//! status: a pod is 6 kB of JSON or more. They are written before the start, so that the answers cost the API server no
//! more than sending them. Reported are the time from the first request and from the last byte of the lists to `/ready`,
//! the CPU time that the process took until then, and VmRSS and VmHWM then and half a minute later.
//!
//! `PODS` and `SERVICES` set how many there are.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "a bench ends when something fails")]

use std::{
    collections::BTreeMap,
    env, fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    process::Command,
    sync::{Arc, OnceLock},
    task::Poll,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Query, State},
    http::{StatusCode, Uri, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use futures::stream;
use harness::{http_client::get_text, launch, process::Process};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;

const VERSION: u64 = 1_000_000;
const MARK: u64 = 60 << 10;
const PIECE: usize = 32 << 10;

#[tokio::main]
async fn main() -> Result<()> {
    // `cargo test --benches` runs benches too, to see that they build.
    if !env::args().any(|argument| argument == "--bench") {
        println!("not measured: `cargo bench` does");
        return Ok(());
    }
    let number = |name: &str, usual: usize| env::var(name).ok().map_or(Ok(usual), |text| text.parse::<usize>());
    let cluster = Cluster { pods: number("PODS", 10_000)?, services: number("SERVICES", 1_000)? };
    println!("{} pods of {} bytes, {} services", cluster.pods, cluster.pod(0).to_string().len(), cluster.services);
    measure(Arc::new(ApiServer::of(&cluster))).await
}

async fn measure(server: Arc<ApiServer>) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let api = listener.local_addr()?;
    let app = Router::new().fallback(answer).with_state(Arc::clone(&server));
    tokio::spawn(async move { axum::serve(listener, app).await });

    let home = tempfile::tempdir()?;
    let istiod_lite = Path::new(env!("CARGO_BIN_EXE_istiod-lite"));
    launch::ceremony(istiod_lite, home.path())?;
    fs::create_dir(home.path().join("logs"))?;
    fs::write(home.path().join("kubeconfig"), kubeconfig(api).to_string())?;
    let http = free_port().await?;
    let process = start(istiod_lite, home.path(), http)?;
    until_ready(http).await?;
    let ready = Instant::now();
    let asked = server.asked.get().context("ready without a question")?;
    let answered = server.answered.lock().context("ready without an answer")?;
    let cpu = cpu_time(process.id())?;
    println!("first request to ready: {:.2} s", (ready - *asked).as_secs_f64());
    println!("last byte of the lists to ready: {:.2} s", (ready - answered).as_secs_f64());
    println!("CPU time of the process until ready: {:.2} s", cpu.as_secs_f64());
    report("at ready", process.id())?;
    tokio::time::sleep(Duration::from_secs(30)).await;
    let resident = report("30 s later", process.id())?;
    ensure!(resident < MARK, "more than {MARK} kB are resident");
    Ok(())
}

fn start(istiod_lite: &Path, home: &Path, http: SocketAddr) -> Result<Process> {
    let mut command = Command::new(istiod_lite);
    command.arg("discovery").arg("--kubeconfig").arg(home.join("kubeconfig")).arg("--ca-dir").arg(home.join("ca"));
    command.arg("--httpAddr").arg(http.to_string());
    for flag in ["--grpcAddr", "--secureGRPCAddr", "--monitoringAddr", "--httpsAddr"] {
        command.args([flag, "127.0.0.1:0"]);
    }
    Process::start("control-plane", command, &home.join("logs"))
}

async fn until_ready(http: SocketAddr) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(600);
    while Instant::now() < deadline {
        if get_text(http, "/ready").await.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    anyhow::bail!("not ready in time")
}

// The kernel counts in hundredths of a second for every process.
fn cpu_time(process: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    let (_, fields) = stat.rsplit_once(") ").context("no name")?;
    let ticks = fields.split(' ').skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(Duration::from_millis(10 * ticks))
}

fn report(when: &str, process: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let kilobytes = |field: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(field)).with_context(|| format!("no {field}"))?;
        Ok::<u64, anyhow::Error>(line.trim().trim_end_matches(" kB").parse()?)
    };
    let (resident, peak) = (kilobytes("VmRSS:")?, kilobytes("VmHWM:")?);
    println!("{when}: VmRSS {:.1} MB, VmHWM {:.1} MB", resident as f64 / 1024.0, peak as f64 / 1024.0);
    Ok(resident)
}

async fn free_port() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0").await?.local_addr()?)
}

fn kubeconfig(api: SocketAddr) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "bench",
        "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}],
        "clusters": [{"name": "bench", "cluster": {"server": format!("http://{api}")}}],
        "users": [{"name": "bench", "user": {"token": "bench"}}],
    })
}

// === the API server ===

struct ApiServer {
    /// The objects by plural, each as JSON.
    objects: BTreeMap<&'static str, Vec<String>>,
    /// When the first request came.
    asked: OnceLock<Instant>,
    /// When the last byte of a list was handed to its connection.
    answered: Mutex<Option<Instant>>,
}

/// What is in the cluster.
struct Cluster {
    pods: usize,
    services: usize,
}

#[derive(Deserialize)]
struct Asked {
    watch: Option<bool>,
    limit: Option<usize>,
    #[serde(rename = "continue")]
    from: Option<usize>,
    #[serde(rename = "fieldSelector")]
    selector: Option<String>,
}

async fn answer(State(server): State<Arc<ApiServer>>, uri: Uri, Query(asked): Query<Asked>) -> Response {
    server.asked.get_or_init(Instant::now);
    if asked.watch == Some(true) {
        let silence = stream::pending::<Result<Bytes, io::Error>>();
        return ([(CONTENT_TYPE, "application/json")], Body::from_stream(silence)).into_response();
    }
    match uri.path().split('/').collect::<Vec<_>>()[..] {
        ["", "apis", "networking.istio.io", "v1"] => {
            served(&["destinationrules", "gateways", "serviceentries", "sidecars", "virtualservices", "workloadentries"])
        }
        ["", "apis", "security.istio.io", "v1"] => served(&["peerauthentications"]),
        ["", "apis", _, _] => (StatusCode::NOT_FOUND, "no such version").into_response(),
        [.., "namespaces"] if asked.selector.is_some() => {
            Json(json!({"items": [{"metadata": {"name": "kube-system", "uid": "the-bench"}}]})).into_response()
        }
        [.., plural] => server.list(plural, &asked),
        [] => StatusCode::NOT_FOUND.into_response(),
    }
}

fn served(plurals: &[&str]) -> Response {
    let resources: Vec<Value> = plurals.iter().map(|name| json!({"name": name})).collect();
    Json(json!({"kind": "APIResourceList", "resources": resources})).into_response()
}

impl ApiServer {
    fn of(cluster: &Cluster) -> Self {
        let written =
            |count: usize, object: fn(&Cluster, usize) -> Value| (0..count).map(|index| object(cluster, index).to_string()).collect();
        let objects = BTreeMap::from([
            ("pods", written(cluster.pods, Cluster::pod)),
            ("services", written(cluster.services, Cluster::service)),
            ("endpointslices", written(cluster.services, Cluster::slice)),
            ("nodes", written(100, Cluster::node)),
            ("namespaces", written(20, Cluster::namespace)),
        ]);
        Self { objects, asked: OnceLock::new(), answered: Mutex::default() }
    }

    fn list(self: Arc<Self>, plural: &str, asked: &Asked) -> Response {
        let objects = self.objects.get(plural).map_or(&[][..], Vec::as_slice);
        let from = asked.from.unwrap_or_default();
        let until = objects.len().min(from + asked.limit.unwrap_or(objects.len()));
        let next = if until < objects.len() { until.to_string() } else { String::new() };
        let items = objects[from..until].join(",");
        let page = format!(r#"{{"metadata":{{"resourceVersion":"{VERSION}","continue":"{next}"}},"items":[{items}]}}"#);
        // Lists of nothing are asked for again and again.
        let counts = !objects.is_empty();
        // In pieces, as a real one answers; the end is asked for when all of them are on their way.
        let mut page = Bytes::from(page);
        let pieces = stream::poll_fn(move |_| {
            let piece = Some(page.split_to(page.len().min(PIECE))).filter(|piece| !piece.is_empty());
            if piece.is_none() && counts {
                *self.answered.lock() = Some(Instant::now());
            }
            Poll::Ready(piece.map(Ok::<_, io::Error>))
        });
        ([(CONTENT_TYPE, "application/json")], Body::from_stream(pieces)).into_response()
    }
}

impl Cluster {
    fn pods_of(&self, service: usize) -> impl Iterator<Item = usize> {
        (service..self.pods).step_by(self.services.max(1))
    }

    fn namespace(&self, index: usize) -> Value {
        json!({"metadata": metadata(&format!("team-{index:02}"), "", index, json!({"istio-injection": "enabled"}))})
    }

    fn node(&self, index: usize) -> Value {
        let zone = format!("westeurope-{}", index % 3);
        let labels = json!({"topology.kubernetes.io/region": "westeurope", "topology.kubernetes.io/zone": zone});
        let images: Vec<Value> = (0..40).map(|image| json!({"names": [format!("registry/image-{image}")], "sizeBytes": 1})).collect();
        json!({"metadata": metadata(&node(index), "", index, labels), "status": {"images": images}})
    }

    fn service(&self, index: usize) -> Value {
        let app = app(index);
        json!({
            "metadata": metadata(&app, &team(index), index, json!({"app.kubernetes.io/name": app})),
            "spec": {
                "clusterIP": service_ip(index), "clusterIPs": [service_ip(index)], "type": "ClusterIP",
                "selector": {"app.kubernetes.io/name": app}, "internalTrafficPolicy": "Cluster",
                "ports": [
                    {"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"},
                    {"name": "http-metrics", "port": 9090, "targetPort": 9090, "protocol": "TCP"},
                ],
            },
            "status": {"loadBalancer": {}},
        })
    }

    fn slice(&self, index: usize) -> Value {
        let endpoint = |pod: usize| {
            json!({
                "addresses": [pod_ip(pod)], "nodeName": node(pod % 100), "zone": format!("westeurope-{}", pod % 3),
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "targetRef": {"kind": "Pod", "namespace": team(index), "name": pod_name(index, pod), "uid": uid(pod)},
            })
        };
        let labels =
            json!({"kubernetes.io/service-name": app(index), "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"});
        json!({
            "metadata": metadata(&format!("{}-x7k2p", app(index)), &team(index), index, labels),
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "http-metrics", "port": 9090, "protocol": "TCP"}],
            "endpoints": self.pods_of(index).map(endpoint).collect::<Vec<Value>>(),
        })
    }

    fn pod(&self, index: usize) -> Value {
        let service = index % self.services.max(1);
        let app = app(service);
        let labels = json!({
            "app.kubernetes.io/name": app, "app.kubernetes.io/version": "v1", "pod-template-hash": hash(service),
            "security.istio.io/tlsMode": "istio", "service.istio.io/canonical-name": app,
            "service.istio.io/canonical-revision": "v1",
        });
        let mut metadata = metadata(&pod_name(service, index), &team(service), index, labels);
        metadata["generateName"] = format!("{app}-{}-", hash(service)).into();
        metadata["annotations"] = json!({
            "kubectl.kubernetes.io/restartedAt": "2026-01-01T00:00:00Z", "prometheus.io/port": "15020",
            "prometheus.io/scrape": "true", "istio.io/rev": "default",
            "sidecar.istio.io/status": r#"{"initContainers":["istio-init","istio-proxy"],"containers":null,"volumes":["workload-socket","credential-socket"],"imagePullSecrets":null,"revision":"default"}"#,
        });
        metadata["ownerReferences"] = json!([{
            "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{app}-{}", hash(service)),
            "uid": uid(service), "controller": true, "blockOwnerDeletion": true,
        }]);
        json!({"metadata": metadata, "spec": pod_spec(index), "status": pod_status(index)})
    }
}

fn pod_spec(index: usize) -> Value {
    let variables: Vec<Value> =
        (0..12).map(|at| json!({"name": format!("SETTING_{at}"), "value": format!("the value of setting {at}")})).collect();
    let mounts = json!([{"name": "kube-api-access", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true}]);
    let probe = json!({"httpGet": {"path": "/healthz", "port": "http", "scheme": "HTTP"}, "timeoutSeconds": 1, "periodSeconds": 10});
    let container = |name: &str, port: u16, port_name: &str| {
        json!({
            "name": name, "image": format!("registry.example.com/{name}:1.2.3"), "env": variables, "volumeMounts": mounts,
            "ports": [{"name": port_name, "containerPort": port, "protocol": "TCP"}],
            "readinessProbe": probe, "livenessProbe": probe,
            "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
        })
    };
    json!({
        "serviceAccountName": "default", "nodeName": node(index % 100), "restartPolicy": "Always",
        "containers": [container("app", 8080, "http"), container("istio-proxy", 15090, "http-envoy-prom")],
        "volumes": [{"name": "kube-api-access", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}],
        "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"}],
    })
}

fn pod_status(index: usize) -> Value {
    let condition = |name: &str| json!({"type": name, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let conditions: Vec<Value> = ["PodScheduled", "Initialized", "ContainersReady", "Ready"].into_iter().map(condition).collect();
    json!({
        "phase": "Running", "podIP": pod_ip(index), "podIPs": [{"ip": pod_ip(index)}], "hostIP": "10.0.0.1",
        "qosClass": "Burstable", "conditions": conditions,
        "containerStatuses": [{"name": "app", "ready": true, "restartCount": 0, "image": "registry.example.com/app:1.2.3"}],
    })
}

fn metadata(name: &str, namespace: &str, index: usize, labels: Value) -> Value {
    let fields: Vec<String> = (0..24).map(|at| format!("f:field-number-{at}")).collect();
    let owned: Value =
        fields.into_iter().map(|field| (field, json!({"f:inner": {}, "f:other": {".": {}}}))).collect::<serde_json::Map<_, _>>().into();
    let manager = |name: &str| json!({"manager": name, "operation": "Update", "time": "2026-01-01T00:00:00Z", "fieldsV1": owned});
    json!({
        "name": name, "namespace": namespace, "uid": uid(index), "resourceVersion": (1000 + index).to_string(),
        "creationTimestamp": "2026-01-01T00:00:00Z", "labels": labels,
        "managedFields": [manager("kube-controller-manager"), manager("kubelet")],
    })
}

fn app(index: usize) -> String {
    format!("checkout-{index:04}")
}

fn team(index: usize) -> String {
    format!("team-{:02}", index % 20)
}

fn hash(index: usize) -> String {
    format!("{:09x}f", 0x5_0000_0000_usize + index * 7919)
}

fn pod_name(service: usize, pod: usize) -> String {
    format!("{}-{}-{pod:05}", app(service), hash(service))
}

fn node(index: usize) -> String {
    format!("aks-default-12345678-vmss{index:06}")
}

fn uid(index: usize) -> String {
    format!("{index:08x}-1234-4123-8123-0123456789ab")
}

fn pod_ip(index: usize) -> IpAddr {
    Ipv4Addr::from(0x0a80_0000 + index as u32).into()
}

fn service_ip(index: usize) -> IpAddr {
    Ipv4Addr::from(0x0a00_0000 + index as u32).into()
}

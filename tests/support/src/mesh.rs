//! A whole mesh of real processes: the CA ceremony, one control plane, and agents with their Envoys.

use std::{
    ffi::OsString,
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::{
    address::Loopback,
    admin::Admin,
    canary,
    convergence::{self, Converged, unix_millis},
    counters::Counters,
    http_client::get,
    launch::{self, PORT_MONITORING, PORT_PLAIN_HTTP, PORT_SECURE_GRPC},
    load::{self, Load},
    manifest::{Manifests, with_weights},
    process::{self, Process},
    prometheus::{Job, Prometheus},
    tools, wait,
    workload::Workload,
};

/// How long a process may take until it is ready; generous, for machines that do much else.
pub const START: Duration = Duration::from_secs(30);
/// How long a change may take to every Envoy's ACK.
pub const CONVERGE: Duration = Duration::from_secs(20);

/// The object that a canary edits.
pub const VIRTUAL_SERVICE: &str = "VirtualService/shop/reviews";
/// Its file.
pub const VIRTUAL_SERVICE_FILE: &str = "virtual-service.yaml";
/// The host that the ingress gateway serves.
pub const PUBLIC_HOST: &str = "shop.example.com";
/// The host that clients inside ask for.
pub const MESH_HOST: &str = "reviews.shop.svc.cluster.local:9080";

/// How the mesh is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// `istiod-lite`.
    pub istiod_lite: PathBuf,
    /// Envoy.
    pub envoy: PathBuf,
    /// Delta ADS, or state of the world.
    pub delta: bool,
    /// `PILOT_DEBOUNCE_AFTER` of the control plane; `None`: its default.
    pub debounce: Option<&'static str>,
    /// How long the agents' certificates live; `None`: their default.
    pub certificate_ttl: Option<&'static str>,
    /// How long Envoys keep the connections of listeners that changed; `None`: the agents' default.
    pub listener_drain: Option<&'static str>,
}

/// One pod: its number in the network, its name and who it is.
#[derive(Clone, Copy, Debug)]
pub struct Pod {
    /// The last number of its address.
    pub host: u8,
    /// Its name.
    pub name: &'static str,
    /// Its namespace.
    pub namespace: &'static str,
    /// Its service account.
    pub service_account: &'static str,
    /// Its labels.
    pub labels: &'static [(&'static str, &'static str)],
    /// Gateway or sidecar.
    pub role: &'static str,
}

/// The ingress gateway of `manifests/folder-demo`.
pub const GATEWAY: Pod = Pod {
    host: 2,
    name: "gateway-1",
    namespace: "istio-system",
    service_account: "istio-ingressgateway",
    labels: &[("app", "istio-ingressgateway"), ("istio", "ingressgateway")],
    role: "gateway",
};
/// The client.
pub const CLIENT: Pod =
    Pod { host: 3, name: "client-1", namespace: "shop", service_account: "client", labels: &[("app", "client")], role: "sidecar" };
/// `reviews` v1.
pub const REVIEWS_V1: Pod = Pod {
    host: 4,
    name: "reviews-v1-1",
    namespace: "shop",
    service_account: "reviews",
    labels: &[("app", "reviews"), ("version", "v1")],
    role: "sidecar",
};
/// `reviews` v2.
pub const REVIEWS_V2: Pod = Pod {
    host: 5,
    name: "reviews-v2-1",
    namespace: "shop",
    service_account: "reviews",
    labels: &[("app", "reviews"), ("version", "v2")],
    role: "sidecar",
};

/// The number of a Prometheus in the network.
const HOST_PROMETHEUS: u8 = 9;

/// The pods of `manifests/folder-demo`.
pub const PODS: [Pod; 4] = [GATEWAY, CLIENT, REVIEWS_V1, REVIEWS_V2];

/// A running mesh. Dropping it ends every process and removes its folder.
#[derive(Debug)]
pub struct Mesh {
    // Proxies first: they drain while the control plane is still there.
    proxies: Vec<Proxy>,
    control_plane: Process,
    workloads: Vec<Workload>,
    manifests: Manifests,
    options: Options,
    /// More arguments of the control plane.
    arguments: Vec<OsString>,
    network: Loopback,
    home: TempDir,
}

/// An agent with its Envoy.
#[derive(Debug)]
pub struct Proxy {
    pod: Pod,
    address: IpAddr,
    agent: Process,
}

impl Proxy {
    /// Returns the pod that it stands before.
    pub fn pod(&self) -> Pod {
        self.pod
    }

    /// Returns Envoy's admin port.
    pub fn admin(&self) -> Admin {
        Admin::new(SocketAddr::new(self.address, 15000))
    }

    /// Returns the agent's port, where its metrics are.
    pub fn agent_port(&self) -> SocketAddr {
        SocketAddr::new(self.address, 15020)
    }

    /// Returns the agent.
    pub fn agent(&mut self) -> &mut Process {
        &mut self.agent
    }

    /// Returns the process id of its Envoy.
    pub fn envoy_id(&self) -> Result<u32> {
        let children = process::children(self.agent.id())?;
        children.first().copied().with_context(|| format!("the agent of {} has no Envoy", self.pod.name))
    }
}

impl Mesh {
    /// Starts the mesh of `manifests/folder-demo` in a network of its own, and waits until all of it is ready.
    pub async fn start(options: Options, network: Loopback) -> Result<Self> {
        Self::start_with(options, network, Vec::new()).await
    }

    /// Starts it with more arguments for the control plane.
    pub async fn start_with(options: Options, network: Loopback, arguments: Vec<OsString>) -> Result<Self> {
        Self::start_prepared(options, network, arguments, |_| Ok(())).await
    }

    /// Starts it with more arguments for the control plane, after its folder was prepared.
    pub async fn start_prepared(
        options: Options,
        network: Loopback,
        arguments: Vec<OsString>,
        prepare: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<Self> {
        let home = tempfile::Builder::new().prefix("istiod-lite-").tempdir()?;
        fs::create_dir(home.path().join("logs"))?;
        launch::ceremony(&options.istiod_lite, home.path())?;
        prepare(home.path())?;
        let manifests = Manifests::create(home.path().join("config"))?;
        manifests.copy_from(&tools::project().join("manifests/folder-demo"), &network.dotted_prefix())?;
        let control_plane = control_plane(&options, home.path(), &network, &arguments)?;
        let mut mesh = Self { proxies: Vec::new(), control_plane, workloads: Vec::new(), manifests, options, arguments, network, home };
        mesh.wait_for_control_plane().await?;
        for (pod, version) in [(REVIEWS_V1, "v1"), (REVIEWS_V2, "v2")] {
            let (http, echo) = (mesh.network.socket(pod.host, 9081), mesh.network.socket(pod.host, 9001));
            mesh.workloads.push(Workload::start(version, http, Some(echo)).await?);
        }
        for pod in PODS {
            let proxy = mesh.start_proxy(pod, &mesh.options)?;
            mesh.proxies.push(proxy);
        }
        mesh.wait_for_proxies().await?;
        mesh.wait_for_traffic().await?;
        Ok(mesh)
    }

    /// Starts it with proxies that report Istio's standard metrics.
    pub async fn start_reporting(options: Options, network: Loopback) -> Result<Self> {
        Self::start_with(options, network, Self::reporting()).await
    }

    /// Returns the arguments of a control plane whose proxies report Istio's standard metrics.
    pub fn reporting() -> Vec<OsString> {
        vec!["--meshConfig".into(), tools::project().join("examples/demo/mesh.yaml").into()]
    }

    /// Starts a Prometheus that scrapes every agent, and waits for a first scrape of each. Its job is `mesh`.
    pub async fn prometheus(&self, every: Duration) -> Result<Prometheus> {
        let targets: Vec<_> = self.proxies.iter().map(|proxy| (proxy.agent_port(), proxy.pod.name)).collect();
        let count = targets.len();
        let job = Job { name: "mesh", every, path: "/stats/prometheus", targets, further: serde_json::json!({}) };
        let address = self.network.socket(HOST_PROMETHEUS, 9090);
        let mut prometheus = Prometheus::start(&self.options.istiod_lite, self.home.path(), address, &[job]).await?;
        prometheus.wait_for_targets(count).await?;
        Ok(prometheus)
    }

    /// Returns the folder of YAML.
    pub fn manifests(&self) -> &Manifests {
        &self.manifests
    }

    /// Returns the mesh's network.
    pub fn network(&self) -> &Loopback {
        &self.network
    }

    /// Returns the folder of everything that it wrote: CA, logs, configuration.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Returns the control plane.
    pub fn control_plane(&mut self) -> &mut Process {
        &mut self.control_plane
    }

    /// Returns where `/metrics` and `/debug` are.
    pub fn monitoring(&self) -> SocketAddr {
        self.network.socket(1, PORT_MONITORING)
    }

    /// Returns the agents, in the order of [`PODS`].
    pub fn proxies(&mut self) -> &mut [Proxy] {
        &mut self.proxies
    }

    /// Returns the workload `v1` or `v2`.
    pub fn workload(&self, version: &str) -> &Workload {
        &self.workloads[usize::from(version == "v2")]
    }

    /// Returns the two ways to `reviews`: through the ingress gateway and through the client's sidecar.
    pub fn paths(&self) -> Vec<load::Path> {
        vec![
            load::Path { name: "gateway", target: self.network.socket(GATEWAY.host, 8080), host: PUBLIC_HOST.to_owned() },
            load::Path { name: "mesh", target: self.network.socket(CLIENT.host, 9080), host: MESH_HOST.to_owned() },
        ]
    }

    /// Returns where the client's sidecar takes TCP connections for the echo port of `reviews`.
    pub fn tcp(&self) -> SocketAddr {
        self.network.socket(CLIENT.host, 9000)
    }

    /// Replaces a file, and waits until every Envoy that the change of `object` concerns has ACKed it.
    /// Text that the file already has concerns none, at once.
    pub async fn apply(&self, file: &str, text: &str, object: &str) -> Result<Converged> {
        if self.manifests.read(file)? == text {
            return Ok(Converged { took: Duration::ZERO, proxies: 0 });
        }
        let edited = unix_millis();
        self.manifests.write(file, text)?;
        convergence::wait_for(self.monitoring(), object, edited, CONVERGE).await
    }

    /// Returns the counters of every Envoy, in the order of [`PODS`].
    pub async fn counters(&self) -> Result<Vec<Counters>> {
        let mut read = Vec::new();
        for proxy in &self.proxies {
            read.push(Counters::read(proxy.pod.name, proxy.admin()).await?);
        }
        Ok(read)
    }

    /// Kills the control plane as a power cut would, and starts it again.
    pub async fn restart_control_plane(&mut self) -> Result<()> {
        self.control_plane.kill()?;
        self.control_plane = control_plane(&self.options, self.home.path(), &self.network, &self.arguments)?;
        self.wait_for_control_plane().await
    }

    /// Ends an agent with its Envoy, and starts it again: it asks for a new certificate.
    pub async fn restart_proxy(&mut self, pod: Pod) -> Result<()> {
        let at = self.proxies.iter().position(|proxy| proxy.pod.name == pod.name).context("no such proxy")?;
        self.proxies[at].agent.end()?;
        self.proxies[at] = self.start_proxy(pod, &self.options)?;
        self.wait_for_proxies().await
    }

    /// Starts one more proxy, which is not among [`Self::proxies`], and waits until it is ready. Its certificate lives as long as agents
    /// ask for by default. Its pod must be among the objects.
    pub async fn join(&self, pod: Pod) -> Result<Proxy> {
        let mut proxy = self.start_proxy(pod, &Options { certificate_ttl: None, ..self.options.clone() })?;
        let ready = SocketAddr::new(proxy.address, 15021);
        wait_until_ready(&mut proxy.agent, ready, "/healthz/ready").await?;
        Ok(proxy)
    }

    /// Returns an error, with the log's last lines, if any process ended by itself.
    pub fn check_running(&mut self) -> Result<()> {
        self.control_plane.check_running()?;
        self.proxies.iter_mut().try_for_each(|proxy| proxy.agent.check_running())
    }

    fn start_proxy(&self, pod: Pod, options: &Options) -> Result<Proxy> {
        let address = self.network.address(pod.host);
        let mut command = Command::new(&options.istiod_lite);
        let discovery = self.network.socket(1, PORT_SECURE_GRPC);
        launch::issue_token(&options.istiod_lite, self.home.path(), pod)?;
        launch::agent(&mut command, options, self.home.path(), pod, address, discovery, "NONE");
        let agent = Process::start(pod.name, command, &self.home.path().join("logs"))?;
        Ok(Proxy { pod, address, agent })
    }

    async fn wait_for_control_plane(&mut self) -> Result<()> {
        let ready = self.network.socket(1, PORT_PLAIN_HTTP);
        wait_until_ready(&mut self.control_plane, ready, "/ready").await
    }

    async fn wait_for_proxies(&mut self) -> Result<()> {
        for proxy in &mut self.proxies {
            let ready = SocketAddr::new(proxy.address, 15021);
            wait_until_ready(&mut proxy.agent, ready, "/healthz/ready").await?;
        }
        Ok(())
    }

    async fn wait_for_traffic(&self) -> Result<()> {
        for path in self.paths() {
            wait::until(&format!("a first answer through {}", path.name), START, || async {
                let response = get(path.target, &path.host, "/").await?;
                anyhow::ensure!(response.status == http::StatusCode::OK, "status {}: {}", response.status, response.text());
                Ok(())
            })
            .await?;
        }
        Ok(())
    }
}

impl canary::Stage for Mesh {
    const EDITED: &'static str = VIRTUAL_SERVICE_FILE;

    async fn load(&self, rate: u32) -> Result<Load> {
        let mut plan = load::Plan::new(self.paths(), rate);
        plan.tcp = Some((self.tcp(), 2));
        Ok(Load::start(&plan))
    }

    async fn counters(&self) -> Result<Vec<Counters>> {
        self.counters().await
    }

    async fn shift(&self, v2_percent: u32) -> Result<Converged> {
        let text = with_weights(&self.manifests().read(VIRTUAL_SERVICE_FILE)?, 100 - v2_percent, v2_percent);
        self.apply(VIRTUAL_SERVICE_FILE, &text, VIRTUAL_SERVICE).await
    }

    async fn turn_v2(&self, bad: bool) -> Result<()> {
        self.workload("v2").misbehave(bad);
        Ok(())
    }

    async fn check_running(&mut self) -> Result<()> {
        self.check_running()
    }
}

fn control_plane(options: &Options, home: &Path, network: &Loopback, arguments: &[OsString]) -> Result<Process> {
    let source = ["--config-dir".into(), home.join("config").into()];
    launch::discovery(options, home, network.address(1), &[&source, arguments].concat())
}

/// Waits until a process answers 200 at `path`; an early end is told with its log.
pub async fn wait_until_ready(process: &mut Process, address: SocketAddr, path: &str) -> Result<()> {
    let what = format!("{} to be ready", process.name());
    let end = std::time::Instant::now() + START;
    loop {
        process.check_running()?;
        match get(address, &address.to_string(), path).await {
            Ok(response) if response.status == http::StatusCode::OK => return Ok(()),
            other if std::time::Instant::now() > end => {
                let seen = other.map(|response| response.text()).unwrap_or_else(|error| format!("{error:#}"));
                anyhow::bail!("{what}: not within {START:?}: {seen}\n{}", process::tail(&process.log(), 15));
            }
            _ => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

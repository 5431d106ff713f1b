//! A shop on a real API server: the control plane, an ingress gateway and a client's sidecar with real Envoys, and two
//! versions of `reviews`, with traffic that must not fail.

use std::{
    ffi::OsString,
    fs,
    net::SocketAddr,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use harness::{
    address::{Loopback, Ports, of_this_machine},
    admin::Admin,
    counters::{Counters, expect_no_failures},
    http_client::{get, get_text},
    kubernetes::{ApiServer, Object, Relay, Who},
    launch::{self, PORT_MONITORING, PORT_PLAIN_HTTP, PORT_SECURE_GRPC},
    load::{Load, Path, Plan, Sample, Window},
    mesh::{CLIENT, GATEWAY, MESH_HOST, Options, PUBLIC_HOST, Pod, wait_until_ready},
    process::{Process, tail},
    tools, wait,
    workload::Workload,
};
use serde_json::json;
use tempfile::TempDir;

use crate::objects::{self, Places, USER};

/// How long anything may take that is asynchronous; generous, for machines that do much else.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The object that a canary edits.
pub(crate) const VIRTUAL_SERVICE: Object<'_> =
    Object { api_version: "networking.istio.io/v1", kind: "VirtualService", namespace: "shop", name: "reviews" };

/// Returns a ServiceEntry of this name.
pub(crate) fn service_entry(name: &str) -> Object<'_> {
    Object { kind: "ServiceEntry", name, ..VIRTUAL_SERVICE }
}

/// A running shop. Dropping it ends every process.
pub(crate) struct Shop {
    // In the order in which they end: proxies drain while the control plane is still there.
    proxies: Vec<Process>,
    control_plane: Process,
    _workloads: Vec<Workload>,
    _ports: Ports<2>,
    pub(crate) wire: Relay,
    pub(crate) api: ApiServer,
    pub(crate) network: Loopback,
    home: TempDir,
}

impl Shop {
    /// Starts the shop on an API server that knows all of Istio's kinds, with traffic flowing to v1.
    pub(crate) async fn start() -> Result<Self> {
        let api = ApiServer::start(harness::kubernetes::Options::default()).await?;
        api.define(&objects::definitions()?).await?;
        Self::open(api).await
    }

    /// Opens the shop on this API server, which is reached over a wire that can be cut.
    pub(crate) async fn open(api: ApiServer) -> Result<Self> {
        let (network, home) = (Loopback::free()?, tempfile::Builder::new().prefix("istiod-lite-").tempdir()?);
        let machine = of_this_machine().context("this machine has no address but loopback ones, and those are no endpoints")?;
        fs::create_dir(home.path().join("logs"))?;
        let options = options()?;
        let ports = Ports::free()?;
        let reviews = ports.all().map(|port| SocketAddr::new(machine, port));
        let places = Places { gateway: network.address(GATEWAY.host), client: network.address(CLIENT.host), reviews };
        let workloads = vec![Workload::start("v1", reviews[0], None).await?, Workload::start("v2", reviews[1], None).await?];
        for namespace in ["istio-system", "shop"] {
            api.namespace(namespace).await?;
        }
        api.put(&objects::rights(&[])?).await?;
        api.put(&objects::shop(places)).await?;
        let wire = api.relay().await?;
        let control_plane = discovery(&api, &wire, &options, &network, &home)?;
        let mut shop = Self { proxies: Vec::new(), control_plane, _workloads: workloads, _ports: ports, wire, api, network, home };
        shop.wait_until_ready().await?;
        shop.fetch_root().await?;
        for pod in [GATEWAY, CLIENT] {
            let proxy = shop.start_proxy(&options, pod).await?;
            shop.proxies.push(proxy);
        }
        for (proxy, pod) in shop.proxies.iter_mut().zip([GATEWAY, CLIENT]) {
            wait_until_ready(proxy, shop.network.socket(pod.host, 15021), "/healthz/ready").await?;
        }
        for path in shop.paths() {
            wait::until(&format!("a first answer through {}", path.name), PATIENCE, || async {
                let response = get(path.target, &path.host, "/").await?;
                ensure!(response.status == http::StatusCode::OK, "status {}: {}", response.status, response.text());
                Ok(())
            })
            .await?;
        }
        Ok(shop)
    }

    /// Returns the ingress gateway's Envoy.
    pub(crate) fn gateway(&self) -> Admin {
        Admin::new(self.network.socket(GATEWAY.host, 15000))
    }

    /// Returns the Envoy of the client's sidecar.
    pub(crate) fn client(&self) -> Admin {
        Admin::new(self.network.socket(CLIENT.host, 15000))
    }

    /// Sends requests on both ways to `reviews` until it is judged.
    pub(crate) async fn traffic(&self) -> Result<Traffic> {
        let before = self.counters().await?;
        let mut plan = Plan::new(self.paths(), 40);
        // What is judged here is that requests succeed; how fast, `tests/envoy` judges.
        plan.late = Duration::from_secs(10);
        Ok(Traffic { load: Load::start(&plan), before })
    }

    /// Returns the metrics, as text.
    pub(crate) async fn metrics(&self) -> Result<String> {
        get_text(self.network.socket(1, PORT_MONITORING), "/metrics").await
    }

    /// Waits until the metrics have a line that starts so.
    pub(crate) async fn wait_for_metric(&self, line: &str) -> Result<()> {
        wait::until(line, PATIENCE, || async {
            let metrics = self.metrics().await?;
            let related = || metrics.lines().filter(|found| found.starts_with("istiod_lite_source")).collect::<Vec<_>>().join("\n");
            ensure!(metrics.lines().any(|found| found.starts_with(line)), "there is only\n{}\nlog:\n{}", related(), tail(&self.log(), 30));
            Ok(())
        })
        .await
    }

    /// Waits until no source is lost.
    pub(crate) async fn wait_until_found(&self) -> Result<()> {
        wait::until("every source to be found again", PATIENCE, || async {
            let metrics = self.metrics().await?;
            let lost = metrics.lines().filter(|line| line.starts_with("istiod_lite_source_lost") && line.ends_with(" 1"));
            let lost = lost.collect::<Vec<_>>();
            ensure!(lost.is_empty(), "{}\nlog:\n{}", lost.join("\n"), tail(&self.log(), 30));
            Ok(())
        })
        .await
    }

    /// Waits until the log has a line with all of these words.
    pub(crate) async fn wait_for_log(&self, words: &[&str]) -> Result<()> {
        wait::until(&format!("a log line with {words:?}"), PATIENCE, || async {
            let log = self.log();
            ensure!(log.lines().any(|line| words.iter().all(|word| line.contains(word))), "there is only\n{}", tail(&log, 30));
            Ok(())
        })
        .await
    }

    /// Waits until `/ready` answers 200, or something else.
    pub(crate) async fn wait_for_readiness(&self, ready: bool) -> Result<String> {
        wait::until(&format!("/ready to say {ready}"), PATIENCE, || async {
            let response = get(self.network.socket(1, PORT_PLAIN_HTTP), "istiod", "/ready").await?;
            let text = response.text();
            ensure!((response.status == http::StatusCode::OK) == ready, "{}: {text}", response.status);
            Ok(text)
        })
        .await
    }

    /// Returns the root certificate that the pods of the shop are given.
    pub(crate) async fn root(&self) -> Result<String> {
        let map = Object { api_version: "v1", kind: "ConfigMap", namespace: "shop", name: "istio-ca-root-cert" };
        Ok(self.api.get(map).await?["data"]["root-cert.pem"].as_str().context("no root-cert.pem")?.to_owned())
    }

    /// Returns what the control plane finds wrong now.
    pub(crate) async fn diagnostics(&self) -> Result<String> {
        get_text(self.network.socket(1, PORT_MONITORING), "/debug/diagnostics").await
    }

    /// Returns what the control plane logged.
    pub(crate) fn log(&self) -> String {
        self.control_plane.log()
    }

    /// Sends so many percent of requests to v2 from now on.
    pub(crate) async fn patch_weights(&self, v2: u32) -> Result<()> {
        let patch = json!({ "spec": { "http": objects::virtual_service(100 - v2, v2)["spec"]["http"] } });
        self.api.patch(VIRTUAL_SERVICE, &patch).await
    }

    /// Waits until this Envoy's configuration, as JSON without white space, contains `text`, or no longer.
    pub(crate) async fn wait_for_config(&self, envoy: Admin, text: &str, there: bool) -> Result<()> {
        wait::until(&format!("{text} in the configuration: {there}"), PATIENCE, || async {
            // As text: a test is not optimised, and reading it all as JSON is slow.
            let mut config = get_text(envoy.address(), "/config_dump?include_eds").await?;
            config.retain(|character| !character.is_ascii_whitespace());
            ensure!(config.contains(text) == there, "it is not so; log:\n{}\n{}", tail(&self.log(), 20), self.diagnostics().await?);
            Ok(())
        })
        .await
    }

    /// Waits until every answer on both ways comes from this version.
    pub(crate) async fn wait_for_version(&self, traffic: &Traffic, version: &str) -> Result<()> {
        self.wait_for_samples(traffic, version, |sample| sample.of(version) == sample.total).await
    }

    /// Waits until both versions answer on both ways.
    pub(crate) async fn wait_for_mixture(&self, traffic: &Traffic) -> Result<()> {
        self.wait_for_samples(traffic, "both versions", |sample| (1..sample.total).contains(&sample.of("v1"))).await
    }

    async fn wait_for_samples(&self, traffic: &Traffic, wanted: &str, good: impl Fn(&Sample) -> bool) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            let window = traffic.window(Duration::from_millis(500)).await;
            no_failures(&window).with_context(|| tail(&self.log(), 20))?;
            let samples = ["gateway", "mesh"].map(|path| window.sample(path));
            if samples.iter().all(|sample| sample.total > 0 && good(sample)) {
                return Ok(());
            }
            ensure!(Instant::now() < end, "not {wanted}: {samples:?}; log:\n{}", tail(&self.log(), 20));
        }
    }

    /// Returns the clusters of both Envoys.
    pub(crate) async fn clusters(&self) -> Result<Vec<String>> {
        let mut all = Vec::new();
        for envoy in [self.gateway(), self.client()] {
            all.extend(envoy.clusters().await?);
        }
        Ok(all)
    }

    /// Ends the control plane as a power cut would, and starts it again.
    pub(crate) async fn restart_control_plane(&mut self) -> Result<()> {
        self.restart_control_plane_after(async |_| Ok(())).await
    }

    /// Does the same, with something done while it is down.
    pub(crate) async fn restart_control_plane_after(&mut self, meanwhile: impl AsyncFnOnce(&ApiServer) -> Result<()>) -> Result<()> {
        self.control_plane.kill()?;
        meanwhile(&self.api).await?;
        self.control_plane = discovery(&self.api, &self.wire, &options()?, &self.network, &self.home)?;
        self.wait_until_ready().await
    }

    /// Returns an error if a process ended by itself.
    pub(crate) fn check_running(&mut self) -> Result<()> {
        self.control_plane.check_running()?;
        self.proxies.iter_mut().try_for_each(Process::check_running)
    }

    async fn wait_until_ready(&mut self) -> Result<()> {
        let ready = self.network.socket(1, PORT_PLAIN_HTTP);
        wait_until_ready(&mut self.control_plane, ready, "/ready").await
    }

    /// Fetches the root as the kubelet gives it to pods: from the ConfigMap that the control plane keeps in every namespace.
    async fn fetch_root(&self) -> Result<()> {
        let root = wait::until("the root certificate in namespace shop", PATIENCE, || self.root()).await?;
        let folder = self.home.path().join("ca");
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("root-cert.pem"), root)?;
        Ok(())
    }

    /// Starts a proxy with what the kubelet gives it: a token of the API server, bound to the pod.
    async fn start_proxy(&self, options: &Options, pod: Pod) -> Result<Process> {
        let token = self.api.token(pod.namespace, pod.service_account, Some("istio-ca"), Some(pod.name)).await?;
        fs::write(self.home.path().join(format!("{}.token", pod.name)), token)?;
        let mut command = Command::new(&options.istiod_lite);
        let (address, discovery) = (self.network.address(pod.host), self.network.socket(1, PORT_SECURE_GRPC));
        launch::agent(&mut command, options, self.home.path(), pod, address, discovery, "NONE");
        Process::start(pod.name, command, &self.home.path().join("logs"))
    }

    fn paths(&self) -> Vec<Path> {
        let path = |name, pod: Pod, port, host: &str| Path { name, target: self.network.socket(pod.host, port), host: host.to_owned() };
        vec![path("gateway", GATEWAY, 8080, PUBLIC_HOST), path("mesh", CLIENT, 9080, MESH_HOST)]
    }

    async fn counters(&self) -> Result<Vec<Counters>> {
        Ok(vec![Counters::read("gateway", self.gateway()).await?, Counters::read("client", self.client()).await?])
    }
}

/// Requests on both ways to `reviews`, with the Envoys' counters from before them.
pub(crate) struct Traffic {
    load: Load,
    before: Vec<Counters>,
}

impl Traffic {
    /// Returns what is sent in the next stretch of time.
    pub(crate) async fn window(&self, length: Duration) -> Window {
        let start = Instant::now();
        tokio::time::sleep(length).await;
        self.load.since(start)
    }

    /// Fails if a request failed so far.
    pub(crate) fn expect_no_failures(&self) -> Result<()> {
        no_failures(&self.load.so_far())
    }

    /// Stops the load, and fails if a request failed, or if the Envoys counted a failure.
    pub(crate) async fn judge(self, shop: &mut Shop) -> Result<Window> {
        // Before the load stops: what it held open would end under the Envoys' eyes.
        let counted = expect_no_failures(&self.before, &shop.counters().await?);
        let window = self.load.stop().await;
        shop.check_running()?;
        no_failures(&window).with_context(|| tail(&shop.log(), 20))?;
        counted?;
        for path in ["gateway", "mesh"] {
            ensure!(window.sample(path).total > 20, "hardly a request on {path}: {:?}", window.sample(path));
        }
        Ok(window)
    }
}

/// Fails with the first failures, if there are any.
fn no_failures(window: &Window) -> Result<()> {
    let failures = window.failures();
    let first = failures.iter().take(8).map(|failure| format!("\n  {failure}")).collect::<String>();
    ensure!(failures.is_empty(), "{} of {} requests failed:{first}", failures.len(), window.outcomes().len());
    Ok(())
}

fn discovery(api: &ApiServer, wire: &Relay, options: &Options, network: &Loopback, home: &TempDir) -> Result<Process> {
    // By certificate: an empty storage would not know a service account.
    let kubeconfig = api.kubeconfig(USER, Who::User { name: USER, group: None }, wire.address())?;
    // No test has a connection on a listener that goes away, for which its clusters would have to stay.
    // Its CA and its callers' tokens are those of Kubernetes. The API server asks its webhooks at that address.
    let (address, kubeconfig) = (network.address(1), format!("--kubeconfig={}", kubeconfig.display()));
    let flags = [kubeconfig, format!("--tls-san={address}"), "--drain-time=1s".to_owned()].map(OsString::from);
    launch::replica("control-plane", options, home.path(), address, &flags)
}

fn options() -> Result<Options> {
    Ok(Options {
        istiod_lite: PathBuf::from(env!("CARGO_BIN_EXE_istiod-lite")),
        envoy: tools::envoy("1.40")?,
        delta: true,
        debounce: Some("10ms"),
        certificate_ttl: None,
        listener_drain: None,
    })
}

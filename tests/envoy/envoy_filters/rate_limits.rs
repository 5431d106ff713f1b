//! Rate limits: in a sidecar by itself, by Istio's own sample, unmodified; and in a gateway as Istio's task has it, by the service of
//! envoyproxy/ratelimit, which counts in a Redis.

use std::{
    fs,
    net::SocketAddr,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use harness::{
    http_client::{Response, get},
    mesh::{CONVERGE, GATEWAY, Mesh, PUBLIC_HOST, Pod, Proxy, START},
    process::Process,
    tools, wait,
    workload::Workload,
};
use tokio::net::TcpStream;

use crate::mesh::{start, turn};

/// The page of the sample. Its sidecar has a port of its own for it.
const PRODUCT_PAGE: Pod = Pod {
    host: 6,
    name: "productpage-1",
    namespace: "shop",
    service_account: "productpage",
    labels: &[("app", "productpage")],
    role: "sidecar",
};
const HOST: &str = "productpage";
const PORT: u16 = 8000;
const APPLICATION: u16 = 8001;
const LOCAL_SAMPLE: &str = "local-rate-limit-service.yaml";

/// Starts the page with its sidecar.
async fn product_page(mesh: &Mesh) -> Result<(Workload, Proxy)> {
    mesh.manifests().write("productpage.yaml", &objects(mesh))?;
    let page = Workload::start("page", mesh.network().socket(PRODUCT_PAGE.host, APPLICATION), None).await?;
    let proxy = mesh.join(PRODUCT_PAGE).await?;
    Ok((page, proxy))
}

fn objects(mesh: &Mesh) -> String {
    let address = mesh.network().address(PRODUCT_PAGE.host);
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: productpage-1, namespace: shop, labels: {{app: productpage, security.istio.io/tlsMode: istio}}}}
spec: {{serviceAccountName: productpage, nodeName: laptop}}
status: {{podIP: {address}, podIPs: [{{ip: {address}}}], phase: Running, conditions: [{{type: Ready, status: \"True\"}}]}}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {{name: productpage, namespace: shop}}
spec:
  workloadSelector: {{labels: {{app: productpage}}}}
  ingress: [{{port: {{number: {PORT}, protocol: HTTP, name: http}}, captureMode: NONE, defaultEndpoint: '0.0.0.0:{APPLICATION}'}}]
  egress: [{{hosts: ['~/*']}}]
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: productpage, namespace: shop}}
spec: {{selector: {{matchLabels: {{app: productpage}}}}, mtls: {{mode: DISABLE}}}}
"
    )
}

/// What became of many requests for one path.
struct Asked {
    passed: usize,
    /// The first answer, and the last that was refused.
    first: Response,
    refused: Option<Response>,
    took: Duration,
}

impl Asked {
    async fn times(count: usize, (at, host): (SocketAddr, &str), path: &str) -> Result<Self> {
        let begun = Instant::now();
        let first = get(at, host, path).await?;
        let (mut passed, mut refused) = (usize::from(first.status == 200), None);
        for _ in 1..count {
            let response = get(at, host, path).await?;
            match response.status.as_u16() {
                200 => passed += 1,
                429 => refused = Some(response),
                other => anyhow::bail!("{path}: {other}"),
            }
        }
        Ok(Self { passed, first, refused, took: begun.elapsed() })
    }

    /// Fails unless so many passed as a bucket holds, and what was added to it meanwhile. Envoy fills buckets little by little.
    fn expect(&self, bucket: usize) -> Result<()> {
        let added = (self.took.as_secs_f64() * bucket as f64 / 60.0).ceil() as usize + 1;
        ensure!((bucket..=bucket + added).contains(&self.passed), "{} passed of a bucket of {bucket} in {:?}", self.passed, self.took);
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn istios_sample_of_a_local_rate_limit_works_unmodified() -> Result<()> {
    let _turn = turn().await?;
    let sample = fs::read_to_string(tools::go("ratelimit", LOCAL_SAMPLE)?)?;
    let mut mesh = start("1.40", true).await?;
    let (page, _proxy) = product_page(&mesh).await?;
    let at = mesh.network().socket(PRODUCT_PAGE.host, PORT);
    wait::until("the page", CONVERGE, || async {
        let response = get(at, HOST, "/").await?;
        ensure!(response.status == 200 && response.header("x-ratelimit-limit").is_empty(), "{:?}", response.headers);
        Ok(())
    })
    .await?;
    mesh.manifests().write(LOCAL_SAMPLE, &sample)?;
    wait::until("a limit", CONVERGE, || async {
        let response = get(at, HOST, "/").await?;
        ensure!(!response.header("x-ratelimit-limit").is_empty(), "{:?}", response.headers);
        Ok(())
    })
    .await?;

    let answered = page.answered();
    let of_page = Asked::times(30, (at, HOST), "/productpage?u=normal").await?;
    of_page.expect(10)?;
    ensure!(of_page.first.header("x-ratelimit-limit") == "10", "{:?}", of_page.first.headers);
    let refused = of_page.refused.as_ref().map(|response| response.header("x-local-rate-limit"));
    ensure!(refused == Some("true"), "{refused:?}");
    ensure!(page.answered() == answered + of_page.passed as u64, "what is refused reaches the page");
    // All other paths have the larger bucket, from which the page takes, too.
    let others = Asked::times(20, (at, HOST), "/api/v1/products").await?;
    ensure!(others.passed == 20 && others.first.header("x-ratelimit-limit") == "100", "{}, {:?}", others.passed, others.first);
    let told = harness::http_client::get_text(mesh.monitoring(), "/debug/diagnostics").await?;
    ensure!(!told.contains("filter-local-ratelimit-svc"), "{told}");

    // A change of the filter is a change for traffic that runs.
    mesh.manifests().write(LOCAL_SAMPLE, &sample.replace("max_tokens: 10\n", "max_tokens: 15\n"))?;
    wait::until("another limit", CONVERGE, || async {
        let response = get(at, HOST, "/productpage").await?;
        ensure!(response.header("x-ratelimit-limit") == "15", "{:?}", response.headers);
        Ok(())
    })
    .await?;
    mesh.manifests().remove(LOCAL_SAMPLE)?;
    wait::until("no limit", CONVERGE, || async {
        let asked = Asked::times(20, (at, HOST), "/productpage").await?;
        ensure!(asked.passed == 20 && asked.first.header("x-ratelimit-limit").is_empty(), "{} of 20", asked.passed);
        Ok(())
    })
    .await?;
    mesh.check_running()
}

/// An address that no pod has: there the service counts, with its Redis.
const COUNTING: u8 = 40;
const GRPC: u16 = 8081;

/// The service of envoyproxy/ratelimit.
struct Counting {
    _redis: Process,
    service: Process,
}

impl Counting {
    async fn start(mesh: &Mesh) -> Result<Self> {
        let folder = mesh.home().join("ratelimit");
        fs::create_dir_all(folder.join("limits/config"))?;
        fs::write(folder.join("limits/config/config.yaml"), LIMITS)?;
        let (address, redis) = (mesh.network().address(COUNTING).to_string(), mesh.network().socket(COUNTING, 6379));
        let mut command = Command::new(tools::redis()?);
        command.args(["--bind", &address, "--port", &redis.port().to_string(), "--save", "", "--appendonly", "no"]);
        let address = redis;
        let redis = Process::start("redis", command, &mesh.home().join("logs"))?;
        // The service ends where there is no Redis when it starts.
        wait::until("Redis", START, || async { Ok(TcpStream::connect(address).await.map(drop)?) }).await?;
        Ok(Self { _redis: redis, service: Self::service(mesh)? })
    }

    fn service(mesh: &Mesh) -> Result<Process> {
        let address = mesh.network().address(COUNTING).to_string();
        let mut command = Command::new(tools::go("ratelimit", "ratelimit")?);
        command.env("RUNTIME_ROOT", mesh.home().join("ratelimit"));
        let redis = mesh.network().socket(COUNTING, 6379).to_string();
        command.envs([
            ("RUNTIME_SUBDIRECTORY", "limits"),
            ("RUNTIME_WATCH_ROOT", "false"),
            ("USE_STATSD", "false"),
            ("REDIS_SOCKET_TYPE", "tcp"),
        ]);
        command.envs([("REDIS_URL", &redis), ("HOST", &address), ("GRPC_HOST", &address), ("DEBUG_HOST", &address)]);
        Process::start("ratelimit", command, &mesh.home().join("logs"))
    }
}

/// One path may be asked for a few times, whoever answers.
const LIMITS: &str = "
domain: ratelimit
descriptors:
- {key: PATH, value: /limited, rate_limit: {unit: day, requests_per_unit: 5}}
";

/// Returns the service as Istio's sample has it, and the objects of Istio's task that let the gateway ask it.
fn asking(mesh: &Mesh) -> String {
    let address = mesh.network().address(COUNTING);
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: ratelimit, namespace: default}}
spec: {{clusterIP: 10.96.7.40, selector: {{app: ratelimit}}, ports: [{{name: grpc-port, port: {GRPC}, targetPort: {GRPC}}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: ratelimit-a, namespace: default, labels: {{kubernetes.io/service-name: ratelimit}}}}
addressType: IPv4
ports: [{{name: grpc-port, port: {GRPC}, protocol: TCP}}]
endpoints: [{{addresses: [{address}], conditions: {{ready: true}}}}]
---
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {{name: filter-ratelimit, namespace: istio-system}}
spec:
  workloadSelector: {{labels: {{istio: ingressgateway}}}}
  configPatches:
  - applyTo: HTTP_FILTER
    match:
      context: GATEWAY
      listener:
        filterChain: {{filter: {{name: envoy.filters.network.http_connection_manager, subFilter: {{name: envoy.filters.http.router}}}}}}
    patch:
      operation: INSERT_BEFORE
      value:
        name: envoy.filters.http.ratelimit
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimit
          domain: ratelimit
          failure_mode_deny: true
          timeout: 10s
          rate_limit_service:
            grpc_service:
              envoy_grpc:
                cluster_name: outbound|{GRPC}||ratelimit.default.svc.cluster.local
                authority: ratelimit.default.svc.cluster.local
            transport_api_version: V3
---
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {{name: filter-ratelimit-svc, namespace: istio-system}}
spec:
  workloadSelector: {{labels: {{istio: ingressgateway}}}}
  configPatches:
  - applyTo: VIRTUAL_HOST
    match: {{context: GATEWAY, routeConfiguration: {{vhost: {{name: '', route: {{action: ANY}}}}}}}}
    patch:
      operation: MERGE
      value: {{rate_limits: [{{actions: [{{request_headers: {{header_name: ':path', descriptor_key: PATH}}}}]}}]}}
"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_asks_the_service_that_counts_for_all() -> Result<()> {
    const FILE: &str = "ratelimit.yaml";
    let _turn = turn().await?;
    let mut mesh = start("1.40", true).await?;
    let mut counting = Counting::start(&mesh).await?;
    let gateway = (mesh.paths()[0].target, PUBLIC_HOST);
    mesh.manifests().write(FILE, &asking(&mesh))?;
    // What nobody limits passes, before and after.
    let used_up = async |what: &str, within: Duration| {
        wait::until(what, within, || async {
            let response = get(gateway.0, gateway.1, "/limited").await?;
            ensure!(
                response.status == 429 && response.header("x-envoy-ratelimited") == "true",
                "{} {:?}",
                response.status,
                response.headers
            );
            Ok(())
        })
        .await
    };
    // Requests before the filter is there are not counted.
    used_up("the limit of the service", START).await?;
    let reached = mesh.workload("v1").answered();
    let again = Asked::times(20, gateway, "/limited").await?;
    ensure!(again.passed == 0 && mesh.workload("v1").answered() == reached, "{} passed", again.passed);
    ensure!(Asked::times(20, gateway, "/free").await?.passed == 20, "what is not limited is refused");

    // Another Envoy has used up what it never asked for.
    mesh.restart_proxy(GATEWAY).await?;
    used_up("the same count for a new gateway", CONVERGE).await?;
    ensure!(Asked::times(20, gateway, "/free").await?.passed == 20, "what is not limited is refused");

    // The object says that nobody passes while nobody counts.
    counting.service.kill()?;
    wait::until("a refusal without the service", CONVERGE, || async {
        let status = get(gateway.0, gateway.1, "/free").await?.status;
        ensure!(status == 500, "{status}");
        Ok(())
    })
    .await?;
    counting.service = Counting::service(&mesh)?;
    wait::until("the service again", START, || async {
        ensure!(get(gateway.0, gateway.1, "/free").await?.status == 200, "not yet");
        Ok(())
    })
    .await?;
    used_up("what was counted before", CONVERGE).await?;
    mesh.manifests().remove(FILE)?;
    wait::until("no limit", CONVERGE, || async {
        let status = get(gateway.0, gateway.1, "/limited").await?.status;
        ensure!(status == 200, "{status}");
        Ok(())
    })
    .await?;
    mesh.check_running()
}

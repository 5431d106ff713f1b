//! A real Envoy on a view made by hand, under load, while its backend is swapped again and again.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use envoy_types::pb::{
    envoy::{
        config::{
            cluster::v3::{
                Cluster,
                cluster::{ClusterDiscoveryType, EdsClusterConfig},
            },
            core::v3::{
                Address, AggregatedConfigSource, ConfigSource, SocketAddress, address, config_source::ConfigSourceSpecifier,
                socket_address::PortSpecifier,
            },
            endpoint::v3::{ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint::HostIdentifier},
            listener::v3::{Filter, FilterChain, Listener, filter},
            route::v3::{
                Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, route, route_action::ClusterSpecifier,
                route_match::PathSpecifier,
            },
        },
        extensions::filters::{
            http::router::v3::Router,
            network::http_connection_manager::v3::{
                HttpConnectionManager, HttpFilter, Rds, http_connection_manager::RouteSpecifier, http_filter,
            },
        },
    },
    google::protobuf::{Any, BoolValue, Duration as ProtoDuration},
};
use harness::{address::Ports, tools};
use istiod_lite::{
    translate::input::Built,
    xds::{encode, resource::Resource, session::Settings},
};
use prost::{Message, Name};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time,
};

use super::server::Server;

const SETTINGS: Settings = Settings { ordered: true, gate: Duration::from_secs(5), drain: Duration::from_secs(1) };

pub(crate) struct Envoy {
    process: Child,
    _folder: tempfile::TempDir,
}

#[derive(Default)]
struct Load {
    stop: AtomicBool,
    sent: AtomicU64,
    failed: AtomicU64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_swapped_backend_fails_no_request_in_delta() {
    swap_under_load("DELTA_GRPC", SETTINGS, 30, |failed| failed == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_swapped_backend_fails_no_request_in_sotw() {
    swap_under_load("GRPC", SETTINGS, 30, |failed| failed == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_order_a_swap_fails_requests() {
    swap_under_load("DELTA_GRPC", Settings { ordered: false, ..SETTINGS }, 30, |failed| failed > 0).await;
}

async fn swap_under_load(api: &str, settings: Settings, swaps: u64, expected: fn(u64) -> bool) {
    let binary = tools::envoy("1.40").unwrap();
    let ports = Ports::free().unwrap();
    let [entry, admin] = ports.all();
    let backend = backend().await;
    let server = Server::start(settings, mesh(entry, backend, 0)).await;
    let mut envoy = start(&binary, api, server.address.port(), admin);
    until("envoy to listen", || async { get(entry).await.is_ok() }).await;
    let load = Arc::new(Load::default());
    let running = tokio::spawn(generate(load.clone(), entry));
    let mut slowest = Duration::ZERO;
    for swap in 1..=swaps {
        let begun = Instant::now();
        server.set(mesh(entry, backend, swap));
        let generation = swap + 1;
        until("every ACK", || async { server.status().iter().all(|proxy| proxy.current == generation) }).await;
        slowest = slowest.max(begun.elapsed());
        time::sleep(Duration::from_millis(30)).await;
    }
    load.stop.store(true, Ordering::Relaxed);
    running.await.unwrap();
    let (sent, failed) = (load.sent.load(Ordering::Relaxed), load.failed.load(Ordering::Relaxed));
    eprintln!("{api} ordered={}: {swaps} swaps, {failed} of {sent} requests failed, slowest {slowest:?}", settings.ordered);
    assert!(server.status()[0].rejected.is_empty(), "{:?}", server.status());
    until("the last removal", || async { clusters(admin).await == vec![format!("b{swaps}")] || !settings.ordered }).await;
    envoy.process.kill().unwrap();
    assert!(sent > 100 && expected(failed), "{failed} of {sent} failed");
}

async fn generate(load: Arc<Load>, port: u16) {
    let mut tick = time::interval(Duration::from_millis(3));
    let mut requests = tokio::task::JoinSet::new();
    while !load.stop.load(Ordering::Relaxed) {
        tick.tick().await;
        let load = load.clone();
        requests.spawn(async move {
            load.sent.fetch_add(1, Ordering::Relaxed);
            if !matches!(get(port).await, Ok(answer) if answer.starts_with("HTTP/1.1 200")) {
                load.failed.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    requests.join_all().await;
}

async fn get(port: u16) -> std::io::Result<String> {
    request(port, "/").await
}

async fn request(port: u16, path: &str) -> std::io::Result<String> {
    request_of(port, "x", path).await
}

pub(crate) async fn request_of(port: u16, host: &str, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

async fn clusters(admin: u16) -> Vec<String> {
    let answer = request(admin, "/clusters").await.unwrap_or_default();
    let mut names: Vec<_> = answer.lines().filter_map(|line| line.split_once("::")).map(|(name, _)| name.to_string()).collect();
    names.retain(|name| name != "xds");
    names.dedup();
    names
}

pub(crate) async fn until<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    let begun = Instant::now();
    while !condition().await {
        assert!(begun.elapsed() < Duration::from_secs(20), "waited in vain for {what}");
        time::sleep(Duration::from_millis(2)).await;
    }
}

pub(crate) async fn backend() -> u16 {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = socket.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = socket.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0; 2048];
                while matches!(stream.read(&mut buffer).await, Ok(count) if count > 0) {
                    if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    port
}

pub(crate) fn start(binary: &PathBuf, api: &str, xds: u16, admin: u16) -> Envoy {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bootstrap.yaml");
    let bootstrap = format!(
        "node: {{id: 'sidecar~127.0.0.1~web-1.shop~shop.svc.cluster.local', cluster: web}}
admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {admin}}}}}}}
dynamic_resources:
  ads_config: {{api_type: {api}, transport_api_version: V3, grpc_services: [{{envoy_grpc: {{cluster_name: xds}}}}]}}
  cds_config: {{ads: {{}}, resource_api_version: V3, initial_fetch_timeout: 0s}}
  lds_config: {{ads: {{}}, resource_api_version: V3, initial_fetch_timeout: 0s}}
static_resources:
  clusters:
  - name: xds
    type: STATIC
    connect_timeout: 1s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        '@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{http2_protocol_options: {{}}}}
    load_assignment:
      cluster_name: xds
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {xds}}}}}}}}}]}}]
"
    );
    fs::write(&file, bootstrap).unwrap();
    let log = fs::File::create(folder.path().join("log")).unwrap();
    let process = Command::new(binary)
        .arg("-c")
        .arg(&file)
        .args(["--concurrency", "2", "--use-dynamic-base-id", "--drain-time-s", "1", "-l", "warn"])
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    Envoy { process, _folder: folder }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Returns one listener whose routes lead to backend `b<number>`, and no other backend.
pub(crate) fn mesh(entry: u16, backend: u16, number: u64) -> Vec<Resource> {
    let name = format!("b{number}");
    let ads = ConfigSource {
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        resource_api_version: 2,
        authorities: Vec::new(),
        initial_fetch_timeout: Some(ProtoDuration::default()),
    };
    let cluster = Cluster {
        name: name.clone(),
        connect_timeout: Some(ProtoDuration { seconds: 1, nanos: 0 }),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(3)),
        eds_cluster_config: Some(EdsClusterConfig { eds_config: Some(ads.clone()), service_name: String::new() }),
        ..Cluster::default()
    };
    let endpoint = LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(Endpoint { address: Some(address(backend)), ..Endpoint::default() })),
        ..LbEndpoint::default()
    };
    let assignment = ClusterLoadAssignment {
        cluster_name: name.clone(),
        endpoints: vec![LocalityLbEndpoints { lb_endpoints: vec![endpoint], ..LocalityLbEndpoints::default() }],
        ..ClusterLoadAssignment::default()
    };
    let manager = HttpConnectionManager {
        stat_prefix: "entry".into(),
        route_specifier: Some(RouteSpecifier::Rds(Rds { config_source: Some(ads), route_config_name: "r".into() })),
        http_filters: vec![HttpFilter {
            name: "envoy.filters.http.router".into(),
            config_type: Some(http_filter::ConfigType::TypedConfig(any(&Router::default()))),
            ..HttpFilter::default()
        }],
        ..HttpConnectionManager::default()
    };
    let listener = Listener {
        name: "entry".into(),
        address: Some(address(entry)),
        // Every other step changes the listener too.
        stat_prefix: format!("s{}", number / 2),
        filter_chains: vec![FilterChain {
            filters: vec![Filter {
                name: "envoy.filters.network.http_connection_manager".into(),
                config_type: Some(filter::ConfigType::TypedConfig(any(&manager))),
            }],
            ..FilterChain::default()
        }],
        ..Listener::default()
    };
    let action = RouteAction { cluster_specifier: Some(ClusterSpecifier::Cluster(name.clone())), ..RouteAction::default() };
    let only = Route {
        r#match: Some(RouteMatch { path_specifier: Some(PathSpecifier::Prefix("/".into())), ..RouteMatch::default() }),
        action: Some(route::Action::Route(action)),
        ..Route::default()
    };
    let host = VirtualHost { name: "all".into(), domains: vec!["*".into()], routes: vec![only], ..VirtualHost::default() };
    let header =
        RouteConfiguration { name: "r".into(), validate_clusters: Some(BoolValue { value: false }), ..RouteConfiguration::default() };
    let built = Built { clusters: vec![name.into()], ..Built::new(host, []) };
    vec![
        encode::cluster(Built::new(cluster, [])),
        encode::load_assignment(Built::new(assignment, [])),
        encode::listener(Built::new(listener, [])),
        encode::route_configuration(&header, [Arc::new(encode::virtual_host(built))]),
    ]
}

fn address(port: u16) -> Address {
    let port_specifier = Some(PortSpecifier::PortValue(port.into()));
    let address = SocketAddress { address: "127.0.0.1".into(), port_specifier, ..SocketAddress::default() };
    Address { address: Some(address::Address::SocketAddress(address)) }
}

pub(crate) fn any<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

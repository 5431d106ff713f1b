//! A running control plane, what it says, and what it would send a proxy.

use std::{fs, net::SocketAddr, path::PathBuf};

use anyhow::{Context, Result, ensure};
use envoy_types::pb::{
    envoy::{
        config::{
            core::v3::Node,
            route::v3::{RouteConfiguration, route::Action, route_action::ClusterSpecifier},
        },
        service::discovery::v3::{
            DiscoveryRequest, DiscoveryResponse, aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
        },
    },
    google::protobuf::Any,
};
use harness::{
    address::Loopback,
    http_client::get_text,
    launch::{self, PORT_MONITORING, PORT_PLAIN_GRPC, PORT_PLAIN_HTTP},
    mesh::{Options, START, wait_until_ready},
    process::Process,
    wait,
};
use istiod_lite::xds::resource_type::ResourceType;
use prost::Message;
use tempfile::TempDir;
use tonic::Streaming;

use super::cases::{GOOD, GOOD_FILE};

pub(crate) const CLIENT: &str = "sidecar~10.0.0.1~client-1.shop~shop.svc.cluster.local";
pub(crate) const GATEWAY: &str = "router~10.0.0.2~gateway-1.shop~shop.svc.cluster.local";

pub(crate) struct ControlPlane {
    process: Process,
    home: TempDir,
    network: Loopback,
}

impl ControlPlane {
    /// Starts on a folder that holds the good file alone.
    pub(crate) async fn start() -> Self {
        let (home, network) = (tempfile::tempdir().unwrap(), Loopback::free().unwrap());
        let istiod_lite = PathBuf::from(env!("CARGO_BIN_EXE_istiod-lite"));
        for folder in ["logs", "config"] {
            fs::create_dir(home.path().join(folder)).unwrap();
        }
        launch::ceremony(&istiod_lite, home.path()).unwrap();
        let options = Options {
            istiod_lite,
            envoy: PathBuf::new(),
            delta: false,
            debounce: Some("10ms"),
            certificate_ttl: None,
            listener_drain: None,
        };
        fs::write(home.path().join("config").join(GOOD_FILE), GOOD).unwrap();
        let mut process = launch::control_plane(&options, home.path(), network.address(1)).unwrap();
        wait_until_ready(&mut process, network.socket(1, PORT_PLAIN_HTTP), "/ready").await.unwrap();
        Self { process, home, network }
    }

    /// Returns the folder that it watches.
    pub(crate) fn folder(&self) -> PathBuf {
        self.home.path().join("config")
    }

    /// Replaces a file in one step.
    pub(crate) fn write(&self, file: &str, text: &str) {
        let draft = self.folder().join(".draft");
        fs::write(&draft, text).unwrap();
        fs::rename(draft, self.folder().join(file)).unwrap();
    }

    pub(crate) fn log(&self) -> String {
        self.process.log()
    }

    /// Reads `/debug/diagnostics`.
    pub(crate) async fn findings(&self) -> Result<Vec<String>> {
        Ok(serde_json::from_str(&get_text(self.monitoring(), "/debug/diagnostics").await?)?)
    }

    /// Waits until exactly these findings stand.
    pub(crate) async fn finds(&self, what: &str, findings: &[impl AsRef<str>]) {
        wait::until(what, START, || async {
            let found = self.findings().await?;
            let equal = found.iter().map(String::as_str).eq(findings.iter().map(AsRef::as_ref));
            ensure!(equal, "found {found:#?}\n{}", self.log());
            Ok(())
        })
        .await
        .unwrap_or_else(|error| panic!("{error:#}"));
    }

    /// Returns how many findings the metric counts.
    pub(crate) async fn counted(&self, severity: &str) -> usize {
        let value = self.metric(&format!("istiod_lite_diagnostics{{severity=\"{severity}\"}}")).await;
        value.unwrap().parse().unwrap()
    }

    /// Returns the value of one series of `/metrics`.
    pub(crate) async fn metric(&self, series: &str) -> Result<String> {
        let metrics = get_text(self.monitoring(), "/metrics").await?;
        let value = metrics.lines().find_map(|line| line.strip_prefix(series)).with_context(|| format!("no {series} in\n{metrics}"))?;
        Ok(value.trim().to_owned())
    }

    /// Returns the names of a sidecar's clusters, as a client that connects now is told.
    pub(crate) async fn clusters(&self) -> Vec<String> {
        let mut stream = self.connect(CLIENT, ResourceType::Cluster, &[]).await;
        let names = stream.first().await.into_iter();
        names.map(|any| envoy_types::pb::envoy::config::cluster::v3::Cluster::decode(&*any.value).unwrap().name).collect()
    }

    /// Returns cluster and weight of each destination of the routes for a service on port 9080.
    pub(crate) async fn destinations(&self, host: &str) -> Vec<(String, u32)> {
        let mut stream = self.connect(CLIENT, ResourceType::Route, &["9080"]).await;
        let tables = stream.first().await;
        let table = RouteConfiguration::decode(&*tables[0].value).unwrap();
        let host = table.virtual_hosts.into_iter().find(|known| known.name.starts_with(host)).unwrap();
        host.routes.into_iter().flat_map(|route| destinations(route.action)).collect()
    }

    /// Connects a proxy that stays connected as long as the value lives.
    pub(crate) async fn connect(&self, id: &str, kind: ResourceType, names: &[&str]) -> Connection {
        let address = self.network.socket(1, PORT_PLAIN_GRPC);
        let mut client = AggregatedDiscoveryServiceClient::connect(format!("http://{address}")).await.unwrap();
        let request = DiscoveryRequest {
            node: Some(Node { id: id.into(), ..Node::default() }),
            type_url: kind.type_url().into(),
            resource_names: names.iter().map(ToString::to_string).collect(),
            ..DiscoveryRequest::default()
        };
        let (requests, stream) = tokio::sync::mpsc::channel(1);
        requests.send(request).await.unwrap();
        let stream = tokio_stream::wrappers::ReceiverStream::new(stream);
        let responses = client.stream_aggregated_resources(stream).await.unwrap().into_inner();
        Connection { responses, _requests: requests }
    }

    fn monitoring(&self) -> SocketAddr {
        self.network.socket(1, PORT_MONITORING)
    }
}

/// A proxy's stream.
pub(crate) struct Connection {
    responses: Streaming<DiscoveryResponse>,
    _requests: tokio::sync::mpsc::Sender<DiscoveryRequest>,
}

impl Connection {
    /// Returns the resources of the first response.
    pub(crate) async fn first(&mut self) -> Vec<Any> {
        let response = tokio::time::timeout(START, self.responses.message()).await.expect("an answer");
        response.unwrap().expect("the stream goes on").resources
    }
}

fn destinations(action: Option<Action>) -> Vec<(String, u32)> {
    let Some(Action::Route(action)) = action else { return Vec::new() };
    match action.cluster_specifier {
        Some(ClusterSpecifier::Cluster(cluster)) => vec![(cluster, 100)],
        Some(ClusterSpecifier::WeightedClusters(weighted)) => {
            weighted.clusters.into_iter().map(|to| (to.name, to.weight.unwrap_or_default().value)).collect()
        }
        _ => Vec::new(),
    }
}

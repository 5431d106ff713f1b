//! The client of `manifests/folder-demo` and one version of `reviews`, both with Istio's `pilot-agent` for a sidecar.

use std::{fs, net::SocketAddr, path::PathBuf};

use anyhow::{Result, ensure};
use harness::{
    address::Loopback,
    http_client::{Response, get},
    launch::{self, PORT_MONITORING, PORT_PLAIN_HTTP, PORT_SECURE_GRPC},
    manifest::Manifests,
    mesh::{CLIENT, MESH_HOST, Options, Pod, REVIEWS_V1, START, wait_until_ready},
    pilot_agent::{Credentials, PilotAgent, Setup},
    process::Process,
    tools, wait,
    workload::Workload,
};
use tempfile::TempDir;

/// A running mesh of two; dropping it ends every process.
pub(crate) struct Stage {
    // Proxies first: they drain while the control plane is still there.
    pub(crate) client: PilotAgent,
    pub(crate) reviews: PilotAgent,
    control_plane: Process,
    pub(crate) manifests: Manifests,
    _workload: Workload,
    network: Loopback,
    options: Options,
    home: TempDir,
}

impl Stage {
    /// Starts it and waits until both agents are ready. The environment is that of both.
    pub(crate) async fn start(environment: &[(&str, &str)]) -> Result<Self> {
        let (network, home) = (Loopback::free()?, tempfile::Builder::new().prefix("istiod-lite-").tempdir()?);
        let options = options()?;
        fs::create_dir(home.path().join("logs"))?;
        launch::ceremony(&options.istiod_lite, home.path())?;
        let manifests = Manifests::create(home.path().join("config"))?;
        manifests.copy_from(&tools::project().join("manifests/folder-demo"), &network.dotted_prefix())?;
        let mut control_plane = launch::control_plane(&options, home.path(), network.address(1))?;
        wait_until_ready(&mut control_plane, network.socket(1, PORT_PLAIN_HTTP), "/ready").await?;
        let workload = Workload::start("v1", network.socket(REVIEWS_V1.host, 9081), None).await?;
        let discovery = network.socket(1, PORT_SECURE_GRPC);
        let credentials = Credentials::Ceremony;
        let start = |pod: Pod| {
            let address = network.address(pod.host);
            PilotAgent::start(Setup { options: &options, home: home.path(), credentials, pod, address, discovery, environment })
        };
        let (mut client, mut reviews) = (start(CLIENT)?, start(REVIEWS_V1)?);
        client.wait_until_ready().await?;
        reviews.wait_until_ready().await?;
        Ok(Self { client, reviews, control_plane, manifests, _workload: workload, network, options, home })
    }

    /// Asks `reviews` through the client's sidecar, until it answers.
    pub(crate) async fn ask(&self) -> Result<Response> {
        let target = self.network.socket(CLIENT.host, 9080);
        wait::until("an answer of reviews through two sidecars", START, || async {
            let response = get(target, MESH_HOST, "/").await?;
            ensure!(response.status == http::StatusCode::OK, "status {}: {}", response.status, response.text());
            Ok(response)
        })
        .await
    }

    /// Returns the address of port 15014.
    pub(crate) fn monitoring(&self) -> SocketAddr {
        self.network.socket(1, PORT_MONITORING)
    }

    /// Returns what the control plane has logged so far.
    pub(crate) fn control_plane_log(&self) -> String {
        self.control_plane.log()
    }

    /// Returns what `pod` is started with, for one more client.
    pub(crate) fn setup(&self, pod: Pod) -> Setup<'_> {
        let discovery = self.network.socket(1, PORT_SECURE_GRPC);
        let address = self.network.address(pod.host);
        let credentials = Credentials::Ceremony;
        Setup { options: &self.options, home: self.home.path(), credentials, pod, address, discovery, environment: &[] }
    }

    /// Returns the folder of all that is written.
    pub(crate) fn home(&self) -> &std::path::Path {
        self.home.path()
    }
}

/// Returns what processes are started with.
pub(crate) fn options() -> Result<Options> {
    let istiod_lite = PathBuf::from(env!("CARGO_BIN_EXE_istiod-lite"));
    Ok(Options {
        istiod_lite,
        envoy: tools::envoy("1.40")?,
        delta: true,
        debounce: Some("10ms"),
        certificate_ttl: None,
        listener_drain: None,
    })
}

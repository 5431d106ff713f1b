//! Istio's own `pilot-agent`, unmodified, with a stock Envoy and the bootstrap template that lies in its module.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;
use serde_json::json;

use crate::{
    address,
    admin::Admin,
    launch,
    mesh::{Options, Pod, wait_until_ready},
    process::Process,
    tools,
};

/// A pod's pilot-agent with its Envoy, on ports of its own: several share this machine's loopback address.
#[derive(Debug)]
pub struct PilotAgent {
    process: Process,
    ports: Ports,
}

#[derive(Debug)]
struct Ports {
    _claim: address::Ports<4>,
    status: u16,
    envoy_status: u16,
    prometheus: u16,
    admin: u16,
}

/// How one is run.
#[derive(Clone, Copy, Debug)]
pub struct Setup<'a> {
    /// What the mesh is run with.
    pub options: &'a Options,
    /// The mesh's folder.
    pub home: &'a Path,
    /// What it proves itself by, and whom it believes.
    pub credentials: Credentials<'a>,
    /// Who it is.
    pub pod: Pod,
    /// Its address.
    pub address: IpAddr,
    /// Port 15012 of the control plane.
    pub discovery: SocketAddr,
    /// More environment, as a pod's `proxyMetadata` would set it.
    pub environment: &'a [(&'a str, &'a str)],
}

/// What a pod has mounted.
#[derive(Clone, Copy, Debug)]
pub enum Credentials<'a> {
    /// Those of [`launch::ceremony`]: a token of the issuer in the mesh's folder, and `ca/root-cert.pem`.
    Ceremony,
    /// Those of a cluster.
    Cluster {
        /// A token of the service account, for `istio-ca`.
        token: &'a str,
        /// The certificate in `istio-ca-root-cert`.
        root: &'a str,
    },
}

impl PilotAgent {
    /// Starts it in `<home>/<pod>`, where it finds the files that a pod has mounted.
    pub fn start(setup: Setup<'_>) -> Result<Self> {
        let folder = prepare(setup)?;
        let ports = Ports::free()?;
        let mut command = command(setup, &folder)?;
        command.env("ENVOY_STATUS_PORT", ports.envoy_status.to_string());
        command.env("ENVOY_PROMETHEUS_PORT", ports.prometheus.to_string());
        command.env("PROXY_CONFIG", proxy_config(setup, &folder, &ports)?);
        command.envs(setup.environment.iter().copied());
        let process = Process::start(setup.pod.name, command, &setup.home.join("logs"))?;
        Ok(Self { process, ports })
    }

    /// Waits until the agent says that it is ready, and Envoy's health port says so too.
    pub async fn wait_until_ready(&mut self) -> Result<()> {
        for port in [self.ports.status, self.ports.envoy_status] {
            wait_until_ready(&mut self.process, local(port), "/healthz/ready").await?;
        }
        Ok(())
    }

    /// Returns Envoy's admin port.
    pub fn admin(&self) -> Admin {
        Admin::new(local(self.ports.admin))
    }

    /// Returns the agent.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// Fetches a certificate as a virtual machine does, with pilot-agent and without Envoy: `key.pem`, `cert-chain.pem` and
/// `root-cert.pem`, as `istioctl --cert-dir` takes them. Gives their folder.
pub async fn certificates(setup: Setup<'_>) -> Result<PathBuf> {
    let folder = prepare(setup)?;
    let (output, ports) = (folder.join("certificates"), Ports::free()?);
    fs::create_dir(&output)?;
    let mut command = command(setup, &folder)?;
    command.env("DISABLE_ENVOY", "true").env("OUTPUT_CERTS", &output);
    command.env("PROXY_CONFIG", proxy_config(setup, &folder, &ports)?);
    let mut process = Process::start(setup.pod.name, command, &setup.home.join("logs"))?;
    crate::wait::until("certificates of pilot-agent", crate::mesh::START, || {
        let missing = ["key.pem", "cert-chain.pem", "root-cert.pem"].map(|file| output.join(file)).into_iter().find(|file| !file.is_file());
        let checked = process.check_running().and_then(|()| missing.map_or(Ok(()), |file| Err(anyhow::anyhow!("no {}", file.display()))));
        async { checked }
    })
    .await?;
    process.end()?;
    Ok(output)
}

fn prepare(setup: Setup<'_>) -> Result<PathBuf> {
    let folder = setup.home.join(setup.pod.name);
    for made in ["var/run/secrets/tokens", "var/run/secrets/istio", "etc/istio/proxy"] {
        fs::create_dir_all(folder.join(made))?;
    }
    let (token_file, root_file) = (folder.join("var/run/secrets/tokens/istio-token"), folder.join("var/run/secrets/istio/root-cert.pem"));
    match setup.credentials {
        Credentials::Ceremony => {
            launch::issue_token(&setup.options.istiod_lite, setup.home, setup.pod)?;
            fs::rename(setup.home.join(format!("{}.token", setup.pod.name)), token_file)?;
            fs::copy(setup.home.join("ca/root-cert.pem"), root_file)?;
        }
        Credentials::Cluster { token, root } => {
            fs::write(token_file, token)?;
            fs::write(root_file, root)?;
        }
    }
    Ok(folder)
}

fn command(setup: Setup<'_>, folder: &Path) -> Result<Command> {
    let Setup { pod, address, .. } = setup;
    let role = if pod.role == "gateway" { "router" } else { "sidecar" };
    let mut command = Command::new(&setup.options.istiod_lite);
    // A runner that is killed cannot tidy up: the kernel ends its children instead.
    command.args(["agent", "launch", &std::process::id().to_string()]).arg(tools::go("istio", "pilot-agent")?);
    command.current_dir(folder).args(["proxy", role, "--domain", &format!("{}.svc.cluster.local", pod.namespace)]);
    command.env("POD_NAME", pod.name).env("POD_NAMESPACE", pod.namespace).env("INSTANCE_IP", address.to_string());
    command.env("SERVICE_ACCOUNT", pod.service_account).env("ISTIO_META_WORKLOAD_NAME", pod.service_account);
    command.env("ISTIO_META_CLUSTER_ID", "Kubernetes").env("ISTIO_META_INTERCEPTION_MODE", "NONE");
    command.env("ISTIO_METAJSON_LABELS", json!(pod.labels.iter().copied().collect::<std::collections::BTreeMap<_, _>>()).to_string());
    command.env("TRUST_DOMAIN", "cluster.local").env("PILOT_CERT_PROVIDER", "istiod");
    // The control plane is called by its address, and proves its name.
    command.env("ISTIOD_SAN", "istiod.istio-system.svc");
    Ok(command)
}

fn proxy_config(setup: Setup<'_>, folder: &Path, ports: &Ports) -> Result<String> {
    Ok(json!({
        "discoveryAddress": setup.discovery.to_string(),
        "binaryPath": setup.options.envoy,
        "proxyBootstrapTemplatePath": tools::go("istio", "envoy_bootstrap.json")?,
        "configPath": folder.join("etc/istio/proxy"),
        "statusPort": ports.status,
        "proxyAdminPort": ports.admin,
        "concurrency": 1,
        "terminationDrainDuration": "1s",
    })
    .to_string())
}

impl Ports {
    fn free() -> Result<Self> {
        let claim = address::Ports::free()?;
        let [status, envoy_status, prometheus, admin] = claim.all();
        Ok(Self { _claim: claim, status, envoy_status, prometheus, admin })
    }
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

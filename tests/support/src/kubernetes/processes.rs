//! The programs of a Kubernetes control plane, and the flags that they are started with.

use std::{fs, net::SocketAddr, path::Path};

use anyhow::{Context, Result};

use super::{ApiServer, keeper, pki, users};
use crate::{
    process::{Process, tail},
    tools,
};

/// etcd for its clients.
/// The CA of the cluster's own signers, in the authority's folder.
const SIGNERS: &str = "signers";
const PORT_ETCD: u16 = 2379;
/// etcd for its peers, of which there are none.
const PORT_ETCD_PEERS: u16 = 2380;

/// What runs now; nothing outlives it.
#[derive(Debug, Default)]
pub(super) struct Processes {
    pub(super) server: Option<Process>,
    pub(super) etcd: Option<Process>,
    pub(super) manager: Option<Process>,
}

impl Processes {
    /// Returns an error with its last words if one ended by itself.
    pub(super) fn check(&mut self) -> Result<()> {
        let all = [&mut self.etcd, &mut self.server, &mut self.manager];
        all.into_iter().flatten().try_for_each(Process::check_running)
    }

    /// Returns the last lines of the API server's log.
    pub(super) fn server_log(&self) -> String {
        self.server.as_ref().map(|server| tail(&server.log(), 15)).unwrap_or_default()
    }

    /// Ends one of them as a power cut would; none is left alone.
    pub(super) fn kill(process: &mut Option<Process>) -> Result<()> {
        process.take().map_or(Ok(()), |mut process| process.kill())
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        // Their data goes with them, so there is nothing to tidy up.
        for process in [&mut self.manager, &mut self.server, &mut self.etcd] {
            let _ = Self::kill(process);
        }
    }
}

/// Starts etcd on the server's current storage.
pub(super) fn etcd(server: &ApiServer) -> Result<Process> {
    let (clients, peers) = (etcd_url(server), url(server, PORT_ETCD_PEERS));
    let data = server.storage_folder(&server.storage);
    let flags = [
        format!("--data-dir={}", data.display()),
        "--unsafe-no-fsync".to_owned(),
        "--log-level=warn".to_owned(),
        format!("--listen-client-urls={clients}"),
        format!("--advertise-client-urls={clients}"),
        format!("--listen-peer-urls={peers}"),
        format!("--initial-advertise-peer-urls={peers}"),
        format!("--initial-cluster=default={peers}"),
    ];
    start(server, "etcd", &flags)
}

/// Starts kube-apiserver with RBAC.
pub(super) fn api_server(server: &ApiServer) -> Result<Process> {
    let (authority, address) = (&server.authority, server.address());
    let file = |name: &str| authority.path(name).display().to_string();
    let mut flags = vec![
        format!("--etcd-servers={}", etcd_url(server)),
        format!("--bind-address={}", address.ip()),
        format!("--secure-port={}", address.port()),
        format!("--advertise-address={}", address.ip()),
        // Its own address is a loopback one, which the Service `kubernetes` cannot have for an endpoint.
        "--endpoint-reconciler-type=none".to_owned(),
        format!("--tls-cert-file={}", file(&format!("{}.crt", pki::SERVING))),
        format!("--tls-private-key-file={}", file(&format!("{}.key", pki::SERVING))),
        format!("--client-ca-file={}", file(pki::CA)),
        format!("--cert-dir={}", server.home().join("generated").display()),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--enable-admission-plugins=NodeRestriction".to_owned(),
        format!("--service-account-issuer={}", super::ISSUER),
        "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
        "--allow-privileged=true".to_owned(),
        "--profiling=false".to_owned(),
        "--shutdown-delay-duration=0s".to_owned(),
    ];
    let signing = server.token_keys.last().context("no token key")?;
    flags.push(format!("--service-account-signing-key-file={}", signing.display()));
    flags.extend(server.token_keys.iter().map(|key| format!("--service-account-key-file={}", key.display())));
    flags.extend(server.options.flags.iter().cloned());
    start(server, "kube-apiserver", &flags)
}

/// Starts kube-controller-manager: service accounts, endpoints, garbage collection, and the cluster's own signers.
pub(super) fn controller_manager(server: &ApiServer) -> Result<Process> {
    let who = users::Who::User { name: "system:kube-controller-manager", group: None };
    let kubeconfig = server.kubeconfig("controller-manager", who, server.address())?;
    let file = |name: &str| server.authority.path(name).display().to_string();
    let signing = server.token_keys.last().context("no token key")?;
    server.authority.signers(SIGNERS)?;
    let flags = [
        format!("--kubeconfig={}", kubeconfig.display()),
        format!("--service-account-private-key-file={}", signing.display()),
        format!("--root-ca-file={}", file(pki::CA)),
        format!("--cluster-signing-cert-file={}", file(&format!("{SIGNERS}.crt"))),
        format!("--cluster-signing-key-file={}", file(&format!("{SIGNERS}.key"))),
        "--use-service-account-credentials=true".to_owned(),
        "--leader-elect=false".to_owned(),
        format!("--bind-address={}", server.address().ip()),
        format!("--cert-dir={}", server.home().join("generated").display()),
        "--authentication-skip-lookup".to_owned(),
    ];
    start(server, "kube-controller-manager", &flags)
}

/// Returns where etcd serves its clients.
pub(super) fn etcd_address(server: &ApiServer) -> SocketAddr {
    SocketAddr::new(server.address().ip(), PORT_ETCD)
}

fn etcd_url(server: &ApiServer) -> String {
    url(server, PORT_ETCD)
}

fn url(server: &ApiServer, port: u16) -> String {
    format!("http://{}", SocketAddr::new(server.address().ip(), port))
}

fn start(server: &ApiServer, name: &'static str, flags: &[String]) -> Result<Process> {
    let mut command = keeper::mortal(&tools::istiod_lite()?, &tools::kubernetes(name)?);
    command.args(flags);
    let logs = logs(server.home())?;
    keeper::on_lasting_thread(move || Process::start(name, command, &logs))
}

fn logs(home: &Path) -> Result<std::path::PathBuf> {
    let logs = home.join("logs");
    fs::create_dir_all(&logs)?;
    Ok(logs)
}

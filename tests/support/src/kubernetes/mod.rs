//! A real Kubernetes API server with its etcd, as child processes without root: for tests that must see how the real
//! thing behaves, and how it fails.

pub mod crds;
mod keeper;
mod objects;
mod pki;
mod processes;
mod relay;
mod storage;
mod users;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{Namespace, ServiceAccount},
};
use kube::{
    Api, Client, Config,
    api::PostParams,
    config::{KubeConfigOptions, Kubeconfig},
};
use tempfile::TempDir;
use tokio::{io::AsyncWriteExt, process::Command, sync::Mutex};

pub use objects::Object;
use pki::Authority;
use processes::Processes;
pub use relay::Relay;
pub use users::Who;

use crate::{address::Loopback, tools};

/// Who issues service account tokens.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// How long it may take until it is ready, on a machine that does much else.
const START: Duration = Duration::from_secs(120);
const PORT: u16 = 6443;

/// How the API server is run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Also kube-controller-manager: service accounts, endpoints, garbage collection, the cluster's own signers. Without it a namespace has no
    /// service account until [`ApiServer::namespace`] makes one, and nothing deletes what an owner leaves behind.
    pub controller_manager: bool,
    /// More flags of kube-apiserver; the last of a name wins.
    pub flags: Vec<String>,
}

/// A running API server on an address of its own. Dropping it ends all its processes and removes its data.
#[derive(Debug)]
pub struct ApiServer {
    // First, so that nothing runs any more when the folder goes.
    processes: Processes,
    authority: Authority,
    /// The keys that verify tokens; the last one signs.
    token_keys: Vec<PathBuf>,
    /// The name of the storage in use.
    storage: String,
    options: Options,
    network: Loopback,
    home: TempDir,
}

/// The one that tests share, while a test has it.
static SHARED: Mutex<Weak<ApiServer>> = Mutex::const_new(Weak::new());

impl ApiServer {
    /// Starts etcd and kube-apiserver, and waits until they serve.
    pub async fn start(options: Options) -> Result<Self> {
        let (network, home) = (Loopback::free()?, tempfile::Builder::new().prefix("istiod-lite-api-").tempdir()?);
        let addresses = [network.address(1), network.address(2)];
        let authority = Authority::create(home.path().join("pki"), &addresses)?;
        let token_keys = vec![authority.token_key("tokens-0.key")?];
        let storage = "first".to_owned();
        let mut server = Self { processes: Processes::default(), authority, token_keys, storage, options, network, home };
        server.resume().await?;
        Ok(server)
    }

    /// Returns the API server that the tests of this program share, with Istio's kinds defined ([`crds::istio`]). It
    /// ends with the last test that holds it. For tests that keep to namespaces of their own.
    pub async fn shared() -> Result<Arc<Self>> {
        let mut shared = SHARED.lock().await;
        if let Some(running) = shared.upgrade() {
            return Ok(running);
        }
        let started = Arc::new(Self::start(Options::default()).await?);
        started.define(&crds::istio()).await?;
        *shared = Arc::downgrade(&started);
        Ok(started)
    }

    /// Returns where it serves.
    pub fn address(&self) -> SocketAddr {
        self.network.socket(1, PORT)
    }

    /// Makes a wire to it that can be cut; its address is in the serving certificate, too.
    pub async fn relay(&self) -> Result<Relay> {
        Relay::start(self.network.socket(2, 0), self.address()).await
    }

    /// Returns the folder of all that it writes.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Returns the certificate of the CA that signed its serving certificate.
    pub fn ca(&self) -> PathBuf {
        self.authority.path(pki::CA)
    }

    /// Writes a kubeconfig for somebody who reaches it at `address`: its own, or a relay's.
    pub fn kubeconfig(&self, file: &str, who: Who<'_>, address: SocketAddr) -> Result<PathBuf> {
        let path = self.home().join(format!("{file}.kubeconfig"));
        users::write(&path, &users::kubeconfig(&self.authority, who, address)?)?;
        Ok(path)
    }

    /// Returns an admin's client. It belongs to the runtime that it is made in, so each test has its own.
    pub async fn client(&self) -> Result<Client> {
        self.client_of(Who::Admin).await
    }

    /// Returns the client of somebody.
    pub async fn client_of(&self, who: Who<'_>) -> Result<Client> {
        let kubeconfig: Kubeconfig = serde_json::from_value(users::kubeconfig(&self.authority, who, self.address())?)?;
        Ok(Client::try_from(Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?)?)
    }

    /// Runs kubectl as admin with `input` on its stdin; gives status and outputs, whatever they are.
    pub async fn kubectl(&self, arguments: &[&str], input: &str) -> Result<Output> {
        let kubeconfig = self.kubeconfig("admin", Who::Admin, self.address())?;
        let mut command = Command::new(tools::kubernetes("kubectl")?);
        command.arg("--kubeconfig").arg(kubeconfig).arg("--cache-dir").arg(self.home().join("kubectl")).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn()?;
        let mut stdin = child.stdin.take().context("kubectl without stdin")?;
        // Whoever does not read it has said why.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        Ok(child.wait_with_output().await?)
    }

    /// Requests a token of a service account (TokenRequest), valid for an hour; for `audience`, else for the API server
    /// itself; bound to the pod, if one is named.
    pub async fn token(&self, namespace: &str, service_account: &str, audience: Option<&str>, pod: Option<&str>) -> Result<String> {
        let accounts = Api::<ServiceAccount>::namespaced(self.client().await?, namespace);
        let bound = |pod: &str| BoundObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: Some(pod.to_owned()),
            uid: None,
        };
        let spec = TokenRequestSpec {
            audiences: vec![audience.unwrap_or(ISSUER).to_owned()],
            bound_object_ref: pod.map(bound),
            expiration_seconds: Some(3_600),
        };
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let answer = accounts.create_token_request(service_account, &PostParams::default(), &request).await?;
        Ok(answer.status.context("no token in the answer")?.token)
    }

    /// Kills kube-apiserver (and the controllers, which end without it); etcd stays.
    pub fn kill(&mut self) -> Result<()> {
        Processes::kill(&mut self.processes.manager)?;
        Processes::kill(&mut self.processes.server)
    }

    /// Starts what does not run, and waits until it serves.
    pub async fn resume(&mut self) -> Result<()> {
        if self.processes.etcd.is_none() {
            self.processes.etcd = Some(processes::etcd(self)?);
        }
        if self.processes.server.is_none() {
            self.processes.server = Some(processes::api_server(self)?);
        }
        self.wait_until_ready().await?;
        if self.options.controller_manager && self.processes.manager.is_none() {
            self.processes.manager = Some(processes::controller_manager(self)?);
        }
        Ok(())
    }

    /// Signs tokens by a new key from now on; those of the old keys stay valid. Restarts kube-apiserver.
    pub async fn rotate_token_key(&mut self) -> Result<()> {
        self.kill()?;
        let key = self.authority.token_key(&format!("tokens-{}.key", self.token_keys.len()))?;
        self.token_keys.push(key);
        self.resume().await
    }

    /// Waits until it serves, and has the namespaces that every cluster has.
    async fn wait_until_ready(&mut self) -> Result<()> {
        let client = self.client().await?;
        let end = Instant::now() + START;
        loop {
            self.processes.check()?;
            match ready(&client).await {
                Ok(()) => return Ok(()),
                Err(reason) if Instant::now() > end => {
                    bail!("API server not ready within {START:?}: {reason:#}\n{}", self.processes.server_log())
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }
}

/// Returns what kubectl wrote, when it succeeded; an error with what it said otherwise.
pub fn succeeded(output: &Output) -> Result<String> {
    ensure!(output.status.success(), "kubectl: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

async fn ready(client: &Client) -> Result<()> {
    let request = http::Request::get("/readyz").body(Vec::new())?;
    let asked = async {
        client.request_text(request).await?;
        let namespaces = Api::<Namespace>::all(client.clone());
        for name in ["default", "kube-system"] {
            namespaces.get(name).await?;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(Duration::from_secs(5), asked).await.map_err(|_| anyhow!("no answer"))?
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn it_goes_on_with_its_objects_after_a_kill_and_without_them_on_another_storage() -> Result<()> {
        let mut server = ApiServer::start(Options::default()).await?;
        server.namespace("shop").await?;
        let first = uid(&server).await?;
        let token = server.token("shop", "default", None, None).await?;
        let anonymous = server.client_of(Who::Bearer { token: &token }).await?;
        let refused = Api::<Namespace>::all(anonymous).list(&kube::api::ListParams::default()).await.unwrap_err();
        assert!(refused.to_string().contains("system:serviceaccount:shop:default"), "{refused}");
        server.kill()?;
        assert!(server.client().await?.apiserver_version().await.is_err());
        server.resume().await?;
        assert_eq!(uid(&server).await?, first);
        let shop = Object { api_version: "v1", kind: "Namespace", namespace: "", name: "shop" };
        assert!(server.get(shop).await.is_ok());
        server.switch_storage("empty").await?;
        assert_ne!(uid(&server).await?, first);
        assert!(server.get(shop).await.is_err());
        server.switch_storage("first").await?;
        assert_eq!(uid(&server).await?, first);
        server.compact().await?;
        let manifest = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "b" } }).to_string();
        let applied = server.kubectl(&["apply", "-f", "-"], &manifest).await?;
        assert!(succeeded(&applied)?.contains("namespace/b created"));
        let home = server.home().to_path_buf();
        drop(server);
        assert!(!home.exists());
        Ok(())
    }

    async fn uid(server: &ApiServer) -> Result<String> {
        let namespace = server.get(Object { api_version: "v1", kind: "Namespace", namespace: "", name: "kube-system" }).await?;
        Ok(namespace["metadata"]["uid"].as_str().context("no uid")?.to_owned())
    }
}

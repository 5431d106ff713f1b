//! A real Kubernetes cluster of one node, in namespaces of its own on this machine (`tests/cluster/box`).

pub mod images;
pub mod place;
pub mod pods;
pub mod shop;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::unistd::Uid;
use tempfile::TempDir;
use tokio::{
    io::AsyncWriteExt,
    process::{Child, Command},
};

use self::place::Place;
use crate::{
    istioctl::{Istioctl, Reach},
    process::tail,
    tools, wait,
};

/// How long the box may take to come up, or a state in it to be reached; generous, for machines that do much else.
pub const PATIENCE: Duration = Duration::from_secs(180);
/// The /24 network of the node and its pods.
pub const POD_NETWORK: [u8; 3] = [10, 244, 0];

/// Where the node's kubelet keeps its pods' volumes.
const KUBELET: &str = "/run/box/kubelet";
/// The key that signs tokens.
const TOKEN_KEY: &str = "/run/box/keys/accounts.key";

/// What the box runs besides Kubernetes itself.
const PROGRAMS: [&str; 12] =
    ["containerd", "ctr", "runc", "iptables", "conntrack", "ip", "unshare", "nsenter", "setpriv", "flock", "openssl", "busybox"];

/// Returns why this machine cannot run the box; `None` when it can.
pub fn missing() -> Option<String> {
    if !Uid::effective().is_root() {
        return Some("needs root for namespaces and cgroups".to_owned());
    }
    if !Path::new("/sys/fs/cgroup/memory").is_dir() {
        return Some("needs cgroup v1".to_owned());
    }
    let mut absent = PROGRAMS.iter().filter(|program| !is_installed(program)).map(|program| (*program).to_owned()).collect::<Vec<_>>();
    if !Path::new("/usr/lib/cni/bridge").is_file() {
        absent.push("containernetworking-plugins".to_owned());
    }
    if !absent.is_empty() {
        return Some(format!("needs {} (`make setup-root` installs them)", absent.join(", ")));
    }
    let tools = [tools::kubernetes("kubelet"), tools::go("coredns", "coredns"), tools::envoy("1.40")];
    tools.into_iter().find_map(Result::err).map(|error| format!("{error:#}"))
}

fn is_installed(program: &str) -> bool {
    ["/usr/bin", "/usr/sbin", "/bin", "/sbin"].iter().any(|folder| Path::new(folder).join(program).exists())
}

/// A running cluster. It ends with this value, and with this process however that ends.
#[derive(Debug)]
pub struct Cluster {
    runner: Child,
    folder: TempDir,
    init: u32,
    kubectl: PathBuf,
    node: Place,
}

impl Cluster {
    /// Brings it up with the images in a folder, until pods can be made and names are resolved.
    ///
    /// # Errors
    /// When a daemon ends or it takes too long; with the last lines of what was said.
    pub async fn start(images: &Path) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("istiod-lite-box-").tempdir()?;
        let kubectl = tools::kubernetes("kubectl")?;
        let mut command = Command::new(tools::project().join("tests/cluster/box/run"));
        command.arg(folder.path()).env("BIN", kubectl.parent().context("a program has a folder")?).env("IMAGES", images);
        let said = File::create(folder.path().join("run.log"))?;
        // Its standard input is the leash: when that ends, so does the box, tidily. A group of its own: Ctrl-C in a terminal is for this process alone.
        command.stdin(Stdio::piped()).stdout(said.try_clone()?).stderr(said).process_group(0);
        let mut runner = command.spawn().context("start the box")?;
        let init = wait_until_ready(&mut runner, folder.path()).await?;
        let node = Place::enter(Path::new(&format!("/proc/{init}/ns/net")))?;
        Ok(Self { runner, folder, init, kubectl, node })
    }

    /// Returns the node itself: what is done there comes from outside every pod.
    pub fn node(&self) -> &Place {
        &self.node
    }

    /// Returns the administrator's kubeconfig. Its address is one of the node's network.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    /// Returns where the logs of the daemons are.
    pub fn logs(&self) -> PathBuf {
        self.folder.path().join("logs")
    }

    /// Runs `kubectl` with these arguments, as the cluster's administrator; returns its standard output.
    ///
    /// # Errors
    /// Unless it succeeds; with what it said.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.kubectl_with(arguments, "").await
    }

    /// Does the same with standard input.
    ///
    /// # Errors
    /// As [`Self::kubectl`].
    pub async fn kubectl_with(&self, arguments: &[&str], input: &str) -> Result<String> {
        finish(self.kubectl_command(arguments), input).await.with_context(|| format!("kubectl {}", arguments.join(" ")))
    }

    /// Returns a `kubectl` yet to be started; it talks to this cluster.
    pub fn kubectl_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.init)).arg("--").arg(&self.kubectl);
        command.arg("--kubeconfig").arg(self.kubeconfig()).args(arguments);
        command
    }

    /// Returns Istio's `istioctl` for this cluster.
    pub fn istioctl(&self) -> Istioctl {
        let network = format!("--net=/proc/{}/ns/net", self.init);
        Istioctl::new(self.kubeconfig(), Reach::Cluster).wrapped(["nsenter".to_owned(), network, "--".to_owned()])
    }

    /// Returns `kubectl` of this cluster, as a shell says it.
    pub fn shell(&self) -> String {
        let (kubectl, folder) = (self.kubectl.display(), self.folder.path().display());
        format!("nsenter --net=/proc/{}/ns/net -- {kubectl} --kubeconfig {folder}/kubeconfig", self.init)
    }

    /// Runs `kubectl apply --server-side` with a text.
    ///
    /// # Errors
    /// As [`Self::kubectl`].
    pub async fn apply(&self, yaml: &str) -> Result<String> {
        self.kubectl_with(&["apply", "--server-side", "-f", "-"], yaml).await
    }

    /// Runs `kubectl apply --server-side -k` with a folder in `manifests`.
    ///
    /// # Errors
    /// As [`Self::kubectl`].
    pub async fn apply_folder(&self, name: &str) -> Result<String> {
        let folder = tools::project().join("manifests").join(name).display().to_string();
        self.kubectl(&["apply", "--server-side", "-k", &folder]).await
    }

    /// Runs `kubectl delete -k` with a folder in `manifests`; waits until its objects are gone.
    ///
    /// # Errors
    /// As [`Self::kubectl`].
    pub async fn delete_folder(&self, name: &str) -> Result<String> {
        let folder = tools::project().join("manifests").join(name).display().to_string();
        self.kubectl(&["delete", "-k", &folder, "--timeout=180s"]).await
    }

    /// Reads a file of a pod's volume as the kubelet put it there: `<volume>/<file>`.
    ///
    /// # Errors
    /// When there is none.
    pub async fn file_in_pod(&self, namespace: &str, pod: &str, file: &str) -> Result<String> {
        let id = self.kubectl(&["-n", namespace, "get", "pod", pod, "-o", "jsonpath={.metadata.uid}"]).await?;
        let path = format!("{KUBELET}/pods/{id}/volumes/kubernetes.io~projected/{file}");
        self.on_node("cat", &[&path]).await
    }

    /// Replaces the key that signs service accounts' tokens: those of the old key are worth nothing from then on, and
    /// the kubelet projects new ones. API server and kubelet are started again for that.
    ///
    /// # Errors
    /// When they do not come back.
    pub async fn rotate_token_key(&self) -> Result<()> {
        self.on_node("openssl", &["genrsa", "-out", TOKEN_KEY, "2048"]).await?;
        self.restart("kube-apiserver").await?;
        wait::until("the API server", PATIENCE, || self.kubectl(&["get", "--raw", "/readyz"])).await?;
        self.restart("kubelet").await
    }

    /// Kills a daemon; the node starts it again, as systemd would.
    ///
    /// # Errors
    /// When there is none.
    pub async fn restart(&self, daemon: &str) -> Result<()> {
        self.on_node("pkill", &["-KILL", "-x", daemon]).await.map(|_| ())
    }

    /// Waits for a condition of objects, as `kubectl wait --for=condition=… `.
    ///
    /// # Errors
    /// When it is not reached in time.
    pub async fn wait_for(&self, namespace: &str, condition: &str, objects: &[&str]) -> Result<()> {
        let (condition, timeout) = (format!("--for={condition}"), format!("--timeout={}s", PATIENCE.as_secs()));
        let arguments = [&["-n", namespace, "wait", &condition, &timeout], objects].concat();
        self.kubectl(&arguments).await.map(|_| ())
    }

    /// Runs a program of the node, with its files and processes (`ctr`).
    ///
    /// # Errors
    /// Unless it succeeds; with what it said.
    pub async fn on_node(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.init.to_string(), "-m", "-n", "-p", "-u", "-i", "--wd=/", "--", program]).args(arguments);
        finish(command, "").await.with_context(|| format!("{program} {} on the node", arguments.join(" ")))
    }

    /// Ends it and waits until nothing of it is left but its logs, which go with the value.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn end(mut self) -> Result<()> {
        drop(self.runner.stdin.take());
        let ended = tokio::time::timeout(Duration::from_secs(60), self.runner.wait()).await.context("the box does not end")??;
        ensure!(ended.success(), "the box ended with {ended}: {}", said(self.folder.path()));
        Ok(())
    }

    /// Returns the node's first process, as this machine counts.
    pub fn init(&self) -> u32 {
        self.init
    }
}

async fn finish(mut command: Command, input: &str) -> Result<String> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not read it ends without.
        let _ = stdin.write_all(input.as_bytes()).await;
    }
    let output = child.wait_with_output().await?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{}\n{}{}", output.status, tail(&String::from_utf8_lossy(&output.stderr), 20), tail(&text, 20));
    Ok(text)
}

async fn wait_until_ready(runner: &mut Child, folder: &Path) -> Result<u32> {
    let end = Instant::now() + PATIENCE;
    while !folder.join("ready").exists() {
        if let Some(status) = runner.try_wait()? {
            bail!("the box ended ({status}):\n{}", said(folder));
        }
        ensure!(Instant::now() < end, "the box is not up within {PATIENCE:?}:\n{}", said(folder));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    fs::read_to_string(folder.join("init.pid"))?.trim().parse().context("the box's first process")
}

fn said(folder: &Path) -> String {
    let read = |file: &str| tail(&fs::read_to_string(folder.join(file)).unwrap_or_default(), 20);
    format!("{}\n{}", read("logs/box.log"), read("run.log"))
}

//! One agent with its Envoy on a loopback address of its own, and the control plane it talks to.

use std::{
    env, fs,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use crate::{
    client::{self, Connection},
    control_plane::{ControlPlane, Shared, TOKEN},
    listener,
};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A stage for one test.
pub(crate) struct Stage {
    pub(crate) shared: Arc<Shared>,
    pub(crate) folder: TempDir,
    /// Variables of the agent's environment.
    pub(crate) environment: Vec<(&'static str, String)>,
    pub(crate) interception: &'static str,
    /// How many threads Envoy has; `None`: as ProxyConfig says.
    pub(crate) threads: Option<u8>,
    envoy: PathBuf,
    ip: IpAddr,
    agent: Option<Child>,
}

/// Returns the Envoy to test with.
pub(crate) fn envoy() -> Result<PathBuf> {
    harness::tools::envoy("1.40")
}

impl Stage {
    /// Sets a stage without a running agent; the listener answers "hello".
    pub(crate) fn set(envoy: PathBuf, ttl: Duration) -> Result<Self> {
        static TESTS: AtomicU8 = AtomicU8::new(1);
        let process = u8::try_from(std::process::id() % 100)?;
        let ip = IpAddr::from([127, 100 + process, TESTS.fetch_add(1, Ordering::SeqCst), 1]);
        let stage = Self {
            shared: Shared::new(ttl)?,
            folder: TempDir::new()?,
            environment: Vec::new(),
            interception: "NONE",
            threads: Some(1),
            envoy,
            ip,
            agent: None,
        };
        fs::write(stage.folder.path().join("root-cert.pem"), stage.shared.authority.root_pem())?;
        fs::write(stage.folder.path().join("token"), TOKEN)?;
        stage.shared.serve_resource("some", listener::cluster(0));
        stage.answer("hello");
        Ok(stage)
    }

    pub(crate) fn answer(&self, text: &str) {
        self.shared.serve_resource("inbound", listener::answering(self.at(8080), text));
    }

    pub(crate) fn at(&self, port: u16) -> SocketAddr {
        (self.ip, port).into()
    }

    pub(crate) fn start_control_plane(&self) -> Result<ControlPlane> {
        ControlPlane::start(&self.shared, self.at(15012))
    }

    pub(crate) fn start_agent(&mut self, further: &[&str]) -> Result<()> {
        self.start_agent_as("sidecar", further)
    }

    pub(crate) fn start_agent_as(&mut self, role: &str, further: &[&str]) -> Result<()> {
        let path = |name: &str| self.folder.path().join(name);
        let ip = self.ip.to_string();
        let child = Command::new(env!("CARGO_BIN_EXE_istiod-lite"))
            .args(["agent", role, "--name", "reviews-1", "--namespace", "shop", "--service-account", "reviews"])
            .args(["--listen-address", &ip, "--ip", &ip, "--interception", self.interception, "--labels", "app=reviews"])
            .args(self.threads.map(|threads| format!("--concurrency={threads}")))
            .args(["--discovery-address", &self.at(15012).to_string()])
            .env("TERMINATION_DRAIN_DURATION_SECONDS", "3")
            .env("MINIMUM_DRAIN_DURATION", "0s")
            .arg("--root-cert")
            .arg(path("root-cert.pem"))
            .arg("--token-file")
            .arg(path("token"))
            .arg("--work-dir")
            .arg(path("run"))
            .arg("--envoy")
            .arg(&self.envoy)
            .args(further)
            .envs(self.environment.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .stderr(fs::File::create(path("log"))?)
            .spawn()?;
        self.agent = Some(child);
        Ok(())
    }

    /// Returns what the agent says about its readiness; empty when it is ready.
    pub(crate) async fn unreadiness(&self) -> String {
        match client::http("GET", self.at(15020), "/healthz/ready").await {
            Ok((200, _)) => String::new(),
            Ok((_, said)) => said,
            Err(error) => error.to_string(),
        }
    }

    /// Returns how many updates of listeners Envoy has refused.
    pub(crate) async fn refused_updates(&self) -> Result<u64> {
        let (_, said) = client::http("GET", self.at(15000), "/stats?filter=lds.update_rejected").await?;
        let (_, count) = said.rsplit_once("update_rejected: ").with_context(|| said.clone())?;
        Ok(count.split_whitespace().next().unwrap_or_default().parse()?)
    }

    pub(crate) async fn is_ready(&self) -> bool {
        matches!(client::http("GET", self.at(15021), "/healthz/ready").await, Ok((200, _)))
    }

    pub(crate) async fn wait_until_ready(&self) -> Result<()> {
        self.wait("ready", async || self.is_ready().await).await
    }

    pub(crate) async fn connect(&self) -> Result<Connection> {
        Connection::open(&self.shared.authority, self.at(8080)).await
    }

    /// Polls until it holds.
    pub(crate) async fn wait(&self, what: &str, holds: impl AsyncFn() -> bool) -> Result<()> {
        let start = Instant::now();
        while !holds().await {
            ensure!(start.elapsed() < PATIENCE, "not {what} within {PATIENCE:?}; the agent said:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let agent = self.agent.as_ref().context("no agent")?;
        Ok(kill(Pid::from_raw(i32::try_from(agent.id())?), signal)?)
    }

    /// Starts `istiod-lite agent drain`, as a preStop hook runs it.
    pub(crate) fn start_hook(&self) -> Result<Child> {
        let ip = self.ip.to_string();
        Ok(Command::new(env!("CARGO_BIN_EXE_istiod-lite")).args(["agent", "drain", "--listen-address", &ip]).spawn()?)
    }

    /// Returns the process id of the agent's Envoy.
    pub(crate) fn envoy_pid(&self) -> Result<Pid> {
        let agent = self.agent.as_ref().context("no agent")?.id();
        let children = fs::read_to_string(format!("/proc/{agent}/task/{agent}/children"))?;
        Ok(Pid::from_raw(children.trim().parse().with_context(|| format!("children of the agent: {children:?}"))?))
    }

    pub(crate) async fn agent_ended(&mut self) -> Result<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.agent.as_mut().context("no agent")?.try_wait()? {
                return Ok(status);
            }
            ensure!(start.elapsed() < PATIENCE, "the agent did not end; it said:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(agent) = &mut self.agent {
            let _ = agent.kill();
            let _ = agent.wait();
        }
    }
}

/// Returns whether there is such a process (and not only one whose end its parent has not noticed yet).
pub(crate) fn runs(pid: Pid) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

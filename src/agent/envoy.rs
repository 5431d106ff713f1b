//! Envoy's process: started with the bootstrap, ended gently, never left behind.

use std::{ffi::OsString, io, process::ExitStatus, time::Duration};

use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    process::{Child, Command},
    time::Instant,
};
use tracing::{info, warn};

use super::{
    admin::Admin,
    bootstrap::environment,
    settings::{Drain, Settings},
};

/// How long Envoy may take to end after SIGTERM.
const END_DEADLINE: Duration = Duration::from_secs(5);
/// How often open connections are counted during a drain.
const DRAIN_POLL: Duration = Duration::from_millis(200);
const CONNECTIONS: &str = "/stats?filter=^listener\\..*\\.downstream_cx_active$";

/// A running Envoy.
pub struct Envoy {
    child: Child,
    admin: Admin,
}

impl Envoy {
    /// Starts Envoy in a process group of its own: a terminal's interrupt reaches the agent alone, which ends Envoy gently.
    pub fn start(settings: &Settings) -> io::Result<Self> {
        let mut command = match &settings.envoy.launcher {
            Some(launcher) => {
                let mut command = Command::new(launcher);
                command.args(["agent", "launch"]).arg(std::process::id().to_string()).arg(&settings.envoy.binary);
                command
            }
            None => Command::new(&settings.envoy.binary),
        };
        command.args(arguments(settings)).envs(environment(settings)).process_group(0).kill_on_drop(true);
        let child = command.spawn()?;
        info!(pid = child.id(), "Envoy started");
        Ok(Self { child, admin: Admin::new(settings.listen.admin) })
    }

    /// Waits for the end of the process.
    pub async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Waits until no connection is open (but not shorter than the minimum), or the drain's time is over, or Envoy has ended.
    pub async fn drained(&mut self, drain: Drain) {
        let start = Instant::now();
        let end = start + drain.duration;
        loop {
            tokio::select! {
                _ = self.child.wait() => return,
                () = tokio::time::sleep_until(end.min(Instant::now() + DRAIN_POLL)) => {}
            }
            if Instant::now() >= end {
                info!("drain time is over");
                return;
            }
            let open = self.admin.get(CONNECTIONS).await.map(|stats| open_connections(&String::from_utf8_lossy(&stats)));
            if start.elapsed() >= drain.minimum && matches!(open, Ok(0)) {
                info!("no connection is open any more");
                return;
            }
        }
    }

    /// SIGTERM, and SIGKILL when that does not end it in time.
    pub async fn terminate(&mut self) -> io::Result<()> {
        self.signal(Signal::SIGTERM)?;
        if tokio::time::timeout(END_DEADLINE, self.child.wait()).await.is_err() {
            warn!("Envoy did not end within {END_DEADLINE:?} and is killed");
            self.child.kill().await?;
        }
        Ok(())
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        let Some(pid) = self.child.id().and_then(|id| i32::try_from(id).ok()) else { return Ok(()) };
        match kill(Pid::from_raw(pid), signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn arguments(settings: &Settings) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec!["-c".into(), settings.bootstrap_file().into()];
    let options = [
        ("--drain-time-s", settings.drain.listener.as_secs().max(1).to_string()),
        ("--drain-strategy", "immediate".to_owned()),
        ("--log-level", settings.envoy.log_level.clone()),
    ];
    arguments.extend(options.into_iter().flat_map(|(option, value)| [option.into(), value.into()]));
    if settings.envoy.concurrency > 0 {
        arguments.extend(["--concurrency".into(), settings.envoy.concurrency.to_string().into()]);
    }
    // Hot restart would need shared memory that several Envoys on one machine fight over.
    arguments.push("--disable-hot-restart".into());
    arguments.extend(settings.envoy.arguments.iter().cloned());
    arguments
}

/// Connections of all listeners but admin's and the agent's own; those of single workers are in the sums already.
fn open_connections(stats: &str) -> u64 {
    let lines = stats.lines().filter_map(|line| line.split_once(": "));
    let counted = lines
        .filter(|(name, _)| !name.starts_with("listener.admin.") && !name.starts_with("listener.agent.") && !name.contains(".worker_"));
    counted.filter_map(|(_, value)| value.trim().parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::settings::tests::settings;

    #[test]
    fn counts_the_traffic_alone() {
        let stats = "listener.0.0.0.0_9080.downstream_cx_active: 2\n\
                     listener.0.0.0.0_9080.worker_0.downstream_cx_active: 2\n\
                     listener.admin.downstream_cx_active: 1\n\
                     listener.agent.status.downstream_cx_active: 4\n\
                     listener.127.0.1.5_80.downstream_cx_active: 1\n";
        assert_eq!(open_connections(stats), 3);
        assert_eq!(open_connections(""), 0);
    }

    #[test]
    fn arguments_of_a_sidecar() {
        let mut settings = settings();
        settings.envoy.arguments = vec!["--skip-deprecated-logs".into()];
        let arguments = arguments(&settings);
        let text: Vec<&str> = arguments.iter().filter_map(|argument| argument.to_str()).collect();
        assert_eq!(
            text.join(" "),
            "-c run/bootstrap.json --drain-time-s 45 --drain-strategy immediate --log-level warning --concurrency 2 \
             --disable-hot-restart --skip-deprecated-logs"
        );
        settings.envoy.concurrency = 0;
        assert!(!super::arguments(&settings).contains(&"--concurrency".into()));
    }
}

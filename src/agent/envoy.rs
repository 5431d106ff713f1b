//! Envoy's process: started with the bootstrap, ended gently, never left behind.

use std::{ffi::OsString, io, process::ExitStatus, time::Duration};

use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::process::{Child, Command};
use tracing::{info, warn};

use super::{bootstrap::environment, settings::Settings};

/// How long Envoy may take to end after SIGTERM.
const END_DEADLINE: Duration = Duration::from_secs(5);

/// A running Envoy.
pub(crate) struct Envoy {
    child: Child,
}

impl Envoy {
    /// Starts Envoy in a process group of its own, so that a terminal's interrupt reaches only the agent, which ends Envoy gently.
    pub(crate) fn start(settings: &Settings) -> io::Result<Self> {
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
        Ok(Self { child })
    }

    /// Waits for the end of the process.
    pub(crate) async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Ends it by SIGTERM, or by SIGKILL if it does not end in time.
    pub(crate) async fn terminate(&mut self) -> io::Result<()> {
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
        ("--file-flush-interval-msec", settings.envoy.file_flush_interval.as_millis().max(1).to_string()),
        ("--log-level", settings.envoy.log_level.clone()),
    ];
    arguments.extend(options.into_iter().flat_map(|(option, value)| [option.into(), value.into()]));
    if settings.envoy.concurrency > 0 {
        arguments.extend(["--concurrency".into(), settings.envoy.concurrency.to_string().into()]);
    }
    if let Some(size) = settings.envoy.file_flush_min_size_kb {
        arguments.extend(["--file-flush-min-size-kb".into(), size.to_string().into()]);
    }
    // Hot restart would need shared memory that several Envoys on one machine fight over.
    arguments.push("--disable-hot-restart".into());
    // The control plane decides what is used although deprecated; the workload's owner can do nothing about it.
    arguments.push("--skip-deprecated-logs".into());
    arguments.extend(settings.envoy.arguments.iter().cloned());
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::settings::tests::settings;

    #[test]
    fn arguments_of_a_sidecar() {
        let mut settings = settings();
        settings.envoy.arguments = vec!["--enable-core-dump".into()];
        settings.envoy.file_flush_min_size_kb = Some(16);
        let arguments = arguments(&settings);
        let text: Vec<&str> = arguments.iter().filter_map(|argument| argument.to_str()).collect();
        assert_eq!(
            text.join(" "),
            "-c run/bootstrap.json --drain-time-s 45 --drain-strategy immediate --file-flush-interval-msec 1000 --log-level warning \
             --concurrency 2 --file-flush-min-size-kb 16 --disable-hot-restart --skip-deprecated-logs --enable-core-dump"
        );
        settings.envoy.concurrency = 0;
        assert!(!super::arguments(&settings).contains(&"--concurrency".into()));
    }
}

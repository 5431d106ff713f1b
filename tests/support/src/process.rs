//! Child processes that cannot outlive their owner.

use std::{
    ffi::OsStr,
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// How long a process may take to end after SIGTERM before it is killed.
const GRACE: Duration = Duration::from_secs(5);

/// A running child. Dropping it ends it: SIGTERM, then SIGKILL.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with stdin closed and both outputs appended to `<logs>/<name>.log`.
    pub fn start(name: &str, mut command: Command, logs: &Path) -> Result<Self> {
        let log = logs.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log).with_context(|| format!("log {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().with_context(|| format!("start {name}: {:?}", command.get_program()))?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    /// Returns its name, as in its log's file name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns what it wrote so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Returns an error with the log's last lines when it has ended, though nobody asked it to.
    pub fn check_running(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} ended ({status}); its last words:\n{}", self.name, tail(&self.log(), 15));
        }
        Ok(())
    }

    /// Returns how it ended; `None` while it runs.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Sends a signal to the process itself.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        signal_process(self.id(), signal)
    }

    /// Kills it without any chance to tidy up, and waits for its end.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        self.child.wait()?;
        Ok(())
    }

    /// Sends SIGTERM, and SIGKILL after a while. Returns how it ended.
    pub fn end(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.child.try_wait()? {
            return Ok(status);
        }
        // A stopped process would not see SIGTERM.
        let _ = self.signal(Signal::SIGCONT);
        self.signal(Signal::SIGTERM)?;
        let deadline = Instant::now() + GRACE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            thread::sleep(Duration::from_millis(10));
        }
        self.child.kill()?;
        Ok(self.child.wait()?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// Sends a signal to a process by its id.
pub fn signal_process(id: u32, signal: Signal) -> Result<()> {
    kill(Pid::from_raw(i32::try_from(id)?), signal).with_context(|| format!("{signal} to {id}"))
}

/// Returns the ids of the direct children of a process (Linux `/proc`).
pub fn children(parent: u32) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{parent}/task"))? {
        let list = std::fs::read_to_string(task?.path().join("children"))?;
        found.extend(list.split_ascii_whitespace().filter_map(|id| id.parse::<u32>().ok()));
    }
    found.sort_unstable();
    Ok(found)
}

/// Returns what share of the time that an Envoy's workers ran or wanted to run they waited for a CPU (Linux `schedstat`).
pub fn waited_for_cpu(envoy: u32) -> Result<f64> {
    let (mut ran, mut waited) = (0.0, 0.0);
    for task in std::fs::read_dir(format!("/proc/{envoy}/task"))? {
        let task = task?.path();
        if std::fs::read_to_string(task.join("comm"))?.starts_with("wrk:") {
            let text = std::fs::read_to_string(task.join("schedstat"))?;
            let mut numbers = text.split_ascii_whitespace().filter_map(|number| number.parse::<f64>().ok());
            ran += numbers.next().unwrap_or_default();
            waited += numbers.next().unwrap_or_default();
        }
    }
    Ok(if ran + waited > 0.0 { waited / (ran + waited) } else { 0.0 })
}

/// Runs a command to its end; an error with its output unless it succeeds.
pub fn run<S: AsRef<OsStr>>(program: impl AsRef<OsStr>, arguments: &[S]) -> Result<String> {
    let program = program.as_ref();
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().with_context(|| format!("run {program:?}"))?;
    if !output.status.success() {
        let arguments = arguments.iter().map(|argument| argument.as_ref().to_string_lossy()).collect::<Vec<_>>().join(" ");
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{} {arguments}: {}\n{}", program.to_string_lossy(), output.status, tail(&stderr, 15));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Returns the last `lines` lines of a text.
pub fn tail(text: &str, lines: usize) -> String {
    let all = text.lines().collect::<Vec<_>>();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_dropped_process_is_gone() {
        let logs = tempfile::tempdir().unwrap();
        let process = Process::start("sleeper", shell("exec sleep 60"), logs.path()).unwrap();
        let id = process.id();
        assert!(signal_process(id, Signal::SIGCONT).is_ok());
        drop(process);
        assert!(signal_process(id, Signal::SIGCONT).is_err());
    }

    #[test]
    fn an_early_end_is_told_with_the_log() {
        let logs = tempfile::tempdir().unwrap();
        let mut process = Process::start("failing", shell("echo no such flag >&2; exit 3"), logs.path()).unwrap();
        while process.child.try_wait().unwrap().is_none() {
            thread::sleep(Duration::from_millis(5));
        }
        let error = process.check_running().unwrap_err().to_string();
        assert!(error.contains("no such flag") && error.contains('3'), "{error}");
    }

    #[test]
    fn children_are_found() {
        let logs = tempfile::tempdir().unwrap();
        let process = Process::start("parent", shell("sleep 60 & wait"), logs.path()).unwrap();
        let deadline = Instant::now() + GRACE;
        while children(process.id()).unwrap().is_empty() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
        let found = children(process.id()).unwrap();
        assert_eq!(found.len(), 1);
        signal_process(found[0], Signal::SIGTERM).unwrap();
    }
}

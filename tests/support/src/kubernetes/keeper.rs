//! A thread that starts processes and lives as long as this process.
//!
//! The kernel ends a process that wished so when the *thread* that started it ends, and a test's thread ends with the
//! test. What several tests share is therefore started here.

use std::{
    process::Command,
    sync::{
        LazyLock,
        mpsc::{Sender, channel, sync_channel},
    },
    thread,
};

use anyhow::{Context, Result};

type Job = Box<dyn FnOnce() + Send>;

static KEEPER: LazyLock<Sender<Job>> = LazyLock::new(|| {
    let (jobs, received) = channel::<Job>();
    thread::spawn(move || received.iter().for_each(|job| job()));
    jobs
});

/// Runs `start` on that thread, and waits for its result.
pub(super) fn on_lasting_thread<T: Send + 'static>(start: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let (answer, answered) = sync_channel(1);
    let job: Job = Box::new(move || drop(answer.send(start())));
    KEEPER.send(job).ok().context("the thread that starts processes is gone")?;
    answered.recv().context("the thread that starts processes is gone")?
}

/// Returns a command for `program`, which the kernel kills when this process ends in whatever way.
pub(super) fn mortal(istiod_lite: &std::path::Path, program: &std::path::Path) -> Command {
    let mut command = Command::new(istiod_lite);
    command.args(["agent", "launch", &std::process::id().to_string()]).arg(program);
    command
}

//! Becoming Envoy without outliving the agent.
//!
//! The kernel can end a process when its parent dies, but only the process itself can ask for that. So the agent first starts its own
//! program, which asks the kernel and then turns into Envoy; the request survives that.

use std::{ffi::OsString, io, os::unix::process::CommandExt, path::Path, process::Command};

use nix::{
    sys::{prctl::set_pdeathsig, signal::Signal},
    unistd::getppid,
};

/// Turns this process into `binary`, which is killed when `parent` dies. Returns only on failure.
pub(crate) fn become_envoy(parent: i32, binary: &Path, arguments: &[OsString]) -> io::Error {
    if let Err(error) = set_pdeathsig(Signal::SIGKILL) {
        return error.into();
    }
    // The parent may have died before the kernel was asked.
    if getppid().as_raw() != parent {
        return io::Error::other("the agent is gone");
    }
    Command::new(binary).args(arguments).exec()
}

//! Becoming Envoy without outliving the agent.
//!
//! The kernel can end a process when its parent dies, but only a process itself can ask for that. So the agent starts its own
//! program first, which asks and then turns into Envoy; the wish survives that.

use std::{ffi::OsString, io, os::unix::process::CommandExt, path::Path, process::Command};

use nix::{
    sys::{prctl::set_pdeathsig, signal::Signal},
    unistd::getppid,
};

/// Turns this process into `binary`, killed when `parent` dies. Returns only on failure.
pub fn become_envoy(parent: i32, binary: &Path, arguments: &[OsString]) -> io::Error {
    if let Err(error) = set_pdeathsig(Signal::SIGKILL) {
        return error.into();
    }
    // The parent may have died before the wish was made.
    if getppid().as_raw() != parent {
        return io::Error::other("the agent is gone");
    }
    Command::new(binary).args(arguments).exec()
}

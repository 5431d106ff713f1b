//! `istiod-lite translate`

use std::process::ExitCode;

/// Offline translation, the same code as the server.
#[derive(clap::Args)]
pub(super) struct Arguments {}

pub(super) fn run(_arguments: Arguments) -> ExitCode {
    ExitCode::FAILURE
}

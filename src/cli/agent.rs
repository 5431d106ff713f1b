//! `istiod-lite agent`

use std::process::ExitCode;

/// Runs a stock Envoy as sidecar or gateway.
#[derive(clap::Args)]
pub(super) struct Arguments {}

pub(super) fn run(_arguments: Arguments) -> ExitCode {
    ExitCode::FAILURE
}

//! `istiod-lite discovery`

use std::process::ExitCode;

/// The control plane.
#[derive(clap::Args)]
pub(super) struct Arguments {}

pub(super) fn run(_arguments: Arguments) -> ExitCode {
    ExitCode::FAILURE
}

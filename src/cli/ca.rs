//! `istiod-lite ca`

use std::process::ExitCode;

/// The offline ceremony: root, intermediate, inspect.
#[derive(clap::Args)]
pub(super) struct Arguments {}

pub(super) fn run(_arguments: Arguments) -> ExitCode {
    ExitCode::FAILURE
}

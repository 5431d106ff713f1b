//! Logging for commands that run long.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::{EnvFilter, filter::ParseError};

/// Starts logging to stderr, in colours if it is a terminal, at `level` (`info`, `istiod_lite=debug,info`).
///
/// # Errors
/// When `level` cannot be read.
pub(super) fn start(level: &str, json: bool) -> Result<(), ParseError> {
    // kube tells of every request that fails; who asked says what that means, once.
    let quiet = if level.contains("kube_client") { "" } else { ",kube_client=off" };
    let filter = EnvFilter::builder().parse(format!("{level}{quiet}"))?;
    let logger = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr).with_ansi(stderr().is_terminal());
    if json {
        logger.json().init();
    } else {
        logger.init();
    }
    Ok(())
}

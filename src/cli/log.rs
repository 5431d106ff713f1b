//! Logging for commands that run long.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::{EnvFilter, filter::ParseError};

/// Starts logging to stderr, in colours if it is a terminal, at `level` (`info`, `istiod_lite=debug,info`).
///
/// # Errors
/// When `level` cannot be read.
pub(super) fn start(level: &str, json: bool) -> Result<(), ParseError> {
    let filter = EnvFilter::builder().parse(level)?;
    let logger = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr).with_ansi(stderr().is_terminal());
    if json {
        logger.json().init();
    } else {
        logger.init();
    }
    Ok(())
}

//! Logging for commands that run long.

use tracing_subscriber::{EnvFilter, filter::ParseError};

/// Starts logging to stderr at `level` (`info`, `istiod_lite=debug,info`).
///
/// # Errors
/// When `level` cannot be read.
pub(super) fn start(level: &str, json: bool) -> Result<(), ParseError> {
    let filter = EnvFilter::builder().parse(level)?;
    let logger = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if json {
        logger.json().init();
    } else {
        logger.init();
    }
    Ok(())
}

//! Logging for long-lived commands.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::{EnvFilter, filter::ParseError};

/// Starts logging to stderr, in colours if it is a terminal, at `level`: `info`, `istiod_lite=debug,info`, or in istiod's form,
/// `default:info,ads:debug`.
///
/// # Errors
/// When `level` cannot be read.
pub(super) fn start(level: &str, json: bool) -> Result<(), ParseError> {
    let (level, unknown) = directives(level);
    // kube logs every request that fails; the caller logs once what it means.
    let quiet = if level.contains("kube_client") { "" } else { ",kube_client=off" };
    let filter = EnvFilter::builder().parse(format!("{level}{quiet}"))?;
    let logger = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr).with_ansi(stderr().is_terminal());
    if json {
        logger.json().init();
    } else {
        logger.init();
    }
    if !unknown.is_empty() {
        tracing::warn!(scopes = unknown.join(","), "the log has no such scopes; write as istiod_lite::xds=debug,info");
    }
    Ok(())
}

/// Returns the level in the logger's form, and the scopes of istiod that we do not have. istiod's `default` and `all` mean
/// everything: as a target of the logger's, `default:info` would log nothing else.
fn directives(level: &str) -> (String, Vec<&str>) {
    let mut unknown = Vec::new();
    let mut kept = Vec::new();
    for part in level.split(',').map(str::trim) {
        match part.split_once(':').filter(|(_, level)| !level.starts_with(':') && !part.contains('=')) {
            Some(("default" | "all", level)) => kept.push(level_name(level)),
            Some((scope, _)) => unknown.push(scope),
            None => kept.push(level_name(part)),
        }
    }
    let level = if kept.is_empty() { "info".to_owned() } else { kept.join(",") };
    (level, unknown)
}

/// Translates istiod's names of levels into the logger's.
fn level_name(level: &str) -> &str {
    match level {
        "none" => "off",
        "fatal" => "error",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_of_istiod_are_understood() {
        for (written, expected, unknown) in [
            ("default:info", "info", &[][..]),
            ("default:info,ads:debug", "info", &["ads"][..]),
            ("ads:debug", "info", &["ads"][..]),
            ("all:none", "off", &[][..]),
            ("info", "info", &[][..]),
            ("istiod_lite::xds=debug,info", "istiod_lite::xds=debug,info", &[][..]),
            ("istiod_lite::xds", "istiod_lite::xds", &[][..]),
        ] {
            assert_eq!(directives(written), (expected.to_owned(), unknown.to_vec()), "{written}");
        }
    }
}

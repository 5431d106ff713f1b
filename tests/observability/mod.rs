//! `manifests/observability` and `docs/observability.md`: read as Prometheus and Grafana read them, and held against
//! `docs/metrics.md`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod alerts;
mod dashboard;
mod documented;
mod expression;
mod scraped;

use std::{fs, path::PathBuf};

/// Returns the text of a file of the project.
fn text(path: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Returns the first document of a file of YAML.
fn yaml(path: &str) -> serde_json::Value {
    serde_norway::from_str(&text(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

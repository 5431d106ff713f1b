//! What the checks of routes take, Envoy takes: `tests/edges/in.yaml` has values at the edge of what is possible.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{fs, process::Command};

#[test]
fn envoy_takes_what_the_checks_take() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/edges/in.yaml");
    let mut translate = Command::new(env!("CARGO_BIN_EXE_istiod-lite"));
    let output = translate.args(["translate", "-f", file, "--proxy", "client.n", "--bootstrap", "-o", "json"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let folder = tempfile::tempdir().unwrap();
    let bootstrap = folder.path().join("bootstrap.json");
    fs::write(&bootstrap, &output.stdout).unwrap();
    for minor in ["1.40", "1.38"] {
        let mut envoy = Command::new(harness::tools::envoy(minor).unwrap());
        let output = envoy.args(["--mode", "validate", "-l", "error", "-c"]).arg(&bootstrap).output().unwrap();
        assert!(output.status.success(), "Envoy {minor}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

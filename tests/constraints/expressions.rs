//! Expressions of CEL: real Envoys take those which `src/api/validate/cel.rs` takes, and refuse those which it refuses.

use std::{fs, path::Path, process::Command};

use serde_json::{Value, json};

const GOOD: &str = include_str!("../../src/api/validate/cel/good.txt");
const BAD: &str = include_str!("../../src/api/validate/cel/bad.txt");

/// The lists have both: what the first takes and the second does not may not be sent to a mesh, which has proxies of either version.
const VERSIONS: [&str; 2] = ["1.40", "1.38"];

#[test]
fn every_envoy_takes_the_good_expressions() {
    let good: Vec<&str> = GOOD.lines().collect();
    for version in VERSIONS {
        assert_eq!(refused(&harness::tools::envoy(version).unwrap(), &good), None, "Envoy {version}");
    }
}

#[test]
fn some_envoy_refuses_each_bad_expression() {
    let envoys = VERSIONS.map(|version| harness::tools::envoy(version).unwrap());
    for bad in BAD.lines().chain(["", " "]) {
        assert!(envoys.iter().any(|envoy| refused(envoy, &[bad]).is_some()), "every Envoy takes {bad:?}");
    }
}

/// Returns what an Envoy says of access logs with these filters, if it refuses them.
fn refused(envoy: &Path, expressions: &[&str]) -> Option<String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bootstrap.json");
    fs::write(&file, bootstrap(expressions).to_string()).unwrap();
    let output = Command::new(envoy).args(["--mode", "validate", "-l", "error", "-c"]).arg(&file).output().unwrap();
    (!output.status.success()).then(|| String::from_utf8_lossy(&output.stderr).into_owned())
}

fn bootstrap(expressions: &[&str]) -> Value {
    let log = |expression: &&str| {
        json!({
            "name": "envoy.access_loggers.file",
            "filter": {"extension_filter": {"name": "envoy.access_loggers.extension_filters.cel", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter",
                "expression": expression,
            }}},
            "typed_config": {"@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog", "path": "/dev/null"},
        })
    };
    let proxy = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "connections",
        "cluster": "nobody",
        "access_log": expressions.iter().map(log).collect::<Vec<_>>(),
    });
    let filters = json!([{"name": "envoy.filters.network.tcp_proxy", "typed_config": proxy}]);
    json!({"static_resources": {
        "listeners": [{"name": "connections", "address": {"pipe": {"path": "@connections"}}, "filter_chains": [{"filters": filters}]}],
        "clusters": [{"name": "nobody"}],
    }})
}

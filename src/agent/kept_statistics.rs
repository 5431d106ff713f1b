//! Which of Envoy's statistics are kept. Envoy has hundreds for each cluster and route; kept are those that Istio's proxy keeps, which
//! its dashboards read, those that the agent reads, and those that stand in for metrics of Istio that a stock Envoy cannot have.

use serde_json::{Value, json};

use crate::metric_tags::SCOPE;

const PREFIXES: [&str; 9] =
    ["reporter=", "component", SCOPE, "cluster_manager", "listener_manager", "server", "cluster.xds-grpc", "wasm", "rate_limit."];
const SUFFIXES: [&str; 9] = [
    "rbac.allowed",
    "rbac.denied",
    "shadow_allowed",
    "shadow_denied",
    // What a drain waits for.
    "downstream_cx_active",
    "downstream_rq_active",
    "downstream_cx_tx_bytes_buffered",
    // The messages of gRPC, which are in none of Istio's metrics here.
    "grpc.request_message_count",
    "grpc.response_message_count",
];
const EXPRESSIONS: [&str; 2] = [
    r"vhost\..*\.route\..*",
    // The bytes of connections that are still open.
    r"tcp\..*\.downstream_cx_(rx|tx)_bytes_total",
];

/// Returns the matcher of the bootstrap's `stats_config`.
pub(super) fn matcher() -> Value {
    let prefixes = PREFIXES.iter().map(|prefix| json!({ "prefix": prefix }));
    let suffixes = SUFFIXES.iter().map(|suffix| json!({ "suffix": suffix }));
    let expressions = EXPRESSIONS.iter().map(|regex| json!({ "safe_regex": { "regex": regex } }));
    json!({ "inclusion_list": { "patterns": prefixes.chain(suffixes).chain(expressions).collect::<Vec<_>>() } })
}

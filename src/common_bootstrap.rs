//! What the bootstraps of all our Envoys have in common: the agent's, and those that `translate --bootstrap` prints. What one of them
//! takes, the others take.

use serde_json::{Value, json};

/// The size of a compiled regular expression up to which Envoy takes it. Its own limit is a hundredth of it, less than Istio's users
/// are used to.
pub(crate) const LARGEST_REGEX_PROGRAM: u64 = 32768;

const CONNECTION_LIMIT: &str =
    "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig";

/// Returns the bootstrap without its node and resources, as JSON by the names of the protos.
pub(crate) fn common_bootstrap() -> Value {
    json!({
        "overload_manager": { "resource_monitors": [connection_limit()] },
        "layered_runtime": { "layers": [
            { "name": "fixed", "static_layer": { "re2.max_program_size.error_level": LARGEST_REGEX_PROGRAM.to_string() } },
            { "name": "admin", "admin_layer": {} },
        ] },
        "stats_config": { "use_all_default_tags": false, "stats_tags": stats_tags() },
    })
}

/// Sets the limit of connections as high as possible: without a limit Envoy warns.
fn connection_limit() -> Value {
    json!({
        "name": "envoy.resource_monitors.global_downstream_max_connections",
        "typed_config": { "@type": CONNECTION_LIMIT, "max_active_downstream_connections": i32::MAX },
    })
}

/// Returns the labels of Envoy's statistics: names that may hold dots end in `;` (contract §3), which separates them from the rest.
fn stats_tags() -> Value {
    json!([
        { "tag_name": "cluster_name", "regex": "^cluster\\.((.+?);\\.)" },
        { "tag_name": "http_conn_manager_prefix", "regex": "^http\\.((.+?);\\.)" },
        { "tag_name": "tcp_prefix", "regex": "^tcp\\.((.+?);\\.)" },
        { "tag_name": "listener_address", "regex": "^listener\\.(((?:[_.[:digit:]]*|[_\\[\\]aAbBcCdDeEfF[:digit:]]*))\\.)" },
        { "tag_name": "response_code", "regex": "_rq(_(\\d{3}))$" },
        { "tag_name": "response_code_class", "regex": "_rq(_(\\dxx))$" },
    ])
}

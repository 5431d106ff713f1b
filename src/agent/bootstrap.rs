//! Envoy's bootstrap: who the node is, where configuration and secrets come from, and the agent's static ports.

use std::{net::SocketAddr, path::Path};

use serde_json::{Map, Value, json};

use super::{
    application::connection::loopback_beside,
    kept_statistics,
    settings::{BootstrapOptions, Settings},
    statistics,
    status::PROXY_METRICS,
};
use crate::{common_bootstrap::common_bootstrap, version, workload_labels::OF_NODE};

const AGENT_CLUSTER: &str = "agent";
const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
const MANAGER: &str = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const ROUTER: &str = "envoy.extensions.filters.http.router.v3.Router";

/// Returns the bootstrap as JSON (contract §2.3).
pub(crate) fn bootstrap(settings: &Settings) -> Value {
    let mut bootstrap = common_bootstrap();
    if !settings.envoy.all_statistics {
        bootstrap["stats_config"]["stats_matcher"] = kept_statistics::matcher();
    }
    statistics::lay_over(&mut bootstrap, &settings.bootstrap.statistics, &settings.workload.ips);
    lay_over_runtime(&mut bootstrap, &settings.bootstrap);
    bootstrap["node"] = node(settings);
    bootstrap["admin"] = json!({ "address": address(settings.listen.admin) });
    bootstrap["dynamic_resources"] = dynamic_resources(settings);
    bootstrap["static_resources"] = json!({ "clusters": clusters(settings), "listeners": listeners(settings) });
    bootstrap
}

/// Lays the runtime that users want over our own, and their limit of connections.
fn lay_over_runtime(bootstrap: &mut Value, wanted: &BootstrapOptions) {
    if let Some(runtime) = bootstrap.pointer_mut("/layered_runtime/layers/0/static_layer").and_then(Value::as_object_mut) {
        for (name, value) in &wanted.runtime {
            match value.as_str() {
                "" => _ = runtime.remove(name),
                // Envoy wants no text for one of these.
                "true" | "false" => _ = runtime.insert(name.clone(), (value == "true").into()),
                text => _ = runtime.insert(name.clone(), text.into()),
            }
        }
    }
    let limit = bootstrap.pointer_mut("/overload_manager/resource_monitors/0/typed_config/max_active_downstream_connections");
    if let (Some(limit), Some(wanted)) = (limit, wanted.connections) {
        *limit = wanted.into();
    }
}

/// Returns the node id, `type~ip~pod.namespace~namespace.svc.domain` (contract §2.4).
pub(crate) fn node_id(settings: &Settings) -> String {
    let workload = &settings.workload;
    let ip = workload.ips.first().map(ToString::to_string).unwrap_or_default();
    format!(
        "{}~{ip}~{}.{}~{}.svc.{}",
        settings.role.node_type(),
        workload.name,
        workload.namespace,
        workload.namespace,
        workload.dns_domain
    )
}

/// The variables in Envoy's environment by which shared configuration can name this proxy (`%ENVIRONMENT(X)%` in access logs,
/// environment tags in traces).
const VARIABLES: [&str; 9] = [
    "CANONICAL_SERVICE",
    "CANONICAL_REVISION",
    "ISTIO_META_WORKLOAD_NAME",
    "ISTIO_META_MESH_ID",
    "ISTIO_META_CLUSTER_ID",
    "ISTIO_META_NODE_NAME",
    "POD_NAME",
    "POD_NAMESPACE",
    "SERVICE_ACCOUNT",
];

/// Returns [`VARIABLES`] with their values.
pub(crate) fn environment(settings: &Settings) -> impl Iterator<Item = (&'static str, &str)> {
    let workload = &settings.workload;
    let values = [
        workload.canonical_name(),
        workload.canonical_revision(),
        &workload.workload_name,
        &workload.mesh_id,
        &workload.cluster_id,
        &workload.node_name,
        &workload.name,
        &workload.namespace,
        &workload.service_account,
    ];
    VARIABLES.into_iter().zip(values)
}

/// Returns the node: what the proxy says of itself in its first request.
pub(crate) fn node(settings: &Settings) -> Value {
    json!({
        "id": node_id(settings),
        "cluster": settings.workload.service_name,
        "metadata": metadata(settings),
    })
}

fn metadata(settings: &Settings) -> Value {
    let workload = &settings.workload;
    let ips: Vec<String> = workload.ips.iter().map(ToString::to_string).collect();
    let mut metadata = Map::new();
    let texts = [
        ("NAME", workload.name.as_str()),
        ("NAMESPACE", &workload.namespace),
        ("SERVICE_ACCOUNT", &workload.service_account),
        ("WORKLOAD_NAME", &workload.workload_name),
        ("CLUSTER_ID", &workload.cluster_id),
        ("MESH_ID", &workload.mesh_id),
        ("NODE_NAME", &workload.node_name),
        ("NETWORK", &workload.network),
        ("INTERCEPTION_MODE", workload.interception.as_str()),
        // istioctl shows it for the data plane.
        ("ISTIO_VERSION", version::VERSION),
    ];
    for (key, value) in texts.into_iter().filter(|(_, value)| !value.is_empty()) {
        metadata.insert(key.to_owned(), value.into());
    }
    metadata.insert(OF_NODE.to_owned(), workload.labels().to_string().into());
    metadata.insert("INSTANCE_IPS".to_owned(), ips.join(",").into());
    metadata.insert("LABELS".to_owned(), json!(workload.labels));
    metadata.insert("ENVOY_STATUS_PORT".to_owned(), settings.listen.status.port().into());
    metadata.insert("ENVOY_PROMETHEUS_PORT".to_owned(), settings.listen.prometheus.port().into());
    if !workload.annotations.is_empty() {
        metadata.insert("ANNOTATIONS".to_owned(), json!(workload.annotations));
    }
    let mut config = settings.proxy_config.clone();
    config.insert("discoveryAddress".to_owned(), settings.discovery.address.as_str().into());
    config.insert("concurrency".to_owned(), settings.envoy.concurrency.into());
    metadata.insert("PROXY_CONFIG".to_owned(), config.into());
    metadata.extend(workload.metadata.clone());
    Value::Object(metadata)
}

fn dynamic_resources(settings: &Settings) -> Value {
    // Envoy waits for its first configuration without a limit: if it started with none, it would refuse requests.
    let ads = json!({ "ads": {}, "initial_fetch_timeout": "0s", "resource_api_version": "V3" });
    json!({
        "cds_config": ads,
        "lds_config": ads,
        "ads_config": {
            "api_type": if settings.discovery.delta { "DELTA_GRPC" } else { "GRPC" },
            "transport_api_version": "V3",
            "set_node_on_first_message_only": true,
            "grpc_services": [{ "envoy_grpc": {
                "cluster_name": "xds-grpc",
                "retry_policy": { "retry_back_off": { "base_interval": "0.1s", "max_interval": "5s" } },
            } }],
        },
    })
}

fn clusters(settings: &Settings) -> Value {
    json!([
        cluster(AGENT_CLUSTER, address(reachable(settings.listen.agent))),
        grpc_cluster("sds-grpc", &settings.sds_socket()),
        grpc_cluster("xds-grpc", &settings.xds_socket()),
    ])
}

fn cluster(name: &str, address: Value) -> Value {
    json!({
        "name": name,
        "alt_stat_name": format!("{name};"),
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address } }] }],
        },
    })
}

fn grpc_cluster(name: &str, socket: &Path) -> Value {
    let mut cluster = cluster(name, json!({ "pipe": { "path": socket } }));
    cluster["typed_extension_protocol_options"] =
        json!({ HTTP_OPTIONS: { "@type": type_url(HTTP_OPTIONS), "explicit_http_config": { "http2_protocol_options": {} } } });
    cluster
}

fn listeners(settings: &Settings) -> Value {
    json!([
        listener("prometheus", settings.listen.prometheus, "/stats/prometheus", PROXY_METRICS),
        listener("status", settings.listen.status, "/healthz/ready", "/healthz/ready"),
    ])
}

fn listener(name: &str, at: SocketAddr, path: &str, of_agent: &str) -> Value {
    json!({
        "name": format!("{}_{}", at.ip(), at.port()),
        "address": address(at),
        // This keeps health checks and scrapes apart from the traffic that a drain waits for.
        "stat_prefix": format!("agent.{name}"),
        "ignore_global_conn_limit": true,
        "bypass_overload_manager": true,
        "filter_chains": [{ "filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": {
                "@type": type_url(MANAGER),
                "stat_prefix": format!("agent_{name}"),
                "route_config": { "virtual_hosts": [{
                    "name": name,
                    "domains": ["*"],
                    "routes": [{ "match": { "path": path }, "route": { "cluster": AGENT_CLUSTER, "prefix_rewrite": of_agent } }],
                }] },
                "http_filters": [{
                    "name": "envoy.filters.http.router",
                    "typed_config": { "@type": type_url(ROUTER) },
                }],
            },
        }] }],
    })
}

fn address(at: SocketAddr) -> Value {
    json!({ "socket_address": { "address": at.ip(), "port_value": at.port() } })
}

/// Returns where to connect to: for a port on all addresses the loopback interface, which is not captured.
fn reachable(listening: SocketAddr) -> SocketAddr {
    match listening.ip() {
        any if any.is_unspecified() => (loopback_beside(any), listening.port()).into(),
        _ => listening,
    }
}

fn type_url(message: &str) -> String {
    format!("type.googleapis.com/{message}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        agent::settings::{Role, tests::settings},
        translate::filter::tracing::IDENTITY_TAGS,
    };

    #[test]
    fn golden() {
        insta::assert_json_snapshot!(bootstrap(&settings()));
    }

    #[test]
    fn it_says_all_that_other_bootstraps_say() {
        let mut settings = settings();
        settings.envoy.all_statistics = true;
        let bootstrap = bootstrap(&settings);
        for (field, value) in common_bootstrap().as_object().unwrap() {
            assert_eq!(&bootstrap[field], value, "{field}");
        }
    }

    #[test]
    fn what_users_want_is_laid_over() {
        let mut settings = settings();
        let runtime = [("re2.max_program_size.error_level", ""), ("a.feature", "false"), ("a.number", "7")];
        settings.bootstrap.runtime = runtime.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        settings.bootstrap.connections = Some(50);
        let bootstrap = bootstrap(&settings);
        assert_eq!(bootstrap["layered_runtime"]["layers"][0]["static_layer"], json!({ "a.feature": false, "a.number": "7" }));
        let monitor = &bootstrap["overload_manager"]["resource_monitors"][0]["typed_config"];
        assert_eq!(monitor["max_active_downstream_connections"], 50);
    }

    #[test]
    fn a_gateway_is_a_router() {
        let mut gateway = settings();
        gateway.role = Role::Gateway;
        gateway.discovery.delta = false;
        let bootstrap = bootstrap(&gateway);
        assert_eq!(bootstrap["node"]["id"], "router~127.0.1.5~reviews-v1-abc.shop~shop.svc.cluster.local");
        assert_eq!(bootstrap["dynamic_resources"]["ads_config"]["api_type"], "GRPC");
    }

    #[test]
    fn metadata_that_was_handed_in_wins() {
        let mut settings = settings();
        settings.workload.metadata.insert("HTTP10".to_owned(), "1".into());
        settings.workload.metadata.insert("MESH_ID".to_owned(), "other".into());
        let metadata = metadata(&settings);
        assert_eq!((&metadata["HTTP10"], &metadata["MESH_ID"]), (&json!("1"), &json!("other")));
    }

    #[test]
    fn what_was_not_said_is_left_out() {
        assert!(metadata(&settings()).get("NETWORK").is_none());
    }

    #[test]
    fn the_environment_has_what_the_stock_flavours_tags_read() {
        for (tag, variable) in IDENTITY_TAGS {
            assert!(VARIABLES.contains(&variable), "{tag} is read from {variable}, which the agent does not set");
        }
    }

    #[test]
    fn the_environment_names_the_proxy() {
        let settings = settings();
        let environment: Vec<(&str, &str)> = environment(&settings).collect();
        for variable in [("CANONICAL_SERVICE", "reviews"), ("CANONICAL_REVISION", "v1"), ("POD_NAMESPACE", "shop")] {
            assert!(environment.contains(&variable), "{variable:?}");
        }
    }
}

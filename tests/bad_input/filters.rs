//! EnvoyFilters with mistakes of many kinds, all at once: each is named, and none keeps anything else from its effect.

use std::{
    fs,
    process::{Command, Output},
};

use harness::{mesh::START, wait};
use serde_json::{Value, json};

use super::{
    cases::{FILE, GOOD, GOOD_CLUSTER, GOOD_FILE},
    plane::ControlPlane,
};

const MANAGER: &str = "envoy.filters.network.http_connection_manager";

/// A mistake: what is written in the spec, and where and how it is named.
struct Broken {
    spec: Value,
    field: &'static str,
    said: &'static str,
}

fn packed(kind: &str, fields: Value) -> Value {
    let mut packed = fields;
    packed["@type"] = json!(format!("type.googleapis.com/{kind}"));
    packed
}

fn buffer() -> Value {
    packed("envoy.extensions.filters.http.buffer.v3.Buffer", json!({"max_request_bytes": 7}))
}

/// Returns a rate limit, packed as JSON.
fn limit(fields: Value) -> Value {
    let kind = "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit";
    packed("udpa.type.v1.TypedStruct", json!({"type_url": kind, "value": fields}))
}

fn spec(patch: Value) -> Value {
    json!({"workloadSelector": {"labels": {"app": "client"}}, "configPatches": [patch]})
}

fn of_manager() -> Value {
    json!({"context": "SIDECAR_OUTBOUND", "listener": {"filterChain": {"filter": {"name": MANAGER}}}})
}

/// Returns a patch of the HTTP filters.
fn http(operation: &str, value: Value) -> Value {
    json!({"applyTo": "HTTP_FILTER", "match": of_manager(), "patch": {"operation": operation, "value": value}})
}

fn outbound(apply_to: &str, operation: &str, value: Value) -> Value {
    json!({"applyTo": apply_to, "match": {"context": "SIDECAR_OUTBOUND"}, "patch": {"operation": operation, "value": value}})
}

/// Returns a patch of the route configuration that the services share.
fn routes(apply_to: &str, operation: &str, value: Value) -> Value {
    let matching = json!({"context": "SIDECAR_OUTBOUND", "routeConfiguration": {"name": "9080", "vhost": {"domainName": "reviews"}}});
    json!({"applyTo": apply_to, "match": matching, "patch": {"operation": operation, "value": value}})
}

fn broken(spec: Value, field: &'static str, said: &'static str) -> Broken {
    Broken { spec, field, said }
}

/// Returns mistakes for which the object is refused.
fn refused() -> Vec<Broken> {
    let merging = |matching: Value| spec(json!({"applyTo": "CLUSTER", "match": matching, "patch": {"operation": "MERGE", "value": {}}}));
    let network = |matching: Value| spec(json!({"applyTo": "NETWORK_FILTER", "match": matching, "patch": {"operation": "REMOVE"}}));
    let sub = json!({"listener": {"filterChain": {"filter": {"name": MANAGER, "subFilter": {"name": "x"}}}}});
    let mut both = merging(json!({}));
    both["targetRefs"] = json!([{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "x"}]);
    let mut priority = merging(json!({}));
    priority["priority"] = json!("first");
    vec![
        broken(spec(json!({"patch": {"operation": "REMOVE"}})), "spec.configPatches[0].applyTo", "is missing"),
        broken(
            spec(json!({"applyTo": "INVALID", "patch": {"operation": "REMOVE"}})),
            "spec.configPatches[0].applyTo",
            "must not be INVALID",
        ),
        broken(spec(json!({"applyTo": "FILTERS", "patch": {"operation": "REMOVE"}})), "spec.configPatches[0].applyTo", "unknown value"),
        broken(spec(json!({"applyTo": "CLUSTER"})), "spec.configPatches[0].patch", "is missing"),
        broken(spec(json!({"applyTo": "CLUSTER", "patch": {"value": {}}})), "spec.configPatches[0].patch.operation", "is missing"),
        broken(
            spec(json!({"applyTo": "CLUSTER", "patch": {"operation": "JOIN", "value": {}}})),
            "spec.configPatches[0].patch.operation",
            "unknown value",
        ),
        broken(spec(json!({"applyTo": "CLUSTER", "patch": {"operation": "ADD"}})), "spec.configPatches[0].patch.value", "is missing"),
        broken(
            spec(json!({"applyTo": "CLUSTER", "patch": {"operation": "ADD", "value": []}})),
            "spec.configPatches[0].patch.value",
            "must be a map",
        ),
        broken(json!({"configPatches": {}}), "spec.configPatches", "must be a list"),
        broken(priority, "spec.priority", "must be"),
        broken(both, "spec", "only one of workloadSelector and targetRefs"),
        broken(merging(json!({"listener": {}, "cluster": {}})), "spec.configPatches[0].match", "only one of listener, cluster"),
        broken(merging(json!({"listener": {}})), "spec.configPatches[0].match.listener", "does not fit applyTo"),
        broken(network(sub), "spec.configPatches[0].match.listener.filterChain.filter.subFilter", "HTTP_FILTER only"),
        broken(
            network(json!({"listener": {"filterChain": {"filter": {}}}})),
            "spec.configPatches[0].match.listener.filterChain.filter.name",
            "is missing",
        ),
        broken(merging(json!({"proxy": {"proxyVersion": "("}})), "spec.configPatches[0].match.proxy.proxyVersion", "is no RE2 expression"),
    ]
}

/// Returns mistakes for which the patch is left out, whatever proxies there are.
fn unreadable() -> Vec<Broken> {
    let manager = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    let nested = packed(manager, json!({"http_filters": [{"name": "a"}, {"name": []}]}));
    vec![
        broken(
            spec(http("INSERT_FIRST", json!({"typed_config": packed("no.Such", json!({}))}))),
            "spec.configPatches[0].patch.value.typed_config.@type",
            "unknown type",
        ),
        broken(
            spec(http("INSERT_FIRST", json!({"typed_config": {"x": 1}}))),
            "spec.configPatches[0].patch.value.typed_config.@type",
            "is missing",
        ),
        broken(
            spec(outbound("CLUSTER", "MERGE", json!({"connect_timeout": "soon"}))),
            "spec.configPatches[0].patch.value.connect_timeout",
            "left out",
        ),
        broken(
            spec(outbound("NETWORK_FILTER", "ADD", json!({"typed_config": nested}))),
            "spec.configPatches[0].patch.value.typed_config.http_filters[1].name",
            "left out",
        ),
        broken(
            spec(http("INSERT_FIRST", json!({"name": "s", "typed_config": limit(json!({"token_bucket": {"max_tokens": "many"}}))}))),
            "spec.configPatches[0].patch.value.typed_config.value.token_bucket.max_tokens",
            "left out",
        ),
        broken(
            spec(outbound("LISTENER", "MERGE", json!({"filter_chains": {}}))),
            "spec.configPatches[0].patch.value.filter_chains",
            "left out",
        ),
    ]
}

/// Returns mistakes for which the patch is left out of what the client would be sent.
fn unsendable() -> Vec<Broken> {
    let at = "spec.configPatches[0].patch";
    let echo = packed("envoy.extensions.filters.network.echo.v3.Echo", json!({}));
    let stats = packed("udpa.type.v1.TypedStruct", json!({"type_url": "type.googleapis.com/stats.PluginConfig"}));
    let discovered = json!({"name": "absent", "config_discovery": {"config_source": {"ads": {}}, "type_urls": ["x"]}});
    let header = json!({"response_headers_to_add": [{"header": {"key": "x", "value": "%NO_SUCH%"}}]});
    let regex = json!({"match": {"safe_regex": {"regex": "("}}, "direct_response": {"status": 200}});
    let merging =
        json!({"applyTo": "NETWORK_FILTER", "match": of_manager(), "patch": {"operation": "MERGE", "value": {"typed_config": echo}}});
    let mut chain = outbound("FILTER_CHAIN", "ADD", json!({"filters": [{"name": "echo", "typed_config": echo}]}));
    chain["match"]["listener"] = json!({"name": "virtualOutbound"});
    vec![
        broken(spec(http("ADD", json!({"name": "behind", "typed_config": buffer()}))), at, "must be the last"),
        broken(spec(http("INSERT_FIRST", json!({"name": "bare"}))), at, "HTTP filter bare has no typed_config"),
        broken(spec(http("INSERT_FIRST", json!({"name": "s", "typed_config": stats}))), at, "no extension of type stats.PluginConfig"),
        broken(spec(http("INSERT_FIRST", json!({"name": "s", "typed_config": limit(json!({}))}))), at, "LocalRateLimit: stat_prefix: "),
        broken(spec(outbound("CLUSTER", "ADD", json!({"connect_timeout": "1s"}))), at, "what becomes of the cluster that it adds (name: "),
        broken(spec(http("INSERT_FIRST", discovered)), at, "adds an EXTENSION_CONFIG \"absent\""),
        broken(spec(outbound("NETWORK_FILTER", "ADD", json!({"name": "echo", "typed_config": echo}))), at, "must be the last of its chain"),
        broken(spec(merging), at, "cannot be merged with envoy.extensions.filters.network.echo.v3.Echo"),
        broken(spec(chain), at, "match the same connections"),
        broken(spec(outbound("CLUSTER", "MERGE", json!({"connect_timeout": "-1s"}))), at, "connect_timeout: must not be negative"),
        broken(spec(outbound("CLUSTER", "MERGE", json!({"name": "other"}))), at, "cannot be renamed"),
        broken(
            spec(outbound("CLUSTER", "ADD", json!({"name": "eds", "connect_timeout": "1s", "type": "EDS"}))),
            at,
            "has no eds_cluster_config",
        ),
        broken(spec(outbound("CLUSTER", "ADD", json!({"name": GOOD_CLUSTER, "connect_timeout": "1s"}))), at, "another one of this name"),
        broken(
            spec(outbound("LISTENER", "MERGE", json!({"per_connection_buffer_limit_bytes": 1, "listener_filters_timeout": "-1s"}))),
            at,
            "must not be negative",
        ),
        broken(
            spec(routes("ROUTE_CONFIGURATION", "MERGE", json!({"virtual_hosts": [{"name": "v", "domains": ["ratings"]}]}))),
            at,
            "has the domain \"ratings\"",
        ),
        broken(spec(routes("VIRTUAL_HOST", "ADD", json!({"name": "v"}))), at, "domains: is required"),
        broken(spec(routes("VIRTUAL_HOST", "MERGE", header)), at, "NO_SUCH"),
        broken(spec(routes("HTTP_ROUTE", "ADD", regex)), at, "is no RE2 expression"),
        broken(spec(routes("HTTP_ROUTE", "ADD", json!({"name": "r", "direct_response": {"status": 200}}))), at, "match: is required"),
    ]
}

fn filter(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "networking.istio.io/v1alpha3", "kind": "EnvoyFilter", "metadata": {"name": name, "namespace": "shop"}, "spec": spec})
}

/// Returns a file with all of them, and one that is right.
fn all() -> (String, Vec<(String, Broken)>) {
    let lists = [("refused", refused()), ("unreadable", unreadable()), ("unsendable", unsendable())];
    let broken: Vec<(String, Broken)> = lists
        .into_iter()
        .flat_map(|(what, list)| list.into_iter().enumerate().map(move |(at, broken)| (format!("{what}-{at}"), broken)))
        .collect();
    let good = filter("good", &spec(http("INSERT_FIRST", json!({"name": "right", "typed_config": buffer()}))));
    let objects = broken.iter().map(|(name, broken)| filter(name, &broken.spec)).chain([good]);
    (objects.map(|object| object.to_string()).collect::<Vec<_>>().join("\n---\n"), broken)
}

fn translate(text: &str) -> Output {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(GOOD_FILE), GOOD).unwrap();
    fs::write(folder.path().join(FILE), text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_istiod-lite"));
    command.args(["translate", "--proxy", "client-1.shop", "-o", "json", "-f"]).arg(folder.path()).output().unwrap()
}

#[test]
fn each_broken_filter_is_named_and_left_out_alone() {
    let (text, broken) = all();
    assert!(broken.len() > 30);
    let output = translate(&text);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    let mut unnamed = Vec::new();
    for (name, Broken { field, said: what, .. }) in &broken {
        let start = format!("error: EnvoyFilter/shop/{name} (");
        let told: Vec<&str> = said.lines().filter(|line| line.starts_with(&start)).collect();
        if !told.iter().any(|line| line.contains(&format!(") {field}: ")) && line.contains(what)) {
            unnamed.push(format!("{name}: {field}: {what}\n    {told:#?}"));
        }
    }
    assert!(unnamed.is_empty(), "not named:\n{}", unnamed.join("\n"));
    assert_eq!(said.lines().filter(|line| line.contains("EnvoyFilter/shop/good")).collect::<Vec<_>>(), [""; 0]);

    // But for the one that is right, the client has what it has without all of them.
    let good = text.rsplit("\n---\n").next().unwrap();
    let alone = translate(good);
    assert_eq!(alone.status.code(), Some(0), "{}", String::from_utf8_lossy(&alone.stderr));
    let sent = |output: &[u8]| serde_json::from_slice::<Value>(output).unwrap();
    assert_eq!(sent(&output.stdout), sent(&alone.stdout));
    assert!(String::from_utf8(alone.stdout).unwrap().contains("\"right\""));
}

#[tokio::test]
async fn broken_filters_keep_no_change_of_others_back() {
    let plane = ControlPlane::start().await;
    let (text, broken) = all();
    plane.write(FILE, &text);
    wait::until("the findings about filters", START, || async {
        let found = plane.findings().await?;
        for (name, _) in broken.iter().filter(|(name, _)| !name.starts_with("unsendable")) {
            anyhow::ensure!(found.iter().any(|finding| finding.contains(&format!("EnvoyFilter/shop/{name} "))), "{name}: {found:?}");
        }
        Ok(())
    })
    .await
    .unwrap();
    let added = "apiVersion: v1\nkind: Service\nmetadata: {name: added, namespace: shop}\n\
                 spec: {clusterIP: 10.96.0.3, ports: [{name: http, port: 80}]}\n";
    plane.write("added.yaml", added);
    wait::until("the added service", START, || async {
        anyhow::ensure!(plane.clusters().await.iter().any(|name| name == "outbound|80||added.shop.svc.cluster.local"));
        Ok(())
    })
    .await
    .unwrap();
}

//! EnvoyFilters in real Envoys: scripts, settings of connection managers and rate limits, which come, change and go under load, and
//! one that Envoy would not take.

mod rate_limits;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::{Result, ensure};
use axum::{Router, routing::get as on_get};
use harness::{
    address::Loopback,
    http_client::{get, get_text},
    manifest::with_weights,
    mesh::{CONVERGE, MESH_HOST, Mesh, VIRTUAL_SERVICE, VIRTUAL_SERVICE_FILE},
    wait,
};
use tokio::net::TcpListener;

use crate::{
    mesh::{Measured, start, turn},
    topology::{Gateway, client_seen, gateway_at},
};

const FILE: &str = "filters.yaml";

/// Returns an EnvoyFilter for pods of an app, with these patches.
fn filter(name: &str, app: &str, patches: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1alpha3\nkind: EnvoyFilter\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec:\n  workloadSelector: {{labels: {{app: {app}}}}}\n  configPatches:\n{patches}"
    )
}

/// Returns a patch that puts a script before the router.
fn script(context: &str, code: &str) -> String {
    format!(
        "  - applyTo: HTTP_FILTER
    match:
      context: {context}
      listener:
        portNumber: 9080
        filterChain: {{filter: {{name: envoy.filters.network.http_connection_manager, subFilter: {{name: envoy.filters.http.router}}}}}}
    patch:
      operation: INSERT_BEFORE
      value:
        name: envoy.filters.http.lua
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua
          default_source_code: {{inline_string: '{code}'}}
"
    )
}

/// Returns code that has responses say something.
fn says(what: &str) -> String {
    format!("function envoy_on_response(handle) handle:headers():add(\"x-script\", \"{what}\") end")
}

/// Returns code that asks somebody else before it says something.
fn asks_and_says(what: &str) -> String {
    let ask = "handle:httpCall(\"lua_cluster\", {[\":method\"]=\"GET\", [\":path\"]=\"/\", [\":authority\"]=\"lua\"}, \"\", 2000)";
    format!("function envoy_on_request(handle) {ask} end {}", says(what))
}

/// Returns a patch that adds a cluster with one address.
fn cluster(at: SocketAddr) -> String {
    let (address, port) = (at.ip(), at.port());
    format!(
        "  - applyTo: CLUSTER
    match: {{context: SIDECAR_OUTBOUND}}
    patch:
      operation: ADD
      value:
        name: lua_cluster
        type: STRICT_DNS
        connect_timeout: 0.5s
        lb_policy: ROUND_ROBIN
        load_assignment:
          cluster_name: lua_cluster
          endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: {address}, port_value: {port}}}}}}}}}]}}]
"
    )
}

/// Counts who asks.
async fn asked(at: SocketAddr) -> Result<Arc<AtomicUsize>> {
    let count = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&count);
    let router = Router::new().route("/", on_get(async move || _ = counted.fetch_add(1, Ordering::SeqCst)));
    let listener = TcpListener::bind(at).await?;
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(count)
}

/// Asks `reviews` from inside the mesh until the answer says this in its header; empty: nothing.
async fn until_said(mesh: &Mesh, what: &str) -> Result<()> {
    let client = mesh.paths()[1].target;
    wait::until(&format!("the script to say {what:?}"), CONVERGE, || async {
        let response = get(client, MESH_HOST, "/").await?;
        ensure!(response.status == 200 && response.header("x-script") == what, "{} {:?}", response.status, response.headers);
        Ok(())
    })
    .await
}

async fn until_told(mesh: &Mesh, page: &str, what: &[&str]) -> Result<()> {
    let monitoring = mesh.monitoring();
    wait::until(&format!("{what:?} on {page}"), CONVERGE, || async {
        let told = get_text(monitoring, page).await?;
        ensure!(told.lines().any(|line| what.iter().all(|what| line.contains(what))), "{told}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_and_its_cluster_come_change_and_go_under_load() -> Result<()> {
    let _turn = turn().await?;
    for delta in [true, false] {
        let mut mesh = start("1.40", delta).await?;
        let at = mesh.network().socket(9, 8888);
        let asked = asked(at).await?;
        let written = |what: &str| filter("reviews-lua", "reviews", &(script("SIDECAR_INBOUND", &asks_and_says(what)) + &cluster(at)));
        let measured = Measured::start(&mesh, 50).await?;
        mesh.manifests().write(FILE, &written("one"))?;
        until_said(&mesh, "one").await?;
        ensure!(asked.load(Ordering::SeqCst) > 0, "the script has not called its cluster");
        mesh.manifests().write(FILE, &written("two"))?;
        until_said(&mesh, "two").await?;
        let mut has_cluster = BTreeMap::new();
        for proxy in mesh.proxies() {
            has_cluster.insert(proxy.pod().name, proxy.admin().config_dump().await?.to_string().contains("lua_cluster"));
        }
        let expected = [("gateway-1", false), ("client-1", false), ("reviews-v1-1", true), ("reviews-v2-1", true)];
        ensure!(has_cluster == BTreeMap::from(expected), "{has_cluster:?}");
        mesh.manifests().remove(FILE)?;
        until_said(&mesh, "").await?;
        measured.expect_no_failures(&mut mesh).await?;
    }
    Ok(())
}

/// Moves all traffic to v2, which is a change of another object for the proxies that have the broken filter, too.
async fn others_go_on(mesh: &Mesh) -> Result<()> {
    let text = with_weights(&mesh.manifests().read(VIRTUAL_SERVICE_FILE)?, 0, 100);
    mesh.apply(VIRTUAL_SERVICE_FILE, &text, VIRTUAL_SERVICE).await?;
    for path in mesh.paths() {
        wait::until(&format!("v2 through {}", path.name), CONVERGE, || async {
            let response = get(path.target, &path.host, "/").await?;
            ensure!(response.status == 200 && response.header("x-version") == "v2", "{} {:?}", response.status, response.headers);
            Ok(())
        })
        .await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_filters_are_named_while_traffic_and_other_changes_go_on() -> Result<()> {
    let _turn = turn().await?;
    let mut mesh = start("1.40", true).await?;
    let good = filter("good", "client", &script("SIDECAR_OUTBOUND", &says("good")));
    mesh.manifests().write(FILE, &good)?;
    until_said(&mesh, "good").await?;
    let measured = Measured::start(&mesh, 50).await?;

    // What Envoy would refuse by its rules is not sent to it.
    let behind = script("SIDECAR_OUTBOUND", &says("behind")).replace("INSERT_BEFORE", "INSERT_AFTER");
    mesh.manifests().write("behind.yaml", &filter("behind", "client", &behind))?;
    until_told(&mesh, "/debug/diagnostics", &["EnvoyFilter/shop/behind", "spec.configPatches[0].patch", "must be the last"]).await?;
    until_said(&mesh, "good").await?;
    // What is no message is not even tried.
    let code = "          default_source_code";
    let unreadable = script("SIDECAR_OUTBOUND", &says("unreadable")).replace(code, &format!("          stat_prefix: []\n{code}"));
    mesh.manifests().write("unreadable.yaml", &filter("unreadable", "client", &unreadable))?;
    let field = "spec.configPatches[0].patch.value.typed_config.stat_prefix";
    until_told(&mesh, "/debug/diagnostics", &["EnvoyFilter/shop/unreadable", field]).await?;
    until_said(&mesh, "good").await?;
    // What only Envoy can judge it refuses, and keeps what it has of that listener.
    mesh.manifests().write("refused.yaml", &filter("refused", "client", &script("SIDECAR_OUTBOUND", "function broken(")))?;
    until_told(&mesh, "/debug/syncz", &["EnvoyFilter/shop/refused"]).await?;
    until_said(&mesh, "good").await?;
    others_go_on(&mesh).await?;
    until_said(&mesh, "good").await?;
    mesh.manifests().remove("refused.yaml")?;

    // What an object said before stays where its new content is broken.
    mesh.manifests().write(FILE, &good.replace("INSERT_BEFORE", "INSERT_AFTER"))?;
    until_told(&mesh, "/debug/diagnostics", &["EnvoyFilter/shop/good", "what the object said before stays there"]).await?;
    until_said(&mesh, "good").await?;
    mesh.manifests().write(FILE, &good.replace("\"good\"", "\"better\""))?;
    until_said(&mesh, "better").await?;
    measured.expect_no_failures(&mut mesh).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_of_the_connection_manager_are_merged() -> Result<()> {
    let _turn = turn().await?;
    let network = Loopback::free()?;
    let target = network.socket(2, 8080);
    for (settings, expected) in
        [("", "127.0.0.1"), ("xff_num_trusted_hops: 1", "198.51.100.2"), ("xff_num_trusted_hops: 2, server_name: merged", "198.51.100.1")]
    {
        let gateway = Gateway::start(target, &behind_proxies(target, settings)).await?;
        let client = client_seen(target, false).await?;
        ensure!(client.as_deref() == Some(expected), "{settings:?}: {client:?}, wanted {expected}");
        let said = get(target, "shop.example.com", "/").await?;
        let server = if settings.contains("server_name") { "merged" } else { "istio-envoy" };
        ensure!(said.header("server") == server, "{settings:?}: {:?}", said.headers);
        drop(gateway);
    }
    Ok(())
}

/// Returns the objects of a gateway whose connection manager is changed so, and which tells clients whom it takes them for.
fn behind_proxies(target: SocketAddr, settings: &str) -> String {
    let manager = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    gateway_at(target, "gatewayTopology: {}")
        + &format!(
            "\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: shop, namespace: edge}}
spec:
  hosts: [shop.example.com]
  gateways: [public]
  http: [{{directResponse: {{status: 200}}, headers: {{response: {{set: {{x-client: '%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%'}}}}}}}}]
---
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {{name: xff, namespace: edge}}
spec:
  workloadSelector: {{labels: {{istio: ingressgateway}}}}
  configPatches:
  - applyTo: NETWORK_FILTER
    match: {{context: GATEWAY, listener: {{filterChain: {{filter: {{name: envoy.filters.network.http_connection_manager}}}}}}}}
    patch:
      operation: MERGE
      value:
        name: envoy.filters.network.http_connection_manager
        typed_config: {{'@type': type.googleapis.com/{manager}, {settings}}}
"
        )
}

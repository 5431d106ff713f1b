//! `istiod-lite translate`: what it says, what it prints all the same, and its exit status.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use harness::mistakes::virtual_service;
use serde_json::Value;
use tempfile::TempDir;

use super::cases::{self, FILE, GOOD, GOOD_CLUSTER, GOOD_FILE, RIVAL_FINDING, RIVAL_GATEWAYS, TAKEN_PORT, TAKEN_PORT_FINDING};

fn folder(good: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(GOOD_FILE), good).unwrap();
    folder
}

fn translate(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_istiod-lite"));
    command.args(["translate", "-f"]).arg(folder).args(arguments).output().unwrap()
}

/// Returns what was said, with the files named from the folder.
fn said(output: &Output, folder: &Path) -> Vec<String> {
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    said.replace(&format!("{}/", folder.display()), "").lines().map(str::to_owned).collect()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stdout)))
}

#[test]
fn each_mistake_is_named_and_the_rest_is_printed() {
    for case in cases::all() {
        let folder = folder(GOOD);
        case.put_into(folder.path());
        let output = translate(folder.path(), &["--proxy", "client-1.shop", "--type", "cds", "-o", "json"]);
        assert_eq!(said(&output, folder.path()), case.findings, "{}", case.name);
        assert_eq!(output.status.code(), Some(if case.refuses() { 2 } else { 0 }), "{}", case.name);
        assert!(json(&output)["cds"][GOOD_CLUSTER].is_object(), "{}", case.name);
    }
}

#[test]
fn what_a_refused_object_closes_stays_closed() {
    let folder = folder(GOOD);
    let of = |yaml: &str, arguments: &[&str]| {
        fs::write(folder.path().join(FILE), yaml).unwrap();
        json(&translate(folder.path(), &[&["--proxy", "client-1.shop", "-o", "json"], arguments].concat()))
    };
    let object = |kind: &str, group: &str, spec: &str| {
        format!("apiVersion: {group}.istio.io/v1\nkind: {kind}\nmetadata: {{name: bad, namespace: shop}}\nspec: {spec}\n")
    };
    let rule = |policy: &str| object("DestinationRule", "networking", &format!("{{host: ratings, trafficPolicy: {{{policy}}}}}"));
    let cluster = |yaml: &str| of(yaml, &["--type", "cds"])["cds"][GOOD_CLUSTER].clone();

    let closed = cluster(&rule("tls: {mode: MUTUAL}"));
    assert_eq!(closed["type"], "STATIC", "without endpoints: {closed}");
    assert!(closed["load_assignment"]["endpoints"].as_array().is_none_or(Vec::is_empty), "{closed}");
    let kept = cluster(&rule("tls: {mode: SIMPLE, sni: a.example.com}, loadBalancer: {simple: RUOND_ROBIN}"));
    assert_eq!((&kept["type"], &kept["transport_socket"]["typed_config"]["sni"]), (&"EDS".into(), &"a.example.com".into()), "{kept}");
    let untouched = cluster(&rule("loadBalancer: {simple: RUOND_ROBIN}"));
    assert_eq!(untouched, cluster("# nothing\n"), "a rule without TLS takes nothing down");

    let extension = |spec: &str| {
        let yaml = object("WasmPlugin", "extensions", spec).replace("/v1\n", "/v1alpha1\n");
        let name = "extensions.istio.io/trafficextension/shop.bad~istio-translated-wasmplugin";
        of(&yaml, &["--type", "ecds"])["ecds"][name]["typed_config"]["rules_stat_prefix"].clone()
    };
    assert_eq!(extension("{url: 'ftp://a/b'}"), "wasm-default-deny");
    assert_eq!(extension("{url: 'ftp://a/b', failStrategy: FAIL_OPEN}"), Value::Null);

    let chains = |yaml: &str| of(yaml, &["--type", "lds"])["lds"]["virtualInbound"]["filter_chains"].clone();
    let strict = |mode: &str| chains(&object("PeerAuthentication", "security", &format!("{{mtls: {{mode: {mode}}}}}")));
    assert_eq!(strict("STRCT"), strict("STRICT"));
    assert_ne!(strict("STRCT"), strict("PERMISSIVE"));

    let lets_out = |mode: &str| {
        let sidecar = object("Sidecar", "networking", &format!("{{outboundTrafficPolicy: {{mode: {mode}}}}}"));
        of(&sidecar, &["--type", "lds"])["lds"]["virtualOutbound"].to_string().contains("PassthroughCluster")
    };
    assert!(lets_out("ALLOW_ANY") && !lets_out("REGISTRY_ONYL"));

    let mesh_lets_out = |mesh: &str| {
        let map =
            format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata: {{mesh: '{mesh}'}}\n");
        of(&map, &["--type", "lds"])["lds"]["virtualOutbound"].to_string().contains("PassthroughCluster")
    };
    assert!(mesh_lets_out("{connectTimeout: soon}"), "it asks for nothing that closes");
    for closed in
        ["{outboundTrafficPolicy: {mode: REGISTRY_ONLY}, connectTimeout: soon}", "{outboundTrafficPolicy: {mode: REGISTRY_ONYL}}", "{"]
    {
        assert!(!mesh_lets_out(closed), "{closed}");
    }
}

#[test]
fn without_a_result_the_status_is_1() {
    let folder = folder(GOOD);
    for (proxy, reason) in [
        ("nobody.shop", "error: --proxy: there is no Pod nobody in namespace shop; there are: client-1.shop, gateway-1.shop"),
        ("nobody", "error: --proxy: write NAME.NAMESPACE"),
    ] {
        let output = translate(folder.path(), &["--proxy", proxy]);
        assert_eq!((output.status.code(), said(&output, folder.path())), (Some(1), vec![reason.to_owned()]));
        assert!(output.stdout.is_empty());
    }
    let missing = folder.path().join("missing");
    let output = translate(&missing, &["--proxy", "client-1.shop"]);
    assert_eq!(output.status.code(), Some(1));
    let said = said(&output, folder.path());
    assert_eq!(said[0], "error: (missing): cannot be read: there is no such file or folder; check the path");
}

#[test]
fn a_path_that_is_missing_does_not_hide_the_others() {
    let folder = folder(GOOD);
    let good = folder.path().join(GOOD_FILE);
    let output = translate(&folder.path().join("missing"), &[good.to_str().unwrap(), "--proxy", "client-1.shop", "-o", "json"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(json(&output)["cds"][GOOD_CLUSTER].is_object());
}

#[test]
fn types_and_forms_are_as_asked() {
    let folder = folder(GOOD);
    for kind in ["lds", "rds", "cds", "eds", "ecds"] {
        let output = translate(folder.path(), &["--proxy", "client-1.shop", "--type", kind]);
        assert_eq!(output.status.code(), Some(0));
        let yaml: Value = serde_norway::from_slice(&output.stdout).unwrap();
        assert_eq!(yaml.as_object().unwrap().keys().collect::<Vec<_>>(), [kind]);
        let output = translate(folder.path(), &["--proxy", "client-1.shop", "--type", kind, "-o", "json"]);
        assert_eq!(json(&output), yaml);
    }
    let all = json(&translate(folder.path(), &["--proxy", "client-1.shop", "-o", "json"]));
    assert_eq!(all.as_object().unwrap().len(), 5);
}

#[test]
fn a_server_without_a_listener_is_named_to_its_gateway() {
    let folder = folder(GOOD);
    fs::write(folder.path().join(FILE), RIVAL_GATEWAYS).unwrap();
    let output = translate(folder.path(), &["--proxy", "gateway-1.shop", "-o", "json"]);
    assert_eq!(said(&output, folder.path()), [RIVAL_FINDING]);
    assert_eq!(output.status.code(), Some(0));
    assert!(json(&output)["lds"]["0.0.0.0_8080"].is_object());
    let client = translate(folder.path(), &["--proxy", "client-1.shop"]);
    assert_eq!(said(&client, folder.path()), [""; 0]);
}

#[test]
fn a_port_of_the_proxy_is_named_to_its_service() {
    let folder = folder(GOOD);
    fs::write(folder.path().join(FILE), TAKEN_PORT).unwrap();
    let output = translate(folder.path(), &["--proxy", "client-1.shop", "--type", "lds", "-o", "json"]);
    assert_eq!(said(&output, folder.path()), [TAKEN_PORT_FINDING]);
    let listeners = json(&output)["lds"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(listeners, ["0.0.0.0_8080", "0.0.0.0_9080", "virtualInbound", "virtualOutbound"]);
}

#[test]
fn five_thousand_routes_are_five_thousand_routes() {
    let routes = |index| format!("{{match: [{{uri: {{exact: /{index}}}}}], route: [{{destination: {{host: ratings}}}}]}}");
    let folder = folder(GOOD);
    fs::write(folder.path().join(FILE), virtual_service(&(0..5_000).map(routes).collect::<Vec<_>>().join(", "))).unwrap();
    let output = translate(folder.path(), &["--proxy", "client-1.shop", "--type", "rds", "-o", "json"]);
    assert_eq!((output.status.code(), said(&output, folder.path())), (Some(0), vec![]));
    let shown = json(&output);
    let hosts = shown["rds"]["9080"]["virtual_hosts"].as_array().unwrap();
    assert!(hosts.iter().any(|host| host["routes"].as_array().is_some_and(|routes| routes.len() == 5_000)));
}

#[test]
fn envoy_accepts_the_bootstrap_whatever_was_refused() {
    let envoy = harness::tools::envoy("1.40").unwrap();
    for case in cases::all() {
        let folder = folder(GOOD);
        case.put_into(folder.path());
        for proxy in ["client-1.shop", "gateway-1.shop"] {
            let output = translate(folder.path(), &["--proxy", proxy, "--bootstrap"]);
            let file = folder.path().join(".bootstrap.yaml");
            fs::write(&file, &output.stdout).unwrap();
            let validated = Command::new(&envoy).args(["--mode", "validate", "-l", "error", "-c"]).arg(&file).output().unwrap();
            let reason = String::from_utf8_lossy(&validated.stderr);
            assert!(validated.status.success(), "{}, {proxy}: {reason}", case.name);
        }
    }
}

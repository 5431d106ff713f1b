//! `istiod-lite translate` takes a pod's proxy for what the proxy says it is: the agent, run as the injected pod says, writes the same
//! node into Envoy's bootstrap.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

const MESH: &str =
    "trustDomain: example.org\ndefaultConfig: {proxyMetadata: {ISTIO_META_IDLE_TIMEOUT: 7s}, terminationDrainDuration: 9s}\n";

/// Returns pods that differ in what their proxies say.
fn pods() -> Vec<Value> {
    let pod = |name: &str, metadata: Value, spec: Value| {
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "shop", "labels": {"app": name}},
            "spec": {"nodeName": "node-1", "containers": [{"name": "app", "ports": [{"name": "http", "containerPort": 8080}, {"containerPort": 9}]}]},
            "status": {"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "hostIP": "10.9.9.9"},
        });
        json_patch::merge(&mut pod, &json!({"metadata": metadata, "spec": spec}));
        pod
    };
    let owner = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-7d9f", "uid": "u", "controller": true}]);
    let annotated = |annotations: Value| json!({"annotations": annotations});
    vec![
        pod("plain", json!({}), json!({})),
        pod(
            "owned",
            json!({"ownerReferences": owner, "labels": {"pod-template-hash": "7d9f", "app": null}}),
            json!({"serviceAccountName": "web"}),
        ),
        pod(
            "labelled",
            json!({"labels": {"topology.istio.io/network": "west", "topology.istio.io/locality": "r.z", "istio.io/rev": "canary",
            "service.istio.io/canonical-name": "c", "service.istio.io/workload-name": "w", "version": "v1"}}),
            json!({}),
        ),
        pod(
            "uncaptured",
            annotated(json!({"sidecar.istio.io/interceptionMode": "NONE", "traffic.sidecar.istio.io/excludeInboundPorts": "9"})),
            json!({}),
        ),
        pod(
            "configured",
            annotated(json!({"proxy.istio.io/config": "concurrency: 7\nproxyMetadata: {ISTIO_META_HTTP10: \"1\"}\nstatusPort: 16020"})),
            json!({}),
        ),
        pod(
            "limited",
            annotated(json!({"sidecar.istio.io/proxyCPULimit": "2500m", "sidecar.istio.io/discoveryAddress": "istiod.x:15012"})),
            json!({}),
        ),
        pod("edge", annotated(json!({"inject.istio.io/templates": "gateway"})), json!({})),
    ]
}

#[test]
fn translate_knows_what_the_proxy_of_a_pod_says_of_itself() -> Result<()> {
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join("mesh.yaml"), MESH)?;
    for (index, pod) in pods().into_iter().enumerate() {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let injected: Value = serde_norway::from_str(&run(folder.path(), &["inject", "-f", "-"], &pod)?)?;
        let said = said_by_agent(&folder.path().join(&name), &injected, u8::try_from(index)?)?;
        for (what, pod) in [("as it is written", &pod), ("as it is injected", &injected)] {
            fs::write(folder.path().join("pod.json"), pod.to_string())?;
            let arguments = ["translate", "-f", "pod.json", "--proxy", &format!("{name}.shop"), "--node", "-o", "json"];
            let translated: Value = serde_json::from_str(&run(folder.path(), &arguments, &Value::Null)?)?;
            assert_eq!(translated, said, "{name}, {what}");
        }
    }
    Ok(())
}

fn run(folder: &Path, arguments: &[&str], input: &Value) -> Result<String> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_istiod-lite"))
        .args(arguments)
        .args(["--meshConfig", "mesh.yaml", "--clusterID", "c1", "--domain", "example.org"])
        .current_dir(folder)
        .env_clear()
        // What this process says of itself is not the pod's.
        .envs([("POD_NAME", "other"), ("ISTIO_META_NETWORK", "other"), ("ISTIO_META_HTTP10", "other")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    child.stdin.take().context("stdin")?.write_all(input.to_string().as_bytes())?;
    let output = child.wait_with_output()?;
    anyhow::ensure!(output.status.success(), "{arguments:?}: {}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}

/// Runs the agent as a kubelet would, and returns the node in the bootstrap that it writes. Its Envoy ends at once.
fn said_by_agent(folder: &Path, pod: &Value, index: u8) -> Result<Value> {
    fs::create_dir(folder)?;
    let containers = ["initContainers", "containers"].into_iter().filter_map(|list| pod["spec"][list].as_array()).flatten();
    let proxy = containers.into_iter().find(|container| container["name"] == "istio-proxy").context("a proxy")?;
    let mut arguments: Vec<String> =
        proxy["args"].as_array().context("args")?.iter().filter_map(|argument| argument.as_str().map(str::to_owned)).collect();
    for (flag, file) in [("--work-dir", "run"), ("--labels-file", "labels")] {
        let at = arguments.iter().position(|argument| argument == flag).context(flag)?;
        arguments[at + 1] = folder.join(file).display().to_string();
    }
    for map in ["labels", "annotations"] {
        let lines = pod["metadata"][map].as_object().into_iter().flatten().map(|(key, value)| format!("{key}={value}\n"));
        fs::write(folder.join(map), lines.collect::<String>())?;
    }
    let written = proxy["env"].as_array().context("env")?.iter();
    let variables: BTreeMap<&str, String> =
        written.filter_map(|variable| Some((variable["name"].as_str()?, value(pod, proxy, variable)?))).collect();
    let status = Command::new(env!("CARGO_BIN_EXE_istiod-lite"))
        .args(&arguments)
        .arg("--annotations-file")
        .arg(folder.join("annotations"))
        .args(["--envoy", "/bin/true", "--listen-address", &format!("127.91.{}.{}", std::process::id() % 200, index + 1)])
        .env_clear()
        .envs(variables)
        .stderr(Stdio::null())
        .status()?;
    let bootstrap = fs::read_to_string(folder.join("run/bootstrap.json")).with_context(|| format!("the agent ended with {status}"))?;
    Ok(serde_json::from_str::<Value>(&bootstrap)?["node"].clone())
}

fn value(pod: &Value, proxy: &Value, variable: &Value) -> Option<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    match variable["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
        Some("status.podIPs") => Some("10.0.0.1,fd00::1".to_owned()),
        Some("spec.serviceAccountName") => Some(pod["spec"]["serviceAccountName"].as_str().unwrap_or("default").to_owned()),
        Some(path) => Some(text(path.split('.').fold(pod, |at, name| &at[name]))),
        None if variable["valueFrom"].is_object() => match proxy["resources"]["limits"]["cpu"].as_str() {
            Some("2500m") => Some("3".to_owned()),
            Some("2") | Some("2000m") => Some("2".to_owned()),
            other => other.map(str::to_owned),
        },
        None => Some(text(&variable["value"])),
    }
}

//! What Prometheus is told to scrape is what pods and Services have.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{text, yaml};

#[test]
fn the_monitors_find_what_is_installed() {
    let (monitor, service) = (yaml("manifests/observability/service-monitor.yaml"), yaml("manifests/base/service.yaml"));
    for (label, value) in monitor["spec"]["selector"]["matchLabels"].as_object().unwrap() {
        assert_eq!(&service["metadata"]["labels"][label], value);
    }
    let ports = service["spec"]["ports"].as_array().unwrap();
    assert!(ports.iter().any(|port| port["name"] == monitor["spec"]["endpoints"][0]["port"]), "{ports:?}");
    // Istio's dashboards select by it.
    assert_eq!((&monitor["spec"]["targetLabels"][0], &service["metadata"]["labels"]["app"]), (&json!("app"), &json!("istiod")));

    let pods = yaml("manifests/observability/pod-monitor.yaml");
    let endpoint = &pods["spec"]["podMetricsEndpoints"][0];
    let injected = text("tests/inject/deployment/out.yaml");
    let (port, path) = (annotation(&injected, "port"), annotation(&injected, "path"));
    assert_eq!(endpoint["path"], path);
    let relabelings = endpoint["relabelings"].as_array().unwrap();
    let addresses: Vec<&Value> = relabelings.iter().filter(|rule| rule["targetLabel"] == "__address__").collect();
    assert_eq!(addresses.len(), 2, "IPv4 and IPv6");
    assert!(addresses.iter().all(|rule| rule["replacement"].as_str().unwrap().ends_with(&format!(":{port}"))), "{addresses:?}");
    let (container, name) = relabelings[0]["regex"].as_str().unwrap().split_once(';').unwrap();
    assert!(injected.contains(&format!("name: {container}\n")) && injected.contains(&format!("name: {name}\n")), "{container} {name}");
}

#[test]
fn the_folder_says_what_is_in_it() {
    let folder = yaml("manifests/observability/kustomization.yaml");
    let mut named: BTreeSet<String> =
        folder["resources"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect();
    let dashboard = folder["configMapGenerator"][0]["files"][0].as_str().unwrap();
    named.insert(dashboard.split_once('=').unwrap().1.to_owned());
    named.extend(["kustomization.yaml", "aks"].map(str::to_owned));
    let entries = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/manifests/observability")).unwrap();
    let there: BTreeSet<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(named, there);
    for (file, kind) in [("alerts", "PrometheusRule"), ("pod-monitor", "PodMonitor"), ("service-monitor", "ServiceMonitor")] {
        let object = yaml(&format!("manifests/observability/{file}.yaml"));
        assert_eq!((&object["apiVersion"], &object["kind"]), (&json!("monitoring.coreos.com/v1"), &json!(kind)));
    }
    let settings = yaml("manifests/observability/aks/settings.yaml");
    assert_eq!(
        (&settings["metadata"]["name"], &settings["metadata"]["namespace"]),
        (&json!("ama-metrics-settings-configmap"), &json!("kube-system"))
    );
    assert!(settings["data"]["pod-annotation-based-scraping"].as_str().unwrap().contains("podannotationnamespaceregex = \""));
}

fn annotation<'t>(injected: &'t str, name: &str) -> &'t str {
    let line = injected.lines().find_map(|line| line.trim().strip_prefix(&format!("prometheus.io/{name}: ")));
    line.unwrap_or_else(|| panic!("no annotation {name}")).trim_matches('\'')
}

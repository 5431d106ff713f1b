//! What a pod tells its proxy besides flags: node metadata and settings in environment variables (contract §2.5, §5.4), and labels
//! and annotations in files of the downward API.

use std::{collections::BTreeMap, env, fs, net::IpAddr, path::Path};

use anyhow::Context;
use serde_json::{Map, Value};

use crate::{
    agent::application::{Probers, Scrape},
    api::{Severity, parse_proxy_config, proxy_config::ProxyConfig},
};

/// Where the injector mounts the downward API's files.
const POD_INFO: &str = "/etc/istio/pod";

/// The variables that the agent reads, by name.
#[derive(Debug, Default)]
pub(super) struct Environment(pub(super) BTreeMap<String, String>);

/// What the downward API tells of the pod.
#[derive(Debug, Default)]
pub(crate) struct PodInfo {
    /// Its labels.
    pub(crate) labels: BTreeMap<String, String>,
    /// Its annotations.
    pub(crate) annotations: BTreeMap<String, String>,
}

impl Environment {
    pub(super) fn of_this_process() -> anyhow::Result<Self> {
        let variables = env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)));
        Ok(Self(variables.collect()))
    }

    /// Reads the node's metadata: `ISTIO_META_X` is text under `X`, `ISTIO_METAJSON_X` is JSON under `X` (contract §2.5).
    pub(super) fn metadata(&self) -> anyhow::Result<BTreeMap<String, Value>> {
        let mut metadata = BTreeMap::new();
        for (variable, value) in &self.0 {
            if let Some(key) = variable.strip_prefix("ISTIO_METAJSON_") {
                let json = serde_json::from_str(value).with_context(|| format!("{variable} is not JSON"))?;
                metadata.insert(key.to_owned(), json);
            } else if let Some(key) = variable.strip_prefix("ISTIO_META_").filter(|_| !has_flag(variable)) {
                metadata.insert(key.to_owned(), Value::String(value.clone()));
            }
        }
        Ok(metadata)
    }

    /// Reads `PROXY_CONFIG`, which the injector writes as JSON: all fields, and those that have an effect here.
    pub(super) fn proxy_config(&self) -> anyhow::Result<(Map<String, Value>, ProxyConfig)> {
        let fields: Map<String, Value> = match self.variable("PROXY_CONFIG") {
            Some(text) => serde_json::from_str(text).context("PROXY_CONFIG is no JSON object")?,
            None => Map::new(),
        };
        let document = Value::Object(fields.clone());
        let (config, _) = parse_proxy_config(&document).map_err(|found| {
            let errors = found.iter().filter(|finding| finding.severity == Severity::Error);
            let errors: Vec<String> = errors.map(|error| format!("PROXY_CONFIG.{}: {}", error.field, error.message)).collect();
            anyhow::anyhow!("{}", errors.join("; "))
        })?;
        Ok((fields, config))
    }

    /// Reads `ISTIO_CPU_LIMIT`: how many CPUs the container may use, rounded up by the kubelet.
    pub(super) fn cpu_limit(&self) -> Option<u32> {
        self.variable("ISTIO_CPU_LIMIT")?.parse().ok().filter(|limit| *limit > 0)
    }

    /// Returns whether this is a pod of Kubernetes.
    pub(super) fn in_a_pod(&self) -> bool {
        self.variable("KUBERNETES_SERVICE_HOST").is_some()
    }

    /// Reads `INSTANCE_IP`, for pods whose injector does not write all addresses.
    pub(super) fn instance_ip(&self) -> anyhow::Result<Option<IpAddr>> {
        self.variable("INSTANCE_IP").map(|text| text.parse().with_context(|| format!("INSTANCE_IP: {text:?}"))).transpose()
    }

    /// Returns whether `ISTIO_DELTA_XDS` asks for delta xDS, which is the default.
    pub(super) fn delta(&self) -> bool {
        self.variable("ISTIO_DELTA_XDS") != Some("false")
    }

    /// Reads `ISTIO_KUBE_APP_PROBERS`: the probes of the application that the kubelet sends to the agent instead.
    pub(super) fn probers(&self) -> anyhow::Result<Probers> {
        let text = self.variable("ISTIO_KUBE_APP_PROBERS").unwrap_or("{}");
        serde_json::from_str(text).context("ISTIO_KUBE_APP_PROBERS")
    }

    /// Reads `ISTIO_PROMETHEUS_ANNOTATIONS`: where the application's metrics are; `None` if it has none to scrape.
    pub(super) fn scrape(&self) -> anyhow::Result<Option<Scrape>> {
        let Some(text) = self.variable("ISTIO_PROMETHEUS_ANNOTATIONS") else { return Ok(None) };
        Scrape::parse(text).map_err(|reason| anyhow::anyhow!("ISTIO_PROMETHEUS_ANNOTATIONS: {reason}"))
    }

    /// Reads `WASM_INSECURE_REGISTRIES`: where modules may be fetched from without TLS.
    pub(super) fn plain_registries(&self) -> Vec<String> {
        let listed = self.variable("WASM_INSECURE_REGISTRIES").unwrap_or_default().split(',').map(str::trim);
        listed.filter(|registry| !registry.is_empty()).map(str::to_owned).collect()
    }

    /// Returns the value of a variable that is set and not empty.
    fn variable(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}

// === impl PodInfo ===

impl PodInfo {
    /// Reads the files of the downward API that flags name, or else the usual ones if they are there.
    pub(super) fn read(labels: Option<&Path>, annotations: Option<&Path>) -> anyhow::Result<Self> {
        Ok(Self { labels: pod_info(labels, "labels")?, annotations: pod_info(annotations, "annotations")? })
    }
}

/// Reads the `key="value"` lines of a file.
fn pod_info(flag: Option<&Path>, usual: &str) -> anyhow::Result<BTreeMap<String, String>> {
    let path = match flag {
        Some(path) => path.to_owned(),
        None => match Path::new(POD_INFO).join(usual) {
            path if path.is_file() => path,
            _ => return Ok(BTreeMap::new()),
        },
    };
    Ok(parse_lines(&fs::read_to_string(&path).with_context(|| path.display().to_string())?))
}

/// Returns whether an annotation is Istio's, and not one that the injector left for itself. Others may be large (the manifest
/// that was applied last), and nobody asks a proxy for them.
pub(super) fn concerns_the_proxy(annotation: &str) -> bool {
    const LEFT_BY_INJECTION: [&str; 2] = ["sidecar.istio.io/status", "proxy.istio.io/overrides"];
    let domain = annotation.split_once('/').map_or("", |(domain, _)| domain);
    (domain == "istio.io" || domain.ends_with(".istio.io")) && !LEFT_BY_INJECTION.contains(&annotation)
}

/// Reads lines whose values are quoted as in Go, which is nearly always JSON, too.
fn parse_lines(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().filter_map(|line| line.trim().split_once('='));
    lines.map(|(key, value)| (key.to_owned(), serde_json::from_str(value).unwrap_or_else(|_| value.to_owned()))).collect()
}

/// Returns whether a flag reads the variable as well: then the flag decides.
fn has_flag(variable: &str) -> bool {
    ["WORKLOAD_NAME", "INTERCEPTION_MODE", "CLUSTER_ID", "MESH_ID", "NODE_NAME", "NETWORK"]
        .iter()
        .any(|key| variable.strip_prefix("ISTIO_META_") == Some(key))
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::*;

    pub(crate) fn environment(variables: &[(&str, &str)]) -> Environment {
        Environment(variables.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn metadata_comes_from_the_environment() {
        let variables = [("ISTIO_META_HTTP10", "1"), ("ISTIO_METAJSON_X", "{\"a\":1}"), ("ISTIO_META_MESH_ID", "m"), ("HOME", "/")];
        let metadata = environment(&variables).metadata().unwrap();
        assert_eq!(metadata.len(), 2);
        assert_eq!(metadata["X"]["a"], 1);
        assert!(environment(&[("ISTIO_METAJSON_X", "{")]).metadata().is_err());
    }

    #[test]
    fn proxy_config_is_read_and_its_faults_are_named() {
        let text = r#"{"discoveryAddress":"istiod-x.a.svc:15012","concurrency":4,"terminationDrainDuration":"9s","configPath":"./etc"}"#;
        let (fields, config) = environment(&[("PROXY_CONFIG", text)]).proxy_config().unwrap();
        assert_eq!((fields.len(), config.discovery_address.as_deref()), (4, Some("istiod-x.a.svc:15012")));
        assert_eq!((config.concurrency, config.termination_drain_duration), (Some(4), Some(Duration::from_secs(9))));
        assert_eq!(environment(&[]).proxy_config().unwrap(), (Map::new(), ProxyConfig::default()));
        let wrong = environment(&[("PROXY_CONFIG", r#"{"concurrency":"many","drainDuration":"soon"}"#)]).proxy_config();
        let said = wrong.unwrap_err().to_string();
        assert!(said.contains("PROXY_CONFIG.concurrency: ") && said.contains("PROXY_CONFIG.drainDuration: "), "{said}");
        assert!(environment(&[("PROXY_CONFIG", "x")]).proxy_config().is_err());
    }

    #[test]
    fn only_istios_annotations_concern_the_proxy() {
        for (annotation, concerns) in [
            ("sidecar.istio.io/statsInclusionPrefixes", true),
            ("traffic.sidecar.istio.io/includeInboundPorts", true),
            ("istio.io/rev", true),
            ("sidecar.istio.io/status", false),
            ("kubectl.kubernetes.io/last-applied-configuration", false),
            ("notistio.io/x", false),
            ("plain", false),
        ] {
            assert_eq!(concerns_the_proxy(annotation), concerns, "{annotation}");
        }
    }

    #[test]
    fn lines_of_the_downward_api() {
        let found = parse_lines("app=\"re\\\"views\"\nversion=v1\nproxy.istio.io/config=\"a: 1\\nb: 2\"\n\n");
        assert_eq!((found["app"].as_str(), found["version"].as_str()), ("re\"views", "v1"));
        assert_eq!(found["proxy.istio.io/config"], "a: 1\nb: 2");
    }
}

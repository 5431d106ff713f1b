//! Reads the annotations of a pod that configure its proxy (contract §5.5) into typed values.

use std::{cell::RefCell, collections::BTreeMap};

use k8s_openapi::api::core::v1::{Volume, VolumeMount};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{settings::ProxyResources, value};
use crate::api::{
    parse_proxy_config,
    proxy_config::{InterceptionMode, ProxyConfig, is_image_type},
    stats_annotations::{STATS_ANNOTATIONS, StatsAnnotations, WrongAnnotation},
    yaml,
};

/// The values of a pod's annotations; `None` for those that the pod does not have.
#[derive(Debug, Default)]
pub(super) struct Annotations {
    pub(super) template: Option<Template>,
    pub(super) interception: Option<InterceptionMode>,
    pub(super) capture: CaptureAnnotations,
    /// The resources of the proxy, which replace the defaults as a whole.
    pub(super) resources: Option<ProxyResources>,
    pub(super) image: Option<String>,
    /// The type of the operator's image, if the pod names no image of its own.
    pub(super) image_type: Option<String>,
    pub(super) envoy_log_level: Option<String>,
    pub(super) component_log_level: Option<String>,
    pub(super) agent_log_level: Option<String>,
    pub(super) discovery_address: Option<String>,
    pub(super) status_port: Option<u16>,
    pub(super) readiness: ReadinessAnnotations,
    pub(super) rewrite_probes: Option<bool>,
    pub(super) merge_metrics: Option<bool>,
    pub(super) cap_net_bind_service: bool,
    pub(super) volumes: Vec<Volume>,
    pub(super) volume_mounts: Vec<VolumeMount>,
    pub(super) config: ProxyConfig,
}

/// The template that a pod asks for by `inject.istio.io/templates`.
///
/// Templates of Istio's ConfigMap (Go's text/template) would be a further variant, rendered from the same inputs and merged into
/// the pod in the same way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Template {
    /// `sidecar`: a proxy beside the application, with its traffic captured.
    #[default]
    Sidecar,
    /// `gateway`: a proxy alone.
    Gateway,
}

/// `traffic.sidecar.istio.io/…`: lists joined by commas, without blanks.
#[derive(Debug, Default)]
pub(super) struct CaptureAnnotations {
    pub(super) include_inbound_ports: Option<String>,
    pub(super) exclude_inbound_ports: Option<String>,
    pub(super) include_outbound_ranges: Option<String>,
    pub(super) exclude_outbound_ranges: Option<String>,
    pub(super) include_outbound_ports: Option<String>,
    pub(super) exclude_outbound_ports: Option<String>,
    pub(super) exclude_interfaces: Option<String>,
}

/// `readiness.status.sidecar.istio.io/…`
#[derive(Debug, Default)]
pub(super) struct ReadinessAnnotations {
    pub(super) initial_delay_seconds: Option<i32>,
    pub(super) period_seconds: Option<i32>,
    pub(super) failure_threshold: Option<i32>,
}

/// What is wrong or doubtful in annotations.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct AnnotationFindings {
    /// Errors, for which the pod is refused.
    pub(super) refusals: Vec<String>,
    /// Warnings, with which the pod is injected.
    pub(super) warnings: Vec<String>,
}

/// Annotations that are read elsewhere: by the decision, by a repeated injection, by the control plane.
const READ_ELSEWHERE: [&str; 2] = ["sidecar.istio.io/inject", "sidecar.istio.io/status"];

/// Annotations of Istio that the built-in templates do not support.
const WITHOUT_EFFECT: [&str; 4] = [
    "sidecar.istio.io/bootstrapOverride",
    "traffic.sidecar.istio.io/kubevirtInterfaces",
    "istio.io/reroute-virtual-interfaces",
    "readiness.status.sidecar.istio.io/applicationPorts",
];

const ENVOY_LOG_LEVELS: [&str; 8] = ["trace", "debug", "info", "warning", "warn", "error", "critical", "off"];

/// Reads all annotations of a pod.
pub(super) fn read(written: &BTreeMap<String, String>) -> (Annotations, AnnotationFindings) {
    let reader = Reader { written, known: RefCell::default(), found: RefCell::default() };
    let annotations = Annotations {
        template: reader.read("inject.istio.io/templates", template),
        interception: reader.read("sidecar.istio.io/interceptionMode", interception),
        capture: capture(&reader),
        resources: Some(resources(&reader)).filter(|resources| !resources.is_empty()),
        image: reader.read("sidecar.istio.io/proxyImage", value::present),
        image_type: reader.read("sidecar.istio.io/proxyImageType", image_type),
        envoy_log_level: reader.read("sidecar.istio.io/logLevel", |text| value::one_of(text, &ENVOY_LOG_LEVELS)),
        component_log_level: reader.read("sidecar.istio.io/componentLogLevel", component_log_level),
        agent_log_level: reader.read("sidecar.istio.io/agentLogLevel", agent_log_level),
        discovery_address: reader.read("sidecar.istio.io/discoveryAddress", value::host_and_port),
        status_port: reader.read("status.sidecar.istio.io/port", value::port),
        readiness: ReadinessAnnotations {
            initial_delay_seconds: reader.read("readiness.status.sidecar.istio.io/initialDelaySeconds", value::count),
            period_seconds: reader.read("readiness.status.sidecar.istio.io/periodSeconds", value::positive),
            failure_threshold: reader.read("readiness.status.sidecar.istio.io/failureThreshold", value::positive),
        },
        rewrite_probes: reader.read("sidecar.istio.io/rewriteAppHTTPProbers", value::boolean),
        merge_metrics: reader.read("prometheus.istio.io/merge-metrics", value::boolean),
        cap_net_bind_service: reader.read("sidecar.istio.io/capNetBindService", value::boolean).unwrap_or_default(),
        volumes: reader.read("sidecar.istio.io/userVolume", named_list).unwrap_or_default(),
        volume_mounts: reader.read("sidecar.istio.io/userVolumeMount", named_list).unwrap_or_default(),
        config: proxy_config(&reader).unwrap_or_default(),
    };
    native_sidecar(&reader);
    statistics(&reader);
    (annotations, reader.finish())
}

struct Reader<'a> {
    written: &'a BTreeMap<String, String>,
    known: RefCell<Vec<&'static str>>,
    found: RefCell<AnnotationFindings>,
}

impl Template {
    const ALL: [(&'static str, Self); 2] = [("gateway", Self::Gateway), ("sidecar", Self::Sidecar)];

    /// Returns the template of a name, or a sentence that says which there are.
    fn named(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|(known, _)| *known == name);
        found.map(|(_, template)| template).ok_or_else(|| format!("names a template that is not built in; there are {}", Self::known()))
    }

    /// Lists the names of all.
    fn known() -> String {
        Self::ALL.map(|(name, _)| name).join(", ")
    }
}

impl Reader<'_> {
    fn read<T>(&self, name: &'static str, read: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        self.known.borrow_mut().push(name);
        match read(self.written.get(name)?) {
            Ok(value) => Some(value),
            Err(why) => {
                self.refuse(name, &why);
                None
            }
        }
    }

    fn refuse(&self, name: &str, why: &str) {
        let written = self.written.get(name).map(|value| value::shown(value)).unwrap_or_default();
        self.found.borrow_mut().refusals.push(format!("annotation {name}: {written} {why}"));
    }

    fn warn(&self, name: &str, why: &str) {
        self.found.borrow_mut().warnings.push(format!("annotation {name}: {why}"));
    }

    /// Warns of the annotations of ours that were not read, and returns all findings.
    fn finish(self) -> AnnotationFindings {
        let known = self.known.take();
        for name in self.written.keys() {
            let ours = name.split_once('/').is_some_and(|(domain, _)| domain.ends_with("sidecar.istio.io"));
            if WITHOUT_EFFECT.contains(&name.as_str()) {
                self.warn(name, "is not supported yet and has no effect");
            } else if ours && !known.contains(&name.as_str()) && !READ_ELSEWHERE.contains(&name.as_str()) {
                self.warn(name, "is unknown and has no effect; is it misspelt?");
            }
        }
        self.found.into_inner()
    }
}

fn capture(reader: &Reader<'_>) -> CaptureAnnotations {
    CaptureAnnotations {
        include_inbound_ports: reader.read("traffic.sidecar.istio.io/includeInboundPorts", value::ports_or_all),
        exclude_inbound_ports: reader.read("traffic.sidecar.istio.io/excludeInboundPorts", value::ports),
        include_outbound_ranges: reader.read("traffic.sidecar.istio.io/includeOutboundIPRanges", value::ranges_or_all),
        exclude_outbound_ranges: reader.read("traffic.sidecar.istio.io/excludeOutboundIPRanges", value::ranges),
        include_outbound_ports: reader.read("traffic.sidecar.istio.io/includeOutboundPorts", value::ports),
        exclude_outbound_ports: reader.read("traffic.sidecar.istio.io/excludeOutboundPorts", value::ports),
        exclude_interfaces: reader.read("traffic.sidecar.istio.io/excludeInterfaces", value::interfaces),
    }
}

fn resources(reader: &Reader<'_>) -> ProxyResources {
    let quantity = |name| reader.read(name, value::quantity).unwrap_or_default();
    ProxyResources {
        cpu: quantity("sidecar.istio.io/proxyCPU"),
        cpu_limit: quantity("sidecar.istio.io/proxyCPULimit"),
        memory: quantity("sidecar.istio.io/proxyMemory"),
        memory_limit: quantity("sidecar.istio.io/proxyMemoryLimit"),
    }
}

fn template(text: &str) -> Result<Template, String> {
    let names: Vec<&str> = text.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    match names[..] {
        [name] => Template::named(name),
        [] => Err(format!("names no template; there are {}", Template::known())),
        _ => Err(format!("names several templates: the built-in ones ({}) do not go together", Template::known())),
    }
}

fn interception(text: &str) -> Result<InterceptionMode, String> {
    match InterceptionMode::named(text) {
        Some(mode) => Ok(mode),
        None => Err("must be REDIRECT or NONE".to_owned()),
    }
}

fn image_type(text: &str) -> Result<String, String> {
    is_image_type(text).then(|| text.to_owned()).ok_or_else(|| "cannot be a part of an image's tag".to_owned())
}

fn component_log_level(text: &str) -> Result<String, String> {
    for component in text.split(',').filter(|component| !component.is_empty()) {
        let level = component.split_once(':').map(|(_, level)| level).ok_or("must be component:level, joined by commas")?;
        value::one_of(level, &ENVOY_LOG_LEVELS)?;
    }
    Ok(text.to_owned())
}

/// Reads the agent's log level. Istio's form has levels by scope (`default:info,xds:debug`). Our scopes are others, so only the
/// level for all of them counts.
fn agent_log_level(text: &str) -> Result<String, String> {
    const LEVELS: [(&str, &str); 6] =
        [("debug", "debug"), ("info", "info"), ("warn", "warn"), ("error", "error"), ("fatal", "error"), ("none", "off")];
    let for_all = text.split(',').find_map(|part| match part.trim().split_once(':') {
        None => Some(part.trim()),
        Some(("default" | "all", level)) => Some(level),
        Some(_) => None,
    });
    let Some(level) = for_all else { return Ok("info".to_owned()) };
    let found = LEVELS.iter().find(|(name, _)| *name == level).map(|(_, ours)| (*ours).to_owned());
    found.ok_or_else(|| "must be debug, info, warn, error, fatal or none, or default:LEVEL".to_owned())
}

/// Reads `{"name": {…}}`, which Istio's template takes, or `[{"name": …, …}]`, which its documentation shows.
fn named_list<T: DeserializeOwned>(text: &str) -> Result<Vec<T>, String> {
    let written: Value = serde_json::from_str(text).map_err(|error| format!("is no JSON: {error}"))?;
    let elements = match written {
        Value::Array(elements) => elements,
        Value::Object(map) => map.into_iter().map(with_name).collect(),
        _ => return Err("must be a map by name or a list".to_owned()),
    };
    elements.into_iter().map(|element| serde_json::from_value(element).map_err(|error| format!("is not right: {error}"))).collect()
}

fn with_name((name, mut element): (String, Value)) -> Value {
    if let Value::Object(fields) = &mut element {
        fields.insert("name".to_owned(), Value::String(name));
    }
    element
}

fn proxy_config(reader: &Reader<'_>) -> Option<ProxyConfig> {
    const NAME: &str = "proxy.istio.io/config";
    let document = reader.read(NAME, |text| {
        let document = yaml::Document { lines_before: 0, text };
        yaml::document(document).map_err(|broken| format!("is no YAML: {broken}"))
    })?;
    match parse_proxy_config(&document) {
        Ok((config, doubts)) => {
            doubts.iter().for_each(|doubt| reader.warn(NAME, &format!("{}: {}", doubt.field, doubt.message)));
            Some(config)
        }
        Err(findings) => {
            let errors = findings.iter().filter(|finding| finding.severity == crate::api::Severity::Error);
            errors.for_each(|error| reader.refuse(NAME, &format!("{}: {}", error.field, error.message)));
            None
        }
    }
}

fn native_sidecar(reader: &Reader<'_>) {
    const NAME: &str = "sidecar.istio.io/nativeSidecar";
    if reader.read(NAME, value::boolean) == Some(false) {
        reader.warn(NAME, "has no effect: proxies are always native sidecars");
    }
}

/// Checks what the agent reads of the annotations by itself.
fn statistics(reader: &Reader<'_>) {
    reader.known.borrow_mut().extend(STATS_ANNOTATIONS);
    let (_, wrong) = StatsAnnotations::read(|name| reader.written.get(name).map(String::as_str));
    for WrongAnnotation { name, why, is_fatal } in wrong {
        match is_fatal {
            true => reader.refuse(name, &why),
            false => reader.warn(name, &format!("{why}; the value has no effect")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(annotations: &[(&str, &str)]) -> AnnotationFindings {
        read(&annotations.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()).1
    }

    #[test]
    fn each_wrong_value_is_refused_with_the_name_of_its_annotation() {
        let cases = [
            ("sidecar.istio.io/interceptionMode", "redirect"),
            ("inject.istio.io/templates", "grpc-agent"),
            ("inject.istio.io/templates", "sidecar,gateway"),
            ("inject.istio.io/templates", ""),
            ("status.sidecar.istio.io/port", "70000"),
            ("readiness.status.sidecar.istio.io/initialDelaySeconds", "-1"),
            ("readiness.status.sidecar.istio.io/periodSeconds", "0"),
            ("readiness.status.sidecar.istio.io/failureThreshold", "many"),
            ("traffic.sidecar.istio.io/includeInboundPorts", "80,x"),
            ("traffic.sidecar.istio.io/excludeInboundPorts", "*"),
            ("traffic.sidecar.istio.io/includeOutboundIPRanges", "10.0.0.1"),
            ("traffic.sidecar.istio.io/excludeOutboundIPRanges", "*"),
            ("traffic.sidecar.istio.io/includeOutboundPorts", "1-2"),
            ("traffic.sidecar.istio.io/excludeOutboundPorts", "99999"),
            ("traffic.sidecar.istio.io/excludeInterfaces", "an interface"),
            ("sidecar.istio.io/proxyCPU", "much"),
            ("sidecar.istio.io/proxyCPULimit", "1\n"),
            ("sidecar.istio.io/proxyMemory", "-1Gi"),
            ("sidecar.istio.io/proxyMemoryLimit", "1GiB"),
            ("sidecar.istio.io/proxyImage", " "),
            ("sidecar.istio.io/proxyImageType", "a b"),
            ("sidecar.istio.io/logLevel", "loud"),
            ("sidecar.istio.io/componentLogLevel", "filter"),
            ("sidecar.istio.io/agentLogLevel", "default:loud"),
            ("sidecar.istio.io/discoveryAddress", "istiod"),
            ("sidecar.istio.io/rewriteAppHTTPProbers", "yes"),
            ("sidecar.istio.io/capNetBindService", "yes"),
            ("sidecar.istio.io/nativeSidecar", "maybe"),
            ("sidecar.istio.io/statsInclusionRegexps", "a.*,(b"),
            ("sidecar.istio.io/statsHistogramBuckets", r#"{"a": [1], "b": [0]}"#),
            ("sidecar.istio.io/statsFlushInterval", "5m"),
            ("sidecar.istio.io/statsEvictionInterval", "0s"),
            ("sidecar.istio.io/userVolume", "{"),
            ("sidecar.istio.io/userVolumeMount", r#"[{"name": "a"}, 1]"#),
            ("prometheus.istio.io/merge-metrics", "on"),
            ("proxy.istio.io/config", "concurrency: many"),
            ("proxy.istio.io/config", "proxyMetadata: {a b: c}"),
            ("proxy.istio.io/config", "image: {imageType: a b}"),
            ("proxy.istio.io/config", "a: [b"),
        ];
        for (name, value) in cases {
            let refusals = found(&[(name, value)]).refusals;
            assert_eq!(refusals.len(), 1, "{name}={value}: {refusals:?}");
            assert!(refusals[0].starts_with(&format!("annotation {name}: ")), "{refusals:?}");
        }
    }

    #[test]
    fn what_has_no_effect_is_a_warning() {
        let said = found(&[
            ("sidecar.istio.io/proxyCpu", "1"),
            ("sidecar.istio.io/bootstrapOverride", "a"),
            ("sidecar.istio.io/statsFlushInterval", "5"),
            ("sidecar.istio.io/nativeSidecar", "false"),
            ("proxy.istio.io/config", "tracing: {}"),
            ("example.com/other", "x"),
            ("sidecar.istio.io/inject", "true"),
        ]);
        assert_eq!(said.refusals, [""; 0]);
        let warnings: Vec<_> = said.warnings.iter().map(|warning| warning.split(": ").next().unwrap()).collect();
        let expected = [
            "proxy.istio.io/config",
            "sidecar.istio.io/nativeSidecar",
            "sidecar.istio.io/statsFlushInterval",
            "sidecar.istio.io/bootstrapOverride",
            "sidecar.istio.io/proxyCpu",
        ];
        assert_eq!(warnings, expected.map(|name| format!("annotation {name}")));
    }

    #[test]
    fn volumes_come_by_name_or_as_a_list() {
        let by_name = named_list::<Volume>(r#"{"certs": {"secret": {"secretName": "s"}}}"#).unwrap();
        let listed = named_list::<Volume>(r#"[{"name": "certs", "secret": {"secretName": "s"}}]"#).unwrap();
        assert_eq!(by_name, listed);
    }

    #[test]
    fn levels_of_istio_become_ours() {
        for (theirs, ours) in [("warn", "warn"), ("default:debug,xds:info", "debug"), ("xds:debug", "info"), ("all:none", "off")] {
            assert_eq!(agent_log_level(theirs).as_deref(), Ok(ours), "{theirs}");
        }
    }
}

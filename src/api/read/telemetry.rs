//! Reads a Telemetry (contract §6.8).

use smol_str::SmolStr;

use super::fields::{Fields, Node, Read};
use crate::api::istio::{AccessLogging, CustomTag, METRICS, Metrics, MetricsOverride, PolicyTarget, Telemetry, Tracing, WorkloadMode};

impl Read for Telemetry {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| Self {
            target: PolicyTarget::of(fields),
            tracing: fields.get("tracing"),
            metrics: fields.get("metrics"),
            access_logging: fields.get("accessLogging"),
        })
    }
}

impl Read for AccessLogging {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| Self {
            mode: mode(fields),
            providers: providers(fields),
            disabled: fields.get("disabled"),
            filter: fields.with("filter", |node| node.message(|fields| fields.get("expression"))),
        })
    }
}

impl Read for Tracing {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| Self {
            mode: mode(fields),
            providers: providers(fields),
            random_sampling_percentage: fields.opt("randomSamplingPercentage"),
            disable_span_reporting: fields.opt("disableSpanReporting"),
            custom_tags: fields.has("customTags").then(|| fields.entries("customTags")),
            use_request_id: fields.opt("useRequestIdForTraceSampling"),
            enable_istio_tags: fields.opt("enableIstioTags"),
            disable_context_propagation: fields.opt("disableContextPropagation"),
        })
    }
}

impl Read for CustomTag {
    fn read(node: Node<'_>) -> Option<Self> {
        let kinds = ["literal", "environment", "header", "formatter"];
        node.message(|fields| {
            fields.exclusive(&kinds);
            let value = |name: &'static str| fields.with(name, |node| node.message(|fields| needed(fields, "value")));
            let named = |name: &'static str| {
                fields.with(name, |node| node.message(|fields| (needed(fields, "name"), fields.get::<SmolStr>("defaultValue"))))
            };
            let tag = value("literal").map(Self::Literal).or_else(|| value("formatter").map(Self::Formatter));
            let tag = tag.or_else(|| named("environment").map(|(name, default)| Self::Environment { name, default }));
            let tag = tag.or_else(|| named("header").map(|(name, default)| Self::Header { name, default }));
            if kinds.iter().all(|kind| !fields.has(kind)) {
                fields.error(format!("must have one of {}", kinds.join(", ")));
            }
            tag
        })
        .flatten()
    }
}

/// Reads a text that must not be empty.
fn needed(fields: &Fields<'_>, name: &'static str) -> SmolStr {
    let text: SmolStr = fields.get(name);
    if text.is_empty() {
        fields.refuse(name, "must not be empty");
    }
    text
}

impl Read for Metrics {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| Self {
            providers: providers(fields),
            overrides: fields.get("overrides"),
            reporting_interval: fields.opt("reportingInterval"),
        })
    }
}

impl Read for MetricsOverride {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| {
            let (metric, mode) = fields.with("match", |node| node.message(selected)).unwrap_or_default();
            let tags: Vec<(SmolStr, TagOverride)> = fields.entries("tagOverrides");
            let tags = tags.into_iter().map(|(name, TagOverride(value))| (name, value)).collect();
            Self { metric, mode, disabled: fields.opt("disabled"), tags }
        })
    }
}

/// Reads `match`: a metric, or `None` for all of them, and for which side.
fn selected(fields: &Fields<'_>) -> (Option<SmolStr>, WorkloadMode) {
    fields.exclusive(&["metric", "customMetric"]);
    let metric = fields.with("metric", standard_metric).flatten();
    let custom = fields.with("customMetric", |_| Some(())).map(|()| needed(fields, "customMetric"));
    (metric.or(custom), fields.get("mode"))
}

fn standard_metric(node: Node<'_>) -> Option<Option<SmolStr>> {
    // In the order of their numbers.
    let names = [
        "REQUEST_COUNT",
        "REQUEST_DURATION",
        "REQUEST_SIZE",
        "RESPONSE_SIZE",
        "TCP_OPENED_CONNECTIONS",
        "TCP_CLOSED_CONNECTIONS",
        "TCP_SENT_BYTES",
        "TCP_RECEIVED_BYTES",
        "GRPC_REQUEST_MESSAGES",
        "GRPC_RESPONSE_MESSAGES",
    ];
    debug_assert_eq!(names.len(), METRICS.len());
    let known: Vec<(&str, Option<&str>)> = std::iter::once(("ALL_METRICS", None)).chain(names.map(|name| (name, Some(name)))).collect();
    node.one_of(&known).map(|metric| metric.map(SmolStr::new))
}

/// The expression that makes a tag; `None` where it is removed.
struct TagOverride(Option<SmolStr>);

impl Read for TagOverride {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| {
            let removes = fields.with("operation", |node| node.one_of(&[("UPSERT", false), ("REMOVE", true)])).unwrap_or_default();
            let value: SmolStr = fields.get("value");
            match removes {
                false if value.is_empty() => fields.refuse("value", "must be set when operation is UPSERT"),
                true if !value.is_empty() => fields.refuse("value", "may only be set when operation is UPSERT"),
                _ => {}
            }
            Self((!removes).then_some(value))
        })
    }
}

/// Reads `match: {mode: …}`.
fn mode(fields: &Fields<'_>) -> WorkloadMode {
    fields.with("match", |node| node.message(|fields| fields.get("mode"))).unwrap_or_default()
}

impl Read for WorkloadMode {
    fn read(node: Node<'_>) -> Option<Self> {
        node.one_of(&[("CLIENT_AND_SERVER", Self::ClientAndServer), ("CLIENT", Self::Client), ("SERVER", Self::Server)])
    }
}

/// Reads `providers: [{name: …}]`.
fn providers(fields: &Fields<'_>) -> Vec<SmolStr> {
    let named: Vec<ProviderRef> = fields.get("providers");
    named.into_iter().map(|ProviderRef(name)| name).collect()
}

/// `providers[]`
struct ProviderRef(SmolStr);

impl Read for ProviderRef {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| {
            let name: SmolStr = fields.get("name");
            if name.is_empty() {
                fields.refuse("name", "is missing");
            }
            Self(name)
        })
    }
}

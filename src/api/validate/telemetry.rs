//! Rules for Telemetry.

use super::{Check, cel, log_format};
use crate::api::{
    findings::Path,
    istio::{AccessLogging, CustomTag, Metrics, Telemetry, Tracing},
};

impl Check<'_> {
    pub(super) fn telemetry(self, telemetry: &Telemetry, at: &Path<'_>) {
        self.target(&telemetry.target, at);
        let logging = at.field("accessLogging");
        for (index, entry) in telemetry.access_logging.iter().enumerate() {
            self.access_logging(entry, &logging.index(index));
        }
        let tracing = at.field("tracing");
        for (index, entry) in telemetry.tracing.iter().enumerate() {
            self.tracing(entry, &tracing.index(index));
        }
        let metrics = at.field("metrics");
        for (index, entry) in telemetry.metrics.iter().enumerate() {
            self.metrics(entry, &metrics.index(index));
        }
    }

    fn tracing(self, entry: &Tracing, at: &Path<'_>) {
        if entry.random_sampling_percentage.is_some_and(|percentage| !(0.0..=100.0).contains(&percentage)) {
            self.error(&at.field("randomSamplingPercentage"), "must be from 0 to 100");
        }
        if entry.providers.len() > 1 {
            self.warning(&at.field("providers"), "has several, of which the first is used: spans go to one, in Istio too");
        }
        let tags = at.field("customTags");
        for (name, tag) in entry.custom_tags.iter().flatten() {
            let at = tags.key(name);
            if name.is_empty() {
                self.error(&tags, "must not have a tag without a name");
            }
            if let CustomTag::Formatter(format) = tag
                && let Err(why) = log_format(format)
            {
                self.error(&at.field("formatter").field("value"), why);
            }
        }
    }

    fn metrics(self, entry: &Metrics, at: &Path<'_>) {
        self.at_least_a_millisecond(entry.reporting_interval, &at.field("reportingInterval"));
        let overrides = at.field("overrides");
        for (index, of) in entry.overrides.iter().enumerate() {
            let at = overrides.index(index);
            let tags = at.field("tagOverrides");
            for (name, expression) in &of.tags {
                // Istio's proxy goes without a tag that it cannot compute.
                if let Some(Err(why)) = expression.as_deref().map(cel::check) {
                    self.warning(&tags.key(name).field("value"), format!("{why}: the tag may have no effect"));
                }
            }
        }
    }

    fn access_logging(self, entry: &AccessLogging, at: &Path<'_>) {
        let Some(expression) = &entry.filter else { return };
        let at = at.field("filter");
        if let Err(why) = cel::check(expression) {
            self.error(&at.field("expression"), why);
        } else if entry.providers.is_empty() {
            self.warning(&at, "has no effect without providers, as in Istio: name those whose entries it is to choose");
        } else if entry.disabled {
            self.warning(&at, "has no effect on what is disabled");
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::api::{
        parse,
        yaml::{document, documents},
    };

    /// Returns what is said of a Telemetry.
    fn said(spec: &str) -> Vec<String> {
        let yaml =
            format!("apiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {{name: a, namespace: shop}}\nspec: {{{spec}}}\n");
        let parsed = parse(&document(documents(&yaml)[0]).unwrap(), &"Kubernetes".into());
        parsed.diagnostics.iter().map(|finding| finding.to_string().replace("Telemetry/shop/a ", "")).collect()
    }

    fn said_of_logging(entry: &str) -> Vec<String> {
        said(&format!("accessLogging: [{{{entry}}}]")).iter().map(|said| said.replace("spec.accessLogging[0]", "")).collect()
    }

    #[test]
    fn access_logging_is_as_istio_wants_it() {
        let nothing = Vec::<String>::new();
        assert_eq!(said_of_logging("providers: [{name: a}], match: {mode: SERVER}, filter: {expression: 'response.code >= 400'}"), nothing);
        assert_eq!(said_of_logging("disabled: true, match: {mode: CLIENT}"), nothing);
        assert_eq!(said_of_logging("providers: [{}]"), ["error: .providers[0].name: is missing"]);
        assert_eq!(
            said_of_logging("providers: [{name: a}], filter: {expression: 'response.code >='}"),
            ["error: .filter.expression: ends too early"]
        );
        assert_eq!(said_of_logging("providers: [{name: a}], filter: {}"), ["error: .filter.expression: ends too early"]);
        assert!(said_of_logging("filter: {expression: 'true'}")[0].starts_with("warning: .filter: has no effect without providers"));
        assert_eq!(
            said_of_logging("providers: [{name: a}], disabled: true, filter: {expression: 'true'}"),
            ["warning: .filter: has no effect on what is disabled"]
        );
        assert!(said_of_logging("match: {mode: BOTH}")[0].starts_with("error: .match.mode: unknown value"));
    }

    #[test]
    fn tracing_is_as_istio_wants_it() {
        let of = |entry: &str| {
            said(&format!("tracing: [{{{entry}}}]")).iter().map(|said| said.replace("spec.tracing[0]", "")).collect::<Vec<_>>()
        };
        let tags = "a: {literal: {value: b}}, c: {environment: {name: D, defaultValue: e}}, f: {header: {name: g}}, h: {formatter: {value: '%PROTOCOL%'}}";
        assert_eq!(of(&format!("providers: [{{name: a}}], randomSamplingPercentage: 100, customTags: {{{tags}}}")), [""; 0]);
        assert_eq!(of("randomSamplingPercentage: 100.5"), ["error: .randomSamplingPercentage: must be from 0 to 100"]);
        assert_eq!(of("customTags: {a: {literal: {value: ''}}}"), [r#"error: .customTags["a"].literal.value: must not be empty"#]);
        assert_eq!(of("customTags: {a: {}}"), [r#"error: .customTags["a"]: must have one of literal, environment, header, formatter"#]);
        assert_eq!(of("customTags: {a: {header: {defaultValue: b}}}"), [r#"error: .customTags["a"].header.name: must not be empty"#]);
        assert!(
            of("customTags: {a: {formatter: {value: '%NOPE%'}}}")[0]
                .starts_with(r#"error: .customTags["a"].formatter.value: Envoy knows no"#)
        );
        assert!(of("providers: [{name: a}, {name: b}]")[0].starts_with("warning: .providers: has several"));
    }

    #[test]
    fn metrics_are_as_istio_wants_them() {
        let of = |entry: &str| {
            said(&format!("metrics: [{{{entry}}}]")).iter().map(|said| said.replace("spec.metrics[0]", "")).collect::<Vec<_>>()
        };
        let tags = "tagOverrides: {a: {value: request.host}, b: {operation: REMOVE}}";
        assert_eq!(
            of(&format!("providers: [{{name: a}}], reportingInterval: 5s, overrides: [{{match: {{metric: REQUEST_COUNT}}, {tags}}}]")),
            [""; 0]
        );
        assert_eq!(of("overrides: [{match: {metric: 2, mode: CLIENT}, disabled: true}]"), [""; 0]);
        assert_eq!(of("reportingInterval: 1us"), ["error: .reportingInterval: must be 1ms or more"]);
        assert_eq!(
            of("overrides: [{tagOverrides: {a: {}, b: {operation: REMOVE, value: c}}}]"),
            [
                r#"error: .overrides[0].tagOverrides["a"].value: must be set when operation is UPSERT"#,
                r#"error: .overrides[0].tagOverrides["b"].value: may only be set when operation is UPSERT"#,
            ]
        );
        assert_eq!(of("overrides: [{match: {customMetric: ''}}]"), ["error: .overrides[0].match.customMetric: must not be empty"]);
        assert!(of("overrides: [{match: {metric: NOPE}}]")[0].contains("unknown value"));
        assert!(of("overrides: [{tagOverrides: {a: {value: 'a b'}}}]")[0].ends_with("the tag may have no effect"));
    }

    #[test]
    fn a_telemetry_is_for_one_sort_of_target() {
        assert_eq!(
            said("selector: {matchLabels: {app: a}}, targetRef: {group: gateway.networking.k8s.io, kind: Gateway, name: edge}"),
            ["error: spec: only one of selector, targetRef and targetRefs may be set"]
        );
    }
}

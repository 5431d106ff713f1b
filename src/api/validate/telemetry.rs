//! Rules for Telemetry.

use super::{Check, cel};
use crate::api::{
    findings::Path,
    istio::{AccessLogging, Telemetry},
};

impl Check<'_> {
    pub(super) fn telemetry(self, telemetry: &Telemetry, at: &Path<'_>) {
        self.target(&telemetry.target, at);
        let logging = at.field("accessLogging");
        for (index, entry) in telemetry.access_logging.iter().enumerate() {
            self.access_logging(entry, &logging.index(index));
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
    fn a_telemetry_is_for_one_sort_of_target() {
        assert_eq!(
            said("selector: {matchLabels: {app: a}}, targetRef: {group: gateway.networking.k8s.io, kind: Gateway, name: edge}"),
            ["error: spec: only one of selector, targetRef and targetRefs may be set"]
        );
    }
}

//! Of a PeerAuthentication its modes hold, and what cannot be read is STRICT: without it, plaintext would be taken.

use std::sync::Arc;

use serde_json::Value;

use super::{super::fields::Read, Left, alone, field, field_of, selected};
use crate::api::{
    Spec,
    istio::{PeerAuthentication, PeerMtlsMode},
};

/// Returns the policy with the modes that it asks for, if STRICT is or may be among them.
pub(super) fn left(spec: &Value) -> Option<Left> {
    let selector = field(spec, "selector", |node| selected(node.value, "matchLabels")).flatten().filter(|labels| !labels.is_empty());
    let mut mode = field_of(spec, "mtls").map(|mode| mode.unwrap_or(PeerMtlsMode::Strict)).unwrap_or_default();
    let levels = field(spec, "portLevelMtls", |node| Some(node.value.as_object()?.iter().map(port_mode).collect::<Vec<_>>()));
    let mut port_level = Vec::new();
    match levels {
        None => {}
        Some(None) => mode = PeerMtlsMode::Strict,
        Some(Some(levels)) => {
            for (port, level) in levels {
                match port.filter(|_| selector.is_some()) {
                    Some(port) => port_level.push((port, level)),
                    // Whichever port is meant, or whosever it is.
                    None if level == PeerMtlsMode::Strict => mode = PeerMtlsMode::Strict,
                    None => {}
                }
            }
        }
    }
    port_level.sort_by_key(|(port, _)| *port);
    let strict = mode == PeerMtlsMode::Strict || port_level.iter().any(|(_, level)| *level == PeerMtlsMode::Strict);
    let consequence = "its modes hold where they can be read, and STRICT where not".to_owned();
    let policy = PeerAuthentication { selector, mode, port_level };
    strict.then(|| Left { spec: Spec::PeerAuthentication(Arc::new(policy)), consequence })
}

fn port_mode((port, level): (&String, &Value)) -> (Option<u16>, PeerMtlsMode) {
    let mode = alone(level, PeerMtlsMode::read).unwrap_or(PeerMtlsMode::Strict);
    (port.parse().ok().filter(|port| *port != 0), mode)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{
        parse,
        yaml::{document, documents},
    };

    /// Returns what is left of a refused policy: its selector, its mode, and those of ports.
    fn left_of(spec: &str) -> Option<String> {
        let yaml =
            format!("apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: a, namespace: shop}}\nspec: {spec}\n");
        let mut parsed = parse(&document(documents(&yaml)[0]).unwrap(), &"Kubernetes".into());
        assert_eq!(parsed.objects.len(), 0, "{spec} is to be refused");
        let remnant = parsed.refused.remove(0).remnant?;
        let Spec::PeerAuthentication(policy) = &remnant.object.spec else { panic!("a policy") };
        Some(format!("{:?} {:?} {:?}", policy.selector, policy.mode, policy.port_level))
    }

    #[test]
    fn what_cannot_be_read_is_strict() {
        assert_eq!(left_of("{mtls: {mode: STRCT}}").unwrap(), "None Strict []");
        assert_eq!(left_of("{mtls: STRICT}").unwrap(), "None Strict []");
        let ports = "{selector: {matchLabels: {app: a}}, mtls: {mode: PERMISSIVE}, portLevelMtls: {80: {mode: DISABLE}, 81: {mode: X}}}";
        assert_eq!(left_of(ports).unwrap(), r#"Some({"app": "a"}) Permissive [(80, Disable), (81, Strict)]"#);
        let name =
            "{selector: {matchLabels: {app: a}}, mtls: {mode: PERMISSIVE}, portLevelMtls: {http: {mode: STRICT}, x: {mode: DISABLE}}}";
        assert_eq!(left_of(name).unwrap(), r#"Some({"app": "a"}) Strict []"#);
        assert_eq!(left_of("{mtls: {mode: PERMISSIVE}, portLevelMtls: {80: {mode: STRICT}}}").unwrap(), "None Strict []");
        assert_eq!(left_of("{mtls: {mode: PERMISSIVE}, portLevelMtls: [80]}").unwrap(), "None Strict []");
    }

    #[test]
    fn a_selector_is_read_as_it_is_meant() {
        let spec = "{selector: {matchLabels: {version: 1, on: true}}, mtls: {mode: STRICT}}";
        assert_eq!(left_of(spec).unwrap(), r#"Some({"on": "true", "version": "1"}) Strict []"#);
        assert_eq!(left_of("{selector: a, mtls: {mode: STRICT}}").unwrap(), "None Strict []");
    }

    #[test]
    fn a_policy_that_closes_nothing_leaves_nothing() {
        assert_eq!(left_of("{mtls: {mode: DISABLE}, portLevelMtls: {80: {mode: PERMISSIVE}}}"), None);
        assert_eq!(left_of("{selector: a, mtls: {mode: UNSET}}"), None);
    }
}

//! Checks the annotation by which namespaces, Services and ServiceEntries say which endpoints go first.

use crate::api::{
    Kind, Object,
    findings::{Findings, Path},
};

const ANNOTATION: &str = "networking.istio.io/traffic-distribution";

/// What it may say, in any case.
const KNOWN: [&str; 3] = ["PreferClose", "PreferSameZone", "PreferSameNode"];

pub(super) fn check(object: &Object, findings: &Findings) {
    let written = object.metadata.annotations.get(ANNOTATION).filter(|written| !written.is_empty());
    let Some(written) = written.filter(|_| matches!(object.key.kind, Kind::Namespace | Kind::Service | Kind::ServiceEntry)) else { return };
    if !KNOWN.iter().any(|known| written.eq_ignore_ascii_case(known)) {
        let at = Path::Root.field("metadata");
        let message = format!("{written:?} is not known and prefers no endpoint; known are {}", KNOWN.join(", "));
        findings.warning(&at.field("annotations").key(ANNOTATION), message);
    }
}

#[cfg(test)]
mod tests {
    use crate::api::{
        parse,
        yaml::{document, documents},
    };

    #[test]
    fn only_what_is_not_known_is_told() {
        let told = |written: &str| {
            let text = format!(
                "{{apiVersion: v1, kind: Service, metadata: {{name: a, namespace: n, annotations: {{networking.istio.io/traffic-distribution: {written}}}}}, spec: {{}}}}"
            );
            let parsed = parse(&document(documents(&text)[0]).unwrap(), &"c".into());
            parsed.diagnostics.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(told("prefersamezone"), Vec::<String>::new());
        assert_eq!(
            told("Near"),
            [
                "warning: Service/n/a metadata.annotations[\"networking.istio.io/traffic-distribution\"]: \"Near\" is not known and prefers no \
                 endpoint; known are PreferClose, PreferSameZone, PreferSameNode"
            ]
        );
    }
}

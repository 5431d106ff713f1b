//! Labels and annotations of Istio's that ask for something that is not done here: whoever sets one is told.

use crate::api::{
    Kind, Object,
    findings::{Findings, Path},
};

/// A label or an annotation that has no effect.
struct Unread {
    kinds: &'static [Kind],
    name: &'static str,
    /// What is the case instead.
    instead: &'static str,
}

const AMBIENT: &str = "ambient mode is not there, and only pods with a sidecar are in the mesh";
const NETWORKS: &str = "several networks are not supported, and endpoints are called at their own addresses";
const WAYPOINT: &str = "no waypoint is used";
const SESSIONS: &str = "no session is persistent";

const LABELS: [Unread; 8] = [
    unread(&[Kind::Namespace, Kind::Pod], "istio.io/dataplane-mode", AMBIENT),
    unread(&[Kind::Namespace, Kind::Service, Kind::ServiceEntry, Kind::Pod, Kind::WorkloadEntry], "istio.io/use-waypoint", WAYPOINT),
    unread(&[Kind::Namespace, Kind::Service, Kind::ServiceEntry], "istio.io/ingress-use-waypoint", WAYPOINT),
    unread(&[Kind::Namespace, Kind::Service], "topology.istio.io/network", NETWORKS),
    unread(&[Kind::Service], "networking.istio.io/gatewayPort", NETWORKS),
    unread(&[Kind::Service], "istio.io/persistent-session", SESSIONS),
    unread(&[Kind::Service], "istio.io/persistent-session-header", SESSIONS),
    unread(&[Kind::ServiceEntry], "networking.istio.io/enable-autoallocate-ip", "hosts without an address are given none"),
];

const ANNOTATIONS: [Unread; 2] = [
    unread(&[Kind::Service], "traffic.istio.io/nodeSelector", NETWORKS),
    unread(&[Kind::Namespace], "topology.istio.io/controlPlaneClusters", "the namespace is read whatever it says"),
];

/// Values that ask for what is done anyway.
const NOTHING: [&str; 3] = ["", "none", "false"];

pub(super) fn check(object: &Object, findings: &Findings) {
    let metadata = Path::Root.field("metadata");
    for (field, written, unread) in
        [("labels", &object.metadata.labels, &LABELS[..]), ("annotations", &object.metadata.annotations, &ANNOTATIONS)]
    {
        for Unread { name, instead, .. } in unread.iter().filter(|unread| unread.kinds.contains(&object.key.kind)) {
            if written.get(*name).is_some_and(|value| !NOTHING.contains(&value.as_str())) {
                findings.warning(&metadata.field(field).key(name), format!("is not supported yet and has no effect: {instead}"));
            }
        }
    }
}

const fn unread(kinds: &'static [Kind], name: &'static str, instead: &'static str) -> Unread {
    Unread { kinds, name, instead }
}

#[cfg(test)]
mod tests {
    use crate::api::{
        parse,
        yaml::{document, documents},
    };

    fn told(kind: &str, field: &str, name: &str, value: &str) -> Vec<String> {
        let text =
            format!("{{apiVersion: v1, kind: {kind}, metadata: {{name: a, namespace: n, {field}: {{{name}: \"{value}\"}}}}, spec: {{}}}}");
        let parsed = parse(&document(documents(&text)[0]).unwrap(), &"c".into());
        parsed.diagnostics.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_asks_for_something_that_is_not_there_is_told() {
        let network =
            "is not supported yet and has no effect: several networks are not supported, and endpoints are called at their own addresses";
        assert_eq!(
            told("Service", "labels", "networking.istio.io/gatewayPort", "15443"),
            [format!("warning: Service/n/a metadata.labels[\"networking.istio.io/gatewayPort\"]: {network}")]
        );
        assert_eq!(told("Service", "annotations", "traffic.istio.io/nodeSelector", "{}").len(), 1);
        assert_eq!(told("Pod", "labels", "networking.istio.io/gatewayPort", "15443"), [""; 0]);
        assert_eq!(told("Namespace", "labels", "istio.io/dataplane-mode", "none"), [""; 0]);
        assert_eq!(told("Namespace", "labels", "istio.io/dataplane-mode", "ambient").len(), 1);
    }
}

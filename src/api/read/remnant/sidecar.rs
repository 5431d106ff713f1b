//! Of a Sidecar that blocks unknown destinations this holds, with the imports that are right: without it, proxies would
//! let all traffic out.

use std::sync::Arc;

use serde_json::Value;

use super::{super::gateway::outbound_policy, Left, alone, field, is_right, selected};
use crate::api::{
    ObjectKey, Spec,
    istio::{EgressListener, OutboundTrafficPolicy, Sidecar},
    read::fields::Read,
};

/// Returns the Sidecar with nothing but that; `None` if it leaves unknown destinations to the mesh, or lets them be reached.
pub(super) fn left(key: &ObjectKey, spec: &Value) -> Option<Left> {
    let policy = field(spec, "outboundTrafficPolicy", outbound_policy)?;
    if let Some((OutboundTrafficPolicy::AllowAny, None)) = policy {
        return None;
    }
    let sidecar = |egress| Sidecar {
        workload_selector: field(spec, "workloadSelector", |node| selected(node.value, "labels")).flatten(),
        egress,
        outbound_traffic_policy: Some(OutboundTrafficPolicy::RegistryOnly),
        ..Sidecar::default()
    };
    let right = |egress: &[EgressListener]| is_right(key, Spec::Sidecar(Arc::new(sidecar(egress.to_vec()))));
    let listeners = field(spec, "egress", |node| {
        let listeners = node.value.as_array()?.iter().filter_map(|listener| alone(listener, EgressListener::read));
        Some(listeners.filter(|listener| right(std::slice::from_ref(listener))).collect::<Vec<_>>())
    });
    let egress = match listeners {
        None => Vec::new(),
        Some(listeners) => listeners.filter(|listeners| !listeners.is_empty() && right(listeners)).unwrap_or_else(nothing),
    };
    let consequence = "unknown destinations are blocked (REGISTRY_ONLY), and of its egress only what is right is imported".to_owned();
    Some(Left { spec: Spec::Sidecar(Arc::new(sidecar(egress))), consequence })
}

fn nothing() -> Vec<EgressListener> {
    vec![EgressListener { hosts: vec!["~/*".into()], ..EgressListener::default() }]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{
        parse,
        yaml::{document, documents},
    };

    /// Returns what is left of a refused Sidecar: whom it is for, and what it imports. It is always REGISTRY_ONLY.
    fn left_of(spec: &str) -> Option<String> {
        let yaml = format!("apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: a, namespace: shop}}\nspec: {spec}\n");
        let mut parsed = parse(&document(documents(&yaml)[0]).unwrap(), &"Kubernetes".into());
        assert_eq!(parsed.objects.len(), 0, "{spec} is to be refused");
        let remnant = parsed.refused.remove(0).remnant?;
        let Spec::Sidecar(sidecar) = &remnant.object.spec else { panic!("a Sidecar") };
        assert_eq!(sidecar.outbound_traffic_policy, Some(OutboundTrafficPolicy::RegistryOnly));
        let hosts: Vec<_> = sidecar.egress.iter().map(|listener| listener.hosts.join(" ")).collect();
        Some(format!("{:?} {}", sidecar.workload_selector, hosts.join("; ")))
    }

    #[test]
    fn unknown_destinations_stay_blocked() {
        let bad = "inboundConnectionPool: {}";
        assert_eq!(left_of(&format!("{{outboundTrafficPolicy: {{mode: REGISTRY_ONLY}}, {bad}}}")).unwrap(), "None ");
        assert_eq!(left_of("{outboundTrafficPolicy: {mode: REGISTRY_ONYL}}").unwrap(), "None ");
        assert_eq!(left_of("{outboundTrafficPolicy: REGISTRY_ONLY}").unwrap(), "None ");
        assert_eq!(left_of("{outboundTrafficPolicy: {mode: ALLOW_ANY, egressProxy: way-out}}").unwrap(), "None ");
    }

    #[test]
    fn imports_that_are_wrong_are_not_replaced_by_everything() {
        let policy = "outboundTrafficPolicy: {mode: REGISTRY_ONLY}, workloadSelector: {labels: {app: a}}";
        let egress = "egress: [{port: {number: 80, protocol: HTTP}, hosts: ['./a']}, {hosts: ['x//y']}]";
        assert_eq!(left_of(&format!("{{{policy}, {egress}}}")).unwrap(), r#"Some({"app": "a"}) ./a"#);
        assert_eq!(left_of(&format!("{{{policy}, egress: [{{hosts: ['x//y']}}]}}")).unwrap(), r#"Some({"app": "a"}) ~/*"#);
        assert_eq!(left_of(&format!("{{{policy}, egress: all}}")).unwrap(), r#"Some({"app": "a"}) ~/*"#);
    }

    #[test]
    fn a_sidecar_that_blocks_nothing_leaves_nothing() {
        assert_eq!(left_of("{egress: [{hosts: ['x//y']}]}"), None);
        assert_eq!(left_of("{outboundTrafficPolicy: {mode: ALLOW_ANY}, egress: [{hosts: ['x//y']}]}"), None);
    }
}

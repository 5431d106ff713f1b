//! Rules for what a policy is for.

use super::Check;
use crate::api::{
    findings::Path,
    istio::{PolicyTarget, TargetRef},
};

/// What policies may name: group and kind.
const POSSIBLE: [(&str, &str); 4] = [
    ("", "Service"),
    ("networking.istio.io", "ServiceEntry"),
    ("gateway.networking.k8s.io", "Gateway"),
    ("gateway.networking.k8s.io", "GatewayClass"),
];

impl Check<'_> {
    /// Checks the target that stands in the `spec` at that path.
    pub(super) fn target(self, target: &PolicyTarget, at: &Path<'_>) {
        if let Some(selector) = &target.selector {
            let at = at.field("selector");
            self.selector(selector, &at.field("matchLabels"));
            if selector.is_empty() {
                self.warning(&at, "has no labels: it selects all workloads");
            }
        }
        let list = at.field("targetRefs");
        for (index, named) in target.refs.iter().enumerate() {
            let at = if target.single { at.field("targetRef") } else { list.index(index) };
            self.target_ref(named, &at);
        }
    }

    pub(super) fn target_ref(self, named: &TargetRef, at: &Path<'_>) {
        if named.name.is_empty() {
            self.error(&at.field("name"), "is missing");
        }
        if !named.namespace.is_empty() {
            self.error(&at.field("namespace"), "must be left out: a policy names objects of its own namespace");
        }
        let group = if named.group == "core" { "" } else { named.group.as_str() };
        match POSSIBLE.contains(&(group, named.kind.as_str())) {
            false => self.error(
                at,
                "must be a Gateway or GatewayClass of gateway.networking.k8s.io, a ServiceEntry of networking.istio.io, or a Service",
            ),
            // As with istiod: sidecars are for no target, and there are no waypoints here.
            true if named.kind != "Gateway" => {
                self.warning(at, "only a Gateway of gateway.networking.k8s.io has proxies here: this target has no effect");
            }
            true => {}
        }
    }
}

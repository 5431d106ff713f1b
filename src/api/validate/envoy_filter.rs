//! Rules for EnvoyFilters: what they match must fit what they change. What they change it into is Envoy's own business, and is held
//! against its rules where it is made.

use super::{Check, re2};
use crate::api::{
    findings::Path,
    istio::{ApplyTo, ConfigPatch, EnvoyFilter, FilterChainMatch, ListenerMatch, ObjectMatch, PatchContext, PatchOperation},
};

const CONNECTION_MANAGER: [&str; 2] = ["envoy.filters.network.http_connection_manager", "envoy.http_connection_manager"];
const NOTHING: &str = "has no effect (nor has it in Istio)";

impl Check<'_> {
    pub(super) fn envoy_filter(self, filter: &EnvoyFilter, at: &Path<'_>) {
        if let Some(selector) = &filter.target.selector {
            let at = at.field("workloadSelector");
            self.selector(selector, &at.field("labels"));
            if selector.is_empty() {
                self.warning(&at, "has no labels: it selects all workloads");
            }
        }
        let refs = at.field("targetRefs");
        for (index, named) in filter.target.refs.iter().enumerate() {
            self.target_ref(named, &refs.index(index));
        }
        let patches = at.field("configPatches");
        for (index, patch) in filter.patches.iter().enumerate() {
            self.patch(patch, &patches.index(index));
        }
    }

    fn patch(self, patch: &ConfigPatch, at: &Path<'_>) {
        let matching = at.field("match");
        if patch.context == PatchContext::Waypoint {
            return self.warning(&matching.field("context"), "has no effect: there are no waypoints here");
        }
        if patch.apply_to == ApplyTo::Bootstrap {
            let message = "BOOTSTRAP has no effect here: proxies have their bootstrap before they are sent anything";
            return self.warning(&at.field("applyTo"), message);
        }
        let patched = at.field("patch");
        if !patch.apply_to.takes(patch.operation) {
            self.warning(&patched.field("operation"), format!("with this applyTo it {NOTHING}"));
        }
        if let Err(why) = re2(&patch.proxy_version) {
            self.error(&matching.field("proxy").field("proxyVersion"), format!("is no RE2 expression: {why}"));
        }
        match &patch.object {
            Some(ObjectMatch::Listener(_)) | None if patch.apply_to.is_of_listeners() => {
                let listener = match &patch.object {
                    Some(ObjectMatch::Listener(listener)) => listener,
                    _ => &ListenerMatch::default(),
                };
                self.listener_match(patch, listener, &matching.field("listener"));
            }
            Some(ObjectMatch::Listener(_)) => self.misfit(&matching.field("listener")),
            Some(ObjectMatch::RouteConfiguration(_)) if !patch.apply_to.is_of_routes() => {
                self.misfit(&matching.field("routeConfiguration"))
            }
            Some(ObjectMatch::RouteConfiguration(route)) => {
                let at = matching.field("routeConfiguration");
                let sidecars = matches!(patch.context, PatchContext::SidecarInbound | PatchContext::SidecarOutbound);
                for (name, written) in [("gateway", &route.gateway), ("portName", &route.port_name)] {
                    if sidecars && !written.is_empty() {
                        self.warning(&at.field(name), "has no effect in this context: it is for gateways");
                    }
                }
            }
            Some(ObjectMatch::Cluster(_)) if patch.apply_to != ApplyTo::Cluster => self.misfit(&matching.field("cluster")),
            Some(ObjectMatch::Cluster(_)) if patch.operation != PatchOperation::Merge && patch.operation != PatchOperation::Remove => {
                self.warning(&matching.field("cluster"), format!("{NOTHING}: what is added is added in any case"));
            }
            Some(ObjectMatch::Cluster(cluster)) => {
                let others =
                    [("service", !cluster.service.is_empty()), ("subset", !cluster.subset.is_empty()), ("portNumber", cluster.port > 0)];
                for (name, _) in others.into_iter().filter(|(_, is_given)| *is_given && !cluster.name.is_empty()) {
                    self.warning(&matching.field("cluster").field(name), "has no effect beside name");
                }
            }
            None => {}
        }
    }

    fn misfit(self, at: &Path<'_>) {
        self.error(
            at,
            "does not fit applyTo: listener is for listeners, chains and filters, routeConfiguration for routes, cluster for clusters",
        );
    }

    fn listener_match(self, patch: &ConfigPatch, listener: &ListenerMatch, at: &Path<'_>) {
        use PatchOperation::{Merge, Remove, Replace};
        let chain = listener.chain.as_ref();
        if let Some(chain) = chain {
            self.filter_match(patch.apply_to, chain, &at.field("filterChain").field("filter"));
        }
        let chain_at = at.field("filterChain");
        let (anchor, named) = match patch.apply_to {
            ApplyTo::ListenerFilter => (at.field("listenerFilter"), !listener.listener_filter.is_empty()),
            ApplyTo::NetworkFilter => (chain_at.field("filter"), chain.is_some_and(|chain| chain.filter.is_some())),
            ApplyTo::HttpFilter => (chain_at.field("filter"), chain.is_some_and(|chain| chain.sub_filter.is_some())),
            _ => return,
        };
        let needed = matches!(patch.operation, Remove | Replace) || (patch.operation == Merge && patch.apply_to == ApplyTo::ListenerFilter);
        if needed && !named {
            self.warning(&anchor, "names no filter: without one this operation has no effect (nor has it in Istio)");
        }
    }

    fn filter_match(self, apply_to: ApplyTo, chain: &FilterChainMatch, at: &Path<'_>) {
        let Some(filter) = &chain.filter else { return };
        if filter.is_empty() {
            self.error(&at.field("name"), "is missing");
        }
        if matches!(apply_to, ApplyTo::Listener | ApplyTo::FilterChain) {
            self.warning(at, "has no effect with this applyTo (nor has it in Istio)");
        }
        let Some(sub_filter) = &chain.sub_filter else { return };
        let at = at.field("subFilter");
        if apply_to != ApplyTo::HttpFilter {
            self.error(&at, "is possible with applyTo HTTP_FILTER only");
        } else if !CONNECTION_MANAGER.contains(&filter.as_str()) {
            self.error(&at, format!("is possible in the filter {} only", CONNECTION_MANAGER[0]));
        }
        if sub_filter.is_empty() {
            self.error(&at.field("name"), "is missing");
        }
    }
}

//! Reads an EnvoyFilter (contract §6.8). What a patch holds is read by Envoy's descriptors, and one that cannot be does not keep the
//! others from being applied.

use smol_str::SmolStr;

use super::{
    fields::{Fields, Node, Read},
    gateway::selector_labels,
};
use crate::{
    api::istio::{
        ApplyTo, ClusterMatch, ConfigPatch, EnvoyFilter, FilterChainMatch, ListenerMatch, ObjectMatch, PatchContext, PatchOperation,
        PatchValue, PolicyTarget, RouteAction, RouteConfigurationMatch, RouteMatch, ValueMistake, VirtualHostMatch,
    },
    reflection,
};

const APPLY_TO: [(&str, Option<ApplyTo>); 12] = [
    ("INVALID", None),
    ("LISTENER", Some(ApplyTo::Listener)),
    ("FILTER_CHAIN", Some(ApplyTo::FilterChain)),
    ("NETWORK_FILTER", Some(ApplyTo::NetworkFilter)),
    ("HTTP_FILTER", Some(ApplyTo::HttpFilter)),
    ("ROUTE_CONFIGURATION", Some(ApplyTo::RouteConfiguration)),
    ("VIRTUAL_HOST", Some(ApplyTo::VirtualHost)),
    ("HTTP_ROUTE", Some(ApplyTo::HttpRoute)),
    ("CLUSTER", Some(ApplyTo::Cluster)),
    ("EXTENSION_CONFIG", Some(ApplyTo::ExtensionConfig)),
    ("BOOTSTRAP", Some(ApplyTo::Bootstrap)),
    ("LISTENER_FILTER", Some(ApplyTo::ListenerFilter)),
];

const CONTEXTS: [(&str, PatchContext); 5] = [
    ("ANY", PatchContext::Any),
    ("SIDECAR_INBOUND", PatchContext::SidecarInbound),
    ("SIDECAR_OUTBOUND", PatchContext::SidecarOutbound),
    ("GATEWAY", PatchContext::Gateway),
    ("WAYPOINT", PatchContext::Waypoint),
];

const OPERATIONS: [(&str, Option<PatchOperation>); 8] = [
    ("INVALID", None),
    ("MERGE", Some(PatchOperation::Merge)),
    ("ADD", Some(PatchOperation::Add)),
    ("REMOVE", Some(PatchOperation::Remove)),
    ("INSERT_BEFORE", Some(PatchOperation::InsertBefore)),
    ("INSERT_AFTER", Some(PatchOperation::InsertAfter)),
    ("INSERT_FIRST", Some(PatchOperation::InsertFirst)),
    ("REPLACE", Some(PatchOperation::Replace)),
];

const ACTIONS: [(&str, Option<RouteAction>); 4] = [
    ("ANY", None),
    ("ROUTE", Some(RouteAction::Route)),
    ("REDIRECT", Some(RouteAction::Redirect)),
    ("DIRECT_RESPONSE", Some(RouteAction::DirectResponse)),
];

const NOT_IN_ISTIO: &str = "has no effect (nor has it in Istio)";

impl Read for EnvoyFilter {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| {
            let selector = fields.with("workloadSelector", selector_labels);
            let refs: Vec<_> = fields.get("targetRefs");
            if selector.is_some() && !refs.is_empty() {
                fields.error("only one of workloadSelector and targetRefs may be set");
            }
            Self {
                target: PolicyTarget { selector, refs, single: false },
                priority: fields.get("priority"),
                patches: fields.get("configPatches"),
            }
        })
    }
}

impl Read for ConfigPatch {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| {
            let apply_to = chosen(fields, "applyTo", &APPLY_TO);
            let matching: Match = fields.get("match");
            let patch = fields.with("patch", |node| patch(node, apply_to));
            if !fields.has("patch") {
                fields.refuse("patch", "is missing");
            }
            let (operation, value) = patch.unwrap_or_default();
            Self {
                apply_to: apply_to.unwrap_or_default(),
                context: matching.context,
                proxy_version: matching.proxy_version,
                proxy_metadata: matching.proxy_metadata.into_iter().collect(),
                object: matching.object,
                operation,
                value,
            }
        })
    }
}

fn patch(node: Node<'_>, apply_to: Option<ApplyTo>) -> Option<(PatchOperation, Option<PatchValue>)> {
    node.message(|fields| {
        let operation = chosen(fields, "operation", &OPERATIONS);
        if let Some(class) = fields.opt::<FilterClass>("filterClass")
            && class != FilterClass::Unspecified
        {
            fields.warn("filterClass", NOT_IN_ISTIO);
        }
        let value = fields.with("value", |node| apply_to.and_then(|apply_to| value(node, apply_to)));
        if !fields.has("value") && operation.is_some_and(|operation| operation != PatchOperation::Remove) {
            fields.refuse("value", "is missing: only REMOVE goes without one");
        }
        (operation.unwrap_or_default(), value)
    })
}

fn value(node: Node<'_>, apply_to: ApplyTo) -> Option<PatchValue> {
    if !node.value.is_object() {
        node.wrong("a map of fields");
        return None;
    }
    let read = reflection::from_json(apply_to.message_type(), node.value);
    for path in read.iter().flat_map(|written| &written.unknown) {
        node.findings.warning(&node.path.field(path), "unknown field: it has no effect");
    }
    for (path, name) in read.iter().flat_map(|written| &written.unknown_types) {
        let what = format!("{name} is not known here: what is of this type is sent as it is, to Istio's proxies alone");
        node.findings.warning(&node.path.field(path), what);
    }
    let message = read.map(|written| written.message);
    Some(PatchValue::new(node.value, message.map_err(|mistake| ValueMistake { path: mistake.path.into(), what: mistake.what.into() })))
}

/// Reads an enum of which a value must be given, and not the one that stands for none.
fn chosen<T: Copy>(fields: &Fields<'_>, name: &'static str, allowed: &[(&str, Option<T>)]) -> Option<T> {
    let read = fields.with(name, |node| {
        let read = node.one_of(allowed)?;
        if read.is_none() {
            node.error("must not be INVALID");
        }
        read
    });
    if !fields.has(name) {
        fields.refuse(name, "is missing");
    }
    read
}

#[derive(Default)]
struct Match {
    context: PatchContext,
    proxy_version: SmolStr,
    proxy_metadata: Vec<(SmolStr, SmolStr)>,
    object: Option<ObjectMatch>,
}

impl Read for Match {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| {
            fields.exclusive(&["listener", "routeConfiguration", "cluster", "waypoint"]);
            if fields.has("waypoint") {
                fields.pass("waypoint");
                fields.warn("waypoint", "has no effect: there are no waypoints here");
            }
            let (proxy_version, proxy_metadata) = fields.with("proxy", proxy).unwrap_or_default();
            let listener = fields.opt("listener").map(ObjectMatch::Listener);
            let route = fields.opt("routeConfiguration").map(ObjectMatch::RouteConfiguration);
            let cluster = fields.opt("cluster").map(ObjectMatch::Cluster);
            Self {
                context: fields.with("context", |node| node.one_of(&CONTEXTS)).unwrap_or_default(),
                proxy_version,
                proxy_metadata,
                object: listener.or(route).or(cluster),
            }
        })
    }
}

fn proxy(node: Node<'_>) -> Option<(SmolStr, Vec<(SmolStr, SmolStr)>)> {
    node.message(|fields| (fields.get("proxyVersion"), fields.entries("metadata")))
}

impl Read for ListenerMatch {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| {
            if fields.has("portName") {
                fields.opt::<SmolStr>("portName");
                fields.warn("portName", NOT_IN_ISTIO);
            }
            Self {
                name: fields.get("name"),
                port: fields.get("portNumber"),
                listener_filter: fields.get("listenerFilter"),
                chain: fields.opt("filterChain"),
            }
        })
    }
}

impl Read for FilterChainMatch {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| {
            let (filter, sub_filter) = fields.with("filter", filter).unzip();
            Self {
                name: fields.get("name"),
                sni: fields.get("sni"),
                transport_protocol: fields.get("transportProtocol"),
                application_protocols: fields.get("applicationProtocols"),
                destination_port: fields.get("destinationPort"),
                filter,
                sub_filter: sub_filter.flatten(),
            }
        })
    }
}

fn filter(node: Node<'_>) -> Option<(SmolStr, Option<SmolStr>)> {
    node.message(|fields| (fields.get("name"), fields.with("subFilter", |node| node.message(|fields| fields.get("name")))))
}

impl Read for RouteConfigurationMatch {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| Self {
            name: fields.get("name"),
            port: fields.get("portNumber"),
            port_name: fields.get("portName"),
            gateway: fields.get("gateway"),
            host: fields.opt("vhost"),
        })
    }
}

impl Read for VirtualHostMatch {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| Self { name: fields.get("name"), domain: fields.get("domainName"), route: fields.opt("route") })
    }
}

impl Read for RouteMatch {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| Self { name: fields.get("name"), action: fields.with("action", |node| node.one_of(&ACTIONS)).flatten() })
    }
}

impl Read for ClusterMatch {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| Self {
            name: fields.get("name"),
            port: fields.get("portNumber"),
            service: fields.get("service"),
            subset: fields.get("subset"),
        })
    }
}

/// `patch.filterClass`
#[derive(Clone, Copy, PartialEq, Eq)]
enum FilterClass {
    Unspecified,
    Other,
}

impl Read for FilterClass {
    fn read(node: Node<'_>) -> Option<Self> {
        node.one_of(&[("UNSPECIFIED", Self::Unspecified), ("AUTHN", Self::Other), ("AUTHZ", Self::Other), ("STATS", Self::Other)])
    }
}

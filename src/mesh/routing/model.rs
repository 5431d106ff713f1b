//! The model of routes, with every name resolved. Selection and translation read nothing else about routes.

mod action;
mod matching;
mod source;

use std::{collections::BTreeSet, sync::Arc};

use smol_str::SmolStr;

use crate::{
    api::{ConfigId, Kind},
    mesh::model::{Hostname, ObjectKey, Origin, Precedence, Visibility},
};

pub use self::{
    action::{
        Abort, AbortStatus, CorsPolicy, Delay, Denominator, Destination, Fault, HeaderModification, HeaderModifications, HttpAction,
        Mirror, PathModifier, Redirect, RedirectCode, RedirectPort, RetryConditions, RetryPolicy, Rewrite, Share, WeightedDestination,
    },
    matching::{ClaimMatch, HeaderMatch, HttpMatch, L4Match, QueryParameterMatch, StringMatch},
    source::{RulePrecedence, RuleSource},
};

/// The routes of one object, those of its delegates merged in.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteSet {
    /// Name of the object.
    pub name: SmolStr,
    /// Its namespace.
    pub namespace: SmolStr,
    /// Fully qualified hosts, in the order written.
    pub hosts: Vec<Hostname>,
    /// Where the routes apply.
    pub gateways: Vec<GatewayRef>,
    /// Who may use them.
    pub export_to: Visibility,
    /// For HTTP requests, in order.
    pub http: Vec<HttpRule>,
    /// About how long the route is that each match of an HTTP rule becomes.
    pub weights: Vec<usize>,
    /// Rules for HTTP requests that could not be made.
    pub left_out: Vec<LeftOutRule>,
    /// For TLS connections that are not terminated, in order.
    pub tls: Vec<L4Rule>,
    /// For other TCP connections, in order.
    pub tcp: Vec<L4Rule>,
    /// Age of the object, for order among sets.
    pub precedence: Arc<Precedence>,
    /// The object.
    pub origin: Origin,
    /// The objects that were merged into it (delegates).
    pub merged: Vec<Origin>,
}

/// To what routes are attached.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum GatewayRef {
    /// All sidecars (`mesh`).
    Mesh,
    /// An object that proxies serve, of Istio's kind Gateway.
    Object(ConfigId),
}

impl GatewayRef {
    /// Refers to an Istio Gateway by name.
    pub fn istio(namespace: &SmolStr, name: &SmolStr) -> Self {
        Self::Object(ConfigId::new(Kind::Gateway, namespace, name))
    }

    /// Refers to the object under a key.
    pub fn of(object: &ObjectKey) -> Self {
        Self::Object(ConfigId::new(object.kind, &object.namespace, &object.name))
    }
}

/// What happens to HTTP requests that match.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpRule {
    /// Where the rule was written.
    pub source: RuleSource,
    /// Where it stands among the rules for a host.
    pub precedence: RulePrecedence,
    /// The rule's name; for a delegate's `root-delegate`.
    pub name: SmolStr,
    /// Any of these must hold; none: every request matches.
    pub matches: Vec<HttpMatch>,
    /// What happens to the request.
    pub action: HttpAction,
    /// `None` or zero: no timeout.
    pub timeout: Option<std::time::Duration>,
    /// `None`: the mesh's default.
    pub retries: Option<RetryPolicy>,
    /// Faults to inject.
    pub fault: Option<Fault>,
    /// Where copies go.
    pub mirrors: Vec<Mirror>,
    /// CORS.
    pub cors: Option<CorsPolicy>,
    /// Changes of headers, whatever the destination.
    pub headers: Option<HeaderModifications>,
    /// Changes of path and authority.
    pub rewrite: Option<Rewrite>,
}

/// Where connections go that match.
#[derive(Clone, Debug, PartialEq)]
pub struct L4Rule {
    /// Where the rule was written.
    pub source: RuleSource,
    /// Where it stands among the rules for a host.
    pub precedence: RulePrecedence,
    /// Any of these must hold; none: every connection matches (TCP alone; TLS is told apart by SNI).
    pub matches: Vec<L4Match>,
    /// Where connections go, by weight.
    pub destinations: Vec<WeightedDestination>,
}

/// A rule that no request meets, because the object that it delegates to has nothing for it.
#[derive(Clone, Debug, PartialEq)]
pub struct LeftOutRule {
    /// Where it was written.
    pub source: RuleSource,
    /// The field of the rule that is at fault.
    pub field: &'static str,
    /// Why it is left out.
    pub reason: String,
}

// === impl RouteSet ===

impl RouteSet {
    /// Returns whether the set is attached to `gateway`.
    pub fn applies_at(&self, gateway: &GatewayRef) -> bool {
        self.gateways.contains(gateway)
    }

    /// Returns Istio's order among sets that meet: those for their own namespace alone first, then those exported to
    /// some namespaces, then those for all; in each the oldest first.
    pub fn order(&self) -> (u8, &Precedence) {
        let narrow = match &self.export_to {
            Visibility::Namespaces(names) if names.iter().all(|name| *name == self.namespace) => 0,
            Visibility::Namespaces(_) | Visibility::None => 1,
            Visibility::Public => 2,
        };
        (narrow, &self.precedence)
    }

    /// Returns every host that a rule leads to, mirrors among them.
    pub fn destination_hosts(&self) -> BTreeSet<&Hostname> {
        let l4 = self.tls.iter().chain(&self.tcp).flat_map(|rule| &rule.destinations).map(|weighted| &weighted.destination);
        self.http.iter().flat_map(HttpRule::destinations).chain(l4).map(|destination| &destination.host).collect()
    }

    /// Returns the keys of the client labels that some match asks for: the values of others make no difference.
    pub fn source_label_keys(&self) -> impl Iterator<Item = &SmolStr> {
        let http = self.http.iter().flat_map(|rule| &rule.matches).map(|matched| &matched.source_labels);
        let l4 = self.tls.iter().chain(&self.tcp).flat_map(|rule| &rule.matches).map(|matched| &matched.source_labels);
        http.chain(l4).flat_map(|labels| labels.keys())
    }
}

// === impl HttpRule ===

impl HttpRule {
    /// Returns where requests may go, then where copies of them go.
    pub fn destinations(&self) -> impl Iterator<Item = &Destination> {
        let forwarded = match &self.action {
            HttpAction::Forward(to) => to.as_slice(),
            HttpAction::Redirect(_) | HttpAction::DirectResponse { .. } => &[],
        };
        let mirrors = self.mirrors.iter().map(|mirror| &mirror.destination);
        forwarded.iter().map(|weighted| &weighted.destination).chain(mirrors)
    }
}

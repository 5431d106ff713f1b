//! A part of a resource that Envoy would refuse, and what becomes of it.

use std::{fmt, sync::Arc};

use smol_str::SmolStr;

use super::constraints::Violation;
use crate::{
    api::{Diagnostic, Kind},
    mesh::model::Origin,
};

/// What is not sent as it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfit {
    /// The smallest part that can be left out or closed.
    pub part: Part,
    /// What is wrong with it.
    pub violation: Violation,
    /// The objects that it came from, sorted.
    pub origins: Arc<[Origin]>,
    /// Whether what there was before stands in its place, within a resource that is sent.
    pub is_kept: bool,
}

/// A resource, or a part of one, that stands by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// A cluster.
    Cluster(SmolStr),
    /// All endpoints of a cluster.
    LoadAssignment(SmolStr),
    /// Some endpoints of a cluster.
    Endpoints {
        /// The cluster's name.
        cluster: SmolStr,
        /// How many.
        number: usize,
    },
    /// A listener.
    Listener(SmolStr),
    /// A filter chain of a listener.
    Chain {
        /// The listener's name.
        listener: SmolStr,
        /// The chain's name.
        chain: SmolStr,
    },
    /// A virtual host.
    VirtualHost(SmolStr),
    /// The configuration of a filter.
    ExtensionConfig(SmolStr),
}

impl Unfit {
    pub(super) fn new(part: Part, violation: Violation, origins: Vec<Origin>) -> Self {
        Self { part, violation, origins: super::sorted(origins), is_kept: false }
    }

    /// Says it at the objects that it came from; `kept` is whether proxies keep a whole resource that was there before.
    pub fn findings(&self, kept: bool) -> Vec<Diagnostic> {
        let Self { part, violation, .. } = self;
        let then = if kept || self.is_kept { "proxies keep what they had before" } else { part.without() };
        let message = format!("Envoy refuses what is made of this ({part}, {violation}): {then} until this is mended");
        let finding = Diagnostic::error("", message);
        let guilty: Vec<Diagnostic> = self.guilty().map(|origin| finding.clone().of(&origin.object)).collect();
        if guilty.is_empty() { vec![finding] } else { guilty }
    }

    /// Returns the objects that say how: where there are such, the services that they say it of are not to blame.
    fn guilty(&self) -> impl Iterator<Item = &Origin> {
        let says_how = |origin: &Origin| {
            let kind = origin.object.kind;
            !kind.group().is_empty() && !matches!(kind, Kind::ServiceEntry | Kind::WorkloadEntry | Kind::EndpointSlice)
        };
        let any = self.origins.iter().any(says_how);
        self.origins.iter().filter(move |origin| !any || says_how(origin))
    }
}

impl Part {
    fn without(&self) -> &'static str {
        match self {
            Self::Cluster(_) => "there is no such cluster, and requests for it get 503",
            Self::LoadAssignment(_) => "the cluster has no endpoints, and requests for it get 503",
            Self::Endpoints { .. } => "the others are used without them",
            Self::Listener(_) => "there is no such listener",
            Self::Chain { .. } => "its connections are closed",
            Self::VirtualHost(_) => "requests for its domains get 503",
            Self::ExtensionConfig(_) => "the filter is not there",
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster(name) => write!(f, "cluster {name}"),
            Self::LoadAssignment(name) => write!(f, "endpoints of {name}"),
            Self::Endpoints { cluster, number } => write!(f, "{number} of the endpoints of {cluster}"),
            Self::Listener(name) => write!(f, "listener {name}"),
            Self::Chain { listener, chain } => write!(f, "filter chain {chain} of listener {listener}"),
            Self::VirtualHost(name) => write!(f, "virtual host {name}"),
            Self::ExtensionConfig(name) => write!(f, "extension configuration {name}"),
        }
    }
}

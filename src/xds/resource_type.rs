//! The types that are delivered over ADS: one list, in push order, with everything that sets a type apart.
//!
//! A type is added as a variant, its place in [`ResourceType::ALL`] and its [`Traits`]; whoever keeps something for each
//! type keeps a [`PerType`](super::per_type::PerType), which grows with the list.

use self::ResourceType::{Cluster, Endpoint, ExtensionConfig, Listener, NameTable, ProxyConfig, Route, Secret};

/// A resource type, in the order in which a push speaks of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResourceType {
    /// `envoy.config.cluster.v3.Cluster`
    Cluster,
    /// `envoy.config.endpoint.v3.ClusterLoadAssignment`
    Endpoint,
    /// `envoy.config.listener.v3.Listener`
    Listener,
    /// `envoy.config.route.v3.RouteConfiguration`
    Route,
    /// `envoy.extensions.transport_sockets.tls.v3.Secret`
    Secret,
    /// `envoy.config.core.v3.TypedExtensionConfig`: a filter that a listener names. It is replaced without the listener, which is
    /// then neither made anew nor drained.
    ExtensionConfig,
    /// `istio.networking.nds.v1.NameTable`: what pilot-agent resolves names by when it captures DNS. It is not ready
    /// before it has a table; with an empty one it asks the resolvers of its pod for every name.
    NameTable,
    /// `istio.mesh.v1alpha1.ProxyConfig`: the roots that pilot-agent adds to those from its CA. There is one, or none.
    ProxyConfig,
}

/// What delivery has to know of a type.
#[derive(Debug)]
struct Traits {
    type_url: &'static str,
    /// As in metrics, on the command line and in debug pages.
    word: &'static str,
    /// As in the keys of istiod's `/debug/syncz`.
    noun: &'static str,
    /// istiod's gauge of refusals by proxy, where it has one.
    rejects_metric: Option<&'static str>,
    is_in_views: bool,
    is_confidential: bool,
    is_wildcard: bool,
    is_removed_by_name: bool,
    is_drained: bool,
    has_names_in_errors: bool,
    awaits: Option<ResourceType>,
    warms_with: Option<ResourceType>,
    named_by: Option<ResourceType>,
}

impl ResourceType {
    /// All of them, in push order.
    pub const ALL: [Self; 8] = [Cluster, Endpoint, Listener, Route, Secret, ExtensionConfig, NameTable, ProxyConfig];

    /// Returns those that views have content of, in push order.
    pub fn in_views() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|kind| kind.is_in_views())
    }

    /// Returns the type for a type URL; `None` for types that the server does not know.
    pub fn from_type_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == url)
    }

    /// Returns the type URL on the wire.
    pub const fn type_url(self) -> &'static str {
        self.traits().type_url
    }

    /// Returns the short name that metrics and the command line use, such as `cds`.
    pub const fn as_str(self) -> &'static str {
        self.traits().word
    }

    /// Returns the word for one resource of the type, such as `cluster`.
    pub const fn noun(self) -> &'static str {
        self.traits().noun
    }

    /// Returns the name of istiod's gauge of refusals by proxy; `None` for types for which it has none.
    pub const fn rejects_metric(self) -> Option<&'static str> {
        self.traits().rejects_metric
    }

    /// Returns whether views have content of the type. Requests for other types are answered, so that nobody waits,
    /// with what stands in for the content.
    pub const fn is_in_views(self) -> bool {
        self.traits().is_in_views
    }

    /// Returns whether only the proxy itself may see the content. Dumps and the command line leave it out, or show what is
    /// public of it.
    pub const fn is_confidential(self) -> bool {
        self.traits().is_confidential
    }

    /// Returns whether a subscription without names means all. State of the world then repeats all of the type in every
    /// response, and what a response leaves out is gone.
    pub const fn is_wildcard(self) -> bool {
        self.traits().is_wildcard
    }

    /// Returns whether incremental xDS says that a resource is gone by its name. Otherwise the client is sent what
    /// stands in for it: Envoy does not open a listener before it has the route table that the listener asks for.
    pub const fn is_removed_by_name(self) -> bool {
        self.traits().is_removed_by_name
    }

    /// Returns whether Envoy goes on using the resource for a while after it was replaced or removed.
    pub const fn is_drained(self) -> bool {
        self.traits().is_drained
    }

    /// Returns whether Envoy's error messages name the resources that it refuses. Of the other types it names none, and
    /// their names (`80`) would be found by chance.
    pub const fn has_names_in_errors(self) -> bool {
        self.traits().has_names_in_errors
    }

    /// Returns the type that a resource of this type waits for when it refers to new resources of it: make before break.
    pub const fn awaits(self) -> Option<Self> {
        self.traits().awaits
    }

    /// Returns whether resources of other types wait for those of this one.
    pub fn is_awaited(self) -> bool {
        Self::ALL.into_iter().any(|kind| kind.awaits() == Some(self))
    }

    /// Returns the type that Envoy waits for before it uses a new or changed resource of this one, as far as the
    /// resource refers to it.
    pub const fn warms_with(self) -> Option<Self> {
        self.traits().warms_with
    }

    /// Returns the type whose new or changed resources wait for those of this one.
    pub fn warms(self) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.warms_with() == Some(self))
    }

    /// Returns the type whose resource of the same name makes the proxy ask for one of this type.
    pub const fn named_by(self) -> Option<Self> {
        self.traits().named_by
    }

    const fn traits(self) -> &'static Traits {
        match self {
            Cluster => &Traits {
                type_url: "type.googleapis.com/envoy.config.cluster.v3.Cluster",
                word: "cds",
                noun: "cluster",
                rejects_metric: Some("pilot_xds_cds_reject"),
                is_in_views: true,
                is_confidential: false,
                is_wildcard: true,
                is_removed_by_name: true,
                is_drained: false,
                has_names_in_errors: true,
                awaits: None,
                warms_with: Some(Endpoint),
                named_by: None,
            },
            Endpoint => &Traits {
                type_url: "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
                word: "eds",
                noun: "endpoint",
                rejects_metric: Some("pilot_xds_eds_reject"),
                is_in_views: true,
                is_confidential: false,
                is_wildcard: false,
                is_removed_by_name: true,
                is_drained: false,
                has_names_in_errors: false,
                awaits: None,
                warms_with: None,
                named_by: Some(Cluster),
            },
            Listener => &Traits {
                type_url: "type.googleapis.com/envoy.config.listener.v3.Listener",
                word: "lds",
                noun: "listener",
                rejects_metric: Some("pilot_xds_lds_reject"),
                is_in_views: true,
                is_confidential: false,
                is_wildcard: true,
                is_removed_by_name: true,
                is_drained: true,
                has_names_in_errors: true,
                awaits: Some(Cluster),
                warms_with: None,
                named_by: None,
            },
            Route => &Traits {
                type_url: "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
                word: "rds",
                noun: "route",
                rejects_metric: Some("pilot_xds_rds_reject"),
                is_in_views: true,
                is_confidential: false,
                is_wildcard: false,
                is_removed_by_name: false,
                is_drained: false,
                has_names_in_errors: false,
                awaits: Some(Cluster),
                warms_with: None,
                named_by: None,
            },
            Secret => &Traits {
                type_url: "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
                word: "sds",
                noun: "secret",
                rejects_metric: None,
                is_in_views: true,
                is_confidential: true,
                is_wildcard: false,
                is_removed_by_name: true,
                is_drained: false,
                has_names_in_errors: false,
                awaits: None,
                warms_with: None,
                named_by: None,
            },
            ExtensionConfig => &Traits {
                type_url: "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
                word: "ecds",
                noun: "extensionconfig",
                rejects_metric: None,
                is_in_views: true,
                is_confidential: false,
                is_wildcard: false,
                is_removed_by_name: true,
                is_drained: false,
                has_names_in_errors: false,
                awaits: Some(Cluster),
                warms_with: None,
                named_by: None,
            },
            NameTable => &Traits {
                type_url: "type.googleapis.com/istio.networking.nds.v1.NameTable",
                word: "nds",
                noun: "name_table",
                rejects_metric: None,
                is_in_views: false,
                is_confidential: false,
                is_wildcard: false,
                is_removed_by_name: true,
                is_drained: false,
                has_names_in_errors: false,
                awaits: None,
                warms_with: None,
                named_by: None,
            },
            ProxyConfig => &Traits {
                type_url: "type.googleapis.com/istio.mesh.v1alpha1.ProxyConfig",
                word: "pcds",
                noun: "proxy_config",
                rejects_metric: None,
                is_in_views: true,
                is_confidential: false,
                is_wildcard: true,
                is_removed_by_name: true,
                is_drained: false,
                has_names_in_errors: false,
                awaits: None,
                warms_with: None,
                named_by: None,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_found_by_its_url_and_stands_at_its_place() {
        for (place, kind) in ResourceType::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, place);
            assert_eq!(ResourceType::from_type_url(kind.type_url()), Some(kind));
        }
        assert_eq!(ResourceType::from_type_url("type.googleapis.com/other"), None);
    }

    #[test]
    fn what_a_type_waits_for_is_pushed_before_it() {
        for kind in ResourceType::ALL {
            assert!(kind.awaits().is_none_or(|awaited| awaited < kind), "{kind:?}");
            assert!(kind.named_by().is_none_or(|naming| naming < kind), "{kind:?}");
            assert!(kind.warms_with().is_none_or(|warming| warming.warms() == Some(kind)), "{kind:?}");
        }
    }
}

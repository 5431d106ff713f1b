//! The types that are delivered over ADS: one list, in push order, with everything that sets a type apart.
//!
//! A type is added as a variant, its place in [`ResourceType::ALL`] and its [`Traits`]; whoever keeps something for each
//! type keeps a [`PerType`](super::per_type::PerType), which grows with the list.

use self::ResourceType::{Cluster, Endpoint, Listener, Route};

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
}

/// What delivery has to know of a type.
#[derive(Debug)]
struct Traits {
    type_url: &'static str,
    /// As in metrics, on the command line and in debug pages.
    word: &'static str,
    /// As in the keys of istiod's `/debug/syncz`.
    noun: &'static str,
    is_wildcard: bool,
    has_names_in_errors: bool,
    awaits: Option<ResourceType>,
    warms: Option<ResourceType>,
    named_by: Option<ResourceType>,
}

impl ResourceType {
    /// All of them, in push order.
    pub const ALL: [Self; 4] = [Cluster, Endpoint, Listener, Route];

    /// The type for a type URL; `None` for types that are not served.
    pub fn from_type_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == url)
    }

    /// The type URL on the wire.
    pub const fn type_url(self) -> &'static str {
        self.traits().type_url
    }

    /// The full name of its message.
    pub fn message(self) -> &'static str {
        self.type_url().trim_start_matches("type.googleapis.com/")
    }

    /// The short name that metrics and the command line use, such as `cds`.
    pub const fn as_str(self) -> &'static str {
        self.traits().word
    }

    /// The word for one resource of the type, such as `cluster`.
    pub const fn noun(self) -> &'static str {
        self.traits().noun
    }

    /// Whether a subscription without names means all. State of the world then repeats all of the type in every
    /// response, and what a response leaves out is gone.
    pub const fn is_wildcard(self) -> bool {
        self.traits().is_wildcard
    }

    /// Whether Envoy's error messages name the resources that it refuses. Of the other types it names none, and their
    /// names (`80`) would be found by chance.
    pub const fn has_names_in_errors(self) -> bool {
        self.traits().has_names_in_errors
    }

    /// The type that a resource of this type waits for when it refers to new resources of it: make before break.
    pub const fn awaits(self) -> Option<Self> {
        self.traits().awaits
    }

    /// The type whose resource of the same name Envoy waits for before it uses a new or changed one of this type.
    pub const fn warms_with(self) -> Option<Self> {
        self.traits().warms
    }

    /// The type whose resources name those of this type that a proxy asks for; `None` for wildcard types.
    pub const fn named_by(self) -> Option<Self> {
        self.traits().named_by
    }

    const fn traits(self) -> &'static Traits {
        match self {
            Cluster => &Traits {
                type_url: "type.googleapis.com/envoy.config.cluster.v3.Cluster",
                word: "cds",
                noun: "cluster",
                is_wildcard: true,
                has_names_in_errors: true,
                awaits: None,
                warms: Some(Endpoint),
                named_by: None,
            },
            Endpoint => &Traits {
                type_url: "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
                word: "eds",
                noun: "endpoint",
                is_wildcard: false,
                has_names_in_errors: false,
                awaits: None,
                warms: None,
                named_by: Some(Cluster),
            },
            Listener => &Traits {
                type_url: "type.googleapis.com/envoy.config.listener.v3.Listener",
                word: "lds",
                noun: "listener",
                is_wildcard: true,
                has_names_in_errors: true,
                awaits: Some(Cluster),
                warms: None,
                named_by: None,
            },
            Route => &Traits {
                type_url: "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
                word: "rds",
                noun: "route",
                is_wildcard: false,
                has_names_in_errors: false,
                awaits: Some(Cluster),
                warms: None,
                named_by: Some(Listener),
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
        }
    }
}

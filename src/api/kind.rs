//! Kinds by group and name, and what is known of each.

use std::fmt;

use super::kinds::kinds;

/// A resource of the API server, as its discovery documents name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApiResource {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// The versions that are read without the group. The first is the one that is asked for and stored.
    pub versions: &'static [&'static str],
    /// The plural, as in URLs and RBAC rules.
    pub plural: &'static str,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
}

/// What a CustomResourceDefinition shows users besides the content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The short name for `kubectl get`.
    pub short_name: Option<&'static str>,
    /// Columns of `kubectl get`: heading and JSON path.
    pub columns: &'static [(&'static str, &'static str)],
    /// What objects of the kind say, for `kubectl explain`.
    pub purpose: &'static str,
}

/// One of Istio's kinds that is known and not read (contract §6.1). It may be meant for another control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnreadKind {
    /// Its API group.
    pub group: &'static str,
    /// The name users write in `kind:`.
    pub name: &'static str,
}

/// Groups of Istio's kinds and of our own, all of which the validating webhook is asked about (contract §5.6).
const CONFIGURATION_GROUPS: [&str; 5] = [NETWORKING, SECURITY, TELEMETRY, EXTENSIONS, OWN];

/// Istio's kinds that are not read.
const UNREAD_KINDS: [UnreadKind; 1] = [unread(NETWORKING, "WorkloadGroup")];

const NETWORKING: &str = "networking.istio.io";
const SECURITY: &str = "security.istio.io";
const TELEMETRY: &str = "telemetry.istio.io";
const EXTENSIONS: &str = "extensions.istio.io";
/// The group of kinds of our own.
const OWN: &str = "istiod-lite.io";
const AGE: (&str, &str) = ("Age", ".metadata.creationTimestamp");

macro_rules! define_kind {
    ($(
        $(#[$doc:meta])*
        $kind:ident $(($content:ty))? { facts: $facts:expr, $(read: $read:ident,)? $(check: $check:ident,)? }
    )*) => {
        /// The kinds that istiod-lite reads.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Kind {
            $($(#[$doc])* $kind,)*
        }

        impl Kind {
            /// All kinds.
            pub const ALL: [Self; [$(stringify!($kind)),*].len()] = [$(Self::$kind),*];

            /// Returns the name users write in `kind:`. Kinds of other groups may have the same.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$kind => stringify!($kind),)*
                }
            }

            const fn facts(self) -> &'static Facts {
                match self {
                    $(Self::$kind => &const { $facts },)*
                }
            }
        }
    };
}

kinds!(define_kind);

/// What the list says of a kind.
#[derive(Clone, Copy)]
struct Facts {
    resource: Option<ApiResource>,
    /// Whether its text has the group, as the bare name may be another kind's.
    with_group: bool,
    /// Whether objects of one name in two clusters are two objects.
    local: bool,
    has_status: bool,
    room: &'static str,
    shown: Option<Shown>,
}

impl Kind {
    /// Returns the kind of that group and name.
    pub fn of(group: &str, name: &str) -> Option<Self> {
        let matching = |kind: &Self| kind.as_str() == name && kind.resource().is_some_and(|resource| resource.group == group);
        Self::ALL.into_iter().find(matching)
    }

    /// Returns the API group; empty for the core group and for MeshConfig.
    pub const fn group(self) -> &'static str {
        match self.resource() {
            Some(resource) => resource.group,
            None => "",
        }
    }

    /// Returns where the API server keeps its objects; `None` for MeshConfig, which is part of a ConfigMap.
    pub const fn resource(self) -> Option<&'static ApiResource> {
        self.facts().resource.as_ref()
    }

    /// Returns whether an object belongs to one cluster, so that another cluster may have another of that name. Of the
    /// other kinds, configuration, an object in two clusters is one thing said twice.
    pub const fn is_local(self) -> bool {
        self.facts().local
    }

    /// Returns whether it is one of Istio's kinds, or of our own.
    pub fn is_configuration(self) -> bool {
        CONFIGURATION_GROUPS.contains(&self.group())
    }

    /// Returns whether its objects have a status with conditions.
    pub const fn has_status(self) -> bool {
        self.facts().has_status
    }

    /// Returns the folder below `src` where its objects get their meaning.
    pub const fn room(self) -> &'static str {
        self.facts().room
    }

    /// Returns what our CustomResourceDefinition shows; `None` for kinds that need none.
    pub const fn shown(self) -> Option<&'static Shown> {
        self.facts().shown.as_ref()
    }
}

// The name users write, with the group where it may be another kind's: `Gateway.networking.istio.io`.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())?;
        if self.facts().with_group {
            write!(f, ".{}", self.group())?;
        }
        Ok(())
    }
}

impl UnreadKind {
    /// Returns the unread kind of that group and name.
    pub fn of(group: &str, name: &str) -> Option<&'static Self> {
        UNREAD_KINDS.iter().find(|kind| (kind.group, kind.name) == (group, name))
    }
}

impl Facts {
    const fn cluster_wide(mut self) -> Self {
        if let Some(resource) = &mut self.resource {
            resource.namespaced = false;
        }
        self
    }

    const fn of_group(mut self, group: &'static str) -> Self {
        if let Some(resource) = &mut self.resource {
            resource.group = group;
        }
        self
    }

    const fn with_group_in_text(mut self) -> Self {
        self.with_group = true;
        self
    }

    const fn meant_in(mut self, room: &'static str) -> Self {
        self.room = room;
        self
    }

    const fn shown(mut self, shown: Shown) -> Self {
        self.shown = Some(shown);
        self
    }
}

/// Returns the facts about a kind of Kubernetes' own.
const fn core(plural: &'static str) -> Facts {
    Facts {
        resource: Some(ApiResource { group: "", versions: &["v1"], plural, namespaced: true }),
        with_group: false,
        local: true,
        has_status: false,
        room: "",
        shown: None,
    }
}

const fn networking(plural: &'static str) -> Facts {
    istio(NETWORKING, &["v1", "v1beta1", "v1alpha3"], plural)
}

const fn networking_alpha(plural: &'static str) -> Facts {
    istio(NETWORKING, &["v1alpha3"], plural)
}

const fn security(plural: &'static str) -> Facts {
    istio(SECURITY, &["v1", "v1beta1"], plural)
}

const fn telemetry(plural: &'static str) -> Facts {
    istio(TELEMETRY, &["v1", "v1alpha1"], plural)
}

const fn extensions(plural: &'static str) -> Facts {
    istio(EXTENSIONS, &["v1alpha1"], plural)
}

const fn own(plural: &'static str) -> Facts {
    istio(OWN, &["v1alpha1"], plural)
}

/// Returns the facts about a kind whose objects are written as Istio's are.
const fn istio(group: &'static str, versions: &'static [&'static str], plural: &'static str) -> Facts {
    Facts { resource: Some(ApiResource { group, versions, plural, namespaced: true }), local: false, has_status: true, ..core(plural) }
}

/// Returns the facts about a kind whose objects are part of an object of another kind.
const fn part_of_another(room: &'static str) -> Facts {
    Facts { resource: None, local: false, room, ..core("") }
}

const fn unread(group: &'static str, name: &'static str) -> UnreadKind {
    UnreadKind { group, name }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, path::Path};

    use super::*;

    #[test]
    fn kinds_are_found_by_group_and_name_together() {
        for kind in Kind::ALL.into_iter().filter(|kind| kind.resource().is_some()) {
            assert_eq!(Kind::of(kind.group(), kind.as_str()), Some(kind));
        }
        assert_eq!(Kind::of("gateway.networking.k8s.io", "Gateway"), None);
        assert_eq!(Kind::of("", "MeshConfig"), None);
    }

    #[test]
    fn the_text_of_a_kind_is_its_own() {
        let texts: BTreeSet<String> = Kind::ALL.iter().map(ToString::to_string).collect();
        assert_eq!(texts.len(), Kind::ALL.len());
        assert_eq!(Kind::Gateway.to_string(), "Gateway.networking.istio.io");
        assert_eq!(Kind::VirtualService.to_string(), "VirtualService");
    }

    #[test]
    fn every_kind_has_a_room_and_configuration_a_definition() {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        for kind in Kind::ALL {
            assert!(!kind.room().is_empty() && sources.join(kind.room()).is_dir(), "{kind}: {:?}", kind.room());
            assert_eq!(kind.is_configuration(), kind.shown().is_some(), "{kind}");
            assert_eq!(kind.is_configuration(), kind.has_status(), "{kind}");
        }
    }

    #[test]
    fn a_kind_is_read_or_not() {
        assert!(
            UNREAD_KINDS.iter().all(|unread| Kind::of(unread.group, unread.name).is_none() && CONFIGURATION_GROUPS.contains(&unread.group))
        );
    }

    #[test]
    fn the_documentation_names_all_kinds() {
        let text = include_str!("../../docs/compatibility.md");
        for kind in Kind::ALL.into_iter().filter(|kind| kind.is_configuration()) {
            let versions = kind.resource().unwrap().versions.join(", ");
            let row = format!("| `{}` | `{}` | {versions} |", kind.as_str(), kind.group());
            assert!(text.contains(&row), "{row}");
        }
        let unread: Vec<&str> = UNREAD_KINDS.iter().map(|kind| kind.name).filter(|name| !text.contains(name)).collect();
        assert_eq!(unread, Vec::<&str>::new());
    }
}

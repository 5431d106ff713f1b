//! Where objects come from. Every source yields the same stream of events, and nothing behind it knows which source it is.

pub(crate) mod debounce;
mod fetched;
pub(crate) mod folder;
pub(crate) mod key_sets;
pub(crate) mod kubernetes;
pub(crate) mod locations;
pub(crate) mod mesh_config;
pub(crate) mod trust_bundles;

use std::sync::Arc;

use smol_str::SmolStr;

use crate::api::{Diagnostic, Location, Object, ObjectKey};

/// The new state of one object.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Change {
    /// The object was added or has new content.
    Applied(Arc<Object>),
    /// The object was deleted.
    Deleted(ObjectKey),
}

/// What a source reports.
#[derive(Clone, Debug)]
pub(crate) enum SourceEvent {
    /// Objects changed. Applying a batch twice is harmless.
    Changes(Vec<Change>),
    /// All objects that existed when the source was opened were sent.
    Synced,
    /// All findings of one source, which replace its earlier ones.
    Diagnostics {
        /// The source.
        source: SmolStr,
        /// What is wrong with its objects.
        findings: Vec<Diagnostic>,
    },
    /// Where objects are written, as far as that changed; `None` for objects that are written nowhere any more. Sent before
    /// the changes of these objects.
    Locations(Vec<(ObjectKey, Option<Location>)>),
    /// A source is lost. What it sent before is kept (rule 8).
    Lost {
        /// The source, for logs and metrics.
        source: SmolStr,
        /// Why it is lost.
        reason: String,
        /// How serious that is.
        loss: Loss,
    },
    /// A lost source is back, and what it sends can be trusted again.
    Recovered {
        /// The source, for logs and metrics.
        source: SmolStr,
    },
}

/// How serious the loss of a source is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// The source cannot be read. What it sent last is the best that is known.
    Unavailable,
    /// The source can be read, but is not about this mesh: another cluster answers, or an older state of this one. Other
    /// replicas serve proxies better, so this control plane is not ready while that lasts.
    Untrusted,
}

impl Change {
    /// Returns the key of the object that changed.
    pub(crate) fn key(&self) -> &ObjectKey {
        match self {
            Self::Applied(object) => &object.key,
            Self::Deleted(key) => key,
        }
    }
}

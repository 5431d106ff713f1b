//! Where objects come from. Every source yields the same stream of events; nothing behind it knows which it is.

pub mod debounce;

use std::sync::Arc;

pub mod folder;
pub mod kubernetes;
pub mod memory;
pub mod mesh_config;
pub mod places;

use smol_str::SmolStr;

use crate::api::{Diagnostic, Location, Object, ObjectKey};

/// One object's new state.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// It is there, with this content.
    Applied(Arc<Object>),
    /// It is gone.
    Deleted(ObjectKey),
}

/// What a source says.
#[derive(Clone, Debug)]
pub enum Event {
    /// Objects changed. Applying a batch twice is harmless.
    Changes(Vec<Change>),
    /// All that existed when the source was opened has been said: the world is complete.
    Synced,
    /// The findings that stand now, all of them: they replace those said before by the same source.
    Diagnostics {
        /// The source.
        source: SmolStr,
        /// What it found.
        findings: Vec<Diagnostic>,
    },
    /// Where objects are written, as far as that is news; `None`: nowhere any more. Comes before their changes.
    Places(Vec<(ObjectKey, Option<Location>)>),
    /// The source is gone or cannot be trusted; what it said before is kept (rule 8). Says why.
    Lost {
        /// The source, for logs and metrics.
        source: SmolStr,
        /// Why.
        reason: String,
        /// How grave that is.
        loss: Loss,
    },
    /// A lost source is back, and what it says is the truth again.
    Recovered {
        /// The source, for logs and metrics.
        source: SmolStr,
    },
}

/// How grave the loss of a source is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// It cannot be read. What it said last is as good as what can be known.
    Away,
    /// It can be read, and what it says is not about this mesh: another cluster answers, or an older state of this one.
    /// Proxies are better served elsewhere, so this control plane is not ready while that lasts.
    Untrusted,
}

impl Change {
    /// The object that changed.
    pub fn key(&self) -> &ObjectKey {
        match self {
            Self::Applied(object) => &object.key,
            Self::Deleted(key) => key,
        }
    }
}

//! Responses on their way, and what the proxy has under a name.

use std::{sync::Arc, time::Instant};

use smol_str::SmolStr;

use super::response::Reason;
use crate::xds::{resource::Resource, view::View};

/// What the proxy has under a name.
#[derive(Clone, Debug)]
pub(super) enum Held {
    /// Nothing.
    Nothing,
    /// Something: from an earlier connection, or out of a response that it refused in part. It may be this.
    Unknown(Option<Arc<Resource>>),
    /// This.
    Content(Arc<Resource>),
}

/// A name whose content at the proxy is not what the view says, or which has to be answered all the same.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub(super) held: Held,
    pub(super) reason: Reason,
}

/// One name in a response.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) name: SmolStr,
    /// `None`: removed.
    pub(super) content: Option<Arc<Resource>>,
    /// What the proxy had before.
    pub(super) before: Held,
    pub(super) reason: Reason,
    /// Whether it stands in for something that the view does not have: it is never to blame, and not repeated.
    pub(super) is_stand_in: bool,
}

/// A response that was not yet answered.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) nonce: u64,
    pub(super) sent_at: Instant,
    pub(super) items: Vec<Sent>,
    /// How many of the names the view did not have.
    pub(super) strangers: usize,
    /// The view of which the client has answered for everything once it takes this response.
    pub(super) completes: Option<View>,
    /// Whether the gates no longer wait for its ACK.
    pub(super) is_overdue: bool,
    /// Whether it was reported that a gate opened without its ACK.
    pub(super) is_reported: bool,
    /// Whether it repeated what was refused before: its refusal then says nothing about its own items.
    pub(super) is_tainted: bool,
}

impl Held {
    /// Returns whether the proxy may lack it altogether.
    pub(super) fn is_uncertain(&self) -> bool {
        !matches!(self, Self::Content(_))
    }

    /// Returns what the proxy has, or may have.
    pub(super) fn content(&self) -> Option<&Arc<Resource>> {
        match self {
            Self::Content(resource) => Some(resource),
            Self::Unknown(resource) => resource.as_ref(),
            Self::Nothing => None,
        }
    }

    /// Returns the same, but no longer for certain.
    pub(super) fn blurred(&self) -> Self {
        Self::Unknown(self.content().cloned())
    }
}

impl Flight {
    /// Makes a response that goes out now.
    pub(super) fn new(nonce: u64, sent_at: Instant, items: Vec<Sent>) -> Self {
        let strangers = strangers(&items);
        Self { nonce, sent_at, items, strangers, completes: None, is_overdue: false, is_reported: false, is_tainted: false }
    }
}

/// Returns how many of the names the view did not have when they were sent.
pub(super) fn strangers(items: &[Sent]) -> usize {
    items.iter().filter(|item| item.is_stand_in || item.content.is_none()).count()
}

//! What one proxy has of one type, was sent, and is still to be sent.
//!
//! The proxy holds what its view says, but for a few names: those are `pending`. A new view adds its differences to
//! them, sending takes them out. What was sent and not yet answered is `in_flight`.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    mem,
    sync::Arc,
    time::Instant,
};

use smol_str::SmolStr;

use super::{TypeState, names::Names};
use crate::xds::{
    resource::{ContentHash, Resource},
    resource_type::ResourceType,
    view::{Difference, View},
};

/// Responses that may wait for their ACK before they are counted as one.
const FLIGHTS: usize = 32;

/// Why a resource is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// Its content changed.
    Changed,
    /// The client asked for it.
    Requested,
    /// Its cluster is new or changed for the proxy, which waits for it even when it is unchanged.
    Warming,
    /// The proxy came back with other content, or without it.
    Reconnect,
    /// State of the world says all of a type whenever one changed.
    Repeated,
}

/// What the proxy has under a name.
#[derive(Clone, Debug)]
pub(crate) enum Held {
    /// Nothing.
    Nothing,
    /// Something: from an earlier connection, or out of a response that it refused in part. It may be this.
    Unknown(Option<Arc<Resource>>),
    /// This.
    Content(Arc<Resource>),
}

/// A name whose content at the proxy is not what the view says, or which has to be answered all the same.
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    pub(crate) held: Held,
    pub(crate) reason: Reason,
}

/// One name in a response.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) name: SmolStr,
    /// `None`: removed.
    pub(crate) content: Option<Arc<Resource>>,
    pub(crate) before: Held,
    pub(crate) reason: Reason,
    /// An answer that stands for nothing in the view: never to blame, and not repeated.
    made_up: bool,
}

/// A response that was not yet answered.
#[derive(Debug)]
pub(crate) struct Flight {
    nonce: u64,
    pub(crate) sent_at: Instant,
    pub(crate) items: Vec<Sent>,
    /// No gate waits for its ACK any longer.
    pub(crate) overdue: bool,
    /// That a gate opened without it was said.
    pub(crate) reported: bool,
    /// It repeated what was refused before: its refusal says nothing about its own items.
    tainted: bool,
}

/// A response that the proxy refused, in whole or in part.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// What is to blame, as far as that is known: not sent again unasked.
    pub(crate) refused: Vec<Arc<Resource>>,
    /// What was in the response, when nothing is to blame yet: it is sent again in halves.
    pub(crate) suspects: Vec<Arc<Resource>>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) kind: ResourceType,
    /// The client asked for this type.
    pub(crate) open: bool,
    /// All of this type, named or not.
    pub(super) wildcard: bool,
    pub(super) names: Names,
    /// Each response has all that the client is to have, not just what is new.
    pub(super) whole: bool,
    /// A first answer is due, even an empty one.
    pub(crate) owes: bool,
    pub(crate) view: View,
    pub(crate) pending: BTreeMap<SmolStr, Pending>,
    refused: BTreeMap<SmolStr, ContentHash>,
    suspects: VecDeque<BTreeSet<SmolStr>>,
    pub(crate) in_flight: VecDeque<Flight>,
    last_nonce: u64,
    last_acked: u64,
}

impl Channel {
    pub(crate) fn new(kind: ResourceType, view: View) -> Self {
        Self {
            kind,
            open: false,
            wildcard: false,
            names: Names::default(),
            whole: false,
            owes: false,
            view,
            pending: BTreeMap::new(),
            refused: BTreeMap::new(),
            suspects: VecDeque::new(),
            in_flight: VecDeque::new(),
            last_nonce: 0,
            last_acked: 0,
        }
    }

    /// What the proxy is to have under a name.
    pub(crate) fn target(&self, name: &str) -> Option<&Arc<Resource>> {
        self.view.get(self.kind, name)
    }

    /// Whether the client wants to hear of a name.
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.open && (self.wildcard || self.names.contains(name, &self.view, self.kind))
    }

    /// Turns to a newer view: state, not a queue (rule 9).
    pub(crate) fn rebase(&mut self, view: &View) {
        let old = mem::replace(&mut self.view, view.clone());
        if !self.open {
            return;
        }
        let differences = view.differences(&old, self.kind);
        for difference in &differences {
            let (name, new) = match difference {
                Difference::Changed(resource) => (&resource.name, Some(resource.version)),
                Difference::Removed(name) => (*name, None),
            };
            if self.wildcard || self.names.contains(name, &old, self.kind) {
                self.expect(name, new, old.get(self.kind, name));
            }
        }
        self.names.rebase(&differences, &old, self.kind);
    }

    fn expect(&mut self, name: &SmolStr, new: Option<ContentHash>, old: Option<&Arc<Resource>>) {
        match self.pending.get(name) {
            // Back to what the proxy still has: nothing was sent, nothing need be.
            Some(Pending { held: Held::Content(held), reason: Reason::Changed }) if Some(held.version) == new => {
                self.pending.remove(name);
            }
            Some(Pending { held: Held::Nothing, reason: Reason::Changed }) if new.is_none() => {
                self.pending.remove(name);
            }
            Some(_) => {}
            None => {
                let held = old.map_or(Held::Nothing, |resource| Held::Content(Arc::clone(resource)));
                self.pending.insert(name.clone(), Pending { held, reason: Reason::Changed });
            }
        }
    }

    /// Has a name sent, whatever the proxy has of it.
    pub(crate) fn request(&mut self, name: &str, reason: Reason) {
        if reason == Reason::Requested {
            self.refused.remove(name);
        }
        if let Some(pending) = self.pending.get_mut(name) {
            pending.reason = reason;
            return;
        }
        let (name, held) = match self.target(name) {
            Some(resource) => (resource.name.clone(), Held::Content(Arc::clone(resource))),
            None => (name.into(), Held::Nothing),
        };
        self.pending.insert(name, Pending { held, reason });
    }

    /// Notes what the proxy has of a name from before this connection.
    pub(super) fn assume(&mut self, name: &str, held: Held, reason: Reason) {
        let name = self.target(name).map_or_else(|| name.into(), |resource| resource.name.clone());
        self.pending.insert(name, Pending { held, reason });
    }

    /// Forgets a name that the client gave up.
    pub(super) fn forget(&mut self, name: &str) {
        self.pending.remove(name);
        self.refused.remove(name);
    }

    /// Pending names that may be sent as far as this type alone can tell. Suspects of an unexplained refusal go
    /// group by group, each alone.
    pub(crate) fn ready(&self) -> Vec<Arc<Resource>> {
        // What repeats a refused content will be refused too: only then can be told who is to blame.
        if self.in_flight.iter().any(|flight| flight.tainted && !flight.overdue) {
            return Vec::new();
        }
        let suspect = |name: &SmolStr| self.suspects.iter().any(|group| group.contains(name));
        let sendable = self.pending.iter().filter_map(|(name, pending)| self.sendable(name, pending));
        let ready: Vec<_> = sendable.filter(|resource| !suspect(&resource.name)).cloned().collect();
        if !ready.is_empty() || self.in_flight.iter().any(|flight| !flight.overdue) {
            return ready;
        }
        let group = |names: &BTreeSet<SmolStr>| -> Vec<_> {
            let pending = names.iter().filter_map(|name| self.pending.get_key_value(name));
            pending.filter_map(|(name, pending)| self.sendable(name, pending)).cloned().collect()
        };
        self.suspects.iter().map(group).find(|group| !group.is_empty()).unwrap_or_default()
    }

    fn sendable(&self, name: &SmolStr, pending: &Pending) -> Option<&Arc<Resource>> {
        let target = self.target(name)?;
        (pending.reason == Reason::Requested || self.refused.get(name) != Some(&target.version)).then_some(target)
    }

    /// Names that the proxy has, or asked for, and that are gone.
    pub(crate) fn gone(&self) -> impl Iterator<Item = (&SmolStr, &Pending)> {
        self.pending.iter().filter(|(name, _)| self.target(name).is_none())
    }

    /// Whether the proxy would not take what the view has under a name.
    pub(crate) fn is_refused(&self, name: &str) -> bool {
        self.refused.get(name).is_some_and(|refused| self.target(name).is_some_and(|target| target.version == *refused))
    }

    /// Whether the proxy surely has nothing under a name.
    pub(crate) fn lacks(&self, name: &str) -> bool {
        self.pending.get(name).is_some_and(|pending| matches!(pending.held, Held::Nothing))
    }

    /// What the proxy has under a name, once what is in flight has arrived.
    pub(crate) fn effective(&self, name: &str) -> Option<&Arc<Resource>> {
        match self.pending.get(name) {
            Some(pending) => pending.held.content(),
            None => self.target(name),
        }
    }

    /// Whether a nonce is one of this connection's.
    pub(super) fn is_ours(&self, nonce: &str) -> bool {
        nonce.parse().is_ok_and(|nonce| (1..=self.last_nonce).contains(&nonce))
    }

    /// Whether a nonce answers nothing: neither what is in flight nor the newest response, which a client that changes
    /// its subscription names again.
    pub(crate) fn is_expired(&self, nonce: &str) -> bool {
        self.flight(nonce).is_none() && nonce.parse() != Ok(self.last_nonce)
    }

    /// How far the client is.
    pub(crate) fn state(&self) -> TypeState {
        TypeState { subscribed: self.open, sent: self.last_nonce, acked: self.last_acked }
    }

    /// Records a response: what it contains is now what the proxy has.
    pub(crate) fn sent(&mut self, nonce: u64, now: Instant, contents: Vec<(SmolStr, Option<Arc<Resource>>)>) -> &[Sent] {
        self.owes = false;
        self.last_nonce = nonce;
        let mut items = Vec::with_capacity(contents.len());
        for (name, content) in contents {
            let pending = self.pending.remove(&name).unwrap_or(Pending { held: Held::Nothing, reason: Reason::Requested });
            let made_up = self.target(&name).is_none();
            if let Some(extra) = content.as_ref().filter(|_| made_up) {
                // An answer that the view does not have (an empty route table): to be replaced once it has one.
                self.pending.insert(name.clone(), Pending { held: Held::Content(Arc::clone(extra)), reason: Reason::Changed });
            }
            items.push(Sent { name, content, before: pending.held, reason: pending.reason, made_up });
        }
        for group in &mut self.suspects {
            group.retain(|name| self.pending.contains_key(name));
        }
        self.suspects.retain(|group| !group.is_empty());
        if self.in_flight.len() == FLIGHTS {
            self.merge_oldest();
        }
        self.in_flight.push_back(Flight { nonce, sent_at: now, items, overdue: false, reported: false, tainted: false });
        self.in_flight.back().map_or(&[], |flight| &flight.items)
    }

    // A client that never answers must not make us remember every response.
    fn merge_oldest(&mut self) {
        if let (Some(mut oldest), Some(next)) = (self.in_flight.pop_front(), self.in_flight.front_mut()) {
            let newer: BTreeSet<_> = next.items.iter().map(|item| item.name.clone()).collect();
            oldest.items.retain(|item| !newer.contains(&item.name));
            next.items.append(&mut oldest.items);
            next.sent_at = oldest.sent_at;
        }
    }

    /// The client took the response of that nonce, and so it has answered all before it. What they contained.
    pub(crate) fn ack(&mut self, nonce: &str) -> Vec<Sent> {
        let Some(index) = self.flight(nonce) else { return Vec::new() };
        self.last_acked = self.in_flight.get(index).map_or(self.last_acked, |flight| flight.nonce);
        self.in_flight.drain(..=index).flat_map(|flight| flight.items).collect()
    }

    /// The client refused the response of that nonce. `None`: not one that it was sent.
    pub(crate) fn nack(&mut self, nonce: &str, error: &str) -> Option<Refusal> {
        let index = self.flight(nonce)?;
        let flight = self.in_flight.drain(..=index).next_back()?;
        // A refused removal would be refused again.
        let blamable = || flight.items.iter().filter(|item| !item.made_up && item.content.is_some());
        let contents: Vec<_> = blamable().filter_map(|item| item.content.clone()).collect();
        if self.whole {
            self.in_flight.iter_mut().for_each(|later| later.tainted = true);
        }
        let named = blamed(self.kind, &contents, error);
        let refused = if contents.len() == 1 && !flight.tainted { contents.clone() } else { named };
        for resource in &refused {
            self.refused.insert(resource.name.clone(), resource.version);
        }
        for item in blamable() {
            let is_refused = refused.iter().any(|resource| resource.name == item.name);
            // Envoy may have taken what it does not blame.
            self.take_back(&item.name, if is_refused { item.before.clone() } else { item.before.blurred() });
        }
        let suspects = if refused.is_empty() && !flight.tainted { contents } else { Vec::new() };
        if !suspects.is_empty() {
            let (one, other) = suspects.split_at(suspects.len().div_ceil(2));
            for half in [other, one] {
                self.suspects.push_front(half.iter().map(|resource| resource.name.clone()).collect());
            }
        }
        Some(Refusal { refused, suspects })
    }

    // A response failed to change what the proxy has under a name, unless a later one is on its way to it.
    fn take_back(&mut self, name: &SmolStr, held: Held) {
        let later = self.in_flight.iter_mut().flat_map(|flight| &mut flight.items).find(|later| later.name == *name);
        if let Some(later) = later {
            later.before = held;
            return;
        }
        let wanted = self.wants(name);
        match self.pending.get_mut(name) {
            Some(pending) => pending.held = held,
            None if wanted => drop(self.pending.insert(name.clone(), Pending { held, reason: Reason::Changed })),
            None => {}
        }
    }

    fn flight(&self, nonce: &str) -> Option<usize> {
        let nonce: u64 = nonce.parse().ok()?;
        self.in_flight.iter().position(|flight| flight.nonce == nonce)
    }
}

impl Reason {
    /// The word that metrics use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Requested => "requested",
            Self::Warming => "warming",
            Self::Reconnect => "reconnect",
            Self::Repeated => "repeated",
        }
    }
}

impl Held {
    /// Whether the proxy may lack it altogether.
    pub(crate) fn is_uncertain(&self) -> bool {
        !matches!(self, Self::Content(_))
    }

    /// What it has, or may have.
    pub(crate) fn content(&self) -> Option<&Arc<Resource>> {
        match self {
            Self::Content(resource) => Some(resource),
            Self::Unknown(resource) => resource.as_ref(),
            Self::Nothing => None,
        }
    }

    fn blurred(&self) -> Self {
        Self::Unknown(self.content().cloned())
    }
}

/// Returns the resources that an error message names.
fn blamed(kind: ResourceType, contents: &[Arc<Resource>], error: &str) -> Vec<Arc<Resource>> {
    if !kind.has_names_in_errors() {
        return Vec::new();
    }
    let part_of_name = |byte: u8| byte.is_ascii_alphanumeric() || b"_-|".contains(&byte);
    let names = |name: &str| {
        !name.is_empty()
            && error.match_indices(name).any(|(start, _)| {
                let before = error.as_bytes()[..start].last();
                let after = error.as_bytes()[start + name.len()..].first();
                !before.is_some_and(|byte| part_of_name(*byte)) && !after.is_some_and(|byte| part_of_name(*byte))
            })
    };
    contents.iter().filter(|resource| names(&resource.name)).cloned().collect()
}

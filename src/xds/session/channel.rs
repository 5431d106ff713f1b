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

pub(super) use self::answers::Nacked;
use super::{
    event::Refused,
    flight::{Flight, Held, Pending},
    names::Names,
    response::Reason,
    suspects::Suspects,
    table_trial::{JoinedTables, TableTrial},
};
use crate::{
    peer_text::PeerText,
    visits::{Visit, Visited},
    xds::{
        resource::{ContentHash, Resource},
        resource_type::ResourceType,
        view::{Difference, View},
    },
};

mod answers;
mod outstanding;
mod virtual_hosts;

/// The state of one type on one connection; see the module.
#[derive(Debug)]
pub(super) struct Channel {
    kind: ResourceType,
    is_open: bool,
    /// All of the type, named or not.
    wildcard: bool,
    names: Names,
    /// Whether the client took up or gave up all of the type, and what it did not name is yet to be looked through.
    is_unsettled: bool,
    /// Set where the client gave up all of the type in between, and with it what it had not named: what is pending of the names
    /// that it gave up only after it had asked for all again.
    gave_up_all: Option<BTreeSet<SmolStr>>,
    /// Whether the client asked once more for all that it asks for.
    asks_again: bool,
    /// Whether each response has all that the client is to have, not just what is new.
    repeats_all: bool,
    /// Whether each request and response speaks of all, be it only in its version.
    speaks_of_all: bool,
    /// Whether a first answer is due, even an empty one.
    owes_answer: bool,
    view: View,
    pending: BTreeMap<SmolStr, Pending>,
    /// How many of them the view does not have.
    pending_strangers: usize,
    /// What the client was sent for names that the view does not have. Nothing more is to be said of them.
    stood_in: BTreeMap<SmolStr, Arc<Resource>>,
    refused: BTreeMap<SmolStr, RefusedContent>,
    /// Route tables of which some virtual hosts are refused, or may be.
    trials: BTreeMap<SmolStr, TableTrial>,
    joined: Arc<JoinedTables>,
    /// The refusals that were reported last.
    reported: Arc<[Refused]>,
    suspects: Suspects,
    in_flight: VecDeque<Flight>,
    last_nonce: u64,
    /// The generation of the last view that was reported as completed.
    completed: u64,
}

/// What a client asks for when it opens a type.
#[derive(Debug)]
pub(super) struct Subscription<'a> {
    /// All of the type, named or not.
    pub(super) wildcard: bool,
    /// Whether each response has all that the client is to have, not just what is new.
    pub(super) repeats_all: bool,
    /// Whether each request and response speaks of all, be it only in its version.
    pub(super) speaks_of_all: bool,
    pub(super) names: Vec<&'a str>,
}

#[derive(Debug)]
struct RefusedContent {
    version: ContentHash,
    error: PeerText,
    since: Instant,
    /// Whether the gates no longer wait for something else in its place.
    is_overdue: bool,
    /// Whether it was reported that a gate opened all the same.
    is_reported: bool,
}

impl Channel {
    pub(super) fn new(kind: ResourceType, view: View, joined: Arc<JoinedTables>) -> Self {
        Self {
            kind,
            is_open: false,
            wildcard: false,
            names: Names::default(),
            is_unsettled: false,
            gave_up_all: None,
            asks_again: false,
            repeats_all: false,
            speaks_of_all: false,
            owes_answer: false,
            view,
            pending: BTreeMap::new(),
            pending_strangers: 0,
            stood_in: BTreeMap::new(),
            refused: BTreeMap::new(),
            trials: BTreeMap::new(),
            joined,
            reported: Arc::default(),
            suspects: Suspects::default(),
            in_flight: VecDeque::new(),
            last_nonce: 0,
            completed: 0,
        }
    }

    // === what the client asks for ===

    /// Records the first request for the type.
    pub(super) fn open(&mut self, subscription: &Subscription<'_>) {
        self.is_open = true;
        self.wildcard = subscription.wildcard;
        self.repeats_all = subscription.repeats_all;
        self.speaks_of_all = subscription.speaks_of_all;
        for name in &subscription.names {
            self.follow(name);
        }
    }

    /// Returns whether the client asked for the type.
    pub(super) fn is_open(&self) -> bool {
        self.is_open
    }

    /// Returns whether the client asked for all of the type.
    pub(super) fn follows_all(&self) -> bool {
        self.wildcard
    }

    /// Records whether the client asks for all of the type. What that means for what it did not name is looked through when
    /// something is said next ([`settle`](Self::settle)): it is said in a few bytes, and as often as the client likes.
    pub(super) fn set_follows_all(&mut self, all: bool) {
        self.is_unsettled |= self.wildcard != all;
        if self.wildcard && !all {
            self.gave_up_all = Some(BTreeSet::new());
        }
        self.wildcard = all;
    }

    /// Records that the client asks once more for all that it asks for, whatever it has.
    pub(super) fn ask_again(&mut self) {
        self.asks_again = true;
    }

    /// Works out what requests for all of the type come to.
    pub(super) fn settle(&mut self) {
        let view = self.view.clone();
        if mem::take(&mut self.is_unsettled) {
            if let Some(kept) = self.gave_up_all.take() {
                // It dropped what it had not named, also when it asks for all of that again.
                self.forget_unnamed(&kept);
            }
            if self.wildcard {
                let unnamed = view.iter(self.kind).visiting(Visited::Name).map(|resource| &resource.name);
                // What it had named until now it may have, and what is pending says what.
                let is_new = |name: &&SmolStr| !self.names.contains(name, &view, self.kind) && !self.pending.contains_key(*name);
                let unnamed: Vec<_> = unnamed.filter(is_new).collect();
                unnamed.into_iter().for_each(|name| self.assume(name, Held::Nothing, Reason::Requested));
            }
        }
        if mem::take(&mut self.asks_again) {
            self.owed_names().iter().visiting(Visited::Name).for_each(|name| self.request(name, Reason::Requested));
        }
    }

    /// Returns the names of all that the client is to have or asks for, sorted.
    pub(super) fn owed_names(&self) -> Vec<SmolStr> {
        let all = self.wildcard.then(|| self.targets()).into_iter().flatten().map(|resource| &resource.name);
        let mut names: Vec<_> = all.chain(self.followed()).visiting(Visited::Name).cloned().collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Adds a name to those that the client asks for.
    pub(super) fn follow(&mut self, name: &str) {
        self.names.insert(name, &self.view, self.kind);
    }

    /// Takes a name from those that the client asks for.
    pub(super) fn unfollow(&mut self, name: &str) {
        let was_named = self.names.contains(name, &self.view, self.kind);
        self.names.remove(name, &self.view, self.kind);
        self.stood_in.remove(name);
        let lacks_nothing = |pending: &Pending| matches!(pending.held, Held::Nothing);
        // What is gone is taken from a client that has it, whether it is named or not.
        if !self.wildcard || (self.target(name).is_none() && self.pending.get(name).is_some_and(lacks_nothing)) {
            self.forget(name);
        } else if was_named && self.is_unsettled {
            self.keep(name);
        }
    }

    /// Notes that the client keeps what it has under a name that it gave up after it had asked for all: what is not named then counts
    /// as new when that is looked through.
    fn keep(&mut self, name: &str) {
        if self.target(name).is_some() && !self.pending.contains_key(name) {
            self.request(name, Reason::Requested);
        }
        if let Some(kept) = self.gave_up_all.as_mut().filter(|_| self.pending.contains_key(name)) {
            kept.insert(name.into());
        }
    }

    /// Returns how many names the client asks for one by one.
    pub(super) fn named(&self) -> usize {
        self.names.len(&self.view, self.kind)
    }

    /// Returns the names that the client asks for one by one, in no particular order.
    pub(super) fn followed(&self) -> impl Iterator<Item = &SmolStr> {
        self.names.iter(&self.view, self.kind)
    }

    /// Returns whether the client wants to hear of a name.
    pub(super) fn wants(&self, name: &str) -> bool {
        self.is_open && (self.wildcard || self.names.contains(name, &self.view, self.kind))
    }

    /// Returns whether the client has what it is to have under a name, or waits for it.
    pub(super) fn knows(&self, name: &str) -> bool {
        self.names.contains(name, &self.view, self.kind) || (self.is_open && self.wildcard && !self.is_unsettled)
    }

    /// Returns whether the client has something under a name, or is about to be told of it, because it asks for all.
    pub(super) fn has_by_asking_for_all(&self, name: &str) -> bool {
        let is_pending = self.pending.contains_key(name);
        // What it had not named it dropped when it gave up all in between.
        let is_kept = || self.gave_up_all.as_ref().is_none_or(|kept| kept.contains(name));
        self.is_open && self.wildcard && if self.is_unsettled { is_pending && is_kept() } else { is_pending || self.target(name).is_some() }
    }

    fn forget_unnamed(&mut self, kept: &BTreeSet<SmolStr>) {
        let held = self.pending.keys().chain(self.stood_in.keys()).visiting(Visited::Name);
        let is_unnamed = |name: &&SmolStr| !self.names.contains(name, &self.view, self.kind) && !kept.contains(*name);
        let unnamed: Vec<_> = held.filter(is_unnamed).cloned().collect();
        unnamed.iter().for_each(|name| self.forget(name));
    }

    fn forget(&mut self, name: &str) {
        self.take_pending(name);
        self.refused.remove(name);
        self.trials.remove(name);
    }

    fn set_pending(&mut self, name: SmolStr, pending: Pending) {
        self.stood_in.remove(&name);
        let is_stranger = self.target(&name).is_none();
        if self.pending.insert(name, pending).is_none() {
            self.pending_strangers += usize::from(is_stranger);
        }
    }

    fn take_pending(&mut self, name: &str) -> Option<Pending> {
        self.suspects.remove(name);
        let standing_in = |resource| Pending { held: Held::Content(resource), reason: Reason::Changed };
        let pending = self.pending.remove(name);
        if pending.is_some() {
            self.pending_strangers -= usize::from(self.target(name).is_none());
        }
        pending.or_else(|| self.stood_in.remove(name).map(standing_in))
    }

    /// Has an answer sent even when there is nothing to say.
    pub(super) fn owe_answer(&mut self, owes: bool) {
        self.owes_answer = owes;
    }

    /// Returns whether an answer is due even when there is nothing to say.
    pub(super) fn owes_answer(&self) -> bool {
        self.owes_answer
    }

    // === what the client is to have ===

    /// Returns what the proxy is to have under a name.
    pub(super) fn target(&self, name: &str) -> Option<&Arc<Resource>> {
        self.view.get(self.kind, name)
    }

    /// Returns all that the view has of the type.
    pub(super) fn targets(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.view.iter(self.kind)
    }

    /// Turns to a newer view: state, not a queue (rule 9).
    pub(super) fn rebase(&mut self, view: &View) {
        self.settle();
        let old = mem::replace(&mut self.view, view.clone());
        self.pending_strangers = self.pending.keys().filter(|name| self.target(name).is_none()).count();
        if !self.is_open {
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
        self.restart_trials(&differences);
        self.mark_completing();
    }

    fn expect(&mut self, name: &SmolStr, new: Option<ContentHash>, old: Option<&Arc<Resource>>) {
        match self.pending.get(name) {
            // Back to what the proxy still has: nothing was sent, nothing need be.
            Some(Pending { held: Held::Content(held), reason: Reason::Changed }) if Some(held.version) == new => {
                self.take_pending(name);
            }
            Some(Pending { held: Held::Nothing, reason: Reason::Changed }) if new.is_none() => {
                self.take_pending(name);
            }
            Some(_) => {}
            None => {
                let held = old.or(self.stood_in.get(name)).map_or(Held::Nothing, |resource| Held::Content(Arc::clone(resource)));
                self.set_pending(name.clone(), Pending { held, reason: Reason::Changed });
            }
        }
    }

    /// Has a name sent, whatever the proxy holds under it.
    pub(super) fn request(&mut self, name: &str, reason: Reason) {
        if reason == Reason::Requested {
            self.refused.remove(name);
        }
        if let Some(pending) = self.pending.get_mut(name) {
            pending.reason = reason;
            return;
        }
        let (name, held) = match self.target(name).or(self.stood_in.get(name)) {
            Some(resource) => (resource.name.clone(), Held::Content(Arc::clone(resource))),
            None => (name.into(), Held::Nothing),
        };
        self.set_pending(name, Pending { held, reason });
    }

    /// Has a name sent under which the proxy has `held` from before this connection.
    pub(super) fn assume(&mut self, name: &str, held: Held, reason: Reason) {
        let name = self.target(name).map_or_else(|| name.into(), |resource| resource.name.clone());
        self.set_pending(name, Pending { held, reason });
    }

    /// Has a name sent again for which the proxy waits, unless it is about to be sent anyway.
    pub(super) fn rewarm(&mut self, name: &str) {
        if self.wants(name) && self.target(name).is_some() && !self.pending.contains_key(name) {
            self.request(name, Reason::Warming);
        }
    }

    // === what the proxy has ===

    // Returns whether the proxy would not take what the view has under a name.
    fn is_refused(&self, name: &str) -> bool {
        self.refused.get(name).is_some_and(|refused| self.target(name).is_some_and(|target| target.version == refused.version))
    }

    /// Returns whether the proxy refused what the view has under a name, has nothing else there, and a gate still waits.
    pub(super) fn holds_back(&self, name: &str) -> bool {
        let is_late = self.refused.get(name).is_none_or(|refused| refused.is_overdue);
        !is_late && self.is_refused(name) && self.lacks(name)
    }

    // Returns whether the proxy surely has nothing under a name.
    fn lacks(&self, name: &str) -> bool {
        self.pending.get(name).is_some_and(|pending| matches!(pending.held, Held::Nothing))
    }

    /// Returns what the proxy has under a name, once what is in flight has arrived.
    pub(super) fn effective(&self, name: &str) -> Option<&Arc<Resource>> {
        match self.pending.get(name) {
            Some(pending) => pending.held.content(),
            None => self.target(name).or(self.stood_in.get(name)),
        }
    }

    /// Returns what the proxy has, or may have, where the view has something else.
    pub(super) fn outdated(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.pending.values().filter_map(|pending| pending.held.content())
    }

    /// Returns the names that the view has and that the proxy may lack: pending, or sent without the proxy having
    /// answered in time for a gate to wait for it.
    pub(super) fn unconfirmed(&self) -> BTreeSet<&SmolStr> {
        let flights = self.in_flight.iter().filter(|flight| !flight.is_overdue).flat_map(|flight| &flight.items);
        let sent =
            flights.visiting(Visited::Name).filter(|item| item.content.is_some() && item.before.is_uncertain()).map(|item| &item.name);
        let is_unsent =
            |name: &SmolStr, pending: &Pending| pending.held.is_uncertain() && self.target(name).is_some() && !self.is_refused(name);
        let unsent = self.pending.iter().visiting(Visited::Name).filter(|(name, pending)| is_unsent(name, pending)).map(|(name, _)| name);
        sent.chain(unsent).collect()
    }
}

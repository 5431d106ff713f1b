//! What one proxy has of one type, was sent, and is still to be sent.
//!
//! The proxy holds what its view says, but for a few names: those are `pending`. A new view adds its differences to
//! them, sending takes them out. What was sent and not yet answered is `in_flight`.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque, hash_map::Entry},
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use rustc_hash::{FxHashMap, FxHashSet};
use smol_str::SmolStr;

use super::{
    blame::blamed,
    event::Refused,
    flight::{Flight, Held, Pending, Sent},
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

mod virtual_hosts;

/// How many responses that wait for their ACK are remembered one by one, at least.
const FLIGHTS: usize = 32;
/// How many names may be in them beyond those that the view has and the client asks for, before they are merged.
const FLIGHT_NAMES: usize = 8192;

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

/// What the client accepted by an ACK.
#[derive(Debug, Default)]
pub(super) struct Acked {
    pub(super) nonce: u64,
    pub(super) items: Vec<Sent>,
    /// The view that it has now answered for as a whole.
    pub(super) completes: Option<View>,
}

/// A response that the proxy refused, in whole or in part.
#[derive(Debug)]
pub(super) struct Nacked {
    /// What is to blame, as far as that is known: not sent again unasked.
    pub(super) refused: Vec<Arc<Resource>>,
    /// What was in the response, when nothing is to blame yet: it is sent again in halves.
    pub(super) suspects: Vec<Arc<Resource>>,
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
            asks_again: false,
            repeats_all: false,
            speaks_of_all: false,
            owes_answer: false,
            view,
            pending: BTreeMap::new(),
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
            // It dropped what it had not named, also when it asks for all of that again.
            self.forget_unnamed();
            if self.wildcard {
                let unnamed = view.iter(self.kind).visiting(Visited::Name).map(|resource| &resource.name);
                let unnamed: Vec<_> = unnamed.filter(|name| !self.names.contains(name, &view, self.kind)).collect();
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
        self.names.remove(name, &self.view, self.kind);
        self.stood_in.remove(name);
        let lacks_nothing = |pending: &Pending| matches!(pending.held, Held::Nothing);
        // What is gone is taken from a client that has it, whether it is named or not.
        if !self.wildcard || (self.target(name).is_none() && self.pending.get(name).is_some_and(lacks_nothing)) {
            self.forget(name);
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

    fn forget_unnamed(&mut self) {
        let held = self.pending.keys().chain(self.stood_in.keys()).visiting(Visited::Name);
        let unnamed: Vec<_> = held.filter(|name| !self.names.contains(name, &self.view, self.kind)).cloned().collect();
        unnamed.iter().for_each(|name| self.forget(name));
    }

    fn forget(&mut self, name: &str) {
        self.take_pending(name);
        self.refused.remove(name);
        self.trials.remove(name);
    }

    fn set_pending(&mut self, name: SmolStr, pending: Pending) {
        self.stood_in.remove(&name);
        self.pending.insert(name, pending);
    }

    fn take_pending(&mut self, name: &str) -> Option<Pending> {
        self.suspects.remove(name);
        let standing_in = |resource| Pending { held: Held::Content(resource), reason: Reason::Changed };
        self.pending.remove(name).or_else(|| self.stood_in.remove(name).map(standing_in))
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

    // === what may be sent ===

    /// Returns the pending names that may be sent as far as this type alone can tell. Suspects of an unexplained
    /// refusal go group by group, each alone.
    pub(super) fn ready(&self) -> Vec<Arc<Resource>> {
        // A response that repeats refused content will be refused too. Nobody can tell who is to blame before that has
        // happened.
        if self.in_flight.iter().any(|flight| flight.is_tainted && !flight.is_overdue) {
            return Vec::new();
        }
        let ready: Vec<_> = self.outstanding().filter(|resource| !self.suspects.contains(&resource.name)).cloned().collect();
        if !ready.is_empty() || self.awaits_ack() {
            return ready;
        }
        let group = |names: &BTreeSet<SmolStr>| -> Vec<_> {
            let pending = names.iter().filter_map(|name| self.pending.get_key_value(name));
            pending.filter_map(|(name, pending)| self.sendable(name, pending)).cloned().collect()
        };
        self.suspects.groups().map(group).find(|group| !group.is_empty()).unwrap_or_default()
    }

    /// Returns whether the client has answered for all that the view has, and nothing is on its way. Removals may be
    /// outstanding.
    pub(super) fn is_current(&self) -> bool {
        self.in_flight.is_empty() && self.outstanding().next().is_none() && !self.is_trying()
    }

    fn outstanding(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.pending.iter().visiting(Visited::Name).filter_map(|(name, pending)| self.sendable(name, pending))
    }

    fn sendable(&self, name: &SmolStr, pending: &Pending) -> Option<&Arc<Resource>> {
        let target = self.target(name)?;
        let (offer, is_held) = match self.trials.get(name).map(TableTrial::offer) {
            Some(offer) => (offer, matches!(&pending.held, Held::Content(held) if held.version == offer.version)),
            None => (target, false),
        };
        let is_refused = self.refused.get(name).is_some_and(|refused| refused.version == target.version);
        (pending.reason == Reason::Requested || !(is_refused || is_held)).then_some(offer)
    }

    /// Returns the names that the proxy has, or asked for, and that are gone.
    pub(super) fn gone(&self) -> impl Iterator<Item = (&SmolStr, &Pending)> {
        self.pending.iter().visiting(Visited::Name).filter(|(name, _)| self.target(name).is_none())
    }

    /// Returns what the client was sent for names that the view does not have.
    pub(super) fn stood_in(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.stood_in.values().visiting(Visited::Name)
    }

    /// Returns the names that are gone and that the proxy has, or may have.
    pub(super) fn held_and_gone(&self) -> Vec<SmolStr> {
        self.gone().filter(|(_, pending)| !matches!(pending.held, Held::Nothing)).map(|(name, _)| name.clone()).collect()
    }

    /// Returns the names that are gone and for which the client awaits an answer.
    pub(super) fn asked_and_gone(&self) -> Vec<SmolStr> {
        let asked = |pending: &Pending| self.is_awaited(pending.reason) && pending.held.is_uncertain();
        self.gone().filter(|(_, pending)| asked(pending)).map(|(name, _)| name.clone()).collect()
    }

    /// Returns what the proxy still has of the resources that are gone, where it awaits an answer all the same.
    pub(super) fn held_and_asked_again(&self) -> impl Iterator<Item = Arc<Resource>> {
        self.gone().filter(|(_, pending)| self.is_awaited(pending.reason)).filter_map(|(_, pending)| match &pending.held {
            Held::Content(resource) => Some(Arc::clone(resource)),
            _ => None,
        })
    }

    // Of the types that are asked for by name, the client awaits an answer for all that it subscribed to, even when there
    // is nothing any more.
    fn is_awaited(&self, reason: Reason) -> bool {
        if self.kind.is_wildcard() { reason == Reason::Requested } else { reason != Reason::Changed }
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

    // === what is in flight ===

    /// Returns whether a gate still waits for an ACK.
    pub(super) fn awaits_ack(&self) -> bool {
        self.in_flight.iter().any(|flight| !flight.is_overdue)
    }

    /// Returns the responses that were not answered, oldest first: when each was sent, and what it contained.
    pub(super) fn unanswered(&self) -> impl Iterator<Item = (Instant, &[Sent])> {
        self.in_flight.iter().map(|flight| (flight.sent_at, &flight.items[..]))
    }

    /// Stops waiting for the ACKs of responses that were sent `gate` ago, and for others in place of contents that were
    /// refused then; returns when the next one is due.
    pub(super) fn tick(&mut self, now: Instant, gate: Duration) -> Option<Instant> {
        for flight in &mut self.in_flight {
            flight.is_overdue = flight.sent_at + gate <= now;
        }
        for refused in self.refused.values_mut() {
            refused.is_overdue = refused.since + gate <= now;
        }
        let flights = self.in_flight.iter().filter(|flight| !flight.is_overdue).map(|flight| flight.sent_at);
        let refused = self.refused.iter().filter(|(name, _)| self.holds_back(name)).map(|(_, refused)| refused.since);
        flights.chain(refused).min().map(|since| since + gate)
    }

    /// Returns the names for which nobody waits any longer though they were not ACKed, as far as `concerns` them; each
    /// response is reported once.
    pub(super) fn take_overdue(&mut self, concerns: impl Fn(&Sent) -> bool) -> Vec<SmolStr> {
        let mut names = Vec::new();
        for flight in self.in_flight.iter_mut().filter(|flight| flight.is_overdue && !flight.is_reported) {
            let before = names.len();
            names.extend(flight.items.iter().filter(|item| concerns(item)).map(|item| item.name.clone()));
            flight.is_reported = names.len() > before;
        }
        names
    }

    /// Returns the names for which nobody waits any longer though the proxy refused them, as far as `concerns` them; each is
    /// reported once.
    pub(super) fn take_given_up(&mut self, concerns: impl Fn(&SmolStr) -> bool) -> Vec<SmolStr> {
        let late = self.refused.iter().filter(|(name, refused)| refused.is_overdue && !refused.is_reported && concerns(name));
        let given_up: Vec<_> = late.filter(|(name, _)| self.is_refused(name) && self.lacks(name)).map(|(name, _)| name.clone()).collect();
        for name in &given_up {
            self.refused.entry(name.clone()).and_modify(|refused| refused.is_reported = true);
        }
        given_up
    }

    /// Returns the names in each response that was not ACKed and not reported yet.
    pub(super) fn take_unreported(&mut self) -> Vec<Vec<SmolStr>> {
        let unreported = self.in_flight.iter_mut().filter(|flight| !flight.is_reported);
        let names = unreported.map(|flight| {
            flight.is_reported = true;
            flight.items.iter().map(|item| item.name.clone()).collect()
        });
        names.collect()
    }

    /// Returns whether a nonce is one of this connection's.
    pub(super) fn is_ours(&self, nonce: &str) -> bool {
        nonce.parse().is_ok_and(|nonce| (1..=self.last_nonce).contains(&nonce))
    }

    /// Returns whether a nonce answers nothing: neither what is in flight nor the newest response, which a client that
    /// changes its subscription names again.
    pub(super) fn is_expired(&self, nonce: &str) -> bool {
        self.flight(nonce).is_none() && nonce.parse() != Ok(self.last_nonce)
    }

    /// Records a response: what it contains is now what the proxy has.
    pub(super) fn sent(&mut self, nonce: u64, now: Instant, contents: Vec<(SmolStr, Option<Arc<Resource>>)>) -> &[Sent] {
        self.owes_answer = false;
        self.last_nonce = nonce;
        let mut items = Vec::with_capacity(contents.len());
        for (name, content) in contents {
            let pending = self.take_pending(&name).unwrap_or(Pending { held: Held::Nothing, reason: Reason::Requested });
            let wanted = self.target(&name).map(|target| target.version);
            let is_stand_in = wanted.is_none();
            match &content {
                // To be replaced once the view has something.
                Some(extra) if is_stand_in => drop(self.stood_in.insert(name.clone(), Arc::clone(extra))),
                // To be replaced once the proxy takes all of it.
                Some(part) if Some(part.version) != wanted => {
                    self.set_pending(name.clone(), Pending { held: Held::Content(Arc::clone(part)), reason: Reason::Changed });
                }
                _ => {}
            }
            items.push(Sent { name, content, before: pending.held, reason: pending.reason, is_stand_in });
        }
        self.merge_oldest();
        self.in_flight.push_back(Flight::new(nonce, now, items));
        self.mark_completing();
        self.in_flight.back().map_or(&[], |flight| &flight.items)
    }

    // A client that never answers must not make us remember every response. Many are merged at once, so that each costs what
    // is in it.
    fn merge_oldest(&mut self) {
        let names: usize = self.in_flight.iter().map(|flight| flight.items.len()).sum();
        let due = self.in_flight.len() >= 2 * FLIGHTS || names > 2 * (self.view.len(self.kind) + self.named()) + FLIGHT_NAMES;
        let kept = if due && self.in_flight.len() < FLIGHTS { 1 } else { FLIGHTS };
        if !due || self.in_flight.len() <= kept + 1 {
            return;
        }
        let mut merged: Vec<_> = self.in_flight.drain(..self.in_flight.len() - kept).collect();
        let (Some(sent_at), Some(mut last)) = (merged.first().map(|flight| flight.sent_at), merged.pop()) else { return };
        let mut seen: FxHashSet<SmolStr> = last.items.iter().map(|item| item.name.clone()).collect();
        let earlier = merged.into_iter().rev().flat_map(|flight| flight.items).visiting(Visited::Name);
        last.items.extend(earlier.filter(|item| self.matters(item) && seen.insert(item.name.clone())));
        last.sent_at = sent_at;
        self.in_flight.push_front(last);
    }

    // Of what was sent long ago, what the client neither has nor asks for any more says nothing.
    fn matters(&self, item: &Sent) -> bool {
        let is_wanted = if item.is_stand_in { self.names.contains(&item.name, &self.view, self.kind) } else { self.wants(&item.name) };
        is_wanted && (item.content.is_some() || !matches!(item.before, Held::Nothing))
    }

    // Once the last response is taken, the client has answered for all that the view has.
    fn mark_completing(&mut self) {
        let is_all = self.outstanding().next().is_none() && !self.is_trying();
        if let Some(last) = self.in_flight.back_mut().filter(|_| is_all) {
            last.completes = Some(self.view.clone());
        }
    }

    // === what the client answers ===

    /// Records that the client took the response of that nonce, and so has answered all before it. `None` when it is not
    /// awaited.
    pub(super) fn ack(&mut self, nonce: &str) -> Option<Acked> {
        let index = self.flight(nonce)?;
        let mut acked = Acked::default();
        for flight in self.in_flight.drain(..=index) {
            acked.nonce = flight.nonce;
            acked.items.extend(flight.items);
            acked.completes = flight.completes;
        }
        self.accept_offers(&acked.items);
        acked.completes = acked.completes.filter(|_| !self.is_trying());
        if let Some(view) = &acked.completes {
            self.completed = view.generation;
        }
        Some(acked)
    }

    /// Records that the client refused the response of that nonce. `None` when it is not awaited.
    pub(super) fn nack(&mut self, nonce: &str, error: &str, said: &PeerText, now: Instant) -> Option<Nacked> {
        let index = self.flight(nonce)?;
        let flight = self.in_flight.drain(..=index).next_back()?;
        // A refused removal would be refused again.
        let blamable = || flight.items.iter().filter(|item| !item.is_stand_in && item.content.is_some());
        let contents: Vec<_> = blamable().filter_map(|item| item.content.clone()).collect();
        for later in &mut self.in_flight {
            later.is_tainted |= self.repeats_all;
            later.completes = None;
        }
        let is_alone = contents.len() == 1 && !flight.is_tainted;
        if let (true, [table], Some(item)) = (is_alone, &contents[..], blamable().next())
            && (self.trials.contains_key(&table.name) || !table.virtual_hosts.is_empty())
        {
            return Some(self.try_virtual_hosts(table, &item.before, said, now));
        }
        let named = || if self.kind.has_names_in_errors() { blamed(&contents, error) } else { Vec::new() };
        let refused = if is_alone { contents.clone() } else { named() };
        for resource in &refused {
            let (version, error) = (resource.version, said.clone());
            let content = RefusedContent { version, error, since: now, is_overdue: false, is_reported: false };
            self.refused.insert(resource.name.clone(), content);
        }
        let is_refused: FxHashSet<&SmolStr> = refused.iter().map(|resource| &resource.name).collect();
        // Envoy may have taken what it does not blame.
        let before = |item: &Sent| if is_refused.contains(&item.name) { item.before.clone() } else { item.before.blurred() };
        let failed = blamable().map(|item| (item.name.clone(), before(item))).collect();
        self.take_back(failed);
        let suspects = if refused.is_empty() && !flight.is_tainted { contents } else { Vec::new() };
        self.suspects.add_halves(&suspects.iter().map(|resource| resource.name.clone()).collect::<Vec<_>>());
        Some(Nacked { refused, suspects })
    }

    // A response failed to change what the proxy has under these names, unless a later one is on its way to it.
    fn take_back(&mut self, mut failed: FxHashMap<SmolStr, Held>) {
        for later in self.in_flight.iter_mut().flat_map(|flight| &mut flight.items).visiting(Visited::Name) {
            if let Entry::Occupied(held) = failed.entry(later.name.clone()) {
                later.before = held.remove();
            }
        }
        for (name, held) in failed {
            self.hold(name, held);
        }
    }

    fn hold(&mut self, name: SmolStr, held: Held) {
        let wanted = self.wants(&name);
        match self.pending.get_mut(&name) {
            Some(pending) => pending.held = held,
            None if wanted => self.set_pending(name, Pending { held, reason: Reason::Changed }),
            None => {}
        }
    }

    fn flight(&self, nonce: &str) -> Option<usize> {
        let nonce: u64 = nonce.parse().ok()?;
        self.in_flight.iter().position(|flight| flight.nonce == nonce)
    }

    // === what is reported ===

    /// Returns how many names are in responses that were not answered.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.iter().map(|flight| flight.items.len()).sum()
    }

    /// Returns how many names have to be looked at to find what may be said, at most.
    pub(super) fn effort(&self) -> usize {
        let again = if self.is_unsettled || self.asks_again { self.view.len(self.kind) + self.named() } else { 0 };
        let spoken_of = if self.pending.is_empty() && !self.owes_answer { 0 } else { self.whole() };
        self.pending.len() + self.stood_in.len() + self.refused.len() + self.in_flight() + again + spoken_of
    }

    /// Returns how many names are held for this client that its view does not have for all.
    pub(super) fn own_names(&self) -> usize {
        let shared = self.view.len(self.kind);
        let beyond = |names: usize| names.saturating_sub(shared);
        beyond(self.named()) + beyond(self.pending.len()) + beyond(self.in_flight()) + self.stood_in.len()
    }

    /// Returns how many names a request or response speaks of that speaks of everything.
    pub(super) fn whole(&self) -> usize {
        let all = if self.wildcard { self.view.len(self.kind) } else { 0 };
        if self.speaks_of_all { all + self.named() } else { 0 }
    }

    /// Returns the view when the client has answered for all of it since this was last asked.
    pub(super) fn take_completed(&mut self) -> Option<View> {
        if self.completed == self.view.generation || !self.is_current() {
            return None;
        }
        self.completed = self.view.generation;
        Some(self.view.clone())
    }

    /// Returns what the client refuses of the view, when that is not the same as when this was last asked.
    pub(super) fn take_refusals(&mut self) -> Option<Arc<[Refused]>> {
        if self.refused.is_empty() && self.trials.is_empty() && self.reported.is_empty() {
            return None;
        }
        let stands = |(name, refused): (&SmolStr, &RefusedContent)| {
            let target = self.target(name).filter(|target| target.version == refused.version && self.pending.contains_key(name))?;
            Some(Refused { resource: Arc::clone(target), error: refused.error.clone() })
        };
        let hosts = self.trials.iter().filter(|(name, _)| self.pending.contains_key(*name)).flat_map(|(_, trial)| trial.standing());
        let standing: Vec<_> = self.refused.iter().visiting(Visited::Name).filter_map(stands).chain(hosts.cloned()).collect();
        if *standing == *self.reported {
            return None;
        }
        self.reported = standing.into();
        Some(Arc::clone(&self.reported))
    }
}

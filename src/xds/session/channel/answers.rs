//! What was sent, and what the client answers to it.

use std::{
    collections::hash_map::Entry,
    sync::Arc,
    time::{Duration, Instant},
};

use rustc_hash::{FxHashMap, FxHashSet};
use smol_str::SmolStr;

use super::{Channel, RefusedContent};
use crate::{
    peer_text::PeerText,
    visits::{Visit, Visited},
    xds::{
        resource::Resource,
        session::{
            blame::blamed,
            event::Refused,
            flight::{Flight, Held, Pending, Sent, strangers},
            response::Reason,
        },
        view::View,
    },
};

/// How many responses that wait for their ACK are remembered one by one, at least.
const FLIGHTS: usize = 32;
/// How many names may be in them beyond those that the view has and the client asks for, before they are merged.
const FLIGHT_NAMES: usize = 8192;

/// What the client accepted by an ACK.
#[derive(Debug, Default)]
pub(in crate::xds::session) struct Acked {
    pub(in crate::xds::session) nonce: u64,
    pub(in crate::xds::session) items: Vec<Sent>,
    /// The view that it has now answered for as a whole.
    pub(in crate::xds::session) completes: Option<View>,
}

/// A response that the proxy refused, in whole or in part.
#[derive(Debug)]
pub(in crate::xds::session) struct Nacked {
    /// What is to blame, as far as that is known: not sent again unasked.
    pub(in crate::xds::session) refused: Vec<Arc<Resource>>,
    /// What was in the response, when nothing is to blame yet: it is sent again in halves.
    pub(in crate::xds::session) suspects: Vec<Arc<Resource>>,
}
impl Channel {
    // === what is in flight ===

    /// Returns whether a gate still waits for an ACK.
    pub(in crate::xds::session) fn awaits_ack(&self) -> bool {
        self.in_flight.iter().any(|flight| !flight.is_overdue)
    }

    /// Returns the responses that were not answered, oldest first: when each was sent, and what it contained.
    pub(in crate::xds::session) fn unanswered(&self) -> impl Iterator<Item = (Instant, &[Sent])> {
        self.in_flight.iter().map(|flight| (flight.sent_at, &flight.items[..]))
    }

    /// Stops waiting for the ACKs of responses that were sent `gate` ago, and for others in place of contents that were
    /// refused then; returns when the next one is due.
    pub(in crate::xds::session) fn tick(&mut self, now: Instant, gate: Duration) -> Option<Instant> {
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
    pub(in crate::xds::session) fn take_overdue(&mut self, concerns: impl Fn(&Sent) -> bool) -> Vec<SmolStr> {
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
    pub(in crate::xds::session) fn take_given_up(&mut self, concerns: impl Fn(&SmolStr) -> bool) -> Vec<SmolStr> {
        let late = self.refused.iter().filter(|(name, refused)| refused.is_overdue && !refused.is_reported && concerns(name));
        let given_up: Vec<_> = late.filter(|(name, _)| self.is_refused(name) && self.lacks(name)).map(|(name, _)| name.clone()).collect();
        for name in &given_up {
            self.refused.entry(name.clone()).and_modify(|refused| refused.is_reported = true);
        }
        given_up
    }

    /// Returns the names in each response that was not ACKed and not reported yet.
    pub(in crate::xds::session) fn take_unreported(&mut self) -> Vec<Vec<SmolStr>> {
        let unreported = self.in_flight.iter_mut().filter(|flight| !flight.is_reported);
        let names = unreported.map(|flight| {
            flight.is_reported = true;
            flight.items.iter().map(|item| item.name.clone()).collect()
        });
        names.collect()
    }

    /// Returns whether a nonce is one of this connection's.
    pub(in crate::xds::session) fn is_ours(&self, nonce: &str) -> bool {
        nonce.parse().is_ok_and(|nonce| (1..=self.last_nonce).contains(&nonce))
    }

    /// Returns whether a nonce answers nothing: neither what is in flight nor the newest response, which a client that
    /// changes its subscription names again.
    pub(in crate::xds::session) fn is_expired(&self, nonce: &str) -> bool {
        self.flight(nonce).is_none() && nonce.parse() != Ok(self.last_nonce)
    }

    /// Records a response: what it contains is now what the proxy has.
    pub(in crate::xds::session) fn sent(&mut self, nonce: u64, now: Instant, contents: Vec<(SmolStr, Option<Arc<Resource>>)>) -> &[Sent] {
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
        last.strangers = strangers(&last.items);
        self.in_flight.push_front(last);
    }

    // Of what was sent long ago, what the client neither has nor asks for any more says nothing.
    fn matters(&self, item: &Sent) -> bool {
        let is_wanted = if item.is_stand_in { self.names.contains(&item.name, &self.view, self.kind) } else { self.wants(&item.name) };
        is_wanted && (item.content.is_some() || !matches!(item.before, Held::Nothing))
    }

    // Once the last response is taken, the client has answered for all that the view has.
    pub(super) fn mark_completing(&mut self) {
        let is_all = self.outstanding().next().is_none() && !self.is_trying();
        if let Some(last) = self.in_flight.back_mut().filter(|_| is_all) {
            last.completes = Some(self.view.clone());
        }
    }

    // === what the client answers ===

    /// Records that the client took the response of that nonce, and so has answered all before it. `None` when it is not
    /// awaited.
    pub(in crate::xds::session) fn ack(&mut self, nonce: &str) -> Option<Acked> {
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
    pub(in crate::xds::session) fn nack(&mut self, nonce: &str, error: &str, said: &PeerText, now: Instant) -> Option<Nacked> {
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
    pub(super) fn take_back(&mut self, mut failed: FxHashMap<SmolStr, Held>) {
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
    pub(in crate::xds::session) fn in_flight(&self) -> usize {
        self.in_flight.iter().map(|flight| flight.items.len()).sum()
    }

    /// Returns how many names have to be looked at to find what may be said, at most.
    pub(in crate::xds::session) fn effort(&self) -> usize {
        let again = if self.is_unsettled || self.asks_again { self.view.len(self.kind) + self.named() } else { 0 };
        let spoken_of = if self.pending.is_empty() && !self.owes_answer { 0 } else { self.whole() };
        self.pending.len() + self.stood_in.len() + self.refused.len() + self.in_flight() + again + spoken_of
    }

    /// Returns how many entries the lists have that are held for this client alone.
    pub(in crate::xds::session) fn entries(&self) -> usize {
        self.names.listed() + self.pending.len() + self.in_flight() + self.stood_in.len() + self.refused.len()
    }

    /// Returns how many of them are of names that the view does not have: whose text is held for this client alone, too.
    pub(in crate::xds::session) fn strangers(&self) -> usize {
        let in_flight: usize = self.in_flight.iter().map(|flight| flight.strangers).sum();
        self.names.strangers() + self.pending_strangers + in_flight + self.stood_in.len()
    }

    /// Returns how many names a request or response speaks of that speaks of everything.
    pub(in crate::xds::session) fn whole(&self) -> usize {
        let all = if self.wildcard { self.view.len(self.kind) } else { 0 };
        if self.speaks_of_all { all + self.named() } else { 0 }
    }

    /// Returns the view when the client has answered for all of it since this was last asked.
    pub(in crate::xds::session) fn take_completed(&mut self) -> Option<View> {
        if self.completed == self.view.generation || !self.is_current() {
            return None;
        }
        self.completed = self.view.generation;
        Some(self.view.clone())
    }

    /// Returns what the client refuses of the view, when that is not the same as when this was last asked.
    pub(in crate::xds::session) fn take_refusals(&mut self) -> Option<Arc<[Refused]>> {
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

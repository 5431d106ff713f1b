//! What is still to be said, and what of it may be sent.

use std::{collections::BTreeSet, sync::Arc};

use smol_str::SmolStr;

use super::Channel;
use crate::{
    visits::{Visit, Visited},
    xds::{
        resource::Resource,
        session::{
            flight::{Held, Pending},
            response::Reason,
            table_trial::TableTrial,
        },
    },
};

impl Channel {
    /// Returns the pending names that may be sent as far as this type alone can tell. Suspects of an unexplained
    /// refusal go group by group, each alone.
    pub(in crate::xds::session) fn ready(&self) -> Vec<Arc<Resource>> {
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
    pub(in crate::xds::session) fn is_current(&self) -> bool {
        self.in_flight.is_empty() && self.outstanding().next().is_none() && !self.is_trying()
    }

    pub(super) fn outstanding(&self) -> impl Iterator<Item = &Arc<Resource>> {
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
    pub(in crate::xds::session) fn gone(&self) -> impl Iterator<Item = (&SmolStr, &Pending)> {
        self.pending.iter().visiting(Visited::Name).filter(|(name, _)| self.target(name).is_none())
    }

    /// Returns what the client was sent for names that the view does not have.
    pub(in crate::xds::session) fn stood_in(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.stood_in.values().visiting(Visited::Name)
    }

    /// Returns the names that are gone and that the proxy has, or may have.
    pub(in crate::xds::session) fn held_and_gone(&self) -> Vec<SmolStr> {
        self.gone().filter(|(_, pending)| !matches!(pending.held, Held::Nothing)).map(|(name, _)| name.clone()).collect()
    }

    /// Returns the names that are gone and for which the client awaits an answer.
    pub(in crate::xds::session) fn asked_and_gone(&self) -> Vec<SmolStr> {
        let asked = |pending: &Pending| self.is_awaited(pending.reason) && pending.held.is_uncertain();
        self.gone().filter(|(_, pending)| asked(pending)).map(|(name, _)| name.clone()).collect()
    }

    /// Returns what the proxy still has of the resources that are gone, where it awaits an answer all the same.
    pub(in crate::xds::session) fn held_and_asked_again(&self) -> impl Iterator<Item = Arc<Resource>> {
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
}

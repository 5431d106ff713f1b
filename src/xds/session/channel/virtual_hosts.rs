//! Route tables of which the proxy refuses some virtual hosts.

use std::{sync::Arc, time::Instant};

use rustc_hash::FxHashMap;
use smol_str::SmolStr;

use super::{Channel, Nacked, RefusedContent};
use crate::{
    peer_text::PeerText,
    visits::{Visit, Visited},
    xds::{
        resource::Resource,
        session::{
            flight::{Held, Sent},
            table_trial::{TableTrial, Verdict},
        },
        view::Difference,
    },
};

impl Channel {
    /// Finds out what of a table is to blame that the proxy refused.
    pub(super) fn try_virtual_hosts(&mut self, table: &Arc<Resource>, before: &Held, error: &PeerText, now: Instant) -> Nacked {
        let name = &table.name;
        let is_sent_again = self.in_flight.iter().flat_map(|later| &later.items).visiting(Visited::Name).any(|item| item.name == *name);
        self.take_back(FxHashMap::from_iter([(name.clone(), before.clone())]));
        let undecided = |suspect: &Arc<Resource>| Nacked { refused: Vec::new(), suspects: vec![Arc::clone(suspect)] };
        // Until that is answered, nobody knows what the proxy has in the place of what is left out.
        if is_sent_again {
            return undecided(table);
        }
        let Some(target) = self.target(name).cloned() else { return undecided(table) };
        let mut trial = self.trials.remove(name).unwrap_or_else(|| TableTrial::new(&target));
        let is_offer = trial.offer().version == table.version;
        let verdict = if is_offer { trial.refuse(before.content(), error) } else { Verdict::Undecided(Arc::clone(table)) };
        self.trials.insert(name.clone(), trial);
        self.offer_again(name);
        match verdict {
            Verdict::Table => {
                let (version, error) = (target.version, error.clone());
                let content = RefusedContent { version, error, since: now, is_overdue: false, is_reported: false };
                self.refused.insert(name.clone(), content);
                Nacked { refused: vec![target], suspects: Vec::new() }
            }
            Verdict::Host(host) => Nacked { refused: vec![host], suspects: Vec::new() },
            Verdict::Undecided(hosts) => undecided(&hosts),
        }
    }

    /// Takes in that the proxy took what it was offered of tables.
    pub(super) fn accept_offers(&mut self, items: &[Sent]) {
        for Sent { name, content, .. } in items {
            let Some(trial) = self.trials.get_mut(name).filter(|trial| trial.is_under_way()) else { continue };
            if content.as_ref().is_some_and(|content| content.version == trial.offer().version) {
                trial.accept();
                self.offer_again(name);
            }
        }
    }

    /// Follows a change of the tables.
    pub(super) fn restart_trials(&mut self, differences: &[Difference<'_>]) {
        for difference in differences {
            match difference {
                Difference::Changed(table) => {
                    if let Some(trial) = self.trials.get_mut(&table.name) {
                        trial.restart(table);
                        self.offer_again(&table.name);
                    }
                }
                Difference::Removed(name) => drop(self.trials.remove(*name)),
            }
        }
    }

    // What is tried goes alone, so that its refusal says something.
    fn offer_again(&mut self, name: &SmolStr) {
        let (Some(target), Some(mut trial)) = (self.target(name).cloned(), self.trials.remove(name)) else { return };
        let held = self.pending.get(name).map_or_else(|| Held::Content(Arc::clone(&target)), |pending| pending.held.clone());
        loop {
            trial.offer_anew(&target, held.content(), &self.joined);
            let is_held = matches!(&held, Held::Content(held) if held.version == trial.offer().version);
            if !(is_held && trial.is_under_way()) {
                break;
            }
            trial.accept();
        }
        self.suspects.remove(name);
        if trial.is_under_way() {
            self.suspects.add(std::slice::from_ref(name));
        }
        self.trials.insert(name.clone(), trial);
    }

    /// Returns whether more of a table is to be offered once the proxy has answered.
    pub(super) fn is_trying(&self) -> bool {
        self.trials.values().any(TableTrial::is_under_way)
    }
}

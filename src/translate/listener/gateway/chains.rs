//! The chains of one listener, wherever they come from: servers of several Gateways, routes of several VirtualServices,
//! services behind the mesh's own mTLS. Who comes first has what it asks for; who comes later and would make Envoy refuse
//! the listener is told.

use std::collections::{BTreeMap, BTreeSet};

use smol_str::SmolStr;

use super::Chain;
use crate::{
    mesh::{model::Origin, routing::model::RuleSource},
    translate::listener::{
        chain::ChainIndex,
        refused::{Reason, Refused},
    },
};

/// Chains with those who ask for them.
pub(super) struct Chains {
    port: u16,
    added: Vec<(Chain, Claimant)>,
    index: ChainIndex,
    /// Names of passthrough routes, which are one name's whatever else they match.
    routed: BTreeMap<SmolStr, Claimant>,
    refused: BTreeSet<Refused>,
}

/// An object, and where it asks for a chain.
#[derive(Clone, PartialEq)]
pub(super) struct Claimant {
    pub(super) origin: Origin,
    pub(super) field: SmolStr,
}

impl Chains {
    pub(super) fn of_port(port: u16) -> Self {
        Self { port, added: Vec::new(), index: ChainIndex::default(), routed: BTreeMap::new(), refused: BTreeSet::new() }
    }

    /// Adds a chain unless one is there of which some connection would match both; returns whether it is added.
    pub(super) fn add(&mut self, chain: Chain, by: &Claimant) -> bool {
        let conflicts = |at: &usize| self.added[*at].0.matcher.conflicts_with(&chain.matcher);
        match self.index.candidates(&chain.matcher).filter(conflicts).min().map(|at| &self.added[at]) {
            None => {
                self.index.add(&chain.matcher);
                self.added.push((chain, by.clone()));
                true
            }
            Some((known, first)) => {
                // Two servers of a port may share a route, or a service.
                if *known != chain {
                    self.refused.insert(outranked(self.port, by, first));
                }
                false
            }
        }
    }

    /// Adds the chain of a passthrough route unless a route before it has one of its names.
    pub(super) fn add_route(&mut self, chain: Chain, by: &Claimant) {
        let names = chain.matcher.server_names.clone();
        let first = names.iter().find_map(|name| self.routed.get(name)).cloned();
        match first {
            Some(first) if first == *by => {}
            Some(first) => drop(self.refused.insert(outranked(self.port, by, &first))),
            None if self.add(chain, by) => self.routed.extend(names.into_iter().map(|name| (name, by.clone()))),
            None => {}
        }
    }

    /// Adds what a rule does not get because of one before it.
    pub(super) fn refuse(&mut self, by: &Claimant, first: &Claimant) {
        self.refused.insert(outranked(self.port, by, first));
    }

    /// Returns the chains, and what was left out.
    pub(super) fn into_parts(self) -> (Vec<Chain>, BTreeSet<Refused>) {
        (self.added.into_iter().map(|(chain, _)| chain).collect(), self.refused)
    }
}

fn outranked(port: u16, by: &Claimant, first: &Claimant) -> Refused {
    Refused::new(&by.origin, by.field.clone(), Reason::Outranked(port, first.origin.object.clone()))
}

impl From<RuleSource> for Claimant {
    fn from(rule: RuleSource) -> Self {
        Self { origin: Origin::clone(&rule.origin), field: rule.field }
    }
}

//! What happens when several services want the same address and port: the oldest decides, those that come later
//! share, add their chains, or lose (contract §3.3 "Same bind/port collisions"). Who loses is told.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::IpAddr,
    sync::Arc,
};

use smol_str::{SmolStr, ToSmolStr};

use super::{Chain, ServiceListener};
use crate::{
    mesh::{
        model::{Origin, Protocol},
        routing::model::RuleSource,
    },
    translate::listener::{
        chain::ChainIndex,
        refused::{Reason, Refused},
    },
    visits::{Visit, Visited},
};

/// The chains that one service port adds to a listener.
#[derive(Clone)]
pub(super) struct Offer {
    pub(super) protocol: Protocol,
    /// Whether the proxy sniffs if connections carry HTTP.
    pub(super) sniffed: bool,
    /// The chains of routes, which several services may ask for.
    pub(super) routed: Arc<[Claim]>,
    /// What routes leave to the service.
    pub(super) own: Option<Claim>,
    pub(super) http: Option<Claim>,
    pub(super) bound: bool,
    pub(super) origin: Origin,
}

/// A chain, and who asks for it.
#[derive(Clone)]
pub(super) struct Claim {
    pub(super) chain: Chain,
    pub(super) origin: Origin,
    pub(super) field: SmolStr,
}

/// The listeners of one port.
pub(super) struct Entries {
    port: u16,
    listed: Vec<Entry>,
    /// Which of them has an address.
    by_address: BTreeMap<SmolStr, usize>,
    refused: BTreeSet<Refused>,
}

struct Entry {
    addresses: Vec<SmolStr>,
    claims: Vec<Claim>,
    index: ChainIndex,
    /// The chains of routes that are there, or that were turned away: whoever brings them again changes nothing.
    known: HashSet<(*const Claim, bool)>,
    traffic: Traffic,
    protocol: Protocol,
    bound: bool,
    /// Whether a Sidecar's listener for this port came first: the services of its catch-all listener then stay out.
    locked: bool,
    origin: Origin,
}

/// What the connections of a listener carry.
#[derive(Clone, Copy, PartialEq)]
enum Traffic {
    Http,
    Tcp,
    Sniffed,
}

impl Entries {
    pub(super) fn of_port(port: u16) -> Self {
        Self { port, listed: Vec::new(), by_address: BTreeMap::new(), refused: BTreeSet::new() }
    }

    /// Closes the listeners that exist so far to later services.
    pub(super) fn lock(&mut self) {
        self.listed.iter_mut().for_each(|entry| entry.locked = true);
    }

    /// Adds what is not sent.
    pub(super) fn refuse(&mut self, refused: Refused) {
        self.refused.insert(refused);
    }

    /// Returns the chains that Envoy can match, and adds those that it cannot to what is not sent.
    pub(super) fn matchable(&mut self, mut claims: Vec<Claim>) -> Vec<Claim> {
        claims.retain(|claim| match claim.chain.matcher.partial_wildcard() {
            None => true,
            Some(name) => {
                self.refused.insert(Refused::new(&claim.origin, claim.field.clone(), Reason::PartialWildcard(self.port, name.clone())));
                false
            }
        });
        claims
    }

    /// Adds a service port at these addresses. At those that have a listener it has to come to terms with that.
    pub(super) fn add(&mut self, addresses: Vec<SmolStr>, offer: Offer) {
        let owner = |address: &SmolStr| self.by_address.get(&canonical(address)).copied();
        let owners: BTreeSet<usize> = addresses.iter().filter_map(owner).collect();
        let free: Vec<SmolStr> = addresses.into_iter().filter(|address| owner(address).is_none()).collect();
        for owner in owners {
            self.listed[owner].take(self.port, offer.clone(), &mut self.refused);
        }
        if !free.is_empty() {
            self.by_address.extend(free.iter().map(|address| (canonical(address), self.listed.len())));
            self.listed.push(Entry::new(self.port, free, offer, &mut self.refused));
        }
    }

    /// Returns the listeners by the first address of each, so that the order does not depend on who came first.
    pub(super) fn into_listeners(self) -> (Vec<ServiceListener>, BTreeSet<Refused>) {
        let port = self.port;
        let listener = |entry: Entry| ServiceListener {
            binds: entry.addresses,
            port,
            bound: entry.bound,
            chains: entry.claims.into_iter().map(|claim| claim.chain).collect(),
            origin: entry.origin,
        };
        let mut listeners: Vec<_> = self.listed.into_iter().map(listener).collect();
        listeners.sort_by(|one, other| one.binds.cmp(&other.binds));
        (listeners, self.refused)
    }
}

/// Returns the one spelling of an address, by which Envoy knows it. A path is its own.
fn canonical(address: &SmolStr) -> SmolStr {
    address.parse::<IpAddr>().map_or_else(|_| address.clone(), |ip| ip.to_smolstr())
}

impl Entry {
    fn new(port: u16, addresses: Vec<SmolStr>, offer: Offer, refused: &mut BTreeSet<Refused>) -> Self {
        let mut entry = Self {
            addresses,
            traffic: offer.traffic(),
            protocol: offer.protocol,
            bound: offer.bound,
            locked: false,
            origin: offer.origin.clone(),
            claims: Vec::new(),
            index: ChainIndex::default(),
            known: HashSet::new(),
        };
        entry.merge(port, offer, refused);
        entry
    }

    fn take(&mut self, port: u16, offer: Offer, refused: &mut BTreeSet<Refused>) {
        match (self.traffic, offer.traffic()) {
            _ if self.locked => {}
            _ if !self.mixes_with(&offer) => {
                self.turn_away_routed(port, &offer.routed, refused);
                self.turn_away(port, offer.own.into_iter().chain(offer.http), refused);
            }
            (Traffic::Http, Traffic::Sniffed) if !offer.protocol.is_http() => {
                let newer = Reason::Replaced(port, offer.origin.object.clone());
                refused.extend(self.claims.iter().map(|claim| Refused::new(&claim.origin, claim.field.clone(), newer.clone())));
                *self = Self::new(port, std::mem::take(&mut self.addresses), offer, refused);
            }
            // HTTP shares its routes.
            (Traffic::Http | Traffic::Sniffed, Traffic::Http | Traffic::Sniffed) => {
                self.turn_away_routed(port, &offer.routed, refused);
                self.turn_away(port, offer.own.into_iter(), refused);
            }
            (traffic, _) => {
                if traffic != Traffic::Tcp || offer.http.is_some() {
                    self.traffic = Traffic::Sniffed;
                    self.protocol = Protocol::Auto;
                }
                self.merge(port, offer, refused);
            }
        }
    }

    // Where the server speaks first, sniffing would wait for a client that waits.
    fn mixes_with(&self, offer: &Offer) -> bool {
        let server_first = |protocol| matches!(protocol, Protocol::Mongo | Protocol::Mysql);
        self.protocol == offer.protocol || !(server_first(self.protocol) || server_first(offer.protocol))
    }

    fn turn_away_routed(&mut self, port: u16, routed: &Arc<[Claim]>, refused: &mut BTreeSet<Refused>) {
        if !routed.is_empty() && self.known.insert((routed.as_ptr(), false)) {
            self.turn_away(port, routed.iter().cloned(), refused);
        }
    }

    // Several services of one route ask for its chain: what is there is not lost.
    fn turn_away(&self, port: u16, claims: impl Iterator<Item = Claim>, refused: &mut BTreeSet<Refused>) {
        let is_there = |claim: &Claim| self.index.candidates(&claim.chain.matcher).any(|at| self.claims[at].chain == claim.chain);
        refused.extend(claims.filter(|claim| !is_there(claim)).map(|claim| claim.lost(port, &self.origin)));
    }

    fn merge(&mut self, port: u16, offer: Offer, refused: &mut BTreeSet<Refused>) {
        if !offer.routed.is_empty() && self.known.insert((offer.routed.as_ptr(), true)) {
            offer.routed.iter().for_each(|claim| self.merge_one(port, claim.clone(), refused));
        }
        offer.own.into_iter().chain(offer.http).for_each(|claim| self.merge_one(port, claim, refused));
    }

    // Envoy refuses a listener of which two chains match the same.
    fn merge_one(&mut self, port: u16, claim: Claim, refused: &mut BTreeSet<Refused>) {
        let candidates = self.index.candidates(&claim.chain.matcher).visiting(Visited::Written);
        match candidates.filter(|at| self.claims[*at].chain.matcher.conflicts_with(&claim.chain.matcher)).min().map(|at| &self.claims[at]) {
            None => {
                self.index.add(&claim.chain.matcher);
                self.claims.push(claim);
            }
            Some(known) if known.chain == claim.chain => {}
            Some(known) => drop(refused.insert(claim.lost(port, &known.origin))),
        }
    }
}

impl Offer {
    fn traffic(&self) -> Traffic {
        match (&self.http, self.sniffed) {
            (None, _) => Traffic::Tcp,
            (Some(_), true) => Traffic::Sniffed,
            (Some(_), false) => Traffic::Http,
        }
    }
}

impl Claim {
    /// Returns a chain for which a rule asks.
    pub(super) fn of_rule(chain: Chain, rule: &RuleSource) -> Self {
        Self { chain, origin: Origin::clone(&rule.origin), field: rule.field.clone() }
    }

    fn lost(self, port: u16, to: &Origin) -> Refused {
        Refused::new(&self.origin, self.field, Reason::Outranked(port, to.object.clone()))
    }
}

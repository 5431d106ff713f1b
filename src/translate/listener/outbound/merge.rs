//! What happens when several services want the same address and port: the oldest decides, those that come later
//! share, add their chains, or lose (contract §3.3 "Same bind/port collisions").

use std::collections::BTreeMap;

use smol_str::SmolStr;

use super::{Chain, ServiceListener};
use crate::mesh::model::{Origin, Protocol};

/// The chains that one service port adds to a listener.
pub(super) struct Offer {
    pub(super) protocol: Protocol,
    /// Whether the proxy sniffs if connections carry HTTP.
    pub(super) sniffed: bool,
    pub(super) tcp: Vec<Chain>,
    pub(super) http: Option<Chain>,
    pub(super) bound: bool,
    pub(super) origin: Origin,
}

/// The listeners of one port.
#[derive(Default)]
pub(super) struct Entries {
    /// By the first address of each, so that the order does not depend on who came first.
    by_address: BTreeMap<SmolStr, Entry>,
}

struct Entry {
    addresses: Vec<SmolStr>,
    chains: Vec<Chain>,
    kind: Kind,
    protocol: Protocol,
    bound: bool,
    /// Whether a Sidecar's listener for this port came first: the services of its catch-all listener then stay out.
    locked: bool,
    origin: Origin,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Http,
    Tcp,
    Sniffed,
}

impl Entries {
    /// Closes the listeners that exist so far to later services.
    pub(super) fn lock(&mut self) {
        self.by_address.values_mut().for_each(|entry| entry.locked = true);
    }

    /// Adds a service port.
    pub(super) fn add(&mut self, addresses: Vec<SmolStr>, offer: Offer) {
        let Some(first) = addresses.first().cloned() else { return };
        match self.by_address.get_mut(&first) {
            None => drop(self.by_address.insert(first, Entry::new(addresses, offer))),
            Some(entry) if entry.locked || !entry.mixes_with(&offer) => {}
            Some(entry) => entry.join(offer),
        }
    }

    pub(super) fn into_listeners(self, port: u16) -> Vec<ServiceListener> {
        let listeners = self.by_address.into_values().map(|entry| ServiceListener {
            binds: entry.addresses,
            port,
            bound: entry.bound,
            chains: entry.chains,
            origin: entry.origin,
        });
        listeners.collect()
    }
}

impl Entry {
    fn new(addresses: Vec<SmolStr>, offer: Offer) -> Self {
        Self {
            addresses,
            kind: offer.kind(),
            protocol: offer.protocol,
            bound: offer.bound,
            locked: false,
            origin: offer.origin.clone(),
            chains: offer.chains(),
        }
    }

    // Where the server speaks first, sniffing would wait for a client that waits.
    fn mixes_with(&self, offer: &Offer) -> bool {
        let server_first = |protocol| matches!(protocol, Protocol::Mongo | Protocol::Mysql);
        self.protocol == offer.protocol || !(server_first(self.protocol) || server_first(offer.protocol))
    }

    fn join(&mut self, offer: Offer) {
        let pure_http = offer.protocol.is_http();
        match (self.kind, offer.kind()) {
            (Kind::Http, Kind::Sniffed) if !pure_http => *self = Self::new(std::mem::take(&mut self.addresses), offer),
            (Kind::Http | Kind::Sniffed, Kind::Http | Kind::Sniffed) => {}
            (kind, _) => {
                if kind != Kind::Tcp || offer.http.is_some() {
                    self.kind = Kind::Sniffed;
                    self.protocol = Protocol::Auto;
                }
                self.merge(offer.chains());
            }
        }
    }

    // Envoy refuses a listener with two chains of the same match.
    fn merge(&mut self, chains: Vec<Chain>) {
        for chain in chains {
            if !self.chains.iter().any(|known| known.matcher.conflicts_with(&chain.matcher)) {
                self.chains.push(chain);
            }
        }
    }
}

impl Offer {
    fn kind(&self) -> Kind {
        match (&self.http, self.sniffed) {
            (None, _) => Kind::Tcp,
            (Some(_), true) => Kind::Sniffed,
            (Some(_), false) => Kind::Http,
        }
    }

    fn chains(self) -> Vec<Chain> {
        self.tcp.into_iter().chain(self.http).collect()
    }
}

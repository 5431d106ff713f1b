//! Which virtual hosts of a route table the proxy refuses.
//!
//! Envoy takes a route table as a whole or not at all, and its error does not say whose fault it is. A table that was
//! refused is therefore offered again with ever fewer of the virtual hosts that are new in it, until those to blame are
//! found. In the place of each that is left out stands what the proxy had under its name. Those to blame are not offered
//! again on this connection; all others are, whatever becomes of them.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use prost::Message;
use rustc_hash::FxHashMap;
use smol_str::SmolStr;
use xxhash_rust::xxh3::xxh3_64;

use super::event::Refused;
use crate::{
    peer_text::PeerText,
    xds::{
        encode,
        resource::{ContentHash, EncodedVirtualHost, Resource},
    },
};

/// How many refused virtual hosts are remembered that the table does not have any more.
const REMEMBERED: usize = 64;

/// The search for the virtual hosts to blame, and what it has found.
#[derive(Debug)]
pub(super) struct TableTrial {
    refused: BTreeMap<ContentHash, Refused>,
    /// Groups of virtual hosts that were not found good yet. The first is in what is offered.
    untried: VecDeque<BTreeSet<ContentHash>>,
    offer: Arc<Resource>,
    /// Those of `refused` that the table has.
    standing: Vec<Refused>,
}

/// What a refusal says.
#[derive(Debug)]
pub(super) enum Verdict {
    /// The table is to blame, whatever virtual hosts it has.
    Table,
    /// One virtual host is: here a table with nothing else.
    Host(Arc<Resource>),
    /// Some of these are.
    Undecided(Arc<Resource>),
}

/// Tables that were put together for several proxies: those that refuse the same share what they are offered instead.
#[derive(Debug, Default)]
pub struct JoinedTables(Mutex<FxHashMap<JoinedKey, Weak<Resource>>>);

/// The name of a table, its header, and its virtual hosts, which the table itself keeps at their places.
type JoinedKey = (SmolStr, u64, Vec<usize>);

/// What a virtual host is called, and what it answers to.
#[derive(Clone, PartialEq, Message)]
struct Identity {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, repeated, tag = "2")]
    domains: Vec<String>,
}

impl TableTrial {
    /// Starts with a table of which nothing is known.
    pub(super) fn new(table: &Arc<Resource>) -> Self {
        Self { refused: BTreeMap::new(), untried: VecDeque::new(), offer: Arc::clone(table), standing: Vec::new() }
    }

    /// Returns what the proxy is to be sent.
    pub(super) fn offer(&self) -> &Arc<Resource> {
        &self.offer
    }

    /// Returns whether more is to be offered once the proxy has answered.
    pub(super) fn is_under_way(&self) -> bool {
        !self.untried.is_empty()
    }

    /// Returns the virtual hosts to blame that the table has.
    pub(super) fn standing(&self) -> &[Refused] {
        &self.standing
    }

    /// Takes in that the proxy took the offer.
    pub(super) fn accept(&mut self) {
        self.untried.pop_front();
    }

    /// Takes in that the proxy, which had `before`, refused the offer.
    pub(super) fn refuse(&mut self, before: Option<&Arc<Resource>>, error: &PeerText) -> Verdict {
        let offer = Arc::clone(&self.offer);
        let is_first = self.untried.is_empty();
        let group = self.untried.pop_front().unwrap_or_else(|| new_in(&offer, before));
        let is_header_known = !is_first || before.is_some_and(|before| before.header() == offer.header());
        let accused = || Arc::new(encode::with_virtual_hosts(&offer, hosts_of(&offer, |hash| group.contains(hash))));
        match group.first() {
            None => {
                self.untried.clear();
                return Verdict::Table;
            }
            Some(only) if group.len() == 1 && is_header_known => {
                let refused = Refused { resource: accused(), error: error.clone() };
                self.refused.insert(*only, refused.clone());
                return Verdict::Host(refused.resource);
            }
            Some(_) => {}
        }
        let undecided = accused();
        let all: Vec<_> = group.into_iter().collect();
        let (one, other) = all.split_at(all.len().div_ceil(2));
        for half in [other, one].into_iter().filter(|half| !half.is_empty()) {
            self.untried.push_front(half.iter().copied().collect());
        }
        if !is_header_known {
            self.untried.push_front(BTreeSet::new());
        }
        Verdict::Undecided(undecided)
    }

    /// Takes in that the table is another now: it is offered without what is known to be to blame.
    pub(super) fn restart(&mut self, table: &Resource) {
        self.untried.clear();
        if self.refused.len() > REMEMBERED {
            let has: BTreeSet<_> = table.virtual_hosts.iter().map(|host| host.version).collect();
            self.refused.retain(|hash, _| has.contains(hash));
        }
    }

    /// Puts together what is offered of `table` to a proxy that has `held`.
    pub(super) fn offer_anew(&mut self, table: &Arc<Resource>, held: Option<&Arc<Resource>>, joined: &JoinedTables) {
        let untried: BTreeSet<_> = self.untried.iter().skip(1).flatten().collect();
        let is_out = |hash: &ContentHash| untried.contains(hash) || self.refused.contains_key(hash);
        let out = hosts_of(table, is_out);
        self.standing = out.iter().filter_map(|host| self.refused.get(&host.version)).cloned().collect();
        self.offer = match out.is_empty() {
            true => Arc::clone(table),
            false => {
                let mut hosts = hosts_of(table, |hash| !is_out(hash));
                hosts.extend(earlier(&out, &hosts, held).into_iter().filter(|host| !self.refused.contains_key(&host.version)));
                joined.get(table, hosts)
            }
        };
    }
}

impl JoinedTables {
    /// Returns a table with these virtual hosts instead of its own.
    fn get(&self, table: &Resource, hosts: Vec<Arc<EncodedVirtualHost>>) -> Arc<Resource> {
        let places = hosts.iter().map(|host| Arc::as_ptr(host) as usize).collect();
        let mut known = self.0.lock();
        let entry = known.entry((table.name.clone(), xxh3_64(table.header()), places)).or_default();
        if let Some(shared) = entry.upgrade() {
            return shared;
        }
        let made = Arc::new(encode::with_virtual_hosts(table, hosts));
        *entry = Arc::downgrade(&made);
        known.retain(|_, table| table.strong_count() > 0);
        made
    }
}

/// Returns the virtual hosts that a proxy with `before` has not taken yet.
fn new_in(table: &Resource, before: Option<&Arc<Resource>>) -> BTreeSet<ContentHash> {
    let known: BTreeSet<_> = before.into_iter().flat_map(|before| before.virtual_hosts.iter()).map(|host| host.version).collect();
    table.virtual_hosts.iter().map(|host| host.version).filter(|hash| !known.contains(hash)).collect()
}

fn hosts_of(table: &Resource, is_wanted: impl Fn(&ContentHash) -> bool) -> Vec<Arc<EncodedVirtualHost>> {
    table.virtual_hosts.iter().filter(|host| is_wanted(&host.version)).cloned().collect()
}

/// Returns what the proxy has under the names of `out`, as far as `others` leave it its domains: Envoy refuses a table in which
/// a domain is twice.
fn earlier(
    out: &[Arc<EncodedVirtualHost>],
    others: &[Arc<EncodedVirtualHost>],
    held: Option<&Arc<Resource>>,
) -> Vec<Arc<EncodedVirtualHost>> {
    let Some(held) = held.filter(|held| !held.virtual_hosts.is_empty()) else { return Vec::new() };
    let names: BTreeSet<String> = out.iter().map(|host| identity(host).name).collect();
    let taken: BTreeSet<String> = others.iter().flat_map(|host| identity(host).domains).collect();
    let is_free = |host: &&Arc<EncodedVirtualHost>| {
        let Identity { name, domains } = identity(host);
        names.contains(&name) && !domains.iter().any(|domain| taken.contains(domain))
    };
    held.virtual_hosts.iter().filter(is_free).cloned().collect()
}

fn identity(host: &EncodedVirtualHost) -> Identity {
    Identity::decode(host.message()).unwrap_or_default()
}

//! What is known of one connection.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

use jiff::Timestamp;
use smol_str::SmolStr;

use crate::{
    mesh::model::{Origin, SpiffeId},
    peer_text::PeerText,
    xds::{
        node::Node,
        per_type::PerType,
        resource::Resource,
        resource_type::ResourceType,
        session::{Event, Refused},
        view::View,
    },
};

/// How far one proxy is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyStatus {
    /// `pod.namespace`
    pub id: SmolStr,
    /// Names the connection: the id and a number.
    pub connection: SmolStr,
    /// What the proxy said about itself.
    pub node: Arc<Node>,
    /// Whether its caller has proven who it is.
    pub proven: bool,
    /// Whose identity that is.
    pub identity: Option<Arc<SpiffeId>>,
    /// Where it calls from, when that is known.
    pub address: Option<SocketAddr>,
    /// When it connected.
    pub connected: Timestamp,
    /// How far it is with each type.
    pub types: PerType<TypeState>,
    /// The generation of the newest view that its session works towards.
    pub wanted: u64,
    /// The generation of the newest view that it has answered for as a whole (apart from removals).
    pub current: u64,
    /// What it refused last and still lacks, by type.
    pub rejected: BTreeMap<ResourceType, Rejection>,
}

/// How far a proxy is with one type, in nonces of its stream (counted from 1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TypeState {
    /// Whether it asked for the type.
    pub subscribed: bool,
    /// The nonce of the last response; 0: none.
    pub sent: u64,
    /// The nonce of the last response that it took; 0: none.
    pub acked: u64,
    /// When the last response went.
    pub sent_at: Option<Timestamp>,
}

/// A refusal in the user's terms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// What the proxy said.
    pub error: PeerText,
    /// Envoy's resources.
    pub resources: Vec<SmolStr>,
    /// The objects that they were made from, sorted.
    pub origins: Arc<[Origin]>,
    /// Whether exactly these were refused; otherwise some of them were.
    pub found: bool,
}

/// The row of one connection. What the proxy has is what a view has, except for what is listed one by one.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) status: ProxyStatus,
    /// What the proxy is to have.
    pub(super) view: View,
    /// For each type, the last view that the proxy has answered for as a whole, apart from what it refuses.
    pub(super) completed: PerType<View>,
    /// What it has acknowledged beyond that.
    pub(super) ahead: BTreeMap<(ResourceType, SmolStr), Arc<Resource>>,
    /// What it refuses of the view that it is to have.
    pub(super) refused: PerType<Arc<[Refused]>>,
}

/// What a proxy said of one resource.
#[derive(Clone, Debug, PartialEq)]
pub enum Acknowledged {
    /// It took this.
    Taken(Arc<Resource>),
    /// It refuses what it was sent.
    Refused,
}

impl ProxyStatus {
    /// Makes the row of a proxy that has said only who it is so far.
    pub(super) fn new(connection: SmolStr, node: &Arc<Node>, address: Option<SocketAddr>, now: Timestamp) -> Self {
        Self {
            id: node.proxy.id.clone(),
            connection,
            node: Arc::clone(node),
            proven: false,
            identity: None,
            address,
            connected: now,
            types: PerType::default(),
            wanted: 0,
            current: 0,
            rejected: BTreeMap::new(),
        }
    }
}

impl Row {
    pub(super) fn new(status: ProxyStatus) -> Self {
        let (completed, refused) = (PerType::default(), PerType::default());
        Self { status, view: View::default(), completed, ahead: BTreeMap::new(), refused }
    }

    /// Takes in an event.
    pub(super) fn record(&mut self, event: &Event, now: Timestamp) {
        let types = &mut self.status.types;
        match event {
            Event::Turned { view } => {
                self.status.wanted = view.generation;
                self.view = view.clone();
            }
            Event::Subscribed { kind } => types[*kind].subscribed = true,
            Event::Sent { kind, nonce, .. } => {
                types[*kind].sent = *nonce;
                types[*kind].sent_at = Some(now);
            }
            Event::Completed { kind, view } => self.complete(*kind, view),
            Event::Acked { kind, nonce, items } => {
                types[*kind].acked = *nonce;
                self.acknowledge(*kind, items);
            }
            Event::Rejected { kind, error, refused, suspects, .. } => self.reject(*kind, error, refused, suspects),
            Event::Refusing { kind, items } => {
                self.refused[*kind] = Arc::clone(items);
                self.stand(*kind, items);
            }
            Event::Current { generation } => self.status.current = *generation,
            Event::Expired { .. } | Event::GateOpened { .. } => {}
        }
    }

    /// Returns what the proxy said of a resource; `None`: nothing yet, or it does not ask for the type.
    pub(super) fn acknowledged(&self, kind: ResourceType, name: &str) -> Option<Acknowledged> {
        if !self.status.types[kind].subscribed {
            return None;
        }
        if self.refused[kind].iter().any(|refused| refused.resource.name == name) {
            return Some(Acknowledged::Refused);
        }
        let ahead = self.ahead.get(&(kind, name.into()));
        ahead.or_else(|| self.completed[kind].get(kind, name)).cloned().map(Acknowledged::Taken)
    }

    /// Counts what is listed one by one.
    #[cfg(test)]
    pub(super) fn entries(&self) -> usize {
        let refused: usize = self.refused.values().map(|refused| refused.len()).sum();
        self.ahead.len() + refused + self.status.rejected.len()
    }

    fn complete(&mut self, kind: ResourceType, view: &View) {
        self.completed[kind] = view.clone();
        self.ahead.retain(|(other, _), _| *other != kind);
        if self.refused[kind].is_empty() {
            self.status.rejected.remove(&kind);
        }
    }

    fn acknowledge(&mut self, kind: ResourceType, items: &[Arc<Resource>]) {
        for item in items {
            let key = (kind, item.name.clone());
            if self.completed[kind].get(kind, &item.name).is_some_and(|known| known == item) {
                self.ahead.remove(&key);
            } else {
                self.ahead.insert(key, Arc::clone(item));
            }
        }
    }

    // What was refused before is not sent again, so nothing may have been said of it just now.
    fn stand(&mut self, kind: ResourceType, items: &[Refused]) {
        let Some(first) = items.first() else {
            self.status.rejected.remove(&kind);
            return;
        };
        let all: Vec<_> = items.iter().map(|refused| Arc::clone(&refused.resource)).collect();
        self.reject(kind, &first.error, &all, &[]);
    }

    fn reject(&mut self, kind: ResourceType, error: &PeerText, refused: &[Arc<Resource>], suspects: &[Arc<Resource>]) {
        let all = || refused.iter().chain(suspects);
        let rejection = Rejection {
            error: error.clone(),
            resources: all().map(|resource| resource.name.clone()).collect(),
            origins: origins_of(all()),
            found: !refused.is_empty(),
        };
        self.status.rejected.insert(kind, rejection);
    }
}

/// Returns the objects that resources were made from, each once, sorted.
pub(super) fn origins_of<'a>(resources: impl Iterator<Item = &'a Arc<Resource>>) -> Arc<[Origin]> {
    let origins: BTreeSet<&Origin> = resources.flat_map(|resource| resource.origins.iter()).collect();
    origins.into_iter().cloned().collect()
}

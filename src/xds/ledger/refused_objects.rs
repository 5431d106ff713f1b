//! The objects from which something was made that connected proxies refuse.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;
use parking_lot::Mutex;
use prometheus_client::metrics::{counter::Counter, family::Family};
use tokio::sync::watch;

use super::{
    observer::{Observer, ProxyConnection},
    row::origins_of,
};
use crate::{
    mesh::model::ObjectKey,
    metrics::MetricLabels,
    peer_text::PeerText,
    xds::{
        resource::Resource,
        resource_type::ResourceType,
        session::{Event, Refused},
    },
};

/// Counts refusals by object, and tells which objects are refused now.
#[derive(Debug, Default)]
pub struct RefusedObjects {
    /// How often something was refused that was made of an object; the series is there while a proxy refuses it.
    counted: Family<MetricLabels<1>, Counter>,
    state: Mutex<State>,
    refusals: watch::Sender<Arc<[Refusal]>>,
}

/// An object from which something was made that some connected proxy refused and still lacks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refusal {
    /// The object.
    pub object: ObjectKey,
    /// The type of what was made of it.
    pub kind: ResourceType,
    /// What one of the proxies said.
    pub error: PeerText,
}

/// Who refuses: a connection, and a type on it.
type Refuser = (u64, ResourceType);

#[derive(Debug, Default)]
struct State {
    /// What is refused of the views that proxies are to have.
    standing: BTreeMap<Refuser, Arc<[Refused]>>,
    /// Who was counted for an object.
    refusers: BTreeMap<ObjectKey, BTreeSet<Refuser>>,
}

impl RefusedObjects {
    /// Counts in `counted`.
    pub(super) fn new(counted: Family<MetricLabels<1>, Counter>) -> Self {
        Self { counted, ..Self::default() }
    }

    /// Subscribes to what is refused, told of each object and type once, sorted.
    pub fn subscribe(&self) -> watch::Receiver<Arc<[Refusal]>> {
        self.refusals.subscribe()
    }

    fn count(&self, refuser: Refuser, refused: &[Arc<Resource>]) {
        let mut state = self.state.lock();
        for object in objects_of(refused.iter()) {
            self.counted.get_or_create(&label(&object)).inc();
            state.refusers.entry(object).or_default().insert(refuser);
        }
    }

    fn stand(&self, refuser: Refuser, items: &Arc<[Refused]>) {
        let mut state = self.state.lock();
        state.standing.remove(&refuser);
        if !items.is_empty() {
            state.standing.insert(refuser, Arc::clone(items));
        }
        // What was refused before is not sent again, and stands all the same.
        for object in objects_of(items.iter().map(|refused| &refused.resource)) {
            if state.refusers.entry(object.clone()).or_default().insert(refuser) {
                self.counted.get_or_create(&label(&object)).inc();
            }
        }
        self.forget(&mut state, |other| *other == refuser);
        self.refusals.send_if_modified(|before| replace(before, state.refusals()));
    }

    /// Lets go of refusers that no longer refuse what they were counted for, and of objects that nobody refuses any more.
    fn forget(&self, state: &mut State, concerned: impl Fn(&Refuser) -> bool) {
        let State { standing, refusers } = state;
        refusers.retain(|object, by| {
            by.retain(|refuser| !concerned(refuser) || standing.get(refuser).is_some_and(|items| concern(items, object)));
            if by.is_empty() {
                self.counted.remove(&label(object));
            }
            !by.is_empty()
        });
    }
}

impl Observer for RefusedObjects {
    fn recorded(&self, connection: &ProxyConnection, event: &Event, _: Timestamp) {
        // Whoever has proven nothing could blame any object.
        if !connection.proven {
            return;
        }
        match event {
            // Suspects are counted only when they are found out.
            Event::Rejected { kind, refused, .. } if !refused.is_empty() => self.count((connection.number, *kind), refused),
            Event::Refusing { kind, items } => self.stand((connection.number, *kind), items),
            Event::Completed { kind, .. } => {
                let mut state = self.state.lock();
                if !state.refusers.is_empty() {
                    self.forget(&mut state, |refuser| *refuser == (connection.number, *kind));
                }
            }
            _ => {}
        }
    }

    fn disconnected(&self, connection: &ProxyConnection, _: Timestamp) {
        let mut state = self.state.lock();
        if state.refusers.is_empty() && state.standing.is_empty() {
            return;
        }
        state.standing.retain(|(number, _), _| *number != connection.number);
        self.forget(&mut state, |(number, _)| *number == connection.number);
        self.refusals.send_if_modified(|before| replace(before, state.refusals()));
    }
}

impl State {
    fn refusals(&self) -> Arc<[Refusal]> {
        let mut all = BTreeSet::new();
        for ((_, kind), items) in &self.standing {
            for Refused { resource, error } in items.iter() {
                let of = |object: &ObjectKey| Refusal { object: object.clone(), kind: *kind, error: error.clone() };
                all.extend(resource.origins.iter().map(|origin| of(&origin.object)));
            }
        }
        let mut all: Vec<Refusal> = all.into_iter().collect();
        all.dedup_by(|a, b| (&a.object, a.kind) == (&b.object, b.kind));
        all.into()
    }
}

fn objects_of<'a>(refused: impl Iterator<Item = &'a Arc<Resource>>) -> BTreeSet<ObjectKey> {
    origins_of(refused).iter().map(|origin| origin.object.clone()).collect()
}

fn concern(items: &[Refused], object: &ObjectKey) -> bool {
    items.iter().flat_map(|refused| refused.resource.origins.iter()).any(|origin| origin.object == *object)
}

fn label(object: &ObjectKey) -> MetricLabels<1> {
    [("object", object.to_string())]
}

/// Returns whether that made a difference.
fn replace(before: &mut Arc<[Refusal]>, now: Arc<[Refusal]>) -> bool {
    let differs = *before != now;
    *before = now;
    differs
}

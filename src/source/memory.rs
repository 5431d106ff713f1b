//! A source without a disk, for tests and benches: what it is told it passes on.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::{Change, Event};
use crate::api::{Diagnostic, Object, ObjectKey};

/// The writing end. Dropping it ends the stream.
#[derive(Clone, Debug)]
pub struct Memory {
    events: mpsc::UnboundedSender<Event>,
}

/// A memory source and the stream of its events.
pub fn memory() -> (Memory, mpsc::UnboundedReceiver<Event>) {
    let (events, receiver) = mpsc::unbounded_channel();
    (Memory { events }, receiver)
}

impl Memory {
    /// These objects are there now, with this content: one batch.
    pub fn apply(&self, objects: impl IntoIterator<Item = Arc<Object>>) {
        self.send(Event::Changes(objects.into_iter().map(Change::Applied).collect()));
    }

    /// These objects are gone: one batch.
    pub fn delete(&self, keys: impl IntoIterator<Item = ObjectKey>) {
        self.send(Event::Changes(keys.into_iter().map(Change::Deleted).collect()));
    }

    /// All that existed has been said.
    pub fn synced(&self) {
        self.send(Event::Synced);
    }

    /// The findings that stand now.
    pub fn diagnostics(&self, findings: Vec<Diagnostic>) {
        self.send(Event::Diagnostics { source: "memory".into(), findings });
    }

    /// Whatever else a source can say.
    pub fn send(&self, event: Event) {
        // Nobody listens any more: then nobody misses it.
        let _ = self.events.send(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Kind, Metadata, Spec};

    #[test]
    fn what_is_applied_comes_out_in_order() {
        let key = ObjectKey { cluster: "Kubernetes".into(), kind: Kind::Namespace, namespace: "".into(), name: "shop".into() };
        let object =
            Arc::new(Object { key: key.clone(), version: "v1".into(), metadata: Arc::new(Metadata::default()), spec: Spec::Namespace });
        let (memory, mut events) = memory();
        memory.apply([Arc::clone(&object)]);
        memory.synced();
        memory.delete([key.clone()]);
        drop(memory);
        assert!(matches!(events.try_recv(), Ok(Event::Changes(changes)) if changes == [Change::Applied(object)]));
        assert!(matches!(events.try_recv(), Ok(Event::Synced)));
        assert!(matches!(events.try_recv(), Ok(Event::Changes(changes)) if changes == [Change::Deleted(key)]));
        assert!(events.try_recv().is_err());
    }
}

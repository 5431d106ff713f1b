//! A source in memory, for tests and benches: it passes on what it is given.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::{Change, SourceEvent};
use crate::api::{Diagnostic, Object, ObjectKey};

/// The sending end of the source. When it is dropped, the stream of events ends.
#[derive(Clone, Debug)]
pub struct Memory {
    events: mpsc::UnboundedSender<SourceEvent>,
}

/// Makes a source in memory, and the stream of its events.
pub fn memory() -> (Memory, mpsc::UnboundedReceiver<SourceEvent>) {
    let (events, receiver) = mpsc::unbounded_channel();
    (Memory { events }, receiver)
}

impl Memory {
    /// Adds or updates objects in one batch.
    pub fn apply(&self, objects: impl IntoIterator<Item = Arc<Object>>) {
        self.send(SourceEvent::Changes(objects.into_iter().map(Change::Applied).collect()));
    }

    /// Deletes objects in one batch.
    pub fn delete(&self, keys: impl IntoIterator<Item = ObjectKey>) {
        self.send(SourceEvent::Changes(keys.into_iter().map(Change::Deleted).collect()));
    }

    /// Reports that all objects were sent.
    pub fn synced(&self) {
        self.send(SourceEvent::Synced);
    }

    /// Replaces all findings.
    pub fn diagnostics(&self, findings: Vec<Diagnostic>) {
        self.send(SourceEvent::Diagnostics { source: "memory".into(), findings });
    }

    /// Sends any event.
    pub fn send(&self, event: SourceEvent) {
        // Without a receiver nobody needs the event.
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
        assert!(matches!(events.try_recv(), Ok(SourceEvent::Changes(changes)) if changes == [Change::Applied(object)]));
        assert!(matches!(events.try_recv(), Ok(SourceEvent::Synced)));
        assert!(matches!(events.try_recv(), Ok(SourceEvent::Changes(changes)) if changes == [Change::Deleted(key)]));
        assert!(events.try_recv().is_err());
    }
}

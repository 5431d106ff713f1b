//! Shares the memory of equal values: the labels and ports of a ReplicaSet's pods, the names of nodes.

use std::{collections::HashSet, hash::Hash, sync::Arc};

use smol_str::SmolStr;

use crate::api::{Labels, Object, Spec, kubernetes::Pod};

/// A `SmolStr` of up to this length is stored inline and needs no memory of its own.
const INLINE: usize = 23;
/// Unused values are dropped when there are twice as many values as after the last time, but never below this number.
const FEW: usize = 1_024;

/// The values of the objects seen so far.
#[derive(Debug, Default)]
pub(super) struct Interned {
    labels: HashSet<Arc<Labels>>,
    ports: HashSet<Arc<[(SmolStr, u16)]>>,
    texts: HashSet<SmolStr>,
    after_last: usize,
}

impl Interned {
    /// Returns the object with its values shared with earlier objects. An object that has other owners stays as it is.
    pub(super) fn share(&mut self, mut object: Arc<Object>) -> Arc<Object> {
        let Some(own) = Arc::get_mut(&mut object) else { return object };
        if let Some(metadata) = Arc::get_mut(&mut own.metadata) {
            share(&mut self.labels, &mut metadata.labels);
            share(&mut self.labels, &mut metadata.annotations);
        }
        match &mut own.spec {
            Spec::Pod(pod) => {
                let Some(Pod { node, owner, service_account, ports, .. }) = Arc::get_mut(pod) else { return object };
                share(&mut self.ports, ports);
                for text in [node, owner, service_account] {
                    self.share_text(text);
                }
            }
            Spec::Service(service) => {
                let Some(service) = Arc::get_mut(service) else { return object };
                service.ports.shrink_to_fit();
                share(&mut self.labels, &mut service.selector);
            }
            Spec::EndpointSlice(slice) => {
                let Some(slice) = Arc::get_mut(slice) else { return object };
                slice.endpoints.shrink_to_fit();
                slice.endpoints.iter_mut().for_each(|endpoint| self.share_text(&mut endpoint.node));
            }
            _ => {}
        }
        self.drop_unused();
        object
    }

    fn share_text(&mut self, text: &mut SmolStr) {
        if text.len() > INLINE {
            share(&mut self.texts, text);
        }
    }

    // A `SmolStr` does not tell whether it is shared, so all texts are dropped, and those in use come back with later objects.
    fn drop_unused(&mut self) {
        if self.len() <= FEW.max(2 * self.after_last) {
            return;
        }
        self.labels.retain(|labels| Arc::strong_count(labels) > 1);
        self.ports.retain(|ports| Arc::strong_count(ports) > 1);
        if self.texts.len() > FEW.max(self.labels.len()) {
            self.texts.clear();
        }
        self.after_last = self.len();
    }

    fn len(&self) -> usize {
        self.labels.len() + self.ports.len() + self.texts.len()
    }
}

fn share<T: Clone + Eq + Hash>(seen: &mut HashSet<T>, value: &mut T) {
    match seen.get(value) {
        Some(equal) => *value = equal.clone(),
        None => _ = seen.insert(value.clone()),
    }
}

//! Keeps once what many objects have in common: labels and ports of a ReplicaSet's pods, the names of nodes.

use std::{collections::HashSet, hash::Hash, sync::Arc};

use smol_str::SmolStr;

use crate::api::{Labels, Object, Spec, kubernetes::Pod};

/// Texts this short stand in their place and cost no memory of their own.
const IN_PLACE: usize = 23;
/// What nobody has any more is thrown out when there is twice as much as after the last time, but not below this.
const FEW: usize = 1_024;

/// What objects seen so far have in common.
#[derive(Debug, Default)]
pub(super) struct Interned {
    labels: HashSet<Arc<Labels>>,
    ports: HashSet<Arc<[(SmolStr, u16)]>>,
    texts: HashSet<SmolStr>,
    after_last: usize,
}

impl Interned {
    /// The object with what it has in common with those before. One that somebody else holds already stays as it is.
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
        self.tidy();
        object
    }

    fn share_text(&mut self, text: &mut SmolStr) {
        if text.len() > IN_PLACE {
            share(&mut self.texts, text);
        }
    }

    // Whether somebody has a text cannot be asked: they are all let go, and those in use come back with the next object.
    fn tidy(&mut self) {
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

fn share<T: Clone + Eq + Hash>(known: &mut HashSet<T>, value: &mut T) {
    match known.get(value) {
        Some(same) => *value = same.clone(),
        None => _ = known.insert(value.clone()),
    }
}

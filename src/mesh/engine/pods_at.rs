//! Pods by address, for whoever names no pods: EndpointSlices written by hand.

use std::{net::IpAddr, sync::Arc};

use imbl::{GenericHashMap, shared_ptr::DefaultSharedPtr};
use rustc_hash::FxBuildHasher;

use crate::{api::Kind, mesh::model::Workload};

/// Pods by each of their addresses. Pods on their node's network share its address. A copy shares the table with its source.
#[derive(Clone, Default)]
pub(super) struct PodsAt(GenericHashMap<IpAddr, Arc<[Arc<Workload>]>, FxBuildHasher, DefaultSharedPtr>);

impl PodsAt {
    /// Puts `new` in the place of `old`. Only pods are kept.
    pub(super) fn replace(&mut self, old: Option<&Arc<Workload>>, new: Option<&Arc<Workload>>) {
        let is_pod = |workload: &&Arc<Workload>| workload.kind == Kind::Pod;
        if let Some(old) = old.filter(is_pod) {
            old.ips.iter().for_each(|ip| self.set(*ip, old, None));
        }
        if let Some(new) = new.filter(is_pod) {
            new.ips.iter().for_each(|ip| self.set(*ip, new, Some(new)));
        }
    }

    /// Returns the pod of a namespace at an address: of several, the last by name.
    pub(super) fn get(&self, cluster: &str, namespace: &str, ip: IpAddr) -> Option<&Workload> {
        let pods = self.0.get(&ip).map_or(&[][..], |pods| pods);
        let of_namespace = pods.iter().filter(|pod| pod.cluster == cluster && pod.namespace == namespace);
        of_namespace.max_by(|a, b| a.name.cmp(&b.name)).map(|pod| &**pod)
    }

    #[cfg(test)]
    pub(super) fn is_shared_with(&self, other: &Self) -> bool {
        self.0.ptr_eq(&other.0)
    }

    fn set(&mut self, ip: IpAddr, was: &Workload, now: Option<&Arc<Workload>>) {
        let others = self.0.get(&ip).map_or(&[][..], |pods| pods).iter().filter(|pod| pod.key() != was.key());
        let pods: Arc<[Arc<Workload>]> = others.chain(now).map(Arc::clone).collect();
        match pods.is_empty() {
            true => _ = self.0.remove(&ip),
            false => _ = self.0.insert(ip, pods),
        }
    }
}

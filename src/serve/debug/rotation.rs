//! What connected proxies are known to trust: what a step of a rotation is judged by.

use std::collections::BTreeSet;

use serde_json::json;
use smol_str::{SmolStr, format_smolstr};

use super::{DebugState, PageRequest, Reply, acknowledged};
use crate::{
    api::Kind,
    identity::rotation::{Connected, Holder, Report},
    mesh::model::Workload,
    xds::ledger::ProxyStatus,
};

/// What the injector writes on pods that have a sidecar, or are a gateway.
const TLS_MODE: (&str, &str) = ("security.istio.io/tlsMode", "istio");

/// Shows a [`Report`], or nothing while the CA is not loaded or the objects are not.
pub(super) fn rotation(state: &DebugState, _: &PageRequest) -> Reply {
    Reply::Json(json!(state.trust_report()))
}

impl DebugState {
    /// Returns what is known of who trusts what; `None` while there is no CA, or nothing is known of pods.
    pub(in crate::serve) fn trust_report(&self) -> Option<Report> {
        if !self.readiness.is_ready() {
            return None;
        }
        let ca = self.ca.get()?.current();
        // Whoever has proven nothing could hold up a rotation by being there.
        let proven = self.ledger.proxies().into_iter().filter(|proxy| proxy.proven);
        let mut acknowledged = acknowledged::roots(&self.ledger, &self.world().mesh.trust_domain);
        Some(Report {
            instance: self.instance.as_str().into(),
            signing: ca.certificate().serial.clone(),
            roots: ca.root_ids().clone(),
            connected: proven
                .map(|proxy| Connected { acknowledged: acknowledged.remove(&proxy.connection), ..connected(&proxy) })
                .collect(),
            running: self.running(),
            told: self.told.list((self.clock)()),
        })
    }

    /// Returns the proxies of the pods of our cluster.
    fn running(&self) -> BTreeSet<SmolStr> {
        let has_proxy = |workload: &Workload| {
            let (label, value) = TLS_MODE;
            workload.kind == Kind::Pod && workload.cluster == self.cluster && workload.labels.get(label).is_some_and(|mode| mode == value)
        };
        let world = self.world();
        let pods = world.workloads.values().filter(|workload| has_proxy(workload) && !workload.ips.is_empty());
        pods.map(|pod| format_smolstr!("{}.{}", pod.name, pod.namespace)).collect()
    }
}

fn connected(proxy: &ProxyStatus) -> Connected {
    let holder = proxy.identity.as_ref().zip(proxy.address).map(|(identity, address)| Holder::new(identity, address.ip()));
    Connected { proxy: proxy.id.clone(), holder, acknowledged: None }
}

//! What connected proxies are known to trust: what a step of a rotation is judged by.

use serde_json::json;

use super::{DebugState, PageRequest, Reply};
use crate::{
    identity::rotation::{Connected, Holder, Report},
    xds::ledger::ProxyStatus,
};

/// Shows a [`Report`], or nothing while the CA is not loaded.
pub(super) fn rotation(state: &DebugState, _: &PageRequest) -> Reply {
    Reply::Json(json!(state.trust_report()))
}

impl DebugState {
    /// Returns what is known of who trusts what; `None` while there is no CA.
    pub(in crate::serve) fn trust_report(&self) -> Option<Report> {
        let ca = self.ca.get()?.current();
        // Whoever has proven nothing could hold up a rotation by being there.
        let proven = self.ledger.proxies().into_iter().filter(|proxy| proxy.proven);
        Some(Report {
            instance: self.instance.as_str().into(),
            signing: ca.certificate().serial.clone(),
            roots: ca.root_ids().clone(),
            connected: proven.map(|proxy| connected(&proxy)).collect(),
            told: self.told.list((self.clock)()),
        })
    }
}

fn connected(proxy: &ProxyStatus) -> Connected {
    let holder = proxy.identity.as_ref().zip(proxy.address).map(|(identity, address)| Holder::new(identity, address.ip()));
    Connected { proxy: proxy.id.clone(), holder }
}

//! The page about certificates that were issued.

use serde_json::{Value, json};

use super::{DebugState, PageRequest, Reply};
use crate::identity::inventory::Issuance;

pub(super) fn certificates(state: &DebugState, request: &PageRequest) -> Reply {
    let mut listing = state.inventory.list((state.clock)());
    listing.issuances.retain(|issuance| request.viewer.sees(&issuance.identity.namespace));
    if let Some(namespace) = request.get("namespace") {
        listing.issuances.retain(|issuance| issuance.identity.namespace == namespace);
    }
    let certificates: Vec<Value> = listing.issuances.iter().map(entry).collect();
    Reply::Json(json!({"certificates": certificates, "forgotten": listing.forgotten}))
}

fn entry(issuance: &Issuance) -> Value {
    let mut entry = json!({
        "serial": issuance.serial.to_string(),
        "identity": issuance.identity.to_string(),
        "issuedAt": issuance.issued_at.to_string(),
        "notAfter": issuance.not_after.to_string(),
        "caller": issuance.caller.to_string(),
        "proof": issuance.proof.as_str(),
    });
    if let Some(cluster) = &issuance.remote_cluster {
        entry["remoteCluster"] = cluster.as_str().into();
    }
    if let Some(signer) = &issuance.signer {
        entry["signer"] = json!(signer.as_str());
    }
    entry
}

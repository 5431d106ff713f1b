//! Reads a PeerAuthentication (contract §6.6).

use super::{
    fields::{Node, Read},
    traffic_policy::match_labels,
};
use crate::api::istio::{PeerAuthentication, PeerMtlsMode};

impl Read for PeerAuthentication {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| Self {
            selector: fields.with("selector", match_labels),
            mode: fields.get("mtls"),
            port_level: fields.with("portLevelMtls", port_level).unwrap_or_default(),
        })
    }
}

/// Reads `mtls: {mode: …}` of the workload or of a port.
impl Read for PeerMtlsMode {
    fn read(node: Node<'_>) -> Option<Self> {
        let fields = node.fields()?;
        let modes = [("UNSET", Self::Unset), ("DISABLE", Self::Disable), ("PERMISSIVE", Self::Permissive), ("STRICT", Self::Strict)];
        let mode = fields.with("mode", |node| node.one_of(&modes));
        fields.finish();
        Some(mode.unwrap_or_default())
    }
}

fn port_level(node: Node<'_>) -> Option<Vec<(u16, PeerMtlsMode)>> {
    let entries = super::fields::entries::<PeerMtlsMode>(node)?;
    let mut ports = Vec::with_capacity(entries.len());
    for (port, mode) in entries {
        match port.parse() {
            Ok(port) if port != 0 => ports.push((port, mode)),
            _ => node.findings.error(&node.path.key(&port), "must be a port from 1 to 65535"),
        }
    }
    ports.sort_by_key(|(port, _)| *port);
    Some(ports)
}

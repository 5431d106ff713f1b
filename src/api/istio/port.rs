//! `Port`, which Gateway, Sidecar and ServiceEntry share.

use smol_str::SmolStr;

/// `port` of a Gateway server, a Sidecar listener or a ServiceEntry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Port {
    /// `number`
    pub number: u16,
    /// `protocol`, as written (`HTTP`, `GRPC`, `TLS`, …).
    pub protocol: SmolStr,
    /// `name`
    pub name: SmolStr,
    /// `targetPort`; 0 for the same number.
    pub target_port: u16,
}

//! `networking.istio.io VirtualService`, and `Port`, which several kinds share.

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
    /// `targetPort`; zero: the number.
    pub target_port: u16,
}

/// `spec` of a VirtualService.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VirtualService {
    /// `hosts`, as written.
    pub hosts: Vec<SmolStr>,
    /// `gateways`, as written.
    pub gateways: Vec<SmolStr>,
    /// `exportTo`, as written.
    pub export_to: Vec<SmolStr>,
}

//! `security.istio.io PeerAuthentication`

use crate::api::Labels;

/// `spec` of a PeerAuthentication.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerAuthentication {
    /// `selector.matchLabels`; `None`: the whole namespace.
    pub selector: Option<Labels>,
    /// `mtls.mode`
    pub mode: PeerMtlsMode,
    /// `portLevelMtls`, by port of the workload; sorted.
    pub port_level: Vec<(u16, PeerMtlsMode)>,
}

/// `mtls.mode`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PeerMtlsMode {
    /// Inherited.
    #[default]
    Unset,
    /// `DISABLE`
    Disable,
    /// `PERMISSIVE`
    Permissive,
    /// `STRICT`
    Strict,
}

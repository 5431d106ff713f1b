//! `security.istio.io PeerAuthentication`

use crate::api::Labels;

/// `spec` of a PeerAuthentication.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerAuthentication {
    /// `selector.matchLabels`; `None` for the whole namespace.
    pub selector: Option<Labels>,
    /// `mtls.mode`
    pub mode: PeerMtlsMode,
    /// `portLevelMtls`, sorted by the port of the workload.
    pub port_level: Vec<(u16, PeerMtlsMode)>,
}

/// `mtls.mode`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PeerMtlsMode {
    /// `UNSET`: inherited.
    #[default]
    Unset,
    /// `DISABLE`
    Disable,
    /// `PERMISSIVE`
    Permissive,
    /// `STRICT`
    Strict,
}

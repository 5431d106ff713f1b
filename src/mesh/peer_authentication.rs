//! PeerAuthentication objects: which traffic workloads accept (contract §6.6).

use super::model::{Labels, MtlsMode};
use crate::api::istio::{self, PeerMtlsMode};

/// What a PeerAuthentication says; `None` stands for a mode that is inherited.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerAuthentication {
    /// The labels of the workloads that it is for; `None`: the whole namespace.
    pub selector: Option<Labels>,
    /// For all ports.
    pub mode: Option<MtlsMode>,
    /// For ports of the workload, sorted by number.
    pub ports: Vec<(u16, Option<MtlsMode>)>,
}

/// Converts a PeerAuthentication.
pub(in crate::mesh) fn peer_authentication(written: &istio::PeerAuthentication) -> PeerAuthentication {
    PeerAuthentication {
        selector: written.selector.clone(),
        mode: mode(written.mode),
        ports: written.port_level.iter().map(|(port, level)| (*port, mode(*level))).collect(),
    }
}

fn mode(written: PeerMtlsMode) -> Option<MtlsMode> {
    match written {
        PeerMtlsMode::Unset => None,
        PeerMtlsMode::Disable => Some(MtlsMode::Disable),
        PeerMtlsMode::Permissive => Some(MtlsMode::Permissive),
        PeerMtlsMode::Strict => Some(MtlsMode::Strict),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unset_modes_are_inherited() {
        let selector = Some(Labels::from([("app".into(), "m".into())]));
        let port_level = vec![(80, PeerMtlsMode::Disable), (81, PeerMtlsMode::Unset), (82, PeerMtlsMode::Permissive)];
        let written = istio::PeerAuthentication { selector: selector.clone(), mode: PeerMtlsMode::Strict, port_level };
        let ports = vec![(80, Some(MtlsMode::Disable)), (81, None), (82, Some(MtlsMode::Permissive))];
        assert_eq!(peer_authentication(&written), PeerAuthentication { selector, mode: Some(MtlsMode::Strict), ports });
        assert_eq!(peer_authentication(&istio::PeerAuthentication::default()), PeerAuthentication::default());
    }
}

//! Where something runs.

use smol_str::{SmolStr, format_smolstr};

/// Where something runs: `region/zone/subzone`, each possibly empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Locality {
    /// `topology.kubernetes.io/region`
    pub region: SmolStr,
    /// `topology.kubernetes.io/zone`
    pub zone: SmolStr,
    /// `topology.istio.io/subzone`
    pub subzone: SmolStr,
}

impl Locality {
    /// Returns whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.region.is_empty() && self.zone.is_empty() && self.subzone.is_empty()
    }

    /// Returns `region/zone/subzone`, without what is empty at the end.
    pub fn label(&self) -> SmolStr {
        match (self.zone.is_empty(), self.subzone.is_empty()) {
            (_, false) => format_smolstr!("{}/{}/{}", self.region, self.zone, self.subzone),
            (false, true) => format_smolstr!("{}/{}", self.region, self.zone),
            (true, true) => self.region.clone(),
        }
    }
}

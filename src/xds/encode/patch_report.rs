//! What came of patches for one resource, or for several.

use smol_str::SmolStr;

use crate::mesh::{by_ptr::ByPtr, envoy_filter::Patch, model::Origin, policy::envoy_filter::Patches};

/// What came of the patches.
#[derive(Debug, Default)]
pub struct PatchReport {
    /// Those that found what they are for.
    pub applied: Patches,
    /// Those that are left out.
    pub faults: Vec<PatchFault>,
    /// Whether one of them removes the resource.
    pub removes: bool,
}

/// A patch that is left out of a resource.
#[derive(Clone, Debug)]
pub struct PatchFault {
    /// The patch.
    pub patch: ByPtr<Patch>,
    /// The resource.
    pub part: SmolStr,
    /// What is wrong with what it would make of it.
    pub what: String,
    /// The content of its object that stands in for it there.
    pub instead: Option<Origin>,
}

impl PatchReport {
    /// Adds what came of patches for a part of what this is about.
    pub(in crate::xds) fn absorb(&mut self, other: &Self) {
        let new = other.applied.as_slice().iter().filter(|patch| !self.applied.as_slice().contains(patch));
        self.applied = self.applied.as_slice().iter().chain(new).cloned().collect();
        self.faults.extend(other.faults.iter().cloned());
    }

    /// Returns what came of patches, of which some of these contents of objects stand in for their newest.
    pub(super) fn with(self, applied: Self, contents: &[Origin]) -> Self {
        let instead = |fault: &PatchFault| contents.iter().find(|content| content.object == fault.patch.origin.object).cloned();
        let faults = self.faults.into_iter().map(|fault| PatchFault { instead: instead(&fault), ..fault });
        Self { faults: faults.collect(), ..applied }
    }
}

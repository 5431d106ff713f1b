//! Where something of an EnvoyFilter cannot be applied, what it said before stays.

use std::collections::BTreeSet;

use super::patch_report::PatchReport;
use crate::{
    api::ObjectKey,
    mesh::policy::envoy_filter::{Patches, StandingIn},
};

/// Returns what was made of patches and what came of them; with those of objects of which some were left out replaced by what the
/// objects said before, where all of that can be applied.
pub(in crate::xds) fn or_before<T>(
    newest: (T, PatchReport),
    patches: &Patches,
    mut apply: impl FnMut(&Patches) -> (T, PatchReport),
) -> (T, PatchReport) {
    let faulty: BTreeSet<ObjectKey> = newest.1.faults.iter().map(|fault| fault.patch.origin.object.clone()).collect();
    if faulty.is_empty() {
        return newest;
    }
    for StandingIn { patches, contents } in patches.standing_in(&faulty) {
        let (made, report) = apply(&patches);
        let is_before = |object: &ObjectKey| contents.iter().any(|content| content.object == *object);
        if !report.faults.iter().any(|fault| is_before(&fault.patch.origin.object)) {
            return (made, newest.1.with(report, &contents));
        }
    }
    newest
}

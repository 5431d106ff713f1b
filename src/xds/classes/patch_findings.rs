//! What is said of the patches of EnvoyFilters: those that are left out, and those that are for nothing that proxies have.

use std::collections::BTreeMap;

use rustc_hash::{FxHashMap, FxHashSet};
use smol_str::SmolStr;

use crate::{
    api::{Diagnostic, ObjectKey},
    mesh::{by_ptr::ByPtr, envoy_filter::Patch, policy::envoy_filter::Patches},
    xds::encode::patch_report::{PatchFault, PatchReport},
};

/// What came of patches for many resources.
#[derive(Default)]
pub(super) struct PatchFindings<'a> {
    selected: FxHashSet<&'a ByPtr<Patch>>,
    applied: FxHashSet<&'a ByPtr<Patch>>,
    /// By patch what is wrong, by resource.
    faults: FxHashMap<&'a ByPtr<Patch>, BTreeMap<&'a SmolStr, &'a PatchFault>>,
    /// The objects for which something that they said before stands in: nothing more is known of what they say now.
    replaced: FxHashSet<&'a ObjectKey>,
}

impl<'a> PatchFindings<'a> {
    /// Adds patches that are for some proxy.
    pub(super) fn select(&mut self, patches: &'a Patches) {
        self.selected.extend(patches.as_slice());
    }

    /// Adds what came of patches for a resource.
    pub(super) fn report(&mut self, report: &'a PatchReport) {
        self.applied.extend(report.applied.as_slice());
        for fault in &report.faults {
            self.faults.entry(&fault.patch).or_default().entry(&fault.part).or_insert(fault);
            self.replaced.extend(fault.instead.as_ref().map(|content| &content.object));
        }
    }

    /// Returns the findings, one of a patch.
    pub(super) fn findings(self) -> impl Iterator<Item = Diagnostic> {
        let Self { selected, applied, faults, replaced } = self;
        let told: Vec<Diagnostic> = faults.iter().filter_map(|(patch, parts)| left_out(patch, parts)).collect();
        let is_idle = move |patch: &&ByPtr<Patch>| {
            !applied.contains(patch) && !faults.contains_key(patch) && !replaced.contains(&patch.origin.object)
        };
        let idle = selected.into_iter().filter(is_idle);
        told.into_iter().chain(idle.map(|patch| without_effect(patch)))
    }
}

fn left_out(patch: &Patch, parts: &BTreeMap<&SmolStr, &PatchFault>) -> Option<Diagnostic> {
    let (part, PatchFault { what, instead, .. }) = parts.first_key_value()?;
    let others = match parts.len() - 1 {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let outcome = match instead {
        Some(content) => format!("what the object said before{} stays there", content.in_brackets()),
        None => "this patch is left out there, and the others are applied".to_owned(),
    };
    let message = format!("cannot be what becomes of {part}{others} ({what}): {outcome}");
    Some(Diagnostic::error(patch.field("patch"), message).of(&patch.origin.object))
}

fn without_effect(patch: &Patch) -> Diagnostic {
    let message = "has no effect: the proxies that the filter is for have nothing that it matches";
    Diagnostic::warning(patch.field("match"), message).of(&patch.origin.object)
}

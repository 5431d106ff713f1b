//! Whether a step breaks anybody, by what all control planes know.

use jiff::Timestamp;
use smol_str::SmolStr;

use super::{Material, MaterialError, Need, Objection, Report, objections};

/// Why it cannot be told whom a step would break.
#[derive(Debug, thiserror::Error)]
pub enum Unjudged {
    /// What a control plane knows is of the stage before.
    #[error("the control plane {0} has not taken over the last step yet; its log says why")]
    Behind(SmolStr),
    /// What stands beside the CA cannot be read.
    #[error(transparent)]
    Material(#[from] MaterialError),
}

/// Returns the proxies that do not meet a need, by the reports of all control planes.
///
/// # Errors
/// When one of them has not taken over what stands beside the CA: then what it knows says nothing about the next step.
pub fn judge(material: &Material, need: Need, reports: &[Report], now: Timestamp) -> Result<Vec<Objection>, Unjudged> {
    let (signing, roots) = material.in_use()?;
    match reports.iter().find(|report| report.signing != signing.serial || !report.roots.iter().eq(&roots)) {
        Some(report) => Err(Unjudged::Behind(report.instance.clone())),
        None => Ok(objections(need, &material.root_of(need), reports, now)),
    }
}

//! What the control planes know of who trusts what.

use std::net::SocketAddr;

use anyhow::Context;
use jiff::Timestamp;

use super::{Material, Need, Objection};
use crate::{
    agent::admin::Admin,
    identity::rotation::{Report, judge},
};

/// The control planes to ask: all that there are.
pub(super) struct ControlPlanes<'a>(pub(super) &'a [SocketAddr]);

impl ControlPlanes<'_> {
    /// Returns the connected proxies that do not meet a need.
    ///
    /// # Errors
    /// When a control plane does not answer, or has not taken over what stands beside the CA: then nothing is known.
    pub(super) async fn judge(&self, material: &Material, need: Need) -> anyhow::Result<Vec<Objection>> {
        let mut reports = Vec::with_capacity(self.0.len());
        for address in self.0 {
            let report =
                ask(*address).await.with_context(|| format!("the control plane at {address} does not say what its proxies trust"))?;
            reports.push(report);
        }
        Ok(judge(material, need, &reports, Timestamp::now())?)
    }
}

async fn ask(address: SocketAddr) -> anyhow::Result<Report> {
    let body = Admin::new(address).get("/debug/rotation").await?;
    serde_json::from_slice(&body).context("the answer is not that of a control plane of this version that is ready")
}

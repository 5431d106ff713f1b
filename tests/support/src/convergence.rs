//! When every Envoy had ACKed a change, as the control plane saw it (`/debug/convergence` on 15014).

use std::{
    net::SocketAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{http_client::get_text, wait};

/// A change that every proxy it concerned has ACKed.
#[derive(Clone, Debug)]
pub struct Converged {
    /// From the edit to the last ACK.
    pub took: Duration,
    /// How many proxies it was sent to.
    pub proxies: u64,
}

/// Returns the milliseconds since 1970, the unit of `/debug/convergence`.
pub fn unix_millis() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Waits until a change of `object` (`VirtualService/shop/reviews`), made at or after `edited` (from [`unix_millis`]),
/// is ACKed by every proxy that it concerns.
pub async fn wait_for(monitoring: SocketAddr, object: &str, edited: u64, deadline: Duration) -> Result<Converged> {
    wait::until(&format!("the last ACK of {object}"), deadline, || async move {
        read(&get_text(monitoring, "/debug/convergence").await?, object, edited)
    })
    .await
}

/// Returns what `/debug/convergence` says of a change of `object`, made at or after `edited`.
///
/// # Errors
/// When not all have ACKed it, or the control plane has not seen it.
pub fn read(text: &str, object: &str, edited: u64) -> Result<Converged> {
    find(&serde_json::from_str(text).context("/debug/convergence")?, object, edited)
}

fn find(list: &Value, object: &str, edited: u64) -> Result<Converged> {
    let changes = list.as_array().context("/debug/convergence is no list")?;
    let concerns = |change: &&Value| change["objects"].as_array().is_some_and(|objects| objects.iter().any(|named| named == object));
    let after = |change: &&Value| change["seen_unix_ms"].as_u64().is_some_and(|seen| seen >= edited);
    let mut last = None;
    for change in changes.iter().filter(concerns).filter(after) {
        let Some(acked) = change["last_ack_unix_ms"].as_u64().filter(|acked| *acked > 0) else {
            bail!("not ACKed by all: {change}");
        };
        let proxies = change["proxies"].as_u64().unwrap_or_default();
        last = Some(Converged { took: Duration::from_millis(acked.saturating_sub(edited)), proxies });
    }
    last.context("the control plane has not seen the change")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_change_after_the_edit_counts_when_all_have_acked() {
        let change = |seen: u64, acked: Value| serde_json::json!({"change": 1, "objects": ["VirtualService/shop/reviews"], "seen_unix_ms": seen, "last_ack_unix_ms": acked, "proxies": 2});
        let object = "VirtualService/shop/reviews";
        let list = serde_json::json!([change(100, 130.into()), change(200, 240.into())]);
        assert_eq!(find(&list, object, 190).unwrap().took, Duration::from_millis(50));
        assert!(find(&list, object, 201).is_err());
        assert!(find(&list, "VirtualService/shop/ratings", 0).is_err());
        let waiting = serde_json::json!([change(200, Value::Null)]);
        assert!(find(&waiting, object, 190).unwrap_err().to_string().contains("not ACKed"));
    }
}

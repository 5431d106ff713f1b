//! The readiness of a proxy: Envoy has accepted a CDS and an LDS update, its workers run, and the workload has its certificate.

use super::admin::Admin;

/// The counters that readiness depends on.
const STATS_PATH: &str =
    "/stats?filter=^(cluster_manager.cds.update_success|listener_manager.lds.update_success|listener_manager.workers_started)$";

/// The state that readiness depends on (contract §0).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Observed {
    /// `cluster_manager.cds.update_success`
    pub cds_updates: u64,
    /// `listener_manager.lds.update_success`
    pub lds_updates: u64,
    /// `listener_manager.workers_started`
    pub workers_started: bool,
    /// Whether the certificate was issued.
    pub certificate: bool,
    /// Whether the proxy is draining.
    pub draining: bool,
}

impl Observed {
    /// Returns `Ok` if the proxy is ready, and else why it is not.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        match self {
            Self { draining: true, .. } => Err("draining"),
            Self { certificate: false, .. } => Err("no certificate yet"),
            Self { cds_updates: 0, .. } => Err("no CDS update accepted yet"),
            Self { lds_updates: 0, .. } => Err("no LDS update accepted yet"),
            Self { workers_started: false, .. } => Err("workers not started yet"),
            _ => Ok(()),
        }
    }

    /// Reads the three counters from the text of Envoy's `/stats` (lines `name: value`); what is missing counts as zero.
    pub(crate) fn with_stats(mut self, text: &str) -> Self {
        for (name, value) in text.lines().filter_map(|line| line.split_once(": ")) {
            let value: u64 = value.trim().parse().unwrap_or(0);
            match name {
                "cluster_manager.cds.update_success" => self.cds_updates = value,
                "listener_manager.lds.update_success" => self.lds_updates = value,
                "listener_manager.workers_started" => self.workers_started = value > 0,
                _ => {}
            }
        }
        self
    }
}

/// Asks Envoy whether the proxy is ready; the error says why it is not.
pub(crate) async fn check(admin: &Admin, certificate: bool, draining: bool) -> Result<(), String> {
    let observed = Observed { certificate, draining, ..Observed::default() };
    if draining {
        return observed.check().map_err(str::to_owned);
    }
    let stats = admin.get(STATS_PATH).await.map_err(|error| error.to_string())?;
    observed.with_stats(&String::from_utf8_lossy(&stats)).check().map_err(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATS: &str =
        "cluster_manager.cds.update_success: 2\nlistener_manager.lds.update_success: 1\nlistener_manager.workers_started: 1\n";

    #[test]
    fn ready_when_everything_is_there() {
        let observed = Observed { certificate: true, ..Observed::default() }.with_stats(STATS);
        assert_eq!(observed.cds_updates, 2);
        assert_eq!(observed.check(), Ok(()));
    }

    #[test]
    fn each_missing_piece_is_named() {
        let ready = Observed { cds_updates: 1, lds_updates: 1, workers_started: true, certificate: true, draining: false };
        let cases = [
            (Observed { draining: true, ..ready }, "draining"),
            (Observed { certificate: false, ..ready }, "certificate"),
            (Observed { cds_updates: 0, ..ready }, "CDS"),
            (Observed { lds_updates: 0, ..ready }, "LDS"),
            (Observed { workers_started: false, ..ready }, "workers"),
        ];
        for (observed, word) in cases {
            assert!(observed.check().unwrap_err().contains(word), "{observed:?}");
        }
        assert!(Observed { certificate: true, ..Observed::default() }.with_stats("garbage\nx: y").check().is_err());
    }
}

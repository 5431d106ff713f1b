//! What the Envoys counted themselves: the load generator could be wrong, they would still have seen a failure.

use std::collections::BTreeMap;

use anyhow::{Result, bail};

use crate::admin::Admin;

/// Counters of one kind of failure: the suffix of their names, and the response flag they stand for.
///
/// Not among them is `upstream_cx_connect_fail`: when a host goes, Envoy closes connections to it that are still being
/// made and that no request waits for, and counts these too. A request that waited in vain counts as ejected.
const FAILURES: &[(&str, &str)] = &[
    (".upstream_cx_connect_timeout", "UF: the upstream connection timed out"),
    (".upstream_cx_none_healthy", "UH: no healthy upstream"),
    (".upstream_rq_pending_failure_eject", "UF: the connection of a waiting request failed"),
    (".upstream_rq_pending_overflow", "UO: overflow"),
    (".upstream_rq_rx_reset", "UR: the upstream reset a request"),
    (".upstream_rq_retry", "a retry"),
    (".upstream_rq_5xx", "5xx from upstream or by the proxy"),
    (".downstream_rq_5xx", "5xx to a client"),
    (".no_route", "NR: no route"),
    (".no_cluster", "NC: no cluster"),
    (".upstream_cx_destroy_remote_with_active_rq", "UC: the upstream ended a connection under a request"),
    (".upstream_cx_destroy_local_with_active_rq", "the proxy ended an upstream connection under a request"),
    (".downstream_cx_no_route", "NR: no filter chain or cluster for a TCP connection"),
    (".no_filter_chain_match", "NR: no filter chain"),
];

/// Prefixes of counters that say nothing about requests of the mesh.
const OTHERS: &[&str] = &["cluster.xds", "cluster.sds", "cluster.prometheus", "cluster.agent", "http.admin.", "listener.admin."];

/// What one Envoy had counted at one time.
#[derive(Clone, Debug)]
pub struct Counters {
    proxy: String,
    stats: BTreeMap<String, u64>,
}

impl Counters {
    /// Reads them now.
    pub async fn read(proxy: &str, admin: Admin) -> Result<Self> {
        Ok(Self { proxy: proxy.to_owned(), stats: admin.stats().await? })
    }

    /// Returns the failures counted since `earlier`, as `proxy: counter +n (meaning)`. A counter that went away with
    /// its cluster is not seen; the load generator sees the requests that it would have counted.
    pub fn failures_since(&self, earlier: &Counters) -> Vec<String> {
        let mut found = Vec::new();
        for (name, value) in &self.stats {
            let before = earlier.stats.get(name).copied().unwrap_or_default();
            if let Some(meaning) = meaning(name)
                && *value > before
            {
                found.push(format!("{}: {name} +{} ({meaning})", self.proxy, value - before));
            }
        }
        found
    }

    /// Returns the sum over all counters whose name ends with `suffix`.
    pub fn sum(&self, suffix: &str) -> u64 {
        self.stats.iter().filter(|(name, _)| name.ends_with(suffix)).map(|(_, value)| value).sum()
    }
}

/// Returns an error that lists every failure the Envoys counted between two readings (in the same order).
pub fn expect_no_failures(before: &[Counters], after: &[Counters]) -> Result<()> {
    let found = after.iter().zip(before).flat_map(|(now, then)| now.failures_since(then)).collect::<Vec<_>>();
    if found.is_empty() { Ok(()) } else { bail!("the Envoys counted failures:\n  {}", found.join("\n  ")) }
}

fn meaning(name: &str) -> Option<&'static str> {
    if OTHERS.iter().any(|prefix| name.starts_with(prefix)) {
        return None;
    }
    FAILURES.iter().find(|(suffix, _)| name.ends_with(suffix)).map(|(_, meaning)| *meaning)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(stats: &[(&str, u64)]) -> Counters {
        Counters { proxy: "gateway".to_owned(), stats: stats.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect() }
    }

    #[test]
    fn only_what_grew_is_a_failure() {
        let name = "http.outbound_0.0.0.0_8080;.no_route";
        let (before, after) = (counters(&[(name, 2)]), counters(&[(name, 3), ("cluster.outbound|80||a.upstream_rq_2xx", 9)]));
        assert!(expect_no_failures(std::slice::from_ref(&before), std::slice::from_ref(&before)).is_ok());
        let error = expect_no_failures(&[before], &[after]).unwrap_err().to_string();
        assert!(error.contains("no_route +1 (NR"), "{error}");
    }

    #[test]
    fn a_connection_that_nobody_waited_for_is_none() {
        let attempt = ("cluster.outbound|80||a.upstream_cx_connect_fail", 1);
        assert!(counters(&[attempt]).failures_since(&counters(&[])).is_empty());
        let waited = counters(&[attempt, ("cluster.outbound|80||a.upstream_rq_pending_failure_eject", 1)]);
        assert_eq!(waited.failures_since(&counters(&[])).len(), 1);
    }

    #[test]
    fn the_stream_to_the_control_plane_may_break() {
        let after = counters(&[("cluster.xds-grpc.upstream_rq_5xx", 1), ("cluster.xds-grpc.upstream_rq_pending_failure_eject", 4)]);
        assert!(after.failures_since(&counters(&[])).is_empty());
    }
}

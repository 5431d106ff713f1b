//! The readiness of a proxy: Envoy has accepted a CDS and an LDS update, its workers run, the workload has its certificate, and the
//! listeners stand to which captured traffic is led. Without these a pod that says it is ready would refuse every connection.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use serde::Deserialize;

use super::{
    admin::Admin,
    settings::{InterceptionMode, Role, Settings},
};

/// The counters that readiness depends on.
const STATS_PATH: &str = "/stats?filter=^(cluster_manager.cds|listener_manager.lds).update_(success|rejected)$|\
                          ^listener_manager.workers_started$";
/// The listeners that take traffic.
const LISTENERS_PATH: &str = "/listeners?format=json";
/// The listeners with what Envoy had against their last update.
const REFUSALS_PATH: &str = "/config_dump?resource=dynamic_listeners&mask=name,error_state.details";

/// The listeners to which the traffic of a sidecar is led (contract §3.3).
const CAPTURING: [&str; 2] = ["virtualOutbound", "virtualInbound"];
/// The most characters of Envoy's words that are passed on.
const MOST_WORDS: usize = 500;

/// Asks Envoy whether the proxy is ready.
#[derive(Clone, Debug)]
pub(crate) struct Readiness {
    admin: Admin,
    /// The listeners without which the proxy serves nothing.
    needed: &'static [&'static str],
    /// Whether all of them stood once. Envoy keeps a listener whose update it refuses.
    stood: Arc<AtomicBool>,
}

/// The state that readiness depends on (contract §0).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Observed {
    /// `cluster_manager.cds.update_success`
    cds_updates: u64,
    /// `cluster_manager.cds.update_rejected`
    cds_rejected: u64,
    /// `listener_manager.lds.update_success`
    lds_updates: u64,
    /// `listener_manager.lds.update_rejected`
    lds_rejected: u64,
    /// `listener_manager.workers_started`
    workers_started: bool,
    /// Whether the certificate was issued.
    certificate: bool,
    /// Needed listeners that do not stand.
    missing: Vec<&'static str>,
}

impl Readiness {
    /// Returns what asks about the proxy of these settings.
    pub(crate) fn new(settings: &Settings) -> Self {
        let captures = settings.role == Role::Sidecar && settings.workload.interception != InterceptionMode::None;
        Self { admin: Admin::new(settings.listen.admin), needed: if captures { &CAPTURING } else { &[] }, stood: Arc::default() }
    }

    /// Asks Envoy; the error says what is missing.
    pub(crate) async fn check(&self, certificate: bool, draining: bool) -> Result<(), String> {
        if draining {
            return Err("draining".to_owned());
        }
        let mut observed = Observed { certificate, ..Observed::default() }.with_stats(&self.get(STATS_PATH).await?);
        if observed.lds_updates > 0 {
            observed.missing = self.missing().await?;
        }
        let Err(reason) = observed.check() else { return Ok(()) };
        let refusals = match observed.lds_rejected {
            0 => String::new(),
            _ => self.get(REFUSALS_PATH).await.map(|dump| refusals(&dump)).unwrap_or_default(),
        };
        Err(if refusals.is_empty() { reason } else { format!("{reason}: {refusals}") })
    }

    /// Returns the needed listeners that do not stand. Once all did, nobody is asked again.
    async fn missing(&self) -> Result<Vec<&'static str>, String> {
        if self.needed.is_empty() || self.stood.load(Ordering::Relaxed) {
            return Ok(Vec::new());
        }
        let missing = missing(self.needed, &self.get(LISTENERS_PATH).await?);
        self.stood.store(missing.is_empty(), Ordering::Relaxed);
        Ok(missing)
    }

    async fn get(&self, path: &str) -> Result<String, String> {
        let body = self.admin.get(path).await.map_err(|error| error.to_string())?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }
}

impl Observed {
    fn check(&self) -> Result<(), String> {
        let none_yet = |what: &str, rejected: u64| match rejected {
            0 => format!("no {what} update accepted yet"),
            _ => format!("no {what} update accepted yet, {rejected} refused by Envoy"),
        };
        let reason = match self {
            Self { certificate: false, .. } => "no certificate yet".to_owned(),
            Self { cds_updates: 0, .. } => none_yet("CDS", self.cds_rejected),
            Self { lds_updates: 0, .. } => none_yet("LDS", self.lds_rejected),
            Self { workers_started: false, .. } => "workers not started yet".to_owned(),
            Self { missing, .. } if !missing.is_empty() => self.without_listeners(),
            _ => return Ok(()),
        };
        Err(reason)
    }

    fn without_listeners(&self) -> String {
        let missing = format!("listeners that take captured traffic are missing: {}", self.missing.join(", "));
        match self.lds_rejected {
            0 => missing,
            rejected => format!("{missing}; LDS updates refused by Envoy: {rejected}"),
        }
    }

    /// Reads the counters from the text of Envoy's `/stats` (lines `name: value`); what is missing counts as zero.
    fn with_stats(mut self, text: &str) -> Self {
        for (name, value) in text.lines().filter_map(|line| line.split_once(": ")) {
            let value: u64 = value.trim().parse().unwrap_or(0);
            match name {
                "cluster_manager.cds.update_success" => self.cds_updates = value,
                "cluster_manager.cds.update_rejected" => self.cds_rejected = value,
                "listener_manager.lds.update_success" => self.lds_updates = value,
                "listener_manager.lds.update_rejected" => self.lds_rejected = value,
                "listener_manager.workers_started" => self.workers_started = value > 0,
                _ => {}
            }
        }
        self
    }
}

/// Returns those of the listeners that are not in Envoy's list of what is active.
fn missing(needed: &'static [&'static str], listed: &str) -> Vec<&'static str> {
    #[derive(Default, Deserialize)]
    struct Listed {
        #[serde(default)]
        listener_statuses: Vec<Active>,
    }
    #[derive(Deserialize)]
    struct Active {
        #[serde(default)]
        name: String,
    }
    let listed: Listed = serde_json::from_str(listed).unwrap_or_default();
    needed.iter().copied().filter(|name| !listed.listener_statuses.iter().any(|active| active.name == *name)).collect()
}

/// Returns what Envoy has against listeners, cut, on one line: the words quote what the control plane sent.
fn refusals(dump: &str) -> String {
    #[derive(Default, Deserialize)]
    struct Dump {
        #[serde(default)]
        configs: Vec<Dumped>,
    }
    #[derive(Deserialize)]
    struct Dumped {
        #[serde(default)]
        name: String,
        error_state: Option<ErrorState>,
    }
    #[derive(Deserialize)]
    struct ErrorState {
        #[serde(default)]
        details: String,
    }
    let dump: Dump = serde_json::from_str(dump).unwrap_or_default();
    let mut said: Vec<(String, String)> = Vec::new();
    for Dumped { name, error_state } in dump.configs {
        // Envoy lists what it refused with the listener that it is about, and once more without.
        if let Some(ErrorState { details }) = error_state
            && !said.iter().any(|(_, before)| *before == details)
        {
            said.push((name, details));
        }
    }
    let said = said.into_iter().map(|(name, details)| if name.is_empty() { details } else { format!("{name}: {details}") });
    let line: Vec<String> = said.collect();
    line.join("; ").chars().map(|letter| if letter.is_control() { ' ' } else { letter }).take(MOST_WORDS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATS: &str = "cluster_manager.cds.update_success: 2\nlistener_manager.lds.update_success: 1\n\
                         listener_manager.lds.update_rejected: 3\nlistener_manager.workers_started: 1\n";

    #[test]
    fn ready_when_everything_is_there() {
        let observed = Observed { certificate: true, ..Observed::default() }.with_stats(STATS);
        assert_eq!((observed.cds_updates, observed.lds_rejected), (2, 3));
        assert_eq!(observed.check(), Ok(()));
    }

    #[test]
    fn each_missing_piece_is_named() {
        let ready = Observed { cds_updates: 1, lds_updates: 1, workers_started: true, certificate: true, ..Observed::default() };
        let cases = [
            (Observed { certificate: false, ..ready.clone() }, "certificate"),
            (Observed { cds_updates: 0, ..ready.clone() }, "CDS"),
            (Observed { lds_updates: 0, ..ready.clone() }, "LDS"),
            (Observed { lds_updates: 0, lds_rejected: 4, ..ready.clone() }, "4 refused"),
            (Observed { workers_started: false, ..ready.clone() }, "workers"),
            (Observed { missing: vec!["virtualInbound"], ..ready.clone() }, "virtualInbound"),
            (Observed { missing: vec!["virtualInbound"], lds_rejected: 4, ..ready }, "refused by Envoy: 4"),
        ];
        for (observed, word) in cases {
            assert!(observed.check().unwrap_err().contains(word), "{observed:?}");
        }
        assert!(Observed { certificate: true, ..Observed::default() }.with_stats("garbage\nx: y").check().is_err());
    }

    #[test]
    fn a_listener_stands_when_envoy_lists_it() {
        assert_eq!(
            missing(&CAPTURING, r#"{"listener_statuses": [{"name": "virtualInbound", "local_address": {}}, {}]}"#),
            ["virtualOutbound"]
        );
        assert_eq!(missing(&CAPTURING, "garbage"), CAPTURING);
        assert_eq!(missing(&[], "{}"), [""; 0]);
    }

    #[test]
    fn what_envoy_refused_is_one_short_line() {
        let dump = serde_json::json!({"configs": [
            {"name": "virtualInbound"},
            {"name": "virtualOutbound", "error_state": {"details": "no\nchains"}},
            {"error_state": {"details": "no\nchains"}},
            {"name": "other", "error_state": {"details": "x".repeat(5000)}},
        ]});
        let said = refusals(&dump.to_string());
        assert!(said.starts_with("virtualOutbound: no chains; other: xxx"), "{said}");
        assert_eq!(said.chars().count(), MOST_WORDS);
        assert_eq!(refusals("garbage"), "");
    }

    #[test]
    fn only_what_captures_needs_its_listeners() {
        let mut settings = crate::agent::settings::tests::settings();
        settings.workload.interception = InterceptionMode::Redirect;
        assert_eq!(Readiness::new(&settings).needed, CAPTURING);
        settings.role = Role::Gateway;
        assert_eq!(Readiness::new(&settings).needed, [""; 0]);
        settings.role = Role::Sidecar;
        settings.workload.interception = InterceptionMode::None;
        assert_eq!(Readiness::new(&settings).needed, [""; 0]);
    }
}

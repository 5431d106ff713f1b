//! Which of Istio's standard metrics a proxy reports.

/// What a proxy reports, and how its Envoy takes that. The default is nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct MetricsPlan {
    /// Whether it reports requests and connections to others (`reporter="source"`); gateways report all as such.
    pub client: bool,
    /// Whether a sidecar reports requests and connections to its own workload (`reporter="destination"`).
    pub server: bool,
    /// Whether the proxies of the mesh tell each other who they are: if one of them reports anything, all do.
    pub peers: bool,
    /// What counts for it.
    pub logger: StatsLogger,
}

/// The form that Envoy's logger `envoy.access_loggers.stats` takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum StatsLogger {
    /// Up to Envoy 1.39: what a listener counted is gone with the listener. Later ones take it too, with a warning.
    #[default]
    Prefix,
    /// From Envoy 1.40 on: listeners count in one scope, which outlives each of them.
    SharedScope,
}

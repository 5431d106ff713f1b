//! What became of each request, and how a window of them is judged.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant},
};

use http::StatusCode;

/// On what kind of connection a request went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Connection {
    /// Opened for it.
    Fresh,
    /// Kept from an earlier request.
    KeepAlive,
    /// Kept, and idle for seconds before.
    Idle,
    /// A long-lived TCP connection that echoes.
    Tcp,
}

/// An answer by a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// What a refusal says; empty with an answer of 200.
    pub refusal: String,
    /// The version that answered; empty when the answer names none.
    pub version: String,
    /// Whether the release says that it misbehaves.
    pub bad_release: bool,
    /// The attempt that the proxy counted.
    pub attempt: u32,
}

/// One request.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The path's name.
    pub path: &'static str,
    /// On what it went.
    pub connection: Connection,
    /// When it was due.
    pub sent: Instant,
    /// From then to the end of the answer.
    pub latency: Duration,
    /// The answer, or why there is none (or a late one).
    pub result: Result<Answer, String>,
}

/// A request that failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The path's name.
    pub path: &'static str,
    /// On what it went.
    pub connection: Connection,
    /// When it was due.
    pub sent: Instant,
    /// What the client saw.
    pub reason: String,
}

/// The versions seen on one path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Requests answered with 200.
    pub total: u64,
    versions: BTreeMap<String, u64>,
}

/// Requests of a stretch of time.
#[derive(Clone, Debug)]
pub struct Window {
    outcomes: Vec<Outcome>,
}

impl Window {
    pub(super) fn new(outcomes: Vec<Outcome>) -> Self {
        Self { outcomes }
    }

    /// Returns every request.
    pub fn outcomes(&self) -> &[Outcome] {
        &self.outcomes
    }

    /// Returns the requests with no answer, a late one, one that is not 200, or one that took the proxy several attempts.
    pub fn failures(&self) -> Vec<Failure> {
        self.outcomes.iter().filter_map(Outcome::failure).collect()
    }

    /// Returns the failures but for answers that a bad release gave by itself.
    pub fn failures_of_the_mesh(&self) -> Vec<Failure> {
        let own = |outcome: &&Outcome| outcome.result.as_ref().is_ok_and(|answer| answer.bad_release && answer.attempt <= 1);
        self.outcomes.iter().filter(|outcome| !own(outcome)).filter_map(Outcome::failure).collect()
    }

    /// Returns the versions seen on a path, of requests that chose anew (HTTP, answered with 200).
    pub fn sample(&self, path: &str) -> Sample {
        let mut sample = Sample::default();
        let chosen = self.outcomes.iter().filter(|outcome| outcome.path == path && outcome.connection != Connection::Tcp);
        for answer in chosen.filter_map(|outcome| outcome.result.as_ref().ok()).filter(|answer| answer.status == StatusCode::OK) {
            sample.total += 1;
            *sample.versions.entry(answer.version.clone()).or_default() += 1;
        }
        sample
    }

    /// Returns the requests that a bad release answered.
    pub fn bad_releases(&self) -> usize {
        self.outcomes.iter().filter(|outcome| outcome.result.as_ref().is_ok_and(|answer| answer.bad_release)).count()
    }

    /// Returns the latency that a share (0.5, 0.99) of the answered requests stayed below.
    pub fn latency(&self, share: f64) -> Duration {
        let answered = self.outcomes.iter().filter(|outcome| outcome.result.is_ok() && outcome.connection != Connection::Tcp);
        let mut latencies = answered.map(|outcome| outcome.latency).collect::<Vec<_>>();
        latencies.sort_unstable();
        latencies.get(((latencies.len() as f64 * share) as usize).min(latencies.len().saturating_sub(1))).copied().unwrap_or_default()
    }
}

impl Outcome {
    fn failure(&self) -> Option<Failure> {
        let reason = match &self.result {
            Err(reason) => reason.clone(),
            Ok(answer) if answer.status != StatusCode::OK => format!("status {}: {:?}", answer.status, answer.refusal),
            Ok(answer) if answer.attempt > 1 => format!("answered at attempt {}", answer.attempt),
            Ok(_) => return None,
        };
        Some(Failure { path: self.path, connection: self.connection, sent: self.sent, reason })
    }
}

impl Sample {
    /// Returns how many a version answered.
    pub fn of(&self, version: &str) -> u64 {
        self.versions.get(version).copied().unwrap_or_default()
    }

    /// Returns the share of a version, 0 to 1.
    pub fn share(&self, version: &str) -> f64 {
        if self.total == 0 { 0.0 } else { self.of(version) as f64 / self.total as f64 }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} ({:?}): {}", self.path, self.connection, self.reason)
    }
}

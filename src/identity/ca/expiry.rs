//! Saying long before that the CA ends, or what proxies verify by.
//!
//! Nothing is issued beyond the first end of the chain, and proxies refuse every peer from then on: mTLS goes on exactly until that
//! moment. It can only be put off by a person with the root's key, who needs days for it.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::{CaHandle, SigningCa};
use crate::identity::Clock;

/// How often it is looked at, at least; at the moment of an end besides.
const CHECK: Duration = Duration::from_secs(60);

/// How near an end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Nearness {
    /// 30 days or less are left.
    Month,
    /// 7 days or less.
    Week,
    /// A day or less.
    Day,
    /// It is over.
    Over,
}

/// Something that ends soon.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Expiry {
    /// What it is, with the name that is in it.
    pub what: String,
    /// When it ends.
    pub at: Timestamp,
    /// How near that is.
    pub nearness: Nearness,
}

/// What was said already: each thing once for each step nearer.
#[derive(Debug, Default)]
struct Told(BTreeSet<Expiry>);

// === impl Nearness ===

impl Nearness {
    /// Returns how near a moment is; `None`: there is more than a month.
    pub fn of(end: Timestamp, now: Timestamp) -> Option<Self> {
        let left = end.duration_since(now);
        let days = |days: i64| SignedDuration::from_hours(24 * days);
        match left {
            _ if left <= SignedDuration::ZERO => Some(Self::Over),
            _ if left <= days(1) => Some(Self::Day),
            _ if left <= days(7) => Some(Self::Week),
            _ if left <= days(30) => Some(Self::Month),
            _ => None,
        }
    }

    /// Returns the reason of an Event about it.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Month => "ExpiresWithinMonth",
            Self::Week => "ExpiresWithinWeek",
            Self::Day => "ExpiresWithinDay",
            Self::Over => "Expired",
        }
    }
}

// === impl Expiry ===

impl Expiry {
    /// Returns what of a CA ends soon.
    pub fn all(ca: &SigningCa, now: Timestamp) -> Vec<Self> {
        ends(ca).into_iter().filter_map(|(what, at)| Some(Self { what, at, nearness: Nearness::of(at, now)? })).collect()
    }

    /// Returns what a person should know, and do.
    pub fn message(&self) -> String {
        let Self { what, at, nearness } = self;
        match nearness {
            Nearness::Over => format!("{what} expired at {at}: nothing is signed, and proxies refuse their peers; replace it now"),
            _ => format!("{what} expires at {at}; from then on nothing is signed and proxies refuse their peers: replace it before"),
        }
    }

    fn log(&self) {
        let (subject, not_after, message) = (&self.what, self.at, self.message());
        match self.nearness {
            Nearness::Month | Nearness::Week => warn!(subject, %not_after, "{message}"),
            Nearness::Day | Nearness::Over => error!(subject, %not_after, "{message}"),
        }
    }
}

// === impl Told ===

impl Told {
    /// Returns what was not said yet.
    fn news(&mut self, found: Vec<Expiry>) -> Vec<Expiry> {
        found.into_iter().filter(|expiry| self.0.insert(expiry.clone())).collect()
    }
}

/// Returns everything of a CA that ends, with what it is.
fn ends(ca: &SigningCa) -> Vec<(String, Timestamp)> {
    let root = ("the root", ca.root());
    let certificates = ca.path().iter().map(|certificate| ("the intermediate", certificate)).chain([root]);
    let ends = certificates.map(|(what, certificate)| (format!("{what} {}", certificate.subject), certificate.not_after));
    let lists =
        ca.revocation().and_then(|lists| lists.not_after()).map(|end| ("a list of revoked certificates (ca-crl.pem)".to_owned(), end));
    ends.chain(lists).collect()
}

/// Returns how long nothing new can be said: until the next of these ends, or until it is looked at anyway.
fn pause(ends: impl IntoIterator<Item = Timestamp>, now: Timestamp) -> Duration {
    let left = ends.into_iter().filter_map(|end| Duration::try_from(end.duration_since(now)).ok()).filter(|left| !left.is_zero());
    left.fold(CHECK, Duration::min)
}

/// Runs until `shutdown`: logs what ends soon, at each step nearer, and tells `tell` of it.
pub async fn watch_expiry(handle: Arc<CaHandle>, clock: Clock, tell: impl Fn(&Expiry), shutdown: CancellationToken) {
    let (mut told, mut changed) = (Told::default(), handle.subscribe());
    loop {
        let (ca, now) = (handle.current(), clock());
        for expiry in told.news(Expiry::all(&ca, now)) {
            expiry.log();
            tell(&expiry);
        }
        let pause = pause(ends(&ca).into_iter().map(|(_, end)| end), now);
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = changed.changed() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_said_when_it_comes() {
        let now = Timestamp::from_second(1_000_000_000).unwrap();
        let pause = |lefts: &[i64]| pause(lefts.iter().map(|left| now + SignedDuration::from_secs(*left)), now);
        assert_eq!(pause(&[3600, 17, 30]), Duration::from_secs(17));
        assert_eq!(pause(&[3600]), CHECK);
        assert_eq!(pause(&[-5, 0]), CHECK, "what is over is no reason to look again and again");
        assert_eq!(pause(&[]), CHECK);
    }

    #[test]
    fn each_step_nearer_is_said_once() {
        let now = Timestamp::from_second(1_000_000_000).unwrap();
        let near = |hours| Nearness::of(now + SignedDuration::from_hours(hours), now);
        assert_eq!(near(24 * 30 + 1), None);
        assert_eq!(
            [near(24 * 30), near(24 * 7), near(24), near(0)],
            [Nearness::Month, Nearness::Week, Nearness::Day, Nearness::Over].map(Some)
        );
        assert_eq!(near(-100), Some(Nearness::Over));

        let expiry = |nearness| Expiry { what: "the root".into(), at: now, nearness };
        let mut told = Told::default();
        assert_eq!(told.news(vec![expiry(Nearness::Month)]).len(), 1);
        assert_eq!(told.news(vec![expiry(Nearness::Month)]), []);
        assert_eq!(told.news(vec![expiry(Nearness::Week)]).len(), 1);
    }
}

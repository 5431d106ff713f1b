//! Leader election as a state machine: it is given what the Lease says, and returns what to write. No clock, no API server.
//!
//! The rules are those of client-go. A record counts for its duration from when *we* first saw it, so that the clocks of two
//! nodes need not agree. A leader that could not renew for half of that time steps down by itself, long before another takes
//! over.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// How long a Lease holds, and how often it is read (contract §8.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Others may take over if it was not renewed for this long.
    pub lease: Duration,
    /// A leader that could not renew it for this long steps down.
    pub renew: Duration,
    /// The time between attempts to get or renew it.
    pub retry: Duration,
}

/// The record in a Lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LeaseRecord {
    /// `holderIdentity`; empty if the Lease was released.
    pub(super) holder: String,
    /// `leaseDurationSeconds`
    pub(super) duration: Duration,
    /// `acquireTime`
    pub(super) acquired: Timestamp,
    /// `renewTime`
    pub(super) renewed: Timestamp,
    /// `leaseTransitions`: how often the Lease went to another holder.
    pub(super) transitions: i32,
}

/// One of the processes that want to lead.
#[derive(Debug)]
pub(super) struct Candidate {
    identity: String,
    timing: Timing,
    seen: Option<(LeaseRecord, Timestamp)>,
    renewed: Option<Timestamp>,
}

impl Default for Timing {
    fn default() -> Self {
        Self::of_lease(Duration::from_secs(30))
    }
}

// === impl Timing ===

impl Timing {
    /// Makes the timing of a Lease in istiod's proportions: a leader steps down after half of it, and attempts are made every
    /// quarter. A Lease has whole seconds.
    pub fn of_lease(lease: Duration) -> Self {
        let lease = Duration::from_secs(lease.as_secs().max(1));
        Self { lease, renew: lease / 2, retry: lease / 4 }
    }
}

// === impl Candidate ===

impl Candidate {
    /// Makes a candidate that does not lead. No other candidate may have the same identity.
    pub(super) fn new(identity: &str, timing: Timing) -> Self {
        Self { identity: identity.into(), timing, seen: None, renewed: None }
    }

    /// Takes the record that was read (`None` if there is no Lease), and returns the one to write; `None` while another leads.
    pub(super) fn observe(&mut self, read: Option<LeaseRecord>, now: Timestamp) -> Option<LeaseRecord> {
        let Some(read) = read else { return Some(self.record(now, 0, now)) };
        if self.seen.as_ref().is_none_or(|(seen, _)| *seen != read) {
            self.seen = Some((read.clone(), now));
        }
        if read.holder == self.identity {
            return Some(self.record(read.acquired, read.transitions, now));
        }
        self.renewed = None;
        let expired = self.seen.as_ref().is_none_or(|(record, since)| now >= after(*since, record.duration));
        (read.holder.is_empty() || expired).then(|| self.record(now, read.transitions.saturating_add(1), now))
    }

    /// Records that the record was written, by which this candidate leads.
    pub(super) fn written(&mut self, record: LeaseRecord, now: Timestamp) {
        self.renewed = Some(record.renewed);
        self.seen = Some((record, now));
    }

    /// Returns until when this candidate leads; `None` if it does not.
    pub(super) fn leads_until(&self, now: Timestamp) -> Option<Timestamp> {
        self.renewed.map(|renewed| after(renewed, self.timing.renew)).filter(|end| now < *end)
    }

    /// Returns the record that lets another lead at once; `None` if this candidate does not lead.
    pub(super) fn release(&self, now: Timestamp) -> Option<LeaseRecord> {
        let (record, _) = self.seen.as_ref().filter(|(record, _)| self.renewed.is_some() && record.holder == self.identity)?;
        Some(LeaseRecord { holder: String::new(), duration: Duration::from_secs(1), renewed: now, ..record.clone() })
    }

    fn record(&self, acquired: Timestamp, transitions: i32, now: Timestamp) -> LeaseRecord {
        LeaseRecord { holder: self.identity.clone(), duration: self.timing.lease, acquired, renewed: now, transitions }
    }
}

fn after(moment: Timestamp, duration: Duration) -> Timestamp {
    SignedDuration::try_from(duration).ok().and_then(|duration| moment.checked_add(duration).ok()).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).unwrap()
    }

    fn candidate(identity: &str) -> Candidate {
        Candidate::new(identity, Timing::default())
    }

    /// Reads the Lease, and writes what the candidate wants written.
    fn turn(candidate: &mut Candidate, lease: &mut Option<LeaseRecord>, now: Timestamp) -> bool {
        if let Some(record) = candidate.observe(lease.clone(), now) {
            *lease = Some(record.clone());
            candidate.written(record, now);
        }
        candidate.leads_until(now).is_some()
    }

    #[test]
    fn the_first_leads_and_the_second_waits() {
        let (mut a, mut b, mut lease) = (candidate("a"), candidate("b"), None);
        assert!(turn(&mut a, &mut lease, at(0)));
        for seconds in [1, 8, 15, 30, 45, 300] {
            assert!(turn(&mut a, &mut lease, at(seconds)));
            assert!(!turn(&mut b, &mut lease, at(seconds)), "{seconds}");
        }
        let record = lease.unwrap();
        assert_eq!((record.holder.as_str(), record.transitions, record.acquired, record.renewed), ("a", 0, at(0), at(300)));
    }

    #[test]
    fn another_takes_over_when_the_leader_is_gone_for_a_whole_lease() {
        let (mut a, mut b, mut lease) = (candidate("a"), candidate("b"), None);
        turn(&mut a, &mut lease, at(0));
        assert!(!turn(&mut b, &mut lease, at(10)));
        assert!(!turn(&mut b, &mut lease, at(39)), "it has seen the record for 29 s only");
        assert!(a.leads_until(at(15)).is_none(), "the old leader stopped long before");
        assert!(turn(&mut b, &mut lease, at(40)));
        assert_eq!(lease.as_ref().map(|record| (record.transitions, record.acquired)), Some((1, at(40))));
        assert!(!turn(&mut a, &mut lease, at(41)), "and does not lead when it comes back");
    }

    #[test]
    fn clocks_that_do_not_agree_do_not_make_two_leaders() {
        let (mut a, mut b, mut lease) = (candidate("a"), candidate("b"), None);
        // b's clock is an hour ahead of a's: by renewTime alone the Lease would look long expired.
        for seconds in (0..600).step_by(7) {
            assert!(turn(&mut a, &mut lease, at(seconds)));
            assert!(!turn(&mut b, &mut lease, at(seconds + 3600)), "{seconds}");
        }
    }

    #[test]
    fn a_released_lease_is_free_at_once() {
        let (mut a, mut b, mut lease) = (candidate("a"), candidate("b"), None);
        turn(&mut a, &mut lease, at(0));
        turn(&mut b, &mut lease, at(1));
        assert!(b.release(at(2)).is_none(), "only the leader releases");
        lease = a.release(at(2));
        assert!(turn(&mut b, &mut lease, at(3)));
    }

    #[test]
    fn a_restart_under_the_same_name_goes_on_leading() {
        let (mut a, mut lease) = (candidate("a"), None);
        turn(&mut a, &mut lease, at(0));
        let mut restarted = candidate("a");
        assert!(turn(&mut restarted, &mut lease, at(5)));
        assert_eq!(lease.map(|record| (record.transitions, record.acquired)), Some((0, at(0))));
    }

    #[test]
    fn who_cannot_renew_steps_down() {
        let (mut a, mut lease) = (candidate("a"), None);
        turn(&mut a, &mut lease, at(0));
        assert_eq!(a.leads_until(at(14)), Some(at(15)));
        assert_eq!(a.leads_until(at(15)), None);
    }
}

//! Elects one of several replicas as the leader, by a Lease (contract §8.2).
//!
//! No crate is used, since each of them either brings a second version of `kube` or lacks a leader that steps down by itself
//! when it cannot renew its Lease.

mod candidate;
#[cfg(test)]
mod tests;

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, Client, api::PostParams};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

pub use self::candidate::Timing;
use self::candidate::{Candidate, LeaseRecord};
use super::ControllerMetrics;
use crate::identity::Clock;

/// A candidate for the leadership that a Lease gives.
#[derive(Clone)]
pub struct Election {
    /// The client of the API server.
    pub client: Client,
    /// The namespace of the Lease.
    pub namespace: String,
    /// The name of the Lease.
    pub name: String,
    /// The name of the candidate, which no other has.
    pub identity: String,
    /// How long the Lease holds.
    pub timing: Timing,
    /// Returns the current time.
    pub clock: Clock,
    /// The metric that shows who leads.
    pub metrics: ControllerMetrics,
}

struct Campaign {
    election: Election,
    api: Api<Lease>,
    candidate: Candidate,
    leading: watch::Sender<bool>,
}

// === impl Election ===

impl Election {
    /// Tries to lead until `shutdown`, and then releases the Lease. The receiver says whether this process leads.
    pub fn start(self, shutdown: CancellationToken) -> (watch::Receiver<bool>, impl Future<Output = ()> + Send + use<>) {
        let (leading, leads) = watch::channel(false);
        let api = Api::namespaced(self.client.clone(), &self.namespace);
        let candidate = Candidate::new(&self.identity, self.timing);
        let campaign = Campaign { election: self, api, candidate, leading };
        (leads, campaign.run(shutdown))
    }
}

impl std::fmt::Debug for Election {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Election").field("name", &self.name).field("identity", &self.identity).finish_non_exhaustive()
    }
}

// === impl Campaign ===

impl Campaign {
    async fn run(mut self, shutdown: CancellationToken) {
        let work = async {
            loop {
                self.attempt_in_time().await;
                self.publish();
                sleep(self.pause()).await;
                self.publish();
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = work => {}
        }
        self.leading.send_replace(false);
        self.release().await;
    }

    /// Makes one attempt, which is given up before the leadership ends: a request that hangs must not make this process
    /// believe that it still leads.
    async fn attempt_in_time(&mut self) {
        let now = (self.election.clock)();
        let retry = self.election.timing.retry;
        let patience = self.candidate.leads_until(now).map_or(retry, |end| unsigned(end, now).min(retry));
        match timeout(patience, self.attempt()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) if is_lost_race(&error) => debug!(lease = self.election.name, "another replica was faster"),
            Ok(Err(error)) => warn!(lease = self.election.name, %error, "the Lease cannot be kept"),
            Err(_) => warn!(lease = self.election.name, "the Lease cannot be kept: no answer in time"),
        }
    }

    async fn attempt(&mut self) -> Result<(), kube::Error> {
        let read = self.api.get_opt(&self.election.name).await?;
        let now = (self.election.clock)();
        let Some(record) = self.candidate.observe(read.as_ref().and_then(record_of), now) else { return Ok(()) };
        self.write(read, &record).await?;
        self.candidate.written(record, (self.election.clock)());
        Ok(())
    }

    /// Writes the record. The resource version that was read makes the API server refuse the slower of two writers.
    async fn write(&self, read: Option<Lease>, record: &LeaseRecord) -> Result<(), kube::Error> {
        match read {
            None => {
                let name = Some(self.election.name.clone());
                let lease = Lease { metadata: ObjectMeta { name, ..ObjectMeta::default() }, spec: Some(spec(record)) };
                self.api.create(&PostParams::default(), &lease).await.map(drop)
            }
            Some(lease) => {
                let lease = Lease { spec: Some(spec(record)), ..lease };
                self.api.replace(&self.election.name, &PostParams::default(), &lease).await.map(drop)
            }
        }
    }

    async fn release(&self) {
        let Some(record) = self.candidate.release((self.election.clock)()) else { return };
        let released = async {
            let read = self.api.get_opt(&self.election.name).await?;
            match read.as_ref().and_then(record_of).is_some_and(|read| read.holder == self.election.identity) {
                true => self.write(read, &record).await,
                false => Ok(()),
            }
        };
        match timeout(Duration::from_secs(2), released).await {
            Ok(Ok(())) => info!(lease = self.election.name, "leadership released"),
            Ok(Err(error)) => warn!(lease = self.election.name, %error, "leadership not released; it expires"),
            Err(_) => warn!(lease = self.election.name, "leadership not released in time; it expires"),
        }
    }

    fn publish(&self) {
        let leads = self.candidate.leads_until((self.election.clock)()).is_some();
        self.election.metrics.set_leader(&self.election.name, leads);
        let changed = self.leading.send_if_modified(|leading| std::mem::replace(leading, leads) != leads);
        match (changed, leads) {
            (true, true) => info!(lease = self.election.name, identity = self.election.identity, "leader election lock obtained"),
            (true, false) => warn!(lease = self.election.name, identity = self.election.identity, "leader election lock lost"),
            (false, _) => {}
        }
    }

    /// Returns the time until the next attempt or until leadership ends, whichever is first.
    fn pause(&self) -> Duration {
        let (now, retry) = ((self.election.clock)(), self.election.timing.retry);
        self.candidate.leads_until(now).map_or(retry, |end| unsigned(end, now).min(retry))
    }
}

fn unsigned(end: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(end.duration_since(now)).unwrap_or_default()
}

fn is_lost_race(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

fn record_of(lease: &Lease) -> Option<LeaseRecord> {
    let spec = lease.spec.as_ref()?;
    let time = |time: &Option<MicroTime>| time.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    Some(LeaseRecord {
        holder: spec.holder_identity.clone().unwrap_or_default(),
        duration: Duration::from_secs(spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(0)),
        acquired: time(&spec.acquire_time),
        renewed: time(&spec.renew_time),
        transitions: spec.lease_transitions.unwrap_or(0),
    })
}

fn spec(record: &LeaseRecord) -> LeaseSpec {
    LeaseSpec {
        holder_identity: Some(record.holder.clone()),
        lease_duration_seconds: i32::try_from(record.duration.as_secs().max(1)).ok(),
        acquire_time: Some(MicroTime(record.acquired)),
        renew_time: Some(MicroTime(record.renewed)),
        lease_transitions: Some(record.transitions),
        ..LeaseSpec::default()
    }
}

/// Makes a name that no other process has, for a process that is not a pod.
pub fn identity_outside_a_pod() -> String {
    let mut bytes = [0_u8; 8];
    // Without randomness two processes of one machine still differ by their ids.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    let random: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("istiod-lite-{}-{random}", std::process::id())
}

//! Which kinds the API server serves, and in which version.
//!
//! Istio's kinds come with CustomResourceDefinitions that may be absent, come later, or go. The API server is asked
//! again and again (`/apis/<group>/<version>`, which everybody may read) instead of watching the definitions, which
//! would take a further right and much memory: every 3 s while a kind is absent, every 30 s else, and at once when a
//! kind that was there is not found.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use kube::Client;
use serde::Deserialize;
use tokio::{
    sync::{Notify, watch},
    time::sleep,
};

use super::{
    ask::{Trouble, whole},
    backoff::{Backoff, random},
    collection::get,
    kinds::Resource,
    metrics::SourceMetrics,
    trust::Trust,
};

const WHILE_ABSENT: Duration = Duration::from_secs(3);
const WHILE_COMPLETE: Duration = Duration::from_secs(30);
/// Between the two looks that it takes to believe that a kind is gone.
const TO_BE_SURE: Duration = Duration::from_secs(1);

/// How a kind is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Served {
    /// That was not learned yet.
    Unknown,
    /// Not at all.
    Nowhere,
    /// In this version.
    As(&'static str),
}

/// The plurals of a group's version.
type Plurals = BTreeMap<(&'static str, &'static str), BTreeSet<String>>;

/// Finds out how custom kinds are served, and again when that may have changed.
pub(super) struct Finder {
    client: Client,
    trust: Arc<Trust>,
    metrics: SourceMetrics,
    look_again: Arc<Notify>,
    kinds: Vec<Found>,
}

struct Found {
    resource: &'static Resource,
    served: watch::Sender<Served>,
    missed: bool,
}

#[derive(Deserialize)]
struct ResourceList {
    #[serde(default)]
    resources: Vec<Plural>,
}

#[derive(Deserialize)]
struct Plural {
    name: String,
}

impl Finder {
    /// Nothing is known yet.
    pub(super) fn new(client: Client, trust: Arc<Trust>, metrics: SourceMetrics, look_again: Arc<Notify>) -> Self {
        Self { client, trust, metrics, look_again, kinds: Vec::new() }
    }

    /// How this kind is served, kept up to date.
    pub(super) fn add(&mut self, resource: &'static Resource) -> watch::Receiver<Served> {
        let (served, receiver) = watch::channel(if resource.custom { Served::Unknown } else { Served::As("v1") });
        self.kinds.push(Found { resource, served, missed: false });
        receiver
    }

    /// Works until nobody wants to know.
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::default();
        let mut failing = false;
        while self.kinds.iter().any(|found| found.served.receiver_count() > 0) {
            let pause = match self.look().await {
                Ok(plurals) => {
                    backoff.reset();
                    failing = false;
                    self.settle(&plurals)
                }
                Err(trouble) => {
                    if !failing {
                        tracing::warn!(%trouble, "it cannot be learned which kinds are served");
                    }
                    failing = true;
                    backoff.next(random())
                }
            };
            tokio::select! {
                () = sleep(pause) => {}
                // Whoever calls has just met a 404: a moment's pause keeps this from turning fast.
                () = self.look_again.notified() => sleep(TO_BE_SURE.min(pause)).await,
            }
        }
    }

    async fn look(&self) -> Result<Plurals, Trouble> {
        let wanted: BTreeSet<_> = self
            .kinds
            .iter()
            .filter(|found| found.resource.custom)
            .flat_map(|found| found.resource.versions.iter().map(|version| (found.resource.group, *version)))
            .collect();
        let mut plurals = Plurals::new();
        for (group, version) in wanted {
            let request = get(&format!("/apis/{group}/{version}")).map_err(|error| Trouble::Away(error.to_string()))?;
            let body = match whole(&self.client, request).await {
                Ok(body) => body,
                Err(Trouble::Absent(_)) => continue,
                Err(trouble) => return Err(trouble),
            };
            let list: ResourceList =
                serde_json::from_slice(&body).map_err(|error| Trouble::Away(format!("/apis/{group}/{version}: {error}")))?;
            plurals.insert((group, version), list.resources.into_iter().map(|plural| plural.name).collect());
        }
        self.trust.confirm().await?;
        Ok(plurals)
    }

    // Tells what was found, and how long it is good for.
    fn settle(&mut self, plurals: &Plurals) -> Duration {
        let mut pause = WHILE_COMPLETE;
        for found in self.kinds.iter_mut().filter(|found| found.resource.custom) {
            let Resource { group, plural, versions, .. } = found.resource;
            let serves = |version: &&'static str| plurals.get(&(*group, *version)).is_some_and(|names| names.contains(*plural));
            let now = versions.iter().copied().find(|version| serves(version)).map_or(Served::Nowhere, Served::As);
            let was_there = matches!(*found.served.borrow(), Served::As(_));
            if now == Served::Nowhere && was_there && !std::mem::replace(&mut found.missed, true) {
                pause = TO_BE_SURE;
                continue;
            }
            found.missed = false;
            if now == Served::Nowhere {
                pause = pause.min(WHILE_ABSENT);
            }
            found.served.send_if_modified(|served| {
                let changed = *served != now;
                if changed {
                    let kind = found.resource.kind.as_str();
                    tracing::info!(kind, ?now, "how the kind is served");
                    self.metrics.set_served(kind, *served, now);
                    *served = now;
                }
                changed
            });
        }
        pause
    }
}

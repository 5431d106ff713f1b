//! Finds out which kinds the API server serves, and in which version.
//!
//! Istio's kinds come with CustomResourceDefinitions that may be absent, come later, or go. Instead of watching the
//! definitions, which would take a further right and much memory, discovery asks for `/apis/<group>/<version>`, which
//! everybody may read: every 3 s while a kind is absent, otherwise every 30 s, and at once when a kind that was served is
//! not found.

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
    cluster_identity::ClusterIdentity,
    collection::get,
    kinds::WatchedResource,
    metrics::SourceMetrics,
    request::{RequestError, backoff, fetch},
};
use crate::backoff::random_unit;

const WHILE_ABSENT: Duration = Duration::from_secs(3);
const WHILE_COMPLETE: Duration = Duration::from_secs(30);
/// The time between the two looks that it takes to believe that a kind is gone.
const CONFIRMATION: Duration = Duration::from_secs(1);

/// In which version a kind is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ServedVersion {
    /// Discovery has not answered yet.
    Unknown,
    /// The kind is not served.
    NotServed,
    /// The kind is served in this version.
    Version(&'static str),
}

/// The plural names that each version of a group serves.
type ServedPlurals = BTreeMap<(&'static str, &'static str), BTreeSet<String>>;

/// Finds out in which version custom kinds are served, and looks again whenever that may have changed.
pub(super) struct ApiDiscovery {
    client: Client,
    identity: Arc<ClusterIdentity>,
    metrics: SourceMetrics,
    rediscover: Arc<Notify>,
    kinds: Vec<DiscoveredKind>,
}

struct DiscoveredKind {
    resource: &'static WatchedResource,
    served: watch::Sender<ServedVersion>,
    /// Whether the last look missed the kind, which a second look must confirm.
    missed: bool,
}

#[derive(Deserialize)]
struct ApiResourceList {
    #[serde(default)]
    resources: Vec<ApiResource>,
}

#[derive(Deserialize)]
struct ApiResource {
    name: String,
}

impl ServedVersion {
    /// Returns the version as metrics show it: empty if the kind is not served, `None` as long as that is unknown.
    fn as_str(self) -> Option<&'static str> {
        match self {
            Self::Unknown => None,
            Self::NotServed => Some(""),
            Self::Version(version) => Some(version),
        }
    }
}

impl ApiDiscovery {
    /// Makes a discovery of no kinds.
    pub(super) fn new(client: Client, identity: Arc<ClusterIdentity>, metrics: SourceMetrics, rediscover: Arc<Notify>) -> Self {
        Self { client, identity, metrics, rediscover, kinds: Vec::new() }
    }

    /// Adds a kind, and returns in which version it is served, kept up to date by [`run`](Self::run).
    pub(super) fn add(&mut self, resource: &'static WatchedResource) -> watch::Receiver<ServedVersion> {
        let (served, receiver) = watch::channel(if resource.custom { ServedVersion::Unknown } else { ServedVersion::Version("v1") });
        self.kinds.push(DiscoveredKind { resource, served, missed: false });
        receiver
    }

    /// Works until all receivers are dropped.
    pub(super) async fn run(mut self) {
        let mut backoff = backoff();
        let mut failing = false;
        while self.kinds.iter().any(|kind| kind.served.receiver_count() > 0) {
            let pause = match self.fetch_served().await {
                Ok(served) => {
                    backoff.reset();
                    failing = false;
                    self.update(&served)
                }
                Err(error) => {
                    if !failing {
                        tracing::warn!(%error, "cannot find out which kinds are served");
                    }
                    failing = true;
                    backoff.next(random_unit())
                }
            };
            tokio::select! {
                () = sleep(pause) => {}
                // Whoever notifies has just met a 404; a short pause keeps this from becoming a busy loop.
                () = self.rediscover.notified() => sleep(CONFIRMATION.min(pause)).await,
            }
        }
    }

    async fn fetch_served(&self) -> Result<ServedPlurals, RequestError> {
        let wanted: BTreeSet<_> = self
            .kinds
            .iter()
            .filter(|kind| kind.resource.custom)
            .flat_map(|kind| kind.resource.versions.iter().map(|version| (kind.resource.group, *version)))
            .collect();
        let mut served = ServedPlurals::new();
        for (group, version) in wanted {
            let request = get(&format!("/apis/{group}/{version}")).map_err(|error| RequestError::Unavailable(error.to_string()))?;
            let body = match fetch(&self.client, request).await {
                Ok(body) => body,
                Err(RequestError::NotFound(_)) => continue,
                Err(error) => return Err(error),
            };
            let list: ApiResourceList =
                serde_json::from_slice(&body).map_err(|error| RequestError::Unavailable(format!("/apis/{group}/{version}: {error}")))?;
            served.insert((group, version), list.resources.into_iter().map(|resource| resource.name).collect());
        }
        self.identity.confirm().await?;
        Ok(served)
    }

    /// Passes on what was found, and returns when to look again.
    fn update(&mut self, plurals: &ServedPlurals) -> Duration {
        let mut pause = WHILE_COMPLETE;
        for kind in self.kinds.iter_mut().filter(|kind| kind.resource.custom) {
            let WatchedResource { group, plural, versions, .. } = kind.resource;
            let serves = |version: &&'static str| plurals.get(&(*group, *version)).is_some_and(|names| names.contains(*plural));
            let now = versions.iter().copied().find(|version| serves(version)).map_or(ServedVersion::NotServed, ServedVersion::Version);
            let was_served = matches!(*kind.served.borrow(), ServedVersion::Version(_));
            if now == ServedVersion::NotServed && was_served && !std::mem::replace(&mut kind.missed, true) {
                pause = CONFIRMATION;
                continue;
            }
            kind.missed = false;
            if now == ServedVersion::NotServed {
                pause = pause.min(WHILE_ABSENT);
            }
            kind.served.send_if_modified(|served| {
                let changed = *served != now;
                if changed {
                    let name = kind.resource.kind.to_string();
                    tracing::info!(kind = %name, ?now, "served version changed");
                    self.metrics.set_served(&name, served.as_str(), now.as_str());
                    *served = now;
                }
                changed
            });
        }
        pause
    }
}

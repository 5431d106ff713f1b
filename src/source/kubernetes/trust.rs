//! Whether what the API server says is about the cluster that we know, and not about its past (rule 8).
//!
//! A cluster is known by the UID of its namespace `kube-system`, and its time by the resource version of collections,
//! which only grows. Behind one address there may suddenly be another cluster (a restored one, an empty etcd): what it
//! says, or does not say, must not take away what proxies have.

use kube::Client;
use parking_lot::Mutex;
use serde::Deserialize;
use smol_str::SmolStr;

use super::{
    ask::{Trouble, whole},
    collection::get,
    decode::ListMetadata,
};

// A list, and not a GET: it needs no further right than namespaces need anyway, and it tells the resource version.
const KUBE_SYSTEM: &str = "/api/v1/namespaces?fieldSelector=metadata.name%3Dkube-system";

/// What was seen of the cluster so far. One for all collections.
pub(super) struct Trust {
    client: Client,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    uid: Option<SmolStr>,
    /// The highest resource version of the collection of namespaces.
    highest: u64,
}

#[derive(Deserialize)]
struct Namespaces {
    #[serde(default)]
    metadata: ListMetadata,
    #[serde(default)]
    items: Option<Vec<Namespace>>,
}

#[derive(Deserialize)]
struct Namespace {
    #[serde(default)]
    metadata: Named,
}

#[derive(Default, Deserialize)]
struct Named {
    #[serde(default)]
    uid: SmolStr,
}

impl Trust {
    /// Nothing was seen yet: the first cluster that answers is ours.
    pub(super) fn new(client: Client) -> Self {
        Self { client, seen: Mutex::default() }
    }

    /// Asks who answers now. To be done after an answer and before it is believed. Whoever refuses to say it is
    /// believed: it knows us and our rights, and nothing speaks against it.
    ///
    /// # Errors
    /// [`Trouble::Untrusted`] when it is another cluster, or this one in an older state.
    pub(super) async fn confirm(&self) -> Result<(), Trouble> {
        match self.identify().await {
            Err(Trouble::Forbidden(_)) => Ok(()),
            other => other,
        }
    }

    /// As [`confirm`](Self::confirm), and without an answer nobody is believed.
    ///
    /// # Errors
    /// [`Trouble::Untrusted`] as there, [`Trouble::Forbidden`] when it refuses to say it.
    pub(super) async fn identify(&self) -> Result<(), Trouble> {
        // Several ask at once: an answer is held against what was seen before its question.
        let floor = self.seen.lock().highest;
        let request = get(KUBE_SYSTEM).map_err(|error| Trouble::Away(error.to_string()))?;
        let answer = whole(&self.client, request).await?;
        let namespaces: Namespaces =
            serde_json::from_slice(&answer).map_err(|error| Trouble::Away(format!("namespace kube-system: {error}")))?;
        let uid = namespaces.items.into_iter().flatten().next().map(|namespace| namespace.metadata.uid);
        self.judge(uid.as_ref())?;
        let version = number(&namespaces.metadata.resource_version);
        not_below(version, floor)?;
        let mut seen = self.seen.lock();
        seen.highest = seen.highest.max(version);
        Ok(())
    }

    fn judge(&self, uid: Option<&SmolStr>) -> Result<(), Trouble> {
        let mut seen = self.seen.lock();
        match (&seen.uid, uid) {
            (Some(ours), Some(uid)) if ours == uid => Ok(()),
            (None, Some(uid)) => {
                tracing::info!(kube_system_uid = %uid, "this is the cluster");
                seen.uid = Some(uid.clone());
                Ok(())
            }
            (None, None) => Err(Trouble::Away("the cluster has no namespace kube-system yet".to_owned())),
            (Some(ours), uid) => {
                let other = uid.map_or_else(|| "has no namespace kube-system".to_owned(), |uid| format!("has kube-system UID {uid}"));
                Err(Trouble::Untrusted(format!("another cluster answers: it {other}, ours has {ours}")))
            }
        }
    }
}

/// Holds a collection's resource version against the highest that was seen of it before.
///
/// # Errors
/// [`Trouble::Untrusted`] when it is lower.
pub(super) fn not_below(version: u64, floor: u64) -> Result<(), Trouble> {
    if version >= floor || version == 0 {
        return Ok(());
    }
    let why = format!("its resource version {version} is below {floor}, which was seen: this is an older state of the cluster");
    Err(Trouble::Untrusted(why))
}

/// A resource version as a number; 0 when it is none, which says nothing. Kubernetes' own are numbers.
pub(super) fn number(version: &str) -> u64 {
    version.parse().unwrap_or_default()
}

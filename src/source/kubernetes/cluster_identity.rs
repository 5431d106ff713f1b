//! Checks that the API server still answers for the cluster that was read first, and not for that cluster's past (rule 8).
//!
//! The cluster is identified by the UID of its namespace `kube-system`. Its age is known by the resource versions of its
//! collections, which only grow. Another cluster may appear behind the same address (a restored backup, an empty etcd),
//! and nothing that it has or lacks must take away the configuration that proxies have.

use kube::Client;
use parking_lot::Mutex;
use serde::Deserialize;
use smol_str::SmolStr;

use super::{
    collection::get,
    decode::ListMetadata,
    request::{RequestError, fetch},
};

// A list, and not a GET, since it needs only the right to namespaces that we have anyway, and has a resource version.
const KUBE_SYSTEM: &str = "/api/v1/namespaces?fieldSelector=metadata.name%3Dkube-system";

/// Identifies the cluster for all reflectors. The first cluster that answers is the right one.
pub(super) struct ClusterIdentity {
    client: Client,
    observed: Mutex<ObservedCluster>,
}

/// What was observed of the cluster so far.
#[derive(Debug, Default)]
struct ObservedCluster {
    uid: Option<SmolStr>,
    /// The highest resource version of the collection of namespaces.
    highest_version: u64,
}

#[derive(Deserialize)]
struct NamespaceList {
    #[serde(default)]
    metadata: ListMetadata,
    #[serde(default)]
    items: Option<Vec<Namespace>>,
}

#[derive(Deserialize)]
struct Namespace {
    #[serde(default)]
    metadata: NamespaceMetadata,
}

#[derive(Default, Deserialize)]
struct NamespaceMetadata {
    #[serde(default)]
    uid: SmolStr,
}

impl ClusterIdentity {
    /// Makes an identity that no cluster has confirmed yet.
    pub(super) fn new(client: Client) -> Self {
        Self { client, observed: Mutex::default() }
    }

    /// Confirms that the right cluster answers. To be called after an answer and before that answer is used.
    ///
    /// An API server that refuses this request (401 or 403) passes: a refusal is no evidence of another cluster, and the
    /// loss of this one right must not stop every reflector.
    ///
    /// # Errors
    /// [`RequestError::Untrusted`] when it is another cluster, or this one in an older state; any other error but
    /// [`RequestError::Forbidden`] when the check itself fails.
    pub(super) async fn confirm(&self) -> Result<(), RequestError> {
        match self.check().await {
            Err(RequestError::Forbidden(_)) => Ok(()),
            other => other,
        }
    }

    async fn check(&self) -> Result<(), RequestError> {
        // Several checks run at once, so an answer is compared with what was observed before its request was sent.
        let floor = self.observed.lock().highest_version;
        let request = get(KUBE_SYSTEM).map_err(|error| RequestError::Unavailable(error.to_string()))?;
        let answer = fetch(&self.client, request).await?;
        let namespaces: NamespaceList =
            serde_json::from_slice(&answer).map_err(|error| RequestError::Unavailable(format!("namespace kube-system: {error}")))?;
        let uid = namespaces.items.into_iter().flatten().next().map(|namespace| namespace.metadata.uid);
        self.check_uid(uid.as_ref())?;
        let version = parse_version(&namespaces.metadata.resource_version);
        check_not_older(version, floor)?;
        let mut observed = self.observed.lock();
        observed.highest_version = observed.highest_version.max(version);
        Ok(())
    }

    fn check_uid(&self, uid: Option<&SmolStr>) -> Result<(), RequestError> {
        let mut observed = self.observed.lock();
        match (&observed.uid, uid) {
            (Some(ours), Some(uid)) if ours == uid => Ok(()),
            (None, Some(uid)) => {
                tracing::info!(kube_system_uid = %uid, "the cluster is identified");
                observed.uid = Some(uid.clone());
                Ok(())
            }
            (None, None) => Err(RequestError::Unavailable("the cluster has no namespace kube-system yet".to_owned())),
            (Some(ours), uid) => {
                let other = uid.map_or_else(|| "has no namespace kube-system".to_owned(), |uid| format!("has kube-system UID {uid}"));
                Err(RequestError::Untrusted(format!("another cluster answers: it {other}, ours has {ours}")))
            }
        }
    }
}

/// Compares the resource version of a collection with the highest one seen of it before. A version of 0 is not compared.
///
/// # Errors
/// [`RequestError::Untrusted`] when it is lower.
pub(super) fn check_not_older(version: u64, floor: u64) -> Result<(), RequestError> {
    if version >= floor || version == 0 {
        return Ok(());
    }
    let why = format!("its resource version {version} is below {floor}, which was seen: this is an older state of the cluster");
    Err(RequestError::Untrusted(why))
}

/// Reads a resource version as a number; returns 0 if it is none. Those that Kubernetes itself makes are numbers.
pub(super) fn parse_version(version: &str) -> u64 {
    version.parse().unwrap_or_default()
}

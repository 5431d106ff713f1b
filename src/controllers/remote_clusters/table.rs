//! Which remote clusters there are by the Secrets that are there: the same whatever the order in which they became known.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::ResourceExt;
use smol_str::SmolStr;

use crate::identity::authenticate::is_own;

/// What counts of a Secret: its age, and a kubeconfig for each cluster. It is not shown: kubeconfigs are keys.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct RemoteSecret {
    pub(super) created: Option<jiff::Timestamp>,
    pub(super) kubeconfigs: Arc<BTreeMap<String, ByteString>>,
}

/// An entry of a Secret.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry {
    pub(super) secret: SmolStr,
    pub(super) cluster: SmolStr,
}

/// The entries of all Secrets.
pub(super) struct Entries<'a> {
    /// That of each cluster, with its kubeconfig.
    pub(super) taken: BTreeMap<SmolStr, (Entry, &'a [u8])>,
    /// Those that do not count, and why.
    pub(super) refused: Vec<(Entry, NoCluster)>,
}

/// Why an entry names no further cluster.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoCluster {
    #[error("this is our own cluster, which is known without a Secret; take the entry out, or give the cluster another id")]
    Own,
    #[error("the cluster is that of Secret {0}, which is older; take the entry out of one of them")]
    Another(SmolStr),
}

/// Returns the Secret's part that counts.
pub(super) fn remote_secret(secret: &Secret) -> RemoteSecret {
    RemoteSecret { created: secret.creation_timestamp().map(|time| time.0), kubeconfigs: Arc::new(secret.data.clone().unwrap_or_default()) }
}

/// Sorts the entries by whether they count. A cluster is the oldest Secret's.
pub(super) fn entries<'a>(
    secrets: impl Iterator<Item = (&'a str, &'a RemoteSecret)>,
    own: &str,
    aliases: &BTreeMap<SmolStr, SmolStr>,
) -> Entries<'a> {
    let by_age: BTreeSet<_> = secrets.map(|(name, secret)| (secret.created, name, &secret.kubeconfigs)).collect();
    let (mut taken, mut refused) = (BTreeMap::<SmolStr, (Entry, &[u8])>::new(), Vec::new());
    for (_, name, kubeconfigs) in by_age {
        for (cluster, ByteString(kubeconfig)) in kubeconfigs.iter() {
            let entry = Entry { secret: name.into(), cluster: cluster.into() };
            if is_own(cluster, own, aliases) {
                refused.push((entry, NoCluster::Own));
            } else if let Some((first, _)) = taken.get(cluster.as_str()) {
                refused.push((entry, NoCluster::Another(first.secret.clone())));
            } else {
                taken.insert(entry.cluster.clone(), (entry, kubeconfig));
            }
        }
    }
    Entries { taken, refused }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(created: i64, clusters: &[(&str, &str)]) -> RemoteSecret {
        let kubeconfigs = clusters.iter().map(|(id, text)| ((*id).to_owned(), ByteString(text.as_bytes().to_vec())));
        RemoteSecret { created: jiff::Timestamp::from_second(created).ok(), kubeconfigs: Arc::new(kubeconfigs.collect()) }
    }

    #[test]
    fn a_cluster_is_the_oldest_secrets_and_never_our_own() {
        let aliases = [("home".into(), "here".into())].into();
        let (young, old) = (secret(20, &[("east", "young"), ("west", "w")]), secret(10, &[("east", "old"), ("here", "h"), ("home", "h")]));
        let entry = |secret: &str, cluster: &str| Entry { secret: secret.into(), cluster: cluster.into() };
        for order in [[("a", &young), ("b", &old)], [("b", &old), ("a", &young)]] {
            let Entries { taken, refused } = entries(order.into_iter(), "here", &aliases);
            assert_eq!(taken.keys().collect::<Vec<_>>(), ["east", "west"]);
            assert_eq!(taken["east"], (entry("b", "east"), &b"old"[..]));
            let wanted = [
                (entry("b", "here"), NoCluster::Own),
                (entry("b", "home"), NoCluster::Own),
                (entry("a", "east"), NoCluster::Another("b".into())),
            ];
            assert_eq!(refused, wanted);
        }
        let Entries { taken, .. } = entries([("a", &young)].into_iter(), "here", &aliases);
        assert_eq!(taken["east"].1, b"young", "the Secret of the oldest is gone");
    }
}

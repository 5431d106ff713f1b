//! Certificates for others: a node's proxy (ztunnel) asks for those of the pods on its node (`CA_TRUSTED_NODE_ACCOUNTS`, contract
//! §4.2).
//!
//! Who may do so has the keys of every workload of its node, and of no other: the caller's token must be bound to a pod that is there,
//! and a pod of the wanted identity must be on the same node.

use std::{collections::BTreeSet, ops::Bound, sync::Arc};

use smol_str::SmolStr;
use tokio::sync::watch;

use super::proof::Proven;
use crate::mesh::{
    model::{SpiffeId, Workload, WorkloadKey},
    world::World,
};

/// A service account: its namespace and name.
pub type Account = (SmolStr, SmolStr);

/// Decides who may ask for whose certificate.
pub struct NodeAuthorizer {
    /// The accounts of nodes' proxies.
    pub trusted: BTreeSet<Account>,
    /// The cluster whose pods count.
    pub cluster: SmolStr,
    /// The trust domain of the identities.
    pub trust_domain: SmolStr,
    /// The worlds, for their pods.
    pub worlds: watch::Receiver<Arc<World>>,
}

/// Why another's certificate is not given. The text is for the log; clients are told only that they may not.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ImpersonationError {
    /// The caller is no node's proxy.
    #[error("the caller's account is not among --trusted-node-accounts")]
    NotTrusted,
    /// The caller is in a remote cluster, whose pods and nodes are not known.
    #[error("the caller is in remote cluster {0}, whose pods are not known")]
    RemoteCluster(SmolStr),
    /// What it asks for is no identity of this mesh.
    #[error("{0:?} is no identity of this trust domain")]
    Identity(String),
    /// The caller's pod is not known, or another one of that name is.
    #[error("the caller's token is not bound to a pod that is there and runs on a node")]
    CallersPod,
    /// No pod of that identity is on the caller's node.
    #[error("no pod of {identity} is on node {node}")]
    NotOnNode {
        /// The identity.
        identity: SpiffeId,
        /// The node.
        node: SmolStr,
    },
}

// === impl NodeAuthorizer ===

impl NodeAuthorizer {
    /// Returns the identity that `wanted` names, if the caller may have a certificate of it.
    ///
    /// # Errors
    /// When it may not.
    pub fn authorize(&self, caller: &Proven, wanted: &str) -> Result<SpiffeId, ImpersonationError> {
        let account = (caller.identity.namespace.clone(), caller.identity.service_account.clone());
        if !self.trusted.contains(&account) {
            return Err(ImpersonationError::NotTrusted);
        }
        if let Some(cluster) = &caller.remote_cluster {
            return Err(ImpersonationError::RemoteCluster(cluster.clone()));
        }
        let identity = SpiffeId::parse(wanted).filter(|identity| identity.trust_domain == self.trust_domain);
        let identity = identity.ok_or_else(|| ImpersonationError::Identity(wanted.to_owned()))?;
        let world = Arc::clone(&self.worlds.borrow());
        let node = self.node_of(caller, &world).ok_or(ImpersonationError::CallersPod)?;
        let of_identity = |pod: &Workload| pod.service_account == identity.service_account && pod.node == node && !pod.uid.is_empty();
        let is_there = pods_of(&identity.namespace, &self.cluster, &world).any(of_identity);
        match is_there {
            true => Ok(identity),
            false => Err(ImpersonationError::NotOnNode { identity, node }),
        }
    }

    fn node_of(&self, caller: &Proven, world: &World) -> Option<SmolStr> {
        let bound = caller.pod.as_ref()?;
        let key = WorkloadKey { namespace: caller.identity.namespace.clone(), name: bound.name.clone(), cluster: self.cluster.clone() };
        let pod = world.workloads.get(&key)?;
        let is_it = !bound.uid.is_empty() && pod.uid == bound.uid && pod.service_account == caller.identity.service_account;
        Some(pod.node.clone()).filter(|node| is_it && !node.is_empty())
    }
}

impl std::fmt::Debug for NodeAuthorizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeAuthorizer").field("trusted", &self.trusted).finish_non_exhaustive()
    }
}

/// Returns the pods of a namespace; no other of the mesh's is looked at.
fn pods_of<'a>(namespace: &'a SmolStr, cluster: &'a SmolStr, world: &'a World) -> impl Iterator<Item = &'a Workload> {
    let first = WorkloadKey { namespace: namespace.clone(), name: SmolStr::default(), cluster: SmolStr::default() };
    let pods = world.workloads.range((Bound::Included(first), Bound::Unbounded));
    let pods = pods.take_while(move |(key, _)| key.namespace == *namespace);
    pods.filter(move |(key, _)| key.cluster == *cluster).map(|(_, pod)| &**pod)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::Kind,
        identity::proof::{PodReference, Proof},
    };

    fn pod(namespace: &str, name: &str, account: &str, node: &str) -> (WorkloadKey, Arc<Workload>) {
        let key = WorkloadKey { namespace: namespace.into(), name: name.into(), cluster: "Kubernetes".into() };
        let workload = Workload {
            name: name.into(),
            namespace: namespace.into(),
            labels: Arc::default(),
            annotations: Arc::default(),
            service_account: account.into(),
            ips: Arc::new([]),
            node: node.into(),
            locality: Arc::default(),
            uid: format!("uid-of-{name}").into(),
            ports: Arc::new([]),
            kind: Kind::Pod,
            cluster: "Kubernetes".into(),
            generation: 1,
        };
        (key, Arc::new(workload))
    }

    fn authorizer() -> (NodeAuthorizer, watch::Sender<Arc<World>>) {
        let workloads = [
            pod("istio-system", "ztunnel-a", "ztunnel", "node-a"),
            pod("istio-system", "ztunnel-lost", "ztunnel", ""),
            pod("shop", "cart-1", "cart", "node-a"),
            pod("shop", "till-1", "till", "node-b"),
            pod("shopping", "list-1", "cart", "node-b"),
        ];
        let (sender, worlds) = watch::channel(Arc::new(World { workloads: workloads.into_iter().collect(), ..World::default() }));
        let trusted = [("istio-system".into(), "ztunnel".into())].into();
        (NodeAuthorizer { trusted, cluster: "Kubernetes".into(), trust_domain: "td".into(), worlds }, sender)
    }

    fn caller(account: &str, pod: Option<(&str, &str)>) -> Proven {
        let identity = SpiffeId { trust_domain: "td".into(), namespace: "istio-system".into(), service_account: account.into() };
        let pod = pod.map(|(name, uid)| PodReference { name: name.into(), uid: uid.into() });
        Proven { pod, ..Proven::new(identity, Proof::PodToken) }
    }

    #[test]
    fn a_nodes_proxy_is_given_the_identities_of_its_node_alone() {
        let (authorizer, _worlds) = authorizer();
        let node_a = caller("ztunnel", Some(("ztunnel-a", "uid-of-ztunnel-a")));
        let cart = authorizer.authorize(&node_a, "spiffe://td/ns/shop/sa/cart").unwrap();
        assert_eq!(cart.to_string(), "spiffe://td/ns/shop/sa/cart");
        for elsewhere in ["spiffe://td/ns/shop/sa/till", "spiffe://td/ns/shopping/sa/cart", "spiffe://td/ns/shop/sa/nobody"] {
            let refused = authorizer.authorize(&node_a, elsewhere).unwrap_err();
            assert!(matches!(refused, ImpersonationError::NotOnNode { .. }), "{elsewhere}: {refused}");
        }
        for none in ["spiffe://other/ns/shop/sa/cart", "cart", "", "spiffe://td/ns/shop/sa/cart/x", "spiffe://td/ns/shop"] {
            let refused = authorizer.authorize(&node_a, none).unwrap_err();
            assert!(matches!(refused, ImpersonationError::Identity(_)), "{none}: {refused}");
        }
    }

    #[test]
    fn who_is_no_nodes_proxy_or_not_there_is_given_nothing() {
        let (authorizer, _worlds) = authorizer();
        let ask = |caller: &Proven| authorizer.authorize(caller, "spiffe://td/ns/shop/sa/cart").unwrap_err();
        assert_eq!(ask(&caller("cart", Some(("ztunnel-a", "uid-of-ztunnel-a")))), ImpersonationError::NotTrusted);
        for pod in [
            None,
            Some(("ztunnel-a", "of another")),
            Some(("ztunnel-a", "")),
            Some(("ztunnel-gone", "uid-of-ztunnel-gone")),
            Some(("ztunnel-lost", "uid-of-ztunnel-lost")),
        ] {
            assert_eq!(ask(&caller("ztunnel", pod)), ImpersonationError::CallersPod, "{pod:?}");
        }
        // Another cluster's API server could name any pod of ours.
        let there = caller("ztunnel", Some(("ztunnel-a", "uid-of-ztunnel-a")));
        assert_eq!(ask(&Proven { remote_cluster: Some("east".into()), ..there }), ImpersonationError::RemoteCluster("east".into()));
    }
}

//! By what a caller proved who it is.

use serde::Deserialize;
use smol_str::SmolStr;

use crate::mesh::model::{Caller, SpiffeId};

/// An identity that was proven, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proven {
    /// Who is calling.
    pub identity: SpiffeId,
    /// By what.
    pub proof: Proof,
    /// The pod to which a token is bound.
    pub pod: Option<PodReference>,
    /// The remote cluster that the caller is in; `None`: ours. Pods, Secrets and rights of the same name are others there.
    pub remote_cluster: Option<SmolStr>,
}

/// One pod; a later pod of the same name is another one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct PodReference {
    /// `metadata.name`
    pub name: SmolStr,
    /// `metadata.uid`
    pub uid: SmolStr,
}

/// A way to prove an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// The client certificate of the connection.
    Certificate,
    /// A token of the local issuer, by its keys.
    LocalToken,
    /// A token of the cluster, by its keys and the pod that it is bound to, which exists.
    PodToken,
    /// A token that Kubernetes was asked about.
    TokenReview,
    /// A token of the OpenID issuer of `JWT_RULE`.
    OpenId,
}

// === impl Proven ===

impl Proven {
    /// Describes a caller in our own cluster.
    pub fn new(identity: SpiffeId, proof: Proof) -> Self {
        Self { identity, proof, pod: None, remote_cluster: None }
    }

    /// Returns what services are told of the caller.
    pub fn caller(&self) -> Caller {
        match &self.remote_cluster {
            None => Caller::Workload(self.identity.clone()),
            Some(cluster) => Caller::Remote { identity: self.identity.clone(), cluster: cluster.clone() },
        }
    }
}

// === impl Proof ===

impl Proof {
    /// Returns the word by which the audit log and the inventory name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Certificate => "client certificate",
            Self::LocalToken => "token of the local issuer",
            Self::PodToken => "token of a known pod",
            Self::TokenReview => "TokenReview",
            Self::OpenId => "token of an OpenID issuer",
        }
    }
}

//! AuthorizationPolicies: who may do what at a workload (contract §6.7).

mod istio;
mod trust_domains;

use ipnet::IpNet;
use smol_str::SmolStr;

pub(in crate::mesh) use self::istio::authorization_policy;
use crate::api::istio::PolicyTarget;
pub use crate::api::{
    extension_provider::{ExtAuthz, ExtAuthzProtocol, HttpCheck, RequestBody},
    istio::Values,
};

/// What an AuthorizationPolicy says.
#[derive(Clone, Debug, PartialEq)]
pub struct AuthorizationPolicy {
    /// The workloads that it is for.
    pub target: PolicyTarget,
    /// What happens when a rule holds.
    pub action: Action,
    /// Whether it is only tried: what it would decide is written down, and not done.
    pub dry_run: bool,
    /// It holds when one of these does.
    pub rules: Vec<Rule>,
}

/// What a policy does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Only what some such policy holds for is allowed.
    Allow,
    /// What it holds for is denied.
    Deny,
    /// What it holds for is marked, for logs.
    Audit,
    /// What it holds for is asked of this provider.
    Custom(SmolStr),
}

/// A rule of a policy: one alternative of each list must hold, and of an alternative every condition. An alternative without
/// conditions holds always. There is at least one of each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Who sends.
    pub sources: Vec<Vec<SourceCondition>>,
    /// What is sent.
    pub operations: Vec<Vec<OperationCondition>>,
}

/// A condition on who sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceCondition {
    /// The identity that mTLS proves, without `spiffe://`.
    Principal(Values<SmolStr>),
    /// The namespace of that identity.
    Namespace(Values<SmolStr>),
    /// The service account of that identity.
    ServiceAccount(Values<ServiceAccount>),
    /// The trust domain of that identity.
    TrustDomain(Values<SmolStr>),
    /// The address of the connection's other end.
    Ip(Values<IpNet>),
    /// The address of the client, as far as it is told.
    RemoteIp(Values<IpNet>),
    /// `<issuer>/<subject>` of the request's token.
    RequestPrincipal(Values<SmolStr>),
    /// The audiences of the request's token.
    RequestAudience(Values<SmolStr>),
    /// To whom the request's token was issued.
    RequestPresenter(Values<SmolStr>),
    /// A claim of the request's token, from the outermost name to the innermost.
    RequestClaim(Vec<SmolStr>, Values<SmolStr>),
    /// A header of the request.
    RequestHeader(SmolStr, Values<SmolStr>),
}

/// A condition on what is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OperationCondition {
    /// The host that the request names.
    Host(Values<SmolStr>),
    /// The request's method.
    Method(Values<SmolStr>),
    /// The request's path.
    Path(Values<SmolStr>),
    /// The port of the workload.
    Port(Values<u16>),
    /// The address of the workload.
    Ip(Values<IpNet>),
    /// The server name that the client's TLS asks for.
    ServerName(Values<SmolStr>),
    /// What a filter of Envoy has written down: the filter, the key, the values.
    FilterMetadata(SmolStr, SmolStr, Values<SmolStr>),
}

/// A service account of a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceAccount {
    /// The namespace.
    pub namespace: SmolStr,
    /// The name.
    pub name: SmolStr,
}

impl AuthorizationPolicy {
    /// Returns the name of the provider that it has asked; `None` if its action is another one.
    pub fn provider(&self) -> Option<&SmolStr> {
        match &self.action {
            Action::Custom(provider) => Some(provider),
            Action::Allow | Action::Deny | Action::Audit => None,
        }
    }
}

impl SourceCondition {
    /// Returns whether it says nothing.
    fn is_empty(&self) -> bool {
        match self {
            Self::Principal(values)
            | Self::Namespace(values)
            | Self::TrustDomain(values)
            | Self::RequestPrincipal(values)
            | Self::RequestAudience(values)
            | Self::RequestPresenter(values)
            | Self::RequestClaim(_, values)
            | Self::RequestHeader(_, values) => values.is_empty(),
            Self::ServiceAccount(values) => values.is_empty(),
            Self::Ip(values) | Self::RemoteIp(values) => values.is_empty(),
        }
    }

    /// Returns whether only requests have what it asks for, and TCP connections do not.
    pub fn is_http(&self) -> bool {
        match self {
            Self::Principal(_) | Self::Namespace(_) | Self::ServiceAccount(_) | Self::TrustDomain(_) | Self::Ip(_) | Self::RemoteIp(_) => {
                false
            }
            Self::RequestPrincipal(_)
            | Self::RequestAudience(_)
            | Self::RequestPresenter(_)
            | Self::RequestClaim(..)
            | Self::RequestHeader(..) => true,
        }
    }

    /// Returns whether it asks for an identity that only mTLS proves, so that plaintext never meets it.
    pub fn needs_mtls(&self) -> bool {
        match self {
            Self::Principal(values) | Self::Namespace(values) | Self::TrustDomain(values) => !values.any_of.is_empty(),
            Self::ServiceAccount(values) => !values.any_of.is_empty(),
            _ => false,
        }
    }
}

impl OperationCondition {
    /// Returns whether it says nothing.
    fn is_empty(&self) -> bool {
        match self {
            Self::Host(values)
            | Self::Method(values)
            | Self::Path(values)
            | Self::ServerName(values)
            | Self::FilterMetadata(_, _, values) => values.is_empty(),
            Self::Port(values) => values.is_empty(),
            Self::Ip(values) => values.is_empty(),
        }
    }

    /// Returns whether only requests have what it asks for, and TCP connections do not.
    pub fn is_http(&self) -> bool {
        matches!(self, Self::Host(_) | Self::Method(_) | Self::Path(_))
    }
}

impl Rule {
    /// Returns whether it asks for something that only requests have.
    pub fn is_http(&self) -> bool {
        self.sources.iter().flatten().any(SourceCondition::is_http) || self.operations.iter().flatten().any(OperationCondition::is_http)
    }
}

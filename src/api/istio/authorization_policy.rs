//! `security.istio.io AuthorizationPolicy`

use ipnet::IpNet;
use smol_str::SmolStr;

use super::PolicyTarget;

/// `spec` of an AuthorizationPolicy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuthorizationPolicy {
    /// `selector`, `targetRef`, `targetRefs`
    pub target: PolicyTarget,
    /// `action`
    pub action: AuthorizationAction,
    /// `provider.name`; `None` without a `provider`.
    pub provider: Option<SmolStr>,
    /// `rules`
    pub rules: Vec<AuthorizationRule>,
}

/// The annotation by which a policy is only tried: what it would decide is written down, and not done.
pub const DRY_RUN: &str = "istio.io/dry-run";

/// Returns what the annotation says; `None` if that is neither true nor false (as Go's `strconv.ParseBool` has it).
pub fn is_dry_run(value: &str) -> Option<bool> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// `action`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum AuthorizationAction {
    /// `ALLOW`
    #[default]
    Allow,
    /// `DENY`
    Deny,
    /// `AUDIT`
    Audit,
    /// `CUSTOM`
    Custom,
}

/// `rules[]`: one of `from`, one of `to` and all of `when` must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuthorizationRule {
    /// `from[].source`; empty for anyone.
    pub from: Vec<Source>,
    /// `to[].operation`; empty for anything.
    pub to: Vec<Operation>,
    /// `when`
    pub when: Vec<AuthorizationCondition>,
}

/// Values of which one must hold (unless there are none), and values of which none may.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Values<T> {
    /// As the field is named.
    pub any_of: Vec<T>,
    /// `not…`
    pub none_of: Vec<T>,
}

/// `rules[].from[].source`, of which everything must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// `principals`
    pub principals: Values<SmolStr>,
    /// `requestPrincipals`
    pub request_principals: Values<SmolStr>,
    /// `namespaces`
    pub namespaces: Values<SmolStr>,
    /// `serviceAccounts`
    pub service_accounts: Values<SmolStr>,
    /// `trustDomains`
    pub trust_domains: Values<SmolStr>,
    /// `ipBlocks`
    pub ip_blocks: Values<IpNet>,
    /// `remoteIpBlocks`
    pub remote_ip_blocks: Values<IpNet>,
}

/// `rules[].to[].operation`, of which everything must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Operation {
    /// `hosts`
    pub hosts: Values<SmolStr>,
    /// `ports`
    pub ports: Values<u16>,
    /// `methods`
    pub methods: Values<SmolStr>,
    /// `paths`
    pub paths: Values<SmolStr>,
}

/// `rules[].when[]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuthorizationCondition {
    /// `key`
    pub key: SmolStr,
    /// `values` and `notValues`
    pub values: Values<SmolStr>,
}

/// What the key of a condition means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConditionKey {
    /// `source.ip`
    SourceIp,
    /// `remote.ip`
    RemoteIp,
    /// `source.namespace`
    SourceNamespace,
    /// `source.serviceAccount`
    SourceServiceAccount,
    /// `source.principal`
    SourcePrincipal,
    /// `source.trustDomain`
    SourceTrustDomain,
    /// `request.headers[name]`
    RequestHeader(SmolStr),
    /// `request.auth.principal`
    RequestPrincipal,
    /// `request.auth.audiences`
    RequestAudiences,
    /// `request.auth.presenter`
    RequestPresenter,
    /// `request.auth.claims[outer][inner]`
    RequestClaim(Vec<SmolStr>),
    /// `destination.ip`
    DestinationIp,
    /// `destination.port`
    DestinationPort,
    /// `connection.sni`
    Sni,
    /// `experimental.envoy.filters.<filter>[key]`: the filter's name, and the key.
    FilterMetadata(SmolStr, SmolStr),
}

impl ConditionKey {
    /// Returns whether it asks for what only HTTP requests have.
    pub fn is_http(&self) -> bool {
        matches!(
            self,
            Self::RequestHeader(_) | Self::RequestPrincipal | Self::RequestAudiences | Self::RequestPresenter | Self::RequestClaim(_)
        )
    }

    /// Reads a key.
    ///
    /// # Errors
    /// When there is no such key: what to write instead.
    pub fn parse(key: &str) -> Result<Self, &'static str> {
        let plain = match key {
            "source.ip" => Some(Self::SourceIp),
            "remote.ip" => Some(Self::RemoteIp),
            "source.namespace" => Some(Self::SourceNamespace),
            "source.serviceAccount" => Some(Self::SourceServiceAccount),
            "source.principal" => Some(Self::SourcePrincipal),
            "source.trustDomain" => Some(Self::SourceTrustDomain),
            "request.auth.principal" => Some(Self::RequestPrincipal),
            "request.auth.audiences" => Some(Self::RequestAudiences),
            "request.auth.presenter" => Some(Self::RequestPresenter),
            "destination.ip" => Some(Self::DestinationIp),
            "destination.port" => Some(Self::DestinationPort),
            "connection.sni" => Some(Self::Sni),
            _ => None,
        };
        if let Some(plain) = plain {
            return Ok(plain);
        }
        if let Some(name) = key.strip_prefix("request.headers") {
            return bracketed(name).map(|name| Self::RequestHeader(name.into())).ok_or("must be request.headers[name]");
        }
        if let Some(claim) = key.strip_prefix("request.auth.claims") {
            return nested(claim).map(Self::RequestClaim).ok_or("must be request.auth.claims[name], or with more names behind");
        }
        if let Some(filter) = key.strip_prefix("experimental.") {
            let named = filter.starts_with("envoy.filters.").then(|| filter.split_once('['));
            let (filter, key) = named.flatten().ok_or(FILTER)?;
            return key
                .strip_suffix(']')
                .filter(|key| !key.is_empty())
                .map(|key| Self::FilterMetadata(filter.into(), key.into()))
                .ok_or(FILTER);
        }
        Err(match key {
            "destination.namespace" => "is replaced by the policy's own namespace",
            "destination.name" | "destination.user" => "is of v1alpha1 only: use selector",
            _ if key.starts_with("destination.labels") => "is replaced by selector",
            _ => "is no key of a condition",
        })
    }
}

const FILTER: &str = "must be experimental.envoy.filters.<name of a filter>[key]";

fn bracketed(text: &str) -> Option<&str> {
    text.strip_prefix('[')?.strip_suffix(']').filter(|name| !name.is_empty())
}

/// Returns the names of `[a][b]`. Where brackets do not follow each other like that, all of it is one name, as in Istio.
fn nested(text: &str) -> Option<Vec<SmolStr>> {
    let whole = bracketed(text)?;
    let names: Vec<&str> = whole.split("][").collect();
    match names.iter().all(|name| !name.contains(['[', ']'])) {
        true => names.iter().all(|name| !name.is_empty()).then(|| names.into_iter().map(SmolStr::new).collect()),
        false => Some(vec![whole.into()]),
    }
}

impl<T> Values<T> {
    /// Returns how many there are.
    pub fn len(&self) -> usize {
        self.any_of.len() + self.none_of.len()
    }

    /// Returns whether nothing is said.
    pub fn is_empty(&self) -> bool {
        self.any_of.is_empty() && self.none_of.is_empty()
    }
}

// By hand, as the derived one would ask it of `T`.
impl<T> Default for Values<T> {
    fn default() -> Self {
        Self { any_of: Vec::new(), none_of: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_brackets_are_those_that_istiod_finds() {
        let claim = |key: &str| match ConditionKey::parse(key) {
            Ok(ConditionKey::RequestClaim(names)) => names.join(" | "),
            other => panic!("{key}: {other:?}"),
        };
        assert_eq!(claim("request.auth.claims[iss]"), "iss");
        assert_eq!(claim("request.auth.claims[a][b][c]"), "a | b | c");
        assert_eq!(claim("request.auth.claims[a[b]]"), "a[b]");
        assert_eq!(claim("request.auth.claims[a]x[b]"), "a]x[b");
        assert_eq!(ConditionKey::parse("request.headers[a[b]]"), Ok(ConditionKey::RequestHeader("a[b]".into())));
        let filter = ConditionKey::FilterMetadata("envoy.filters.network.mysql_proxy".into(), "db.table".into());
        assert_eq!(ConditionKey::parse("experimental.envoy.filters.network.mysql_proxy[db.table]"), Ok(filter));
    }

    #[test]
    fn a_key_that_means_nothing_is_refused() {
        for key in [
            "",
            "source.labels",
            "request.headers",
            "request.headers[]",
            "request.headersx",
            "request.auth.claims",
            "request.auth.claims[a",
            "request.auth.claims[]",
            "request.auth.claims[a][]",
            "destination.namespace",
            "destination.labels[a]",
            "experimental.x[a]",
            "experimental.envoy.filters.x",
            "experimental.envoy.filters.x[]",
            "Source.ip",
        ] {
            assert!(ConditionKey::parse(key).is_err(), "{key}");
        }
    }
}

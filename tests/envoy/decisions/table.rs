//! The table of decisions, as it is written.

use std::{fmt, fs, path::Path};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

use super::client::Verdict;

/// Policies, and the requests that they decide about.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Set {
    #[serde(rename = "set")]
    pub(crate) name: String,
    /// The ways of normalizing paths under which everything is asked; none: Istio's default.
    #[serde(default)]
    pub(crate) normalization: Vec<String>,
    /// `trustDomainAliases`
    #[serde(default)]
    pub(crate) aliases: Vec<String>,
    /// `gatewayTopology`: the policies are those of a gateway.
    #[serde(default)]
    pub(crate) gateway: Option<Value>,
    /// `extensionProviders`
    #[serde(default)]
    pub(crate) providers: Vec<Value>,
    /// Other objects.
    #[serde(default)]
    pub(crate) beside: Vec<Value>,
    /// The specs of AuthorizationPolicies, with `namespace` and `dryRun` of their metadata beside.
    pub(crate) policies: Vec<Value>,
    pub(crate) requests: Vec<Row>,
}

/// A request, and what is to become of it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Row {
    /// The client's identity without `spiffe://`; without one, plaintext.
    #[serde(rename = "as")]
    pub(crate) identity: Option<String>,
    /// The host part of the client's address.
    pub(crate) from: Option<u8>,
    pub(crate) method: Option<String>,
    pub(crate) path: Option<String>,
    pub(crate) host: Option<String>,
    #[serde(default)]
    pub(crate) headers: Vec<serde_json::Map<String, Value>>,
    pub(crate) claims: Option<serde_json::Map<String, Value>>,
    /// Whether it is a TCP connection.
    #[serde(default)]
    pub(crate) tcp: bool,
    pub(crate) sni: Option<String>,
    #[serde(default)]
    pub(crate) is: Wanted,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Wanted {
    Always(Verdict),
    /// By way of normalizing.
    Each(Vec<Verdict>),
}

/// Reads all sets, those of each file together.
pub(crate) fn read() -> Result<Vec<Set>> {
    let mut sets = Vec::new();
    for file in ["paths", "hosts", "headers", "identity", "addresses", "tokens", "tcp"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/envoy/decisions/{file}.yaml"));
        let mut read: Vec<Set> = serde_norway::from_str(&fs::read_to_string(&path)?).with_context(|| path.display().to_string())?;
        for set in &mut read {
            set.name = format!("{file}: {}", set.name);
            for row in &set.requests {
                let fits = matches!(&row.is, Wanted::Each(each) if each.len() != set.normalization.len());
                ensure!(!fits, "{}, {row}: as many verdicts as ways of normalizing", set.name);
            }
        }
        sets.extend(read);
    }
    Ok(sets)
}

impl Set {
    /// Returns the policy that denies an operation, under each of these ways of normalizing.
    pub(crate) fn denying(operation: &str, normalization: &[&str]) -> Self {
        let policy = format!("{{action: DENY, rules: [{{to: [{{operation: {operation}}}]}}]}}");
        Self {
            name: operation.to_owned(),
            normalization: normalization.iter().map(|name| (*name).to_owned()).collect(),
            policies: serde_norway::from_str(&policy).into_iter().collect(),
            ..Self::default()
        }
    }
}

impl Row {
    /// Asks for a path.
    pub(crate) fn of_path(path: &str) -> Self {
        Self { path: Some(path.to_owned()), ..Self::default() }
    }

    /// Asks for a host.
    pub(crate) fn of_host(host: &str) -> Self {
        Self { host: Some(host.to_owned()), ..Self::default() }
    }

    /// Returns what is to become of it under the way of normalizing of that number.
    pub(crate) fn wanted(&self, normalization: usize) -> Verdict {
        match &self.is {
            Wanted::Always(verdict) => *verdict,
            Wanted::Each(each) => each.get(normalization).copied().unwrap_or(Verdict::Unconnected),
        }
    }
}

impl Default for Wanted {
    fn default() -> Self {
        Self::Always(Verdict::Passes)
    }
}

impl fmt::Display for Row {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |text: &Option<String>, default: &str| text.as_deref().unwrap_or(default).to_owned();
        match self.tcp {
            true => write!(to, "TCP")?,
            false => write!(to, "{} {} of {}", text(&self.method, "GET"), text(&self.path, "/"), text(&self.host, "server"))?,
        }
        write!(to, " as {}", text(&self.identity, "nobody"))?;
        self.from.iter().try_for_each(|from| write!(to, " from .{from}"))?;
        self.sni.iter().try_for_each(|sni| write!(to, " for {sni}"))?;
        self.headers.iter().try_for_each(|header| write!(to, " with {}", Value::from(header.clone())))?;
        self.claims.iter().try_for_each(|claims| write!(to, " claiming {}", Value::from(claims.clone())))
    }
}

//! What registries ask for, as Secrets have it.

use serde_json::Value;

use super::PullSecret;
use crate::api::{
    confidential::Confidential,
    kubernetes::Secret,
    value::{Allowance, from_json},
};

/// The most memory that it may take once it is read, in bytes.
const MOST: usize = 1 << 20;

impl PullSecret {
    /// Reads a Secret.
    pub(in crate::mesh) fn of(secret: &Secret) -> Self {
        let trouble = match secret.entry(Secret::PULL_KEY) {
            None => "has no .dockerconfigjson",
            Some(credentials) if !has_registries(credentials) => "has a .dockerconfigjson that is no JSON object with auths",
            Some(credentials) => return Self { credentials: Some(credentials.clone()), trouble: None },
        };
        Self { credentials: None, trouble: Some(trouble.into()) }
    }

    /// Returns what is known of a Secret that is not there.
    pub(in crate::mesh) fn missing() -> Self {
        Self { credentials: None, trouble: Some("does not exist".into()) }
    }
}

fn has_registries(credentials: &Confidential) -> bool {
    let text = std::str::from_utf8(credentials.reveal()).unwrap_or_default();
    from_json(text, &Allowance::new(MOST)).is_ok_and(|value| value.get("auths").is_some_and(Value::is_object))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_for_registries_has_them() {
        let of = |entries: &[(&'static str, &str)]| {
            let entries = entries.iter().map(|(key, text)| (*key, Confidential::from(text.as_bytes().to_vec()))).collect();
            PullSecret::of(&Secret { entries })
        };
        let good = of(&[(Secret::PULL_KEY, r#"{"auths": {"ghcr.io": {"auth": "dTpw"}}}"#)]);
        assert!(good.trouble.is_none() && good.credentials.is_some());
        for bad in [of(&[]), of(&[("key", "{}")]), of(&[(Secret::PULL_KEY, "null")]), of(&[(Secret::PULL_KEY, "{}")])] {
            assert!(bad.trouble.is_some() && bad.credentials.is_none(), "{bad:?}");
        }
    }
}

//! Credentials: certificates with their keys, and what peers are verified with, that objects take from Secrets, and the latter from
//! ConfigMaps, too (contract §3.7, `credentialName`).
//!
//! An object names a secret as proxies ask for it ([`SecretName`]); which Secret that is depends on the proxy's namespace.
//! Only Secrets and ConfigMaps that some object names are read as credentials.

mod name;
mod read;
mod staple;
mod uses;

use std::sync::Arc;

use smol_str::SmolStr;

pub(in crate::mesh) use self::{
    name::Unnamed,
    read::credential,
    uses::{client_tls, of, server_tls},
};
pub use self::{
    name::{Part, Scheme, SecretName},
    uses::SecretUse,
};
use crate::api::Kind;
pub use crate::api::confidential::Confidential;

/// A Secret or ConfigMap that a name may stand for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holder {
    /// Secret or ConfigMap.
    pub kind: Kind,
    /// Its name.
    pub name: SmolStr,
    /// Its namespace.
    pub namespace: SmolStr,
}

/// What one Secret or ConfigMap has to offer. Each part is there, or there is a reason why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// The certificate with its key.
    pub key_pair: Result<Arc<KeyPair>, SmolStr>,
    /// What peers are verified with.
    pub roots: Result<Arc<Roots>, SmolStr>,
}

/// A certificate with its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPair {
    /// The chain, in PEM.
    pub certificates: Confidential,
    /// The key of the first certificate, in PEM.
    pub key: Confidential,
    /// The issuer's word that the certificate is not revoked, in DER, or why what is there for it cannot be shown.
    pub ocsp_staple: Result<Option<Confidential>, SmolStr>,
    /// When all of the chain is valid.
    pub validity: Validity,
}

/// Certificates that are trusted, and those that are revoked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roots {
    /// The certificates, in PEM.
    pub certificates: Confidential,
    /// The lists of revoked certificates, in PEM.
    pub crl: Option<Confidential>,
    /// When the first of them is valid, as others may be there for later.
    pub validity: Validity,
}

/// From when until when something is valid, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// The first second.
    pub not_before: i64,
    /// The last second.
    pub not_after: i64,
}

impl Validity {
    /// Returns what is wrong with it at a time; `None`: it is valid.
    pub fn flaw_at(&self, now: i64) -> Option<&'static str> {
        match now {
            now if now > self.not_after => Some("has expired"),
            now if now < self.not_before => Some("is not valid yet"),
            _ => None,
        }
    }

    /// Returns when that will be different, at the earliest.
    pub fn next_change(&self, now: i64) -> Option<i64> {
        [self.not_before, self.not_after.saturating_add(1)].into_iter().find(|change| *change > now)
    }

    fn both(self, other: Self) -> Self {
        Self { not_before: self.not_before.max(other.not_before), not_after: self.not_after.min(other.not_after) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_valid_begins_and_ends() {
        let validity = Validity { not_before: 10, not_after: 20 };
        assert_eq!([9, 10, 20, 21].map(|now| validity.flaw_at(now).is_none()), [false, true, true, false]);
        assert_eq!([9, 10, 20, 21].map(|now| validity.next_change(now)), [Some(10), Some(21), Some(21), None]);
    }
}

//! What makes a root the same root: its name and its key, in which trust lies (RFC 5280 §6.1.1 d). A certificate only carries them,
//! so that one whose validity was renewed is the same root.

use std::fmt;

use aws_lc_rs::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use super::certificate::Certificate;

/// How many bytes of the digest identify a root.
const SHOWN: usize = 10;

/// Identifies a root by its name and key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RootId(SmolStr);

impl RootId {
    /// Returns the identity of a root.
    pub fn of(root: &Certificate) -> Self {
        let mut digest = Context::new(&SHA256);
        // The length keeps names and keys apart.
        digest.update(&(root.subject_der.len() as u64).to_be_bytes());
        digest.update(&root.subject_der);
        digest.update(&root.public_key);
        let text: String = digest.finish().as_ref().iter().take(SHOWN).map(|byte| format!("{byte:02x}")).collect();
        Self(text.into())
    }

    /// Returns an identity that no certificate has.
    #[cfg(test)]
    pub(crate) fn named(name: &str) -> Self {
        Self(name.into())
    }
}

impl fmt::Display for RootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

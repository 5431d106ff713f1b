//! Which certificates were issued: the newest ones, and never a key.

use std::collections::VecDeque;

use jiff::Timestamp;
use parking_lot::Mutex;
use smol_str::SmolStr;
use tracing::info;

use super::{
    proof::{Proof, Proven},
    registration::SignerName,
};
use crate::mesh::model::SpiffeId;

/// How many are remembered: about 6 MB, and a day of 8,000 workloads with the usual lifetime.
const REMEMBERED: usize = 16_384;

/// A certificate that was issued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuance {
    /// Its serial number, as `openssl` shows it.
    pub serial: SmolStr,
    /// The external signer that signed it; `None`: our own CA did.
    pub signer: Option<SignerName>,
    /// Whose it is.
    pub identity: SpiffeId,
    /// Who asked for it.
    pub caller: SpiffeId,
    /// By what the caller proved who it is.
    pub proof: Proof,
    /// The remote cluster that the caller is in; `None`: ours.
    pub remote_cluster: Option<SmolStr>,
    /// When it was issued.
    pub issued_at: Timestamp,
    /// When it expires.
    pub not_after: Timestamp,
}

/// The newest certificates of this process.
#[derive(Debug)]
pub struct Inventory {
    newest: Mutex<Newest>,
    most: usize,
}

#[derive(Debug, Default)]
struct Newest {
    issuances: VecDeque<Issuance>,
    forgotten: u64,
}

/// What is shown of an inventory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// Those that have not expired, the newest first.
    pub issuances: Vec<Issuance>,
    /// How many were forgotten although they may still be valid.
    pub forgotten: u64,
}

// === impl Issuance ===

impl Issuance {
    /// Describes a certificate for `identity`, which `by` asked for.
    pub fn new(serial: SmolStr, identity: SpiffeId, by: Proven, issued_at: Timestamp, not_after: Timestamp) -> Self {
        Self {
            serial,
            signer: None,
            identity,
            caller: by.identity,
            proof: by.proof,
            remote_cluster: by.remote_cluster,
            issued_at,
            not_after,
        }
    }

    /// Says that an external signer signed it.
    pub fn signed_by(self, signer: SignerName) -> Self {
        Self { signer: Some(signer), ..self }
    }

    /// Writes the audit line.
    pub fn log(&self) {
        let Self { serial, identity, caller, not_after, .. } = self;
        let (proof, signer) = (self.proof.as_str(), self.signer.as_ref().map(tracing::field::display));
        let remote_cluster = self.remote_cluster.as_deref();
        info!(target: "istiod_lite::audit", %caller, proof, remote_cluster, %identity, %serial, %not_after, signer, "certificate issued");
    }
}

// === impl Inventory ===

impl Default for Inventory {
    fn default() -> Self {
        Self::of(REMEMBERED)
    }
}

impl Inventory {
    /// Returns an inventory that remembers so many.
    fn of(most: usize) -> Self {
        Self { newest: Mutex::default(), most }
    }

    /// Remembers a certificate. When there are too many, the oldest is forgotten.
    pub fn record(&self, issuance: Issuance) {
        let mut newest = self.newest.lock();
        if newest.issuances.len() >= self.most {
            let oldest = newest.issuances.pop_front();
            newest.forgotten += u64::from(oldest.is_some_and(|oldest| oldest.not_after > issuance.issued_at));
        }
        newest.issuances.push_back(issuance);
    }

    /// Returns the certificates that are valid at `now`.
    pub fn list(&self, now: Timestamp) -> Listing {
        let newest = self.newest.lock();
        let valid = newest.issuances.iter().rev().filter(|issuance| issuance.not_after > now);
        Listing { issuances: valid.cloned().collect(), forgotten: newest.forgotten }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serial(number: u8) -> SmolStr {
        format!("{number:02x}").into()
    }

    fn issuance(number: u8, lives: i64) -> Issuance {
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        let identity = SpiffeId { trust_domain: "td".into(), namespace: "shop".into(), service_account: "cart".into() };
        let by = Proven::new(identity.clone(), Proof::PodToken);
        let issued = i64::from(number);
        Issuance::new(serial(number), identity, by, at(issued), at(issued + lives))
    }

    #[test]
    fn the_newest_are_listed_until_they_expire() {
        let inventory = Inventory::of(3);
        for number in 1..=5 {
            inventory.record(issuance(number, 100));
        }
        let at = |second: i64| inventory.list(Timestamp::from_second(second).unwrap());
        let serials = |listing: &Listing| listing.issuances.iter().map(|issuance| issuance.serial.clone()).collect::<Vec<_>>();
        assert_eq!(serials(&at(50)), [5, 4, 3].map(serial));
        assert_eq!(at(50).forgotten, 2, "both were still valid");
        assert_eq!(serials(&at(104)), [serial(5)]);
    }

    #[test]
    fn what_has_expired_may_be_forgotten() {
        let inventory = Inventory::of(1);
        inventory.record(issuance(1, 1));
        inventory.record(issuance(9, 1));
        assert_eq!(inventory.list(Timestamp::from_second(9).unwrap()).forgotten, 0);
    }
}

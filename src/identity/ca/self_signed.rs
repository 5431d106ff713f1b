//! The root that we make if nobody gives us a CA (contract §4.4): its certificate and key, as `istio-ca-secret` holds them.
//!
//! The key is P-256, unless RSA is asked for: P-256 signs four times as fast, and istiod reads it as well (PKCS#8).

use std::{collections::BTreeMap, time::Duration};

use jiff::{SignedDuration, Timestamp};

use super::IssuePolicy;
use crate::identity::{
    ceremony::{CaRequest, CaSubject, CeremonyError, renewed_root, root_certificate},
    certificate::{Certificate, CertificateError},
    key::{KeyError, KeyType, PrivateKey},
    serial::{NoRandomness, Serial},
};

const CERTIFICATE: &str = "ca-cert.pem";
const KEY: &str = "ca-key.pem";
const ROOTS: &str = "root-cert.pem";
/// istiod writes these two empty.
const UNUSED: [&str; 2] = ["cert-chain.pem", "key.pem"];

/// How self-signed roots are made and renewed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelfSigned {
    /// `O` of the subject: the trust domain.
    pub organization: String,
    /// What key a new root gets.
    pub key: KeyType,
    /// How many days a root is valid (`CITADEL_SELF_SIGNED_CA_CERT_TTL`, 3650).
    pub days: u32,
    /// The last part of its life, in percent, in which a root is renewed (`…_GRACE_PERIOD_PERCENTILE`, 20).
    pub grace_percent: u8,
}

/// Why a root cannot be made or renewed.
#[derive(Debug, thiserror::Error)]
pub enum SelfSignedError {
    /// The certificate of the present root cannot be read.
    #[error("{CERTIFICATE} {0}")]
    Certificate(#[from] CertificateError),
    /// The key of the present root cannot be read, or none can be made.
    #[error("{KEY} {0}")]
    Key(#[from] KeyError),
    /// No certificate could be made.
    #[error(transparent)]
    Ceremony(#[from] CeremonyError),
    /// No serial number.
    #[error(transparent)]
    Serial(#[from] NoRandomness),
}

// === impl SelfSigned ===

impl SelfSigned {
    /// Returns the settings for a trust domain: istiod's defaults, except for the kind of key.
    pub fn new(trust_domain: &str) -> Self {
        Self { organization: trust_domain.into(), key: KeyType::P256, days: 3650, grace_percent: 20 }
    }

    /// Makes a new root with a new key, as the entries of a Secret.
    pub fn generate(&self, now: Timestamp) -> Result<BTreeMap<String, Vec<u8>>, SelfSignedError> {
        let key = PrivateKey::generate(self.key)?;
        let subject = CaSubject { organization: self.organization.clone(), common_name: String::new() };
        let request = CaRequest { key: &key, subject: &subject, days: self.days, now: backdated(now), serial: Serial::random()? };
        let root = root_certificate(&request)?;
        Ok(entries(&root, &key))
    }

    /// Returns the root in `present` with a new validity, under the same key and name; `None` while the old one is far from its end.
    pub fn renew(&self, present: &BTreeMap<String, Vec<u8>>, now: Timestamp) -> Result<Option<BTreeMap<String, Vec<u8>>>, SelfSignedError> {
        let text = |name: &str| present.get(name).map(|bytes| String::from_utf8_lossy(bytes)).unwrap_or_default();
        let root = Certificate::all_from_pem(&text(CERTIFICATE))?.into_iter().next().ok_or(CertificateError::Missing)?;
        if now < self.renewal_of(&root) {
            return Ok(None);
        }
        let key = PrivateKey::from_pem(&text(KEY))?;
        let renewed = renewed_root(&root, &key, self.days, backdated(now), Serial::random()?)?;
        let mut all = present.clone();
        all.insert(CERTIFICATE.into(), renewed.pem().into_bytes());
        all.insert(ROOTS.into(), renewed.pem().into_bytes());
        Ok(Some(all))
    }

    fn renewal_of(&self, root: &Certificate) -> Timestamp {
        let lifetime = root.not_after.as_second().saturating_sub(root.not_before.as_second());
        let grace = lifetime / 100 * i64::from(self.grace_percent.min(100));
        root.not_after.checked_sub(SignedDuration::from_secs(grace)).unwrap_or(root.not_before)
    }
}

/// Moves the start of validity back, because clocks of other nodes may be behind ours.
fn backdated(now: Timestamp) -> Timestamp {
    let skew: Duration = IssuePolicy::default().clock_skew;
    SignedDuration::try_from(skew).ok().and_then(|skew| now.checked_sub(skew).ok()).unwrap_or(now)
}

fn entries(root: &Certificate, key: &PrivateKey) -> BTreeMap<String, Vec<u8>> {
    let pem = root.pem().into_bytes();
    let unused = UNUSED.map(|name| (name.to_owned(), Vec::new()));
    let used = [(CERTIFICATE, pem.clone()), (ROOTS, pem), (KEY, key.to_pem().into_bytes())];
    used.map(|(name, contents)| (name.to_owned(), contents)).into_iter().chain(unused).collect()
}

#[cfg(test)]
mod tests {
    use super::{
        super::{CaHandle, IssuePolicy, LoadError, OfferOutcome, load_entries, load_self_signed},
        *,
    };
    use crate::mesh::model::SpiffeId;

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    fn request() -> String {
        let key = PrivateKey::generate(KeyType::P256).unwrap();
        rcgen::CertificateParams::default().serialize_request(key.pair()).unwrap().pem().unwrap()
    }

    #[test]
    fn a_generated_root_signs_and_answers_with_leaf_and_root() {
        for key in [KeyType::P256, KeyType::Rsa2048] {
            let made = SelfSigned { key, ..SelfSigned::new("example.org") }.generate(now()).unwrap();
            assert_eq!(
                made.keys().map(String::as_str).collect::<Vec<_>>(),
                ["ca-cert.pem", "ca-key.pem", "cert-chain.pem", "key.pem", "root-cert.pem"]
            );
            let ca = load_self_signed("Secret istio-system/istio-ca-secret", &made, now()).unwrap();
            assert_eq!(ca.certificate().subject, "O=example.org");
            let caller = SpiffeId { trust_domain: "example.org".into(), namespace: "shop".into(), service_account: "reviews".into() };
            let issued = ca.issue(&request(), &caller, 0, &IssuePolicy::default(), now(), Serial::random().unwrap()).unwrap();
            let chain = issued.into_chain();
            assert_eq!(chain.len(), 2, "leaf and root, no intermediate");
            assert_eq!(chain[1], ca.root_bundle());
            let leaf = Certificate::all_from_pem(&chain[0]).unwrap().remove(0);
            assert!(leaf.is_issued_by(ca.root()));
        }
    }

    #[test]
    fn renewal_comes_in_the_last_fifth_and_keeps_key_and_name() {
        let policy = SelfSigned { days: 100, ..SelfSigned::new("cluster.local") };
        let made = policy.generate(now()).unwrap();
        let day = |days: i64| now() + SignedDuration::from_hours(24 * days);
        assert!(policy.renew(&made, day(79)).unwrap().is_none());
        let renewed = policy.renew(&made, day(81)).unwrap().unwrap();
        assert_eq!(renewed["ca-key.pem"], made["ca-key.pem"]);
        assert_eq!(renewed["ca-cert.pem"], renewed["root-cert.pem"]);
        let load = |entries| load_self_signed("Secret", entries, day(81)).unwrap();
        let (old, new) = (load(&made), load(&renewed));
        assert!(new.not_after() > old.not_after());
        let handle = CaHandle::new(old);
        assert_eq!(handle.offer(new).unwrap(), OfferOutcome::Accepted, "the same name and key are the same root");
        let other = load_self_signed("Secret", &policy.generate(now()).unwrap(), day(1)).unwrap();
        assert!(handle.offer(other).is_err(), "the same name with another key is another root");
    }

    #[test]
    fn a_root_key_is_taken_from_no_other_place() {
        let made = SelfSigned::new("cluster.local").generate(now()).unwrap();
        let refused = load_entries("Secret istio-system/cacerts", &made, now()).unwrap_err();
        assert!(matches!(refused, LoadError::RootKey { .. }), "{refused}");
        assert!(refused.to_string().contains("Secret istio-system/cacerts/ca-key.pem"), "{refused}");
    }

    #[test]
    fn a_broken_root_secret_is_refused_with_what_is_wrong() {
        let made = SelfSigned::new("cluster.local").generate(now()).unwrap();
        let other = SelfSigned::new("cluster.local").generate(now()).unwrap();
        let with = |name: &str, contents: &[u8]| {
            let mut entries = made.clone();
            entries.insert(name.into(), contents.to_vec());
            load_self_signed("Secret a/b", &entries, now()).unwrap_err().to_string()
        };
        assert!(with("ca-key.pem", &other["ca-key.pem"]).contains("not the key of"));
        assert!(with("ca-key.pem", b"").contains("ca-key.pem holds no PEM"));
        assert!(with("ca-cert.pem", b"\xff").contains("binary"));
        let mut missing = made;
        missing.remove("ca-key.pem");
        let missing = load_self_signed("Secret a/b", &missing, now()).unwrap_err().to_string();
        assert!(missing.contains("Secret a/b") && missing.contains("ca-key.pem missing"), "{missing}");
    }
}

//! CAs for tests of rotations.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::Entries;
use crate::identity::{
    ceremony::{CaRequest, CaSubject, intermediate_certificate, revocation_list, root_certificate},
    certificate::Certificate,
    key::{KeyType, PrivateKey},
    serial::Serial,
};

/// A root with its key.
pub(crate) struct Root {
    pub(crate) certificate: Certificate,
    pub(crate) key: PrivateKey,
}

/// Returns a time at which every CA made here is valid.
pub(crate) fn now() -> Timestamp {
    "2026-06-01T00:00:00Z".parse().unwrap()
}

impl Root {
    /// Makes a root of that name.
    pub(crate) fn new(name: &str) -> Self {
        let key = PrivateKey::generate(KeyType::P256).unwrap();
        Self { certificate: made(name, &key, |request| root_certificate(request).unwrap()), key }
    }

    /// Makes an intermediate, as the entries of Istio's form.
    pub(crate) fn intermediate(&self) -> Entries {
        let key = PrivateKey::generate(KeyType::P256).unwrap();
        let root_key = PrivateKey::from_pem(&self.key.to_pem()).unwrap();
        let signing = made("signing", &key, |request| intermediate_certificate(request, 0, &self.certificate, root_key).unwrap());
        let (chain, root) = (signing.pem(), self.certificate.pem());
        [("ca-cert.pem", chain.clone()), ("ca-key.pem", key.to_pem()), ("cert-chain.pem", chain), ("root-cert.pem", root)]
            .map(|(name, text)| (name.to_owned(), text.into_bytes()))
            .into()
    }

    /// Makes the lists of revoked certificates of an intermediate and of this root, which revoke nothing.
    pub(crate) fn revocation_lists(&self, intermediate: &Entries) -> String {
        let text = |name: &str| String::from_utf8(intermediate[name].clone()).unwrap();
        let signing = Certificate::all_from_pem(&text("ca-cert.pem")).unwrap().remove(0);
        let key = PrivateKey::from_pem(&text("ca-key.pem")).unwrap();
        let root_key = PrivateKey::from_pem(&self.key.to_pem()).unwrap();
        let empty = BTreeSet::new();
        let lists = [revocation_list(&signing, key, &empty, 30, now()), revocation_list(&self.certificate, root_key, &empty, 30, now())];
        lists.map(Result::unwrap).concat()
    }
}

fn made(name: &str, key: &PrivateKey, sign: impl FnOnce(&CaRequest<'_>) -> Certificate) -> Certificate {
    let subject = CaSubject { organization: "Company".into(), common_name: name.into() };
    sign(&CaRequest { key, subject: &subject, days: 90, now: now(), serial: Serial::random().unwrap() })
}

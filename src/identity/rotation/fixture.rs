//! CAs for tests of rotations.

use jiff::Timestamp;

use super::Entries;
use crate::identity::{
    ceremony::{CaRequest, CaSubject, intermediate_certificate, root_certificate},
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
}

fn made(name: &str, key: &PrivateKey, sign: impl FnOnce(&CaRequest<'_>) -> Certificate) -> Certificate {
    let subject = CaSubject { organization: "Company".into(), common_name: name.into() };
    sign(&CaRequest { key, subject: &subject, days: 90, now: now(), serial: Serial::random().unwrap() })
}

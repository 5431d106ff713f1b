//! The workload's certificate with its key and the roots that its peers must chain to.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rcgen::KeyPair;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use tokio::sync::watch;
use x509_parser::prelude::{FromDer, X509Certificate};

/// A key with its certificate. `Debug` shows neither.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct WorkloadCertificate {
    chain_pem: String,
    key_pem: String,
    root_pem: String,
    revocation_pem: Option<String>,
    not_after: SystemTime,
}

/// The certificate as it was issued last; `None` until the first one comes.
pub(crate) type CurrentCertificate = watch::Receiver<Option<Arc<WorkloadCertificate>>>;

/// The CA's answer is not a certificate for the key that was asked for.
#[derive(Debug, thiserror::Error)]
#[error("unusable answer: {0}")]
pub(crate) struct AnswerError(String);

impl WorkloadCertificate {
    /// Returns the PEM of leaf and intermediates.
    pub(crate) fn chain_pem(&self) -> &str {
        &self.chain_pem
    }

    /// Returns the PEM of the private key (PKCS#8).
    pub(crate) fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// Returns the PEM of the root bundle.
    pub(crate) fn root_pem(&self) -> &str {
        &self.root_pem
    }

    /// Returns whether peers may chain to more than one root, as during a rotation.
    pub(crate) fn trusts_several_roots(&self) -> bool {
        CertificateDer::pem_slice_iter(self.root_pem.as_bytes()).count() > 1
    }

    /// Returns the same certificate with another root bundle.
    pub(crate) fn with_roots(&self, root_pem: String) -> Self {
        Self { root_pem, ..self.clone() }
    }

    /// Returns the PEM of the lists of revoked certificates, if there are any.
    pub(crate) fn revocation_pem(&self) -> Option<&str> {
        self.revocation_pem.as_deref()
    }

    /// Returns the same certificate with these lists of revoked ones.
    pub(crate) fn with_revocation(&self, revocation_pem: Option<String>) -> Self {
        Self { revocation_pem, ..self.clone() }
    }

    /// Returns when the leaf expires.
    pub(crate) fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Reads the CA's answer for `key`: the leaf comes first, the root bundle last (contract §4.1).
    pub(crate) fn from_answer(key: &KeyPair, answer: &[String]) -> Result<Self, AnswerError> {
        let [chain @ .., root] = answer else { return Err(AnswerError("empty chain".to_owned())) };
        let Some(leaf) = chain.first() else { return Err(AnswerError("no leaf before the root bundle".to_owned())) };
        let block = pem::parse(leaf).map_err(|error| AnswerError(format!("leaf: {error}")))?;
        let (_, leaf) = X509Certificate::from_der(block.contents()).map_err(|error| AnswerError(format!("leaf: {error}")))?;
        if leaf.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(AnswerError("the leaf is for another key".to_owned()));
        }
        let not_after = u64::try_from(leaf.validity().not_after.timestamp()).unwrap_or_default();
        Ok(Self {
            chain_pem: join_pem(chain),
            key_pem: key.serialize_pem(),
            root_pem: join_pem(std::slice::from_ref(root)),
            revocation_pem: None,
            not_after: SystemTime::UNIX_EPOCH + Duration::from_secs(not_after),
        })
    }
}

impl fmt::Debug for WorkloadCertificate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("WorkloadCertificate").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

fn join_pem(blocks: &[String]) -> String {
    blocks.iter().map(|block| format!("{}\n", block.trim_end())).collect()
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa};

    use super::*;

    fn issuer() -> CertifiedIssuer<'static, KeyPair> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    fn answer(key: &KeyPair) -> Vec<String> {
        let issuer = issuer();
        let leaf = CertificateParams::default().signed_by(key, &issuer).unwrap();
        vec![leaf.pem(), issuer.pem()]
    }

    #[test]
    fn an_answer_for_the_key_is_taken_apart() {
        let key = KeyPair::generate().unwrap();
        let answer = answer(&key);
        let certificate = WorkloadCertificate::from_answer(&key, &answer).unwrap();
        assert_eq!(certificate.chain_pem().matches("BEGIN CERTIFICATE").count(), 1);
        assert_eq!(certificate.root_pem().trim_end(), answer[1].replace("\r\n", "\n").trim_end());
        assert!(certificate.not_after() > SystemTime::now());
    }

    #[test]
    fn other_answers_are_refused() {
        let key = KeyPair::generate().unwrap();
        let answer = answer(&key);
        let refusal = |answer: &[String]| WorkloadCertificate::from_answer(&key, answer).unwrap_err().to_string();
        assert!(refusal(&[]).contains("empty chain"));
        assert!(refusal(&answer[..1]).contains("no leaf"));
        assert!(refusal(&["x".to_owned(), "y".to_owned()]).contains("leaf"));
        let other = KeyPair::generate().unwrap();
        assert!(WorkloadCertificate::from_answer(&other, &answer).unwrap_err().to_string().contains("another key"));
    }

    #[test]
    fn debug_shows_no_key() {
        let key = KeyPair::generate().unwrap();
        let certificate = WorkloadCertificate::from_answer(&key, &answer(&key)).unwrap();
        let shown = format!("{certificate:?}");
        assert!(shown.contains("not_after") && !shown.contains("BEGIN"), "{shown}");
    }
}

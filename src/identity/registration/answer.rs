//! Checking what a signer answers: it has to be the certificate that was asked for, and nothing else.

use std::time::Duration;

use jiff::Timestamp;
use rustls::{
    RootCertStore,
    client::verify_server_cert_signed_by_trust_anchor,
    server::{ParsedCertificate, WebPkiClientVerifier},
};
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer};

use super::signer::Usage;
use crate::{identity::certificate::Certificate, peer_text::PeerText};

/// The largest answer that is read.
const LARGEST_ANSWER: usize = 128 << 10;
/// The most certificates in an answer.
const LONGEST_CHAIN: usize = 10;

/// What was asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    /// The bits of the key in the request.
    pub(super) key: &'a [u8],
    /// The names in the request, in its order.
    pub(super) names: Names<'a>,
    /// What it is for.
    pub(super) usage: Usage,
    /// The last moment at which it may expire.
    pub(super) latest_end: Timestamp,
    /// The roots of the signer.
    pub(super) roots: &'a [Certificate],
    /// Now.
    pub(super) now: Timestamp,
}

/// The names of a certificate.
#[derive(Clone, Copy, Debug)]
pub(super) enum Names<'a> {
    /// One SPIFFE id.
    Identity(&'a str),
    /// DNS names.
    Dns(&'a [String]),
}

/// Why an answer is not what was asked for.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum AnswerError {
    /// It is not a chain of certificates.
    #[error("answered with what is no chain of certificates: {0}")]
    Unreadable(PeerText),
    /// It is a CA.
    #[error("answered with the certificate of a CA, which could issue certificates for every name")]
    Authority,
    /// It is for another key.
    #[error("answered with a certificate for another key than the one that was asked for")]
    Key,
    /// It has other names.
    #[error("answered with a certificate for {found}, and was asked for {wanted}")]
    Names {
        /// What it names.
        found: PeerText,
        /// What was asked for.
        wanted: PeerText,
    },
    /// It lives too long.
    #[error("answered with a certificate until {0}, which is longer than certificates may live here (--max-certificate-ttl)")]
    Lifetime(Timestamp),
    /// It does not lead to a known root, is not valid now, or is not for this use.
    #[error(
        "answered with a certificate that nobody would accept: {0}; its roots are those of MeshConfig's caCertificates, or of the file external-ca-cert/root-cert.pem"
    )]
    Chain(PeerText),
}

/// What was asked for, as it came.
pub(super) struct Answer {
    /// The certificate.
    pub(super) leaf: Certificate,
    /// What is between it and the root.
    pub(super) above: Vec<Certificate>,
}

/// Reads the PEM of an answer.
///
/// # Errors
/// When it is anything but what was wanted.
pub(super) fn check(answer: &str, wanted: &Wanted<'_>) -> Result<Answer, AnswerError> {
    let unreadable = |reason: &str| AnswerError::Unreadable(PeerText::new(reason));
    if answer.len() > LARGEST_ANSWER {
        return Err(unreadable("too large"));
    }
    let mut chain = Certificate::all_from_pem(answer).map_err(|error| unreadable(&error.to_string()))?;
    if chain.len() > LONGEST_CHAIN {
        return Err(unreadable("too many certificates"));
    }
    let leaf = chain.remove(0);
    if leaf.is_ca {
        return Err(AnswerError::Authority);
    }
    if leaf.public_key != wanted.key {
        return Err(AnswerError::Key);
    }
    check_names(&leaf, wanted.names)?;
    if leaf.not_after > wanted.latest_end {
        return Err(AnswerError::Lifetime(leaf.not_after));
    }
    // Proxies are told of roots beside the chain; one in it would only be carried along.
    chain.retain(|certificate| !certificate.is_self_signed());
    verify(&leaf, &chain, wanted).map_err(|reason| AnswerError::Chain(PeerText::new(&reason)))?;
    Ok(Answer { leaf, above: chain })
}

fn check_names(leaf: &Certificate, wanted: Names<'_>) -> Result<(), AnswerError> {
    let unreadable = |reason: &str| AnswerError::Unreadable(PeerText::new(reason));
    let (_, x509) = X509Certificate::from_der(leaf.der()).map_err(|error| unreadable(&error.to_string()))?;
    let extension = x509.subject_alternative_name().map_err(|error| unreadable(&error.to_string()))?;
    let names = extension.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
    let (right, wanted) = match wanted {
        Names::Identity(uri) => (matches!(names, [GeneralName::URI(name)] if *name == uri), uri.to_owned()),
        Names::Dns(wanted) => {
            let mut found: Vec<&str> = Vec::new();
            let only_dns = names.iter().all(|name| matches!(name, GeneralName::DNSName(name) if { found.push(name); true }));
            let mut wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
            found.sort_unstable();
            wanted.sort_unstable();
            (only_dns && found == wanted, wanted.join(", "))
        }
    };
    if right {
        return Ok(());
    }
    let found: Vec<String> = names.iter().map(ToString::to_string).collect();
    let found = if found.is_empty() { "nobody".to_owned() } else { found.join(", ") };
    Err(AnswerError::Names { found: PeerText::new(&found), wanted: PeerText::new(&wanted) })
}

/// Verifies the chain as peers will.
fn verify(leaf: &Certificate, above: &[Certificate], wanted: &Wanted<'_>) -> Result<(), String> {
    let between: Vec<CertificateDer<'_>> = above.iter().map(|certificate| certificate.der().clone()).collect();
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(wanted.roots.iter().map(|root| root.der().clone()));
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let algorithms = provider.signature_verification_algorithms.all;
    let now = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(wanted.now.as_second()).unwrap_or(0)));
    let parsed = ParsedCertificate::try_from(leaf.der()).map_err(|error| error.to_string())?;
    verify_server_cert_signed_by_trust_anchor(&parsed, &store, &between, now, algorithms).map_err(|error| error.to_string())?;
    if wanted.usage == Usage::Serving {
        return Ok(());
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(store.into(), provider.into()).build().map_err(|error| error.to_string())?;
    verifier.verify_client_cert(leaf.der(), &between, now).map(drop).map_err(|error| error.to_string())
}

//! Why a CA is refused.

use std::{io, path::PathBuf};

use jiff::Timestamp;

use crate::{
    identity::{certificate::CertificateError, key::KeyError},
    system_error::explain,
};

/// Why a CA is refused. For a CA in a Secret, the "folder" is the Secret and the "files" are its keys.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The folder or a file in it cannot be read.
    #[error("{}: {}", path.display(), explain(error))]
    Io {
        /// What could not be read.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The folder is not there, or cannot be listed.
    #[error(
        "{}: {}; --ca-dir names the folder of a CA, which `istiod-lite ca intermediate` makes, and without it --config-dir \
         signs with a root of its own",
        folder.display(), explain(error)
    )]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// None of the files is there.
    #[error(
        "{}: no CA here: neither ca-cert.pem, ca-key.pem, root-cert.pem, cert-chain.pem nor tls.crt, tls.key, ca.crt; \
         `istiod-lite ca intermediate` makes one",
        folder.display()
    )]
    Empty {
        /// The folder.
        folder: PathBuf,
    },
    /// Some files are there, others not.
    #[error("{}: the CA is incomplete: {} missing; `istiod-lite ca intermediate` makes all of them", folder.display(), missing.join(", "))]
    Incomplete {
        /// The folder.
        folder: PathBuf,
        /// Names of the missing files.
        missing: Vec<&'static str>,
    },
    /// The root's private key lies in the folder, or may.
    #[error(
        "{}: {why}; a root key must never be where the control plane runs: keep it offline, and give this folder an \
         intermediate made by `istiod-lite ca intermediate`",
        path.display()
    )]
    RootKey {
        /// The file.
        path: PathBuf,
        /// How it is known.
        why: &'static str,
    },
    /// A certificate file cannot be read.
    #[error("{file} {error}")]
    Certificate {
        /// The file's name.
        file: &'static str,
        /// Why.
        error: CertificateError,
    },
    /// The key file cannot be read.
    #[error("{file} {error}")]
    Key {
        /// The file's name.
        file: &'static str,
        /// Why.
        error: KeyError,
    },
    /// The key belongs to another certificate.
    #[error("{key} is not the key of {certificate} (subject {subject}); put in the two that were made together")]
    KeyMismatch {
        /// The key's file.
        key: &'static str,
        /// The certificate's file.
        certificate: &'static str,
        /// Its subject.
        subject: String,
    },
    /// A certificate above the leaf is not a CA.
    #[error("{subject}: not a CA certificate (basic constraints); issue it with CA:TRUE")]
    NotCa {
        /// The certificate's subject.
        subject: String,
    },
    /// A certificate above the leaf may not sign certificates.
    #[error("{subject}: its key usage lacks keyCertSign; issue it with that")]
    NoCertSign {
        /// The certificate's subject.
        subject: String,
    },
    /// A CA allows fewer CAs below itself than there are.
    #[error("{subject}: path length {allowed} allows fewer than the {below} CA certificates below it; issue it with a longer one")]
    PathLength {
        /// The certificate's subject.
        subject: String,
        /// What it allows.
        allowed: u32,
        /// How many there are.
        below: usize,
    },
    /// A certificate has expired.
    #[error("{subject}: expired at {not_after}; issue a new one")]
    Expired {
        /// The certificate's subject.
        subject: String,
        /// The end of its validity.
        not_after: Timestamp,
    },
    /// A certificate is not valid yet.
    #[error("{subject}: not valid before {not_before}; wait, or set the clock of this machine")]
    NotYetValid {
        /// The certificate's subject.
        subject: String,
        /// The start of its validity.
        not_before: Timestamp,
    },
    /// There is no path to a root.
    #[error(
        "{subject}: not signed by a root in {roots}, nor by a certificate in {chain} (its issuer is {issuer}); add what stands between them to {chain}, or its root to {roots}"
    )]
    NotChained {
        /// The certificate's subject.
        subject: String,
        /// Its issuer.
        issuer: String,
        /// The root file.
        roots: &'static str,
        /// The chain file.
        chain: &'static str,
    },
    /// Proxies would refuse what it signs, because of name constraints.
    #[error(
        "{subject}: its name constraints ({constraints}) are the cause that verifiers refuse every workload certificate; \
         issue the CA without them"
    )]
    NameConstraints {
        /// The certificate's subject.
        subject: String,
        /// What they say.
        constraints: String,
    },
    /// A certificate signed in a trial does not verify.
    #[error("a certificate signed in a trial does not verify: {reason}; issue the CA anew, as by `istiod-lite ca intermediate`")]
    Trial {
        /// The verifier's reason.
        reason: String,
    },
}

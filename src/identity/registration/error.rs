//! Why no certificate came from a signer, and what the caller is told.

use smol_str::SmolStr;
use tonic::Status;

use super::{
    answer::AnswerError,
    signer::{SignerError, SignerName, SignerNameError},
};
use crate::{
    identity::{ca::IssueError, signing_request::SigningRequestError},
    peer_text::PeerText,
};

/// Why there is no certificate.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RegistrationError {
    /// What our own CA would refuse, too.
    #[error(transparent)]
    Policy(#[from] IssueError),
    /// A request of our own could not be made.
    #[error("certificate request: {0}")]
    Request(String),
    /// What the caller names is no signer.
    #[error(transparent)]
    Name(#[from] SignerNameError),
    /// The caller's `CertSigner` cannot be read.
    #[error("CertSigner is no text")]
    CertSigner,
    /// Callers may not name signers.
    #[error("CertSigner {0}: no domain of signers is configured (--cert-signer-domain)")]
    NoDomain(PeerText),
    /// The caller names nobody, and nobody signs for such callers.
    #[error("no signer is configured for requests without CertSigner (--k8s-signer)")]
    NoDefault,
    /// No root of this signer is known.
    #[error(
        "no root of signer {0} is known, so that nobody could tell its certificates from others; write it into MeshConfig's \
         caCertificates with certSigners: [{0}], or mount it as external-ca-cert/root-cert.pem"
    )]
    NoRoots(SignerName),
    /// The caller is in a remote cluster.
    #[error(
        "callers of remote cluster {0} get no certificates from external signers, whose certificates could not say of which cluster \
         the holder is"
    )]
    RemoteCluster(SmolStr),
    /// Too many requests are with signers.
    #[error("too many certificate requests are with signers; try again later")]
    Busy,
    /// The signer gave none.
    #[error("signer {signer}: {error}")]
    Signer {
        /// Who was asked.
        signer: SignerName,
        /// What went wrong.
        error: SignerError,
    },
    /// The signer gave something else.
    #[error("signer {signer} {error}")]
    Answer {
        /// Who was asked.
        signer: SignerName,
        /// What is wrong with it.
        error: AnswerError,
    },
}

// === impl RegistrationError ===

impl RegistrationError {
    /// Returns the caller's answer. One whose fault it is not is to keep its certificate and try again.
    pub(in crate::identity) fn status(&self) -> Status {
        let text = self.to_string();
        match self {
            Self::Policy(error) => error.status(),
            Self::Name(_) | Self::CertSigner | Self::NoDomain(_) => Status::invalid_argument(text),
            Self::Request(_) => Status::internal(text),
            Self::NoDefault | Self::NoRoots(_) | Self::Busy => Status::unavailable(text),
            Self::RemoteCluster(_) | Self::Signer { error: SignerError::Denied(_), .. } => Status::permission_denied(text),
            Self::Signer { error: SignerError::Failed(_) | SignerError::Refused(_), .. } | Self::Answer { .. } => Status::internal(text),
            Self::Signer { .. } => Status::unavailable(text),
        }
    }

    /// Returns istiod's label of `citadel_server_csr_sign_err_count`.
    pub(in crate::identity) fn reason(&self) -> &'static str {
        match self {
            Self::Policy(error) => error.reason(),
            Self::Name(_) | Self::CertSigner | Self::NoDomain(_) | Self::RemoteCluster(_) => "csr_error",
            _ => "cert_gen_error",
        }
    }
}

impl From<SigningRequestError> for RegistrationError {
    fn from(error: SigningRequestError) -> Self {
        Self::Policy(error.into())
    }
}

// === impl SignerError ===

impl SignerError {
    /// Returns the word by which metrics count it.
    pub(super) fn result(&self) -> &'static str {
        match self {
            Self::Unavailable(_) => "unavailable",
            Self::Forbidden(_) => "forbidden",
            Self::Refused(_) => "refused",
            Self::Silent(_) => "silent",
            Self::Denied(_) => "denied",
            Self::Failed(_) => "failed",
            Self::Gone => "gone",
        }
    }
}

//! Why the TLS ports cannot serve.

use std::path::PathBuf;

use crate::identity::{ca::IssueError, key::KeyError};

/// Why there is no serving certificate.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// No key.
    #[error("serving key: {0}")]
    Key(#[from] KeyError),
    /// The CA refused.
    #[error("serving certificate: {0}")]
    Issue(#[from] IssueError),
    /// Nobody signs it.
    #[error("serving certificate: there is no CA of our own")]
    NoAuthority,
    /// A file is missing or wrong.
    #[error("{}: {why}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The TLS library refused.
    #[error("TLS configuration: {0}")]
    Tls(#[from] rustls::Error),
    /// The roots cannot be used.
    #[error("client certificate verification: {0}")]
    Verifier(String),
}

//! Whether a workload accepts mutual TLS, plaintext, or both.

/// What inbound traffic is accepted (`PeerAuthentication.mtls.mode`), after inheritance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MtlsMode {
    /// Plaintext only.
    Disable,
    /// mTLS and plaintext.
    Permissive,
    /// mTLS only.
    Strict,
}

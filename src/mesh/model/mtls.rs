//! How a workload takes in mutual TLS.

/// How inbound traffic is taken in (`PeerAuthentication.mtls.mode`), after inheritance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MtlsMode {
    /// Plaintext only.
    Disable,
    /// mTLS and plaintext.
    Permissive,
    /// mTLS only.
    Strict,
}

//! Private keys: read in every encoding that CA folders hold, never shown.

use std::fmt;

use aws_lc_rs::rand;
use pkcs8::{EncryptedPrivateKeyInfo, PrivateKeyInfo, der::Decode, pkcs5::pbes2};
use rcgen::{KeyPair, RsaKeySize};

/// Rounds of PBKDF2-HMAC-SHA256 for a passphrase (OWASP's figure of 2023).
const PBKDF2_ROUNDS: u32 = 600_000;

/// A private key. Its `Debug` shows the kind of key only (rule 10).
pub struct PrivateKey(KeyPair);

/// The kinds of keys that the CA signs with and for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum KeyType {
    /// ECDSA on NIST P-256.
    #[value(name = "p256")]
    P256,
    /// ECDSA on NIST P-384.
    #[value(name = "p384")]
    P384,
    /// RSA of 2048 bits.
    #[value(name = "rsa2048")]
    Rsa2048,
    /// RSA of 4096 bits.
    #[value(name = "rsa4096")]
    Rsa4096,
}

/// Why a key could not be used. Never holds a byte of it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum KeyError {
    /// There is no PEM block of a private key.
    #[error("holds no PEM private key (PRIVATE KEY, RSA PRIVATE KEY or EC PRIVATE KEY)")]
    Missing,
    /// There is more than one private key.
    #[error("holds more than one private key; leave the right one")]
    Several,
    /// The key is encrypted: a passphrase is needed.
    #[error("holds an encrypted private key; decrypt it, for example with `openssl pkey`")]
    Encrypted,
    /// The key is encrypted in another way, or the passphrase is wrong.
    #[error("cannot be decrypted: wrong passphrase, or an encryption other than PBES2")]
    Passphrase,
    /// The key is not PKCS#8, PKCS#1 or SEC1, or of a kind that is not supported.
    #[error("holds a private key that cannot be read (supported: RSA, P-256 and P-384 as PKCS#8, PKCS#1 or SEC1)")]
    Unreadable,
    /// The crypto library refused.
    #[error("no key can be made: the system gives no randomness")]
    Generation,
}

// === impl PrivateKey ===

impl PrivateKey {
    /// Generates a new key.
    pub fn generate(kind: KeyType) -> Result<Self, KeyError> {
        let pair = match kind {
            KeyType::P256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
            KeyType::P384 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384),
            KeyType::Rsa2048 => KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048),
            KeyType::Rsa4096 => KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_4096),
        };
        pair.map(Self).map_err(|_| KeyError::Generation)
    }

    /// Reads the one plaintext private key in a PEM text: PKCS#8, PKCS#1 or SEC1.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        let blocks = pem::parse_many(text).map_err(|_| KeyError::Missing)?;
        let mut keys = blocks.iter().filter(|block| block.tag().ends_with("PRIVATE KEY"));
        let key = keys.next().ok_or(KeyError::Missing)?;
        if keys.next().is_some() {
            return Err(KeyError::Several);
        }
        if is_encrypted(key) {
            return Err(KeyError::Encrypted);
        }
        Self::from_der(key.contents())
    }

    /// Reads a plaintext DER key: PKCS#8, PKCS#1 or SEC1.
    pub fn from_der(der: &[u8]) -> Result<Self, KeyError> {
        let pair = KeyPair::try_from(der).map_err(|_| KeyError::Unreadable)?;
        let known = [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_RSA_SHA256];
        if known.contains(&pair.algorithm()) { Ok(Self(pair)) } else { Err(KeyError::Unreadable) }
    }

    /// Reads an encrypted PKCS#8 key (PBES2).
    pub fn from_encrypted_pem(text: &str, passphrase: &[u8]) -> Result<Self, KeyError> {
        let blocks = pem::parse_many(text).map_err(|_| KeyError::Missing)?;
        let block = blocks.iter().find(|block| block.tag() == "ENCRYPTED PRIVATE KEY").ok_or(KeyError::Missing)?;
        let encrypted = EncryptedPrivateKeyInfo::from_der(block.contents()).map_err(|_| KeyError::Passphrase)?;
        let plain = encrypted.decrypt(passphrase).map_err(|_| KeyError::Passphrase)?;
        Self::from_der(plain.as_bytes())
    }

    /// Returns the key as plaintext PKCS#8 PEM. The caller is responsible for where it goes.
    pub fn to_pem(&self) -> String {
        self.0.serialize_pem()
    }

    /// Returns the key as plaintext PKCS#8 DER. The caller is responsible for where it goes.
    pub fn to_der(&self) -> Vec<u8> {
        self.0.serialize_der()
    }

    /// Returns the key as PKCS#8 PEM, encrypted by PBES2 (PBKDF2-HMAC-SHA256, AES-256-CBC), which openssl reads, too.
    pub fn to_encrypted_pem(&self, passphrase: &[u8]) -> Result<String, KeyError> {
        let (mut salt, mut iv) = ([0; 16], [0; 16]);
        rand::fill(&mut salt).and_then(|()| rand::fill(&mut iv)).map_err(|_| KeyError::Generation)?;
        let parameters = pbes2::Parameters::pbkdf2_sha256_aes256cbc(PBKDF2_ROUNDS, &salt, &iv).map_err(|_| KeyError::Generation)?;
        let plain = PrivateKeyInfo::from_der(self.0.serialized_der()).map_err(|_| KeyError::Unreadable)?;
        let encrypted = plain.encrypt_with_params(parameters, passphrase).map_err(|_| KeyError::Generation)?;
        Ok(super::certificate::pem_block("ENCRYPTED PRIVATE KEY", encrypted.as_bytes()))
    }

    /// Returns the public half, as the bits of a SubjectPublicKeyInfo.
    pub fn public_key(&self) -> &[u8] {
        self.0.public_key_raw()
    }

    /// Returns the key as rcgen signs with it.
    pub fn pair(&self) -> &KeyPair {
        &self.0
    }

    pub(super) fn into_pair(self) -> KeyPair {
        self.0
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({:?}, redacted)", self.0.algorithm())
    }
}

/// Returns whether a key is encrypted, in the way of PKCS#8 or of old openssl (`Proc-Type: 4,ENCRYPTED`).
pub(super) fn is_encrypted(block: &pem::Pem) -> bool {
    block.tag() == "ENCRYPTED PRIVATE KEY" || block.headers().get("Proc-Type").is_some_and(|kind| kind.contains("ENCRYPTED"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_byte_of_a_key() {
        let key = PrivateKey::generate(KeyType::P256).unwrap();
        let shown = format!("{key:?} {key:#?}");
        assert!(shown.contains("redacted") && shown.len() < 300, "{shown}");
        let der = key.to_der();
        for window in der.windows(4) {
            let hex: String = window.iter().map(|byte| format!("{byte:02x}")).collect();
            assert!(!shown.contains(&hex) && !shown.contains(&format!("{window:?}")[1..]), "{shown}");
        }
    }

    #[test]
    fn an_encrypted_key_needs_its_passphrase() {
        let key = PrivateKey::generate(KeyType::P384).unwrap();
        let pem = key.to_encrypted_pem(b"correct horse").unwrap();
        assert_eq!(PrivateKey::from_pem(&pem).unwrap_err(), KeyError::Encrypted);
        assert_eq!(PrivateKey::from_encrypted_pem(&pem, b"wrong").unwrap_err(), KeyError::Passphrase);
        let back = PrivateKey::from_encrypted_pem(&pem, b"correct horse").unwrap();
        assert_eq!(back.public_key(), key.public_key());
    }
}

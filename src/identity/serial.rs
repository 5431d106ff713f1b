//! Serial numbers of certificates.

use std::fmt;

use aws_lc_rs::rand;
use rcgen::SerialNumber;

/// A certificate's serial number: 126 random bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Serial([u8; 16]);

/// The system has no randomness to give.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("signing failed: no randomness")]
pub struct NoRandomness;

impl Serial {
    /// Returns a new number from the system's randomness.
    ///
    /// # Errors
    /// When there is none.
    pub fn random() -> Result<Self, NoRandomness> {
        let mut bytes = [0; 16];
        rand::fill(&mut bytes).map_err(|_| NoRandomness)?;
        Ok(Self::from_bytes(bytes))
    }

    /// Makes a number of these bytes: positive and 16 bytes long, as DER integers and RFC 5280 require.
    pub fn from_bytes(mut bytes: [u8; 16]) -> Self {
        bytes[0] = bytes[0] & 0x7f | 0x40;
        Self(bytes)
    }

    pub(super) fn number(self) -> SerialNumber {
        SerialNumber::from_slice(&self.0)
    }
}

impl fmt::Display for Serial {
    /// Writes it as `openssl` and `ca inspect` show it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes: Vec<String> = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
        f.write_str(&bytes.join(":"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_positive_and_sixteen_bytes_long() {
        for byte in [0x00, 0x3f, 0x80, 0xff] {
            let number = Serial::from_bytes([byte; 16]).number();
            assert_eq!(number.as_ref().len(), 16, "{byte:#x}");
            assert!((0x40..0x80).contains(&number.as_ref()[0]), "{byte:#x}");
        }
    }
}

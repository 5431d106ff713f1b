//! Bytes that are shown to nobody but those for whom they are.

use std::{fmt, sync::Arc};

/// The content of a Secret's entry. Copies share it, and no log or dump shows it.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Confidential(Arc<[u8]>);

impl Confidential {
    /// Returns the bytes, for whoever may have them.
    pub fn reveal(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for Confidential {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

impl fmt::Debug for Confidential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{} bytes>", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_confidential_is_not_shown() {
        let secret = Confidential::from(b"hunter2".to_vec());
        assert_eq!((format!("{secret:?}").as_str(), secret.reveal()), ("<7 bytes>", &b"hunter2"[..]));
    }
}

//! What one request of a peer may hold, field by field: bounds that follow from what a field means.
//!
//! A request is [measured](measure()) while it is bytes, before it is read: what it would take in memory is many times its size.

mod excess;
mod fields;
mod measure;

pub use self::{
    excess::Excess,
    fields::{DELTA_REQUEST, Field, Message, Most, NESTED, REQUEST},
    measure::measure,
};

/// The bounds in which installations differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The largest request of whoever is not served yet, and of callers who have not proven who they are, in bytes.
    pub first_request: usize,
    /// The largest request of a proxy that is served and has proven who it is, in bytes.
    pub request: usize,
    /// How many names of a type one stream may have beyond those of its proxy's configuration.
    pub unknown_names: usize,
}

/// How many types beside those that views have content of a stream may ask for. Envoy and Istio's agents know fewer.
pub const TYPES: usize = 32;
/// How many addresses of a proxy count: a pod has one for each family and network. Linux gives no interface more by default.
pub const ADDRESSES: usize = 64;
/// How many labels a workload may have.
pub const LABELS: usize = 1024;
/// How many named ports the containers of a pod may have.
pub const POD_PORTS: usize = 1024;
/// How many bytes of what a proxy says of a refusal are kept. Envoy itself says no more.
pub const ERROR_TEXT: usize = 4096;

impl Bounds {
    /// Returns how many names a request may hold of a peer that is not served yet: what fits in it, with their versions.
    pub fn first_names(&self) -> usize {
        self.first_request / 32
    }
}

impl Default for Bounds {
    fn default() -> Self {
        Self { first_request: 4 << 20, request: 16 << 20, unknown_names: 10_000 }
    }
}

/// Returns what is kept of a long text: its beginning, to the end of a character, and a mark.
pub fn shortened(text: &str, most: usize) -> (String, bool) {
    if text.len() <= most {
        return (text.to_owned(), false);
    }
    (format!("{}… (cut, {} bytes)", &text[..text.floor_char_boundary(most)], text.len()), true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_end_with_a_whole_character_and_a_mark() {
        assert_eq!(shortened("äöü", 6), ("äöü".into(), false));
        assert_eq!(shortened("äöü", 5), ("äö… (cut, 6 bytes)".into(), true));
    }
}

//! What Envoy demands of a message before it takes it, held against what was encoded: an object that leads to something else
//! keeps everything from a proxy that is sent together with it.
//!
//! Most are the rules for fields that Envoy's own descriptors have (`validate.rules`); a few things Envoy judges when it loads a
//! message. Only what Envoy refuses is refused here, and what is not known is passed over. Bytes are walked, since messages
//! would have to be made into values of reflection first, which costs as much as translating them.

mod rule;
mod table;
#[cfg(test)]
mod tests;
mod walk;

use std::fmt;

use prost::Name;

use self::walk::Walk;
use super::entries::Unordered;

/// What is wrong with one field.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Violation {
    /// Where it is in the message, from the outside in.
    pub path: Vec<Step>,
    /// What is wrong, as it goes on after the name of the field.
    pub what: String,
}

/// A field, and which of a repeated one's items.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Step {
    /// Its name in Envoy's API.
    pub name: &'static str,
    /// The place of the item.
    pub index: Option<usize>,
}

/// What was found in an encoded message.
pub(super) struct Examined {
    /// What Envoy would refuse.
    pub(super) violations: Vec<Violation>,
    /// Maps that are not in canonical order, those within others first.
    pub(super) unordered: Vec<Unordered>,
}

/// Returns what Envoy would refuse in an encoded message.
pub fn violations<M: Name>(encoded: &[u8]) -> Vec<Violation> {
    violations_of(&M::full_name(), encoded)
}

/// Returns what Envoy would refuse in an encoded message of that type.
pub fn violations_of(full_name: &str, encoded: &[u8]) -> Vec<Violation> {
    examine(full_name, encoded).violations
}

/// Goes through an encoded message of that type once, for all that is to be known of it.
pub(super) fn examine(full_name: &str, encoded: &[u8]) -> Examined {
    let mut walk = Walk::default();
    if let Some(at) = table::find(full_name) {
        walk.message(at, encoded, 0);
    }
    Examined { violations: walk.found, unordered: walk.unordered }
}

/// `virtual_hosts[0].routes[2].name: must not be empty`
impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, step) in self.path.iter().enumerate() {
            let dot = if at == 0 { "" } else { "." };
            match step.index {
                Some(index) => write!(f, "{dot}{}[{index}]", step.name)?,
                None => write!(f, "{dot}{}", step.name)?,
            }
        }
        write!(f, ": {}", self.what)
    }
}

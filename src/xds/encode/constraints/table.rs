//! Envoy's rules for fields, as the build makes them from its descriptors (`build/constraints.rs`).

use std::sync::LazyLock;

use rustc_hash::FxHashMap;

include!(concat!(env!("OUT_DIR"), "/constraints.rs"));

/// A message type that has rules or maps, or leads to one that has.
pub(super) struct MessageType {
    pub(super) name: &'static str,
    /// `oneof`s of which one must be chosen.
    pub(super) choices: &'static [Choice],
    /// The bits of all fields and choices that must be there.
    pub(super) needed: u64,
    /// How many fields there are at least where some repeated field may have too few or too many items.
    pub(super) counts: usize,
    /// By field number: the place in `fields`, counted from 1; 0 for fields about which there is nothing to say.
    pub(super) index: &'static [u8],
    pub(super) fields: &'static [Field],
}

/// A `oneof` of which one must be chosen.
pub(super) struct Choice {
    pub(super) name: &'static str,
    pub(super) bit: u64,
}

/// A field that has rules, is a map, or leads on.
pub(super) struct Field {
    pub(super) number: u32,
    pub(super) name: &'static str,
    pub(super) form: Form,
    pub(super) is_repeated: bool,
    /// Whether its items are entries of a map, which have no order of their own.
    pub(super) is_map: bool,
    /// Set where it must be there, or is one of those of a choice.
    pub(super) bit: u64,
    /// Whether what is empty is not judged.
    pub(super) ignores_empty: bool,
    pub(super) count: Option<Count>,
    /// For its value; of a repeated field, for each.
    pub(super) rules: &'static [Rule],
}

/// What is in a field.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Text,
    Bytes,
    Unsigned,
    Signed,
    Double,
    Float,
    Duration,
    Any,
    /// A message; the number is its place in the table.
    Message(usize),
    /// What is in it is not looked at.
    Opaque,
}

/// How many items a repeated field may have.
pub(super) struct Count {
    pub(super) min: usize,
    pub(super) max: u64,
    pub(super) unique: bool,
}

/// A rule for one value.
pub(super) enum Rule {
    /// In characters.
    MinLength(usize),
    /// In characters.
    MaxLength(usize),
    MinBytes(usize),
    MaxBytes(usize),
    Prefix(&'static str),
    Suffix(&'static str),
    Pattern(&'static str),
    OneOf(&'static [&'static str]),
    /// The name of a header, `:` in front included.
    HeaderName,
    /// The value of a header.
    HeaderValue,
    /// Neither NUL nor a line break.
    OneLine,
    Unsigned {
        min: u64,
        max: u64,
    },
    Signed {
        min: i64,
        max: i64,
    },
    Fraction {
        min: f64,
        above: bool,
        max: f64,
        below: bool,
    },
    True,
    Defined(&'static [i32]),
    NotIn(&'static [i32]),
    /// Of a duration, in nanoseconds.
    Time {
        min: i128,
        max: i128,
    },
    /// Of a duration, in nanoseconds: at most this, or at least that.
    NotBetween {
        this: i128,
        that: i128,
    },
    /// A regular expression that RE2 compiles within the limits that agents give their Envoys.
    Expression,
    /// A header that is added: its value is a format.
    AddedHeader,
    /// An address of either family.
    IpAddress,
    /// What TLS can name.
    ServerName,
    /// What the address of a Unix socket can hold.
    SocketPath,
}

/// Returns the message type at a place in the table.
pub(super) fn message_type(at: usize) -> &'static MessageType {
    &CONSTRAINTS[at]
}

/// Returns where the message type of that name stands in the table.
pub(super) fn find(full_name: &str) -> Option<usize> {
    static BY_NAME: LazyLock<FxHashMap<&str, usize>> =
        LazyLock::new(|| CONSTRAINTS.iter().enumerate().map(|(at, known)| (known.name, at)).collect());
    BY_NAME.get(full_name).copied()
}

//! What goes over a bound, in words and codes.

use std::fmt;

use tonic::{Code, Status};

/// A request that holds more than it may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excess {
    /// The field, as a path from the request.
    field: String,
    kind: Kind,
    most: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The request has too many bytes.
    Size,
    /// It names too much.
    Names,
    /// A field stands in it too often.
    Entries,
    /// A field is too long.
    Length,
    /// Messages are nested too deeply.
    Depth,
    /// It is not a message.
    Form,
}

impl Excess {
    /// Returns that a request has more bytes than `most`.
    pub fn size(most: usize) -> Self {
        Self { field: "request".to_owned(), kind: Kind::Size, most }
    }

    /// Returns that a field names, or makes the stream name, more than `most` resources of a type.
    pub fn names(field: impl Into<String>, most: usize) -> Self {
        Self { field: field.into(), kind: Kind::Names, most }
    }

    /// Returns that a field stands more than `most` times.
    pub fn entries(field: impl Into<String>, most: usize) -> Self {
        Self { field: field.into(), kind: Kind::Entries, most }
    }

    /// Returns that a field has more than `most` bytes.
    pub fn length(field: impl Into<String>, most: usize) -> Self {
        Self { field: field.into(), kind: Kind::Length, most }
    }

    /// Returns that messages are nested in a field to more than `most` levels.
    pub fn depth(field: impl Into<String>, most: usize) -> Self {
        Self { field: field.into(), kind: Kind::Depth, most }
    }

    /// Returns that what is sent is not what its field says.
    pub fn form(field: impl Into<String>) -> Self {
        Self { field: field.into(), kind: Kind::Form, most: 0 }
    }

    /// Returns the word by which metrics count it.
    pub fn reason(&self) -> &'static str {
        match self.kind {
            Kind::Size => "size",
            Kind::Names => "names",
            Kind::Entries => "entries",
            Kind::Length => "length",
            Kind::Depth => "depth",
            Kind::Form => "form",
        }
    }

    // Too much of what is right may be another time's; what is wrong in itself is the caller's.
    fn code(&self) -> Code {
        match self.kind {
            Kind::Size | Kind::Names | Kind::Entries => Code::ResourceExhausted,
            Kind::Length | Kind::Depth | Kind::Form => Code::InvalidArgument,
        }
    }
}

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { field, kind, most } = self;
        match kind {
            Kind::Size => write!(f, "{field}: may have at most {most} bytes"),
            Kind::Names => write!(f, "{field}: at most {most} names of a type are served on a stream"),
            Kind::Entries => write!(f, "{field}: at most {most} entries are read"),
            Kind::Length => write!(f, "{field}: may have at most {most} bytes"),
            Kind::Depth => write!(f, "{field}: may be nested to at most {most} levels"),
            Kind::Form => write!(f, "{field}: is not encoded as its type says"),
        }
    }
}

impl std::error::Error for Excess {}

impl From<Excess> for Status {
    fn from(excess: Excess) -> Self {
        Self::new(excess.code(), excess.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn field_and_bound_are_named() {
        let status = Status::from(Excess::names("resource_names", 10_003));
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(status.message(), "resource_names: at most 10003 names of a type are served on a stream");
        assert_eq!(Status::from(Excess::length("node.id", 2048)).code(), Code::InvalidArgument);
    }
}

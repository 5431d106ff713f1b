//! Findings about what users wrote. A user's mistake is data and not an `Err` (rule 13).

use std::{fmt, sync::Arc};

use super::ObjectKey;
use crate::peer_text::PeerText;

/// How serious a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// The object is not applied, and its last good version (or what it closes) stays in effect; or a part of it is not supported, and
    /// is closed while the rest is applied.
    Error,
    /// The object is applied in spite of it.
    Warning,
}

/// The file and the document in it that an object was read from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Location {
    /// The path of the file as the user named it, or relative to the watched folder.
    pub file: Arc<str>,
    /// The number of the `---` document in the file, counted from 1; 0 for the file as a whole.
    pub document: usize,
}

/// One finding about one object, or about a file whose objects cannot be named.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Diagnostic {
    /// How serious the finding is.
    pub severity: Severity,
    /// The object, if its name could be read.
    pub object: Option<ObjectKey>,
    /// Where the object was read, if it came from a file.
    pub location: Option<Location>,
    /// The path of the field, such as `spec.http[0].route[1].weight`; empty for the object as a whole.
    pub field: String,
    /// What is wrong, and what to do about it if that is not obvious.
    pub message: String,
}

impl Diagnostic {
    /// Makes a finding that keeps the object, or a part of it, from being applied.
    pub fn error(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Error, object: None, location: None, field: field.into(), message: message.into() }
    }

    /// Makes a finding with which the object is still applied.
    pub fn warning(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(field, message) }
    }

    /// Sets the object that the finding is about.
    pub fn of(mut self, object: &ObjectKey) -> Self {
        self.object = Some(object.clone());
        self
    }

    /// Sets where the object was read.
    pub fn at(mut self, location: &Location) -> Self {
        self.location = Some(location.clone());
        self
    }

    /// Formats the finding without its severity, on one line: `VirtualService/shop/reviews spec.http[0].timeout: …`.
    pub fn without_severity(&self) -> impl fmt::Display {
        fmt::from_fn(|f| {
            let location = self.location.as_ref().map(|Location { file, document }| match document {
                0 => format!("({})", PeerText::new(file)),
                document => format!("({}, document {document})", PeerText::new(file)),
            });
            let field = Some(PeerText::new(&self.field).to_string()).filter(|field| !field.is_empty());
            let places: Vec<String> = [self.object.as_ref().map(ToString::to_string), location, field].into_iter().flatten().collect();
            if !places.is_empty() {
                write!(f, "{}: ", places.join(" "))?;
            }
            f.write_str(&PeerText::new(&self.message))
        })
    }
}

/// `error: VirtualService/shop/reviews (canary.yaml, document 2) spec.http[0].timeout: …`
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, "{severity}: {}", self.without_severity())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Kind;

    #[test]
    fn findings_name_their_severity_and_all_that_is_known_of_their_place() {
        let bare = Diagnostic::error("", "is broken");
        assert_eq!(bare.to_string(), "error: is broken");
        let key = ObjectKey { cluster: "c".into(), kind: Kind::VirtualService, namespace: "shop".into(), name: "a".into() };
        let full = Diagnostic::warning("spec.hosts", "is odd").of(&key).at(&Location { file: "a.yaml".into(), document: 2 });
        assert_eq!(full.to_string(), "warning: VirtualService/shop/a (a.yaml, document 2) spec.hosts: is odd");
        assert_eq!(full.without_severity().to_string(), "VirtualService/shop/a (a.yaml, document 2) spec.hosts: is odd");
        assert_eq!(bare.at(&Location { file: "a.yaml".into(), document: 0 }).without_severity().to_string(), "(a.yaml): is broken");
    }
}

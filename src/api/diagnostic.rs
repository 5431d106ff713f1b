//! What is wrong, or doubtful, in what a user wrote. User mistakes are data, not `Err` (rule 13).

use std::{fmt, sync::Arc};

use super::ObjectKey;

/// Whether the object is applied all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// The object is not applied; what was good before keeps being served.
    Error,
    /// The object is applied, with this note.
    Warning,
}

/// Where a document was read: file and position of the document in it, from 1.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Location {
    /// Path of the file as the user named it (below the watched folder: relative to it).
    pub file: Arc<str>,
    /// Which `---` document of the file, counted from 1; 0 for the file as a whole.
    pub document: usize,
}

/// One finding about one object (or about a file that holds none that can be named).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Diagnostic {
    /// Error: refused; warning: applied with a note.
    pub severity: Severity,
    /// The object, when the input got far enough to have a name.
    pub object: Option<ObjectKey>,
    /// Where it was read, when it came from a file.
    pub location: Option<Location>,
    /// The field, as `spec.http[0].route[1].weight`; empty for the object as a whole.
    pub field: String,
    /// What is wrong, and what to do about it when that is not plain.
    pub message: String,
}

impl Diagnostic {
    /// A finding that keeps the object from being applied.
    pub fn error(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Error, object: None, location: None, field: field.into(), message: message.into() }
    }

    /// A finding with which the object is applied all the same.
    pub fn warning(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(field, message) }
    }

    /// Says which object the finding is about.
    pub fn of(mut self, object: &ObjectKey) -> Self {
        self.object = Some(object.clone());
        self
    }

    /// Says where the object was read.
    pub fn at(mut self, location: &Location) -> Self {
        self.location = Some(location.clone());
        self
    }
}

// `error: VirtualService/shop/reviews (canary.yaml, document 2) spec.http[0].timeout: …`
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.severity {
            Severity::Error => "error:",
            Severity::Warning => "warning:",
        })?;
        if let Some(object) = &self.object {
            write!(f, " {object}")?;
        }
        match &self.location {
            Some(Location { file, document: 0 }) => write!(f, " ({file})")?,
            Some(Location { file, document }) => write!(f, " ({file}, document {document})")?,
            None => {}
        }
        if !self.field.is_empty() {
            write!(f, " {}", self.field)?;
        }
        let bare = self.object.is_none() && self.location.is_none() && self.field.is_empty();
        write!(f, "{} {}", if bare { "" } else { ":" }, self.message)
    }
}

//! Findings about what users wrote. A user's mistake is data and not an `Err` (rule 13).

use std::{fmt, sync::Arc};

use super::ObjectKey;

/// How serious a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// The object is not applied, and its last good version stays in effect.
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
    /// Makes a finding that keeps the object from being applied.
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

//! Collects the findings about one document, each with the path of its field.

use std::{
    cell::{Cell, RefCell},
    fmt,
};

use super::{Diagnostic, Severity};

/// The most findings that are kept of one document.
const MOST: usize = 50;

/// The most memory that the lists of one object may take, in bytes. `{}` has three bytes as text, and as a route more than 500.
const MOST_OF_LISTS: usize = 20 << 20;

/// The place of a value in a document, as a chain on the stack that costs nothing until there is a finding.
#[derive(Clone, Copy)]
pub(super) enum Path<'p> {
    /// The document itself.
    Root,
    /// A field of the value at the parent path.
    Field(&'p Path<'p>, &'p str),
    /// An element of a list.
    Index(&'p Path<'p>, usize),
    /// An entry of a map whose keys are chosen by the user.
    Key(&'p Path<'p>, &'p str),
}

/// The findings about one document.
#[derive(Default)]
pub(super) struct Findings {
    kept: RefCell<Vec<Diagnostic>>,
    left_out: RefCell<usize>,
    in_lists: Cell<usize>,
}

impl<'p> Path<'p> {
    pub(super) fn field(&'p self, name: &'p str) -> Path<'p> {
        Path::Field(self, name)
    }

    pub(super) fn index(&'p self, index: usize) -> Path<'p> {
        Path::Index(self, index)
    }

    pub(super) fn key(&'p self, key: &'p str) -> Path<'p> {
        Path::Key(self, key)
    }
}

// `spec.http[0].headers["x-user"]`
impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Field(Path::Root, name) => f.write_str(name),
            Path::Field(parent, name) => write!(f, "{parent}.{name}"),
            Path::Index(parent, index) => write!(f, "{parent}[{index}]"),
            Path::Key(parent, key) => write!(f, "{parent}[{key:?}]"),
        }
    }
}

impl Findings {
    /// Adds a finding that keeps the object from being applied.
    pub(super) fn error(&self, at: &Path<'_>, message: impl Into<String>) {
        self.keep(Severity::Error, at, message.into());
    }

    /// Adds a finding with which the object is still applied.
    pub(super) fn warning(&self, at: &Path<'_>, message: impl Into<String>) {
        self.keep(Severity::Warning, at, message.into());
    }

    /// Adds an error unless a list of so many elements `T` fits into what the lists of an object may take.
    pub(super) fn admit_list<T>(&self, at: &Path<'_>, length: usize) -> bool {
        let taken = self.in_lists.get().saturating_add(length.saturating_mul(size_of::<T>()));
        self.in_lists.set(taken);
        let fits = taken <= MOST_OF_LISTS;
        if !fits {
            let most = MOST_OF_LISTS >> 20;
            self.error(
                at,
                format!("is too long with {length} elements: the lists of an object may take {most} MB of memory; divide the object"),
            );
        }
        fits
    }

    /// Returns whether there is an error.
    pub(super) fn refuse(&self) -> bool {
        self.kept.borrow().iter().any(|finding| finding.severity == Severity::Error)
    }

    /// Returns all findings in the order in which they were added. A last one says how many more there were.
    pub(super) fn into_vec(self) -> Vec<Diagnostic> {
        let mut kept = self.kept.into_inner();
        let left_out = self.left_out.into_inner();
        if left_out > 0 {
            kept.push(Diagnostic::warning("", format!("{left_out} more findings are not listed")));
        }
        kept
    }

    // The first error is kept even behind many warnings, as it decides whether the object is applied.
    fn keep(&self, severity: Severity, at: &Path<'_>, message: String) {
        if self.kept.borrow().len() >= MOST && (severity == Severity::Warning || self.refuse()) {
            *self.left_out.borrow_mut() += 1;
            return;
        }
        self.kept.borrow_mut().push(Diagnostic { severity, object: None, location: None, field: at.to_string(), message });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_read_as_users_write_them() {
        let (spec, root) = (Path::Root.field("spec"), Path::Root);
        assert_eq!(root.to_string(), "");
        assert_eq!(spec.to_string(), "spec");
        let headers = spec.field("http");
        let headers = headers.index(0);
        let headers = headers.field("headers");
        assert_eq!(headers.key("x-user").to_string(), r#"spec.http[0].headers["x-user"]"#);
    }

    #[test]
    fn an_error_counts_however_many_warnings_came_first() {
        let findings = Findings::default();
        for _ in 0..200 {
            findings.warning(&Path::Root, "small");
        }
        assert!(!findings.refuse());
        findings.error(&Path::Root, "grave");
        assert!(findings.refuse());
        let all = findings.into_vec();
        assert_eq!(all.len(), MOST + 2);
        assert_eq!(all.last().map(|finding| finding.message.as_str()), Some("150 more findings are not listed"));
    }
}

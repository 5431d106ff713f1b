//! Reads one file as objects.

use std::{ffi::OsStr, fs, io, io::Read, path::Path, sync::Arc};

use serde_json::Value;
use smol_str::SmolStr;

use crate::{
    api::{
        Diagnostic, Location, Object, Parsed, Refused, Severity, parse, parse_mesh_config,
        yaml::{self, Broken},
    },
    system_error::explain,
};

/// The most findings that are listed of one file; the others are counted.
const MOST_FINDINGS: usize = 1_000;

/// What a file holds.
#[derive(Default)]
pub(super) struct FileContent {
    /// The valid objects, each with its document.
    pub(super) objects: Vec<(Location, Arc<Object>)>,
    /// The refused objects whose name could be read, each with its document.
    pub(super) refused: Vec<(Location, Refused)>,
    /// The findings, each with its document.
    pub(super) diagnostics: Vec<Diagnostic>,
    /// Whether a document, or the whole file, could not be read at all.
    pub(super) broken: bool,
}

/// Makes the content of a file that cannot be read, for the reason given.
pub(super) fn unreadable(path: &Arc<str>, why: impl Into<String>) -> FileContent {
    let whole = Location { file: Arc::clone(path), document: 0 };
    FileContent { diagnostics: vec![Diagnostic::error("", why).at(&whole)], broken: true, ..FileContent::default() }
}

/// Reads all documents in the text of a file.
pub(super) fn read_text(path: &Arc<str>, text: &str, cluster: &SmolStr) -> FileContent {
    let mut content = FileContent::default();
    let file = Path::new(path.as_ref());
    let plain_mesh_config = file.file_stem().is_some_and(|stem| ["mesh", "mesh-config", "meshconfig"].iter().any(|name| stem == *name));
    let mut left_out = LeftOut::default();
    for (number, document) in documents(file, text).enumerate() {
        let location = Location { file: Arc::clone(path), document: number + 1 };
        let parsed = match document {
            Ok(value) if plain_mesh_config && is_plain(&value) => parse_mesh_config(&value, cluster),
            Ok(value) => parse(&value, cluster),
            Err(broken) => {
                content.broken = true;
                Parsed { diagnostics: vec![Diagnostic::error("", broken.to_string())], ..Parsed::default() }
            }
        };
        content.add(parsed, &location, &mut left_out);
    }
    content.diagnostics.extend(left_out.finding(path));
    content
}

/// Reads the text of a file. The error says why it cannot be read, as the end of a sentence about the file.
pub(super) fn read_file(path: &Path, size_limit: u64) -> Result<String, String> {
    let read = || -> io::Result<Result<Vec<u8>, u64>> {
        // Reading a pipe would block, and reading a device might never end.
        let metadata = fs::metadata(path)?;
        if !metadata.is_file() {
            return Err(io::Error::other("is not a regular file"));
        }
        if metadata.len() > size_limit {
            return Ok(Err(metadata.len()));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or_default());
        fs::File::open(path)?.take(size_limit + 1).read_to_end(&mut bytes)?;
        let size = bytes.len() as u64;
        Ok(if size > size_limit { Err(size) } else { Ok(bytes) })
    };
    match read() {
        Ok(Ok(bytes)) => {
            String::from_utf8(bytes).map_err(|error| format!("is not UTF-8 text at byte {}", error.utf8_error().valid_up_to()))
        }
        Ok(Err(size)) => Err(format!("has {size} bytes, more than the {size_limit} that are read")),
        Err(error) => Err(format!("cannot be read: {}", explain(&error))),
    }
}

/// Returns the documents, each of which is read when the iterator comes to it.
fn documents(file: &Path, text: &str) -> impl Iterator<Item = Result<Value, Broken>> {
    let json = file.extension() == Some(OsStr::new("json")) && !text.trim().is_empty();
    let whole = json.then(|| yaml::json_document(text));
    let documents = (!json).then(|| yaml::each_document(text).map(yaml::document));
    whole.into_iter().chain(documents.into_iter().flatten())
}

fn is_plain(value: &Value) -> bool {
    value.is_object() && value.get("apiVersion").is_none() && value.get("kind").is_none()
}

impl FileContent {
    /// Returns whether the file holds neither an object nor a finding.
    pub(super) fn is_empty(&self) -> bool {
        self.objects.is_empty() && self.diagnostics.is_empty()
    }

    fn add(&mut self, parsed: Parsed, location: &Location, left_out: &mut LeftOut) {
        self.objects.extend(parsed.objects.into_iter().map(|object| (location.clone(), object)));
        self.refused.extend(parsed.refused.into_iter().map(|refused| (location.clone(), refused)));
        for finding in parsed.diagnostics {
            if self.diagnostics.len() < MOST_FINDINGS {
                self.diagnostics.push(finding.at(location));
            } else {
                left_out.count(&finding);
            }
        }
    }
}

/// The findings that are not listed.
#[derive(Default)]
struct LeftOut {
    findings: usize,
    errors: usize,
}

impl LeftOut {
    fn count(&mut self, finding: &Diagnostic) {
        self.findings += 1;
        self.errors += usize::from(finding.severity == Severity::Error);
    }

    /// Says how many there are, as seriously as the most serious of them.
    fn finding(self, path: &Arc<str>) -> Option<Diagnostic> {
        let message = format!("{} more findings are not listed, of which {} are errors", self.findings, self.errors);
        let finding = if self.errors > 0 { Diagnostic::error("", message) } else { Diagnostic::warning("", message) };
        (self.findings > 0).then(|| finding.at(&Location { file: Arc::clone(path), document: 0 }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_name_the_document() {
        let path = Arc::from("dir/f.yaml");
        let content = read_text(&path, "---\n# nothing\n---\napiVersion: v1\nkind: Service\nmetadata: {}\n---\na: {b\n", &"c".into());
        let said: Vec<_> = content.diagnostics.iter().map(ToString::to_string).collect();
        assert_eq!(said[0], "error: (dir/f.yaml, document 2) metadata.name: is missing");
        assert!(said[1].starts_with("error: (dir/f.yaml, document 3): ") && said[1].contains("line 8"), "{}", said[1]);
        assert!(content.broken);
    }

    #[test]
    fn a_file_named_mesh_holds_plain_mesh_config() {
        let content = read_text(&Arc::from("mesh.yaml"), "trustDomain: example.org\n", &"c".into());
        assert_eq!(content.objects[0].1.key.to_string(), "MeshConfig/istio");
        let other = read_text(&Arc::from("other.yaml"), "trustDomain: example.org\n", &"c".into());
        assert_eq!(other.diagnostics.len(), 1);
    }

    #[test]
    fn bad_documents_without_end_have_a_bounded_number_of_findings() {
        let good = "apiVersion: v1\nkind: Namespace\nmetadata: {name: last}\n";
        let content = read_text(&Arc::from("f.yaml"), &("a: 1\n---\n".repeat(5_000) + good), &"c".into());
        assert_eq!((content.diagnostics.len(), content.objects.len()), (1_001, 1));
        let last = content.diagnostics.last().unwrap().to_string();
        assert_eq!(last, "error: (f.yaml): 4000 more findings are not listed, of which 4000 are errors");
    }

    #[test]
    fn json_names_its_line() {
        let content = read_text(&Arc::from("a.json"), "{\n\t\"kind\": }", &"c".into());
        assert_eq!(content.diagnostics[0].to_string(), "error: (a.json, document 1): expected value at line 2 column 10");
    }
}

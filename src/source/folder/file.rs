//! One file's text as objects.

use std::{ffi::OsStr, path::Path, sync::Arc};

use serde_json::Value;
use smol_str::SmolStr;

use crate::api::{
    Diagnostic, Location, Object, ObjectKey, Parsed, parse, parse_mesh_config,
    yaml::{self, Broken},
};

/// What a file says.
#[derive(Default)]
pub(super) struct FileContent {
    /// Its good objects, each with its document.
    pub(super) objects: Vec<(Location, Arc<Object>)>,
    /// Objects that have a name and were refused.
    pub(super) refused: Vec<ObjectKey>,
    /// Findings, each with its document.
    pub(super) diagnostics: Vec<Diagnostic>,
    /// A document (or the whole file) could not be read at all.
    pub(super) broken: bool,
}

/// A file that could not be read, and why.
pub(super) fn unreadable(path: &Arc<str>, why: impl Into<String>) -> FileContent {
    let whole = Location { file: Arc::clone(path), document: 0 };
    FileContent { diagnostics: vec![Diagnostic::error("", why).at(&whole)], broken: true, ..FileContent::default() }
}

/// Reads all documents of a file's text.
pub(super) fn read_text(path: &Arc<str>, text: &str, cluster: &SmolStr) -> FileContent {
    let mut content = FileContent::default();
    let file = Path::new(path.as_ref());
    let plain_mesh_config = file.file_stem().is_some_and(|stem| ["mesh", "mesh-config", "meshconfig"].iter().any(|name| stem == *name));
    for (number, document) in documents(file, text).into_iter().enumerate() {
        let location = Location { file: Arc::clone(path), document: number + 1 };
        match document {
            Ok(value) if plain_mesh_config && is_plain(&value) => content.add(parse_mesh_config(&value, cluster), &location),
            Ok(value) => content.add(parse(&value, cluster), &location),
            Err(broken) => {
                content.broken = true;
                content.diagnostics.push(Diagnostic::error("", broken.to_string()).at(&location));
            }
        }
    }
    content
}

fn documents(file: &Path, text: &str) -> Vec<Result<Value, Broken>> {
    if file.extension() == Some(OsStr::new("json")) && !text.trim().is_empty() {
        return vec![yaml::json_document(text)];
    }
    yaml::documents(text).into_iter().map(yaml::document).collect()
}

fn is_plain(value: &Value) -> bool {
    value.is_object() && value.get("apiVersion").is_none() && value.get("kind").is_none()
}

impl FileContent {
    /// Neither an object nor a finding.
    pub(super) fn says_nothing(&self) -> bool {
        self.objects.is_empty() && self.diagnostics.is_empty()
    }

    fn add(&mut self, parsed: Parsed, location: &Location) {
        self.objects.extend(parsed.objects.into_iter().map(|object| (location.clone(), object)));
        self.refused.extend(parsed.refused);
        self.diagnostics.extend(parsed.diagnostics.into_iter().map(|finding| finding.at(location)));
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
    fn json_names_its_line() {
        let content = read_text(&Arc::from("a.json"), "{\n\t\"kind\": }", &"c".into());
        assert_eq!(content.diagnostics[0].to_string(), "error: (a.json, document 1): expected value at line 2 column 10");
    }
}

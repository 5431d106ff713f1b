//! What the documents name exists: files and folders of this project, and the tests that run what a document shows.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Where a path begins that is meant from the project's root.
const FOLDERS: &[&str] = &["src", "tests", "docs", "benches", "certs", "examples", "manifests", "proto", "scripts", ".ci"];

/// How names of metrics begin.
const METRICS: &[&str] = &[
    "pilot_",
    "istiod_",
    "istio_",
    "citadel_",
    "galley_",
    "auto_",
    "process_",
    "controller_",
    "webhook_",
    "sidecar_",
    "provider_",
    "remote_cluster_",
];

#[test]
fn the_documents_name_what_exists() {
    let project = Project::read().unwrap();
    let mut wrong = Vec::new();
    for document in project.documents().unwrap() {
        let text = fs::read_to_string(&document).unwrap();
        let folder = document.parent().unwrap();
        wrong.extend(project.missing(&text, folder).iter().map(|missing| format!("{}: {missing}", document.display())));
    }
    assert!(wrong.is_empty(), "documents name what does not exist:\n  {}", wrong.join("\n  "));
}

/// Checks that the test above can fail.
#[test]
fn what_does_not_exist_is_found() {
    let project = Project::read().unwrap();
    let missing = project.missing(
        "`src/main.rs` `api/` `src/mesh/{world,nothing}.rs` `docs/none.md` `src/api/<kind>.rs` `src/none/<kind>.rs` `/debug/none` \
         ![a picture](docs/none.svg) [there](docs/architecture.md) `a_test_that_nobody_wrote` `the_documents_name_what_exists` \
         `gone.rs` `cargo test --test none`\n```\nls src/elsewhere\n```\n",
        &project.root,
    );
    let expected = ["src/mesh/nothing.rs", "docs/none.md", "src/none/", "gone.rs", "docs/none.svg", "a_test_that_nobody_wrote"];
    assert_eq!(missing, expected);
}

struct Project {
    root: PathBuf,
    /// All Rust code, tests included.
    code: String,
}

impl Project {
    fn read() -> io::Result<Self> {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let mut code = String::new();
        let mut folders = ["src", "tests", "examples"].map(|folder| root.join(folder)).to_vec();
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder)? {
                let path = entry?.path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    code.push_str(&fs::read_to_string(path)?);
                }
            }
        }
        Ok(Self { root, code })
    }

    fn documents(&self) -> io::Result<Vec<PathBuf>> {
        let mut documents = ["README.md", "CONTRIBUTING.md", "certs/README.md"].map(|name| self.root.join(name)).to_vec();
        for entry in fs::read_dir(self.root.join("docs"))? {
            documents.push(entry?.path());
        }
        documents.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
        documents.sort();
        Ok(documents)
    }

    /// Returns what a document in `folder` names and the project lacks. Links are relative to that folder.
    fn missing(&self, document: &str, folder: &Path) -> Vec<String> {
        let text = document.split("```").step_by(2).collect::<String>();
        let words = text.split('`').skip(1).step_by(2).flat_map(str::split_whitespace);
        let paths = words.clone().filter(|word| self.is_path(word)).flat_map(alternatives);
        let mut missing = paths.map(|path| known_part(&path)).filter(|path| !self.has(path)).collect::<Vec<_>>();
        let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        let links = links.filter(|target| !target.starts_with('#') && !target.contains("://"));
        missing.extend(links.filter(|target| !folder.join(target).exists()).map(str::to_owned));
        missing.extend(words.filter(|word| is_test(word) && !self.code.contains(&format!("fn {word}("))).map(str::to_owned));
        missing
    }

    fn is_path(&self, word: &str) -> bool {
        let first = word.split('/').next().unwrap_or(word);
        let folder = word.contains('/') && (FOLDERS.contains(&first) || self.is_room(first));
        folder || word.ends_with(".rs") || word.ends_with(".md")
    }

    fn is_room(&self, name: &str) -> bool {
        !matches!(name, "" | ".") && self.root.join("src").join(name).is_dir()
    }

    /// Returns whether there is such a path, from the project's root, or from `src/` as the map of the rooms writes it.
    fn has(&self, path: &str) -> bool {
        let from = |folder: &Path| folder.join(path).exists();
        from(&self.root) || from(&self.root.join("src"))
    }
}

/// Returns what a path stands for: `a/{b,c}.rs` for `a/b.rs` and `a/c.rs`.
fn alternatives(path: &str) -> Vec<String> {
    let Some((before, (inner, after))) = path.split_once('{').and_then(|(before, rest)| Some((before, rest.split_once('}')?))) else {
        return vec![path.to_owned()];
    };
    inner.split(',').flat_map(|part| alternatives(&format!("{before}{}{after}", part.trim()))).collect()
}

/// Returns the folders of a path before the part that a reader is to fill in: `src/mesh/` of `src/mesh/<noun>.rs`.
fn known_part(path: &str) -> String {
    match path.find(['<', '*']) {
        Some(at) => path[..path[..at].rfind('/').map_or(0, |slash| slash + 1)].to_owned(),
        None => path.to_owned(),
    }
}

/// Returns whether a name looks like that of a test. Names of tests are sentences; shorter names may be anything. Names
/// of metrics are held by `tests/clients`.
fn is_test(word: &str) -> bool {
    let letters = word.chars().all(|character| character.is_ascii_lowercase() || character == '_');
    let metric = METRICS.iter().any(|prefix| word.starts_with(prefix));
    letters && !metric && word.split('_').filter(|part| !part.is_empty()).count() >= 4
}

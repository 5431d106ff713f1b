//! The sources as the other tests look at them: by path, without comments, and without what is compiled for tests alone.

use std::{collections::BTreeMap, fs, io, path::Path};

use super::paths::{children, module_of};

/// Code by its path under `src/`, such as `mesh/world.rs`.
pub(crate) type Sources = BTreeMap<String, String>;

pub(crate) fn of_this_project() -> io::Result<Sources> {
    Ok(without_tests(with_comments()?))
}

/// Reads the sources as they are written.
pub(crate) fn with_comments() -> io::Result<Sources> {
    let sources = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"))?;
    assert!(sources.len() > 200, "only {} sources found", sources.len());
    Ok(sources)
}

/// Returns sources made for a test of a test: path and text.
pub(crate) fn made(files: &[(&str, &str)]) -> Sources {
    without_tests(files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect())
}

fn read(root: &Path) -> io::Result<Sources> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
                found.insert(name, fs::read_to_string(&path)?);
            }
        }
    }
    Ok(found)
}

/// Drops comments, items under `#[cfg(test)]`, and the files of modules that are declared under it.
fn without_tests(sources: Sources) -> Sources {
    let mut for_tests = Vec::new();
    let mut kept = BTreeMap::new();
    for (path, text) in sources {
        let (code, dropped) = split_off_tests(&text);
        for_tests.extend(children(&dropped).map(|child| format!("{}::{child}", module_of(&path))));
        kept.insert(path, code);
    }
    let is_for_tests = |module: &str| for_tests.iter().any(|test| is_within(module, test));
    kept.retain(|path, _| !is_for_tests(&module_of(path)));
    kept
}

/// Returns whether `path` is `parent` or something in it.
pub(crate) fn is_within(path: &str, parent: &str) -> bool {
    path.strip_prefix(parent).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// Returns the code of a source, and its items under `#[cfg(test)]`. The sources are formatted: an item that opens a brace
/// ends with the first line that closes one at the item's own indentation.
fn split_off_tests(text: &str) -> (String, String) {
    let (mut code, mut tests) = (String::new(), String::new());
    let mut lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    while let Some(line) = lines.next() {
        if line.trim() != "#[cfg(test)]" {
            code.extend([line, "\n"]);
            continue;
        }
        let indentation = &line[..line.len() - line.trim_start().len()];
        let closes = format!("{indentation}}}");
        let mut open = false;
        for line in lines.by_ref() {
            tests.extend([line, "\n"]);
            open |= line.ends_with('{');
            if (open && line.starts_with(&closes)) || (!open && line.ends_with([';', ','])) {
                break;
            }
        }
    }
    (code, tests)
}

#[test]
fn what_is_for_tests_alone_is_not_read() {
    let text =
        "use a::b;\n#[cfg(test)]\nmod model;\nfn f() {}\n\n#[cfg(test)]\npub(crate) mod tests {\n    fn g() {\n    }\n}\nfn h() {}\n";
    let sources = made(&[("xds/mod.rs", text), ("xds/model.rs", "fn m() {}"), ("xds/model/inner.rs", ""), ("xds/other.rs", "")]);
    assert_eq!(sources.keys().collect::<Vec<_>>(), ["xds/mod.rs", "xds/other.rs"]);
    assert_eq!(sources["xds/mod.rs"], "use a::b;\nfn f() {}\n\nfn h() {}\n");
}

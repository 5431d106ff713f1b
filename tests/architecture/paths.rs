//! The paths that a source names: those of its `use` declarations, unfolded, and those written out in its code.

/// One name that a `use` declaration brings in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Import {
    pub(crate) path: String,
    /// What the source calls it.
    pub(crate) name: String,
    /// Whether the declaration is public to anyone, so that it may be there for others alone.
    pub(crate) handed_on: bool,
}

/// All that a source names. Paths within the crate begin with `crate::`.
#[derive(Debug, Default)]
pub(crate) struct Named {
    pub(crate) imports: Vec<Import>,
    pub(crate) written_out: Vec<String>,
    /// The code without its `use` declarations.
    pub(crate) code: String,
}

impl Named {
    pub(crate) fn of(file: &str, text: &str) -> Self {
        let children = children(text).collect::<Vec<_>>();
        let mut named = Self::default();
        let mut rest = text;
        while let Some((before, handed_on, declaration, after)) = next_use(rest) {
            named.code.push_str(before);
            let mut leaves = Vec::new();
            unfold("", declaration, &mut leaves);
            let import = |(path, name)| Import { path: absolute(path, file, &children), name, handed_on };
            named.imports.extend(leaves.into_iter().map(import));
            rest = after;
        }
        named.code.push_str(rest);
        named.written_out = written_out(&named.code).map(|path| absolute(path, file, &children)).collect();
        named
    }

    pub(crate) fn paths(&self) -> impl Iterator<Item = &str> {
        self.imports.iter().map(|import| &import.path).chain(&self.written_out).map(String::as_str)
    }

    /// Returns whether the code outside its `use` declarations says the word.
    pub(crate) fn says(&self, word: &str) -> bool {
        self.code.split(|character: char| !character.is_alphanumeric() && character != '_').any(|said| said == word)
    }
}

/// Returns the module that a file is: `mesh/scope/mod.rs` is `crate::mesh::scope`.
pub(crate) fn module_of(file: &str) -> String {
    let module = file.trim_end_matches(".rs");
    let module = module.strip_suffix("/mod").unwrap_or(module);
    if module == "lib" { "crate".to_owned() } else { format!("crate::{}", module.replace('/', "::")) }
}

/// Returns the modules that a source declares as files of their own: `mod name;`.
pub(crate) fn children(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| without_visibility(line.trim()).strip_prefix("mod ")?.strip_suffix(';'))
}

fn without_visibility(item: &str) -> &str {
    let Some(rest) = item.strip_prefix("pub") else { return item };
    let rest = rest.strip_prefix('(').and_then(|inner| inner.split_once(')')).map_or(rest, |(_, after)| after);
    rest.trim_start()
}

/// Returns the next `use` declaration: the text before it, whether it is public, its tree, and the text after it.
fn next_use(text: &str) -> Option<(&str, bool, &str, &str)> {
    for (at, _) in text.match_indices("use ") {
        let line = text[..at].rfind(['\n', ';', '{', '}', ']']).map_or(0, |end| end + 1);
        let before = text[line..at].trim();
        if without_visibility(before).is_empty() {
            let declaration = &text[at + "use ".len()..];
            let end = declaration.find(';').unwrap_or(declaration.len());
            return Some((&text[..line], !before.is_empty(), &declaration[..end], &declaration[end..]));
        }
    }
    None
}

/// Collects path and name of each leaf: `a::{b, c::{d as e}}` becomes `a::b` as `b` and `a::c::d` as `e`.
fn unfold(prefix: &str, tree: &str, leaves: &mut Vec<(String, String)>) {
    let tree = tree.trim();
    let Some((head, inner)) = tree.split_once('{') else {
        if tree.is_empty() {
            return;
        }
        let (path, name) = tree.split_once(" as ").map_or((tree, None), |(path, name)| (path.trim(), Some(name.trim())));
        let path = format!("{prefix}{path}");
        let path = path.strip_suffix("::self").unwrap_or(&path);
        let name = name.unwrap_or(path.rsplit("::").next().unwrap_or(path));
        leaves.push((path.to_owned(), name.to_owned()));
        return;
    };
    let prefix = format!("{prefix}{}", head.trim());
    let inner = inner.strip_suffix('}').unwrap_or(inner);
    let (mut depth, mut start) = (0, 0);
    for (at, character) in inner.char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                unfold(&prefix, &inner[start..at], leaves);
                start = at + 1;
            }
            _ => {}
        }
    }
    unfold(&prefix, &inner[start..], leaves);
}

/// Returns paths such as `std::time::Instant::now` in the code itself. What `pub(in …)` names is not used.
fn written_out(code: &str) -> impl Iterator<Item = String> {
    let is_part = |character: char| character.is_alphanumeric() || character == '_' || character == ':';
    let words = code.split("pub(in ").enumerate().map(|(at, text)| match text.split_once(')') {
        Some((_, after)) if at > 0 => after,
        _ => text,
    });
    let words = words.flat_map(move |text| text.split(move |character: char| !is_part(character)));
    words.filter(|word| word.contains("::")).map(|word| word.trim_matches(':').to_owned())
}

/// Resolves `super::`, `self::` and a child's name against the file's place.
fn absolute(path: String, file: &str, children: &[&str]) -> String {
    let mut module = module_of(file);
    let first = path.split("::").next().unwrap_or(&path);
    if let Some(after) = path.strip_prefix("self::") {
        return format!("{module}::{after}");
    }
    if children.contains(&first) {
        return format!("{module}::{path}");
    }
    let mut rest = path.as_str();
    while let Some(after) = rest.strip_prefix("super").filter(|after| after.is_empty() || after.starts_with("::")) {
        module.truncate(module.rfind("::").unwrap_or(module.len()));
        rest = after.trim_start_matches("::");
    }
    match rest {
        "" => module,
        _ if rest.len() == path.len() => path,
        _ => format!("{module}::{rest}"),
    }
}

#[test]
fn a_source_names_what_it_imports_and_what_it_writes_out() {
    let text = "use std::{io, time::{Duration as D, Instant}};\npub(super) use child::Made;\nmod child;\nuse super::{self, beside};\n\
        pub(in crate::nowhere) fn f() { use self::own::A; super::super::up(); child::make(); \"no use of it;\" }";
    let named = Named::of("mesh/scope/mod.rs", text);
    let imports = named.imports.iter().map(|import| (import.path.as_str(), import.name.as_str(), import.handed_on));
    let expected = [
        ("std::io", "io", false),
        ("std::time::Duration", "D", false),
        ("std::time::Instant", "Instant", false),
        ("crate::mesh::scope::child::Made", "Made", true),
        ("crate::mesh", "super", false),
        ("crate::mesh::beside", "beside", false),
        ("crate::mesh::scope::own::A", "A", false),
    ];
    assert_eq!(imports.collect::<Vec<_>>(), expected);
    assert_eq!(named.written_out, ["crate::up", "crate::mesh::scope::child::make"]);
    assert!(named.says("child") && !named.says("Made") && !named.says("Duration"));
}

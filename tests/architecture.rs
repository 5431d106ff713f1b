//! Holds the walls between the rooms of `src/`: which room may use which, and what the pure rooms must not know.
//! It reads the sources as text, so that a wall stands even where the compiler sees none.

use std::{collections::BTreeMap, fs, io, path::Path};

/// Which rooms each room may use (`docs/architecture.md`). A room always may use itself. `cli` may use all.
const MAY_USE: &[(&str, &[&str])] = &[
    ("api", &[]),
    ("proto", &[]),
    ("source", &["api", "mesh"]),
    ("mesh", &["api"]),
    ("translate", &["api", "mesh", "proto"]),
    ("xds", &["api", "mesh", "translate", "proto"]),
    ("identity", &["api", "mesh", "proto"]),
    ("webhook", &["api", "mesh", "identity"]),
    ("controllers", &["api", "mesh", "identity"]),
    ("agent", &["identity", "proto"]),
    ("status", &["api", "mesh", "xds"]),
    ("serve", &["api", "source", "mesh", "translate", "xds", "identity", "webhook", "controllers", "status", "proto"]),
];

/// What rooms without a clock, socket, file, thread or environment must not name.
const PURE_ROOMS: &[&str] = &["mesh", "translate"];
const IMPURE: &[&str] = &[
    "tokio",
    "futures",
    "notify",
    "hyper",
    "tonic",
    "nix",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::UdpSocket",
    "std::net::ToSocketAddrs",
    "std::os",
    "std::fs",
    "std::io",
    "std::process",
    "std::thread",
    "std::env",
    "std::time::Instant",
    "std::time::SystemTime",
    "std::time::UNIX_EPOCH",
    "jiff::Timestamp::now",
    "rand",
];

/// Rooms (or files) that may talk to Kubernetes.
const KUBERNETES: &[&str] = &["source/", "controllers/", "status/", "identity/authenticate", "webhook/", "cli/"];

#[test]
fn the_rooms_use_only_what_stands_below_them() {
    let sources = read_sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap();
    assert!(sources.len() > 20, "only {} sources found", sources.len());
    let violations = violations(&sources);
    assert!(violations.is_empty(), "walls broken:\n  {}", violations.join("\n  "));
}

/// The test above can fail: each kind of violation is found in a source made for it.
#[test]
fn each_kind_of_violation_is_found() {
    let cases = [
        ("mesh/engine.rs", "use crate::{api, xds::view::View};", "mesh uses xds"),
        ("translate/cluster.rs", "use std::{collections::BTreeMap, time::{Duration, Instant}};", "std::time::Instant"),
        ("mesh/scope.rs", "fn now() -> u64 { std::time::SystemTime::now(); 0 }", "std::time::SystemTime"),
        ("mesh/world.rs", "use tokio::sync::watch;", "tokio"),
        ("xds/view.rs", "use kube::Client;", "kube"),
        ("serve/mod.rs", "use crate::cli::main;", "serve uses cli"),
        ("api/object.rs", "use super::super::mesh::model::Hostname;", "api uses mesh"),
    ];
    for (path, text, expected) in cases {
        let found = violations(&BTreeMap::from([(path.to_owned(), text.to_owned())]));
        assert!(found.iter().any(|violation| violation.contains(expected)), "{path}: {text}: found only {found:?}");
    }
}

#[test]
fn what_is_allowed_is_not_reported() {
    let cases = [
        ("mesh/engine.rs", "use std::{net::IpAddr, time::Duration}; use crate::api::Labels;"),
        ("mesh/engine.rs", "/// As `tokio::spawn` would.\n// use tokio::sync;\nuse std::sync::Arc;"),
        ("mesh/engine.rs", "use std::sync::Arc;\n#[cfg(test)]\nmod tests {\n    use std::time::Instant;\n}"),
        ("identity/authenticate.rs", "use kube::Client;"),
        ("cli/discovery.rs", "use crate::serve; use std::env;"),
    ];
    for (path, text) in cases {
        let found = violations(&BTreeMap::from([(path.to_owned(), text.to_owned())]));
        assert!(found.is_empty(), "{path}: {found:?}");
    }
}

fn violations(sources: &BTreeMap<String, String>) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in sources {
        let Some((room, _)) = path.split_once('/') else { continue };
        for used in paths_used(&without_comments_and_tests(text), path) {
            found.extend(wall_between_rooms(room, &used).map(|why| format!("{path}: {why} (`{used}`)")));
            found.extend(wall_of_purity(room, &used).map(|why| format!("{path}: {why}")));
            let kubernetes = is_within(&used, "kube") || is_within(&used, "k8s_openapi");
            if kubernetes && !KUBERNETES.iter().any(|allowed| path.starts_with(allowed)) {
                found.push(format!("{path}: kube is not for this room (`{used}`)"));
            }
        }
    }
    found
}

fn wall_between_rooms(room: &str, used: &str) -> Option<String> {
    let other = used.strip_prefix("crate::")?.split("::").next()?;
    let rooms = MAY_USE.iter().map(|(name, _)| *name).chain(["cli"]);
    if other == room || room == "cli" || !rooms.into_iter().any(|name| name == other) {
        return None;
    }
    let Some((_, allowed)) = MAY_USE.iter().find(|(name, _)| *name == room) else {
        return Some(format!("{room} is no room that this test knows"));
    };
    (!allowed.contains(&other)).then(|| format!("{room} uses {other}"))
}

fn wall_of_purity(room: &str, used: &str) -> Option<String> {
    let impure = IMPURE.iter().find(|impure| is_within(used, impure))?;
    PURE_ROOMS.contains(&room).then(|| format!("{room} is pure, and {impure} is not"))
}

/// Whether `path` is `parent` or something in it.
fn is_within(path: &str, parent: &str) -> bool {
    path.strip_prefix(parent).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// Every path of a source: those of its `use` declarations, unfolded, and those written out in its code.
fn paths_used(text: &str, file: &str) -> Vec<String> {
    let mut paths = Vec::new();
    let mut rest = text;
    while let Some(at) = find_use(rest) {
        let declaration = &rest[at..];
        let end = declaration.find(';').unwrap_or(declaration.len());
        unfold("", &declaration[..end], &mut paths);
        rest = &declaration[end..];
    }
    paths.extend(written_out(text));
    paths.iter().map(|path| absolute(path, file)).collect()
}

/// The offset just after the next `use `.
fn find_use(text: &str) -> Option<usize> {
    let starts = text.match_indices("use ").map(|(at, _)| at);
    let mut declarations =
        starts.filter(|at| !text[..*at].ends_with(|before: char| before.is_alphanumeric() || before == '_' || before == '"'));
    declarations.next().map(|at| at + "use ".len())
}

/// `a::{b, c::{d, e}}` becomes `a::b`, `a::c::d`, `a::c::e`.
fn unfold(prefix: &str, tree: &str, paths: &mut Vec<String>) {
    let tree = tree.trim();
    let Some(open) = tree.find('{') else {
        let name = tree.split(" as ").next().unwrap_or_default().trim().trim_end_matches("::self");
        if !name.is_empty() {
            paths.push(if name == "self" { prefix.trim_end_matches("::").to_owned() } else { format!("{prefix}{name}") });
        }
        return;
    };
    let inner = tree[open + 1..].trim_end().trim_end_matches('}');
    let inner = if tree.trim_end().ends_with('}') { &tree[open + 1..tree.trim_end().len() - 1] } else { inner };
    let prefix = format!("{prefix}{}", tree[..open].trim());
    let (mut depth, mut start) = (0, 0);
    for (at, character) in inner.char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                unfold(&prefix, &inner[start..at], paths);
                start = at + 1;
            }
            _ => {}
        }
    }
    unfold(&prefix, &inner[start..], paths);
}

/// Paths such as `std::time::Instant::now` in the code itself.
fn written_out(text: &str) -> Vec<String> {
    let is_part = |character: char| character.is_alphanumeric() || character == '_' || character == ':';
    text.split(|character: char| !is_part(character))
        .filter(|word| word.contains("::"))
        .map(|word| word.trim_matches(':').to_owned())
        .collect()
}

/// `super::` and `self::` resolved against the file's place.
fn absolute(path: &str, file: &str) -> String {
    let mut module = file.trim_end_matches(".rs").split('/').collect::<Vec<_>>();
    if module.last() == Some(&"mod") {
        module.pop();
    }
    let mut rest = path;
    if let Some(after) = rest.strip_prefix("self::") {
        return format!("crate::{}::{after}", module.join("::"));
    }
    if !rest.starts_with("super::") {
        return path.to_owned();
    }
    while let Some(after) = rest.strip_prefix("super::") {
        module.pop();
        rest = after;
    }
    module.push(rest);
    format!("crate::{}", module.join("::"))
}

fn without_comments_and_tests(text: &str) -> String {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let tests = code.find("#[cfg(test)]\nmod ").unwrap_or(code.len());
    code[..tests].to_owned()
}

/// Sources by their path under `src/`. Files of tests alone are not held to the walls.
fn read_sources(root: &Path) -> io::Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") && !is_test(&path) {
                let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
                found.insert(name, fs::read_to_string(&path)?);
            }
        }
    }
    Ok(found)
}

fn is_test(path: &Path) -> bool {
    path.file_stem().is_some_and(|stem| stem == "tests") || path.components().any(|part| part.as_os_str() == "tests")
}

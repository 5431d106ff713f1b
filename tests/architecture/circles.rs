//! No modules that stand beside each other in a folder may need each other in a circle, each taken with all that is below it.
//!
//! A module's own file is not beside the modules below it: a parent may be the face of its children, and the children may use what
//! the parent defines for them. Names are followed through `pub use` to the file that has them, and handing a name on is no need of it.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    paths::{Named, module_of},
    sources::{self, Sources},
};

#[test]
fn nothing_within_a_room_runs_in_a_circle() {
    let found = circles(&sources::of_this_project().unwrap()).iter().map(Circle::to_string).collect::<Vec<_>>();
    assert!(found.is_empty(), "these need each other in a circle:\n{}", found.join("\n"));
}

/// Checks that the test above can fail: each way to need each other is found in sources made for it.
#[test]
fn each_kind_of_circle_is_found() {
    let cases: &[(&[(&str, &str)], &str)] = &[
        (&[("mesh/a.rs", "use crate::mesh::b::B;"), ("mesh/b.rs", "use super::a::A;")], "mesh: a ↔ b"),
        (
            &[
                ("mesh/a.rs", "use super::b;"),
                ("mesh/b.rs", "fn f() { crate::mesh::c::g() }"),
                ("mesh/c.rs", "use crate::mesh::a::{self, A};"),
            ],
            "mesh: a ↔ b ↔ c",
        ),
        (
            &[("xds/a.rs", "use crate::xds::b::inner::I;"), ("xds/b/mod.rs", "mod inner;\nuse super::a::A;"), ("xds/b/inner.rs", "")],
            "xds: a ↔ b",
        ),
        (
            &[("xds/b/c.rs", "use super::d::D;"), ("xds/b/d.rs", "use super::C;"), ("xds/b.rs", "mod c;\nmod d;\npub use c::C;")],
            "xds::b: c ↔ d",
        ),
        (&[("xds/a.rs", "pub use super::b::B;\nstruct A(B);"), ("xds/b.rs", "use super::a::A;")], "xds: a ↔ b"),
    ];
    for (files, expected) in cases {
        let found = circles(&sources::made(files)).iter().map(Circle::to_string).collect::<Vec<_>>();
        assert!(found.len() == 1 && found[0].lines().next() == Some(expected), "{files:?}: {found:?}");
    }
}

#[test]
fn what_is_no_circle_is_not_reported() {
    let cases: &[&[(&str, &str)]] = &[
        &[("mesh/a.rs", "use crate::mesh::b::B;"), ("mesh/b.rs", "use std::io;\n// use super::a::A;")],
        &[("mesh/mod.rs", "mod a;\nuse a::A;\npub struct M;"), ("mesh/a.rs", "use super::M;")],
        &[
            ("mesh/b/mod.rs", "mod c;\nmod d;\npub use c::C;\npub struct B;\nfn f() { d::g() }"),
            ("mesh/b/c.rs", "use super::B;"),
            ("mesh/b/d.rs", "use super::C;"),
        ],
        &[("mesh/a.rs", "pub use super::b::B;"), ("mesh/b.rs", "use super::a::A;")],
        &[("mesh/a.rs", "use super::b::B;"), ("mesh/b.rs", "#[cfg(test)]\nmod tests {\n    use crate::mesh::a::A;\n}\n")],
        &[("mesh/a.rs", "use super::b::B;"), ("mesh/b.rs", "pub(in crate::mesh::a) fn f() {}")],
    ];
    for files in cases {
        let found = circles(&sources::made(files)).iter().map(Circle::to_string).collect::<Vec<_>>();
        assert!(found.is_empty(), "{files:?}: {found:?}");
    }
}

/// Modules of one folder each of which needs all others, at last.
struct Circle {
    folder: String,
    members: BTreeSet<String>,
    /// What ties the members: file, file, and the names that the first takes from the second.
    ties: Ties,
}

impl std::fmt::Display for Circle {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let members = self.members.iter().map(String::as_str).collect::<Vec<_>>();
        write!(out, "{}: {}", self.folder, members.join(" ↔ "))?;
        let names = |names: &BTreeSet<String>| names.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        self.ties.iter().try_for_each(|((from, to), taken)| write!(out, "\n    {from} -> {to}: {}", names(taken)))
    }
}

type Ties = BTreeMap<(String, String), BTreeSet<String>>;

/// What each module of a folder needs of those beside it, with the ties that say why.
type Needs = BTreeMap<String, BTreeMap<String, Ties>>;

fn circles(sources: &Sources) -> Vec<Circle> {
    let mut folders = BTreeMap::<String, Needs>::new();
    let tree = Tree::of(sources);
    for (file, named) in &tree.named {
        for (used, name) in tree.used_by(named) {
            let Some((folder, from, to)) = beside(&module_of(file), &module_of(used)) else { continue };
            let ties = folders.entry(folder).or_default().entry(from).or_default().entry(to).or_default();
            ties.entry(((*file).to_owned(), used.to_owned())).or_default().insert(name);
        }
    }
    folders.iter().flat_map(|(folder, needs)| circles_in(folder, needs)).collect()
}

/// Returns the two modules beside each other that a need runs between, and their folder; none from a module to one below it,
/// the other way round, or between rooms.
fn beside(from: &str, to: &str) -> Option<(String, String, String)> {
    let common = from.split("::").zip(to.split("::")).take_while(|(from, to)| from == to).count();
    let child = |module: &str| module.split("::").nth(common).map(str::to_owned);
    let folder = from.split("::").take(common).skip(1).collect::<Vec<_>>().join("::");
    (!folder.is_empty()).then_some((folder, child(from)?, child(to)?))
}

fn circles_in(folder: &str, needs: &Needs) -> Vec<Circle> {
    let mut found = Vec::<Circle>::new();
    for module in needs.keys().filter(|module| reached(needs, module).contains(*module)) {
        if found.iter().any(|circle| circle.members.contains(module)) {
            continue;
        }
        let mut members = reached(needs, module);
        members.retain(|other| reached(needs, other).contains(module));
        let within =
            |module: &String| needs[module].iter().filter(|(other, _)| members.contains(*other)).flat_map(|(_, ties)| ties.clone());
        found.push(Circle { folder: folder.to_owned(), ties: members.iter().flat_map(within).collect(), members });
    }
    found
}

/// Returns all that a module needs, directly or through others. It is among them when it is in a circle.
fn reached(needs: &Needs, module: &str) -> BTreeSet<String> {
    let mut reached = BTreeSet::new();
    let mut open = vec![module];
    while let Some(next) = open.pop() {
        for other in needs.get(next).into_iter().flat_map(BTreeMap::keys) {
            if reached.insert(other.clone()) {
                open.push(other);
            }
        }
    }
    reached
}

/// The sources by module, so that a path leads to the file that has its name.
struct Tree<'a> {
    named: BTreeMap<&'a str, Named>,
    files: BTreeMap<String, &'a str>,
}

impl<'a> Tree<'a> {
    fn of(sources: &'a Sources) -> Self {
        Self {
            named: sources.iter().map(|(file, text)| (file.as_str(), Named::of(file, text))).collect(),
            files: sources.keys().map(|file| (module_of(file), file.as_str())).collect(),
        }
    }

    /// Returns the files that a source needs, each with a name it takes from there.
    fn used_by(&self, named: &Named) -> Vec<(&'a str, String)> {
        let imports = named.imports.iter().filter(|import| !import.handed_on || named.says(&import.name));
        let paths = imports.map(|import| &import.path).chain(&named.written_out);
        paths.filter_map(|path| Some((self.file_of(path, 0)?, path.rsplit("::").next().unwrap_or(path).to_owned()))).collect()
    }

    /// Returns the file that defines what the path leads to, through declarations that hand it on.
    fn file_of(&self, path: &str, depth: usize) -> Option<&'a str> {
        let ends = path.match_indices("::").map(|(at, _)| at).chain([path.len()]);
        let end = ends.filter(|end| self.files.contains_key(&path[..*end])).last()?;
        let file = self.files[&path[..end]];
        let mut rest = path[end..].split("::").skip(1);
        let Some(name) = rest.next().filter(|_| depth < 8) else { return Some(file) };
        let handed = self.named[file].imports.iter().find(|import| import.name == name);
        let target = |path: &str| rest.fold(path.to_owned(), |path, part| format!("{path}::{part}"));
        handed.and_then(|import| self.file_of(&target(&import.path), depth + 1)).or(Some(file))
    }
}

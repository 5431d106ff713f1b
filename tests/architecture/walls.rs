//! The walls between the rooms of `src/`: which room may use which, and what the pure rooms must not know.

use super::{
    paths::Named,
    sources::{self, Sources, is_within},
};

/// Which rooms each room may use (`docs/architecture.md`). A room always may use itself. `cli` may use all.
const MAY_USE: &[(&str, &[&str])] = &[
    ("api", &[]),
    ("proto", &[]),
    ("source", &["api"]),
    ("mesh", &["api"]),
    ("translate", &["mesh", "proto"]),
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
    "crate::backoff",
    "crate::clock",
    "crate::polls",
    "crate::signals",
    "crate::sparse_log",
    "crate::timer",
];

/// Rooms (or files) that may talk to Kubernetes.
const KUBERNETES: &[&str] = &["source/", "controllers/", "status/", "identity/authenticate", "webhook/", "cli/"];

#[test]
fn the_rooms_use_only_what_stands_below_them() {
    let violations = violations(&sources::of_this_project().unwrap());
    assert!(violations.is_empty(), "walls broken:\n  {}", violations.join("\n  "));
}

/// Checks that the test above can fail: each kind of violation is found in a source made for it.
#[test]
fn each_kind_of_violation_is_found() {
    let cases = [
        ("mesh/engine.rs", "use crate::{api, xds::view::View};", "mesh uses xds"),
        ("translate/cluster.rs", "use std::{collections::BTreeMap, time::{Duration, Instant}};", "std::time::Instant"),
        ("mesh/scope.rs", "fn now() -> u64 { std::time::SystemTime::now(); 0 }", "std::time::SystemTime"),
        ("mesh/world.rs", "use tokio::sync::watch;", "tokio"),
        ("mesh/world.rs", "use crate::{clock::Clock, api::Labels};", "crate::clock"),
        ("xds/view.rs", "use kube::Client;", "kube"),
        ("serve/mod.rs", "use crate::cli::main;", "serve uses cli"),
        ("api/object.rs", "use super::super::mesh::model::Hostname;", "api uses mesh"),
    ];
    for (path, text, expected) in cases {
        let found = violations(&sources::made(&[(path, text)]));
        assert!(found.iter().any(|violation| violation.contains(expected)), "{path}: {text}: found only {found:?}");
    }
}

#[test]
fn what_is_allowed_is_not_reported() {
    let cases = [
        ("mesh/engine.rs", "use std::{net::IpAddr, time::Duration}; use crate::api::Labels;"),
        ("mesh/engine.rs", "/// As `tokio::spawn` would.\n// use tokio::sync;\nuse std::sync::Arc;"),
        ("mesh/engine.rs", "use std::sync::Arc;\n#[cfg(test)]\nmod tests {\n    use std::time::Instant;\n}\n"),
        ("identity/authenticate.rs", "use kube::Client;"),
        ("cli/discovery.rs", "use crate::serve; use std::env;"),
    ];
    for (path, text) in cases {
        let found = violations(&sources::made(&[(path, text)]));
        assert!(found.is_empty(), "{path}: {found:?}");
    }
}

fn violations(sources: &Sources) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in sources {
        let Some((room, _)) = path.split_once('/') else { continue };
        for used in Named::of(path, text).paths() {
            found.extend(wall_between_rooms(room, used).map(|why| format!("{path}: {why} (`{used}`)")));
            found.extend(wall_of_purity(room, used).map(|why| format!("{path}: {why}")));
            let kubernetes = is_within(used, "kube") || is_within(used, "k8s_openapi");
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

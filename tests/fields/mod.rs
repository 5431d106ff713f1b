//! Walks over every field that is read: whoever sets a field sees it in what proxies are sent, is told by a
//! finding about that field that it is not applied, or finds it in `silent.yaml` with the reason. What is told and what is silent
//! makes the tables of "Not yet" in docs/compatibility.md. `UPDATE_GOLDEN=1 cargo test --test offline fields` writes them anew;
//! `FIELD=spec.http cargo test …` walks over some fields only.
//!
//! `istio.txt`, `own.txt`, `mesh_config.txt` and `kubernetes.txt` have the fields, `mesh.yaml` and `kinds/` the objects around them, `settings.yaml` what single fields need.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod document;
mod injection;
pub(crate) mod place;
pub(crate) mod schema;
pub(crate) mod stage;

use std::{collections::BTreeMap, env, fs, path::PathBuf, thread};

use serde::Deserialize;

use self::{
    schema::{Field, Schema},
    stage::{Outcome, Stage},
};

/// Why a field may be set and nothing happens and nothing is said.
#[derive(Deserialize)]
struct Silent {
    field: String,
    reason: String,
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fields")
}

fn read(name: &str) -> String {
    let path = folder().join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn yaml<T: for<'de> Deserialize<'de>>(name: &str) -> T {
    serde_norway::from_str(&read(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn every_field_has_an_effect_or_is_told() {
    let silent: Vec<Silent> = yaml("silent.yaml");
    let outcomes = walk();
    let listed = |field: &str| silent.iter().find(|listed| listed.field == field);
    let mut wrong: Vec<String> = Vec::new();
    for (field, outcome) in &outcomes {
        match (outcome, listed(field)) {
            (Outcome::Silent, None) => wrong.push(format!("{field}: has no effect, and nobody is told")),
            (Outcome::Refused(why), _) => wrong.push(format!("{field}: settings.yaml needs values that are valid: {why}")),
            (Outcome::Applied | Outcome::Told { .. }, Some(_)) => {
                wrong.push(format!("{field}: is listed in silent.yaml, but is not silent"))
            }
            _ => {}
        }
    }
    wrong.extend(
        silent.iter().filter(|listed| !outcomes.contains_key(&listed.field)).map(|listed| format!("{}: no such field", listed.field)),
    );
    assert!(wrong.is_empty(), "{} fields:\n  {}", wrong.len(), wrong.join("\n  "));
    document::compare(&outcomes, &silent.into_iter().map(|silent| (silent.field, silent.reason)).collect());
}

#[test]
fn a_field_that_is_in_no_schema_is_told_wherever_it_stands() {
    let schema = Schema::load();
    let mut missed = Vec::new();
    for kind in schema.kinds() {
        let stage = Stage::of(kind);
        missed.extend(schema.messages(kind).filter(|path| !stage.names_unknown_field(path)).map(|path| format!("{kind} {path}.walked")));
    }
    assert!(missed.is_empty(), "unknown fields that nobody is told of:\n  {}", missed.join("\n  "));
}

#[test]
fn every_value_of_an_enum_is_known() {
    let schema = Schema::load();
    let enums = schema.kinds().flat_map(|kind| schema.leaves(kind).filter(|field| !field.values.is_empty()));
    let unknown: Vec<String> = enums.flat_map(|field| Stage::of(&field.kind).unknown_values(field)).collect();
    assert!(unknown.is_empty(), "{} values of Istio's:\n  {}", unknown.len(), unknown.join("\n  "));
}

fn walk() -> BTreeMap<String, Outcome> {
    let schema = Schema::load();
    let only = env::var("FIELD").unwrap_or_default();
    let stages: BTreeMap<&str, Stage> = schema.kinds().map(|kind| (kind, Stage::of(kind))).collect();
    let fields: Vec<&Field> = schema.kinds().flat_map(|kind| schema.leaves(kind)).filter(|field| field.name().contains(&only)).collect();
    let outcome = |field: &&Field| (field.name(), stages[field.kind.as_str()].outcome(field));
    thread::scope(|scope| {
        let parts: Vec<_> = fields.chunks(64).map(|part| scope.spawn(move || part.iter().map(outcome).collect::<Vec<_>>())).collect();
        parts.into_iter().flat_map(|part| part.join().unwrap()).collect()
    })
}

//! Makes cases: each sets one field, or some of one kind together, in the object of the walk.

use std::collections::BTreeMap;

use harness::random::Random;
use serde_json::Value;

use super::{case::Case, values};
use crate::fields::{
    place,
    schema::{Field, Schema},
    stage::Stage,
};

/// Fields whose values Envoy does not judge as such: it opens the file, which is there or not; and the script, which is a program, and
/// whose faults proxies tell (`docs/extensions.md`).
const LEFT_OUT: [&str; 2] = ["MeshConfig data.accessLogFile", "TrafficExtension spec.lua.inlineCode"];

/// The fields, their stages and the seed.
pub(super) struct Generator {
    seed: u64,
    fields: Vec<Field>,
    stages: BTreeMap<String, Stage>,
}

impl Generator {
    pub(super) fn load(seed: u64) -> Self {
        let only = std::env::var("FIELD").unwrap_or_default();
        let schema = Schema::load();
        let stages = schema.kinds().map(|kind| (kind.to_owned(), Stage::of(kind))).collect();
        let fields: Vec<Field> = schema
            .kinds()
            .flat_map(|kind| schema.leaves(kind))
            .filter(|field| field.name().contains(&only) && !LEFT_OUT.contains(&field.name().as_str()))
            .cloned()
            .collect();
        Self { seed, fields, stages }
    }

    /// Returns how many fields there are.
    pub(super) fn fields(&self) -> usize {
        self.fields.len()
    }

    /// Returns the case of that number. Fields take turns.
    pub(super) fn case(&self, number: u64) -> Case<'_> {
        let mut random = Random::seeded(Random::seeded(self.seed.wrapping_add(number)).bits());
        let first = &self.fields[usize::try_from(number.wrapping_add(self.seed) % self.fields.len() as u64).unwrap()];
        let stage = &self.stages[&first.kind];
        let mut object = stage.object.clone();
        let mut fields = vec![first];
        for _ in 0..random.within(0..4).saturating_sub(1) {
            fields.extend(self.beside(first, &mut random));
        }
        for field in &fields {
            stage.prepare(&mut object, &field.path);
        }
        for field in &fields {
            set(stage, &mut object, field, &mut random);
        }
        Case { number, fields: fields.into_iter().map(Field::name).collect(), object, stage }
    }

    /// Returns a field of the same kind, which is near the first one three times in four.
    fn beside(&self, first: &Field, random: &mut Random) -> Option<&Field> {
        let mut near = place::parent(&first.path);
        if random.within(0..4) == 0 {
            near = "";
        } else if random.within(0..2) == 0 {
            near = place::parent(near);
        }
        let fields: Vec<&Field> = self
            .fields
            .iter()
            .filter(|field| field.kind == first.kind && field.path.starts_with(near) && field.path != first.path)
            .collect();
        let chosen = random.within(0..fields.len().max(1) as u64);
        fields.get(usize::try_from(chosen).unwrap()).copied()
    }
}

/// Sets a field, and at times its key, and at times a list that it is in gets another element.
fn set(stage: &Stage, object: &mut Value, field: &Field, random: &mut Random) {
    let mut key = stage.key(&field.path);
    if field.path.contains('*') && random.within(0..3) == 0 {
        key = values::text(&field.path, &[], random);
    }
    let usual = stage.values(field);
    let before = object.clone();
    // One field in eight is as it should be, so that others are seen beside it.
    let value = match random.within(0..8) {
        0 => usual[usize::try_from(random.within(0..usual.len() as u64)).unwrap()].clone(),
        _ => values::value(field, &usual, random),
    };
    place::put(object, &field.path, &key, value);
    let lists: Vec<&str> = field.path.match_indices("[]").map(|(at, _)| &field.path[..at]).collect();
    if !lists.is_empty() && random.within(0..6) == 0 {
        let list = lists[usize::try_from(random.within(0..lists.len() as u64)).unwrap()];
        let from = if random.within(0..2) == 0 { &before } else { &*object };
        if let Some(element) = place::get(from, &format!("{list}[]"), &key).cloned() {
            place::append(object, list, &key, element);
        }
    }
}

//! One case: an object with hostile values in the mesh of its kind, and what the mesh's proxies are sent.

use std::{
    collections::BTreeSet,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use envoy_types::pb::envoy::config::bootstrap::v3::Bootstrap;
use istiod_lite::{
    api::{Object, Severity},
    mesh::{
        model::{Flavour, Proxy, ProxyPorts},
        validate,
    },
    xds::{classes::Classes, static_bootstrap::static_bootstrap},
};
use serde_json::Value;

use crate::{
    fields::stage::{Stage, keyed, proxies},
    judge::Tried,
};

/// How much of a long text is printed, in characters.
const SHOWN: usize = 120;

/// An object with hostile values.
#[derive(Clone)]
pub(super) struct Case<'s> {
    /// Its place among those of a seed.
    pub(super) number: u64,
    /// The fields that were set.
    pub(super) fields: BTreeSet<String>,
    pub(super) object: Value,
    pub(super) stage: &'s Stage,
}

/// A case that the checks take, and what is made of it.
#[derive(Clone)]
pub(super) struct Made<'s> {
    pub(super) case: Case<'s>,
    sent: Vec<Bootstrap>,
}

impl<'s> Case<'s> {
    /// Returns what the proxies are sent, unless the object is refused.
    pub(super) fn made(self) -> Option<Made<'s>> {
        let made = catch_unwind(AssertUnwindSafe(|| self.sent())).unwrap_or_else(|_| panic!("case {} panics:\n{self}", self.number));
        made.map(|sent| Made { sent, case: self })
    }

    /// Returns what the checks refuse of the object.
    pub(super) fn told(&self) -> Vec<String> {
        let refused = self.stage.parse(&self.object).diagnostics.into_iter().filter(|finding| finding.severity == Severity::Error);
        refused.map(|finding| finding.to_string()).collect()
    }

    fn sent(&self) -> Option<Vec<Bootstrap>> {
        let parsed = self.stage.parse(&self.object);
        let refused = parsed.diagnostics.iter().any(|finding| finding.severity == Severity::Error);
        if refused || parsed.objects.is_empty() {
            return None;
        }
        let objects: Vec<Arc<Object>> = parsed.objects;
        let applied = self.stage.engine.clone().apply(keyed(objects));
        validate::check(&applied.world);
        let proxies = proxies(&applied.world);
        let classes = Classes::default();
        classes.prepare(applied.world, &Default::default()).send();
        // Envoy as its project releases it has not what Istio's has.
        let stock = proxies.into_iter().filter(|proxy| proxy.flavour == Flavour::Stock);
        let as_injected = stock.map(|proxy| Proxy { ports: ProxyPorts::USUAL, ..proxy });
        Some(as_injected.map(|proxy| static_bootstrap(&classes.view_for(&proxy), &proxy).unwrap()).collect())
    }
}

impl Tried for Made<'_> {
    fn sent(&self) -> Vec<Bootstrap> {
        self.sent.clone()
    }

    // Leaves out a part of the object: a field, an entry or an element, with all that is within.
    fn without(&self, part: usize) -> Option<Self> {
        let mut case = self.case.clone();
        // What makes it an object of its kind stays.
        let kept = ["apiVersion", "kind", "metadata"].map(|name| (name, case.object[name].take()));
        for (name, _) in &kept {
            case.object.as_object_mut().unwrap().remove(*name);
        }
        let is_done = remove(&mut case.object, &mut { part });
        for (name, value) in kept.into_iter().filter(|(_, value)| !value.is_null()) {
            case.object[name] = value;
        }
        is_done.then_some(())?;
        // One that is refused without it needs it.
        let sent = case.sent().unwrap_or_default();
        Some(Self { case, sent })
    }
}

/// Removes the part of that number, counted in the order in which it is written.
fn remove(value: &mut Value, left: &mut usize) -> bool {
    match value {
        Value::Object(map) => {
            let names: Vec<String> = map.keys().cloned().collect();
            names.into_iter().any(|name| {
                if *left == 0 {
                    return map.remove(&name).is_some();
                }
                *left -= 1;
                map.get_mut(&name).is_some_and(|inner| remove(inner, left))
            })
        }
        Value::Array(elements) => (0..elements.len()).any(|index| {
            if *left == 0 {
                elements.remove(index);
                return true;
            }
            *left -= 1;
            elements.get_mut(index).is_some_and(|inner| remove(inner, left))
        }),
        _ => false,
    }
}

impl fmt::Display for Case<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut object = self.object.clone();
        shorten(&mut object);
        writeln!(f, "# {}\n{object}", self.fields.iter().map(String::as_str).collect::<Vec<_>>().join(", "))
    }
}

fn shorten(value: &mut Value) {
    match value {
        Value::Object(map) => map.values_mut().for_each(shorten),
        Value::Array(elements) => elements.iter_mut().for_each(shorten),
        Value::String(text) if text.chars().count() > SHOWN => {
            *text = format!("{}… ({} bytes)", text.chars().take(SHOWN).collect::<String>(), text.len());
        }
        _ => {}
    }
}

//! DestinationRules: hosts that no service has, subsets that an older rule defines.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    api::Diagnostic,
    mesh::{
        configured::Configured,
        policy::destination_rule,
        traffic::DestinationRule,
        world::{HostRules, World},
    },
    patience::Patient,
    visits::{Visit, Visited},
};

pub(super) fn check(world: &World) -> Vec<Diagnostic> {
    let unknown = world.destination_rules.values().visiting(Visited::Object).filter_map(|rule| unknown_host(world, rule));
    let rules = world.rules_by_host.values().flat_map(|hosts| hosts.values()).visiting(Visited::Object);
    unknown.chain(rules.flat_map(|rules| subsets(world, rules))).collect()
}

/// Returns what is doubtful about one rule; perhaps with findings about others of its host.
pub(super) fn of(world: &World, rule: &Configured<DestinationRule>) -> Vec<Diagnostic> {
    let rules = world.rules_by_host.get(&rule.origin.object.namespace).and_then(|hosts| hosts.get(&rule.spec.host));
    unknown_host(world, rule).into_iter().chain(rules.into_iter().flat_map(|rules| subsets(world, rules))).collect()
}

fn unknown_host(world: &World, rule: &Configured<DestinationRule>) -> Option<Diagnostic> {
    let known = match rule.spec.host.is_wildcard() {
        true => world.services.keys().visiting(Visited::Service).any(|key| rule.spec.host.covers(&key.hostname)),
        false => world.services_named(&rule.spec.host).next().is_some(),
    };
    let message = || format!("no service has the host {}: the rule has no effect", rule.spec.host);
    (!known).then(|| Diagnostic::warning("spec.host", message()).of(&rule.origin.object))
}

fn subsets(world: &World, rules: &HostRules) -> Vec<Diagnostic> {
    [repeated_subsets(rules), too_many_subsets(world, rules)].concat()
}

/// Finds the rules that are more than are merged for a host, and those whose subsets, together with those that go first, are more
/// than the ports of the service leave room for.
fn too_many_subsets(world: &World, rules: &HostRules) -> Vec<Diagnostic> {
    let Some(host) = rules.rules.first().map(|rule| &rule.spec.host) else { return Vec::new() };
    let ports = world.services_named(host).map(|service| service.ports.len()).max().unwrap_or(1);
    let most = destination_rule::most_subsets(ports).min(destination_rule::most_subsets_for(host));
    let mut found = Vec::new();
    for rule in rules.rules.iter().skip(destination_rule::MOST_RULES).filter(|rule| rule.spec.workload_selector.is_none()) {
        let message = format!("{} older rules of this namespace are for {host}: no more are used", destination_rule::MOST_RULES);
        found.push(Diagnostic::error("spec.host", message).of(&rule.origin.object));
    }
    let mut all = 0;
    for rule in &rules.rules {
        all += rule.spec.subsets.len();
        if all > most {
            let service = if host.is_wildcard() { String::new() } else { format!(", which has {ports} ports") };
            let message =
                format!("are {all} of {host}{service}: there is room for {most}. The first are used, and requests for the others get 503");
            found.push(Diagnostic::error("spec.subsets", message).of(&rule.origin.object));
        }
    }
    found
}

fn repeated_subsets(rules: &HostRules) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let mut defined = BTreeMap::new();
    for rule in &rules.rules {
        for (index, subset) in rule.spec.subsets.iter().patiently().visiting(Visited::Written).enumerate() {
            let first = *defined.entry((&rule.spec.workload_selector, &subset.name)).or_insert(rule);
            if Arc::ptr_eq(first, rule) {
                continue;
            }
            let message = format!(
                "{} goes first by age, then name, and defines subset {} of {} too: this one is ignored",
                first.origin.object, subset.name, rule.spec.host
            );
            found.push(Diagnostic::warning(format!("spec.subsets[{index}].name"), message).of(&rule.origin.object));
        }
    }
    found
}

//! Which DestinationRules apply to a service for a client, and what they say together (contract §6.3).

use std::{collections::BTreeSet, sync::Arc};

use smol_str::SmolStr;

use crate::{
    api::ObjectKey,
    mesh::{
        configured::Configured,
        model::{Hostname, Service, Visibility},
        traffic::{DestinationRule, EffectiveDestinationRule, EffectiveSubset, RulePlace, Subset, TrafficPolicy},
        world::{HostRules, World},
    },
};

/// The most clusters of subsets that one service has. Subsets and ports are of two objects, whose owners may not know of each other.
const MOST_CLUSTERS: usize = 20_000;

/// The most subsets that a service has of rules for a wildcard, which are for any number of services.
const MOST_SUBSETS_OF_WILDCARD: usize = 20;

/// The most rules of a namespace for one host. Each cluster of the host is of all of them.
pub(in crate::mesh) const MOST_RULES: usize = 50;

/// Returns the rule for a service as proxies of `namespace` see it: the client's namespace (of the root namespace only what
/// is private to it), then the service's, then the root namespace. In each the most specific host counts, even if its
/// rules are for other clients. `selecting` are the rules with a `workloadSelector` that selects the proxies.
pub fn effective(world: &World, namespace: &str, selecting: &[ObjectKey], service: &Service) -> Option<Arc<EffectiveDestinationRule>> {
    applicable(world, namespace, selecting, service).map(|rule| within_bounds(rule, service.ports.len()))
}

/// Returns how many subsets a service of so many ports may have.
pub(in crate::mesh) fn most_subsets(ports: usize) -> usize {
    MOST_CLUSTERS / ports.max(1)
}

/// Returns how many subsets rules for this host may have together, whatever the service.
pub(in crate::mesh) fn most_subsets_for(host: &Hostname) -> usize {
    if host.is_wildcard() { MOST_SUBSETS_OF_WILDCARD } else { usize::MAX }
}

/// Returns the rule with no more subsets than a service of so many ports may have: the first ones.
fn within_bounds(rule: Arc<EffectiveDestinationRule>, ports: usize) -> Arc<EffectiveDestinationRule> {
    let most = most_subsets(ports);
    if rule.subsets.len() <= most {
        return rule;
    }
    let mut fewer = EffectiveDestinationRule::clone(&rule);
    fewer.subsets.truncate(most);
    Arc::new(fewer)
}

fn applicable(world: &World, namespace: &str, selecting: &[ObjectKey], service: &Service) -> Option<Arc<EffectiveDestinationRule>> {
    if world.rules_by_host.is_empty() {
        return None;
    }
    let client = Client { world, namespace, selecting };
    let root = &world.mesh.root_namespace;
    let is_own = |rule: &DestinationRule| match namespace == root.as_str() {
        true => is_private(rule, root),
        false => rule.export_to.allows(namespace),
    };
    if let Some(rules) = client.most_specific(namespace, &service.hostname, is_own) {
        return client.merged(rules, is_own);
    }
    let exported_from = |owner: &SmolStr| {
        let is_exported = |rule: &DestinationRule| !is_private(rule, owner);
        client.merged(client.most_specific(owner, &service.hostname, is_exported)?, is_exported)
    };
    // What a namespace exports to itself was found above.
    let asked = service.namespace == namespace;
    (!asked).then(|| exported_from(&service.namespace)).flatten().or_else(|| exported_from(root))
}

/// Returns all rules of one namespace for one host, with their merge where no proxy sees less than another.
pub(in crate::mesh) fn host_rules(mut rules: Vec<Arc<Configured<DestinationRule>>>) -> HostRules {
    rules.sort_by(|a, b| a.precedence.cmp(&b.precedence));
    let same_for_all = rules.iter().all(|rule| rule.spec.export_to == Visibility::Public && rule.spec.workload_selector.is_none());
    let common = same_for_all.then(|| Arc::new(merge(rules.iter().take(MOST_RULES))));
    HostRules { rules, common }
}

struct Client<'a> {
    world: &'a World,
    namespace: &'a str,
    selecting: &'a [ObjectKey],
}

impl Client<'_> {
    /// Returns the rules of `owner` for the most specific host that covers `host` and has a rule that is `listed`.
    fn most_specific(&self, owner: &str, host: &Hostname, listed: impl Fn(&DestinationRule) -> bool) -> Option<&HostRules> {
        let mut covering = host.covering(self.world.rules_by_host.get(owner)?).map(|(_, rules)| &**rules);
        covering.find(|rules| rules.rules.iter().any(|rule| listed(&rule.spec)))
    }

    /// Merges those of the rules that are `listed` and for this client; `None` when there are none. Rules with a selector
    /// win over those without.
    fn merged(&self, rules: &HostRules, listed: impl Fn(&DestinationRule) -> bool) -> Option<Arc<EffectiveDestinationRule>> {
        if let Some(common) = rules.common.as_ref().filter(|_| rules.rules.iter().all(|rule| listed(&rule.spec))) {
            return Some(Arc::clone(common));
        }
        let visible = || rules.rules.iter().filter(|rule| rule.spec.export_to.allows(self.namespace) && listed(&rule.spec));
        let selecting = visible().find(|rule| self.selecting.contains(&rule.origin.object));
        let selector = selecting.map(|rule| &rule.spec.workload_selector).unwrap_or(&None);
        let chosen = visible().filter(|rule| rule.spec.workload_selector == *selector).take(MOST_RULES);
        let chosen: Vec<&Arc<Configured<DestinationRule>>> = chosen.collect();
        (!chosen.is_empty()).then(|| Arc::new(merge(chosen.into_iter())))
    }
}

/// Returns whether a rule is for its own namespace alone.
fn is_private(rule: &DestinationRule, namespace: &str) -> bool {
    matches!(&rule.export_to, Visibility::Namespaces(names) if names.iter().all(|name| name == namespace))
}

/// Merges rules: subsets are put together, and of one name the first wins; the first policy wins as a whole.
fn merge<'a>(rules: impl Iterator<Item = &'a Arc<Configured<DestinationRule>>> + Clone) -> EffectiveDestinationRule {
    let policy = rules.clone().find_map(|rule| rule.spec.policy.clone()).unwrap_or_default();
    let mut names = BTreeSet::new();
    let most = rules.clone().next().map_or(0, |rule| most_subsets_for(&rule.spec.host));
    let subsets = rules.clone().flat_map(|rule| &rule.spec.subsets).filter(|subset| names.insert(&subset.name));
    let subsets = subsets.take(most);
    let subsets = subsets.map(|subset| effective_subset(subset, &policy)).collect();
    let mut place = RulePlace::default();
    rules.clone().for_each(|rule| place.extend(&rule.spec.place()));
    EffectiveDestinationRule { policy, subsets, place, origins: rules.map(|rule| rule.origin.clone()).collect() }
}

fn effective_subset(subset: &Subset, of_host: &Arc<TrafficPolicy>) -> EffectiveSubset {
    let policy = match &subset.policy {
        Some(own) => Arc::new(own.over(of_host)),
        None => Arc::clone(of_host),
    };
    EffectiveSubset { name: subset.name.clone(), labels: Arc::clone(&subset.labels), policy }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::Kind,
        mesh::{
            model::{Origin, Precedence},
            traffic::{ConnectionPool, LoadBalancer, PortPolicy},
        },
    };

    fn rule(name: &str, policy: Option<Arc<TrafficPolicy>>, subsets: Vec<Subset>) -> Arc<Configured<DestinationRule>> {
        let object = ObjectKey { cluster: "Kubernetes".into(), kind: Kind::DestinationRule, namespace: "shop".into(), name: name.into() };
        let spec =
            DestinationRule { host: Hostname::new("a.shop"), export_to: Visibility::Public, workload_selector: None, policy, subsets };
        Arc::new(Configured {
            spec: Arc::new(spec),
            precedence: Precedence { created: 0, name: name.into(), namespace: "shop".into() },
            origin: Origin { object, generation: 1 },
        })
    }

    fn balanced(load_balancer: LoadBalancer) -> PortPolicy {
        PortPolicy { load_balancer: Some(Arc::new(load_balancer)), ..PortPolicy::default() }
    }

    #[test]
    fn the_first_policy_and_the_first_subset_of_a_name_win() {
        let policy = |port| Some(Arc::new(TrafficPolicy::new(port, [])));
        let subset = |name: &str, policy| Subset { name: name.into(), policy, ..Subset::default() };
        let pooled = PortPolicy { connection_pool: Some(Arc::new(ConnectionPool::default())), ..PortPolicy::default() };
        let old = rule("old", None, vec![subset("v1", policy(pooled.clone()))]);
        let subsets = vec![subset("v1", policy(balanced(LoadBalancer::RoundRobin))), subset("v2", None)];
        let new = rule("new", policy(balanced(LoadBalancer::Random)), subsets);
        let merged = merge([old, new].iter());
        assert_eq!(merged.policy.port(80), &balanced(LoadBalancer::Random));
        assert_eq!(merged.subsets.iter().map(|subset| subset.name.as_str()).collect::<Vec<_>>(), ["v1", "v2"]);
        let v1 = merged.port(merged.subset("v1"), 80);
        assert_eq!(v1, &PortPolicy { connection_pool: pooled.connection_pool, ..balanced(LoadBalancer::Random) });
        assert!(Arc::ptr_eq(&merged.subsets[1].policy, &merged.policy), "a subset without a policy shares the host's");
        assert_eq!(merged.origins.len(), 2);
    }
}

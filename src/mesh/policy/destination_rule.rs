//! Which DestinationRules apply to a service for a client, and what they say together (contract §6.3).

use std::{collections::BTreeSet, sync::Arc};

use smol_str::SmolStr;

use crate::{
    api::ObjectKey,
    mesh::{
        configured::Configured,
        model::{Hostname, Service, Visibility},
        traffic::{DestinationRule, EffectiveDestinationRule, EffectiveSubset, Subset, TrafficPolicy},
        world::{HostRules, World},
    },
};

/// Returns the rule for a service as proxies of `namespace` see it: the client's namespace (unless it is the root
/// namespace), then the service's, then the root namespace; in each the most specific host. `selecting` are the rules
/// with a `workloadSelector` that selects the proxies.
pub fn effective(world: &World, namespace: &str, selecting: &[ObjectKey], service: &Service) -> Option<Arc<EffectiveDestinationRule>> {
    if world.rules_by_host.is_empty() {
        return None;
    }
    let client = Client { world, namespace, selecting };
    let root = &world.mesh.root_namespace;
    let own = if namespace == root.as_str() {
        client.find(root, &service.hostname, |rule| is_private(rule, root))
    } else {
        client.find(namespace, &service.hostname, |_| true)
    };
    // Asked just now, where the client's namespace is the service's.
    let asked = namespace != root.as_str() && service.namespace == namespace;
    own.or_else(|| (!asked).then(|| client.find(&service.namespace, &service.hostname, |_| true)).flatten())
        .or_else(|| client.find(root, &service.hostname, |_| true))
}

/// Returns all rules of one namespace for one host, with their merge where no proxy sees less than another.
pub(in crate::mesh) fn host_rules(mut rules: Vec<Arc<Configured<DestinationRule>>>) -> HostRules {
    rules.sort_by(|a, b| a.precedence.cmp(&b.precedence));
    let same_for_all = rules.iter().all(|rule| rule.spec.export_to == Visibility::Public && rule.spec.workload_selector.is_none());
    let common = same_for_all.then(|| Arc::new(merge(rules.iter())));
    HostRules { rules, common }
}

struct Client<'a> {
    world: &'a World,
    namespace: &'a str,
    selecting: &'a [ObjectKey],
}

impl Client<'_> {
    fn find(&self, owner: &str, host: &Hostname, wanted: impl Fn(&DestinationRule) -> bool) -> Option<Arc<EffectiveDestinationRule>> {
        let from = (SmolStr::new(owner), Hostname::new(""));
        let (first, _) = self.world.rules_by_host.get_next(&from).filter(|((of, _), _)| of == owner)?;
        // Nothing sorts before a wildcard: where the first is none, there is none.
        let tried = if first.1.is_wildcard() { usize::MAX } else { 1 };
        host.covering().take(tried).find_map(|host| {
            let rules = self.world.rules_by_host.get(&(from.0.clone(), host))?;
            match &rules.common {
                Some(common) if rules.rules.iter().all(|rule| wanted(&rule.spec)) => Some(Arc::clone(common)),
                _ => self.visible(owner, rules, &wanted),
            }
        })
    }

    /// Returns what the rules of one host say that the proxies see. Rules with a selector are for workloads of their
    /// own namespace, and win over those without.
    fn visible(&self, owner: &str, rules: &HostRules, wanted: &impl Fn(&DestinationRule) -> bool) -> Option<Arc<EffectiveDestinationRule>> {
        let visible = || rules.rules.iter().filter(|rule| rule.spec.export_to.allows(self.namespace) && wanted(&rule.spec));
        let selecting = visible().find(|rule| owner == self.namespace && self.selecting.contains(&rule.origin.object));
        let selector = selecting.map(|rule| &rule.spec.workload_selector).unwrap_or(&None);
        let chosen: Vec<&Arc<Configured<DestinationRule>>> = visible().filter(|rule| rule.spec.workload_selector == *selector).collect();
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
    let subsets = rules.clone().flat_map(|rule| &rule.spec.subsets).filter(|subset| names.insert(&subset.name));
    let subsets = subsets.map(|subset| effective_subset(subset, &policy)).collect();
    EffectiveDestinationRule { policy, subsets, origins: rules.map(|rule| rule.origin.clone()).collect() }
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

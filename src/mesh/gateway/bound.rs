//! The routes that are bound to a Gateway, by the hosts that they are for, so that servers with many hosts and routes for many are not
//! held against each other one by one.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::host::ListenerHost;
use crate::{
    mesh::{model::Hostname, routing::model::RouteSet},
    visits::{self, Visit, Visited},
};

/// The routes of one Gateway, in the order given.
#[derive(Debug)]
pub struct BoundRoutes {
    sets: Vec<Arc<RouteSet>>,
    /// Hosts from the last letter to the first, without `*`: which of a set's hosts they are.
    by_end: BTreeMap<Vec<u8>, Vec<(usize, usize)>>,
    /// How long wildcards are without `*`.
    wildcards: BTreeSet<usize>,
}

impl BoundRoutes {
    /// Indexes routes.
    pub fn new(sets: Vec<Arc<RouteSet>>) -> Self {
        let (mut by_end, mut wildcards) = (BTreeMap::<_, Vec<_>>::new(), BTreeSet::new());
        for (at, set) in sets.iter().enumerate() {
            for (place, host) in set.hosts.iter().enumerate().visiting(Visited::Written) {
                by_end.entry(reversed(letters(host))).or_default().push((at, place));
                wildcards.extend(host.is_wildcard().then(|| letters(host).len()));
            }
        }
        Self { sets, by_end, wildcards }
    }

    /// Returns a set.
    pub fn set(&self, at: usize) -> &Arc<RouteSet> {
        &self.sets[at]
    }

    /// Returns the sets that may attach to one of these hosts, in order.
    pub fn attached(&self, hosts: &[ListenerHost]) -> impl Iterator<Item = &Arc<RouteSet>> {
        let attached: BTreeSet<usize> = hosts.iter().flat_map(|host| self.at(host)).map(|(at, _)| at).collect();
        attached.into_iter().map(|at| &self.sets[at])
    }

    /// Returns which sets may attach to a host, each with a name that they serve there.
    pub fn at<'a>(&'a self, of: &'a ListenerHost) -> impl Iterator<Item = (usize, &'a Hostname)> {
        let end = reversed(letters(&of.host));
        let from = self.by_end.range(end.clone()..);
        // What of a name is no wildcard covers only itself.
        let narrower = from.take_while(move |(host, _)| host.starts_with(&end)).take(if of.host.is_wildcard() { usize::MAX } else { 1 });
        let letters = letters(&of.host);
        let wider = self.wildcards.range(..letters.len()).filter_map(|length| {
            visits::count(Visited::Written, 1);
            self.by_end.get(&reversed(letters.get(letters.len() - length..)?))
        });
        let places = narrower.map(|(_, places)| places).chain(wider).flatten().visiting(Visited::Written);
        places.filter_map(|(at, place)| {
            let set = &self.sets[*at];
            Some((*at, of.shared(&set.namespace, &set.hosts[*place])?))
        })
    }
}

fn letters(host: &Hostname) -> &str {
    host.as_str().strip_prefix('*').unwrap_or(host.as_str())
}

fn reversed(letters: &str) -> Vec<u8> {
    letters.bytes().rev().collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        api::{Kind, Metadata, Object, ObjectKey, Spec, istio},
        mesh::{
            gateway::host::RoutesFrom,
            routing::istio::{Defaults, route_set},
        },
    };

    proptest! {
        #[test]
        fn it_finds_what_holding_each_against_each_finds(
            hosts in prop::collection::vec("\\*?[ab]{0,2}(\\.[ab]{1,2}){0,2}", 0..12),
            host in "\\*?[ab]{0,2}(\\.[ab]{1,2}){0,2}",
        ) {
            let spec = istio::VirtualService { hosts: hosts.iter().map(Into::into).collect(), ..Default::default() };
            let defaults = Defaults { domain: "cluster.local", export_to: &[] };
            let key = ObjectKey { cluster: "Kubernetes".into(), kind: Kind::VirtualService, namespace: "shop".into(), name: "a".into() };
            let metadata = Arc::new(Metadata::default());
            let object = Object { key, version: "1".into(), metadata, spec: Spec::VirtualService(Arc::new(spec.clone())) };
            prop_assume!(!hosts.is_empty());
            let mut set = route_set(&object, &spec, defaults, &|_| None, &|_| false).unwrap();
            set.hosts = hosts.iter().map(Hostname::new).collect();
            let bound = BoundRoutes::new(vec![Arc::new(set)]);
            let of = ListenerHost { host: Hostname::new(&host), routes_from: RoutesFrom::All };
            let found: BTreeSet<_> = bound.at(&of).map(|(_, host)| host.clone()).collect();
            let expected: BTreeSet<_> = bound.set(0).hosts.iter().filter_map(|host| of.shared("", host)).cloned().collect();
            prop_assert_eq!(found, expected);
        }
    }
}

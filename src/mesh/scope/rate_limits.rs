//! The RateLimitPolicies that hold for one workload, and at which of its ports.

use std::{collections::BTreeSet, sync::Arc};

use super::{ServiceTarget, gateways_for};
use crate::{
    api::istio::TargetRef,
    mesh::{
        by_ptr::ByPtr,
        configured::Configured,
        model::{Proxy, ProxyKind, Registry},
        rate_limit::{Named, PlacedLimit, RateLimitPolicy, counter, filter_name, global_filter_name, named},
        reach::Reach,
        world::{Gateway, World},
    },
};

/// A policy that holds for a workload.
#[derive(Clone, Debug)]
pub struct AppliedLimits {
    /// The policy.
    pub policy: ByPtr<Configured<RateLimitPolicy>>,
    /// The ports at which it holds; `None`: all.
    pub ports: Option<Arc<[u16]>>,
}

/// Returns the policies for a proxy's workload, the oldest first. `targets` are the service ports that it answers for.
pub fn workload_rate_limits(world: &World, proxy: &Proxy, targets: &[ServiceTarget]) -> Vec<AppliedLimits> {
    let table = &world.rate_limit_policies;
    if table.values().next().is_none() {
        return Vec::new();
    }
    let everywhere = table.applying(&world.mesh.root_namespace, &proxy.namespace, &proxy.labels);
    let gateways = if proxy.kind == ProxyKind::Gateway { gateways_for(world, &proxy.labels) } else { Vec::new() };
    let namespaces: BTreeSet<_> = gateways.iter().map(|gateway| &gateway.origin.object.namespace).chain([&proxy.namespace]).collect();
    let others = namespaces.into_iter().flat_map(|namespace| table.in_namespace(namespace));
    let at_ports = others.filter(|policy| !everywhere.iter().any(|known| Arc::ptr_eq(known, policy))).filter_map(|policy| {
        let ports = ports(policy, targets, &gateways);
        (!ports.is_empty()).then(|| AppliedLimits { policy: policy.into(), ports: Some(ports.into_iter().collect()) })
    });
    let mut found: Vec<_> = at_ports.collect();
    found.extend(everywhere.into_iter().map(|policy| AppliedLimits { policy: policy.into(), ports: None }));
    found.sort_by(|a, b| a.policy.precedence.cmp(&b.policy.precedence));
    found
}

/// Returns the workloads that a policy is for.
pub(in crate::mesh) fn rate_limit_reach(world: &World, policy: &Configured<RateLimitPolicy>) -> Vec<Reach> {
    let namespace = &policy.origin.object.namespace;
    let of_target = |target: &TargetRef| match named(target) {
        Named::Service(_) => Some(Reach::within(namespace)),
        Named::Gateway(name) => {
            let gateway = world.gateways.get(&(namespace.clone(), name.clone()))?;
            Some(Reach::selected(&gateway.spec.selector))
        }
        Named::GatewayPods => None,
    };
    let targets = policy.spec.target.refs.iter().filter_map(of_target);
    targets.chain([Reach::of(policy, &world.mesh.root_namespace)]).collect()
}

/// Returns what listeners read of the limits, in the order in which requests meet them: of a policy what the proxy counts itself, and
/// then what a service does.
pub fn placed_limits(world: &World, applied: &[AppliedLimits]) -> Vec<PlacedLimit> {
    let of = |applied: &AppliedLimits| {
        let (object, spec) = (&applied.policy.origin.object, &applied.policy.spec);
        let place = |filter, counter| PlacedLimit { filter, ports: applied.ports.clone(), counter };
        let local = spec.limits.iter().map(|limit| place(filter_name(object, limit), None));
        let global = spec.global.iter().map(|global| {
            let counter = (counter(object, global, &world.mesh.domain), global.port);
            place(global_filter_name(object), Some(counter))
        });
        local.chain(global).collect::<Vec<_>>()
    };
    applied.iter().flat_map(of).collect()
}

/// Returns the workload's ports that stand for what a policy names.
fn ports(policy: &Configured<RateLimitPolicy>, targets: &[ServiceTarget], gateways: &[Arc<Gateway>]) -> BTreeSet<u16> {
    let namespace = &policy.origin.object.namespace;
    let mut ports = BTreeSet::new();
    for target in &policy.spec.target.refs {
        match named(target) {
            Named::Service(name) => {
                let is_named = |of: &&ServiceTarget| {
                    of.service.registry == Registry::Kubernetes && (&of.service.namespace, &of.service.name) == (namespace, name)
                };
                ports.extend(targets.iter().filter(is_named).map(|of| of.target_port));
            }
            Named::Gateway(name) => {
                let is_named =
                    |gateway: &&Arc<Gateway>| (&gateway.origin.object.namespace, &gateway.origin.object.name) == (namespace, name);
                let servers = gateways.iter().filter(is_named).flat_map(|gateway| &gateway.spec.listeners);
                ports.extend(servers.flat_map(|server| listening(server.port, targets)));
            }
            Named::GatewayPods => {}
        }
    }
    ports
}

/// Returns where a gateway may listen for a server's port: where its Service leads, and there itself.
fn listening(port: u16, targets: &[ServiceTarget]) -> impl Iterator<Item = u16> {
    let leads = move |of: &&ServiceTarget| of.service.ports.get(of.port).is_some_and(|written| written.number == port);
    targets.iter().filter(leads).map(|of| of.target_port).chain([port])
}

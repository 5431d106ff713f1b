//! RateLimitPolicies that limit less than they look.

use std::{collections::BTreeSet, sync::Arc};

use smol_str::{SmolStr, format_smolstr};

use crate::{
    api::Diagnostic,
    mesh::{
        configured::Configured,
        model::{Hostname, Protocol, Registry, Service, ServiceKey},
        policy_table::Policy,
        rate_limit::{GlobalRateLimit, Named, RateLimitPolicy, counter, named},
        scope::Scope,
        world::World,
    },
    visits::{Visit, Visited},
};

pub(super) fn check(world: &World) -> Vec<Diagnostic> {
    world.rate_limit_policies.values().visiting(Visited::Object).flat_map(|policy| of(world, policy)).collect()
}

/// Returns what is doubtful about one policy.
pub(super) fn of(world: &World, policy: &Arc<Configured<RateLimitPolicy>>) -> Vec<Diagnostic> {
    let target = &policy.spec.target;
    let field = |index: usize| if target.single { "spec.targetRef".into() } else { format_smolstr!("spec.targetRefs[{index}]") };
    let missed = target.refs.iter().enumerate().filter_map(|(index, of)| Some((field(index), missed(world, policy, named(of))?)));
    let nobody = for_nobody(world, policy).map(|why| ("spec.selector".into(), why));
    let warning = |(field, why): (SmolStr, String)| Diagnostic::warning(field, why).of(&policy.origin.object);
    let mut found: Vec<Diagnostic> = missed.chain(nobody).map(warning).collect();
    found.extend(policy.spec.global.as_ref().and_then(|global| uncounted(world, policy, global)));
    found
}

/// Says of policies for proxies of a scope that these have no cluster for the service that counts: it is not exported to them, or their
/// Sidecar does not import it.
pub(super) fn not_imported(world: &World, scope: &Scope, (host, port): (&Hostname, u16)) -> Vec<Diagnostic> {
    let (root, namespace) = (&world.mesh.root_namespace, &scope.namespace);
    let near = [root, namespace].into_iter().collect::<BTreeSet<_>>();
    let policies = near.into_iter().flat_map(|namespace| world.rate_limit_policies.in_namespace(namespace)).visiting(Visited::Object);
    let found = policies.filter_map(|policy| {
        let global = policy.spec.global.as_ref()?;
        let object = &policy.origin.object;
        let asks = counter(object, global, &world.mesh.domain) == *host && global.port == port;
        if !asks || uncounted(world, policy, global).is_some() {
            return None;
        }
        let why = format!(
            "proxies of namespace {namespace} do not see {host} (it is not exported to them, or a Sidecar does not import it): {}",
            meanwhile(global)
        );
        Some(Diagnostic::warning("spec.global.service", why).of(object))
    });
    found.collect()
}

/// Returns why nobody counts for a policy. It is an error where requests would pass: whoever wrote the policy takes them to be limited.
fn uncounted(world: &World, policy: &Configured<RateLimitPolicy>, global: &GlobalRateLimit) -> Option<Diagnostic> {
    let object = &policy.origin.object;
    let host = counter(object, global, &world.mesh.domain);
    let port = global.port;
    let mut services = world.services_named(&host).peekable();
    let (field, why) = match services.peek() {
        None => ("spec.global.service", format!("there is no service {host}")),
        Some(_) => match services.find_map(|service| service.ports.iter().find(|written| written.number == port)) {
            None => ("spec.global.port", format!("{host} has no port {port}")),
            Some(written) if !written.protocol.is_http2() => {
                ("spec.global.port", format!("port {port} of {host} is not declared to speak gRPC (name it grpc, or grpc-…)"))
            }
            Some(_) => return None,
        },
    };
    let why = format!("{why}: {}", meanwhile(global));
    let found = if global.fail_closed { Diagnostic::warning(field, why) } else { Diagnostic::error(field, why) };
    Some(found.of(object))
}

fn meanwhile(global: &GlobalRateLimit) -> &'static str {
    if global.fail_closed {
        "requests get 500 until that is mended, as failClosed says"
    } else {
        "requests pass uncounted until that is mended (failClosed: true would refuse them)"
    }
}

/// Returns why a target has no requests that could be limited.
fn missed(world: &World, policy: &Configured<RateLimitPolicy>, target: Named<'_>) -> Option<String> {
    let namespace = &policy.origin.object.namespace;
    match target {
        Named::Service(name) => match service(world, namespace, name) {
            None => Some(format!("there is no Service {namespace}/{name}: nothing is limited there")),
            Some(service) if !service.ports.iter().any(|port| port.protocol.is_http() || port.protocol == Protocol::Auto) => {
                Some(format!("Service {namespace}/{name} has no port that speaks HTTP: nothing is limited there"))
            }
            Some(_) => None,
        },
        Named::Gateway(name) => {
            let known = world.gateways.get(&(namespace.clone(), name.clone())).is_some();
            (!known).then(|| format!("there is no Gateway.networking.istio.io {namespace}/{name}: nothing is limited there"))
        }
        Named::GatewayPods => None,
    }
}

fn service<'a>(world: &'a World, namespace: &SmolStr, name: &SmolStr) -> Option<&'a Arc<Service>> {
    let hostname = Hostname::new(format_smolstr!("{name}.{namespace}.svc.{}", world.mesh.domain));
    let service = world.services.get(&ServiceKey { hostname, namespace: namespace.clone() });
    service.filter(|service| service.registry == Registry::Kubernetes)
}

/// Returns why a policy with a selector limits nothing.
fn for_nobody(world: &World, policy: &Configured<RateLimitPolicy>) -> Option<String> {
    let ("spec.selector", wanted) = policy.spec.attachment().described()? else { return None };
    let root = &world.mesh.root_namespace;
    let own = policy.is_for_one_namespace(root).then(|| world.workloads_in(&policy.origin.object.namespace, ""));
    let all = own.is_none().then(|| world.workloads.values());
    let mut workloads = own.into_iter().flatten().chain(all.into_iter().flatten()).visiting(Visited::Object);
    let any = workloads.any(|workload| policy.is_for(root, &workload.namespace, &workload.labels));
    (!any).then(|| format!("no workload {wanted}: nothing is limited"))
}

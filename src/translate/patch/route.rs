//! Patches of route configurations, their virtual hosts and routes.

use envoy_types::pb::envoy::config::route::v3::{Route, RouteConfiguration, VirtualHost, route::Action};

use super::{
    list,
    run::{Patched, Run, Step},
};
use crate::mesh::{
    envoy_filter::{ApplyTo, ObjectMatch, Patch, PatchOperation, RouteAction, RouteConfigurationMatch, RouteMatch, VirtualHostMatch},
    policy::envoy_filter::Patches,
};

/// A route configuration, as far as patches tell them apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct TableIdentity {
    /// Its name.
    pub name: String,
    /// The ports of the servers that it is for, if it is a gateway's.
    pub servers: Option<Vec<u16>>,
}

/// Applies patches to a route configuration without its virtual hosts. Those that a patch brings are in it afterwards.
pub fn route_configuration_header(mut message: RouteConfiguration, of: &TableIdentity, patches: &Patches) -> Patched<RouteConfiguration> {
    let mut run = Run::of(patches);
    patch_header(&mut run, of, &mut message);
    run.end(Some(message))
}

/// Applies patches to a virtual host of a route configuration.
pub fn virtual_host(mut message: VirtualHost, of: &TableIdentity, patches: &Patches) -> Patched<VirtualHost> {
    let mut run = Run::of(patches);
    let is_kept = patch_host(&mut run, of, &mut message);
    run.end(is_kept.then_some(message))
}

/// Returns the virtual host that a patch adds to a route configuration, if it does.
pub fn added_host(of: &TableIdentity, patches: &Patches) -> Patched<VirtualHost> {
    let mut run = Run::of(patches);
    let adding = run.steps(ApplyTo::VirtualHost).find(|step| step.patch.operation == PatchOperation::Add && of.fits(step.patch));
    let host = adding.and_then(|step| {
        let host = run.value(step)?;
        run.applied(step);
        Some(host)
    });
    run.end(host)
}

/// Applies patches to a route configuration that stands in a listener.
pub(super) fn patch_whole(run: &mut Run<'_>, message: &mut RouteConfiguration) {
    let of = TableIdentity { name: message.name.clone(), servers: None };
    patch_header(run, &of, message);
    message.virtual_hosts.retain_mut(|host| patch_host(run, &of, host));
    for step in run.steps(ApplyTo::VirtualHost) {
        if step.patch.operation == PatchOperation::Add
            && of.fits(step.patch)
            && let Some(host) = run.value(step)
        {
            message.virtual_hosts.push(host);
            run.applied(step);
        }
    }
}

fn patch_header(run: &mut Run<'_>, of: &TableIdentity, message: &mut RouteConfiguration) {
    for step in run.steps(ApplyTo::RouteConfiguration).filter(|step| of.fits(step.patch)) {
        run.merge_named(step, message, |routes| &routes.name);
    }
}

/// Returns whether the host is kept.
fn patch_host(run: &mut Run<'_>, of: &TableIdentity, host: &mut VirtualHost) -> bool {
    for step in run.steps(ApplyTo::VirtualHost).filter(|step| of.fits(step.patch)) {
        if !fits_host(step.patch, host) {
            continue;
        }
        match step.patch.operation {
            PatchOperation::Remove => {
                run.applied(step);
                return false;
            }
            PatchOperation::Merge => _ = run.merge(step, host),
            PatchOperation::Replace => {
                if let Some(value) = run.value(step) {
                    *host = value;
                    run.applied(step);
                }
            }
            _ => {}
        }
    }
    patch_routes(run, of, host);
    true
}

/// Merges and removes routes, then adds some: those that are removed are nothing beside which others could stand.
fn patch_routes(run: &mut Run<'_>, of: &TableIdentity, host: &mut VirtualHost) {
    let steps: Vec<Step<'_>> = run.steps(ApplyTo::HttpRoute).filter(|step| of.fits(step.patch) && fits_host(step.patch, host)).collect();
    host.routes.retain_mut(|route| patch_route(run, &steps, route));
    for step in steps {
        let named = named_route(step.patch);
        let is_named = |route: &Route| named.is_some_and(|of| fits_route(of, route));
        let is_first = step.patch.operation == PatchOperation::InsertFirst;
        let is_there = named.is_none() || host.routes.iter().any(is_named);
        if matches!(step.patch.operation, PatchOperation::Remove | PatchOperation::Replace) || (is_first && !is_there) {
            continue;
        }
        list::change(run, step, &mut host.routes, named.map(|_| &is_named as &dyn Fn(&Route) -> bool));
    }
}

/// Returns whether the route is kept.
fn patch_route(run: &mut Run<'_>, steps: &[Step<'_>], route: &mut Route) -> bool {
    for step in steps {
        if named_route(step.patch).is_some_and(|of| !fits_route(of, route)) {
            continue;
        }
        match step.patch.operation {
            PatchOperation::Remove => {
                run.applied(*step);
                return false;
            }
            PatchOperation::Merge => _ = run.merge(*step, route),
            _ => {}
        }
    }
    true
}

impl TableIdentity {
    /// Returns whether a patch is for this route configuration, or for something in it.
    fn fits(&self, patch: &Patch) -> bool {
        let Some(of) = route_match(patch) else { return true };
        if !of.name.is_empty() && of.name != self.name {
            return false;
        }
        match &self.servers {
            None => of.port == 0 || of.port == self.port(),
            Some(servers) => {
                let (port_name, gateway) = self.https_server();
                (of.port == 0 || servers.iter().any(|port| u32::from(*port) == of.port))
                    && (of.port_name.is_empty() || of.port_name == port_name)
                    && (of.gateway.is_empty() || of.gateway == gateway)
            }
        }
    }

    /// Returns the port that a sidecar's route configuration is named by: `80`, `inbound|80||`.
    fn port(&self) -> u32 {
        let number = self.name.strip_prefix("inbound|").and_then(|rest| rest.split('|').next()).unwrap_or(&self.name);
        number.parse().unwrap_or_default()
    }

    /// Returns the port's name, and the Gateway as `namespace/name`, of `https.<port>.<port name>.<gateway>.<namespace>`.
    fn https_server(&self) -> (String, String) {
        let parts: Vec<&str> = self.name.split('.').collect();
        match parts[..] {
            ["https", _, port_name, gateway, namespace] => (port_name.to_owned(), format!("{namespace}/{gateway}")),
            _ => Default::default(),
        }
    }
}

fn route_match(patch: &Patch) -> Option<&RouteConfigurationMatch> {
    match &patch.object {
        Some(ObjectMatch::RouteConfiguration(of)) => Some(of),
        _ => None,
    }
}

fn fits_host(patch: &Patch, host: &VirtualHost) -> bool {
    let Some(VirtualHostMatch { name, domain, .. }) = route_match(patch).and_then(|of| of.host.as_ref()) else { return true };
    (name.is_empty() || host.name == *name) && (domain.is_empty() || host.domains.iter().any(|own| own == domain))
}

fn named_route(patch: &Patch) -> Option<&RouteMatch> {
    route_match(patch)?.host.as_ref()?.route.as_ref()
}

fn fits_route(of: &RouteMatch, route: &Route) -> bool {
    let action = match &route.action {
        Some(Action::Route(_)) => Some(RouteAction::Route),
        Some(Action::Redirect(_)) => Some(RouteAction::Redirect),
        Some(Action::DirectResponse(_)) => Some(RouteAction::DirectResponse),
        _ => None,
    };
    // As in istiod, others than these are of any action.
    let is_of_action = of.action.is_none() || action.is_none() || of.action == action;
    is_of_action && (of.name.is_empty() || route.name == of.name)
}

//! Patches of listeners, their listener filters and their filter chains.

use envoy_types::pb::envoy::config::listener::v3::{FilterChain, Listener, ListenerFilter, listener_filter::ConfigType};

use super::{
    cluster::merge_config,
    list,
    matching::{self, Place},
    merge::merge_any,
    network_filters::{patch_network_filters, patch_own_routes},
    run::{Patched, Run, Step},
};
use crate::mesh::{
    envoy_filter::{ApplyTo, PatchOperation},
    policy::envoy_filter::Patches,
};

/// Applies patches to a listener, and those of routes to the routes in it.
pub fn listener(mut message: Listener, patches: &Patches) -> Patched<Listener> {
    let mut run = Run::of(patches);
    for chain in message.filter_chains.iter_mut().chain(&mut message.default_filter_chain) {
        patch_own_routes(&mut run, chain);
    }
    let is_kept = patch(&mut run, &mut message);
    run.end(is_kept.then_some(message))
}

/// Returns whether the listener is kept.
fn patch(run: &mut Run<'_>, message: &mut Listener) -> bool {
    for step in run.steps(ApplyTo::Listener) {
        if !Place::of(message).fits(step.patch) {
            continue;
        }
        match step.patch.operation {
            PatchOperation::Remove => {
                run.applied(step);
                return false;
            }
            PatchOperation::Merge => run.merge_named(step, message, |listener| &listener.name),
            _ => {}
        }
    }
    let place = Place::of(message);
    for step in run.steps(ApplyTo::ListenerFilter).filter(|step| place.fits(step.patch)) {
        patch_listener_filters(run, step, &mut message.listener_filters);
    }
    patch_chains(run, &place, message);
    true
}

fn patch_listener_filters(run: &mut Run<'_>, step: Step<'_>, filters: &mut Vec<ListenerFilter>) {
    let named = matching::listener_filter(step.patch);
    let is_named = |filter: &ListenerFilter| named.is_some_and(|name| filter.name == name);
    if step.patch.operation == PatchOperation::Merge {
        filters.iter_mut().filter(|filter| is_named(filter)).for_each(|filter| merge_listener_filter(run, step, filter));
        return;
    }
    list::change(run, step, filters, named.map(|_| &is_named as &dyn Fn(&ListenerFilter) -> bool));
}

fn merge_listener_filter(run: &mut Run<'_>, step: Step<'_>, filter: &mut ListenerFilter) {
    let Some(value) = run.value::<ListenerFilter>(step) else { return };
    let (Some(ConfigType::TypedConfig(own)), Some(ConfigType::TypedConfig(other))) = (&filter.config_type, &value.config_type) else {
        return run.failed(step, "needs a typed_config, in the filter and in the patch");
    };
    match merge_any(own, other) {
        Ok(merged) => {
            filter.config_type = Some(ConfigType::TypedConfig(merged));
            run.applied(step);
        }
        Err(why) => run.failed(step, why),
    }
}

fn patch_chains(run: &mut Run<'_>, place: &Place, message: &mut Listener) {
    message.filter_chains.retain_mut(|chain| patch_chain(run, place, chain));
    message.default_filter_chain =
        message.default_filter_chain.take().and_then(|mut chain| patch_chain(run, place, &mut chain).then_some(chain));
    for step in run.steps(ApplyTo::FilterChain) {
        if step.patch.operation != PatchOperation::Add || !place.fits(step.patch) {
            continue;
        }
        match run.value::<FilterChain>(step) {
            Some(chain) if chain.filters.is_empty() => run.failed(step, "has no filters"),
            Some(chain) => {
                message.filter_chains.push(chain);
                run.applied(step);
            }
            None => {}
        }
    }
}

/// Returns whether the chain is kept.
fn patch_chain(run: &mut Run<'_>, place: &Place, chain: &mut FilterChain) -> bool {
    for step in run.steps(ApplyTo::FilterChain) {
        if !place.fits(step.patch) || !place.fits_chain(step.patch, chain) {
            continue;
        }
        match step.patch.operation {
            PatchOperation::Remove => {
                run.applied(step);
                return false;
            }
            PatchOperation::Merge => merge_chain(run, step, chain),
            _ => {}
        }
    }
    patch_network_filters(run, place, chain);
    true
}

/// Merges a chain. As in istiod, nothing else counts of a patch with a transport socket that is there already.
fn merge_chain(run: &mut Run<'_>, step: Step<'_>, chain: &mut FilterChain) {
    let Some(value) = run.value::<FilterChain>(step) else { return };
    match (&mut chain.transport_socket, &value.transport_socket) {
        (Some(own), Some(other)) if own.name == other.name => match merge_config(own, other) {
            Ok(()) => run.applied(step),
            Err(why) => run.failed(step, why),
        },
        _ => _ = run.merge(step, chain),
    }
}

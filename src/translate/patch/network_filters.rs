//! Patches of the network filters of a chain.

use envoy_types::pb::{
    envoy::{
        config::listener::v3::{Filter, FilterChain, filter::ConfigType},
        extensions::filters::network::http_connection_manager::v3::{HttpConnectionManager, http_connection_manager::RouteSpecifier},
    },
    google::protobuf::Any,
};
use prost::{Message, Name};

use super::{
    http_filters::patch_http_filters,
    list,
    matching::{self, Place},
    route::patch_whole,
    run::{Run, Step},
};
use crate::mesh::envoy_filter::{ApplyTo, PatchOperation};

const CONNECTION_MANAGER: &str = "envoy.filters.network.http_connection_manager";

/// Applies the patches of routes to those that stand in the chain itself.
pub(super) fn patch_own_routes(run: &mut Run<'_>, chain: &mut FilterChain) {
    if ![ApplyTo::RouteConfiguration, ApplyTo::VirtualHost, ApplyTo::HttpRoute].into_iter().any(|apply_to| run.has(apply_to)) {
        return;
    }
    for filter in &mut chain.filters {
        change_manager(filter, |manager| {
            if let Some(RouteSpecifier::RouteConfig(routes)) = &mut manager.route_specifier {
                patch_whole(run, routes);
            }
        });
    }
}

pub(super) fn patch_network_filters(run: &mut Run<'_>, place: &Place, chain: &mut FilterChain) {
    let fitting = |step: &Step<'_>, chain: &FilterChain| place.fits(step.patch) && place.fits_chain(step.patch, chain);
    for step in run.steps(ApplyTo::NetworkFilter) {
        if !fitting(&step, chain) {
            continue;
        }
        let named = matching::network_filter(step.patch);
        let is_named = |filter: &Filter| named.is_some_and(|name| filter.name == name);
        list::change(run, step, &mut chain.filters, named.map(|_| &is_named as &dyn Fn(&Filter) -> bool));
    }
    let merging: Vec<Step<'_>> = run.steps(ApplyTo::NetworkFilter).filter(|step| fitting(step, chain)).collect();
    let of_http: Vec<Step<'_>> = run.steps(ApplyTo::HttpFilter).filter(|step| fitting(step, chain)).collect();
    for filter in &mut chain.filters {
        for step in merging.iter().filter(|step| step.patch.operation == PatchOperation::Merge) {
            if matching::network_filter(step.patch).is_none_or(|name| name == filter.name) {
                merge_filter(run, *step, filter);
            }
        }
        let is_for = |step: &&Step<'_>| matching::network_filter(step.patch).is_none_or(|name| name == filter.name);
        let of_http: Vec<Step<'_>> = of_http.iter().filter(is_for).copied().collect();
        if !of_http.is_empty() && filter.name == CONNECTION_MANAGER {
            change_manager(filter, |manager| patch_http_filters(run, &of_http, &mut manager.http_filters));
        }
    }
}

fn merge_filter(run: &mut Run<'_>, step: Step<'_>, filter: &mut Filter) {
    // That a filter finds its configuration elsewhere is no mistake of a patch for all filters.
    let Some(ConfigType::TypedConfig(own)) = &mut filter.config_type else { return };
    let Some(value) = run.value::<Filter>(step) else { return };
    let other = match value.config_type {
        Some(ConfigType::TypedConfig(other)) => Some(other),
        _ => None,
    };
    run.merge_filter(step, (&mut filter.name, own), (value.name, other));
}

/// Changes the connection manager that a filter is, if it is one.
fn change_manager(filter: &mut Filter, change: impl FnOnce(&mut HttpConnectionManager)) {
    let Some(ConfigType::TypedConfig(config)) = &mut filter.config_type else { return };
    if config.type_url != HttpConnectionManager::type_url() {
        return;
    }
    let Ok(before) = HttpConnectionManager::decode(&config.value[..]) else { return };
    let mut manager = before.clone();
    change(&mut manager);
    if manager != before {
        *config = Any { type_url: HttpConnectionManager::type_url(), value: manager.encode_to_vec() };
    }
}

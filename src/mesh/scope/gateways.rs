//! What a gateway proxy serves: Gateways that select it and the routes bound to them.

use std::sync::Arc;

use crate::{
    api::selects,
    mesh::{
        model::Labels,
        routing::model::{GatewayRef, RouteSet},
        world::{Gateway, World},
    },
    visits::{Visit, Visited},
};

/// Returns the Gateways whose selector matches a proxy's labels, the oldest first. Gateways select in all namespaces
/// (contract §6.5); one without a selector selects every gateway proxy.
pub fn gateways_for(world: &World, labels: &Labels) -> Vec<Arc<Gateway>> {
    let selecting = world.gateways.values().visiting(Visited::Object).filter(|gateway| selects(&gateway.spec.selector, labels));
    let mut found: Vec<Arc<Gateway>> = selecting.cloned().collect();
    found.sort_by(|a, b| a.precedence.cmp(&b.precedence));
    found
}

/// Returns the routes bound to a Gateway that proxies of `namespace` may use: private before exported to it before
/// public, each the oldest first (contract §6.2).
pub fn routes_for_gateway(world: &World, namespace: &str, gateway: &GatewayRef) -> Vec<Arc<RouteSet>> {
    let bound = world.routes_by_gateway.get(gateway).into_iter().flat_map(|listed| listed.iter());
    let mut found: Vec<Arc<RouteSet>> =
        bound.visiting(Visited::Route).filter(|routes| routes.export_to.allows(namespace)).cloned().collect();
    found.sort_by(|a, b| a.order().cmp(&b.order()));
    found
}

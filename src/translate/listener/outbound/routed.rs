//! The chains that TLS and TCP routes ask for on a port. All services of a VirtualService share them.

use std::{collections::HashMap, sync::Arc};

use smol_str::SmolStr;

use super::merge::Claim;
use crate::mesh::{model::Protocol, routing::model::RouteSet};

/// Chains by what they depend on.
#[derive(Default)]
pub(super) struct RoutedChains(HashMap<Key, OfRoutes>);

/// The routes, by their address, and what of a service counts.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    sets: Vec<*const RouteSet>,
    networks: Vec<SmolStr>,
    protocol: Protocol,
}

/// The chains of some routes.
pub(super) struct OfRoutes {
    pub(super) chains: Arc<[Claim]>,
    /// Whether nothing is left to a chain of the service itself.
    pub(super) take_all: bool,
}

impl RoutedChains {
    /// Returns the chains of these routes, which `make` makes if they are not known.
    pub(super) fn get(
        &mut self,
        sets: &[&Arc<RouteSet>],
        networks: &[SmolStr],
        protocol: Protocol,
        make: impl FnOnce() -> OfRoutes,
    ) -> &OfRoutes {
        let sets = sets.iter().map(|set| Arc::as_ptr(set)).collect();
        self.0.entry(Key { sets, networks: networks.to_vec(), protocol }).or_insert_with(make)
    }
}

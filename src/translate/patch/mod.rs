//! Patches of EnvoyFilters, on messages that are built already (contract §6.8).
//!
//! They are applied as istiod applies them: those of a listener before those of its chains, these before those of their filters;
//! among equals in the order of the filters that they are from. One that cannot be applied is left out, and says why.

mod cluster;
mod http_filters;
mod list;
mod listener;
mod matching;
mod merge;
mod network_filters;
mod route;
mod run;
#[cfg(test)]
mod tests;

pub use self::{
    cluster::cluster,
    listener::listener,
    matching::fits_cluster,
    route::{TableIdentity, added_host, route_configuration_header, virtual_host},
    run::{Failure, Patched},
};

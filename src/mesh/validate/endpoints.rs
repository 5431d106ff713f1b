//! Endpoints that are written and that no proxy is sent.

use crate::{
    api::Diagnostic,
    mesh::{
        model::{Unusable, UnusedEndpoint},
        world::World,
    },
    visits::{Visit, Visited},
};

pub(super) fn check(world: &World) -> Vec<Diagnostic> {
    world.unused_endpoints.values().flat_map(|unused| unused.iter()).visiting(Visited::Object).map(told).collect()
}

fn told(UnusedEndpoint { object, field, host, reason }: &UnusedEndpoint) -> Diagnostic {
    let message = match reason {
        Unusable::Address(address) => {
            format!("{host} has endpoints by IP address: {address} is none of them (resolution DNS, of a ServiceEntry, takes names)")
        }
        Unusable::Port(name) => format!("has no port {name}, which is the targetPort of a port of {host}: it is no endpoint for that"),
        Unusable::FoundByDns(first) => {
            format!(
                "{host} is defined by {first} too, which goes first and finds no endpoint by DNS: names among the endpoints of this one are not used"
            )
        }
        Unusable::OneOf(all, port) => {
            format!("{host} has {all} endpoints for port {port}, of which proxies take one with DNS_ROUND_ROBIN: use DNS for all")
        }
    };
    Diagnostic::warning(field.clone(), message).of(object)
}

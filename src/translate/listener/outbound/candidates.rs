//! Finds the services that are looked at for a port.

use std::{collections::HashMap, sync::Arc};

use crate::{
    mesh::{
        model::Service,
        scope::{EgressScope, Scope},
    },
    visits::{Visit, Visited},
};

/// The services to look at for a port, the oldest first, by the index of their egress listener.
pub(super) type Candidates<'a> = Vec<(usize, Vec<&'a Arc<Service>>)>;

pub(super) fn candidates(scope: &Scope, port: u16) -> Candidates<'_> {
    let of = |egress: &'_ EgressScope| matches!(port_of(egress), None | Some(0));
    let scopes = scope.egress.iter().enumerate().filter(|(_, egress)| port_of(egress).is_none_or(|wanted| wanted == port));
    let found = scopes.map(|(index, egress)| {
        let services = egress.services.values().visiting(Visited::Service);
        let services = services.filter(|service| service.port(port).is_some() || (port == 0 && of(egress) && port_of(egress).is_some()));
        (index, by_age(services.collect()))
    });
    found.collect()
}

pub(super) fn all_candidates(scope: &Scope) -> HashMap<u16, Candidates<'_>> {
    let mut all = HashMap::<u16, Candidates<'_>>::new();
    for (index, egress) in scope.egress.iter().enumerate() {
        let services = by_age(egress.services.values().visiting(Visited::Service).collect());
        if let Some(port) = port_of(egress) {
            let services = services.into_iter().filter(|service| port == 0 || service.port(port).is_some());
            all.entry(port).or_default().push((index, services.collect()));
            continue;
        }
        for service in services {
            for port in service.ports.iter().visiting(Visited::Port) {
                let candidates = all.entry(port.number).or_default();
                match candidates.last_mut() {
                    Some((last, services)) if *last == index => services.push(service),
                    _ => candidates.push((index, vec![service])),
                }
            }
        }
    }
    all
}

fn port_of(egress: &EgressScope) -> Option<u16> {
    egress.listener.as_ref()?.port
}

fn by_age(mut services: Vec<&Arc<Service>>) -> Vec<&Arc<Service>> {
    services.sort_by(|one, other| (&one.precedence, &one.hostname).cmp(&(&other.precedence, &other.hostname)));
    services
}

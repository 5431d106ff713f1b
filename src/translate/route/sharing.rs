//! What keeps routes that many hosts, ports and servers have in common from being sent as often.

use smol_str::SmolStr;

use crate::{
    mesh::{
        model::{HostIndex, Hostname},
        routing::{selection::HttpSelection, weight::is_too_much},
        scope::EgressScope,
    },
    visits::{Visit, Visited},
};

/// The same routes may be repeated in a table until they take so many bytes.
pub(super) const FEW_ROUTES: usize = 4 << 20;

/// Returns hosts of the same routes as they stand in a table: each by itself, as in Istio, unless the same routes would then be
/// repeated very often.
pub(super) fn united(claims: Vec<(&Hostname, Vec<SmolStr>)>, weight: usize) -> Vec<(&Hostname, Vec<SmolStr>)> {
    let Some((first, _)) = claims.first().filter(|_| claims.len().saturating_mul(weight) > FEW_ROUTES) else { return claims };
    vec![(*first, claims.iter().flat_map(|(_, domains)| domains).cloned().collect())]
}

/// Returns whether these are too many routes for the tables of all ports that its hosts have at this listener, whose services have
/// so many `ports`.
pub(super) fn is_too_much_at(egress: &EgressScope, ports: usize, selection: &HttpSelection) -> bool {
    let weight = selection.weight();
    if weight.saturating_mul(ports) <= FEW_ROUTES {
        return false;
    }
    let services = &egress.services;
    let (wildcards, names): (Vec<_>, Vec<_>) = selection.routes.hosts.iter().partition(|host| host.is_wildcard());
    let wildcards: HostIndex = wildcards.iter().map(|host| host.as_str()).collect();
    let named = names.into_iter().filter_map(|host| services.get(host));
    let all = (!wildcards.is_empty()).then(|| services.values().visiting(Visited::Service)).into_iter().flatten();
    let covered = all.filter(|service| wildcards.covering(service.hostname.as_str()).is_some());
    is_too_much(weight, named.chain(covered).map(|service| &**service))
}

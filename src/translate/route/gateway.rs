//! The route tables of gateways (contract §3.7).

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use smol_str::format_smolstr;

use super::{Content, RouteTable, VirtualHostInput};
use crate::{
    mesh::{
        model::Hostname,
        routing::{
            model::{GatewayRef, RouteSet},
            selection::{Client, HttpSelection, RouteContext},
        },
        scope::Scope,
        settings::MeshSettings,
    },
    translate::{
        input::ProxyClass,
        listener::{
            Onward, Reason, Refused,
            gateway::{GatewayRouteTable, RoutedServer},
        },
    },
    visits::{Visit, Visited},
};

/// A route table of a gateway.
#[derive(Debug)]
pub struct GatewayTable {
    /// The table.
    pub table: RouteTable,
    /// The servers of which no host has routes.
    pub unrouted: Vec<Refused>,
}

/// Returns the virtual hosts of a gateway's route table. `routes` are the VirtualServices of the gateways that the table's
/// servers belong to, the oldest first.
///
/// Hosts with the same routes share a virtual host; the routes of several VirtualServices for one host follow each
/// other, those that take everything last. What a server itself says of its hosts (`httpsRedirect`) holds whether or not a
/// route leads to them.
pub fn gateway_table(
    scope: &Scope,
    class: &ProxyClass,
    mesh: &Arc<MeshSettings>,
    servers: &GatewayRouteTable,
    routes: &[Arc<RouteSet>],
) -> GatewayTable {
    let tls = servers.name.starts_with("https.");
    let mut entries: BTreeMap<HostOrder, Entry> = BTreeMap::new();
    let mut unrouted = Vec::new();
    for server in &servers.servers {
        let at = GatewayRef::of(&server.origin.object);
        let mut leads_on = server.https_redirect;
        for routes in routes.iter().visiting(Visited::Route) {
            if !routes.applies_at(&at) {
                continue;
            }
            let hosts = served(server, routes);
            if hosts.is_empty() {
                continue;
            }
            let client = Client { namespace: &class.namespace, labels: &class.labels };
            let context = RouteContext { port: server.port, gateway: &at, client: Some(client) };
            let Some(selection) = HttpSelection::of(routes, &context, scope.backends()) else { continue };
            leads_on = true;
            for host in hosts {
                let entry = entries.entry(HostOrder::of(host)).or_insert_with(|| Entry::new(server));
                entry.require_tls |= server.https_redirect;
                // Two servers that serve the host mostly bring the same routes; of different Gateways they need not.
                if !entry.selections.contains(&selection) {
                    entry.selections.push(selection.clone());
                }
            }
        }
        if server.https_redirect {
            for of in &server.hosts {
                entries.entry(HostOrder::of(of.host.clone())).or_insert_with(|| Entry::new(server)).require_tls = true;
            }
        }
        if !leads_on {
            unrouted.push(Refused::new(&server.origin, server.field.clone(), Reason::LeadsNowhere(server.port, Onward::Http)));
        }
    }
    let hosts = if entries.is_empty() { vec![black_hole(servers)] } else { share(entries, mesh, tls) };
    GatewayTable { table: RouteTable { name: servers.name.clone(), hosts, lost: Vec::new() }, unrouted }
}

/// Longest first, then by alphabet, wildcards last.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct HostOrder {
    wildcard: bool,
    longest: Reverse<usize>,
    host: Hostname,
}

impl HostOrder {
    fn of(host: Hostname) -> Self {
        Self { wildcard: host.is_wildcard(), longest: Reverse(host.as_str().len()), host }
    }
}

struct Entry {
    port: u16,
    selections: Vec<HttpSelection>,
    require_tls: bool,
}

impl Entry {
    fn new(server: &RoutedServer) -> Self {
        Self { port: server.port, selections: Vec::new(), require_tls: false }
    }
}

// The hosts of the VirtualService that the server serves; where one is wider, the narrower counts.
fn served(server: &RoutedServer, routes: &RouteSet) -> Vec<Hostname> {
    let mut hosts: Vec<Hostname> = Vec::new();
    for of in &server.hosts {
        for narrower in routes.hosts.iter().filter_map(|host| of.shared(&routes.namespace, host)) {
            if !hosts.contains(narrower) {
                hosts.push(narrower.clone());
            }
        }
    }
    hosts
}

fn share(entries: BTreeMap<HostOrder, Entry>, mesh: &Arc<MeshSettings>, tls: bool) -> Vec<VirtualHostInput> {
    let mut hosts: Vec<VirtualHostInput> = Vec::new();
    for (HostOrder { host, .. }, entry) in entries {
        let single = entry.selections.len() <= 1;
        let content = Content::Routes { mesh: mesh.into(), selections: entry.selections, tls, require_tls: entry.require_tls };
        let same = hosts.iter_mut().find(|input| single && input.content == content);
        match same {
            Some(input) => input.domains.push(host.text().clone()),
            None => {
                hosts.push(VirtualHostInput { name: format_smolstr!("{host}:{}", entry.port), domains: vec![host.text().clone()], content })
            }
        }
    }
    hosts.sort_by(|a, b| a.name.cmp(&b.name));
    hosts
}

fn black_hole(servers: &GatewayRouteTable) -> VirtualHostInput {
    let port = servers.servers.first().map_or(0, |server| server.port);
    VirtualHostInput { name: format_smolstr!("blackhole:{port}"), domains: vec!["*".into()], content: Content::BlackHole }
}

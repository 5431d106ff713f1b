//! The route tables of gateways (contract §3.7).

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use smol_str::format_smolstr;

use super::{Content, RouteTable, VirtualHostInput, sharing::FEW_ROUTES};
use crate::{
    mesh::{
        by_ptr::ByPtr,
        gateway::{BoundRoutes, ListenerHost},
        model::{Hostname, ObjectKey},
        routing::{
            model::{GatewayRef, RouteSet},
            selection::{Client, HttpSelection, RouteContext},
            weight::MOST_OF_ROUTES,
        },
        scope::Scope,
        settings::MeshSettings,
    },
    translate::{
        input::{ProxyClass, RouteTraits},
        listener::{
            Onward, Reason, Refused,
            gateway::{GatewayRouteTable, RoutedServer},
        },
    },
};

/// The route tables of a gateway.
#[derive(Debug)]
pub struct GatewayTables {
    /// The tables.
    pub tables: Vec<RouteTable>,
    /// Servers of which no host has routes, and routes that are too many for their servers.
    pub refused: BTreeSet<Refused>,
}

/// Returns the virtual hosts of a gateway's route tables. `routes_for` are the VirtualServices of a Gateway.
///
/// Hosts with the same routes share a virtual host; the routes of several VirtualServices for one host follow each
/// other, those that take everything last. What a server itself says of its hosts (`httpsRedirect`) holds whether or not a
/// route leads to them.
pub fn gateway_tables(
    scope: &Scope,
    class: &ProxyClass,
    mesh: &Arc<MeshSettings>,
    tables: &[GatewayRouteTable],
    routes_for: impl Fn(&GatewayRef) -> Vec<Arc<RouteSet>>,
) -> GatewayTables {
    let mut gateways = Gateways { scope, class, bound: BTreeMap::new(), selections: HashMap::new() };
    for server in tables.iter().flat_map(|table| &table.servers) {
        gateways.bind(&server.origin.object, &routes_for);
    }
    let mut refused = BTreeSet::new();
    let entries: Vec<_> = tables.iter().map(|table| gateways.entries(table, &mut refused)).collect();
    let closed = too_much(&entries);
    refused.extend(closed.iter().map(|(set, port)| Refused::new(&set.origin, "spec.http", Reason::TooManyRoutes(*port))));
    let tables = tables.iter().zip(entries).map(|(servers, entries)| {
        let tls = servers.name.starts_with("https.");
        let hosts =
            if entries.is_empty() { vec![black_hole(servers, class.routes)] } else { share(entries, &closed, mesh, class.routes, tls) };
        RouteTable { name: servers.name.clone(), hosts, lost: Vec::new(), servers: Some(ports(servers)) }
    });
    GatewayTables { tables: tables.collect(), refused }
}

/// Returns the ports of the servers that a table is for.
fn ports(table: &GatewayRouteTable) -> Vec<u16> {
    let ports: BTreeSet<u16> = table.servers.iter().map(|server| server.port).collect();
    ports.into_iter().collect()
}

/// The rules of a set that apply, if any do, by Gateway.
type Selections<'a> = BTreeMap<Option<&'a ObjectKey>, Option<Arc<HttpSelection>>>;

/// What is known of the Gateways that the tables' servers belong to.
struct Gateways<'a> {
    scope: &'a Scope,
    class: &'a ProxyClass,
    bound: BTreeMap<&'a ObjectKey, (GatewayRef, BoundRoutes)>,
    /// Rules by set, port and, where a match asks for it, Gateway. Equal ones of a set and port are one value.
    selections: HashMap<(ByPtr<RouteSet>, u16), Selections<'a>>,
}

impl<'a> Gateways<'a> {
    fn bind(&mut self, gateway: &'a ObjectKey, routes_for: &impl Fn(&GatewayRef) -> Vec<Arc<RouteSet>>) {
        self.bound.entry(gateway).or_insert_with(|| {
            let at = GatewayRef::of(gateway);
            let mut sets = routes_for(&at);
            sets.sort_by(|a, b| a.precedence.cmp(&b.precedence));
            (at, BoundRoutes::new(sets))
        });
    }

    /// Returns what a table has for each host.
    fn entries(&mut self, table: &'a GatewayRouteTable, refused: &mut BTreeSet<Refused>) -> BTreeMap<HostOrder, Entry> {
        let mut entries: BTreeMap<HostOrder, Entry> = BTreeMap::new();
        // What was found for a host of a server holds for the same host of another.
        let mut found: HashMap<(&ObjectKey, u16, bool, &ListenerHost), bool> = HashMap::new();
        for server in &table.servers {
            let key = |host| (&server.origin.object, server.port, server.https_redirect, host);
            let (known, new): (Vec<_>, Vec<_>) = server.hosts.iter().partition(|host| found.contains_key(&key(*host)));
            let mut leads_on = server.https_redirect || known.iter().any(|host| found.get(&key(*host)) == Some(&true));
            let leading = self.serve(server, &new, &mut entries);
            leads_on |= !leading.is_empty();
            found.extend(new.into_iter().enumerate().map(|(at, host)| (key(host), leading.contains(&at))));
            if server.https_redirect {
                for of in &server.hosts {
                    entries.entry(HostOrder::of(of.host.clone())).or_insert_with(|| Entry::new(server)).require_tls = true;
                }
            }
            if !leads_on {
                refused.insert(Refused::new(&server.origin, server.field.clone(), Reason::LeadsNowhere(server.port, Onward::Http)));
            }
        }
        entries
    }

    /// Adds the routes for some hosts of a server; returns which of these have any.
    fn serve(&mut self, server: &'a RoutedServer, hosts: &[&ListenerHost], entries: &mut BTreeMap<HostOrder, Entry>) -> BTreeSet<usize> {
        let mut leading = BTreeSet::new();
        let gateway = &server.origin.object;
        let Some((at, bound)) = self.bound.get(gateway) else { return leading };
        let mut served: BTreeMap<usize, BTreeMap<HostOrder, BTreeSet<usize>>> = BTreeMap::new();
        for (place, of) in hosts.iter().enumerate() {
            for (set, host) in bound.at(of) {
                served.entry(set).or_default().entry(HostOrder::of(host.clone())).or_default().insert(place);
            }
        }
        for (set, hosts) in served {
            let routes = bound.set(set);
            let client = Client { namespace: &self.class.namespace, labels: &self.class.labels };
            let context = RouteContext { port: server.port, gateway: at, client: Some(client) };
            let known = self.selections.entry((routes.into(), server.port)).or_default();
            let by = routes.http.iter().flat_map(|rule| &rule.matches).any(|matched| !matched.gateways.is_empty()).then_some(gateway);
            if !known.contains_key(&by) {
                let made = HttpSelection::of(routes, &context, self.scope.backends()).map(Arc::new);
                let same = known.values().find(|other| **other == made).cloned();
                known.insert(by, same.unwrap_or(made));
            }
            let Some(Some(selection)) = known.get(&by) else { continue };
            for (host, places) in hosts {
                leading.extend(places);
                let entry = entries.entry(host).or_insert_with(|| Entry::new(server));
                entry.require_tls |= server.https_redirect;
                entry.add(selection);
            }
        }
        leading
    }
}

/// Returns the sets, with a port of theirs, whose routes are too many for the tables that have them.
fn too_much(tables: &[BTreeMap<HostOrder, Entry>]) -> HashMap<ByPtr<RouteSet>, u16> {
    let mut made: HashMap<&ByPtr<RouteSet>, (usize, u16)> = HashMap::new();
    for table in tables {
        let of_table = table.values().flat_map(|entry| &entry.selections).map(|selection| (Arc::as_ptr(selection), selection));
        for selection in of_table.collect::<HashMap<_, _>>().into_values() {
            let (weight, port) = made.entry(&selection.routes).or_insert((0, selection.port));
            *weight += selection.weight();
            *port = selection.port.min(*port);
        }
    }
    let too_much = made.into_iter().filter(|(_, (weight, _))| *weight > MOST_OF_ROUTES);
    too_much.map(|(set, (_, port))| (set.clone(), port)).collect()
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
    selections: Vec<Arc<HttpSelection>>,
    require_tls: bool,
}

impl Entry {
    fn new(server: &RoutedServer) -> Self {
        Self { port: server.port, selections: Vec::new(), require_tls: false }
    }

    // Two servers that serve the host mostly bring the same routes; of different Gateways they need not.
    fn add(&mut self, selection: &Arc<HttpSelection>) {
        let of_set = |known: &&Arc<HttpSelection>| known.routes == selection.routes;
        if !self.selections.iter().filter(of_set).any(|known| known == selection) {
            self.selections.push(Arc::clone(selection));
        }
    }

    fn weight(&self) -> usize {
        self.selections.iter().map(|selection| selection.weight()).sum()
    }

    /// Returns what decides whether hosts may share a virtual host. Rules that are the same are one value.
    fn sharing(&self) -> (Vec<*const HttpSelection>, bool) {
        (self.selections.iter().map(Arc::as_ptr).collect(), self.require_tls)
    }
}

/// Makes the virtual hosts. Hosts with the same routes share one; where several sets lead to a host, as in Istio only if the same
/// routes would be repeated very often.
fn share(
    entries: BTreeMap<HostOrder, Entry>,
    closed: &HashMap<ByPtr<RouteSet>, u16>,
    mesh: &Arc<MeshSettings>,
    traits: RouteTraits,
    tls: bool,
) -> Vec<VirtualHostInput> {
    let mut hosts: Vec<VirtualHostInput> = Vec::new();
    let mut known: HashMap<(Vec<*const HttpSelection>, bool), usize> = HashMap::new();
    let many = entries.len();
    for (HostOrder { host, .. }, entry) in entries {
        let is_shared = entry.selections.len() <= 1 || many.saturating_mul(entry.weight()) > FEW_ROUTES;
        if let Some(at) = known.get(&entry.sharing()).filter(|_| is_shared) {
            hosts[*at].domains.push(host.text().clone());
            continue;
        }
        known.insert(entry.sharing(), hosts.len());
        let name = format_smolstr!("{host}:{}", entry.port);
        let held_back = entry.selections.iter().find(|selection| closed.contains_key(&selection.routes));
        let content = match held_back {
            Some(selection) => Content::Closed(selection.routes.origin.clone()),
            None => Content::Routes { mesh: mesh.into(), selections: entry.selections, tls, require_tls: entry.require_tls },
        };
        hosts.push(VirtualHostInput { name, domains: vec![host.text().clone()], traits, content });
    }
    hosts.sort_by(|a, b| a.name.cmp(&b.name));
    hosts
}

fn black_hole(servers: &GatewayRouteTable, traits: RouteTraits) -> VirtualHostInput {
    let port = servers.servers.first().map_or(0, |server| server.port);
    VirtualHostInput { name: format_smolstr!("blackhole:{port}"), domains: vec!["*".into()], traits, content: Content::BlackHole }
}

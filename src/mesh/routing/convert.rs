//! VirtualService → [`RouteSet`]: every name resolved, delegates merged in (contract §6.2).

use std::collections::BTreeSet;

use smol_str::{SmolStr, format_smolstr};

use super::{
    delegate,
    model::{
        Destination, GatewayRef, HttpAction, HttpMatch, HttpRoute, L4Match, Mirror, RouteSet, TcpRoute, TlsRoute, WeightedDestination,
    },
};
use crate::{
    api::{
        Object,
        istio::{self, VirtualService},
    },
    mesh::{
        engine::hosts::{full_hostname, gateway, visibility},
        model::{Hostname, Origin, Precedence, Visibility},
        settings::MeshSettings,
        world::NamedKey,
    },
};

/// Finds a VirtualService by namespace and name.
pub(in crate::mesh) type Find<'a> = &'a dyn Fn(&NamedKey) -> Option<(&'a Object, &'a VirtualService)>;

/// The routes of a VirtualService; `None` for a delegate, which has no hosts and no routes of its own.
pub(in crate::mesh) fn route_set(object: &Object, spec: &VirtualService, mesh: &MeshSettings, find: Find<'_>) -> Option<RouteSet> {
    if spec.hosts.is_empty() {
        return None;
    }
    let (name, namespace) = (&object.key.name, &object.key.namespace);
    let names = Names { namespace, domain: &mesh.domain };
    let (http, merged) = with_delegates(spec, &names, mesh, find);
    Some(RouteSet {
        name: name.clone(),
        namespace: namespace.clone(),
        hosts: spec.hosts.iter().map(|host| full_hostname(host, namespace, &mesh.domain)).collect(),
        gateways: if spec.gateways.is_empty() { vec![GatewayRef::Mesh] } else { names.gateways(&spec.gateways) },
        export_to: exported_to(spec, namespace, mesh),
        http: http.iter().map(|route| names.http_route(route)).collect(),
        tls: spec.tls.iter().map(|route| names.tls_route(route)).collect(),
        tcp: spec.tcp.iter().map(|route| names.tcp_route(route)).collect(),
        precedence: Precedence { created: object.metadata.created, name: name.clone(), namespace: namespace.clone() },
        origin: Origin { object: object.key.clone(), generation: object.metadata.generation },
        merged,
    })
}

/// The delegates that a VirtualService names, whether they exist or not.
pub(in crate::mesh) fn delegates(spec: &VirtualService, namespace: &SmolStr) -> BTreeSet<NamedKey> {
    spec.http.iter().filter_map(|route| route.delegate.as_ref()).map(|delegate| delegate_key(delegate, namespace)).collect()
}

/// Every host that a route leads to, mirrors among them.
pub(in crate::mesh) fn destinations(routes: &RouteSet) -> BTreeSet<Hostname> {
    let forwarded = routes.http.iter().filter_map(|route| match &route.action {
        HttpAction::Forward(destinations) => Some(destinations),
        _ => None,
    });
    let l4 = routes.tls.iter().map(|route| &route.destinations).chain(routes.tcp.iter().map(|route| &route.destinations));
    let weighted = forwarded.chain(l4).flatten().map(|weighted| &weighted.destination);
    let mirrors = routes.http.iter().flat_map(|route| &route.mirrors).map(|mirror| &mirror.destination);
    weighted.chain(mirrors).map(|destination| destination.host.clone()).collect()
}

fn exported_to(spec: &VirtualService, namespace: &SmolStr, mesh: &MeshSettings) -> Visibility {
    visibility(&spec.export_to, &mesh.default_virtual_service_export_to, namespace)
}

fn delegate_key(delegate: &istio::Delegate, namespace: &SmolStr) -> NamedKey {
    let of = if delegate.namespace.is_empty() { namespace } else { &delegate.namespace };
    (of.clone(), delegate.name.clone())
}

/// Puts the routes of delegates in the place of the routes that name them. One level only; a delegate that does not
/// exist or is not exported to the root's namespace gives no routes.
fn with_delegates(spec: &VirtualService, names: &Names<'_>, mesh: &MeshSettings, find: Find<'_>) -> (Vec<istio::HttpRoute>, Vec<Origin>) {
    let (mut routes, mut merged) = (Vec::new(), Vec::new());
    for root in &spec.http {
        let root_route = names.resolved(root);
        let Some(delegate) = &root.delegate else {
            routes.push(root_route);
            continue;
        };
        let key = delegate_key(delegate, names.namespace);
        let Some((object, leaf)) = find(&key) else { continue };
        if !leaf.hosts.is_empty() || !exported_to(leaf, &key.0, mesh).allows(names.namespace) {
            continue;
        }
        let leaf_names = Names { namespace: &key.0, domain: names.domain };
        let leaves = leaf.http.iter().filter(|route| route.delegate.is_none()).map(|route| leaf_names.resolved(route));
        routes.extend(leaves.filter_map(|leaf| delegate::merge(&root_route, leaf)));
        merged.push(Origin { object: object.key.clone(), generation: object.metadata.generation });
    }
    (routes, merged)
}

/// How names of one object are resolved.
struct Names<'a> {
    namespace: &'a SmolStr,
    domain: &'a str,
}

impl Names<'_> {
    fn gateways(&self, written: &[SmolStr]) -> Vec<GatewayRef> {
        written.iter().map(|name| gateway(name, self.namespace)).collect()
    }

    /// The route with all names full, so that it means the same in another namespace.
    fn resolved(&self, route: &istio::HttpRoute) -> istio::HttpRoute {
        let mut route = route.clone();
        for destination in &mut route.route {
            destination.destination.host = self.full(&destination.destination.host);
        }
        for mirror in &mut route.mirrors {
            mirror.destination.host = self.full(&mirror.destination.host);
        }
        for matched in &mut route.matches {
            for name in &mut matched.gateways {
                if let GatewayRef::Gateway { namespace, name: gateway } = gateway(name, self.namespace) {
                    *name = format_smolstr!("{namespace}/{gateway}");
                }
            }
        }
        route
    }

    fn full(&self, host: &SmolStr) -> SmolStr {
        full_hostname(host, self.namespace, self.domain).text().clone()
    }

    fn http_route(&self, route: &istio::HttpRoute) -> HttpRoute {
        HttpRoute {
            name: route.name.clone(),
            matches: route.matches.iter().map(|matched| self.http_match(matched)).collect(),
            action: self.action(route),
            timeout: route.timeout,
            retries: route.retries.clone(),
            fault: route.fault.clone(),
            mirrors: route
                .mirrors
                .iter()
                .map(|mirror| Mirror { destination: self.destination(&mirror.destination), share: mirror.share })
                .collect(),
            cors: route.cors.clone(),
            headers: route.headers.clone().unwrap_or_default(),
            rewrite: route.rewrite.clone(),
        }
    }

    fn action(&self, route: &istio::HttpRoute) -> HttpAction {
        if let Some(redirect) = &route.redirect {
            return HttpAction::Redirect(redirect.clone());
        }
        if let Some(response) = &route.direct_response {
            return HttpAction::DirectResponse { status: response.status, body: response.body.clone() };
        }
        HttpAction::Forward(self.weighted(&route.route))
    }

    fn http_match(&self, matched: &istio::HttpMatch) -> HttpMatch {
        HttpMatch {
            name: matched.name.clone(),
            uri: matched.uri.clone(),
            ignore_uri_case: matched.ignore_uri_case,
            scheme: matched.scheme.clone(),
            method: matched.method.clone(),
            authority: matched.authority.clone(),
            headers: matched.headers.clone(),
            without_headers: matched.without_headers.clone(),
            query_params: matched.query_params.clone(),
            port: matched.port,
            source_labels: matched.source_labels.clone(),
            source_namespace: matched.source_namespace.clone(),
            gateways: self.gateways(&matched.gateways),
            stat_prefix: matched.stat_prefix.clone(),
        }
    }

    fn tls_route(&self, route: &istio::TlsRoute) -> TlsRoute {
        TlsRoute {
            matches: route.matches.iter().map(|matched| self.l4_match(matched)).collect(),
            destinations: self.weighted(&route.route),
        }
    }

    fn tcp_route(&self, route: &istio::TcpRoute) -> TcpRoute {
        TcpRoute {
            matches: route.matches.iter().map(|matched| self.l4_match(matched)).collect(),
            destinations: self.weighted(&route.route),
        }
    }

    fn l4_match(&self, matched: &istio::L4Match) -> L4Match {
        L4Match {
            sni_hosts: matched.sni_hosts.iter().map(Hostname::new).collect(),
            destination_subnets: matched.destination_subnets.clone(),
            port: matched.port,
            source_labels: matched.source_labels.clone(),
            source_namespace: matched.source_namespace.clone(),
            gateways: self.gateways(&matched.gateways),
        }
    }

    fn weighted(&self, route: &[istio::RouteDestination]) -> Vec<WeightedDestination> {
        let weighted = |destination: &istio::RouteDestination| WeightedDestination {
            destination: self.destination(&destination.destination),
            weight: destination.weight,
            headers: destination.headers.clone(),
        };
        route.iter().map(weighted).collect()
    }

    fn destination(&self, destination: &istio::Destination) -> Destination {
        Destination {
            host: full_hostname(&destination.host, self.namespace, self.domain),
            subset: destination.subset.clone(),
            port: destination.port,
        }
    }
}

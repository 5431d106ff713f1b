//! A proxy held against the world: its pod, and the services that it answers for (contract §2.4).

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    api::{Kind, selects},
    mesh::{
        model::{
            EndpointAddress, EndpointSet, Flavour, Locality, MetricsPlan, Proxy, Registry, Service, ServiceKey, ServicePort, TargetPort,
        },
        world::{World, views},
    },
    visits::{Visit, Visited},
};

/// One port of a service that a proxy answers for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceTarget {
    /// The service.
    pub service: Arc<Service>,
    /// Index into the service's ports.
    pub port: usize,
    /// The port that the workload listens on.
    pub target_port: u16,
}

/// Returns the proxy with labels, locality, node and container ports of its pod, where the pod is known, and with what the mesh
/// says of proxies that have no configuration of their own.
pub fn resolve_proxy(world: &World, declared: &Proxy) -> Proxy {
    let mut proxy = declared.clone();
    proxy.topology = proxy.topology.or(Some(world.mesh.gateway_topology));
    proxy.metrics = metrics(world, &proxy);
    proxy.headers.get_or_insert_with(|| Arc::clone(&world.mesh.proxy_headers));
    let Some((name, namespace)) = declared.id.rsplit_once('.') else { return proxy };
    let found = world.workload(&declared.cluster, namespace, name);
    let Some(pod) = found.filter(|workload| workload.kind == Kind::Pod) else { return proxy };
    proxy.labels = Arc::clone(&pod.labels);
    if !pod.locality.is_empty() {
        proxy.locality = Locality::clone(&pod.locality);
    }
    if !pod.node.is_empty() {
        proxy.node = pod.node.clone();
    }
    if !pod.ports.is_empty() {
        proxy.pod_ports = pod.ports.to_vec();
    }
    if proxy.service_account.is_empty() {
        proxy.service_account = pod.service_account.clone();
    }
    proxy
}

// Istio's own proxy has a filter for it (contract §3.8).
fn metrics(world: &World, proxy: &Proxy) -> MetricsPlan {
    match proxy.stats_logger.filter(|_| proxy.flavour == Flavour::Stock && world.mesh.metrics) {
        Some(logger) => MetricsPlan { client: true, server: true, peers: true, logger },
        None => MetricsPlan::default(),
    }
}

/// Returns the ports of the services that have an endpoint at one of the proxy's addresses or select its labels; the
/// oldest service first, ports in the order written. `proxy` is resolved already.
pub fn service_targets(world: &World, proxy: &Proxy) -> Vec<ServiceTarget> {
    let behind = behind(world, proxy);
    let mut services: Vec<&Arc<Service>> = behind.iter().filter_map(|key| world.services.get(key)).flat_map(views).collect();
    services.sort_by(|a, b| (a.precedence.created, &a.hostname, &a.precedence).cmp(&(b.precedence.created, &b.hostname, &b.precedence)));
    services.into_iter().flat_map(|service| targets_of(world, proxy, service)).collect()
}

fn behind(world: &World, proxy: &Proxy) -> BTreeSet<ServiceKey> {
    let by_address = proxy.ips.iter().filter_map(|ip| world.services_at.get(ip)).flat_map(|services| services.iter().cloned());
    let selecting = world.services.iter().visiting(Visited::Service).filter(|(key, service)| {
        key.namespace == proxy.namespace
            && service.registry == Registry::Kubernetes
            && !service.selector.is_empty()
            && selects(&service.selector, &proxy.labels)
    });
    by_address.chain(selecting.map(|(key, _)| key.clone())).collect()
}

fn targets_of(world: &World, proxy: &Proxy, service: &Arc<Service>) -> Vec<ServiceTarget> {
    let endpoints = world.endpoints.get(&service.key());
    let target = |(port, written): (usize, &ServicePort)| {
        let said = endpoints.and_then(|endpoints| listening_port(endpoints, proxy, written.number));
        let target_port = match service.registry {
            Registry::Kubernetes => said.or_else(|| container_port(proxy, written))?,
            // Only endpoints say where a ServiceEntry's workloads listen.
            Registry::External => said?,
        };
        Some(ServiceTarget { service: Arc::clone(service), port, target_port })
    };
    service.ports.iter().visiting(Visited::Port).enumerate().filter_map(target).collect()
}

fn listening_port(endpoints: &EndpointSet, proxy: &Proxy, port: u16) -> Option<u16> {
    let ours = |address: &EndpointAddress| matches!(address, EndpointAddress::Ip(ip) if proxy.ips.contains(ip));
    endpoints.port(port).iter().find(|endpoint| ours(&endpoint.address)).map(|endpoint| endpoint.port)
}

fn container_port(proxy: &Proxy, port: &ServicePort) -> Option<u16> {
    match &port.target_port {
        TargetPort::Number(number) => Some(*number),
        TargetPort::Name(name) => proxy.pod_ports.iter().find(|(named, _)| named == name).map(|(_, number)| *number),
    }
}

//! Services: one per Kubernetes Service, one per host of a ServiceEntry (contract §6.4).
//!
//! What is made here is the service as its own object says it; identities come from its endpoints and aliases from
//! other services later.

use std::{collections::BTreeMap, sync::Arc};

use smol_str::{SmolStr, format_smolstr};

use crate::{
    api::{
        Metadata, Object, Spec,
        istio::{self, ServiceEntryResolution},
        kubernetes::{self, PortRef},
    },
    mesh::{
        model::{
            Hostname, Origin, Precedence, Registry, Resolution, Service, ServicePort, SpiffeId, TargetPort, TrafficDistribution, Visibility,
        },
        names, protocol,
        settings::MeshSettings,
    },
};

/// Where namespaces, Services and ServiceEntries say which endpoints go first.
const DISTRIBUTION: &str = "networking.istio.io/traffic-distribution";

/// Returns the services that an object defines; none for other kinds. `namespace` is what its namespace says about traffic
/// distribution.
pub(super) fn defined_by(object: &Object, mesh: &MeshSettings, namespace: TrafficDistribution) -> Vec<Service> {
    let services = match &object.spec {
        Spec::Service(spec) => vec![of_kubernetes(object, spec, mesh)],
        Spec::ServiceEntry(spec) => of_service_entry(object, spec, mesh),
        _ => Vec::new(),
    };
    let with_default = |service: Service| match said_distribution(object) {
        Some(own) => Service { distribution: own, ..service },
        None => Service { distribution: namespace, ..service },
    };
    services.into_iter().map(with_default).collect()
}

fn said_distribution(object: &Object) -> Option<TrafficDistribution> {
    let field = match &object.spec {
        Spec::Service(spec) => TrafficDistribution::named(&spec.traffic_distribution),
        _ => None,
    };
    field.or_else(|| annotated_distribution(&object.metadata))
}

/// Returns what an annotation says about traffic distribution; one that is not known asks for nothing.
pub(super) fn annotated_distribution(metadata: &Metadata) -> Option<TrafficDistribution> {
    let written = metadata.annotations.get(DISTRIBUTION).filter(|written| !written.is_empty())?;
    Some(TrafficDistribution::named(written).unwrap_or_default())
}

fn of_kubernetes(object: &Object, spec: &kubernetes::Service, mesh: &MeshSettings) -> Service {
    let (name, namespace) = (&object.key.name, &object.key.namespace);
    Service {
        hostname: Hostname::new(format_smolstr!("{name}.{namespace}.svc.{}", mesh.domain)),
        ports: spec.ports.iter().map(kubernetes_port).collect(),
        addresses: spec.cluster_ips.iter().map(|ip| format_smolstr!("{ip}")).collect(),
        resolution: if spec.headless { Resolution::Passthrough } else { Resolution::ClientSideLb },
        headless: spec.headless,
        mesh_external: spec.external_name.is_some(),
        external_name: spec.external_name.as_ref().map(Hostname::new),
        export_to: annotated_visibility(&object.metadata, mesh, namespace),
        service_accounts: annotated_accounts(&object.metadata, mesh, namespace),
        selector: Arc::clone(&spec.selector),
        publish_not_ready: spec.publish_not_ready_addresses,
        node_local: spec.internal_traffic_local,
        ..blank(object, Registry::Kubernetes)
    }
}

fn kubernetes_port(port: &kubernetes::ServicePort) -> ServicePort {
    let target_port = match &port.target_port {
        Some(PortRef::Number(number)) if *number != 0 => TargetPort::Number(*number),
        Some(PortRef::Name(name)) => TargetPort::Name(name.clone()),
        _ => TargetPort::Number(port.port),
    };
    ServicePort { number: port.port, name: port.name.clone(), protocol: protocol::of_service_port(port), target_port }
}

fn annotated_visibility(metadata: &Metadata, mesh: &MeshSettings, namespace: &SmolStr) -> Visibility {
    let written = words(metadata.annotations.get("networking.istio.io/exportTo"));
    names::visibility(&written, &mesh.default_service_export_to, namespace)
}

fn annotated_accounts(metadata: &Metadata, mesh: &MeshSettings, namespace: &SmolStr) -> Vec<SpiffeId> {
    let canonical = words(metadata.annotations.get("alpha.istio.io/canonical-serviceaccounts"));
    let own = words(metadata.annotations.get("alpha.istio.io/kubernetes-serviceaccounts"));
    let mut accounts: Vec<SpiffeId> = canonical.iter().filter_map(|uri| SpiffeId::parse(uri)).collect();
    accounts.extend(own.into_iter().map(|account| identity(mesh, namespace, account)));
    accounts.sort();
    accounts.dedup();
    accounts
}

/// Returns the identity of a service account of a namespace.
pub(super) fn identity(mesh: &MeshSettings, namespace: &SmolStr, service_account: SmolStr) -> SpiffeId {
    SpiffeId { trust_domain: mesh.trust_domain.clone(), namespace: namespace.clone(), service_account }
}

fn words(list: Option<&SmolStr>) -> Vec<SmolStr> {
    list.map(|list| list.split(',').map(str::trim).filter(|word| !word.is_empty()).map(SmolStr::new).collect()).unwrap_or_default()
}

fn of_service_entry(object: &Object, spec: &istio::ServiceEntry, mesh: &MeshSettings) -> Vec<Service> {
    let template = Service {
        ports: spec.ports.iter().map(service_entry_port).collect(),
        addresses: spec.addresses.clone(),
        resolution: match spec.resolution {
            ServiceEntryResolution::None => Resolution::Passthrough,
            ServiceEntryResolution::Static => Resolution::ClientSideLb,
            ServiceEntryResolution::Dns => Resolution::DnsLb,
            ServiceEntryResolution::DnsRoundRobin => Resolution::DnsRoundRobin,
            ServiceEntryResolution::DynamicDns => Resolution::DynamicDns,
        },
        mesh_external: !spec.mesh_internal,
        export_to: names::visibility(&spec.export_to, &mesh.default_service_export_to, &object.key.namespace),
        subject_alt_names: spec.subject_alt_names.clone(),
        selector: Arc::new(spec.workload_selector.clone().unwrap_or_default()),
        ..blank(object, Registry::External)
    };
    let mut names: Vec<Hostname> = spec.hosts.iter().map(Hostname::new).collect();
    names.sort();
    names.dedup();
    names.into_iter().map(|hostname| Service { hostname, ..template.clone() }).collect()
}

fn service_entry_port(port: &istio::Port) -> ServicePort {
    let target = if port.target_port == 0 { port.number } else { port.target_port };
    ServicePort {
        number: port.number,
        name: port.name.clone(),
        protocol: protocol::named(&port.protocol),
        target_port: TargetPort::Number(target),
    }
}

fn blank(object: &Object, registry: Registry) -> Service {
    Service {
        hostname: Hostname::new(""),
        name: object.key.name.clone(),
        namespace: object.key.namespace.clone(),
        registry,
        ports: Vec::new(),
        addresses: Vec::new(),
        port_addresses: BTreeMap::new(),
        addresses_elsewhere: Vec::new(),
        resolution: Resolution::ClientSideLb,
        headless: false,
        mesh_external: false,
        aliases: Vec::new(),
        external_name: None,
        export_to: Visibility::Public,
        service_accounts: Vec::new(),
        subject_alt_names: Vec::new(),
        labels: Arc::clone(&object.metadata.labels),
        selector: Arc::default(),
        publish_not_ready: false,
        node_local: false,
        distribution: TrafficDistribution::Any,
        precedence: Precedence::of(object),
        origin: Origin::of(object),
        joined: Vec::new(),
        other_views: Vec::new(),
    }
}

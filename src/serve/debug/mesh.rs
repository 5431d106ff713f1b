//! Pages about the mesh: services, endpoints, objects, MeshConfig.

use serde_json::{Map, Value, json};

use super::{DebugState, PageRequest, Reply};
use crate::{
    mesh::{
        model::{Endpoint, EndpointAddress, Origin, Registry, Service},
        providers::LogFormat,
        settings::{MeshSettings, TlsSettings},
    },
    serve::readiness::SOURCES_SYNCED,
};

pub(super) fn registryz(state: &DebugState, _: &PageRequest) -> Reply {
    Reply::Json(state.world().services.values().map(|service| service_entry(service)).collect())
}

pub(super) fn endpoint_shards(state: &DebugState, _: &PageRequest) -> Reply {
    let mut services: Map<String, Value> = Map::new();
    for (key, endpoints) in &state.world().endpoints {
        let mut shards: Map<String, Value> = Map::new();
        for (port, endpoint) in endpoints.ports.iter().flat_map(|(port, endpoints)| endpoints.iter().map(move |endpoint| (*port, endpoint)))
        {
            let shard = shards.entry(format!("Kubernetes/{}", endpoint.backend.cluster)).or_insert_with(|| json!([]));
            if let Value::Array(shard) = shard {
                shard.push(endpoint_entry(endpoint, port));
            }
        }
        services.entry(key.hostname.to_string()).or_insert_with(|| json!({}))[key.namespace.as_str()] = json!({"Shards": shards});
    }
    Reply::Json(Value::Object(services))
}

/// Shows kinds and names only: objects are not kept as they were written.
pub(super) fn configz(state: &DebugState, _: &PageRequest) -> Reply {
    Reply::Json(state.world().configuration().map(object_entry).collect())
}

pub(super) fn mesh(state: &DebugState, _: &PageRequest) -> Reply {
    Reply::Json(settings(&state.world().mesh))
}

pub(super) fn clusterz(state: &DebugState, _: &PageRequest) -> Reply {
    let status = if state.readiness.is_blocked_by(SOURCES_SYNCED) { "syncing" } else { "synced" };
    Reply::Json(json!([{"id": state.cluster, "syncStatus": status}]))
}

fn service_entry(service: &Service) -> Value {
    let registry = match service.registry {
        Registry::Kubernetes => "Kubernetes",
        Registry::External => "External",
    };
    let port = |port: &crate::mesh::model::ServicePort| json!({"name": port.name, "port": port.number, "protocol": format!("{:?}", port.protocol)});
    json!({
        "Attributes": {
            "ServiceRegistry": registry,
            "Name": service.name,
            "Namespace": service.namespace,
            "Labels": service.labels,
            "LabelSelectors": service.selector,
        },
        "ports": service.ports.iter().map(port).collect::<Vec<_>>(),
        "hostname": service.hostname.to_string(),
        "addresses": service.addresses,
        "serviceAccounts": service.service_accounts.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "Resolution": format!("{:?}", service.resolution),
        "MeshExternal": service.mesh_external,
    })
}

fn endpoint_entry(endpoint: &Endpoint, port: u16) -> Value {
    let address = match &endpoint.address {
        EndpointAddress::Ip(ip) => ip.to_string(),
        EndpointAddress::Host(host) => host.to_string(),
        EndpointAddress::Pipe(path) => format!("unix://{path}"),
    };
    let locality = &endpoint.backend.locality;
    let locality = format!("{}/{}/{}", locality.region, locality.zone, locality.subzone);
    json!({
        "Addresses": [address],
        "EndpointPort": endpoint.port,
        "HealthStatus": format!("{:?}", endpoint.backend.health),
        "ServicePort": port,
        "Labels": *endpoint.backend.labels,
        "Locality": {"Label": locality},
        "Network": endpoint.backend.network,
        "NodeName": endpoint.backend.node,
        "LbWeight": endpoint.backend.weight,
        "ServiceAccount": endpoint.backend.identity.as_ref().map(ToString::to_string),
        "TLSMode": if endpoint.mtls { "istio" } else { "disabled" },
        "WorkloadName": endpoint.backend.workload,
        "Namespace": endpoint.backend.namespace,
    })
}

fn object_entry(origin: &Origin) -> Value {
    let key = &origin.object;
    json!({"kind": key.kind.to_string(), "metadata": {"namespace": key.namespace, "name": key.name, "generation": origin.generation}})
}

fn settings(mesh: &MeshSettings) -> Value {
    let log = mesh.providers.mesh_log().unwrap_or_default();
    let (log_format, log_encoding) = match log.format {
        Some(LogFormat::Text(text)) => (text.to_string(), "TEXT"),
        Some(LogFormat::Json(keys)) => (Value::Object(keys).to_string(), "JSON"),
        None => (String::new(), "TEXT"),
    };
    json!({
        "rootNamespace": mesh.root_namespace,
        "trustDomain": mesh.trust_domain,
        "trustDomainAliases": mesh.trust_domain_aliases,
        "meshMTLS": tls(&mesh.mesh_mtls),
        "tlsDefaults": tls(&mesh.tls_defaults),
        "proxyListenPort": mesh.proxy_listen_port,
        "proxyInboundListenPort": mesh.proxy_inbound_listen_port,
        "proxyHttpPort": mesh.proxy_http_port,
        "connectTimeout": seconds(mesh.connect_timeout),
        "dnsRefreshRate": seconds(mesh.dns_refresh_rate),
        "protocolDetectionTimeout": seconds(mesh.protocol_detection_timeout),
        "outboundTrafficPolicy": {"mode": format!("{:?}", mesh.outbound_traffic_policy)},
        "enableAutoMtls": mesh.enable_auto_mtls,
        "accessLogFile": log.path,
        "accessLogFormat": log_format,
        "accessLogEncoding": log_encoding,
        "defaultServiceExportTo": mesh.default_service_export_to,
        "defaultVirtualServiceExportTo": mesh.default_virtual_service_export_to,
        "defaultDestinationRuleExportTo": mesh.default_destination_rule_export_to,
        "outboundClusterStatName": mesh.outbound_cluster_stat_name,
        "inboundClusterStatName": mesh.inbound_cluster_stat_name,
    })
}

fn tls(settings: &TlsSettings) -> Value {
    let version = settings.min_version.map(|version| format!("TLS{version:?}").to_uppercase()).unwrap_or_else(|| "TLS_AUTO".into());
    json!({"minProtocolVersion": version, "cipherSuites": settings.cipher_suites, "ecdhCurves": settings.ecdh_curves})
}

fn seconds(duration: std::time::Duration) -> String {
    format!("{}s", duration.as_secs_f64())
}

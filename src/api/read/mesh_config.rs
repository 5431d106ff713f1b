//! Reads MeshConfig over its defaults (contract §7).

use serde_json::{Map, Value};
use smol_str::SmolStr;

use super::{
    ca_certificates::ca_certificates,
    extension_provider::{
        self,
        access_log::{DEEPEST, UNSURE, check_json, is_stream, log_path},
    },
    fields::{Fields, Node, Read},
    gateway::outbound_mode,
    mesh_tls::tls,
};
use crate::api::{
    extension_provider::LogFormat,
    istio::OutboundTrafficPolicy,
    mesh_config::{DefaultProviders, MeshConfig, PathNormalization},
    validate::{locality_setting, log_format},
};

/// Where the bootstraps of proxies listen: administration, the agent, readiness and metrics.
const BOOTSTRAP_PORTS: [u16; 4] = [15000, 15020, 15021, 15090];
/// Fields of Istio that do not affect what a proxy is sent: those of injection and bootstrap, and unsupported ones.
const WITHOUT_EFFECT: [&str; 15] = [
    "hboneIdleTimeout",
    "ingressClass",
    "ingressService",
    "ingressControllerMode",
    "ingressSelector",
    "enableEnvoyAccessLogService",
    "configSources",
    "zoneAwareLbSetting",
    "certificates",
    "serviceSettings",
    "serviceScopeConfigs",
    "verifyCertificateAtClient",
    "ca",
    "defaultTrafficPolicy",
    "serviceEntryVisibility",
];

impl Read for MeshConfig {
    fn read(node: Node<'_>) -> Option<Self> {
        let fields = node.fields()?;
        let mut mesh = Self::default();
        read_names(&fields, &mut mesh);
        read_proxy_defaults(&fields, &mut mesh);
        read_policies(&fields, &mut mesh);
        mesh.ca_certificates = ca_certificates(&fields);
        mesh.extension_providers = extension_provider::providers(&fields);
        mesh.default_providers = default_providers(&fields);
        mesh.default_config = fields.get("defaultConfig");
        fields.set("enablePrometheusMerge", &mut mesh.enable_prometheus_merge);
        for name in WITHOUT_EFFECT {
            fields.unsupported(name);
        }
        fields.finish();
        Some(mesh)
    }
}

fn read_names(fields: &Fields<'_>, mesh: &mut MeshConfig) {
    set_nonempty(fields, "rootNamespace", &mut mesh.root_namespace);
    set_nonempty(fields, "trustDomain", &mut mesh.trust_domain);
    fields.set("trustDomainAliases", &mut mesh.trust_domain_aliases);
    fields.set("discoverySelectors", &mut mesh.discovery_selectors);
    fields.set("outboundClusterStatName", &mut mesh.outbound_cluster_stat_name);
    fields.set("inboundClusterStatName", &mut mesh.inbound_cluster_stat_name);
    set_nonempty(fields, "defaultServiceExportTo", &mut mesh.default_service_export_to);
    set_nonempty(fields, "defaultVirtualServiceExportTo", &mut mesh.default_virtual_service_export_to);
    set_nonempty(fields, "defaultDestinationRuleExportTo", &mut mesh.default_destination_rule_export_to);
}

fn read_proxy_defaults(fields: &Fields<'_>, mesh: &mut MeshConfig) {
    fields.set("proxyListenPort", &mut mesh.proxy_listen_port);
    fields.set("proxyInboundListenPort", &mut mesh.proxy_inbound_listen_port);
    fields.set("proxyHttpPort", &mut mesh.proxy_http_port);
    for (name, port) in [("proxyListenPort", mesh.proxy_listen_port), ("proxyInboundListenPort", mesh.proxy_inbound_listen_port)] {
        if port == 0 {
            fields.refuse(name, "must be a port from 1 to 65535");
        }
    }
    listening_ports_differ(fields, mesh);
    fields.set("connectTimeout", &mut mesh.connect_timeout);
    mesh.tcp_keepalive = fields.opt("tcpKeepalive");
    fields.set("dnsRefreshRate", &mut mesh.dns_refresh_rate);
    for (name, value) in [("connectTimeout", mesh.connect_timeout), ("dnsRefreshRate", mesh.dns_refresh_rate)] {
        if value.as_millis() == 0 {
            fields.refuse(name, "must be 1ms or more");
        }
    }
    fields.set("protocolDetectionTimeout", &mut mesh.protocol_detection_timeout);
    fields.set("accessLogFile", &mut mesh.access_log_file);
    fields.set("disableEnvoyListenerLog", &mut mesh.disable_listener_log);
    fields.set("enableTracing", &mut mesh.enable_tracing);
    access_log(fields, mesh);
}

/// Checks that no listener of a proxy has the port of another: Envoy would refuse the second one.
fn listening_ports_differ(fields: &Fields<'_>, mesh: &MeshConfig) {
    let mut taken: Vec<(u16, &str)> = BOOTSTRAP_PORTS.map(|port| (port, "the proxy's bootstrap")).to_vec();
    let ports = [
        ("proxyListenPort", mesh.proxy_listen_port),
        ("proxyInboundListenPort", mesh.proxy_inbound_listen_port),
        ("proxyHttpPort", mesh.proxy_http_port),
    ];
    for (name, port) in ports.into_iter().filter(|(_, port)| *port != 0) {
        match taken.iter().find(|(other, _)| *other == port) {
            Some((_, by)) => fields.refuse(name, format!("must be another port: {port} is that of {by}")),
            None => taken.push((port, name)),
        }
    }
}

// Every listener of every proxy has the log, and is refused with it.
fn access_log(fields: &Fields<'_>, mesh: &mut MeshConfig) {
    if let Err(why) = log_path(&mesh.access_log_file) {
        fields.refuse("accessLogFile", why);
    } else if !is_stream(&mesh.access_log_file) {
        fields.warn("accessLogFile", UNSURE);
    }
    let encodings = [("TEXT", false), ("JSON", true)];
    let is_json = fields.with("accessLogEncoding", |node| node.one_of(&encodings)).unwrap_or_default();
    let written: Option<SmolStr> = fields.nonempty("accessLogFormat");
    mesh.access_log_format = match (is_json, written) {
        (false, written) => written.map(|text| text_format(fields, text)),
        (true, None) => Some(LogFormat::Json(Map::new())),
        (true, Some(written)) => Some(LogFormat::Json(json_format(fields, &written))),
    };
}

fn text_format(fields: &Fields<'_>, text: SmolStr) -> LogFormat {
    if let Err(why) = log_format(&text) {
        fields.refuse("accessLogFormat", why);
    }
    LogFormat::Text(text)
}

/// Returns the keys of a JSON format, of which there are none where it is no JSON object: Istio's are logged then, as in Istio.
fn json_format(fields: &Fields<'_>, written: &str) -> Map<String, Value> {
    let Ok(Value::Object(keys)) = serde_json::from_str(written) else {
        fields.warn("accessLogFormat", "is no JSON object, and has no effect with accessLogEncoding JSON: Istio's keys are logged");
        return Map::new();
    };
    let value = Value::Object(keys);
    fields.with("accessLogFormat", |node| {
        check_json(&value, &node.path, node.findings, DEEPEST);
        Some(())
    });
    match value {
        Value::Object(keys) => keys,
        _ => Map::new(),
    }
}

/// Reads `defaultProviders`.
fn default_providers(fields: &Fields<'_>) -> DefaultProviders {
    let read = |fields: &Fields<'_>| DefaultProviders {
        tracing: fields.get("tracing"),
        metrics: fields.get("metrics"),
        access_logging: fields.get("accessLogging"),
    };
    fields.with("defaultProviders", |node| node.message(read)).unwrap_or_default()
}

fn read_policies(fields: &Fields<'_>, mesh: &mut MeshConfig) {
    if let Some(policy) = mode_of(fields, "outboundTrafficPolicy", outbound_mode_of_mesh) {
        mesh.outbound_traffic_policy = policy;
    }
    let inbound = [("PASSTHROUGH", false), ("LOCALHOST", true)];
    mesh.inbound_localhost = mode_of(fields, "inboundTrafficPolicy", |node| node.one_of(&inbound)).unwrap_or_default();
    mesh.locality_lb = fields.with("localityLbSetting", |node| {
        let (at, findings) = (node.path, node.findings);
        let setting = Read::read(node)?;
        locality_setting(&setting, &at, findings);
        Some(setting)
    });
    fields.set("enableAutoMtls", &mut mesh.enable_auto_mtls);
    let upgrades = [("DO_NOT_UPGRADE", false), ("UPGRADE", true)];
    mesh.h2_upgrade = fields.with("h2UpgradePolicy", |node| node.one_of(&upgrades)).unwrap_or_default();
    mesh.mesh_mtls = fields.with("meshMTLS", tls).unwrap_or_default();
    mesh.tls_defaults = fields.with("tlsDefaults", tls).unwrap_or_default();
    mesh.default_http_retry_policy = fields.opt("defaultHttpRetryPolicy");
    mesh.path_normalization = fields.with("pathNormalization", path_normalization).unwrap_or_default();
}

/// Reads the mode of the mesh, which has one more than a Sidecar's. What would have been resolved anew is not let through as it is.
fn outbound_mode_of_mesh(node: Node<'_>) -> Option<OutboundTrafficPolicy> {
    if node.value == "ALLOW_ANY_DYNAMIC_DNS" {
        node.findings.warning(&node.path, "ALLOW_ANY_DYNAMIC_DNS is not supported yet: it is taken for REGISTRY_ONLY");
        return Some(OutboundTrafficPolicy::RegistryOnly);
    }
    outbound_mode(node)
}

/// Reads `{mode: …}`.
fn mode_of<T>(fields: &Fields<'_>, name: &'static str, read: impl FnOnce(Node<'_>) -> Option<T>) -> Option<T> {
    fields.with(name, |node| {
        let fields = node.fields()?;
        fields.unsupported("tls");
        let mode = fields.with("mode", read);
        fields.finish();
        mode
    })
}

fn path_normalization(node: Node<'_>) -> Option<PathNormalization> {
    let fields = node.fields()?;
    let kinds = [
        ("DEFAULT", PathNormalization::Base),
        ("NONE", PathNormalization::None),
        ("BASE", PathNormalization::Base),
        ("MERGE_SLASHES", PathNormalization::MergeSlashes),
        ("DECODE_AND_MERGE_SLASHES", PathNormalization::DecodeAndMergeSlashes),
    ];
    let normalization = fields.with("normalization", |node| node.one_of(&kinds));
    fields.finish();
    normalization
}

fn set_nonempty<T: Read + Default + PartialEq>(fields: &Fields<'_>, name: &'static str, target: &mut T) {
    if let Some(value) = fields.nonempty(name) {
        *target = value;
    }
}

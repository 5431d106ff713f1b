//! What MeshConfig means (contract §7), converted once from the object.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use smol_str::SmolStr;

use super::{
    gateway::TlsVersion,
    providers::Providers,
    routing::model::RetryPolicy,
    traffic::{
        LocalityLb, TcpKeepalive,
        istio::{locality_lb, tcp_keepalive},
    },
};
use crate::api::{
    extension_provider::{ExtAuthz, ExtensionProvider, Provider},
    istio,
    mesh_config::{self, CaCertificate, MeshConfig},
    proxy_config::{GatewayTopology, ProxyConfig, ProxyHeaders},
};

/// Settings for the whole mesh.
#[derive(Clone, Debug, PartialEq)]
pub struct MeshSettings {
    /// The namespace whose policies hold for the whole mesh.
    pub root_namespace: SmolStr,
    /// The trust domain of the mesh's identities.
    pub trust_domain: SmolStr,
    /// Other trust domains whose identities are taken.
    pub trust_domain_aliases: Vec<SmolStr>,
    /// The roots of other meshes.
    pub ca_certificates: Vec<CaCertificate>,
    /// Whether proxies are given them.
    pub multi_root: bool,
    /// What servers ask of TLS between proxies of the mesh.
    pub mesh_mtls: TlsSettings,
    /// What is asked of other TLS that proxies end or originate, where objects say nothing.
    pub tls_defaults: TlsSettings,
    /// The cluster's DNS domain.
    pub domain: SmolStr,
    /// The port to which captured outbound connections are redirected.
    pub proxy_listen_port: u16,
    /// The port to which captured inbound connections are redirected.
    pub proxy_inbound_listen_port: u16,
    /// The port of the explicit HTTP proxy; zero: none.
    pub proxy_http_port: u16,
    /// How long a connection may take to be established, unless a DestinationRule says otherwise.
    pub connect_timeout: Duration,
    /// Keepalive of upstream connections; a DestinationRule overrides single fields.
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// Which endpoints go first, unless a DestinationRule or a Service says otherwise.
    pub locality_lb: Arc<LocalityLb>,
    /// How often names of DNS services are resolved.
    pub dns_refresh_rate: Duration,
    /// How long a listener waits for a connection's first bytes; zero: for ever.
    pub protocol_detection_timeout: Duration,
    /// What happens to outbound traffic for unknown destinations, unless a Sidecar says otherwise.
    pub outbound_traffic_policy: OutboundTrafficPolicy,
    /// Whether inbound traffic is handed to the application on localhost instead of the pod's address.
    pub inbound_localhost: bool,
    /// Whether proxies use mTLS towards endpoints that take it.
    pub enable_auto_mtls: bool,
    /// Whether HTTP ports are spoken to in HTTP/2 instead of HTTP/1.1, unless a DestinationRule says otherwise.
    pub h2_upgrade: bool,
    /// Whether proxies report Istio's metrics of requests and connections.
    pub metrics: bool,
    /// Whom proxies report to, by name.
    pub providers: Providers,
    /// Whether connections that no filter chain takes are logged, where others are.
    pub logs_unmatched: bool,
    /// `exportTo` of services that have none, as written.
    pub default_service_export_to: Vec<SmolStr>,
    /// `exportTo` of VirtualServices that have none, as written.
    pub default_virtual_service_export_to: Vec<SmolStr>,
    /// `exportTo` of DestinationRules that have none, as written.
    pub default_destination_rule_export_to: Vec<SmolStr>,
    /// Pattern for the names of outbound clusters' statistics; empty: Envoy's names.
    pub outbound_cluster_stat_name: SmolStr,
    /// Pattern for the names of inbound clusters' statistics; empty: Envoy's names.
    pub inbound_cluster_stat_name: SmolStr,
    /// Retries of HTTP routes that have none; `None`: Istio's default (contract §6.2).
    pub default_http_retry_policy: Option<RetryPolicy>,
    /// What is done to request paths before they are matched.
    pub path_normalization: PathNormalization,
    /// Whom policies may have asked, by the names of `extensionProviders`.
    pub ext_authz: BTreeMap<SmolStr, Arc<ExtAuthz>>,
    /// Whether policies of one workload may have several of these asked.
    pub several_ext_authz: bool,
    /// Whether proxies know of endpoints that are not ready.
    pub send_unready_endpoints: bool,
    /// What stands in front of gateways whose proxies have no configuration of their own.
    pub gateway_topology: GatewayTopology,
    /// Which headers of their own proxies without a configuration of their own put into requests and answers.
    pub proxy_headers: Arc<ProxyHeaders>,
}

/// What is asked of TLS; whatever is not said is left to the proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsSettings {
    /// The lowest version.
    pub min_version: Option<TlsVersion>,
    /// Cipher suites, in order of preference.
    pub cipher_suites: Vec<SmolStr>,
    /// Groups for key exchange, in order of preference.
    pub ecdh_curves: Vec<SmolStr>,
}

/// What MeshConfig says of proxies when they are injected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyDefaults {
    /// As written: a pod's annotation is laid over it field by field, and the agent reads the result.
    pub config: ProxyConfig,
    /// Whether the application's metrics are served together with the proxy's, unless the pod says otherwise.
    pub prometheus_merge: bool,
}

/// What happens to outbound traffic for destinations that the mesh does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OutboundTrafficPolicy {
    /// It goes where it was sent.
    AllowAny,
    /// It is dropped.
    RegistryOnly,
}

/// What is done to a request's path before it is matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PathNormalization {
    /// Nothing.
    None,
    /// Normalized by RFC 3986.
    Base,
    /// In addition, adjacent slashes are merged.
    MergeSlashes,
    /// In addition, escaped slashes are decoded first.
    DecodeAndMergeSlashes,
}

impl MeshSettings {
    /// Converts the object's settings.
    pub fn of(config: &MeshConfig) -> Self {
        Self {
            root_namespace: config.root_namespace.clone(),
            trust_domain: config.trust_domain.clone(),
            trust_domain_aliases: config.trust_domain_aliases.clone(),
            ca_certificates: config.ca_certificates.clone(),
            multi_root: config.multi_root,
            mesh_mtls: TlsSettings::from(&config.mesh_mtls),
            tls_defaults: TlsSettings::from(&config.tls_defaults),
            domain: config.domain.clone(),
            proxy_listen_port: config.proxy_listen_port,
            proxy_inbound_listen_port: config.proxy_inbound_listen_port,
            proxy_http_port: config.proxy_http_port,
            connect_timeout: config.connect_timeout,
            tcp_keepalive: config.tcp_keepalive.as_ref().map(tcp_keepalive),
            locality_lb: Arc::new(config.locality_lb.as_ref().map_or(LocalityLb::NEAREST, locality_lb)),
            dns_refresh_rate: config.dns_refresh_rate,
            protocol_detection_timeout: config.protocol_detection_timeout,
            outbound_traffic_policy: config.outbound_traffic_policy.into(),
            inbound_localhost: config.inbound_localhost,
            enable_auto_mtls: config.enable_auto_mtls,
            h2_upgrade: config.h2_upgrade,
            metrics: Providers::of(config).default_to_prometheus(),
            providers: Providers::of(config),
            logs_unmatched: !config.disable_listener_log,
            default_service_export_to: config.default_service_export_to.clone(),
            default_virtual_service_export_to: config.default_virtual_service_export_to.clone(),
            default_destination_rule_export_to: config.default_destination_rule_export_to.clone(),
            outbound_cluster_stat_name: config.outbound_cluster_stat_name.clone(),
            inbound_cluster_stat_name: config.inbound_cluster_stat_name.clone(),
            default_http_retry_policy: config.default_http_retry_policy.as_ref().map(RetryPolicy::from),
            path_normalization: config.path_normalization.into(),
            ext_authz: ext_authz(config),
            several_ext_authz: config.features.several_ext_authz,
            send_unready_endpoints: config.features.send_unready_endpoints,
            gateway_topology: config.default_config.gateway_topology.unwrap_or_default(),
            proxy_headers: Arc::new(config.default_config.proxy_headers.clone().unwrap_or_default()),
        }
    }
}

impl MeshSettings {
    /// Returns the trust domains whose identities servers take: the mesh's, its aliases, and those that roots of other meshes are for.
    pub fn trust_domains(&self) -> Vec<SmolStr> {
        let others = self.ca_certificates.iter().flat_map(|entry| &entry.trust_domains);
        let mut domains: Vec<SmolStr> = Vec::new();
        for domain in [&self.trust_domain].into_iter().chain(&self.trust_domain_aliases).chain(others) {
            if !domain.is_empty() && !domains.contains(domain) {
                domains.push(domain.clone());
            }
        }
        domains
    }

    /// Returns whether the control plane says what peers are verified with. Otherwise the proxies' agents do, which know the roots of
    /// the mesh's own CA.
    pub fn says_roots(&self) -> bool {
        self.multi_root && !self.ca_certificates.is_empty()
    }
}

impl Default for MeshSettings {
    fn default() -> Self {
        Self::of(&MeshConfig::default())
    }
}

impl ProxyDefaults {
    /// Converts the object's settings.
    pub fn of(config: &MeshConfig) -> Self {
        Self { config: config.default_config.clone(), prometheus_merge: config.enable_prometheus_merge }
    }
}

impl Default for ProxyDefaults {
    fn default() -> Self {
        Self::of(&MeshConfig::default())
    }
}

impl From<&mesh_config::TlsConfig> for TlsSettings {
    fn from(written: &mesh_config::TlsConfig) -> Self {
        Self {
            min_version: TlsVersion::of(written.min_protocol_version),
            cipher_suites: written.cipher_suites.clone(),
            ecdh_curves: written.ecdh_curves.clone(),
        }
    }
}

impl From<istio::OutboundTrafficPolicy> for OutboundTrafficPolicy {
    fn from(written: istio::OutboundTrafficPolicy) -> Self {
        match written {
            istio::OutboundTrafficPolicy::AllowAny => Self::AllowAny,
            istio::OutboundTrafficPolicy::RegistryOnly => Self::RegistryOnly,
        }
    }
}

impl From<mesh_config::PathNormalization> for PathNormalization {
    fn from(written: mesh_config::PathNormalization) -> Self {
        match written {
            mesh_config::PathNormalization::None => Self::None,
            mesh_config::PathNormalization::Base => Self::Base,
            mesh_config::PathNormalization::MergeSlashes => Self::MergeSlashes,
            mesh_config::PathNormalization::DecodeAndMergeSlashes => Self::DecodeAndMergeSlashes,
        }
    }
}

fn ext_authz(config: &MeshConfig) -> BTreeMap<SmolStr, Arc<ExtAuthz>> {
    let asked = |of: &ExtensionProvider| match &of.provider {
        Some(Provider::ExtAuthz(asked)) => Some((of.name.clone(), Arc::new(asked.clone()))),
        _ => None,
    };
    config.extension_providers.iter().filter_map(asked).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::mesh_config::DefaultProviders;

    #[test]
    fn metrics_are_reported_where_a_provider_for_prometheus_is_named() {
        let provider = |name: &str, provider| ExtensionProvider { name: name.into(), provider };
        let of = |named: &[&str], providers: &[ExtensionProvider]| {
            let default_providers = DefaultProviders { metrics: named.iter().map(SmolStr::new).collect(), ..DefaultProviders::default() };
            MeshSettings::of(&MeshConfig { default_providers, extension_providers: providers.to_vec(), ..MeshConfig::default() }).metrics
        };
        assert!(!of(&[], &[provider("prometheus", Some(Provider::Prometheus))]));
        assert!(of(&["prometheus"], &[]) && of(&["other", "own"], &[provider("own", Some(Provider::Prometheus))]));
        assert!(!of(&["own"], &[]) && !of(&["prometheus"], &[provider("prometheus", None)]));
    }

    #[test]
    fn settings_are_those_of_the_object() {
        let config = MeshConfig {
            trust_domain: "td".into(),
            proxy_http_port: 15002,
            outbound_traffic_policy: istio::OutboundTrafficPolicy::RegistryOnly,
            path_normalization: mesh_config::PathNormalization::MergeSlashes,
            tcp_keepalive: Some(istio::TcpKeepalive { probes: 3, ..Default::default() }),
            ..MeshConfig::default()
        };
        let settings = MeshSettings::of(&config);
        assert_eq!((settings.trust_domain.as_str(), settings.proxy_http_port), ("td", 15002));
        assert_eq!(settings.outbound_traffic_policy, OutboundTrafficPolicy::RegistryOnly);
        assert_eq!(settings.path_normalization, PathNormalization::MergeSlashes);
        assert_eq!(settings.tcp_keepalive.and_then(|keepalive| keepalive.probes), Some(3));
        assert_eq!(MeshSettings::default().connect_timeout, Duration::from_secs(10));
    }
}

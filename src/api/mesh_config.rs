//! `MeshConfig`: settings for the whole mesh.

use std::time::Duration;

use smol_str::SmolStr;

use super::{
    extension_provider::{ExtensionProvider, LogFormat},
    istio::{LocalityLb, OutboundTrafficPolicy, RetryPolicy, TcpKeepalive, TlsProtocol},
    label_selector::LabelSelector,
    proxy_config::ProxyConfig,
};

/// The settings that are read, with Istio's defaults (contract §7).
#[derive(Clone, Debug, PartialEq)]
pub struct MeshConfig {
    /// `rootNamespace`
    pub root_namespace: SmolStr,
    /// `trustDomain`
    pub trust_domain: SmolStr,
    /// `trustDomainAliases`
    pub trust_domain_aliases: Vec<SmolStr>,
    /// `caCertificates`, as far as they can be used.
    pub ca_certificates: Vec<CaCertificate>,
    /// `meshMTLS`
    pub mesh_mtls: TlsConfig,
    /// `tlsDefaults`
    pub tls_defaults: TlsConfig,
    /// The DNS domain of the cluster, which is set by `--domain` and not by MeshConfig.
    pub domain: SmolStr,
    /// `proxyListenPort`
    pub proxy_listen_port: u16,
    /// `proxyInboundListenPort`
    pub proxy_inbound_listen_port: u16,
    /// `proxyHttpPort`; 0 for none.
    pub proxy_http_port: u16,
    /// `connectTimeout`
    pub connect_timeout: Duration,
    /// `tcpKeepalive`
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// `localityLbSetting`; `None` for Istio's default, which prefers near endpoints.
    pub locality_lb: Option<LocalityLb>,
    /// `dnsRefreshRate`
    pub dns_refresh_rate: Duration,
    /// `protocolDetectionTimeout`; 0 for none.
    pub protocol_detection_timeout: Duration,
    /// `outboundTrafficPolicy.mode`
    pub outbound_traffic_policy: OutboundTrafficPolicy,
    /// `inboundTrafficPolicy.mode: LOCALHOST`
    pub inbound_localhost: bool,
    /// `enableAutoMtls`
    pub enable_auto_mtls: bool,
    /// `h2UpgradePolicy: UPGRADE`
    pub h2_upgrade: bool,
    /// `accessLogFile`; empty for no log.
    pub access_log_file: SmolStr,
    /// `accessLogFormat` in its `accessLogEncoding`; `None` for Istio's text.
    pub access_log_format: Option<LogFormat>,
    /// `enableTracing`: whether requests are traced where nothing else says how.
    pub enable_tracing: bool,
    /// `disableEnvoyListenerLog`: whether connections that no filter chain takes are not logged.
    pub disable_listener_log: bool,
    /// `defaultServiceExportTo`
    pub default_service_export_to: Vec<SmolStr>,
    /// `defaultVirtualServiceExportTo`
    pub default_virtual_service_export_to: Vec<SmolStr>,
    /// `defaultDestinationRuleExportTo`
    pub default_destination_rule_export_to: Vec<SmolStr>,
    /// `discoverySelectors`: namespaces are read if one of these selects them; all are if there are none.
    pub discovery_selectors: Vec<LabelSelector>,
    /// `outboundClusterStatName`
    pub outbound_cluster_stat_name: SmolStr,
    /// `inboundClusterStatName`
    pub inbound_cluster_stat_name: SmolStr,
    /// `defaultHttpRetryPolicy`; `None` for Istio's default (contract §6.2).
    pub default_http_retry_policy: Option<RetryPolicy>,
    /// `pathNormalization.normalization`
    pub path_normalization: PathNormalization,
    /// `extensionProviders`
    pub extension_providers: Vec<ExtensionProvider>,
    /// `defaultProviders`
    pub default_providers: DefaultProviders,
    /// `defaultConfig`, which is used by injection.
    pub default_config: ProxyConfig,
    /// `enablePrometheusMerge`, which is used by injection.
    pub enable_prometheus_merge: bool,
    /// What is set by the control plane's own flags and not by MeshConfig.
    pub features: Features,
    /// Whether proxies are given the roots of `caCertificates`, which is set by `ISTIO_MULTIROOT_MESH` and not by MeshConfig.
    pub multi_root: bool,
}

/// `defaultProviders`: whom proxies tell what they do where no Telemetry says otherwise, by the names of `extensionProviders`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DefaultProviders {
    /// `tracing`
    pub tracing: Vec<SmolStr>,
    /// `metrics`
    pub metrics: Vec<SmolStr>,
    /// `accessLogging`
    pub access_logging: Vec<SmolStr>,
}

impl DefaultProviders {
    /// Iterates over all names.
    pub fn names(&self) -> impl Iterator<Item = &SmolStr> {
        self.tracing.iter().chain(&self.metrics).chain(&self.access_logging)
    }
}

/// Choices for the whole mesh for which istiod has environment variables, and MeshConfig no field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// Whether proxies know of endpoints that are not ready (`PILOT_AUTO_SEND_UNHEALTHY_ENDPOINTS`).
    pub send_unready_endpoints: bool,
    /// Whether policies of one workload may have several providers asked (`PILOT_ENABLE_MULTIPLE_CUSTOM_AUTHZ_PROVIDERS`).
    pub several_ext_authz: bool,
}

/// `caCertificates[]`: roots beside those of our own CA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaCertificate {
    /// `pem`, `spiffeBundleUrl`
    pub roots: RootsFrom,
    /// `trustDomains`: whose identities they vouch for; empty for everybody's.
    pub trust_domains: Vec<SmolStr>,
    /// `certSigners`: external CAs whose roots these are.
    pub cert_signers: Vec<SmolStr>,
}

/// Where roots come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootsFrom {
    /// `pem`: they are here, as [`of_pem`](super::trust_bundle::of_pem) gives them.
    Pem(SmolStr),
    /// `spiffeBundleUrl`: they are published there.
    BundleAt(SmolStr),
}

/// `meshMTLS` and `tlsDefaults`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsConfig {
    /// `minProtocolVersion`: `TLS_AUTO`, `TLSV1_2` or `TLSV1_3`.
    pub min_protocol_version: TlsProtocol,
    /// `cipherSuites` that Envoy knows, each once; empty for those that proxies have of themselves.
    pub cipher_suites: Vec<SmolStr>,
    /// `ecdhCurves`, likewise.
    pub ecdh_curves: Vec<SmolStr>,
}

/// `pathNormalization.normalization`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PathNormalization {
    /// `NONE`
    None,
    /// `BASE`, which `DEFAULT` stands for: RFC 3986.
    #[default]
    Base,
    /// `MERGE_SLASHES`
    MergeSlashes,
    /// `DECODE_AND_MERGE_SLASHES`
    DecodeAndMergeSlashes,
}

impl Default for Features {
    fn default() -> Self {
        Self { send_unready_endpoints: true, several_ext_authz: false }
    }
}

impl Default for MeshConfig {
    fn default() -> Self {
        Self {
            root_namespace: "istio-system".into(),
            trust_domain: "cluster.local".into(),
            trust_domain_aliases: Vec::new(),
            ca_certificates: Vec::new(),
            mesh_mtls: TlsConfig::default(),
            tls_defaults: TlsConfig::default(),
            domain: "cluster.local".into(),
            proxy_listen_port: 15001,
            proxy_inbound_listen_port: 15006,
            proxy_http_port: 0,
            connect_timeout: Duration::from_secs(10),
            tcp_keepalive: None,
            locality_lb: None,
            dns_refresh_rate: Duration::from_secs(60),
            protocol_detection_timeout: Duration::ZERO,
            outbound_traffic_policy: OutboundTrafficPolicy::AllowAny,
            inbound_localhost: false,
            enable_auto_mtls: true,
            h2_upgrade: false,
            access_log_file: SmolStr::default(),
            access_log_format: None,
            enable_tracing: true,
            disable_listener_log: false,
            default_service_export_to: vec!["*".into()],
            default_virtual_service_export_to: vec!["*".into()],
            default_destination_rule_export_to: vec!["*".into()],
            discovery_selectors: Vec::new(),
            outbound_cluster_stat_name: SmolStr::default(),
            inbound_cluster_stat_name: SmolStr::default(),
            default_http_retry_policy: None,
            path_normalization: PathNormalization::default(),
            extension_providers: Vec::new(),
            default_providers: DefaultProviders::default(),
            default_config: ProxyConfig::default(),
            enable_prometheus_merge: true,
            features: Features::default(),
            multi_root: false,
        }
    }
}

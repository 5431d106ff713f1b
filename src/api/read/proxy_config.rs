//! Reads ProxyConfig (contract §5.5). Only the fields that injection and the agent use have an effect.

use super::fields::{Node, Read};
use crate::api::proxy_config::{ForwardedCertificate, GatewayTopology, InterceptionMode, ProxyConfig};

/// Fields of Istio that would change at most the bootstrap of its own proxy.
const WITHOUT_EFFECT: [&str; 31] = [
    "configPath",
    "binaryPath",
    "serviceCluster",
    "tracingServiceName",
    "discoveryRefreshDelay",
    "zipkinAddress",
    "statsdUdpAddress",
    "proxyAdminPort",
    "controlPlaneAuthPolicy",
    "customConfigFile",
    "statNameLength",
    "proxyBootstrapTemplatePath",
    "tracing",
    "envoyAccessLogService",
    "envoyMetricsService",
    "envoyMetricsServiceAddress",
    "runtimeValues",
    "availabilityZone",
    "sds",
    "parentShutdownDuration",
    "meshId",
    "readinessProbe",
    "proxyStatsMatcher",
    "extraStatTags",
    "caCertificatesPem",
    "image",
    "privateKeyProvider",
    "proxyHeaders",
    "fileFlushInterval",
    "fileFlushMinSizeKb",
    "statsCompression",
];

impl Read for ProxyConfig {
    fn read(node: Node<'_>) -> Option<Self> {
        let fields = node.fields()?;
        let modes = [("REDIRECT", InterceptionMode::Redirect), ("TPROXY", InterceptionMode::Tproxy), ("NONE", InterceptionMode::None)];
        let config = Self {
            discovery_address: fields.opt("discoveryAddress"),
            concurrency: fields.opt("concurrency"),
            drain_duration: fields.opt("drainDuration"),
            termination_drain_duration: fields.opt("terminationDrainDuration"),
            interception_mode: fields.with("interceptionMode", |node| node.one_of(&modes)),
            status_port: fields.opt("statusPort"),
            proxy_metadata: fields.get("proxyMetadata"),
            gateway_topology: fields.opt("gatewayTopology"),
        };
        // A native sidecar starts and is ready before the application, so there is nothing to hold.
        fields.pass("holdApplicationUntilProxyStarts");
        for name in WITHOUT_EFFECT {
            fields.unsupported(name);
        }
        fields.finish();
        Some(config)
    }
}

impl Read for GatewayTopology {
    fn read(node: Node<'_>) -> Option<Self> {
        let [sanitize, forward, append, set, always] = ForwardedCertificate::ALL.map(|forwarded| (forwarded.as_str(), Some(forwarded)));
        let forwarded = [("UNDEFINED", None), sanitize, forward, append, set, always];
        node.message(|fields| Self {
            trusted_proxies: fields.get("numTrustedProxies"),
            forwarded_certificate: fields.with("forwardClientCertDetails", |node| node.one_of(&forwarded)).flatten(),
            proxy_protocol: fields.with("proxyProtocol", |node| node.message(|_| ())).is_some(),
        })
    }
}

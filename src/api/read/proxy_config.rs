//! Reads ProxyConfig: that of MeshConfig and annotations (contract §5.5), of which only the fields that injection and the agent use
//! have an effect, and the kind (contract §6.8).

use smol_str::SmolStr;

use super::{
    fields::{Node, Read},
    traffic_policy::match_labels,
};
use crate::api::{
    Labels, istio,
    proxy_config::{ForwardedCertificate, GatewayTopology, InterceptionMode, ProxyConfig, is_image_type},
};

/// Fields of Istio that would change at most the bootstrap of its own proxy.
const WITHOUT_EFFECT: [&str; 30] = [
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
            proxy_metadata: fields.with("proxyMetadata", variables).unwrap_or_default(),
            image_type: fields.with("image", image_type).flatten(),
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

impl Read for istio::ProxyConfig {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| Self {
            selector: fields.with("selector", match_labels),
            concurrency: fields.opt("concurrency"),
            environment_variables: fields.with("environmentVariables", variables).unwrap_or_default(),
            image_type: fields.with("image", image_type).flatten(),
        })
    }
}

/// Reads environment variables of a container. One with another name would have the API server refuse every pod with it.
fn variables(node: Node<'_>) -> Option<Labels> {
    let variables = Labels::read(node)?;
    for name in variables.keys().filter(|name| !is_variable(name)) {
        node.findings.error(&node.path.key(name), "is no name of an environment variable: letters, digits, _, - and . are possible");
    }
    Some(variables)
}

fn is_variable(name: &str) -> bool {
    let letters = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
    letters && !name.is_empty() && !name.starts_with(|first: char| first.is_ascii_digit()) && name != "." && !name.starts_with("..")
}

/// Reads `{imageType: …}`, which becomes a part of the image's tag.
fn image_type(node: Node<'_>) -> Option<Option<SmolStr>> {
    let read = |node: Node<'_>| {
        let kind = SmolStr::read(node)?;
        if !kind.is_empty() && !is_image_type(&kind) {
            node.error(format!("{kind:?} cannot be a part of an image's tag"));
        }
        Some(kind)
    };
    node.message(|fields| fields.with("imageType", read).filter(|kind| !kind.is_empty()))
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

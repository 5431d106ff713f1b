//! Reads ProxyConfig: that of MeshConfig and annotations (contract §5.5), of which only the fields that injection and the agent use
//! have an effect, and the kind (contract §6.8).

use smol_str::SmolStr;

use super::{
    fields::{Fields, Node, Read},
    traffic_policy::match_labels,
};
use crate::api::{
    Labels, istio,
    proxy_config::{
        CertificateDetails, Disabled, ForwardedCertificate, GatewayTopology, InterceptionMode, ProxyConfig, ProxyHeaders, ServerHeader,
        ServiceName, StatsMatcher, is_image_type,
    },
    re2,
};

/// Fields of Istio that would change at most the bootstrap of its own proxy.
const WITHOUT_EFFECT: [&str; 21] = [
    "configPath",
    "binaryPath",
    "discoveryRefreshDelay",
    "zipkinAddress",
    "statsdUdpAddress",
    "controlPlaneAuthPolicy",
    "customConfigFile",
    "statNameLength",
    "proxyBootstrapTemplatePath",
    "tracing",
    "envoyAccessLogService",
    "envoyMetricsService",
    "envoyMetricsServiceAddress",
    "availabilityZone",
    "sds",
    "parentShutdownDuration",
    "readinessProbe",
    "caCertificatesPem",
    "privateKeyProvider",
    "statsCompression",
    "connectionSettings",
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
            proxy_admin_port: fields.nonempty("proxyAdminPort"),
            proxy_metadata: fields.with("proxyMetadata", variables).unwrap_or_default(),
            image_type: fields.with("image", image_type).flatten(),
            gateway_topology: fields.opt("gatewayTopology"),
            service_name: service_name(&fields),
            mesh_id: fields.nonempty("meshId"),
            stats_matcher: fields.opt("proxyStatsMatcher"),
            extra_stat_tags: fields.get("extraStatTags"),
            proxy_headers: fields.opt("proxyHeaders"),
            runtime_values: fields.get("runtimeValues"),
            file_flush_interval: fields.opt("fileFlushInterval"),
            file_flush_min_size_kb: fields.nonempty("fileFlushMinSizeKb"),
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

fn service_name(fields: &Fields<'_>) -> Option<ServiceName> {
    fields.exclusive(&["serviceCluster", "tracingServiceName"]);
    let made = ServiceName::MADE;
    let written = fields.nonempty("serviceCluster").map(ServiceName::Written);
    written.or_else(|| fields.with("tracingServiceName", |node| node.one_of(&made.each_ref().map(|(name, made)| (*name, made))).cloned()))
}

impl Read for StatsMatcher {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| Self {
            prefixes: fields.get("inclusionPrefixes"),
            suffixes: fields.get("inclusionSuffixes"),
            regexps: fields.with("inclusionRegexps", regexps).unwrap_or_default(),
        })
    }
}

/// Reads regular expressions that Envoy understands: it would not start with another one.
fn regexps(node: Node<'_>) -> Option<Vec<SmolStr>> {
    let regexps = Vec::<SmolStr>::read(node)?;
    for (index, regexp) in regexps.iter().enumerate() {
        if let Err(why) = re2(regexp) {
            node.findings.error(&node.path.index(index), why);
        }
    }
    Some(regexps)
}

impl Read for ProxyHeaders {
    fn read(node: Node<'_>) -> Option<Self> {
        let flag = |name: &'static str| move |node: Node<'_>| node.message(|fields| fields.opt(name)).flatten();
        let disabled = |node: Node<'_>| node.message(|fields| Disabled(fields.get("disabled")));
        let modes = [("UNDEFINED", false), ("IN_MESH", true)];
        node.message(|fields| Self {
            forwarded_certificate: fields.with("forwardedClientCert", forwarded_certificate).flatten(),
            certificate_details: fields.with("setCurrentClientCertDetails", certificate_details),
            request_id: fields.with("requestId", disabled),
            server: fields.with("server", server),
            attempt_count: fields.with("attemptCount", disabled),
            envoy_debug_headers: fields.with("envoyDebugHeaders", disabled),
            exchange_in_mesh: fields
                .with("metadataExchangeHeaders", |node| node.message(|fields| fields.with("mode", |node| node.one_of(&modes))))
                .flatten(),
            preserve_case: fields.opt("preserveHttp1HeaderCase"),
            forwarded_host: fields.with("xForwardedHost", flag("enabled")),
            forwarded_port: fields.with("xForwardedPort", flag("enabled")),
        })
    }
}

fn certificate_details(node: Node<'_>) -> Option<CertificateDetails> {
    node.message(|fields| CertificateDetails {
        subject: fields.opt("subject"),
        cert: fields.opt("cert"),
        chain: fields.opt("chain"),
        dns: fields.opt("dns"),
        uri: fields.opt("uri"),
    })
}

/// Reads `{disabled: …, value: …}`.
fn server(node: Node<'_>) -> Option<ServerHeader> {
    let value = |node: Node<'_>| {
        let value = SmolStr::read(node)?;
        if value.chars().any(char::is_control) {
            node.error("has control characters, which no header may have");
        }
        Some(value)
    };
    node.message(|fields| ServerHeader { disabled: fields.get("disabled"), value: fields.with("value", value).unwrap_or_default() })
}

fn forwarded_certificate(node: Node<'_>) -> Option<Option<ForwardedCertificate>> {
    let [sanitize, forward, append, set, always] = ForwardedCertificate::ALL.map(|forwarded| (forwarded.as_str(), Some(forwarded)));
    node.one_of(&[("UNDEFINED", None), sanitize, forward, append, set, always])
}

impl Read for GatewayTopology {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| Self {
            trusted_proxies: fields.get("numTrustedProxies"),
            forwarded_certificate: fields.with("forwardClientCertDetails", forwarded_certificate).flatten(),
            proxy_protocol: fields.with("proxyProtocol", |node| node.message(|_| ())).is_some(),
        })
    }
}

//! Who a proxy says it is (contract §2.4, §2.5).

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use envoy_types::pb::{
    envoy::config::core::v3,
    google::protobuf::{Struct, Value, value::Kind},
};
use rustc_hash::FxHashSet;
use smol_str::{SmolStr, format_smolstr};

use super::bounds::{ADDRESSES, Excess, LABELS, POD_PORTS};
use crate::{
    api::go_duration,
    mesh::model::{
        Caller, CertificateDetails, Disabled, ExactBalance, Flavour, ForwardedCertificate, GatewayTopology, Interception, Labels, Locality,
        MetricsPlan, Proxy, ProxyHeaders, ProxyKind, ProxyPorts, ServerHeader, StatsLogger, TelemetryIdentity, WasmSupport,
    },
    peer_text::PeerText,
    visits::{Visit, Visited},
};

/// What runs WebAssembly, where Envoy was built with it.
const WASM_RUNTIME: &str = "envoy.wasm.runtime.v8";

/// What a proxy said about itself in its first request, reduced to what is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The proxy by its own account. Once its pod is known, its labels and locality give way to the pod's.
    pub proxy: Arc<Proxy>,
    /// `ISTIO_VERSION` of its metadata; empty if it has none.
    pub istio_version: SmolStr,
    /// Whether its metadata has `PROXY_CONFIG`. Tools list only proxies that have it (contract §1.3).
    pub has_proxy_config: bool,
}

/// A proxy, with who it is proven to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proven {
    node: Arc<Node>,
    caller: Caller,
}

/// Who a client of the debug types says it is. It needs to say less than a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    namespace: SmolStr,
    service_account: SmolStr,
}

/// Why a node cannot be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// The id does not have four parts.
    #[error("node id \"{0}\" is not type~ip~pod.namespace~domain")]
    Id(PeerText),
    /// It is neither sidecar nor router.
    #[error("proxies of type \"{0}\" are not served")]
    Type(PeerText),
    /// It has no valid address.
    #[error("node \"{0}\" has no valid IP address")]
    Address(PeerText),
    /// It says more of itself than is read.
    #[error(transparent)]
    Excess(#[from] Excess),
}

/// How many texts of a proxy's metadata are kept, and how long they are at most.
const MARKS: usize = 128;
const LONGEST_MARK: usize = 256;

impl Node {
    /// Reads Envoy's account of itself.
    ///
    /// # Errors
    /// When the id is malformed, or the proxy is of a type that is not served, has no valid address, or says too much.
    pub fn parse(node: &v3::Node) -> Result<Self, NodeError> {
        let mut parts = node.id.split('~');
        let (Some(kind), Some(ip), Some(id), Some(domain), None) = (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(NodeError::Id(PeerText::new(&node.id)));
        };
        let kind = match kind {
            "sidecar" => ProxyKind::Sidecar,
            "router" => ProxyKind::Gateway,
            other => return Err(NodeError::Type(PeerText::new(other))),
        };
        let metadata = Metadata(node.metadata.as_ref());
        let ips = addresses(metadata.text("INSTANCE_IPS"), ip).ok_or_else(|| NodeError::Address(PeerText::new(&node.id)))?;
        let namespace = metadata.name("NAMESPACE").unwrap_or_else(|| name(domain.split('.').next().unwrap_or_default()));
        let labels = metadata.labels("LABELS")?;
        let config = metadata.structure("PROXY_CONFIG");
        let cluster = metadata.name("CLUSTER_ID").unwrap_or_else(|| "Kubernetes".into());
        let telemetry = telemetry(&metadata, &labels, &namespace, &cluster);
        Ok(Self {
            istio_version: metadata.name("ISTIO_VERSION").unwrap_or_default(),
            has_proxy_config: metadata.value("PROXY_CONFIG").is_some(),
            proxy: Arc::new(Proxy {
                id: name(id),
                kind,
                namespace,
                service_account: metadata.name("SERVICE_ACCOUNT").unwrap_or_default(),
                metadata: Arc::new(metadata.texts()),
                ips,
                labels: Arc::new(labels),
                cluster,
                network: metadata.name("NETWORK").unwrap_or_default(),
                locality: node.locality.as_ref().map(locality).unwrap_or_default(),
                node: metadata.name("NODE_NAME").unwrap_or_default(),
                interception: interception(metadata.text("INTERCEPTION_MODE")),
                flavour: flavour(&node.extensions),
                dns_domain: name(domain),
                telemetry: Arc::new(telemetry),
                stats_logger: stats_logger(node),
                metrics: MetricsPlan::default(),
                service_cluster: name(&node.cluster),
                idle_timeout: metadata.text("IDLE_TIMEOUT").and_then(go_duration::parse),
                http10: metadata.text("HTTP10") == Some("1"),
                http_proxy_port: metadata.number("HTTP_PROXY_PORT"),
                ports: ProxyPorts {
                    status: metadata.number("ENVOY_STATUS_PORT"),
                    prometheus: metadata.number("ENVOY_PROMETHEUS_PORT"),
                    unprivileged: metadata.flag("UNPRIVILEGED_POD"),
                },
                exact_balance: ExactBalance {
                    inbound: metadata.flag("INBOUND_LISTENER_EXACT_BALANCE"),
                    outbound: metadata.flag("OUTBOUND_LISTENER_EXACT_BALANCE"),
                },
                topology: config.as_ref().map(|config| config.structure("gatewayTopology").map(topology).unwrap_or_default()),
                headers: config.map(|config| Arc::new(config.structure("proxyHeaders").map(headers).unwrap_or_default())),
                pod_ports: metadata.text("POD_PORTS").map_or(Ok(Vec::new()), pod_ports)?,
                wasm: wasm(&node.extensions, &metadata),
            }),
        })
    }
}

impl Proven {
    /// Joins a proxy with who its caller is proven to be; `None` when the caller may not ask for this proxy's
    /// configuration. It may when its namespace is the proxy's, and its service account too where the proxy names one
    /// (contract §2.6). The id ends in the same namespace, which logs, metrics and status show; that holds for callers of the
    /// plaintext port too, against whom nothing else is held.
    pub fn new(node: Arc<Node>, caller: Caller) -> Option<Self> {
        let Proxy { id, namespace, service_account, .. } = &*node.proxy;
        let agrees = agrees(namespace, service_account, &caller) && id.rsplit_once('.').is_none_or(|(_, named)| named == namespace);
        agrees.then(|| Self { node: in_its_cluster(node, &caller), caller })
    }

    /// Returns the proxy by its own account.
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Returns who the caller is proven to be. Secrets are for nobody else.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }
}

impl From<Arc<Proxy>> for Node {
    /// Makes a node that says no more about itself.
    fn from(proxy: Arc<Proxy>) -> Self {
        Self { proxy, istio_version: SmolStr::default(), has_proxy_config: false }
    }
}

impl Claim {
    /// Reads what a client says, whatever its id is like: command-line tools name no address, or none of their own.
    pub fn parse(node: &v3::Node) -> Self {
        let metadata = Metadata(node.metadata.as_ref());
        let domain = node.id.rsplit('~').next().unwrap_or_default();
        let namespace = metadata.name("NAMESPACE").unwrap_or_else(|| name(domain.split('.').next().unwrap_or_default()));
        Self { namespace, service_account: metadata.name("SERVICE_ACCOUNT").unwrap_or_default() }
    }

    /// Returns whether a caller may ask in this name, by the rule of [`Proven::new`].
    pub fn agrees_with(&self, caller: &Caller) -> bool {
        agrees(&self.namespace, &self.service_account, caller)
    }
}

/// Returns the proxy in the cluster that its caller is proven to be in, if that is a remote one. By its own account it could be a
/// pod of ours.
fn in_its_cluster(node: Arc<Node>, caller: &Caller) -> Arc<Node> {
    match caller {
        Caller::Remote { cluster, .. } if *cluster != node.proxy.cluster => {
            let proxy = Arc::new(Proxy { cluster: cluster.clone(), ..Proxy::clone(&node.proxy) });
            Arc::new(Node { proxy, ..Node::clone(&node) })
        }
        _ => node,
    }
}

fn agrees(namespace: &str, service_account: &str, caller: &Caller) -> bool {
    match caller {
        Caller::Anonymous => true,
        Caller::Workload(identity) | Caller::Remote { identity, .. } => {
            identity.namespace == namespace && (service_account.is_empty() || service_account == identity.service_account)
        }
    }
}

/// Takes a name that the proxy chose. It is shown in many places.
fn name(text: &str) -> SmolStr {
    SmolStr::new(&*PeerText::new(text))
}

struct Metadata<'a>(Option<&'a Struct>);

impl<'a> Metadata<'a> {
    fn value(&self, key: &str) -> Option<&'a Kind> {
        self.0?.fields.get(key)?.kind.as_ref()
    }

    fn text(&self, key: &str) -> Option<&'a str> {
        match self.value(key)? {
            Kind::StringValue(text) => Some(text),
            _ => None,
        }
    }

    /// Returns the texts that EnvoyFilters may tell proxies apart by. Long ones are no marks; of very many the first count.
    fn texts(&self) -> Labels {
        let mut texts = self.0.map(|metadata| strings(&metadata.fields)).unwrap_or_default();
        texts.retain(|key, text| key.len() <= LONGEST_MARK && text.len() <= LONGEST_MARK);
        texts.into_iter().take(MARKS).collect()
    }

    fn structure(&self, key: &str) -> Option<Metadata<'a>> {
        match self.value(key)? {
            Kind::StructValue(fields) => Some(Metadata(Some(fields))),
            _ => None,
        }
    }

    fn name(&self, key: &str) -> Option<SmolStr> {
        self.text(key).filter(|text| !text.is_empty()).map(name)
    }

    fn number(&self, key: &str) -> Option<u16> {
        match self.value(key)? {
            Kind::StringValue(text) => text.parse().ok(),
            Kind::NumberValue(number) if (1.0..=65535.0).contains(number) => Some(*number as u16),
            _ => None,
        }
    }

    // As Go's strconv.ParseBool reads it.
    fn flag(&self, key: &str) -> bool {
        match self.value(key) {
            Some(Kind::StringValue(text)) => matches!(text.as_str(), "1" | "t" | "T" | "true" | "TRUE" | "True"),
            Some(Kind::BoolValue(flag)) => *flag,
            _ => false,
        }
    }

    fn labels(&self, key: &str) -> Result<Labels, Excess> {
        match self.value(key) {
            Some(Kind::StructValue(labels)) if labels.fields.len() > LABELS => Err(Excess::entries("node.metadata.LABELS", LABELS)),
            Some(Kind::StructValue(labels)) => Ok(strings(&labels.fields)),
            _ => Ok(Labels::new()),
        }
    }
}

/// Reads `gatewayTopology` as the injector writes it.
fn topology(said: Metadata<'_>) -> GatewayTopology {
    GatewayTopology {
        trusted_proxies: said.number("numTrustedProxies").unwrap_or_default(),
        forwarded_certificate: said.text("forwardClientCertDetails").and_then(ForwardedCertificate::named),
        proxy_protocol: said.structure("proxyProtocol").is_some(),
    }
}

/// Reads `proxyHeaders` as the injector writes it.
fn headers(said: Metadata<'_>) -> ProxyHeaders {
    let disabled = |key: &str| said.structure(key).map(|said| Disabled(said.flag("disabled")));
    let enabled = |key: &str| said.structure(key).map(|said| said.flag("enabled"));
    let details = |said: Metadata<'_>| {
        let detail = |key: &str| said.value(key).map(|_| said.flag(key));
        CertificateDetails {
            subject: detail("subject"),
            cert: detail("cert"),
            chain: detail("chain"),
            dns: detail("dns"),
            uri: detail("uri"),
        }
    };
    let server = |said: Metadata<'_>| ServerHeader { disabled: said.flag("disabled"), value: said.name("value").unwrap_or_default() };
    ProxyHeaders {
        forwarded_certificate: said.text("forwardedClientCert").and_then(ForwardedCertificate::named),
        certificate_details: said.structure("setCurrentClientCertDetails").map(details),
        request_id: disabled("requestId"),
        server: said.structure("server").map(server),
        attempt_count: disabled("attemptCount"),
        envoy_debug_headers: disabled("envoyDebugHeaders"),
        exchange_in_mesh: said.structure("metadataExchangeHeaders").map(|said| said.text("mode") == Some("IN_MESH")),
        preserve_case: said.value("preserveHttp1HeaderCase").map(|_| said.flag("preserveHttp1HeaderCase")),
        forwarded_host: enabled("xForwardedHost"),
        forwarded_port: enabled("xForwardedPort"),
    }
}

fn strings(fields: &HashMap<String, Value>) -> Labels {
    let text = |value: &Value| match &value.kind {
        Some(Kind::StringValue(text)) => Some(SmolStr::from(text)),
        _ => None,
    };
    fields.iter().filter_map(|(key, value)| Some((key.into(), text(value)?))).collect()
}

/// Returns `INSTANCE_IPS` if each of them is an address, otherwise the id's address. The metadata may repeat one. Of very many the
/// first count.
fn addresses(instance_ips: Option<&str>, own: &str) -> Option<Vec<IpAddr>> {
    let listed = instance_ips
        .and_then(|ips| ips.split(',').visiting(Visited::Name).map(|ip| ip.trim().parse().ok()).collect::<Option<Vec<IpAddr>>>());
    let mut ips = listed.or_else(|| own.parse().ok().map(|ip| vec![ip]))?;
    let mut seen = FxHashSet::default();
    ips.retain(|ip| seen.insert(*ip));
    if ips.len() > ADDRESSES {
        tracing::debug!(addresses = ips.len(), most = ADDRESSES, "a proxy has more addresses than count: the first are taken");
        ips.truncate(ADDRESSES);
    }
    Some(ips)
}

fn interception(mode: Option<&str>) -> Interception {
    match mode {
        Some("TPROXY") => Interception::Tproxy,
        Some("NONE") => Interception::None,
        _ => Interception::Redirect,
    }
}

/// Returns the flavour. As with istiod, a proxy that reports no extensions counts as Istio's own.
fn flavour(extensions: &[v3::Extension]) -> Flavour {
    match extensions.is_empty() || extensions.iter().any(|extension| extension.name.starts_with("istio")) {
        true => Flavour::Istio,
        false => Flavour::Stock,
    }
}

/// Returns how Envoy counts for Istio's metrics; `None` when the extension for it is not built in.
fn stats_logger(node: &v3::Node) -> Option<StatsLogger> {
    const FIRST_WITH_SCOPES: (u32, u32) = (1, 40);
    let version = match &node.user_agent_version_type {
        Some(v3::node::UserAgentVersionType::UserAgentBuildVersion(build)) => build.version,
        _ => None,
    };
    let scopes = version.is_some_and(|version| (version.major_number, version.minor_number) >= FIRST_WITH_SCOPES);
    let counts = node.extensions.iter().any(|extension| extension.name == "envoy.access_loggers.stats");
    counts.then_some(if scopes { StatsLogger::SharedScope } else { StatsLogger::Prefix })
}

/// Returns what the proxy can do with WebAssembly. All that reports no extensions counts as Istio's own, which has everything.
fn wasm(extensions: &[v3::Extension], metadata: &Metadata<'_>) -> WasmSupport {
    if extensions.is_empty() {
        return WasmSupport { runs: true, fetches: true };
    }
    let runs = extensions.iter().any(|extension| extension.name == WASM_RUNTIME);
    // Agents say how the proxy is configured: nobody else does.
    WasmSupport { runs, fetches: metadata.value("PROXY_CONFIG").is_some() }
}

fn locality(locality: &v3::Locality) -> Locality {
    let v3::Locality { region, zone, sub_zone } = locality;
    Locality { region: name(region), zone: name(zone), subzone: name(sub_zone) }
}

fn telemetry(metadata: &Metadata<'_>, labels: &Labels, namespace: &SmolStr, cluster: &SmolStr) -> TelemetryIdentity {
    let first = |keys: &[&str]| keys.iter().find_map(|key| labels.get(*key).filter(|value| !value.is_empty()).cloned());
    let name = first(&["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"]);
    let revision = first(&["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"]);
    TelemetryIdentity {
        canonical_name: name.or_else(|| metadata.name("WORKLOAD_NAME")).unwrap_or_default(),
        canonical_revision: revision.unwrap_or_else(|| "latest".into()),
        mesh_id: metadata.name("MESH_ID").unwrap_or_default(),
        namespace: namespace.clone(),
        cluster_id: cluster.clone(),
    }
}

/// Reads `[{"name":"http","containerPort":8080}]`.
fn pod_ports(json: &str) -> Result<Vec<(SmolStr, u16)>, Excess> {
    let ports: Vec<serde_json::Value> = serde_json::from_str(json).unwrap_or_default();
    if ports.len() > POD_PORTS {
        return Err(Excess::entries("node.metadata.POD_PORTS", POD_PORTS));
    }
    let port = |port: &serde_json::Value| {
        let number = port.get("containerPort")?.as_u64()?.try_into().ok()?;
        Some((format_smolstr!("{}", port.get("name")?.as_str()?), number))
    };
    Ok(ports.iter().filter_map(port).filter(|(name, _)| !name.is_empty()).collect())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use StatsLogger::{Prefix, SharedScope};
    use envoy_types::pb::envoy::r#type::v3::SemanticVersion;

    use super::*;
    use crate::{mesh::model::SpiffeId, visits::Visits};

    fn text(text: &str) -> Value {
        Value { kind: Some(Kind::StringValue(text.into())) }
    }

    fn node(id: &str, fields: &[(&str, Value)]) -> v3::Node {
        let fields = fields.iter().map(|(key, value)| (key.to_string(), value.clone())).collect();
        v3::Node { id: id.into(), metadata: Some(Struct { fields }), ..v3::Node::default() }
    }

    #[test]
    fn the_id_and_the_metadata_say_who_it_is() {
        let labels = Struct { fields: [("app".to_string(), text("reviews")), ("version".to_string(), text("v2"))].into() };
        let metadata = [
            ("INSTANCE_IPS", text("10.0.0.1,fd00::1, 10.0.0.1")),
            ("NAMESPACE", text("shop")),
            ("SERVICE_ACCOUNT", text("reviews")),
            ("LABELS", Value { kind: Some(Kind::StructValue(labels)) }),
            ("INTERCEPTION_MODE", text("NONE")),
            ("IDLE_TIMEOUT", text("1m30s")),
            ("HTTP_PROXY_PORT", text("15007")),
            ("ENVOY_STATUS_PORT", Value { kind: Some(Kind::NumberValue(15021.0)) }),
            ("UNPRIVILEGED_POD", text("true")),
            ("OUTBOUND_LISTENER_EXACT_BALANCE", text("true")),
            ("POD_PORTS", text(r#"[{"name":"http","containerPort":8080},{"containerPort":9}]"#)),
        ];
        let mut message = node("sidecar~10.9.9.9~reviews-1.shop~shop.svc.cluster.local", &metadata);
        let proxy = Node::parse(&message).unwrap().proxy;
        assert_eq!((proxy.id.as_str(), proxy.namespace.as_str(), proxy.kind), ("reviews-1.shop", "shop", ProxyKind::Sidecar));
        assert_eq!(proxy.ips, ["10.0.0.1".parse::<IpAddr>().unwrap(), "fd00::1".parse().unwrap()]);
        assert_eq!((proxy.interception, proxy.idle_timeout), (Interception::None, Some(Duration::from_secs(90))));
        assert_eq!(proxy.ports, ProxyPorts { status: Some(15021), prometheus: None, unprivileged: true });
        assert_eq!(proxy.exact_balance, ExactBalance { inbound: false, outbound: true });
        assert_eq!((proxy.http_proxy_port, &proxy.pod_ports[..]), (Some(15007), &[("http".into(), 8080)][..]));
        assert_eq!((proxy.telemetry.canonical_name.as_str(), proxy.telemetry.canonical_revision.as_str()), ("reviews", "v2"));
        assert_eq!(proxy.flavour, Flavour::Istio, "no extensions reported");

        message.extensions = vec![v3::Extension { name: "envoy.filters.http.router".into(), ..v3::Extension::default() }];
        assert_eq!(Node::parse(&message).unwrap().proxy.flavour, Flavour::Stock);
        message.extensions.push(v3::Extension { name: "istio.stats".into(), ..v3::Extension::default() });
        assert_eq!(Node::parse(&message).unwrap().proxy.flavour, Flavour::Istio);
    }

    #[test]
    fn its_version_says_how_it_counts() {
        let logger = |extension: &str, minor_number| {
            let version = Some(SemanticVersion { major_number: 1, minor_number, patch: 3 });
            let build = v3::BuildVersion { version, ..v3::BuildVersion::default() };
            let mut message = node("sidecar~1.1.1.1~a.b~b.svc", &[]);
            message.user_agent_version_type = Some(v3::node::UserAgentVersionType::UserAgentBuildVersion(build));
            message.extensions = vec![v3::Extension { name: extension.into(), ..v3::Extension::default() }];
            Node::parse(&message).unwrap().proxy.stats_logger
        };
        let stats = "envoy.access_loggers.stats";
        assert_eq!([39, 40, 41].map(|minor| logger(stats, minor)), [Prefix, SharedScope, SharedScope].map(Some));
        assert_eq!(logger("envoy.access_loggers.file", 40), None);
    }

    #[test]
    fn a_gateway_says_what_stands_in_front_of_it() {
        let structure = |fields: &[(&str, Value)]| {
            let fields = fields.iter().map(|(key, value)| (key.to_string(), value.clone())).collect();
            Value { kind: Some(Kind::StructValue(Struct { fields })) }
        };
        let number = Value { kind: Some(Kind::NumberValue(2.0)) };
        let said = [("numTrustedProxies", number), ("forwardClientCertDetails", text("SANITIZE")), ("proxyProtocol", structure(&[]))];
        let metadata = [("PROXY_CONFIG", structure(&[("gatewayTopology", structure(&said))]))];
        let topology = |metadata: &[(&str, Value)]| Node::parse(&node("router~1.1.1.1~a.b~b.svc", metadata)).unwrap().proxy.topology;
        let forwarded_certificate = Some(ForwardedCertificate::Sanitize);
        assert_eq!(topology(&metadata), Some(GatewayTopology { trusted_proxies: 2, forwarded_certificate, proxy_protocol: true }));
        assert_eq!(topology(&[("PROXY_CONFIG", structure(&[]))]), Some(GatewayTopology::default()), "its own configuration says nothing");
        assert_eq!(topology(&[]), None, "the mesh's holds");
    }

    #[test]
    fn a_proxy_says_which_headers_it_sends() {
        let structure = |fields: &[(&str, Value)]| {
            let fields = fields.iter().map(|(key, value)| (key.to_string(), value.clone())).collect();
            Value { kind: Some(Kind::StructValue(Struct { fields })) }
        };
        let flag = |flag| Value { kind: Some(Kind::BoolValue(flag)) };
        let disabled = structure(&[("disabled", flag(true))]);
        let said = [
            ("forwardedClientCert", text("FORWARD_ONLY")),
            ("setCurrentClientCertDetails", structure(&[("chain", flag(true)), ("dns", flag(false))])),
            ("requestId", disabled.clone()),
            ("server", structure(&[("value", text("shop\nx"))])),
            ("attemptCount", disabled.clone()),
            ("envoyDebugHeaders", disabled),
            ("metadataExchangeHeaders", structure(&[("mode", text("IN_MESH"))])),
            ("preserveHttp1HeaderCase", flag(true)),
            ("xForwardedHost", structure(&[("enabled", flag(true))])),
            ("xForwardedPort", structure(&[("enabled", flag(false))])),
        ];
        let metadata = [("PROXY_CONFIG", structure(&[("proxyHeaders", structure(&said))]))];
        let headers = |metadata: &[(&str, Value)]| Node::parse(&node("sidecar~1.1.1.1~a.b~b.svc", metadata)).unwrap().proxy.headers.clone();
        let expected = ProxyHeaders {
            forwarded_certificate: Some(ForwardedCertificate::ForwardOnly),
            certificate_details: Some(CertificateDetails { chain: Some(true), dns: Some(false), ..CertificateDetails::default() }),
            request_id: Some(Disabled(true)),
            server: Some(ServerHeader { disabled: false, value: r"shop\nx".into() }),
            attempt_count: Some(Disabled(true)),
            envoy_debug_headers: Some(Disabled(true)),
            exchange_in_mesh: Some(true),
            preserve_case: Some(true),
            forwarded_host: Some(true),
            forwarded_port: Some(false),
        };
        assert_eq!(headers(&metadata).as_deref(), Some(&expected));
        assert_eq!(headers(&[("PROXY_CONFIG", structure(&[]))]).as_deref(), Some(&ProxyHeaders::default()), "its own says nothing");
        assert_eq!(headers(&[]), None, "the mesh's holds");
    }

    #[test]
    fn a_node_without_type_or_address_is_refused() {
        assert!(matches!(Node::parse(&node("x", &[])), Err(NodeError::Id(_))));
        assert!(matches!(Node::parse(&node("ztunnel~1.1.1.1~a.b~b.svc", &[])), Err(NodeError::Type(_))));
        assert!(matches!(Node::parse(&node("sidecar~~a.b~b.svc", &[])), Err(NodeError::Address(_))));
        let wrong_list = node("sidecar~1.1.1.1~a.b~b.svc.cluster.local", &[("INSTANCE_IPS", text("1.1.1.2,nonsense"))]);
        let proxy = Node::parse(&wrong_list).unwrap().proxy;
        assert_eq!((proxy.ips[0].to_string().as_str(), proxy.namespace.as_str()), ("1.1.1.1", "b"));
    }

    #[test]
    fn a_proxy_that_says_too_much_is_cut_or_refused() {
        let id = "sidecar~1.1.1.1~a.b~b.svc.cluster.local";
        let addresses = |count: u32| (0..count).map(|n| std::net::Ipv4Addr::from(n).to_string()).collect::<Vec<_>>().join(",");
        let cost = |count: u32| {
            let before = Visits::of_this_thread();
            let proxy = Node::parse(&node(id, &[("INSTANCE_IPS", text(&addresses(count)))])).unwrap().proxy;
            assert_eq!((proxy.ips.len(), proxy.ips[1].to_string().as_str()), (ADDRESSES, "0.0.0.1"));
            (Visits::of_this_thread() - before).names
        };
        assert_eq!(cost(4000), 2 * cost(2000));
        let labels = |count: usize| Struct { fields: (0..count).map(|n| (n.to_string(), text("x"))).collect() };
        let labels = |count| [("LABELS", Value { kind: Some(Kind::StructValue(labels(count))) })];
        assert_eq!(Node::parse(&node(id, &labels(LABELS))).unwrap().proxy.labels.len(), LABELS);
        let error = Node::parse(&node(id, &labels(LABELS + 1))).unwrap_err();
        assert_eq!(error.to_string(), "node.metadata.LABELS: at most 1024 entries are read");
        let ports = format!("[{}]", vec!["{}"; POD_PORTS + 1].join(","));
        assert!(matches!(Node::parse(&node(id, &[("POD_PORTS", text(&ports))])), Err(NodeError::Excess(_))));
    }

    #[test]
    fn a_caller_asks_for_its_own_configuration_only() {
        let caller = |namespace: &str, service_account: &str| {
            let (namespace, service_account) = (namespace.into(), service_account.into());
            Caller::Workload(SpiffeId { trust_domain: "td".into(), namespace, service_account })
        };
        let unnamed = Node::parse(&node("sidecar~1.1.1.1~a.shop~shop.svc", &[])).unwrap();
        let named = Node::parse(&node("sidecar~1.1.1.1~a.shop~shop.svc", &[("SERVICE_ACCOUNT", text("reviews"))])).unwrap();
        let is_proven =
            |node: &Node, namespace, service_account| Proven::new(Arc::new(node.clone()), caller(namespace, service_account)).is_some();
        assert!(is_proven(&unnamed, "shop", "any") && !is_proven(&unnamed, "bank", "any"));
        assert!(is_proven(&named, "shop", "reviews") && !is_proven(&named, "shop", "other"));
    }

    #[test]
    fn a_caller_of_a_remote_cluster_is_no_pod_of_ours_whatever_it_says() {
        let identity = SpiffeId { trust_domain: "td".into(), namespace: "shop".into(), service_account: "reviews".into() };
        let there = Caller::Remote { identity, cluster: "east".into() };
        for claimed in ["Kubernetes", "west", "east"] {
            let says = Node::parse(&node("sidecar~1.1.1.1~a.shop~shop.svc", &[("CLUSTER_ID", text(claimed))])).unwrap();
            let proven = Proven::new(Arc::new(says), there.clone()).unwrap();
            assert_eq!(proven.node().proxy.cluster, "east", "{claimed}");
        }
        let other = Node::parse(&node("sidecar~1.1.1.1~a.bank~bank.svc", &[])).unwrap();
        assert!(Proven::new(Arc::new(other), there).is_none());
    }

    #[test]
    fn a_proxy_is_named_after_the_namespace_that_it_is_in() {
        let caller = SpiffeId { trust_domain: "td".into(), namespace: "ns-1".into(), service_account: "client".into() };
        for caller in [Caller::Workload(caller), Caller::Anonymous] {
            let is_proven =
                |id: &str, fields: &[_]| Proven::new(Arc::new(Node::parse(&node(id, fields)).unwrap()), caller.clone()).is_some();
            let of_ns_1 = [("NAMESPACE", text("ns-1"))];
            assert!(!is_proven("sidecar~1.1.1.1~client.ns-2~ns-2.svc.cluster.local", &of_ns_1), "another's name");
            assert!(!is_proven("sidecar~1.1.1.1~client.ns-2~ns-1.svc.cluster.local", &[]), "another's name");
            assert!(is_proven("sidecar~1.1.1.1~client.ns-1~ns-1.svc.cluster.local", &of_ns_1));
            assert!(is_proven("router~1.1.1.1~a.pod.with.dots.ns-1~ns-1.svc.cluster.local", &[]));
            assert!(is_proven("sidecar~1.1.1.1~client~ns-1.svc.cluster.local", &of_ns_1), "it names none");
        }
    }

    #[test]
    fn what_a_proxy_calls_itself_cannot_end_a_line() {
        let said = [("ISTIO_VERSION", text("1.30\u{1b}[31m")), ("NAMESPACE", text("shop\nx"))];
        let node = Node::parse(&node("sidecar~1.1.1.1~a\nFAKE.shop\nx~shop", &said)).unwrap();
        assert_eq!((node.proxy.id.as_str(), node.proxy.namespace.as_str()), (r"a\nFAKE.shop\nx", r"shop\nx"));
        assert_eq!(node.istio_version, r"1.30\u{1b}[31m");
        let refused = Node::parse(&v3::Node { id: "x\n".repeat(100_000), ..v3::Node::default() }).unwrap_err().to_string();
        assert!(refused.len() < 1200 && !refused.contains('\n'), "{refused}");
    }

    #[test]
    fn a_command_line_need_not_say_where_it_is() {
        let identity = SpiffeId { trust_domain: "td".into(), namespace: "istio-system".into(), service_account: "default".into() };
        let operator = Caller::Workload(identity);
        let said = [("NAMESPACE", text("istio-system")), ("SERVICE_ACCOUNT", text("default"))];
        let claim = |id: &str| Claim::parse(&node(id, &said));
        assert!(claim("sidecar~~test-1.default~default.svc.cluster.local").agrees_with(&operator));
        assert!(claim("debug~0.0.0.0~istioctl~cluster.local").agrees_with(&operator));
        assert!(!Claim::parse(&node("sidecar~~test-1.default~default.svc.cluster.local", &[])).agrees_with(&operator));
    }
}

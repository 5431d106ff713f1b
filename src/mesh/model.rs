//! The words of the mesh: hostnames, services, endpoints, identities, proxies.
//!
//! Everything here is a plain immutable value. Large ones are shared by `Arc`, and the engine keeps the
//! old `Arc` whenever a new value equals it: pointer equality then means "nothing changed".

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use smol_str::{SmolStr, format_smolstr};

use crate::api::Kind;
pub use crate::api::{Labels, ObjectKey};

/// A DNS name, perhaps with a leading wildcard (`*.example.com`, `*`), in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hostname(SmolStr);

/// A SPIFFE identity `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    /// The trust domain.
    pub trust_domain: SmolStr,
    /// The namespace of the service account.
    pub namespace: SmolStr,
    /// The service account.
    pub service_account: SmolStr,
}

/// Who is at the other end of a connection, as far as it was proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A plaintext connection: nothing proven.
    Anonymous,
    /// Proven by a token or a client certificate.
    Workload(SpiffeId),
}

/// Where something runs: `region/zone/subzone`, each possibly empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Locality {
    /// `topology.kubernetes.io/region`
    pub region: SmolStr,
    /// `topology.kubernetes.io/zone`
    pub zone: SmolStr,
    /// `topology.istio.io/subzone`
    pub subzone: SmolStr,
}

/// The object (and its generation) that a value came from: rule 5, everything has an origin.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin {
    /// The object.
    pub object: ObjectKey,
    /// Its `metadata.generation`, 0 when unknown.
    pub generation: i64,
}

/// Age before name before namespace: Istio's tie-break between objects of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Precedence {
    /// `creationTimestamp`, Unix seconds.
    pub created: i64,
    /// `metadata.name`
    pub name: SmolStr,
    /// `metadata.namespace`
    pub namespace: SmolStr,
}

/// The protocol of a port (contract §6.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// Not said: the proxy sniffs.
    Auto,
    /// HTTP/1.1
    Http,
    /// HTTP/2 without TLS
    Http2,
    /// gRPC
    Grpc,
    /// gRPC-Web
    GrpcWeb,
    /// HTTP inside TLS that the proxy does not terminate
    Https,
    /// TLS that the proxy does not terminate
    Tls,
    /// Bytes
    Tcp,
    /// MongoDB's wire protocol
    Mongo,
    /// MySQL's wire protocol
    Mysql,
    /// Redis' wire protocol
    Redis,
    /// UDP: dropped from what proxies send out
    Udp,
}

/// How a client finds the endpoints of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Resolution {
    /// Endpoints are known and sent by EDS.
    ClientSideLb,
    /// The client's proxy resolves all names by DNS (`STRICT_DNS`).
    DnsLb,
    /// The client's proxy resolves one name by DNS (`LOGICAL_DNS`).
    DnsRoundRobin,
    /// The original destination address is used (headless services, resolution NONE).
    Passthrough,
    /// The name comes from the request (`DYNAMIC_DNS`).
    DynamicDns,
}

/// Who may see an object (`exportTo`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Visibility {
    /// `*`
    Public,
    /// `~`: nobody
    None,
    /// The namespaces named, with `.` already replaced by the object's own.
    Namespaces(Arc<[SmolStr]>),
}

/// Where a service comes from; decides precedence between equal hostnames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Registry {
    /// A Kubernetes Service.
    Kubernetes,
    /// A ServiceEntry.
    External,
}

/// One port of a service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServicePort {
    /// The port that clients use.
    pub number: u16,
    /// Its name; EndpointSlice ports join by it.
    pub name: SmolStr,
    /// What is spoken there.
    pub protocol: Protocol,
    /// The number that the pod listens on, where it is a number (a named target port is resolved per endpoint).
    pub target_port: TargetPort,
}

/// `targetPort` of a service port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TargetPort {
    /// A port number.
    Number(u16),
    /// The name of a container port.
    Name(SmolStr),
}

/// What a hostname means: a Kubernetes Service, or one host of a ServiceEntry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Fully qualified.
    pub hostname: Hostname,
    /// `metadata.name` of the Service or ServiceEntry.
    pub name: SmolStr,
    /// Its namespace.
    pub namespace: SmolStr,
    /// Kubernetes or ServiceEntry.
    pub registry: Registry,
    /// In the order in which they were written.
    pub ports: Vec<ServicePort>,
    /// Virtual addresses: cluster IPs, or a ServiceEntry's addresses (may be CIDRs); empty for headless and for none.
    pub addresses: Vec<SmolStr>,
    /// How endpoints are found.
    pub resolution: Resolution,
    /// A Kubernetes Service with `clusterIP: None`.
    pub headless: bool,
    /// `location: MESH_EXTERNAL`, or an ExternalName service.
    pub mesh_external: bool,
    /// Hostnames of ExternalName services that point here, sorted.
    pub aliases: Vec<Hostname>,
    /// For an ExternalName service: where it points. Such a service yields no cluster and no virtual host itself.
    pub external_name: Option<Hostname>,
    /// Who may see it.
    pub export_to: Visibility,
    /// Identities that its endpoints may have, sorted (from endpoints, annotations).
    pub service_accounts: Vec<SpiffeId>,
    /// `subjectAltNames` of a ServiceEntry.
    pub subject_alt_names: Vec<SmolStr>,
    /// Labels of the object.
    pub labels: Arc<Labels>,
    /// Selects its pods; empty: none.
    pub selector: Arc<Labels>,
    /// `publishNotReadyAddresses`
    pub publish_not_ready: bool,
    /// `internalTrafficPolicy: Local`
    pub node_local: bool,
    /// Age, for order and tie-breaks.
    pub precedence: Precedence,
    /// The object it came from.
    pub origin: Origin,
}

/// Identifies a [`Service`]: several namespaces may define the same hostname.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    /// The service's hostname.
    pub hostname: Hostname,
    /// The namespace of the object that defines it.
    pub namespace: SmolStr,
}

/// An address that an endpoint has.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EndpointAddress {
    /// An IP address.
    Ip(IpAddr),
    /// A DNS name (endpoints of DNS services).
    Host(SmolStr),
    /// A Unix domain socket (`unix://…`, path only).
    Pipe(SmolStr),
}

/// Whether an endpoint may be given traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Health {
    /// Ready, by Kubernetes.
    Healthy,
    /// Nobody says (ServiceEntry and WorkloadEntry endpoints): sent without health status.
    Unknown,
}

/// One place where a service answers. Only endpoints that may be given traffic exist.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    /// Where to connect.
    pub address: EndpointAddress,
    /// The port to connect to.
    pub port: u16,
    /// Who answers there.
    pub backend: Arc<Backend>,
    /// The workload has a sidecar and its mTLS mode for this port is not DISABLE.
    pub mtls: bool,
}

/// What stands behind an endpoint: the same for all ports of a workload, and often for several endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Backend {
    /// Labels of the workload; subsets select by them.
    pub labels: Arc<Labels>,
    /// Where it runs; mostly shared with the others on its node.
    pub locality: Arc<Locality>,
    /// The network it is in; empty: the only one.
    pub network: SmolStr,
    /// The cluster it is in.
    pub cluster: SmolStr,
    /// The Kubernetes node; empty when unknown.
    pub node: SmolStr,
    /// At least 1.
    pub weight: u32,
    /// The identity that it presents over mTLS.
    pub identity: Option<Arc<SpiffeId>>,
    /// Workload name, for telemetry.
    pub workload: SmolStr,
    /// Namespace of the workload.
    pub namespace: SmolStr,
    /// Ready or not known.
    pub health: Health,
}

/// The endpoints of one service, by service port number, each list sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointSet {
    /// `(service port number, endpoints)`, sorted by port.
    pub ports: Vec<(u16, Arc<[Endpoint]>)>,
}

/// How inbound traffic is taken in (`PeerAuthentication.mtls.mode`), after inheritance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MtlsMode {
    /// Plaintext only.
    Disable,
    /// mTLS and plaintext.
    Permissive,
    /// mTLS only.
    Strict,
}

/// A pod (or a WorkloadEntry) that may have a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Pod name.
    pub name: SmolStr,
    /// Its namespace.
    pub namespace: SmolStr,
    /// Pod labels.
    pub labels: Arc<Labels>,
    /// `metadata.annotations`
    pub annotations: Arc<Labels>,
    /// Service account.
    pub service_account: SmolStr,
    /// All its addresses.
    pub ips: Arc<[IpAddr]>,
    /// Node name.
    pub node: SmolStr,
    /// From the node's labels or the pod's; mostly shared with the others on its node.
    pub locality: Arc<Locality>,
    /// `metadata.uid`
    pub uid: SmolStr,
    /// Named container ports: `(name, number)`.
    pub ports: Arc<[(SmolStr, u16)]>,
    /// The kind of the object it came from: Pod or WorkloadEntry.
    pub kind: Kind,
    /// The cluster of that object.
    pub cluster: SmolStr,
    /// `metadata.generation` of that object.
    pub generation: i64,
}

/// Sidecar or gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProxyKind {
    /// `sidecar~…`
    Sidecar,
    /// `router~…`
    Gateway,
}

/// How traffic reaches a sidecar (`INTERCEPTION_MODE`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Interception {
    /// iptables REDIRECT to 15001 and 15006.
    Redirect,
    /// iptables TPROXY; source addresses kept.
    Tproxy,
    /// No capture: listeners really bind.
    None,
}

/// For which build of Envoy configuration is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Flavour {
    /// Envoy as its project releases it.
    Stock,
    /// Istio's proxyv2, which has extensions of its own (contract §3.8).
    Istio,
}

/// A proxy as it described itself, checked against what is known about its workload.
///
/// The fields are all that translation may read of a proxy; what two proxies have in common makes them one class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// `pod.namespace`
    pub id: SmolStr,
    /// Sidecar or gateway.
    pub kind: ProxyKind,
    /// Configuration namespace.
    pub namespace: SmolStr,
    /// `SERVICE_ACCOUNT`; empty when not said.
    pub service_account: SmolStr,
    /// Its addresses, first the primary.
    pub ips: Vec<IpAddr>,
    /// Labels of its workload (the pod's when known, else from metadata).
    pub labels: Arc<Labels>,
    /// `CLUSTER_ID`
    pub cluster: SmolStr,
    /// `NETWORK`
    pub network: SmolStr,
    /// Where it runs.
    pub locality: Locality,
    /// `NODE_NAME`
    pub node: SmolStr,
    /// Capture mode.
    pub interception: Interception,
    /// Stock or Istio's.
    pub flavour: Flavour,
    /// `dns_domain` of the node id (`<ns>.svc.<domain>`).
    pub dns_domain: SmolStr,
    /// Names for telemetry.
    pub telemetry: Arc<TelemetryIdentity>,
    /// `IDLE_TIMEOUT` of TCP proxies and HTTP connections.
    pub idle_timeout: Option<Duration>,
    /// `HTTP10` = "1"
    pub http10: bool,
    /// `HTTP_PROXY_PORT`
    pub http_proxy_port: Option<u16>,
    /// `UNPRIVILEGED_POD`: gateway ports below 1024 are left out.
    pub unprivileged: bool,
    /// Named container ports (`POD_PORTS`), for named target ports.
    pub pod_ports: Vec<(SmolStr, u16)>,
}

/// What only names a proxy in traces and metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TelemetryIdentity {
    /// `service.istio.io/canonical-name`, or what stands in for it.
    pub canonical_name: SmolStr,
    /// `service.istio.io/canonical-revision`, `latest` when not said.
    pub canonical_revision: SmolStr,
    /// `MESH_ID`
    pub mesh_id: SmolStr,
    /// `NAMESPACE`
    pub namespace: SmolStr,
    /// `CLUSTER_ID`
    pub cluster_id: SmolStr,
}

// === impl Hostname ===

impl Hostname {
    /// Takes any text; compares without regard to case.
    pub fn new(text: impl AsRef<str>) -> Self {
        let text = text.as_ref();
        if text.bytes().any(|b| b.is_ascii_uppercase()) { Self(text.to_ascii_lowercase().into()) } else { Self(text.into()) }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text, shared.
    pub fn text(&self) -> &SmolStr {
        &self.0
    }

    /// `*` or `*.something`.
    pub fn is_wildcard(&self) -> bool {
        self.0.starts_with('*')
    }

    /// Whether every name that `other` stands for is one that `self` stands for (`*.a.b` covers `x.a.b` and `*.x.a.b`).
    pub fn covers(&self, other: &Self) -> bool {
        match self.0.strip_prefix('*') {
            Some(suffix) => other.0.strip_prefix('*').unwrap_or(&other.0).ends_with(suffix),
            None => self == other,
        }
    }

    /// Whether there is a name that both stand for.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.covers(other) || other.covers(self)
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl SpiffeId ===

impl SpiffeId {
    /// Reads `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`; `None` for anything else.
    pub fn parse(uri: &str) -> Option<Self> {
        let (trust_domain, path) = uri.strip_prefix("spiffe://")?.split_once('/')?;
        let (namespace, service_account) = path.strip_prefix("ns/")?.split_once("/sa/")?;
        let plain = |part: &str| !part.is_empty() && !part.contains('/');
        (plain(trust_domain) && plain(namespace) && plain(service_account)).then(|| Self {
            trust_domain: trust_domain.into(),
            namespace: namespace.into(),
            service_account: service_account.into(),
        })
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/ns/{}/sa/{}", self.trust_domain, self.namespace, self.service_account)
    }
}

// === impl Proxy ===

impl Proxy {
    /// A proxy of which only this is known: stock Envoy, REDIRECT, in cluster `Kubernetes` of the domain
    /// `cluster.local`. `id` is `pod.namespace`.
    pub fn new(kind: ProxyKind, id: &str) -> Self {
        let namespace = id.rsplit_once('.').map_or("", |(_, namespace)| namespace);
        Self {
            id: id.into(),
            kind,
            namespace: namespace.into(),
            service_account: SmolStr::default(),
            ips: Vec::new(),
            labels: Arc::default(),
            cluster: "Kubernetes".into(),
            network: SmolStr::default(),
            locality: Locality::default(),
            node: SmolStr::default(),
            interception: Interception::Redirect,
            flavour: Flavour::Stock,
            dns_domain: format_smolstr!("{namespace}.svc.cluster.local"),
            telemetry: Arc::default(),
            idle_timeout: None,
            http10: false,
            http_proxy_port: None,
            unprivileged: false,
            pod_ports: Vec::new(),
        }
    }
}

// === impl others ===

impl Visibility {
    /// Whether something in `namespace` may see it.
    pub fn allows(&self, namespace: &str) -> bool {
        match self {
            Self::Public => true,
            Self::None => false,
            Self::Namespaces(names) => names.iter().any(|name| name == namespace),
        }
    }
}

impl Protocol {
    /// Whether the port gets HTTP treatment without sniffing.
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Http2 | Self::Grpc | Self::GrpcWeb)
    }

    /// Whether upstream connections speak HTTP/2.
    pub fn is_http2(self) -> bool {
        matches!(self, Self::Http2 | Self::Grpc | Self::GrpcWeb)
    }

    /// Whether clients send TLS that the proxy does not open.
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::Tls)
    }
}

impl Service {
    /// Its key.
    pub fn key(&self) -> ServiceKey {
        ServiceKey { hostname: self.hostname.clone(), namespace: self.namespace.clone() }
    }

    /// The port of that number.
    pub fn port(&self, number: u16) -> Option<&ServicePort> {
        self.ports.iter().find(|port| port.number == number)
    }
}

impl EndpointSet {
    /// The endpoints for a service port; empty when there are none.
    pub fn port(&self, number: u16) -> &[Endpoint] {
        self.ports.iter().find(|(port, _)| *port == number).map_or(&[], |(_, endpoints)| endpoints)
    }
}

impl Locality {
    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.region.is_empty() && self.zone.is_empty() && self.subzone.is_empty()
    }

    /// `region/zone/subzone`, shortened where the tail is empty.
    pub fn label(&self) -> SmolStr {
        match (self.zone.is_empty(), self.subzone.is_empty()) {
            (_, false) => format_smolstr!("{}/{}/{}", self.region, self.zone, self.subzone),
            (false, true) => format_smolstr!("{}/{}", self.region, self.zone),
            (true, true) => self.region.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_cover_names_and_narrower_wildcards() {
        let wide = Hostname::new("*.example.com");
        assert!(wide.covers(&Hostname::new("a.example.com")));
        assert!(wide.covers(&Hostname::new("*.a.example.com")));
        assert!(!wide.covers(&Hostname::new("example.com")));
        assert!(!Hostname::new("a.example.com").covers(&wide));
        assert!(Hostname::new("*").covers(&wide));
        assert!(Hostname::new("a.example.com").overlaps(&wide));
    }

    #[test]
    fn only_the_istio_form_of_a_spiffe_id_is_taken() {
        let id = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/reviews").unwrap();
        assert_eq!(id.to_string(), "spiffe://cluster.local/ns/shop/sa/reviews");
        for wrong in ["", "spiffe://", "spiffe://td/ns//sa/x", "spiffe://td/ns/a/sa/b/c", "https://td/ns/a/sa/b"] {
            assert_eq!(SpiffeId::parse(wrong), None, "{wrong}");
        }
    }
}

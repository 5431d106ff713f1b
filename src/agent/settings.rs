//! The settings of one agent: who its workload is, where the control plane is, which addresses it may use.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use serde_json::{Map, Value};

use super::{application::Application, output::OutputFolder};
use crate::workload_labels::WorkloadLabels;

/// Everything that one agent needs to know; made by the command line.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Sidecar or gateway.
    pub role: Role,
    /// The workload that this proxy serves.
    pub workload: Workload,
    /// The control plane and how to trust it.
    pub discovery: ControlPlane,
    /// The workload's certificate.
    pub certificate: CertificatePolicy,
    /// Addresses on which Envoy and the agent listen.
    pub listen: Listen,
    /// How Envoy is run.
    pub envoy: EnvoyOptions,
    /// What users want of Envoy's bootstrap.
    pub bootstrap: BootstrapOptions,
    /// How a proxy ends.
    pub drain: Drain,
    /// How the agent reaches the application: probes and metrics.
    pub application: Application,
    /// `PROXY_CONFIG` as the injector wrote it; part of the node's metadata.
    pub proxy_config: Map<String, Value>,
    /// Registries that modules are fetched from without TLS, `host:port`; `*`: all.
    pub plain_registries: Vec<String>,
    /// Folder for sockets and bootstrap; created if missing, readable by its owner only.
    pub work_dir: PathBuf,
    /// Where key, certificate and roots are written for others; `None`: nowhere.
    pub output: Option<OutputFolder>,
}

/// The first part of a node id (contract §2.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// `sidecar`
    Sidecar,
    /// `router`
    Gateway,
}

/// `INTERCEPTION_MODE` (contract §2.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum InterceptionMode {
    /// iptables REDIRECT to 15001 and 15006.
    #[default]
    Redirect,
    /// As REDIRECT, but keeping the source address.
    Tproxy,
    /// No capture: Envoy binds each port.
    None,
}

/// Who the workload is; becomes the node id and metadata (contract §2.4, §2.5).
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    /// Pod name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// Service account, part of the SPIFFE id.
    pub service_account: String,
    /// Instance addresses, first the primary; at least one.
    pub ips: Vec<IpAddr>,
    /// Workload labels.
    pub labels: BTreeMap<String, String>,
    /// The pod's annotations; some tell the control plane how the proxy is to behave.
    pub annotations: BTreeMap<String, String>,
    /// `WORKLOAD_NAME`
    pub workload_name: String,
    /// What it is called in traces, and as Envoy's local cluster.
    pub service_name: String,
    /// `INTERCEPTION_MODE`
    pub interception: InterceptionMode,
    /// `CLUSTER_ID`
    pub cluster_id: String,
    /// `MESH_ID`
    pub mesh_id: String,
    /// `NODE_NAME`; empty if unknown.
    pub node_name: String,
    /// `NETWORK`; empty if there is only one.
    pub network: String,
    /// Trust domain of the SPIFFE id.
    pub trust_domain: String,
    /// DNS domain of the cluster, `cluster.local`.
    pub dns_domain: String,
    /// Further metadata (`ISTIO_META_*`, `ISTIO_METAJSON_*`); it overrides the fields above.
    pub metadata: BTreeMap<String, Value>,
}

/// The control plane.
#[derive(Clone, Debug)]
pub(crate) struct ControlPlane {
    /// `HOST:PORT` for xDS.
    pub address: String,
    /// `HOST:PORT` for certificates; mostly the same.
    pub ca_address: String,
    /// The name that its certificate must carry.
    pub server_name: String,
    /// PEM file of the roots to which its certificate must chain; read anew on every dial.
    pub root_cert: PathBuf,
    /// PEM file of the lists of revoked certificates; it need not be there.
    pub revocation_list: PathBuf,
    /// Token file; read anew on every use. `None`: the workload certificate is the only credential.
    pub token_file: Option<PathBuf>,
    /// Delta (default) or state-of-the-world.
    pub delta: bool,
}

/// How workload certificates are requested and renewed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CertificatePolicy {
    /// The lifetime to request.
    pub ttl: Duration,
    /// The part of the lifetime after which it is renewed, between 0 and 1.
    pub renew_at_fraction: f64,
}

/// Where Envoy and the agent listen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Listen {
    /// Envoy's admin (15000).
    pub admin: SocketAddr,
    /// Readiness (15021), served by Envoy.
    pub status: SocketAddr,
    /// Envoy's metrics (15090), served by Envoy.
    pub prometheus: SocketAddr,
    /// The agent's own port (15020).
    pub agent: SocketAddr,
}

/// How Envoy is run.
#[derive(Clone, Debug)]
pub(crate) struct EnvoyOptions {
    /// Envoy's binary.
    pub binary: PathBuf,
    /// Worker threads; 0: one for each CPU.
    pub concurrency: u32,
    /// How often access logs are written.
    pub file_flush_interval: Duration,
    /// With how many kB of an access log Envoy waits no longer; `None`: with as many as is usual.
    pub file_flush_min_size_kb: Option<u32>,
    /// Whether Envoy keeps all its statistics, not only those of use.
    pub all_statistics: bool,
    /// Envoy's log level.
    pub log_level: String,
    /// Further arguments.
    pub arguments: Vec<OsString>,
    /// Program that ties Envoy's life to the agent's and then becomes Envoy: `LAUNCHER agent launch PID ENVOY ARGUMENTS…`
    /// (see [`super::launch`]). `None`: Envoy is started directly and outlives an agent that was killed.
    pub launcher: Option<PathBuf>,
}

/// How a proxy ends (see [`super::drain`]).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Drain {
    /// How long Envoy keeps the connections of a listener that was changed or removed (`--drain-time-s`).
    pub listener: Duration,
    /// The longest time that open connections get when the proxy ends; `None`: as long as they need.
    pub duration: Option<Duration>,
    /// The shortest time between the start of the drain and the end, even with no connection open: for so long others may still
    /// send to this proxy. If it is longer than `duration`, `duration` counts.
    pub minimum: Duration,
}

/// What users want of Envoy's bootstrap, by ProxyConfig and annotations.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct BootstrapOptions {
    /// Which of Envoy's own statistics are kept, and how.
    pub statistics: Statistics,
    /// Envoy's runtime, over our own; an empty value takes one of ours away.
    pub runtime: BTreeMap<String, String>,
    /// How many connections the proxy may have; `None`: any number.
    pub connections: Option<u32>,
}

/// Which of Envoy's own statistics are kept beside those that always are, and how.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Statistics {
    /// Those whose names begin so. `{pod_ip}` stands for each of the proxy's addresses, here and below.
    pub prefixes: Vec<String>,
    /// Those whose names end so.
    pub suffixes: Vec<String>,
    /// Those whose names match.
    pub regexps: Vec<String>,
    /// Names of labels beside the usual ones.
    pub tags: Vec<String>,
    /// The bounds of the buckets of histograms whose names begin so.
    pub buckets: BTreeMap<String, Vec<f64>>,
    /// How often they are flushed.
    pub flush_interval: Option<Duration>,
    /// After which time without use one is forgotten.
    pub eviction_interval: Option<Duration>,
}

// === impl Role ===

impl Role {
    /// Returns the node type in the node id.
    pub(crate) fn node_type(self) -> &'static str {
        match self {
            Self::Sidecar => "sidecar",
            Self::Gateway => "router",
        }
    }
}

// === impl InterceptionMode ===

impl InterceptionMode {
    /// Returns the value of `INTERCEPTION_MODE`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Redirect => "REDIRECT",
            Self::Tproxy => "TPROXY",
            Self::None => "NONE",
        }
    }
}

// === impl Workload ===

impl Workload {
    /// Returns the SPIFFE id that the control plane gives this workload.
    pub(crate) fn spiffe_id(&self) -> String {
        format!("spiffe://{}/ns/{}/sa/{}", self.trust_domain, self.namespace, self.service_account)
    }

    /// Returns the external signer that it wants its certificate of (`ISTIO_META_CERT_SIGNER`); the control plane has one for the others.
    pub(crate) fn cert_signer(&self) -> Option<&str> {
        self.metadata.get("CERT_SIGNER").and_then(Value::as_str).filter(|signer| !signer.is_empty())
    }

    /// Returns label `service.istio.io/canonical-name`, or those that stand in for it (contract §5.4).
    pub(crate) fn canonical_name(&self) -> &str {
        self.first_label(&["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"]).unwrap_or(&self.workload_name)
    }

    /// Returns label `service.istio.io/canonical-revision`, or those that stand in for it, or `latest` (contract §5.4).
    pub(crate) fn canonical_revision(&self) -> &str {
        self.first_label(&["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"]).unwrap_or("latest")
    }

    /// Returns what metrics say of it.
    pub(crate) fn labels(&self) -> WorkloadLabels<'_> {
        let label = |key: &str| self.labels.get(key).map_or("", String::as_str);
        WorkloadLabels {
            workload: &self.workload_name,
            namespace: &self.namespace,
            canonical_service: self.canonical_name(),
            canonical_revision: self.canonical_revision(),
            cluster: &self.cluster_id,
            app: label("app"),
            version: label("version"),
        }
    }

    fn first_label(&self, keys: &[&str]) -> Option<&str> {
        keys.iter().find_map(|key| self.labels.get(*key)).map(String::as_str).filter(|value| !value.is_empty())
    }
}

// === impl Settings ===

impl Settings {
    /// Returns the socket on which the relay serves ADS to Envoy.
    pub(crate) fn xds_socket(&self) -> PathBuf {
        self.work_dir.join("xds.sock")
    }

    /// Returns the socket on which secrets are served to Envoy.
    pub(crate) fn sds_socket(&self) -> PathBuf {
        self.work_dir.join("sds.sock")
    }

    /// Returns the folder of the modules that were fetched.
    pub(crate) fn modules_folder(&self) -> PathBuf {
        self.work_dir.join("modules")
    }

    /// Returns the bootstrap file.
    pub(crate) fn bootstrap_file(&self) -> PathBuf {
        self.work_dir.join("bootstrap.json")
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Returns the settings of a sidecar of `reviews` on 127.0.1.5.
    pub(crate) fn settings() -> Settings {
        let ip = IpAddr::from([127, 0, 1, 5]);
        Settings {
            role: Role::Sidecar,
            workload: Workload {
                name: "reviews-v1-abc".to_owned(),
                namespace: "shop".to_owned(),
                service_account: "reviews".to_owned(),
                ips: vec![ip],
                labels: [("app", "reviews"), ("version", "v1")].map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
                annotations: BTreeMap::new(),
                workload_name: "reviews-v1".to_owned(),
                service_name: "reviews.shop".to_owned(),
                interception: InterceptionMode::None,
                cluster_id: "Kubernetes".to_owned(),
                mesh_id: "cluster.local".to_owned(),
                node_name: "node-1".to_owned(),
                network: String::new(),
                trust_domain: "cluster.local".to_owned(),
                dns_domain: "cluster.local".to_owned(),
                metadata: BTreeMap::new(),
            },
            discovery: ControlPlane {
                address: "127.0.0.1:15012".to_owned(),
                ca_address: "127.0.0.1:15012".to_owned(),
                server_name: "istiod.istio-system.svc".to_owned(),
                root_cert: "root-cert.pem".into(),
                revocation_list: "ca-crl.pem".into(),
                token_file: Some("token".into()),
                delta: true,
            },
            certificate: CertificatePolicy { ttl: Duration::from_secs(86_400), renew_at_fraction: 0.5 },
            listen: Listen {
                admin: (ip, 15000).into(),
                status: (ip, 15021).into(),
                prometheus: (ip, 15090).into(),
                agent: (ip, 15020).into(),
            },
            envoy: EnvoyOptions {
                binary: "envoy".into(),
                concurrency: 2,
                file_flush_interval: Duration::from_secs(1),
                file_flush_min_size_kb: None,
                all_statistics: false,
                log_level: "warning".to_owned(),
                arguments: Vec::new(),
                launcher: None,
            },
            bootstrap: BootstrapOptions::default(),
            drain: Drain { listener: Duration::from_secs(45), duration: Some(Duration::from_secs(5)), minimum: Duration::ZERO },
            application: Application::default(),
            proxy_config: Map::new(),
            plain_registries: Vec::new(),
            work_dir: "run".into(),
            output: None,
        }
    }

    #[test]
    fn a_signer_is_asked_for_by_the_pods_environment() {
        let mut workload = settings().workload;
        assert_eq!(workload.cert_signer(), None);
        workload.metadata.insert("CERT_SIGNER".to_owned(), "mesh".into());
        assert_eq!(workload.cert_signer(), Some("mesh"));
        workload.metadata.insert("CERT_SIGNER".to_owned(), "".into());
        assert_eq!(workload.cert_signer(), None);
    }

    #[test]
    fn canonical_names_fall_back() {
        let mut workload = settings().workload;
        assert_eq!((workload.canonical_name(), workload.canonical_revision()), ("reviews", "v1"));
        workload.labels.insert("service.istio.io/canonical-name".to_owned(), "canonical".to_owned());
        workload.labels.remove("version");
        assert_eq!((workload.canonical_name(), workload.canonical_revision()), ("canonical", "latest"));
        workload.labels.clear();
        assert_eq!(workload.canonical_name(), "reviews-v1");
        assert_eq!(workload.spiffe_id(), "spiffe://cluster.local/ns/shop/sa/reviews");
    }
}

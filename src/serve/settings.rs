//! What the command line says of a control plane, one struct for each part that reads it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::SocketAddr,
    path::PathBuf,
    time::Duration,
};

use smol_str::SmolStr;

use super::{
    connection::ConnectionOptions,
    tls::{ServingFiles, TlsParameters},
};
use crate::{
    api::mesh_config::Features,
    controllers::election::Timing,
    identity::{
        authenticate::JwtRule,
        ca::IssuePolicy,
        impersonation::Account,
        key::KeyType,
        registration::{SignerChoice, SignerName},
    },
    source::{debounce, key_sets, kubernetes},
    webhook::inject,
    xds::{bounds::Bounds, session},
};

/// The settings of one control plane.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Which control plane this is.
    pub instance: Instance,
    /// Where objects come from.
    pub source: ObjectSource,
    /// The cluster to which the objects belong, and its MeshConfig.
    pub cluster: ClusterSettings,
    /// The ports.
    pub listen: ListenSettings,
    /// The TLS ports' side of a handshake.
    pub tls: TlsSettings,
    /// The CA, and how callers are authenticated.
    pub identity: IdentitySettings,
    /// What is kept in Kubernetes.
    pub controllers: ControllerSettings,
    /// What injected proxies are like.
    pub injection: inject::Settings,
    /// How connections of proxies are kept; `grace` also bounds the shutdown.
    pub connections: ConnectionOptions,
    /// What callers may cost.
    pub limits: LimitSettings,
    /// Whom proxies trust besides who has a certificate of our own CA.
    pub trust: TrustSettings,
    /// How keys of issuers are fetched.
    pub key_sets: key_sets::Settings,
    /// How changes are gathered into batches.
    pub debounce: debounce::Settings,
    /// How much requests of proxies may hold.
    pub bounds: Bounds,
    /// The order of rollouts.
    pub rollout: session::Settings,
}

/// One control plane among others.
#[derive(Clone, Debug)]
pub(crate) struct Instance {
    /// The namespace that it runs in.
    pub namespace: String,
    /// Its revision; empty or `default` for the one without a name.
    pub revision: String,
    /// The pod that it runs in; empty outside a pod.
    pub pod: String,
    /// The service account that it runs as, for the log; empty outside a pod.
    pub service_account: String,
}

/// Where objects come from.
#[derive(Clone, Debug)]
pub(crate) enum ObjectSource {
    /// A folder of YAML.
    Folder(PathBuf),
    /// An API server.
    Kubernetes(Box<kubernetes::Settings>),
}

/// The cluster to which the objects belong, and its MeshConfig.
#[derive(Clone, Debug)]
pub(crate) struct ClusterSettings {
    /// MeshConfig file, which wins over the API server's ConfigMap.
    pub config_file: Option<PathBuf>,
    /// DNS domain of the cluster.
    pub domain: String,
    /// Cluster id of the objects.
    pub cluster_id: String,
    /// What MeshConfig has no field for.
    pub features: Features,
}

/// Whom proxies trust besides who has a certificate of our own CA.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TrustSettings {
    /// Whether they are given the roots of `caCertificates`.
    pub multi_root: bool,
    /// How often those that are published are fetched again.
    pub refresh: Duration,
}

/// Addresses to listen on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ListenSettings {
    /// Readiness and debug pages (8080).
    pub http: SocketAddr,
    /// Plaintext gRPC (15010); `None`: there is none.
    pub grpc: Option<SocketAddr>,
    /// gRPC over TLS (15012).
    pub secure_grpc: SocketAddr,
    /// Metrics (15014).
    pub monitoring: SocketAddr,
    /// Webhooks (15017); `None`: there are none.
    pub https: Option<SocketAddr>,
}

/// What callers may cost, all together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LimitSettings {
    /// The memory that this process may take, in bytes.
    pub memory: usize,
    /// How many connections one source address may have open; `None`: half of all.
    pub connections_per_address: Option<usize>,
}

/// The TLS ports' side of a handshake.
#[derive(Clone, Debug)]
pub(crate) struct TlsSettings {
    /// Names and addresses in the serving certificate, besides istiod's own.
    pub names: Vec<String>,
    /// Files of a serving certificate that somebody else issues; `None`: our own CA issues it.
    pub files: Option<ServingFiles>,
    /// TLS versions and cipher suites.
    pub protocol: TlsParameters,
}

/// The CA, and how callers are authenticated.
#[derive(Clone, Debug)]
pub(crate) struct IdentitySettings {
    /// Folder of the signing CA; `None` if nobody named one.
    pub ca_dir: Option<PathBuf>,
    /// Folder of what we keep without an API server: a self-signed root.
    pub state_dir: PathBuf,
    /// The key of a self-signed root that we make.
    pub self_signed_key: KeyType,
    /// How long workload certificates live.
    pub issue: IssuePolicy,
    /// Folder with the key set of the local token issuer.
    pub token_issuer_dir: Option<PathBuf>,
    /// A token must be for one of these audiences.
    pub token_audiences: Vec<String>,
    /// Another issuer of tokens.
    pub jwt_rule: Option<JwtRule>,
    /// Accounts of nodes' proxies, which may ask for certificates of the pods on their node.
    pub trusted_node_accounts: Vec<Account>,
    /// Others who sign certificates of workloads; `None`: our own CA does.
    pub registration: Option<RegistrationSettings>,
    /// Clusters whose callers are known besides our own.
    pub remote_clusters: RemoteClusterSettings,
}

/// Clusters whose callers are known besides our own.
#[derive(Clone, Debug, Default)]
pub(crate) struct RemoteClusterSettings {
    /// Other names of clusters, each with the id that it stands for.
    pub aliases: BTreeMap<SmolStr, SmolStr>,
    /// What their kubeconfigs may ask for although it is dangerous.
    pub insecure_options: BTreeSet<SmolStr>,
}

/// Others who sign.
#[derive(Clone, Debug)]
pub(crate) struct RegistrationSettings {
    /// Who signs for whom.
    pub choice: SignerChoice,
    /// Who signs the certificate of our own ports; `None`: our own CA does.
    pub serving: Option<SignerName>,
    /// File with the roots of all signers; it need not be there.
    pub roots: PathBuf,
    /// How long a signer may take.
    pub patience: Duration,
}

/// What is kept in Kubernetes, by the replica that leads.
#[derive(Clone, Debug)]
pub(crate) struct ControllerSettings {
    /// Name of the root certificates' ConfigMaps.
    pub root_certificate: String,
    /// The name of the ConfigMaps with revoked certificates.
    pub revocation: String,
    /// How fast leadership passes on.
    pub leadership: Timing,
}

// === impl Instance ===

impl Instance {
    /// Returns the name by which Events and istioctl's tables know this process: its pod's.
    pub(crate) fn name(&self) -> &str {
        if self.pod.is_empty() { "istiod-lite" } else { &self.pod }
    }
}

// === impl ObjectSource ===

impl ObjectSource {
    /// Returns the API server, if objects come from one.
    pub(crate) fn api_server(&self) -> Option<&kubernetes::Settings> {
        match self {
            Self::Folder(_) => None,
            Self::Kubernetes(server) => Some(server),
        }
    }
}

impl fmt::Display for ObjectSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(folder) => write!(f, "folder {}", folder.display()),
            Self::Kubernetes(_) => f.write_str("Kubernetes"),
        }
    }
}

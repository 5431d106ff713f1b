//! `istiod-lite discovery`

mod state_dir;
mod tls;
mod without_effect;

use std::{
    env,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::builder::TypedValueParser;
use ipnet::IpNet;

use self::{tls::TlsArguments, without_effect::WithoutEffect};
use crate::{
    cli::{
        inject::InjectionArguments,
        values::{ListenAddress, bytes, duration, listen_address, listen_address_or_none, network, request_size},
    },
    controllers::{ROOT_CERTIFICATE, election::Timing},
    identity::{ca::IssuePolicy, key::KeyType},
    serve::{
        connection::ConnectionOptions,
        discovery, memory,
        settings::{
            ClusterSettings, ControllerSettings, IdentitySettings, Instance, LimitSettings, ListenSettings, ObjectSource, Settings,
        },
    },
    source::{
        debounce,
        key_sets::{self, KeySetMetrics, Networks},
        kubernetes::{self, ClientSettings},
    },
    xds::{bounds::Bounds, session},
};

/// Where istiod's chart mounts ConfigMap `istio`.
const MOUNTED_MESH_CONFIG: &str = "./etc/istio/config/mesh";

/// The port at which the API server calls the webhooks.
const WEBHOOKS: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 15017);

/// Runs the control plane: reads objects, serves xDS to proxies and certificates to workloads.
///
/// Objects come from a Kubernetes API server, or with --config-dir from a folder. Flags and environment variables have
/// istiod's names where istiod has them.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Folder of YAML (or JSON) with Kubernetes and Istio objects, watched with all folders below it. Without it objects
    /// come from the API server.
    #[arg(long, value_name = "DIR")]
    config_dir: Option<PathBuf>,

    /// Folder with the signing CA: ca-cert.pem, ca-key.pem, root-cert.pem, cert-chain.pem (what `istiod-lite ca
    /// intermediate` makes and Istio's `cacerts` secret holds). A folder that holds a root's key is refused. With the API
    /// server as source and no CA in the folder, Secret `cacerts` of our namespace is taken, else `istio-ca-secret`: a
    /// self-signed root, made when there is none. With --config-dir and no CA there, a self-signed root is made and kept in
    /// --state-dir [default: ./etc/cacerts]
    #[arg(long, value_name = "DIR", env = "ROOT_CA_DIR")]
    ca_dir: Option<PathBuf>,

    /// Folder in which a self-signed root is kept, readable by its owner alone; only with --config-dir and without a CA
    /// [default: $STATE_DIRECTORY, else istiod-lite in $XDG_STATE_HOME, else ~/.local/state/istiod-lite].
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,

    /// Folder of the local token issuer (see `istiod-lite ca issuer`): callers on the TLS port prove who they are by
    /// its tokens. Without it, only by a workload certificate.
    #[arg(long, value_name = "DIR")]
    token_issuer_dir: Option<PathBuf>,

    /// MeshConfig file; built-in defaults hold for what it does not say. Watched like the folder. With the API server as
    /// source ./etc/istio/config/mesh is taken when it is there, and else ConfigMap `istio` (`istio-<revision>`) of our
    /// namespace.
    #[arg(long = "meshConfig", value_name = "FILE")]
    mesh_config: Option<PathBuf>,

    /// HTTP: /ready and /debug.
    #[arg(long = "httpAddr", value_name = "ADDRESS", value_parser = listen_address, default_value = ":8080")]
    http: SocketAddr,

    /// Plaintext gRPC: xDS without identity. Empty (`--grpcAddr ""`) switches it off. What proxies take or refuse here counts neither
    /// for convergence nor for the status of objects, since nobody proves who they are.
    #[arg(long = "grpcAddr", value_name = "ADDRESS", value_parser = listen_address_or_none, default_value = ":15010")]
    grpc: ListenAddress,

    /// TLS gRPC: xDS and certificates.
    #[arg(long = "secureGRPCAddr", value_name = "ADDRESS", value_parser = listen_address, default_value = ":15012")]
    secure_grpc: SocketAddr,

    /// HTTP: /metrics, /version and /debug.
    #[arg(long = "monitoringAddr", value_name = "ADDRESS", value_parser = listen_address, default_value = ":15014")]
    monitoring: SocketAddr,

    /// HTTPS: webhooks of the API server [default: :15017; none with --config-dir].
    #[arg(long = "httpsAddr", value_name = "ADDRESS", value_parser = listen_address)]
    https: Option<SocketAddr>,

    /// DNS domain of the cluster.
    #[arg(long, default_value = "cluster.local")]
    domain: String,

    /// Id of the cluster that the objects belong to.
    #[arg(long = "clusterID", env = "CLUSTER_ID", default_value = "Kubernetes")]
    cluster_id: String,

    /// Whether proxies know of endpoints that are not ready: they give them traffic when none is. `false` leaves them out, as
    /// istiod does up to 1.30.
    #[arg(
        long = "sendUnhealthyEndpoints", env = "PILOT_AUTO_SEND_UNHEALTHY_ENDPOINTS", value_name = "BOOL",
        value_parser = clap::builder::BoolishValueParser::new(), action = clap::ArgAction::Set, default_value = "true"
    )]
    send_unready_endpoints: bool,

    /// Names and addresses (besides istiod.<namespace>.svc and localhost) in the TLS port's certificate.
    #[arg(long = "tls-san", value_name = "NAME", env = "ISTIOD_CUSTOM_HOST", value_delimiter = ',')]
    tls_sans: Vec<String>,

    /// Namespace that the control plane says it runs in.
    #[arg(long, short, env = "POD_NAMESPACE", default_value = "istio-system")]
    namespace: String,

    /// Revision of this control plane. Istio objects labelled with another one (`istio.io/rev`) are not read.
    #[arg(long, env = "REVISION", default_value = "default")]
    revision: String,

    /// Name of the pod that the control plane runs in.
    #[arg(long, env = "POD_NAME", default_value = "", hide_default_value = true)]
    pod_name: String,

    /// Service account that the control plane runs as.
    #[arg(long, env = "SERVICE_ACCOUNT", default_value = "", hide_default_value = true)]
    service_account: String,

    /// How long streams under way may go on after SIGTERM.
    #[arg(long = "shutdownDuration", value_parser = duration, default_value = "10s")]
    shutdown: Duration,

    /// A gRPC connection older than this is asked to reconnect.
    #[arg(long = "keepaliveMaxServerConnectionAge", value_parser = duration, default_value = "30m")]
    max_connection_age: Duration,

    /// How long a gRPC connection may be quiet before it is pinged.
    #[arg(long = "keepaliveInterval", env = "GRPC_KEEPALIVE_INTERVAL", value_parser = duration, default_value = "30s")]
    keepalive_interval: Duration,

    /// How long the answer to such a ping may take before the connection is closed.
    #[arg(long = "keepaliveTimeout", env = "GRPC_KEEPALIVE_TIMEOUT", value_parser = duration, default_value = "10s")]
    keepalive_timeout: Duration,

    /// Memory that this process may take, in bytes (512Mi, 2Gi). Callers together may have it hold three eighths of that; over it,
    /// those who have proven nothing are refused first [default: the limit of the control group, else 1Gi].
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    memory_limit: Option<usize>,

    /// Connections that one source address may have open on all ports together (of IPv6, one /64 network); above it, its oldest
    /// that has shown nothing is closed. Proxies behind one NAT share an address, so that it is generous [default: half of the
    /// files that may be open].
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    connections_per_address: Option<u32>,

    /// How long a workload's certificate lives when its request does not say.
    #[arg(long, env = "DEFAULT_WORKLOAD_CERT_TTL", value_parser = duration, default_value = "24h")]
    default_certificate_ttl: Duration,

    /// The longest that a workload's certificate may live; a request for more is refused.
    #[arg(long, env = "MAX_WORKLOAD_CERT_TTL", value_parser = duration, default_value = "2160h")]
    max_certificate_ttl: Duration,

    /// Quiet that ends a batch of configuration changes.
    #[arg(long, env = "PILOT_DEBOUNCE_AFTER", value_parser = duration, default_value = "100ms")]
    debounce_after: Duration,

    /// The longest that a configuration change waits for quiet.
    #[arg(long, env = "PILOT_DEBOUNCE_MAX", value_parser = duration, default_value = "10s")]
    debounce_max: Duration,

    /// How often the keys of token issuers (RequestAuthentication) are fetched again: a key that is new must verify tokens for as long
    /// as that before it signs any.
    #[arg(long, env = "PILOT_JWT_PUB_KEY_REFRESH_INTERVAL", value_parser = duration, default_value = "20m")]
    jwks_refresh_interval: Duration,

    /// Networks, besides public ones, from which such keys may be fetched (10.96.0.0/12), because whoever writes a
    /// RequestAuthentication chooses what we call. Addresses of this host, of a link, of a cloud's metadata and of the API server are
    /// meant only if named one by one (127.0.0.1/32).
    #[arg(long, value_name = "NETWORK", value_delimiter = ',', value_parser = network)]
    jwks_allowed_networks: Vec<IpNet>,

    /// Networks from which such keys are never fetched, whatever else is said.
    #[arg(long, value_name = "NETWORK", env = "BLOCKED_CIDRS_IN_JWKS_URIS", value_delimiter = ',', value_parser = network)]
    jwks_blocked_networks: Vec<IpNet>,

    /// File of root certificates, besides the system's, for issuers of tokens; it need not be there.
    #[arg(long, value_name = "FILE", default_value = "/cacerts/extra.pem")]
    jwks_ca: PathBuf,

    /// How long a rollout waits for a proxy's ACK before it goes on without.
    #[arg(long, value_parser = duration, default_value = "5s")]
    gate_deadline: Duration,

    /// How long connections of a removed TCP listener may still use its clusters; as the proxies' drain time.
    #[arg(long, value_parser = duration, default_value = "45s")]
    drain_time: Duration,

    /// The largest request, in bytes, of a proxy that is not served yet or has not proven who it is; istiod's limit for all. Most
    /// of a first request names what the proxy holds already: there is room for about 40,000 clusters.
    #[arg(long, env = "ISTIO_GPRC_MAXRECVMSGSIZE", value_name = "BYTES", value_parser = request_size, default_value = "4194304")]
    max_first_request: usize,

    /// The largest request, in bytes, of a proxy that is served and has proven who it is. What it names takes memory here for as long
    /// as it is connected.
    #[arg(long, value_name = "BYTES", value_parser = request_size, default_value = "16777216")]
    max_request: usize,

    /// How many names of each type (clusters, endpoints, listeners, route tables) a proxy may ask for beyond those of its
    /// configuration: a number of names. One that comes back asks for all that it holds, also for what is gone meanwhile; more
    /// would let callers fill the memory with names of their own.
    #[arg(long, value_name = "NUMBER", default_value_t = Bounds::default().unknown_names)]
    max_unknown_names: usize,

    /// Sends every change at once instead of making before breaking: for experiments that show what the order is worth.
    #[arg(long, hide = true)]
    unordered_rollout: bool,

    /// Log lines as JSON.
    #[arg(long = "log_as_json")]
    log_as_json: bool,

    /// What is logged, as `info` or `istiod_lite=debug,info`.
    #[arg(long = "log_output_level", env = "RUST_LOG", default_value = "info")]
    log_level: String,

    // Last, because a heading counts for all flags after it.
    #[command(flatten)]
    tls: TlsArguments,

    #[command(flatten)]
    kubernetes: KubernetesArguments,

    #[command(flatten)]
    injection: InjectionArguments,

    #[command(flatten)]
    without_effect: WithoutEffect,
}

/// The API server as the source.
#[derive(clap::Args)]
#[command(next_help_heading = "Kubernetes (without --config-dir)")]
struct KubernetesArguments {
    /// Kubeconfig file. Without it: the files of KUBECONFIG, /var/run/secrets/remote/config, the cluster that this pod
    /// runs in, ~/.kube/config; the first that is there.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,

    /// Context of the kubeconfig, if not its current one.
    #[arg(long, value_name = "NAME")]
    context: Option<String>,

    /// Requests a second to the API server, on average.
    #[arg(long = "kubernetesApiQPS", value_name = "NUMBER", default_value_t = 80.0)]
    qps: f64,

    /// Requests to the API server that may come at once.
    #[arg(long = "kubernetesApiBurst", value_name = "NUMBER", default_value_t = 160)]
    burst: u32,

    /// Read only these namespaces, and our own: roles in them are then enough, but for Nodes and Namespaces. Without it
    /// all are read.
    #[arg(long, value_name = "NAMESPACE", value_delimiter = ',', env = "ISTIO_WATCH_NAMESPACE")]
    watch_namespaces: Vec<String>,

    /// ConfigMap of our namespace with MeshConfig that lies below that of ConfigMap `istio` (`istio-<revision>`): what
    /// several revisions share. Not with a MeshConfig file. The role of manifests/base must be given its name.
    #[arg(long, value_name = "NAME", env = "SHARED_MESH_CONFIG")]
    shared_mesh_config: Option<String>,

    /// Audiences, one of which a service-account token must have.
    #[arg(long, value_name = "AUDIENCE", env = "TOKEN_AUDIENCES", value_delimiter = ',', default_value = "istio-ca")]
    token_audiences: Vec<String>,

    /// A self-signed root gets an RSA key of this many bits (2048 or 4096), as istiod's. Without it one on P-256, which
    /// signs faster and which istiod reads as well.
    #[arg(
        long, value_name = "BITS", env = "CITADEL_SELF_SIGNED_CA_RSA_KEY_SIZE",
        value_parser = clap::builder::PossibleValuesParser::new(["2048", "4096"]).try_map(|bits| bits.parse::<u32>())
    )]
    self_signed_rsa: Option<u32>,

    /// Name of the ConfigMaps with the root certificate, one in each namespace.
    #[arg(long, value_name = "NAME", env = "PILOT_CA_CERT_CONFIGMAP", default_value = ROOT_CERTIFICATE)]
    root_certificate: String,

    /// How long a leader that is gone holds back the next one. The Lease is renewed for half of that, and looked at
    /// every quarter.
    #[arg(long, value_parser = duration, default_value = "30s", hide = true)]
    lease: Duration,
}

pub(super) fn run(arguments: Arguments) -> ExitCode {
    if let Err(error) = super::log::start(&arguments.log_level, arguments.log_as_json) {
        eprintln!("error: --log_output_level: {error}; write info, or istiod_lite=debug,info");
        return ExitCode::from(2);
    }
    super::conceal();
    super::block_on(async { discovery::run(arguments.settings().await?).await })
}

impl Arguments {
    async fn settings(self) -> anyhow::Result<Settings> {
        self.without_effect.warn()?;
        let of_cluster = self.config_dir.is_none();
        Ok(Settings {
            source: self.source().await?,
            cluster: self.cluster(),
            listen: self.listen(),
            identity: self.identity(),
            controllers: self.controllers(),
            connections: self.connections(),
            limits: LimitSettings {
                memory: self.memory_limit.unwrap_or_else(memory::limit),
                connections_per_address: self.connections_per_address.map(|number| number as usize),
            },
            key_sets: self.key_sets().await?,
            debounce: debounce::Settings { after: self.debounce_after, max: self.debounce_max, ..debounce::Settings::default() },
            bounds: Bounds {
                first_request: self.max_first_request,
                request: self.max_request.max(self.max_first_request),
                unknown_names: self.max_unknown_names,
            },
            rollout: session::Settings { ordered: !self.unordered_rollout, gate: self.gate_deadline, drain: self.drain_time },
            tls: self.tls.settings(self.tls_sans, of_cluster)?,
            injection: self.injection.settings(&self.namespace, &self.revision, &self.cluster_id, &self.domain),
            instance: Instance {
                namespace: self.namespace,
                revision: self.revision,
                pod: self.pod_name,
                service_account: self.service_account,
            },
        })
    }

    fn cluster(&self) -> ClusterSettings {
        let mounted = || Some(PathBuf::from(MOUNTED_MESH_CONFIG)).filter(|path| self.config_dir.is_none() && path.is_file());
        ClusterSettings {
            config_file: self.mesh_config.clone().or_else(mounted),
            domain: self.domain.clone(),
            cluster_id: self.cluster_id.clone(),
            send_unready_endpoints: self.send_unready_endpoints,
        }
    }

    fn listen(&self) -> ListenSettings {
        ListenSettings {
            http: self.http,
            grpc: self.grpc.0,
            secure_grpc: self.secure_grpc,
            monitoring: self.monitoring,
            https: self.https.or_else(|| self.config_dir.is_none().then_some(WEBHOOKS)),
        }
    }

    fn identity(&self) -> IdentitySettings {
        let KubernetesArguments { token_audiences, self_signed_rsa, .. } = &self.kubernetes;
        IdentitySettings {
            ca_dir: self.ca_dir.clone(),
            state_dir: self.state_dir.clone().unwrap_or_else(|| state_dir::default_for(|name| env::var_os(name))),
            self_signed_key: self_signed_rsa.map_or(KeyType::P256, |bits| if bits > 2048 { KeyType::Rsa4096 } else { KeyType::Rsa2048 }),
            issue: IssuePolicy { default_ttl: self.default_certificate_ttl, max_ttl: self.max_certificate_ttl, ..IssuePolicy::default() },
            token_issuer_dir: self.token_issuer_dir.clone(),
            token_audiences: token_audiences.clone(),
        }
    }

    fn controllers(&self) -> ControllerSettings {
        let KubernetesArguments { root_certificate, lease, .. } = &self.kubernetes;
        ControllerSettings { root_certificate: root_certificate.clone(), leadership: Timing::of_lease(*lease) }
    }

    async fn key_sets(&self) -> anyhow::Result<key_sets::Settings> {
        let api_server = match self.config_dir {
            Some(_) => Vec::new(),
            None => kubernetes::server_names(&self.client_settings()).await?,
        };
        Ok(key_sets::Settings {
            // Sooner than once a second would be an attack on the issuer.
            refresh: self.jwks_refresh_interval.max(Duration::from_secs(1)),
            networks: Networks { allowed: self.jwks_allowed_networks.clone(), blocked: self.jwks_blocked_networks.clone() },
            api_server,
            roots: Some(self.jwks_ca.clone()),
            metrics: KeySetMetrics::default(),
        })
    }

    fn client_settings(&self) -> ClientSettings {
        let KubernetesArguments { kubeconfig, context, qps, burst, .. } = &self.kubernetes;
        ClientSettings { kubeconfig: kubeconfig.clone(), context: context.clone(), qps: *qps, burst: *burst }
    }

    fn connections(&self) -> ConnectionOptions {
        ConnectionOptions {
            keepalive_interval: self.keepalive_interval,
            keepalive_timeout: self.keepalive_timeout,
            max_age: self.max_connection_age,
            grace: self.shutdown,
            ..ConnectionOptions::default()
        }
    }

    async fn source(&self) -> anyhow::Result<ObjectSource> {
        if let Some(folder) = &self.config_dir {
            return Ok(ObjectSource::Folder(folder.clone()));
        }
        let KubernetesArguments { watch_namespaces, shared_mesh_config, .. } = &self.kubernetes;
        Ok(ObjectSource::Kubernetes(Box::new(kubernetes::Settings {
            client: kubernetes::client(&self.client_settings()).await?,
            cluster: self.cluster_id.as_str().into(),
            namespace: self.namespace.as_str().into(),
            revision: self.revision.as_str().into(),
            watch_namespaces: watch_namespaces.iter().filter(|name| !name.is_empty()).map(Into::into).collect(),
            shared_mesh_config: shared_mesh_config.as_deref().filter(|name| !name.is_empty()).map(Into::into),
            metrics: kubernetes::SourceMetrics::default(),
        })))
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn parse(line: &str) -> Result<Arguments, String> {
        let parsed = Program::try_parse_from(["discovery"].into_iter().chain(line.split_whitespace()));
        parsed.map(|program| program.arguments).map_err(|error| error.to_string())
    }

    /// Checks the flags of istiod's Deployment, with what users add to it.
    #[test]
    fn the_charts_command_line_is_understood() {
        let chart = "--monitoringAddr=:15014 --log_output_level=default:info --log_as_json --domain cluster.local \
                     --cniNamespace=kube-system --keepaliveMaxServerConnectionAge 30m";
        let added = "--kubernetesApiQPS=80.0 --kubernetesApiBurst 160 -n istio-system --registries Kubernetes --profile=false \
                     --networksConfig ./etc/istio/config/meshNetworks --clusterID Kubernetes --ctrlz_port 9876 --tls-min-version TLSv1_3 \
                     --shutdownDuration 10s --keepaliveInterval 30s --keepaliveTimeout 10s --log_target stderr";
        let arguments = parse(&format!("{chart} {added}")).unwrap();
        assert_eq!((arguments.namespace.as_str(), arguments.max_connection_age), ("istio-system", Duration::from_secs(1800)));
        assert_eq!(arguments.tls.protocol().unwrap().suites().len(), 6);
    }

    #[test]
    fn the_plaintext_port_can_be_switched_off() {
        assert_eq!(parse("--grpcAddr=").unwrap().listen().grpc, None);
        assert_eq!(parse("").unwrap().listen().grpc.map(|address| address.port()), Some(15010));
        assert!(parse("--secureGRPCAddr=").is_err());
    }

    #[test]
    fn only_flags_without_effect_are_listed_as_such() {
        let command = Program::command();
        let listed =
            command.get_arguments().filter(|argument| argument.get_help_heading().is_some_and(|heading| heading.contains("no effect")));
        let listed: Vec<&str> = listed.map(|argument| argument.get_id().as_str()).collect();
        assert!(listed.contains(&"networks_config") && listed.len() == 11, "{listed:?}");
        let heading = |id: &str| command.get_arguments().find(|argument| argument.get_id() == id).unwrap().get_help_heading();
        assert_eq!((heading("ca_dir"), heading("log_level")), (None, None));
    }

    #[test]
    fn mistakes_are_refused() {
        for (line, message) in [
            ("--registries Consul", "[possible values: Kubernetes]"),
            ("--tlsCertFile a.pem --tlsKeyFile b.pem", "--caCertFile"),
            ("--tls-min-version TLSv1_1", "[possible values: TLSv1_2, TLSv1_3]"),
            ("--meshconfig a.yaml", "'--meshConfig'"),
        ] {
            let error = parse(line).err().unwrap_or_else(|| panic!("{line} is taken"));
            assert!(error.contains(message), "{line}: {error}");
        }
        let unknown = parse("--tls-cipher-suites TLS_RSA_WITH_RC4_128_SHA").unwrap();
        assert!(unknown.tls.protocol().unwrap_err().to_string().contains("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"));
    }
}

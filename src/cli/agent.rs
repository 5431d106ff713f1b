//! `istiod-lite agent`

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, anyhow, bail};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::Value;

use super::{log, values};
use crate::agent::{
    self, End,
    settings::{CertificatePolicy, Discovery, Drain, EnvoyOptions, Interception, Listen, Role, Settings, Workload},
};

/// The name of istiod's Service in its usual namespace.
const DISCOVERY_NAME: &str = "istiod.istio-system.svc";

/// Runs a stock Envoy as sidecar or gateway.
#[derive(Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    role: RoleCommand,
}

#[derive(Subcommand)]
enum RoleCommand {
    /// Envoy beside one workload.
    Sidecar(Box<Options>),
    /// Envoy at the edge of the mesh.
    Gateway(Box<Options>),
    /// Becomes Envoy; the agent starts it so that no Envoy outlives its agent.
    #[command(hide = true)]
    Launch {
        parent: i32,
        binary: PathBuf,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

#[derive(Args)]
struct Options {
    #[command(flatten)]
    workload: WorkloadOptions,
    #[command(flatten)]
    discovery: DiscoveryOptions,
    #[command(flatten)]
    listen: ListenOptions,
    #[command(flatten)]
    envoy: EnvoyArguments,
}

#[derive(Args)]
#[command(next_help_heading = "Workload")]
struct WorkloadOptions {
    /// Pod name
    #[arg(long, alias = "pod-name", env = "POD_NAME")]
    name: String,
    /// Namespace
    #[arg(long, env = "POD_NAMESPACE")]
    namespace: String,
    /// Service account
    #[arg(long, env = "SERVICE_ACCOUNT", default_value = "default")]
    service_account: String,
    /// Instance address; repeated or comma-separated, the first is the primary [default: the listen address]
    #[arg(long, alias = "instance-ip", env = "INSTANCE_IP", value_delimiter = ',')]
    ip: Vec<IpAddr>,
    /// Workload labels
    #[arg(long, alias = "label", value_name = "KEY=VALUE,…", value_delimiter = ',', value_parser = label)]
    labels: Vec<(String, String)>,
    /// File of workload labels as the downward API writes it (one `key="value"` a line)
    #[arg(long, value_name = "FILE")]
    labels_file: Option<PathBuf>,
    /// Name of the Deployment or the like [default: the pod name]
    #[arg(long, env = "ISTIO_META_WORKLOAD_NAME")]
    workload_name: Option<String>,
    /// How traffic is captured
    #[arg(
        long,
        alias = "interception-mode",
        env = "ISTIO_META_INTERCEPTION_MODE",
        value_enum,
        ignore_case = true,
        default_value = "REDIRECT"
    )]
    interception: InterceptionMode,
    /// Cluster that the workload runs in
    #[arg(long, env = "ISTIO_META_CLUSTER_ID", default_value = "Kubernetes")]
    cluster_id: String,
    /// Mesh [default: the trust domain]
    #[arg(long, env = "ISTIO_META_MESH_ID")]
    mesh_id: Option<String>,
    /// Node that the workload runs on
    #[arg(long, env = "ISTIO_META_NODE_NAME", default_value = "")]
    node_name: String,
    /// Network that the workload is in
    #[arg(long, env = "ISTIO_META_NETWORK", default_value = "")]
    network: String,
    /// Trust domain
    #[arg(long, env = "TRUST_DOMAIN", default_value = "cluster.local")]
    trust_domain: String,
    /// DNS domain of the cluster
    #[arg(long, default_value = "cluster.local")]
    dns_domain: String,
}

#[derive(Args)]
#[command(next_help_heading = "Control plane")]
struct DiscoveryOptions {
    /// Where the control plane serves xDS over TLS
    #[arg(long, env = "DISCOVERY_ADDRESS", value_name = "HOST:PORT", default_value = "istiod.istio-system.svc:15012")]
    discovery_address: String,
    /// Where certificates are signed [default: the discovery address]
    #[arg(long, env = "CA_ADDR", value_name = "HOST:PORT")]
    ca_address: Option<String>,
    /// Name that the control plane's certificate must carry [default: the host of the discovery address, istiod.istio-system.svc when that is an IP address]
    #[arg(long, env = "ISTIOD_SAN", alias = "discovery-sni", value_name = "NAME")]
    discovery_san: Option<String>,
    /// Roots that the control plane's certificate must chain to
    #[arg(long, value_name = "FILE", default_value = "/var/run/secrets/istio/root-cert.pem")]
    root_cert: PathBuf,
    /// Token that says who the workload is; an empty value means none
    #[arg(long, value_name = "FILE", default_value = "/var/run/secrets/tokens/istio-token")]
    token_file: PathBuf,
    /// Lifetime of certificates to ask for
    #[arg(long, env = "SECRET_TTL", default_value = "24h", value_parser = duration)]
    cert_ttl: Duration,
    /// Part of a certificate's life after which it is renewed
    #[arg(long, env = "SECRET_GRACE_PERIOD_RATIO", default_value_t = 0.5, value_parser = fraction)]
    renew_at_fraction: f64,
    /// Delta xDS (the default)
    #[arg(long, overrides_with = "sotw")]
    delta: bool,
    /// State-of-the-world xDS (also by ISTIO_DELTA_XDS=false)
    #[arg(long, overrides_with = "delta")]
    sotw: bool,
}

#[derive(Args)]
#[command(next_help_heading = "Addresses")]
struct ListenOptions {
    /// Address for every port of agent and admin [default: all addresses, admin on loopback]
    #[arg(long, alias = "listen", value_name = "IP")]
    listen_address: Option<IpAddr>,
    /// Envoy's admin
    #[arg(long, default_value_t = 15000)]
    admin_port: u16,
    /// Readiness
    #[arg(long, default_value_t = 15021)]
    status_port: u16,
    /// Envoy's metrics
    #[arg(long, default_value_t = 15090)]
    prometheus_port: u16,
    /// The agent's own
    #[arg(long, default_value_t = 15020)]
    agent_port: u16,
}

#[derive(Args)]
#[command(next_help_heading = "Envoy")]
struct EnvoyArguments {
    /// Envoy's binary [default: `envoy` in the PATH]
    #[arg(long, env = "ENVOY", value_name = "FILE")]
    envoy: Option<PathBuf>,
    /// Worker threads; 0: one for each CPU
    #[arg(long, default_value_t = 2)]
    concurrency: u32,
    /// Folder for sockets and bootstrap [default: one of its own in the temporary folder]
    #[arg(long, value_name = "DIR")]
    work_dir: Option<PathBuf>,
    /// How long the connections of a changed or removed listener may stay
    #[arg(long, default_value = "45s", value_parser = duration)]
    drain_duration: Duration,
    /// The longest time that open connections get when the proxy ends
    #[arg(long, env = "TERMINATION_DRAIN_DURATION_SECONDS", default_value = "5s", value_parser = duration)]
    termination_drain_duration: Duration,
    /// The shortest drain, even with no connection open
    #[arg(long, env = "MINIMUM_DRAIN_DURATION", default_value = "0s", value_parser = duration)]
    minimum_drain_duration: Duration,
    /// Further argument for Envoy; repeated
    #[arg(long, value_name = "ARGUMENT", allow_hyphen_values = true)]
    envoy_arg: Vec<OsString>,
    /// Envoy's log level
    #[arg(long, default_value = "warning")]
    envoy_log_level: String,
    /// The agent's log level, or `target=level,…`
    #[arg(long, env = "RUST_LOG", default_value = "info")]
    log_level: String,
}

#[derive(Clone, Copy, ValueEnum)]
#[value(rename_all = "UPPER")]
enum InterceptionMode {
    Redirect,
    Tproxy,
    None,
}

pub(super) fn run(arguments: Arguments) -> ExitCode {
    let (role, options) = match arguments.role {
        RoleCommand::Sidecar(options) => (Role::Sidecar, options),
        RoleCommand::Gateway(options) => (Role::Gateway, options),
        RoleCommand::Launch { parent, binary, arguments } => {
            eprintln!("{}: {}", binary.display(), agent::launch::become_envoy(parent, &binary, &arguments));
            return ExitCode::FAILURE;
        }
    };
    match serve(role, *options) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("istiod-lite agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(role: Role, options: Options) -> anyhow::Result<ExitCode> {
    log::start(&options.envoy.log_level, false).context("--log-level")?;
    let settings = settings(role, options)?;
    // One thread is enough for one Envoy. It must be this one: the kernel ends Envoy with the thread that started it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match runtime.block_on(agent::run(settings))? {
        End::Asked => Ok(ExitCode::SUCCESS),
        End::EnvoyEnded(status) => {
            eprintln!("istiod-lite agent: Envoy ended on its own: {status}");
            let code = status.code().and_then(|code| u8::try_from(code).ok()).filter(|code| *code != 0);
            Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
        }
    }
}

fn settings(role: Role, options: Options) -> anyhow::Result<Settings> {
    let workload = workload(options.workload, options.listen.listen_address)?;
    Ok(Settings {
        role,
        certificate: CertificatePolicy { ttl: options.discovery.cert_ttl, renew_at_fraction: options.discovery.renew_at_fraction },
        discovery: discovery(options.discovery)?,
        listen: listen(&options.listen, &workload),
        drain: Drain {
            listener: options.envoy.drain_duration,
            duration: options.envoy.termination_drain_duration,
            minimum: options.envoy.minimum_drain_duration,
        },
        work_dir: options.envoy.work_dir.unwrap_or_else(|| default_work_dir(&workload)),
        envoy: EnvoyOptions {
            binary: options.envoy.envoy.map_or_else(|| search_path("envoy"), Ok)?,
            concurrency: options.envoy.concurrency,
            log_level: options.envoy.envoy_log_level,
            arguments: options.envoy.envoy_arg,
            launcher: Some(env::current_exe().context("this program's own path")?),
        },
        workload,
    })
}

fn workload(options: WorkloadOptions, listen: Option<IpAddr>) -> anyhow::Result<Workload> {
    let mut labels = match &options.labels_file {
        Some(path) => labels_from(&fs::read_to_string(path).with_context(|| path.display().to_string())?),
        None => BTreeMap::new(),
    };
    labels.extend(options.labels);
    let ips = if options.ip.is_empty() { listen.into_iter().collect() } else { options.ip };
    if ips.is_empty() {
        bail!("--ip (INSTANCE_IP) is missing: the control plane refuses a proxy without an address");
    }
    Ok(Workload {
        ips,
        labels,
        workload_name: options.workload_name.unwrap_or_else(|| options.name.clone()),
        name: options.name,
        namespace: options.namespace,
        service_account: options.service_account,
        interception: match options.interception {
            InterceptionMode::Redirect => Interception::Redirect,
            InterceptionMode::Tproxy => Interception::Tproxy,
            InterceptionMode::None => Interception::None,
        },
        cluster_id: options.cluster_id,
        mesh_id: options.mesh_id.unwrap_or_else(|| options.trust_domain.clone()),
        node_name: options.node_name,
        network: options.network,
        trust_domain: options.trust_domain,
        dns_domain: options.dns_domain,
        metadata: metadata_from(env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?))))?,
    })
}

fn discovery(options: DiscoveryOptions) -> anyhow::Result<Discovery> {
    let server_name = match options.discovery_san {
        Some(name) => name,
        None => server_name(&options.discovery_address)?,
    };
    let by_environment = env::var("ISTIO_DELTA_XDS").map_or(true, |value| value != "false");
    Ok(Discovery {
        ca_address: options.ca_address.unwrap_or_else(|| options.discovery_address.clone()),
        address: options.discovery_address,
        server_name,
        root_cert: options.root_cert,
        token_file: Some(options.token_file).filter(|path| !path.as_os_str().is_empty()),
        delta: options.delta || (by_environment && !options.sotw),
    })
}

/// The host of `HOST:PORT`. Certificates of control planes name no addresses, so an address stands for the usual name.
fn server_name(address: &str) -> anyhow::Result<String> {
    let (host, _) = address.rsplit_once(':').ok_or_else(|| anyhow!("--discovery-address: {address:?} has no port"))?;
    let host = host.trim_matches(['[', ']']);
    Ok(if host.parse::<IpAddr>().is_ok() { DISCOVERY_NAME.to_owned() } else { host.to_owned() })
}

fn listen(options: &ListenOptions, workload: &Workload) -> Listen {
    let v6_only = workload.ips.iter().all(IpAddr::is_ipv6);
    let (any, loopback): (IpAddr, IpAddr) = match v6_only {
        true => (std::net::Ipv6Addr::UNSPECIFIED.into(), std::net::Ipv6Addr::LOCALHOST.into()),
        false => (std::net::Ipv4Addr::UNSPECIFIED.into(), std::net::Ipv4Addr::LOCALHOST.into()),
    };
    let (public, private) = (options.listen_address.unwrap_or(any), options.listen_address.unwrap_or(loopback));
    Listen {
        admin: (private, options.admin_port).into(),
        status: (public, options.status_port).into(),
        prometheus: (public, options.prometheus_port).into(),
        agent: (public, options.agent_port).into(),
    }
}

fn default_work_dir(workload: &Workload) -> PathBuf {
    let name = format!("istiod-lite-agent-{}-{}.{}", nix::unistd::geteuid(), workload.name, workload.namespace);
    env::temp_dir().join(name)
}

fn search_path(program: &str) -> anyhow::Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).map(|folder| folder.join(program)).find(|file| Path::is_file(file));
    found.ok_or_else(|| anyhow!("no {program} in the PATH; say where it is with --envoy or ENVOY"))
}

/// `ISTIO_META_X` is metadata `X`, `ISTIO_METAJSON_X` is JSON under `X` (contract §2.5).
fn metadata_from(variables: impl Iterator<Item = (String, String)>) -> anyhow::Result<BTreeMap<String, Value>> {
    let mut metadata = BTreeMap::new();
    for (variable, value) in variables {
        if let Some(key) = variable.strip_prefix("ISTIO_METAJSON_") {
            let json = serde_json::from_str(&value).with_context(|| format!("{variable} is not JSON"))?;
            metadata.insert(key.to_owned(), json);
        } else if let Some(key) = variable.strip_prefix("ISTIO_META_").filter(|_| !has_flag(&variable)) {
            metadata.insert(key.to_owned(), Value::String(value));
        }
    }
    Ok(metadata)
}

/// A variable that a flag reads as well: the flag decides.
fn has_flag(variable: &str) -> bool {
    ["WORKLOAD_NAME", "INTERCEPTION_MODE", "CLUSTER_ID", "MESH_ID", "NODE_NAME", "NETWORK"]
        .iter()
        .any(|key| variable.strip_prefix("ISTIO_META_") == Some(key))
}

fn labels_from(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().filter_map(|line| line.trim().split_once('='));
    lines.map(|(key, value)| (key.to_owned(), serde_json::from_str(value).unwrap_or_else(|_| value.to_owned()))).collect()
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not KEY=VALUE"))?;
    Ok((key.to_owned(), value.to_owned()))
}

/// A duration as Go writes it; a bare number is seconds, as in `TERMINATION_DRAIN_DURATION_SECONDS`.
fn duration(text: &str) -> Result<Duration, String> {
    text.parse().map(Duration::from_secs).or_else(|_| values::duration(text))
}

fn fraction(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value < 1.0 => Ok(value),
        _ => Err("must lie between 0 and 1".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn parse(line: &str) -> Settings {
        match Line::try_parse_from(line.split(' ')).unwrap().arguments.role {
            RoleCommand::Sidecar(options) => settings(Role::Sidecar, *options).unwrap(),
            RoleCommand::Gateway(options) => settings(Role::Gateway, *options).unwrap(),
            RoleCommand::Launch { .. } => panic!("not a role"),
        }
    }

    #[test]
    fn a_sidecar_on_an_address_of_its_own() {
        let settings = parse(
            "agent sidecar --name a --namespace b --listen-address 127.0.1.7 --labels app=x,version=v1 --interception none \
             --discovery-address 127.0.0.1:25012 --discovery-san istiod --envoy /bin/true --cert-ttl 90s --sotw --envoy-arg --l7",
        );
        assert_eq!(settings.listen.admin.to_string(), "127.0.1.7:15000");
        assert_eq!(settings.workload.ips, [IpAddr::from([127, 0, 1, 7])]);
        assert_eq!(settings.workload.labels["version"], "v1");
        assert_eq!(settings.workload.interception, Interception::None);
        assert_eq!(settings.discovery.server_name, "istiod");
        assert_eq!(settings.discovery.ca_address, "127.0.0.1:25012");
        assert_eq!(settings.certificate.ttl, Duration::from_secs(90));
        assert_eq!(settings.envoy.arguments, ["--l7"]);
        assert!(!settings.discovery.delta);
    }

    #[test]
    fn defaults_are_those_of_a_pod() {
        let settings = parse("agent gateway --name a --namespace b --ip 10.0.0.1 --envoy /bin/true");
        assert_eq!(settings.listen.admin.to_string(), "127.0.0.1:15000");
        assert_eq!(settings.listen.status.to_string(), "0.0.0.0:15021");
        assert_eq!(settings.discovery.server_name, "istiod.istio-system.svc");
        assert_eq!(settings.workload.mesh_id, "cluster.local");
        assert!(settings.discovery.delta);
    }

    #[test]
    fn metadata_comes_from_the_environment() {
        let variables = [("ISTIO_META_HTTP10", "1"), ("ISTIO_METAJSON_X", "{\"a\":1}"), ("ISTIO_META_MESH_ID", "m"), ("HOME", "/")];
        let metadata = metadata_from(variables.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned()))).unwrap();
        assert_eq!(metadata.len(), 2);
        assert_eq!(metadata["X"]["a"], 1);
        assert!(metadata_from([("ISTIO_METAJSON_X".to_owned(), "{".to_owned())].into_iter()).is_err());
    }

    #[test]
    fn durations_and_labels() {
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("45"), Ok(Duration::from_secs(45)));
        assert!(duration("-1s").is_err() && duration("soon").is_err());
        assert!(fraction("1").is_err() && fraction("0.5").is_ok());
        assert_eq!(labels_from("app=\"re\\\"views\"\nversion=v1\n\n")["app"], "re\"views");
    }
}

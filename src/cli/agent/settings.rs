//! The agent's settings, from flags, environment and files. A flag overrides `PROXY_CONFIG`, which overrides the default.

use std::{
    env,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, anyhow, bail};

use super::{
    bootstrap,
    environment::{Environment, PodInfo, concerns_the_proxy},
    options::{DiscoveryOptions, EnvoyArguments, ListenOptions, ProxyOptions, WorkloadOptions},
};
use crate::{
    agent::{
        application::Application,
        output::OutputFolder,
        settings::{CertificatePolicy, ControlPlane, Drain, EnvoyOptions, InterceptionMode, Listen, Role, Settings, Workload},
        work_dir,
    },
    api::proxy_config::{self, ProxyConfig, ServiceName},
};

/// The name of istiod's Service in its usual namespace.
const DISCOVERY_NAME: &str = "istiod.istio-system.svc";
const DISCOVERY_PORT: u16 = 15012;
const AGENT_PORT: u16 = 15020;
const ADMIN_PORT: u16 = 15000;
const CONCURRENCY: u32 = 2;
const DRAIN: Duration = Duration::from_secs(45);
const TERMINATION_DRAIN: Duration = Duration::from_secs(5);
/// As pilot-agent has it: with Envoy's own ten seconds, people who look at a log believe that it is empty.
const FILE_FLUSH: Duration = Duration::from_secs(1);

/// Returns everything that the agent needs to know.
pub(super) fn of(role: Role, options: ProxyOptions, environment: &Environment, pod: PodInfo) -> anyhow::Result<Settings> {
    let (fields, config) = environment.proxy_config()?;
    let bootstrap = bootstrap::of(&pod.annotations, environment, &config);
    let workload = workload(options.workload, options.listen.listen_address, environment, &config, pod)?;
    let wanted = options.envoy.work_dir.clone().unwrap_or_else(|| default_work_dir(&workload));
    Ok(Settings {
        role,
        certificate: CertificatePolicy { ttl: options.discovery.cert_ttl, renew_at_fraction: options.discovery.renew_at_fraction },
        output: options.discovery.output_certs.clone().map(|path| OutputFolder { path, in_a_pod: environment.in_a_pod() }),
        discovery: discovery(options.discovery, environment, &config)?,
        listen: listen(&options.listen, &workload, &config),
        bootstrap,
        drain: drain(&options.envoy, &config),
        work_dir: work_dir::private(&wanted),
        envoy: envoy(options.envoy, environment, &config)?,
        application: Application { probers: environment.probers()?, scrape: environment.scrape()? },
        proxy_config: fields,
        plain_registries: environment.plain_registries(),
        workload,
    })
}

fn workload(
    options: WorkloadOptions,
    listen: Option<IpAddr>,
    environment: &Environment,
    config: &ProxyConfig,
    pod: PodInfo,
) -> anyhow::Result<Workload> {
    let PodInfo { mut labels, annotations } = pod;
    labels.extend(options.labels);
    let mut ips = options.ip;
    if ips.is_empty() {
        ips.extend(environment.instance_ip()?.or(listen));
    }
    if ips.is_empty() {
        bail!("--ip (INSTANCE_IPS, INSTANCE_IP) is missing: the control plane refuses a proxy without an address");
    }
    let mut workload = Workload {
        service_name: String::new(),
        ips,
        labels,
        annotations: annotations.into_iter().filter(|(key, _)| concerns_the_proxy(key)).collect(),
        workload_name: options.workload_name.unwrap_or_else(|| options.name.clone()),
        name: options.name,
        namespace: options.namespace,
        service_account: options.service_account,
        interception: options.interception.unwrap_or_else(|| interception(config.interception_mode.unwrap_or_default())),
        cluster_id: options.cluster_id,
        mesh_id: options.mesh_id.unwrap_or_else(|| options.trust_domain.clone()),
        node_name: options.node_name,
        network: options.network,
        trust_domain: options.trust_domain,
        dns_domain: options.dns_domain,
        metadata: environment.metadata()?,
    };
    workload.service_name = service_name(config.service_name.as_ref(), &workload);
    Ok(workload)
}

/// Returns what the proxy is called in traces.
fn service_name(asked: Option<&ServiceName>, workload: &Workload) -> String {
    let Workload { namespace, .. } = workload;
    let by_app = || match workload.labels.get("app").filter(|app| !app.is_empty()) {
        Some(app) => format!("{app}.{namespace}"),
        None => format!("{}.{namespace}", workload.workload_name),
    };
    match asked {
        // What Istio's MeshConfig says of itself, which means nothing there either.
        Some(ServiceName::Written(name)) if name != "istio-proxy" => name.to_string(),
        Some(ServiceName::AppLabelAndNamespace) => by_app(),
        Some(ServiceName::CanonicalNameOnly) => workload.canonical_name().to_owned(),
        Some(ServiceName::CanonicalNameAndNamespace | ServiceName::Written(_)) | None => {
            format!("{}.{namespace}", workload.canonical_name())
        }
    }
}

fn interception(mode: proxy_config::InterceptionMode) -> InterceptionMode {
    match mode {
        proxy_config::InterceptionMode::Redirect => InterceptionMode::Redirect,
        proxy_config::InterceptionMode::Tproxy => InterceptionMode::Tproxy,
        proxy_config::InterceptionMode::None => InterceptionMode::None,
    }
}

fn discovery(options: DiscoveryOptions, environment: &Environment, config: &ProxyConfig) -> anyhow::Result<ControlPlane> {
    let address = match options.discovery_address {
        Some(address) => address,
        None => config.discovery_address.as_ref().map_or_else(|| format!("{DISCOVERY_NAME}:{DISCOVERY_PORT}"), ToString::to_string),
    };
    let server_name = match options.discovery_san {
        Some(name) => name,
        None => server_name(&address)?,
    };
    Ok(ControlPlane {
        ca_address: options.ca_address.unwrap_or_else(|| address.clone()),
        address,
        server_name,
        root_cert: options.root_cert,
        revocation_list: options.revocation_list,
        token_file: Some(options.token_file).filter(|path| !path.as_os_str().is_empty()),
        delta: options.delta || (environment.delta() && !options.sotw),
    })
}

/// Returns the host of `HOST:PORT`. Certificates of control planes name no addresses, so an address stands for the usual name.
fn server_name(address: &str) -> anyhow::Result<String> {
    let (host, _) = address.rsplit_once(':').ok_or_else(|| anyhow!("--discovery-address: {address:?} has no port"))?;
    let host = host.trim_matches(['[', ']']);
    Ok(if host.parse::<IpAddr>().is_ok() { DISCOVERY_NAME.to_owned() } else { host.to_owned() })
}

fn listen(options: &ListenOptions, workload: &Workload, config: &ProxyConfig) -> Listen {
    let v6_only = workload.ips.iter().all(IpAddr::is_ipv6);
    let (any, loopback): (IpAddr, IpAddr) = match v6_only {
        true => (Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::LOCALHOST.into()),
        false => (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::LOCALHOST.into()),
    };
    let (public, private) = (options.listen_address.unwrap_or(any), options.listen_address.unwrap_or(loopback));
    let agent = options.agent_port.or(config.status_port.filter(|port| *port > 0)).unwrap_or(AGENT_PORT);
    Listen {
        admin: (private, options.admin_port.or(config.proxy_admin_port).unwrap_or(ADMIN_PORT)).into(),
        status: (public, options.status_port).into(),
        prometheus: (public, options.prometheus_port).into(),
        agent: (public, agent).into(),
    }
}

fn drain(options: &EnvoyArguments, config: &ProxyConfig) -> Drain {
    let duration = options.termination_drain_duration.or(config.termination_drain_duration).unwrap_or(TERMINATION_DRAIN);
    Drain {
        listener: options.drain_duration.or(config.drain_duration).unwrap_or(DRAIN),
        duration: (!options.exit_on_zero_active_connections).then_some(duration),
        minimum: options.minimum_drain_duration,
    }
}

fn envoy(options: EnvoyArguments, environment: &Environment, config: &ProxyConfig) -> anyhow::Result<EnvoyOptions> {
    Ok(EnvoyOptions {
        concurrency: options.concurrency.or(config.concurrency).or(environment.cpu_limit()).unwrap_or(CONCURRENCY),
        binary: options.envoy.map_or_else(|| search_path("envoy"), Ok)?,
        file_flush_interval: config.file_flush_interval.unwrap_or(FILE_FLUSH),
        file_flush_min_size_kb: config.file_flush_min_size_kb,
        all_statistics: options.all_statistics,
        log_level: options.envoy_log_level,
        arguments: options.envoy_arg,
        launcher: Some(env::current_exe().context("this program's own path")?),
    })
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

#[cfg(test)]
mod tests {
    use clap::{Args, Parser};

    use super::{
        super::{Arguments, RoleCommand, environment::tests::environment},
        *,
    };

    #[derive(Parser)]
    struct Line<T: Args> {
        #[command(flatten)]
        arguments: T,
    }

    fn parse_with(line: &str, variables: &[(&str, &str)]) -> anyhow::Result<Settings> {
        let environment = environment(variables);
        match Line::<Arguments>::try_parse_from(line.split(' ')).unwrap().arguments.role {
            RoleCommand::Sidecar(options) => of(Role::Sidecar, *options, &environment, PodInfo::default()),
            RoleCommand::Gateway(options) => of(Role::Gateway, *options, &environment, PodInfo::default()),
            _ => panic!("not a role"),
        }
    }

    fn parse(line: &str) -> Settings {
        parse_with(line, &[]).unwrap()
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
        assert_eq!(settings.workload.interception, InterceptionMode::None);
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
        assert_eq!(settings.listen.agent.port(), 15020);
        assert_eq!(settings.discovery.address, "istiod.istio-system.svc:15012");
        assert_eq!(settings.discovery.server_name, "istiod.istio-system.svc");
        assert_eq!(settings.workload.mesh_id, "cluster.local");
        assert_eq!((settings.drain.duration, settings.drain.minimum), (Some(Duration::from_secs(5)), Duration::from_secs(5)));
        assert_eq!((settings.envoy.concurrency, settings.workload.interception), (2, InterceptionMode::Redirect));
        assert!(settings.discovery.delta);
    }

    #[test]
    fn what_the_injector_says_counts_where_no_flag_does() {
        let variables = [
            ("PROXY_CONFIG", r#"{"discoveryAddress":"istiod-x.sys.svc:15012","statusPort":16020,"terminationDrainDuration":"20s"}"#),
            ("ISTIO_CPU_LIMIT", "3"),
            ("INSTANCE_IP", "10.0.0.9"),
            ("ISTIO_META_OWNER", "kubernetes://apis/apps/v1/namespaces/b/deployments/a"),
        ];
        let settings = parse_with("agent sidecar --name a --namespace b --envoy /bin/true", &variables).unwrap();
        assert_eq!(settings.discovery.server_name, "istiod-x.sys.svc");
        assert_eq!(settings.discovery.ca_address, "istiod-x.sys.svc:15012");
        assert_eq!((settings.listen.agent.port(), settings.envoy.concurrency), (16020, 3));
        assert_eq!(settings.drain.duration, Some(Duration::from_secs(20)));
        assert_eq!(settings.workload.ips, [IpAddr::from([10, 0, 0, 9])]);
        assert_eq!(settings.workload.metadata["OWNER"], "kubernetes://apis/apps/v1/namespaces/b/deployments/a");
        let line =
            "agent sidecar --name a --namespace b --envoy /bin/true --agent-port 17020 --concurrency 1 --exit-on-zero-active-connections";
        let settings = parse_with(line, &variables).unwrap();
        assert_eq!((settings.listen.agent.port(), settings.envoy.concurrency), (17020, 1));
        assert_eq!(settings.drain.duration, None);
        let wrong = parse_with("agent sidecar --name a --namespace b --ip ::1", &[("PROXY_CONFIG", r#"{"interceptionMode":"SOME"}"#)]);
        assert!(wrong.unwrap_err().to_string().contains("PROXY_CONFIG.interceptionMode"));
    }
}

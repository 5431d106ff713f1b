//! `istiod-lite translate`

mod node;

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use anyhow::{Context, anyhow};
use clap::ValueEnum;
use envoy_types::pb::envoy::config::bootstrap::v3::Bootstrap;
use prost::{Message, Name};
use serde_json::{Map, Value};

use self::node::{InjectedProxy, document_of, kind_said_by};
use crate::{
    api::{Diagnostic, ObjectKey, Severity, mesh_config::MeshConfig},
    cli::features::FeatureArguments,
    mesh::{
        engine::{Applied, Engine},
        model::{Caller, Flavour, ProxyKind},
        scope::gateways_for,
        validate,
        world::World,
    },
    peer_text::{escaped, escaped_in_json},
    source::{
        folder::{Contents, read_paths},
        locations::ObjectLocations,
        mesh_config::MeshConfigFile,
    },
    xds::{
        classes::Classes,
        node::{Node, Proven},
        render::{resource_to_json, to_json},
        resource_type::ResourceType,
        static_bootstrap::static_bootstrap,
        view::{View, Views},
    },
};

/// Shows what a proxy would be sent: offline, by the same code as the server.
///
/// Exit status: 0 when every object was applied; 2 when some were refused (each is named on stderr, the rest is
/// printed); 1 when there is no result.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Files or folders with objects (YAML or JSON).
    #[arg(short, long = "file", value_name = "PATH", required = true, num_args = 1..)]
    file: Vec<PathBuf>,

    /// The proxy: its pod's name and namespace.
    #[arg(long, value_name = "NAME.NAMESPACE")]
    proxy: String,

    /// Which resources.
    #[arg(long = "type", value_enum, default_value = "all")]
    kind: TypeFilter,

    /// How they are printed.
    #[arg(short, long, value_enum, default_value = "yaml")]
    output: Format,

    /// One static Envoy bootstrap instead, which `envoy --mode validate -c FILE` accepts.
    #[arg(long, conflicts_with = "kind")]
    bootstrap: bool,

    /// What the proxy says of itself in its first request instead, as its agent makes it from the pod.
    #[arg(long, conflicts_with_all = ["kind", "bootstrap"])]
    node: bool,

    /// For which build of Envoy.
    #[arg(long, value_enum, default_value = "stock")]
    flavour: Build,

    /// Whether the proxy is a gateway; by default as the pod says (inject.istio.io/templates, or the proxy that it has), and else
    /// it is if a Gateway selects the pod.
    #[arg(long)]
    gateway: Option<bool>,

    /// The proxy may not bind ports below 1024 (UNPRIVILEGED_POD in its node's metadata).
    #[arg(long)]
    unprivileged: bool,

    /// MeshConfig file; it wins over ConfigMap `istio` among the objects.
    #[arg(long = "meshConfig", value_name = "FILE")]
    mesh_config: Option<PathBuf>,

    /// DNS domain of the cluster.
    #[arg(long, default_value = "cluster.local")]
    domain: String,

    /// Id of the cluster that the objects belong to.
    #[arg(long = "clusterID", default_value = "Kubernetes")]
    cluster_id: String,

    #[command(flatten)]
    features: FeatureArguments,

    /// Whether proxies are given the roots of MeshConfig's `caCertificates`, as far as they stand in it: those of the CA, and those that
    /// other meshes publish, are not known here.
    #[arg(
        long, env = "ISTIO_MULTIROOT_MESH", value_name = "BOOL", value_parser = clap::builder::BoolishValueParser::new(),
        action = clap::ArgAction::Set, default_value = "false"
    )]
    multi_root_mesh: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum TypeFilter {
    Lds,
    Rds,
    Cds,
    Eds,
    Ecds,
    Pcds,
    All,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Yaml,
    Json,
}

#[derive(Clone, Copy, ValueEnum)]
enum Build {
    /// Envoy as its project releases it.
    Stock,
    /// Istio's proxyv2.
    Istio,
}

pub(super) fn run(arguments: Arguments) -> ExitCode {
    let Contents { objects, mut findings, locations } = read_paths(&arguments.file, &arguments.cluster_id);
    let (features, multi_root) = (arguments.features.features(), arguments.multi_root_mesh);
    let mut engine = Engine::new(&arguments.domain, MeshConfig { features, multi_root, ..MeshConfig::default() });
    let of_file =
        arguments.mesh_config.as_ref().map(|path| MeshConfigFile { path: path.clone(), cluster: arguments.cluster_id.as_str().into() });
    let of_file = match of_file.map(|file| file.read()).transpose() {
        Ok(read) => read.map(|(object, warnings)| {
            findings.extend(warnings);
            object
        }),
        Err(errors) => {
            errors.iter().for_each(|error| eprintln!("{error}"));
            return ExitCode::FAILURE;
        }
    };
    // The file wins over a ConfigMap, as in the control plane.
    let applied = engine.apply(objects.into_iter().chain(of_file).map(|object| (object.key.clone(), Some(object))));
    findings.extend(validate::check(&applied.world));
    let shown = show(&arguments, &applied, &locations, &mut findings);
    let mut findings: Vec<Diagnostic> = findings.into_iter().map(|finding| locations.locate(finding)).collect();
    findings.sort();
    for finding in &findings {
        eprintln!("{finding}");
    }
    match shown.and_then(|value| print(&value, arguments.output)) {
        Ok(()) if findings.iter().any(is_error) => ExitCode::from(2),
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", escaped(&format!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}

fn is_error(finding: &Diagnostic) -> bool {
    finding.severity == Severity::Error
}

/// Shows what a stream of the proxy would be given: it is attached as by its first request.
fn show(arguments: &Arguments, applied: &Applied, locations: &ObjectLocations, findings: &mut Vec<Diagnostic>) -> anyhow::Result<Value> {
    let proxy = proxy_of_pod(arguments, &applied.world, locations)?;
    let described = proxy.described()?;
    if arguments.node {
        return Ok(described);
    }
    let node = Arc::new(Node::parse(&proxy.node(&described))?);
    let proven = Proven::new(Arc::clone(&node), Caller::Anonymous).context("--proxy: may not be served")?;
    let classes = Classes::default();
    classes.prepare(Arc::clone(&applied.world), &applied.touched).send();
    let view = classes.attach(&proven).borrow().clone();
    findings.extend(classes.findings().borrow().iter().cloned());
    if arguments.bootstrap {
        let bootstrap = static_bootstrap(&view, &node.proxy)?;
        return Ok(to_json(&Bootstrap::type_url(), &bootstrap.encode_to_vec()));
    }
    let kinds: Vec<ResourceType> = match arguments.kind {
        TypeFilter::Lds => vec![ResourceType::Listener],
        TypeFilter::Rds => vec![ResourceType::Route],
        TypeFilter::Cds => vec![ResourceType::Cluster],
        TypeFilter::Eds => vec![ResourceType::Endpoint],
        TypeFilter::Ecds => vec![ResourceType::ExtensionConfig],
        TypeFilter::Pcds => vec![ResourceType::ProxyConfig],
        TypeFilter::All => {
            let is_said = |kind: &ResourceType| *kind != ResourceType::ProxyConfig || arguments.multi_root_mesh;
            ResourceType::in_views().filter(|kind| !kind.is_confidential() && is_said(kind)).collect()
        }
    };
    let mut shown = Map::new();
    for kind in kinds {
        shown.insert(kind.as_str().into(), resources(&view, kind));
    }
    Ok(Value::Object(shown))
}

fn resources(view: &View, kind: ResourceType) -> Value {
    let mut sorted: Vec<_> = view.iter(kind).collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    Value::Object(sorted.into_iter().map(|resource| (resource.name.to_string(), resource_to_json(resource))).collect())
}

fn print(value: &Value, format: Format) -> anyhow::Result<()> {
    match format {
        Format::Json => serde_json::to_string_pretty(value)?.lines().for_each(|line| println!("{}", escaped_in_json(line))),
        Format::Yaml => print!("{}", serde_norway::to_string(value)?),
    }
    Ok(())
}

/// Finds the proxy's pod.
fn proxy_of_pod<'a>(arguments: &Arguments, world: &'a World, locations: &ObjectLocations) -> anyhow::Result<InjectedProxy<'a>> {
    let (name, namespace) = arguments.proxy.rsplit_once('.').context("--proxy: write NAME.NAMESPACE")?;
    let workload = world.workload(&arguments.cluster_id, namespace, name).ok_or_else(|| {
        let known: Vec<String> = world.workloads.keys().take(20).map(|key| format!("{}.{}", key.name, key.namespace)).collect();
        anyhow!("--proxy: there is no Pod {name} in namespace {namespace}; there are: {}", known.join(", "))
    })?;
    let key = ObjectKey {
        cluster: workload.cluster.clone(),
        kind: workload.kind,
        namespace: workload.namespace.clone(),
        name: workload.name.clone(),
    };
    let pod = document_of(workload, locations.of(&key))?;
    let kind = match arguments.gateway {
        Some(true) => ProxyKind::Gateway,
        Some(false) => ProxyKind::Sidecar,
        None => pod.as_ref().and_then(kind_said_by).unwrap_or_else(|| match gateways_for(world, &workload.labels).is_empty() {
            true => ProxyKind::Sidecar,
            false => ProxyKind::Gateway,
        }),
    };
    Ok(InjectedProxy {
        workload,
        pod,
        kind,
        flavour: match arguments.flavour {
            Build::Stock => Flavour::Stock,
            Build::Istio => Flavour::Istio,
        },
        unprivileged: arguments.unprivileged,
        world,
    })
}

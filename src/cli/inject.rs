//! `istiod-lite inject`, and the flags of injection that `istiod-lite discovery` has, too.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    slice,
    sync::Arc,
};

use anyhow::Context;
use serde_json::Value;

use crate::{
    api::{Diagnostic, Kind, Severity, Spec, mesh_config::MeshConfig, parse, yaml},
    mesh::{engine::Engine, validate},
    peer_text::escaped,
    source::mesh_config::MeshConfigFile,
    system_error::explain,
    webhook::inject::{
        Settings,
        offline::{Note, NoteOutcome, Offline},
        settings::ProxyResources,
    },
};

/// The cluster that objects in files are of.
const CLUSTER: &str = "Kubernetes";

/// Puts proxies into pods offline, by the same code as the webhook.
///
/// Reads Pods and what holds a pod template (Deployments, StatefulSets, DaemonSets, ReplicaSets, Jobs, CronJobs, Lists of them);
/// all else passes through as it is. Namespaces among the documents decide about what lies in them, by the labels that the
/// webhook is configured with (istio-injection, istio.io/rev); what lies in a namespace that is not among them is injected unless
/// it says no (sidecar.istio.io/inject: "false"). ProxyConfigs among them say how proxies are started.
///
/// Exit status: 0 when all went well; 2 when an object was refused (it is named on stderr, and passes through as it is); 1 when
/// there is no result.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Files with objects (YAML or JSON); `-` is standard input.
    #[arg(short, long = "filename", alias = "file", value_name = "FILE", required = true, num_args = 1..)]
    file: Vec<PathBuf>,

    /// Where the result goes [default: standard output].
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Namespace of objects that name none.
    #[arg(short, long, default_value = "default")]
    namespace: String,

    /// MeshConfig file: defaultConfig, trustDomain, ports.
    #[arg(long = "meshConfig", value_name = "FILE")]
    mesh_config: Option<PathBuf>,

    /// Namespace of the control plane.
    #[arg(long, env = "ISTIO_NAMESPACE", default_value = "istio-system")]
    istio_namespace: String,

    /// Revision of the control plane.
    #[arg(long, env = "REVISION", default_value = "default")]
    revision: String,

    /// Id of the cluster that the pods are for.
    #[arg(long = "clusterID", env = "CLUSTER_ID", default_value = "Kubernetes")]
    cluster_id: String,

    /// DNS domain of the cluster.
    #[arg(long, default_value = "cluster.local")]
    domain: String,

    #[command(flatten)]
    injection: InjectionArguments,
}

/// What proxies are like if a pod's annotations do not say.
#[derive(clap::Args)]
#[command(next_help_heading = "Injection")]
pub(super) struct InjectionArguments {
    /// Image of sidecars, gateways and the init container: one that holds istiod-lite, Envoy and iptables.
    #[arg(long, env = "SIDECAR_IMAGE", value_name = "IMAGE", default_value_t = Settings::default().image)]
    sidecar_image: String,

    /// Types of image that there are of it, as its tag with the type behind it (1.0-debug); proxies have another than the usual one if
    /// a ProxyConfig or the pod says so.
    #[arg(long, env = "SIDECAR_IMAGE_TYPES", value_name = "TYPE", value_delimiter = ',')]
    sidecar_image_types: Vec<String>,

    /// When it is pulled [default: as Kubernetes has it for the image's tag].
    #[arg(long, env = "SIDECAR_IMAGE_PULL_POLICY", value_name = "POLICY", value_parser = ["Always", "IfNotPresent", "Never"])]
    sidecar_image_pull_policy: Option<String>,

    /// Secrets by which it is pulled.
    #[arg(long, env = "SIDECAR_IMAGE_PULL_SECRETS", value_name = "NAME", value_delimiter = ',')]
    sidecar_image_pull_secrets: Vec<String>,

    /// CPU that a proxy asks for; an empty value for none, here and below.
    #[arg(long, env = "SIDECAR_CPU", value_name = "QUANTITY", default_value_t = ProxyResources::istio().cpu)]
    sidecar_cpu: String,

    /// CPU that it may use.
    #[arg(long, env = "SIDECAR_CPU_LIMIT", value_name = "QUANTITY", default_value_t = ProxyResources::istio().cpu_limit)]
    sidecar_cpu_limit: String,

    /// Memory that it asks for.
    #[arg(long, env = "SIDECAR_MEMORY", value_name = "QUANTITY", default_value_t = ProxyResources::istio().memory)]
    sidecar_memory: String,

    /// Memory that it may use.
    #[arg(long, env = "SIDECAR_MEMORY_LIMIT", value_name = "QUANTITY", default_value_t = ProxyResources::istio().memory_limit)]
    sidecar_memory_limit: String,

    /// Network that pods are in.
    #[arg(long, env = "SIDECAR_NETWORK", value_name = "NAME", default_value = "")]
    sidecar_network: String,

    /// Mesh id [default: the trust domain].
    #[arg(long, env = "SIDECAR_MESH_ID", value_name = "ID", default_value = "")]
    sidecar_mesh_id: String,
}

// === impl InjectionArguments ===

impl InjectionArguments {
    /// Returns the settings for proxies of one control plane.
    pub(super) fn settings(self, namespace: &str, revision: &str, cluster: &str, domain: &str) -> Settings {
        Settings {
            image: self.sidecar_image,
            image_types: self.sidecar_image_types,
            image_pull_policy: self.sidecar_image_pull_policy,
            image_pull_secrets: self.sidecar_image_pull_secrets,
            revision: revision.to_owned(),
            namespace: namespace.to_owned(),
            cluster: cluster.to_owned(),
            domain: domain.to_owned(),
            network: self.sidecar_network,
            mesh_id: self.sidecar_mesh_id,
            resources: ProxyResources {
                cpu: self.sidecar_cpu,
                cpu_limit: self.sidecar_cpu_limit,
                memory: self.sidecar_memory,
                memory_limit: self.sidecar_memory_limit,
            },
            ..Settings::default()
        }
    }
}

pub(super) fn run(arguments: Arguments) -> ExitCode {
    match inject(arguments) {
        Ok(Said { findings, notes }) => {
            findings.iter().for_each(|finding| eprintln!("{finding}"));
            notes.iter().for_each(print_note);
            let is_error = |finding: &Diagnostic| finding.severity == Severity::Error;
            let is_refused = |note: &Note| matches!(note.outcome, NoteOutcome::Refused(_));
            let refused = findings.iter().any(is_error) || notes.iter().any(is_refused);
            if refused { ExitCode::from(2) } else { ExitCode::SUCCESS }
        }
        Err(error) => {
            eprintln!("error: {}", escaped(&format!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}

/// What is said about the documents.
struct Said {
    /// About ProxyConfigs.
    findings: Vec<Diagnostic>,
    /// About what has pods.
    notes: Vec<Note>,
}

fn inject(arguments: Arguments) -> anyhow::Result<Said> {
    let texts = arguments.file.iter().map(|path| read(path).map_err(failed(path))).collect::<Result<Vec<_>, _>>()?;
    let documents = documents(&arguments.file, &texts)?;
    let Arguments { istio_namespace, revision, cluster_id, domain, injection, .. } = arguments;
    let mut engine = Engine::new(&domain, mesh_config(arguments.mesh_config)?);
    let findings = learn_proxy_configs(&mut engine, documents.iter().map(|(_, document)| document), &arguments.namespace);
    let mut offline = Offline {
        settings: injection.settings(&istio_namespace, &revision, &cluster_id, &domain),
        world: Arc::clone(engine.world()),
        namespace: arguments.namespace,
        namespaces: BTreeMap::new(),
    };
    offline.learn_namespaces(documents.iter().map(|(_, document)| document));

    let mut notes = Vec::new();
    let mut result = String::new();
    for (index, (text, document)) in documents.iter().enumerate() {
        if index > 0 {
            result.push_str("---\n");
        }
        match offline.document(document, &mut notes) {
            Some(injected) => result.push_str(&serde_norway::to_string(&injected)?),
            None => result.push_str(text.trim_start_matches(['\r', '\n'])),
        }
        if !result.is_empty() && !result.ends_with('\n') {
            result.push('\n');
        }
    }
    match arguments.output {
        Some(path) => fs::write(&path, result).map_err(failed(&path))?,
        None => io::stdout().lock().write_all(result.as_bytes())?,
    }
    Ok(Said { findings, notes })
}

/// Applies the ProxyConfigs among the documents, and returns what is wrong or doubtful about them. `namespace` is that of those that
/// name none.
fn learn_proxy_configs<'v>(engine: &mut Engine, documents: impl Iterator<Item = &'v Value>, namespace: &str) -> Vec<Diagnostic> {
    let mut findings = Vec::new();
    for document in documents.flat_map(|document| document["items"].as_array().map_or(slice::from_ref(document), Vec::as_slice)) {
        let group = document["apiVersion"].as_str().and_then(|version| version.split_once('/')).map_or("", |(group, _)| group);
        if document["kind"] != Kind::ProxyConfig.as_str() || group != Kind::ProxyConfig.group() {
            continue;
        }
        let mut document = document.clone();
        if let Some(metadata) = document["metadata"].as_object_mut() {
            metadata.entry("namespace").or_insert_with(|| namespace.into());
        }
        let parsed = parse(&document, &CLUSTER.into());
        findings.extend(parsed.diagnostics);
        engine.apply(parsed.objects.into_iter().map(|object| (object.key.clone(), Some(object))));
    }
    findings.extend(validate::check(engine.world()));
    findings
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> anyhow::Error + use<> {
    let path = path.to_owned();
    move |error| anyhow::anyhow!("{}: {}", path.display(), explain(&error))
}

fn read(path: &Path) -> io::Result<String> {
    if path != Path::new("-") {
        return fs::read_to_string(path);
    }
    let mut text = String::new();
    io::stdin().read_to_string(&mut text)?;
    Ok(text)
}

fn documents<'t>(paths: &[PathBuf], texts: &'t [String]) -> anyhow::Result<Vec<(&'t str, Value)>> {
    let mut documents = Vec::new();
    for (path, text) in paths.iter().zip(texts) {
        for document in yaml::documents(text) {
            let value = yaml::document(document).with_context(|| path.display().to_string())?;
            documents.push((document.text, value));
        }
    }
    Ok(documents)
}

fn mesh_config(path: Option<PathBuf>) -> anyhow::Result<MeshConfig> {
    let Some(path) = path else { return Ok(MeshConfig::default()) };
    let shown = path.display().to_string();
    let read = MeshConfigFile { path, cluster: CLUSTER.into() }.read();
    let refused = |found: Vec<_>| anyhow::anyhow!("--meshConfig: {}", found.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "));
    match read.map_err(refused)?.0.spec.clone() {
        Spec::MeshConfig(mesh) => Ok(MeshConfig::clone(&mesh)),
        _ => anyhow::bail!("--meshConfig: {shown} holds no MeshConfig"),
    }
}

fn print_note(note: &Note) {
    match &note.outcome {
        NoteOutcome::Warning(warning) => eprintln!("{}", escaped(&format!("warning: {}: {warning}", note.object))),
        NoteOutcome::Skipped(skip) => eprintln!("{}", escaped(&format!("{}: not injected: {skip}", note.object))),
        NoteOutcome::Refused(refused) => eprintln!("{}", escaped(&format!("error: {}: {refused}", note.object))),
    }
}

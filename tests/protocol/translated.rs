//! `istiod-lite translate` says what a stream of the same proxy is sent: held for every golden case, as it stands and with flags
//! that change whatever they can.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use envoy_types::pb::{
    envoy::{
        config::core::v3::{Extension, Node},
        service::discovery::v3::DiscoveryRequest,
    },
    google::protobuf::{Struct, Value as Field, value::Kind},
};
use istiod_lite::{
    api::{
        self,
        mesh_config::{Features, MeshConfig},
        yaml,
    },
    mesh::{engine::Engine, model::Caller},
    xds::{classes::Classes, render, resource_type::ResourceType, transport::Options},
};
use serde_json::{Map, Value};

use crate::{client::SotwClient, server::Server};

/// Resources as `translate` prints them: by type, then by name.
type Shown = BTreeMap<String, BTreeMap<String, Value>>;

#[tokio::test]
async fn translate_shows_what_a_stream_is_sent() {
    let mut cases = 0;
    for folder in fs::read_dir(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden")).unwrap() {
        let folder = folder.unwrap().path();
        for flags in [&Flags::USUAL, &Flags::OTHERS] {
            let case = Case::read(&folder, flags);
            // A pod that has its proxy already got it with the usual settings.
            if case.has_its_proxy() && flags.istio {
                continue;
            }
            let shown = case.translated();
            let server = Server::of_views(Arc::new(case.classes()), Options::default(), Caller::Anonymous).await;
            let sent = sent(server.address, &case, &shown).await;
            for (kind, expected) in &shown {
                let names = |of: &BTreeMap<String, Value>| of.keys().cloned().collect::<Vec<_>>();
                assert_eq!(names(&sent[kind]), names(expected), "{} {kind} {flags:?}", case.path.display());
                for (name, resource) in expected {
                    assert_eq!(sent[kind][name], *resource, "{} {kind}/{name} {flags:?}", case.path.display());
                }
            }
        }
        cases += 1;
    }
    assert!(cases > 10, "{cases} cases");
}

/// What `translate` is told by flags, and the control plane and the proxy by other means.
#[derive(Debug)]
struct Flags {
    domain: &'static str,
    cluster: &'static str,
    istio: bool,
    unprivileged: bool,
    features: Features,
}

impl Flags {
    const USUAL: Self = Self {
        domain: "cluster.local",
        cluster: "Kubernetes",
        istio: false,
        unprivileged: false,
        features: Features { send_unready_endpoints: true, several_ext_authz: false },
    };
    const OTHERS: Self = Self {
        domain: "example.org",
        cluster: "left",
        istio: true,
        unprivileged: true,
        features: Features { send_unready_endpoints: false, several_ext_authz: true },
    };

    fn arguments(&self) -> Vec<String> {
        let flavour = if self.istio { "istio" } else { "stock" };
        let mut arguments = vec![
            format!("--domain={}", self.domain),
            format!("--clusterID={}", self.cluster),
            format!("--flavour={flavour}"),
            format!("--sendUnhealthyEndpoints={}", self.features.send_unready_endpoints),
            format!("--multipleCustomAuthzProviders={}", self.features.several_ext_authz),
        ];
        arguments.extend(self.unprivileged.then(|| "--unprivileged".to_owned()));
        arguments
    }
}

struct Case<'a> {
    path: PathBuf,
    objects: Vec<Value>,
    /// `NAME.NAMESPACE`
    proxy: String,
    /// What the proxy says of itself besides what its object says: `KEY=VALUE`; a value in braces is JSON.
    says: Vec<(String, String)>,
    flags: &'a Flags,
}

impl<'a> Case<'a> {
    fn read(folder: &Path, flags: &'a Flags) -> Self {
        let path = folder.join("in.yaml");
        let text = fs::read_to_string(&path).unwrap();
        let line = |key: &str| text.lines().find_map(|line| line.strip_prefix(key));
        let proxy = line("# proxy: ").unwrap().to_owned();
        let said = line("# says: ").unwrap_or_default().split_whitespace().map(|pair| pair.split_once('=').unwrap());
        let says = said.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        let objects = yaml::documents(&text).into_iter().map(|document| yaml::document(document).unwrap()).collect();
        Self { path, objects, proxy, says, flags }
    }

    fn translated(&self) -> Shown {
        let mut command = Command::new(env!("CARGO_BIN_EXE_istiod-lite"));
        let command = command.args(["translate", "-o", "json", "--proxy", &self.proxy]).args(self.flags.arguments());
        let output = command.arg("-f").arg(&self.path).output().unwrap();
        assert!(!output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Does what the control plane does with its first batch.
    fn classes(&self) -> Classes {
        let mut engine = Engine::new(self.flags.domain, MeshConfig { features: self.flags.features, ..MeshConfig::default() });
        let objects = self.objects.iter().flat_map(|object| api::parse(object, &self.flags.cluster.into()).objects);
        let applied = engine.apply(objects.map(|object| (object.key.clone(), Some(object))).collect::<Vec<_>>());
        let classes = Classes::default();
        classes.prepare(applied.world, &applied.touched).send();
        classes
    }

    /// Returns the Pod or WorkloadEntry that the proxy is of.
    fn workload(&self) -> &Value {
        let (name, namespace) = self.proxy.rsplit_once('.').unwrap();
        let is_workload = |object: &&Value| {
            let metadata = &object["metadata"];
            ["Pod", "WorkloadEntry"].iter().any(|kind| object["kind"] == *kind)
                && metadata["name"] == name
                && metadata["namespace"].as_str().unwrap_or("default") == namespace
        };
        self.objects.iter().find(is_workload).unwrap()
    }

    fn has_its_proxy(&self) -> bool {
        self.workload()["metadata"]["annotations"]["sidecar.istio.io/status"].is_string()
    }

    /// Returns what Envoy says about itself beside the injected pod of the case, or on the machine of its WorkloadEntry.
    fn node(&self) -> Node {
        let (name, namespace) = self.proxy.rsplit_once('.').unwrap();
        let workload = self.workload();
        let (annotations, spec) = (&workload["metadata"]["annotations"], &workload["spec"]);
        let labels = workload["metadata"]["labels"].as_object().cloned().unwrap_or_default();
        let of_gateways = self.objects.iter().filter(|object| object["kind"] == "Gateway");
        let selects = |selector: &Map<String, Value>| selector.iter().all(|(key, value)| labels.get(key) == Some(value));
        let is_selected = || of_gateways.filter_map(|gateway| gateway["spec"]["selector"].as_object()).any(selects);
        let is_gateway = match annotations["inject.istio.io/templates"].as_str() {
            Some(template) => template == "gateway",
            None => is_selected(),
        };
        let ips: Vec<&str> = match workload["status"]["podIPs"].as_array() {
            Some(ips) => ips.iter().filter_map(|ip| ip["ip"].as_str()).collect(),
            None => workload["status"]["podIP"].as_str().or(spec["address"].as_str()).into_iter().collect(),
        };
        let mode = annotations["sidecar.istio.io/interceptionMode"].as_str().unwrap_or("REDIRECT");
        let account = spec["serviceAccountName"].as_str().or(spec["serviceAccount"].as_str()).unwrap_or("default");
        let said = [
            ("NAMESPACE", namespace),
            ("SERVICE_ACCOUNT", account),
            ("CLUSTER_ID", self.flags.cluster),
            ("MESH_ID", "cluster.local"),
            // The injector finds no owner of these pods.
            ("WORKLOAD_NAME", name),
            ("INSTANCE_IPS", &ips.join(",")),
            ("INTERCEPTION_MODE", mode),
            ("ENVOY_STATUS_PORT", "15021"),
            ("ENVOY_PROMETHEUS_PORT", "15090"),
            ("UNPRIVILEGED_POD", if self.flags.unprivileged { "true" } else { "" }),
        ];
        let mut fields: std::collections::HashMap<_, _> = said.into_iter().map(|(key, value)| (key.to_owned(), text(value))).collect();
        fields.extend(self.says.iter().map(|(key, value)| (key.clone(), serde_json::from_str(value).map_or(text(value), of_json))));
        let canonical = ["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"];
        let canonical = canonical.iter().find_map(|label| labels.get(*label)?.as_str()).unwrap_or(name);
        let cluster = format!("{canonical}.{namespace}");
        let labels = labels.iter().map(|(key, value)| (key.clone(), text(value.as_str().unwrap_or_default()))).collect();
        fields.insert("LABELS".to_owned(), Field { kind: Some(Kind::StructValue(Struct { fields: labels })) });
        let extensions = if self.flags.istio {
            ["istio.stats", "envoy.wasm.runtime.v8"]
        } else {
            ["envoy.access_loggers.stats", "envoy.wasm.runtime.v8"]
        };
        let kind = if is_gateway { "router" } else { "sidecar" };
        Node {
            id: format!("{kind}~{}~{}~{namespace}.svc.{}", ips[0], self.proxy, self.flags.domain),
            cluster,
            metadata: Some(Struct { fields }),
            extensions: extensions.map(|name| Extension { name: name.into(), ..Extension::default() }).into(),
            ..Node::default()
        }
    }
}

fn text(text: &str) -> Field {
    Field { kind: Some(Kind::StringValue(text.to_owned())) }
}

fn of_json(map: Map<String, Value>) -> Field {
    let field = |value: Value| match value {
        Value::Object(map) => of_json(map),
        Value::Bool(flag) => Field { kind: Some(Kind::BoolValue(flag)) },
        Value::Number(number) => Field { kind: number.as_f64().map(Kind::NumberValue) },
        other => text(other.as_str().unwrap_or_default()),
    };
    let fields = map.into_iter().map(|(key, value)| (key, field(value))).collect();
    Field { kind: Some(Kind::StructValue(Struct { fields })) }
}

/// Returns what a stream of the proxy is sent. It asks for all that is shown of what is asked for by name.
async fn sent(address: SocketAddr, case: &Case<'_>, shown: &Shown) -> Shown {
    let mut client = SotwClient::connect(address).await;
    let mut all = Shown::new();
    for kind in ResourceType::in_views().filter(|kind| shown.contains_key(kind.as_str())) {
        let expected = &shown[kind.as_str()];
        let named = !kind.is_wildcard();
        let resource_names: Vec<String> = if named { expected.keys().cloned().collect() } else { Vec::new() };
        let received = all.entry(kind.as_str().to_owned()).or_default();
        if expected.is_empty() {
            // There is no answer then. A proxy without rights may go without listeners.
            assert!(named || case.flags.unprivileged, "{} shows no {kind:?}", case.path.display());
            continue;
        }
        let names: Vec<&str> = resource_names.iter().map(String::as_str).collect();
        let type_url = kind.type_url().to_owned();
        client.send(DiscoveryRequest { node: Some(case.node()), type_url, resource_names: resource_names.clone(), ..Default::default() });
        while received.is_empty() || (named && received.len() < resource_names.len()) {
            let response = client.next().await;
            assert_eq!(response.type_url, kind.type_url());
            client.ack(&response, &names);
            received.extend(response.resources.iter().map(|resource| {
                let resource = render::to_json(&resource.type_url, &resource.value);
                (resource["name"].as_str().or(resource["cluster_name"].as_str()).unwrap().to_owned(), resource)
            }));
        }
    }
    all
}

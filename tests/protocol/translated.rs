//! `istiod-lite translate` says what a stream of the same proxy is sent: held for every golden case.

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
    api::{self, mesh_config::MeshConfig, yaml},
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
        let case = Case::read(&folder.unwrap().path());
        let shown = case.translated();
        let server = Server::of_views(Arc::new(case.classes()), Options::default(), Caller::Anonymous).await;
        let sent = sent(server.address, &case, &shown).await;
        for (kind, expected) in &shown {
            let names = |of: &BTreeMap<String, Value>| of.keys().cloned().collect::<Vec<_>>();
            assert_eq!(names(&sent[kind]), names(expected), "{} {kind}", case.path.display());
            for (name, resource) in expected {
                assert_eq!(sent[kind][name], *resource, "{} {kind}/{name}", case.path.display());
            }
        }
        cases += 1;
    }
    assert!(cases > 10, "{cases} cases");
}

struct Case {
    path: PathBuf,
    objects: Vec<Value>,
    /// `NAME.NAMESPACE`
    proxy: String,
}

impl Case {
    fn read(folder: &Path) -> Self {
        let path = folder.join("in.yaml");
        let text = fs::read_to_string(&path).unwrap();
        let proxy = text.lines().find_map(|line| line.strip_prefix("# proxy: ")).unwrap().to_owned();
        let objects = yaml::documents(&text).into_iter().map(|document| yaml::document(document).unwrap()).collect();
        Self { path, objects, proxy }
    }

    fn translated(&self) -> Shown {
        let mut command = Command::new(env!("CARGO_BIN_EXE_istiod-lite"));
        let output = command.args(["translate", "-o", "json", "--proxy", &self.proxy, "-f"]).arg(&self.path).output().unwrap();
        assert!(!output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Does what the control plane does with its first batch.
    fn classes(&self) -> Classes {
        let mut engine = Engine::new("cluster.local", MeshConfig::default());
        let objects = self.objects.iter().flat_map(|object| api::parse(object, &"Kubernetes".into()).objects);
        let applied = engine.apply(objects.map(|object| (object.key.clone(), Some(object))).collect::<Vec<_>>());
        let classes = Classes::default();
        classes.prepare(applied.world, &applied.touched).send();
        classes
    }

    /// Returns what stock Envoy says about itself beside the injected pod of the case.
    fn node(&self) -> Node {
        let (name, namespace) = self.proxy.rsplit_once('.').unwrap();
        let is_pod = |object: &&Value| {
            let metadata = &object["metadata"];
            object["kind"] == "Pod" && metadata["name"] == name && metadata["namespace"].as_str().unwrap_or("default") == namespace
        };
        let pod = self.objects.iter().find(is_pod).unwrap();
        let labels = pod["metadata"]["labels"].as_object().cloned().unwrap_or_default();
        let of_gateways = self.objects.iter().filter(|object| object["kind"] == "Gateway");
        let selects = |selector: &Map<String, Value>| selector.iter().all(|(key, value)| labels.get(key) == Some(value));
        let is_gateway = of_gateways.filter_map(|gateway| gateway["spec"]["selector"].as_object()).any(selects);
        let ips: Vec<&str> = match pod["status"]["podIPs"].as_array() {
            Some(ips) => ips.iter().filter_map(|ip| ip["ip"].as_str()).collect(),
            None => pod["status"]["podIP"].as_str().into_iter().collect(),
        };
        let mode = pod["metadata"]["annotations"]["sidecar.istio.io/interceptionMode"].as_str().unwrap_or("REDIRECT");
        let account = pod["spec"]["serviceAccountName"].as_str().unwrap_or("default");
        let said = [
            ("NAMESPACE", namespace),
            ("SERVICE_ACCOUNT", account),
            ("CLUSTER_ID", "Kubernetes"),
            ("INSTANCE_IPS", &ips.join(",")),
            ("INTERCEPTION_MODE", mode),
            ("ENVOY_STATUS_PORT", "15021"),
            ("ENVOY_PROMETHEUS_PORT", "15090"),
        ];
        let mut fields: std::collections::HashMap<_, _> = said.into_iter().map(|(key, value)| (key.to_owned(), text(value))).collect();
        let labels = labels.iter().map(|(key, value)| (key.clone(), text(value.as_str().unwrap_or_default()))).collect();
        fields.insert("LABELS".to_owned(), Field { kind: Some(Kind::StructValue(Struct { fields: labels })) });
        Node {
            id: format!("{}~{}~{}~{namespace}.svc.cluster.local", if is_gateway { "router" } else { "sidecar" }, ips[0], self.proxy),
            metadata: Some(Struct { fields }),
            extensions: vec![Extension { name: "envoy.filters.http.router".into(), ..Extension::default() }],
            ..Node::default()
        }
    }
}

fn text(text: &str) -> Field {
    Field { kind: Some(Kind::StringValue(text.to_owned())) }
}

/// Returns what a stream of the proxy is sent. It asks for all load assignments and route tables that are shown.
async fn sent(address: SocketAddr, case: &Case, shown: &Shown) -> Shown {
    let mut client = SotwClient::connect(address).await;
    let mut all = Shown::new();
    for kind in [ResourceType::Cluster, ResourceType::Endpoint, ResourceType::Listener, ResourceType::Route] {
        let expected = &shown[kind.as_str()];
        let named = matches!(kind, ResourceType::Endpoint | ResourceType::Route);
        let resource_names: Vec<String> = if named { expected.keys().cloned().collect() } else { Vec::new() };
        let received = all.entry(kind.as_str().to_owned()).or_default();
        if named && resource_names.is_empty() {
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

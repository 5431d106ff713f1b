//! One real Envoy that stands before all workloads of a table: what each one's proxy is sent is put together in one bootstrap, in which
//! each workload has an address, and the certificates are written instead of asked of an agent.

use std::{collections::BTreeSet, fs, net::SocketAddr, path::PathBuf, process::Command, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use harness::{address::Loopback, process::Process, tools, wait};
use serde_json::{Map, Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use super::{
    client::{Authority, Clients, HELLO, Message, Verdict},
    table::{Row, Set},
};
use crate::issuer::{SigningKey, in_seconds, key_set};

const HTTP: u16 = 8080;
const TCP: u16 = 9090;
/// The first workload's address.
const FIRST: u8 = 32;
/// A client's address, where it is of no matter.
const SOMEBODY: u8 = 9;
/// How long Envoy may take to listen.
const STARTED: Duration = Duration::from_secs(60);
const ISSUER: &str = "https://issuer.example.com";

/// The Envoy, the applications behind it, and the clients.
pub(crate) struct Stage {
    workloads: Vec<Workload>,
    network: Loopback,
    clients: Clients,
    key: SigningKey,
    applications: [JoinHandle<()>; 2],
    _envoy: Process,
    _home: TempDir,
}

/// A set under one way of normalizing.
struct Workload {
    set: Set,
    normalization: usize,
}

/// A decision to be made.
pub(crate) struct Asked<'a> {
    /// The policies.
    pub(crate) of: String,
    pub(crate) workload: usize,
    pub(crate) row: &'a Row,
    pub(crate) expected: Verdict,
}

impl Stage {
    /// Starts the Envoy.
    pub(crate) async fn open(sets: Vec<Set>) -> Result<Self> {
        let network = Loopback::free()?;
        let key = SigningKey::new("a")?;
        let (http, on_http) = application(answer_http).await?;
        let (tcp, on_tcp) = application(answer_tcp).await?;
        let of_set = |set: Set| {
            let ways = set.normalization.len().max(1);
            (0..ways).map(move |normalization| Workload { set: set.clone(), normalization })
        };
        let workloads: Vec<Workload> = sets.into_iter().flat_map(of_set).collect();
        ensure!(workloads.len() < usize::from(u8::MAX - FIRST), "too many workloads for one network");
        let authority = Authority::new()?;
        let rows = || workloads.iter().flat_map(|workload| &workload.set.requests);
        let clients = Clients::new(&authority, rows().filter_map(|row| row.identity.as_ref()))?;

        let home = tempfile::tempdir()?;
        let documents: Vec<(PathBuf, &str)> = workloads
            .iter()
            .enumerate()
            .map(|(at, workload)| {
                let path = home.path().join(format!("{at}.yaml"));
                fs::write(&path, workload.objects(&network, at, [on_http.port(), on_tcp.port()], &key))?;
                Ok((path, workload.proxy()))
            })
            .collect::<Result<_>>()?;
        let bootstraps = translated(&documents)?;
        let names: BTreeSet<String> = rows().filter_map(|row| row.sni.as_ref()).map(|name| name.to_lowercase()).collect();
        let bootstrap = together(bootstraps, &authority, names)?;
        let file = home.path().join("bootstrap.json");
        fs::write(&file, bootstrap.to_string())?;
        let mut command = Command::new(tools::envoy("1.40")?);
        command.args(["--concurrency", "1", "--disable-hot-restart", "-l", "error", "-c"]).arg(&file);
        let envoy = Process::start("envoy", command, home.path())?;
        let stage = Self { workloads, network, clients, key, applications: [http, tcp], _envoy: envoy, _home: home };
        for workload in 0..stage.workloads.len() {
            let address = stage.address(workload, HTTP);
            wait::until("Envoy's listeners", STARTED, || async {
                TcpStream::connect(address).await.with_context(|| stage._envoy.log())?;
                Ok(())
            })
            .await?;
        }
        Ok(stage)
    }

    /// Returns all decisions of the table.
    pub(crate) fn asked(&self) -> impl Iterator<Item = Asked<'_>> {
        self.workloads.iter().enumerate().flat_map(|(at, workload)| {
            let of = workload.name();
            let asked = move |row| Asked { of: of.clone(), workload: at, row, expected: Row::wanted(row, workload.normalization) };
            workload.set.requests.iter().map(asked)
        })
    }

    /// Sends a request to a workload.
    pub(crate) async fn ask(&self, workload: usize, row: &Row) -> Result<Verdict> {
        let message = Message {
            from: self.network.address(row.from.unwrap_or(SOMEBODY)),
            to: self.address(workload, if row.tcp { TCP } else { HTTP }),
            identity: row.identity.as_deref(),
            server_name: row.sni.as_deref().unwrap_or("server"),
            request: if row.tcp { None } else { Some(self.request(row)?) },
        };
        self.clients.send(&message).await.with_context(|| format!("{}, {row}", self.workloads[workload].name()))
    }

    fn address(&self, workload: usize, port: u16) -> SocketAddr {
        self.network.socket(FIRST + workload as u8, port)
    }

    fn request(&self, row: &Row) -> Result<Vec<u8>> {
        let or = |text: &Option<String>, default: &str| text.as_deref().unwrap_or(default).to_owned();
        let (method, path, host) = (or(&row.method, "GET"), or(&row.path, "/"), or(&row.host, "server"));
        let mut request = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n");
        for (name, value) in row.headers.iter().flatten() {
            let value = value.as_str().context("headers are texts")?.replace("$net.", &self.network.dotted_prefix());
            request += &format!("{name}: {value}\r\n");
        }
        if let Some(more) = &row.claims {
            let mut claims =
                Map::from_iter([("iss".into(), ISSUER.into()), ("sub".into(), "alice".into()), ("exp".into(), in_seconds(600).into())]);
            claims.extend(more.clone());
            request += &format!("authorization: Bearer {}\r\n", self.key.sign(&claims.into())?);
        }
        Ok((request + "\r\n").into_bytes())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.applications.iter().for_each(JoinHandle::abort);
    }
}

impl Workload {
    fn name(&self) -> String {
        match self.set.normalization.get(self.normalization) {
            Some(way) => format!("{} ({way})", self.set.name),
            None => self.set.name.clone(),
        }
    }

    fn proxy(&self) -> &'static str {
        if self.set.gateway.is_some() { "gateway.shop" } else { "server.shop" }
    }

    /// Returns the objects of a mesh that has nothing but this workload and its policies.
    fn objects(&self, network: &Loopback, at: usize, [http, tcp]: [u16; 2], key: &SigningKey) -> String {
        let address = network.address(FIRST + at as u8).to_string();
        let mut mesh = json!({"trustDomainAliases": self.set.aliases, "extensionProviders": self.set.providers});
        if let Some(way) = self.set.normalization.get(self.normalization) {
            mesh["pathNormalization"] = json!({"normalization": way});
        }
        let mut objects = match &self.set.gateway {
            Some(topology) => {
                mesh["defaultConfig"] = json!({"gatewayTopology": topology});
                gateway(&address)
            }
            None => sidecar(&address, [http, tcp]),
        };
        objects.push(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "istio", "namespace": "istio-system"},
            "data": {"mesh": mesh.to_string()}}));
        let rules = json!([{"issuer": ISSUER, "jwks": key_set(&[key]).to_string()}]);
        objects.push(security("RequestAuthentication", json!({"name": "tokens", "namespace": "shop"}), json!({"jwtRules": rules})));
        objects.extend(self.set.beside.iter().cloned());
        for (number, written) in self.set.policies.iter().enumerate() {
            let mut spec = written.clone();
            let mut metadata = json!({"name": format!("policy-{number}"), "namespace": "shop"});
            if let Some(namespace) = spec.as_object_mut().and_then(|spec| spec.remove("namespace")) {
                metadata["namespace"] = namespace;
            }
            if spec.as_object_mut().and_then(|spec| spec.remove("dryRun")).is_some() {
                metadata["annotations"] = json!({"istio.io/dry-run": "true"});
            }
            objects.push(security("AuthorizationPolicy", metadata, spec));
        }
        let documents: Vec<String> = objects.iter().map(Value::to_string).collect();
        documents.join("\n---\n").replace("$net.", &network.dotted_prefix())
    }
}

fn security(kind: &str, metadata: Value, spec: Value) -> Value {
    json!({"apiVersion": "security.istio.io/v1", "kind": kind, "metadata": metadata, "spec": spec})
}

fn networking(kind: &str, spec: Value) -> Value {
    json!({"apiVersion": "networking.istio.io/v1", "kind": kind, "metadata": {"name": "default", "namespace": "shop"}, "spec": spec})
}

fn pod(name: &str, address: &str, annotations: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": name, "security.istio.io/tlsMode": "istio"}, "annotations": annotations},
        "spec": {"serviceAccountName": name, "containers": [{"name": name}]},
        "status": {"podIP": address, "podIPs": [{"ip": address}], "phase": "Running"}})
}

fn sidecar(address: &str, [http, tcp]: [u16; 2]) -> Vec<Value> {
    let ingress = |name: &str, number: u16, protocol: &str, application: u16| json!({"port": {"number": number, "name": name, "protocol": protocol}, "defaultEndpoint": format!("127.0.0.1:{application}")});
    let ports = [ingress("http", HTTP, "HTTP", http), ingress("tcp", TCP, "TCP", tcp)];
    let bound = json!({"sidecar.istio.io/interceptionMode": "NONE"});
    vec![pod("server", address, bound), networking("Sidecar", json!({"egress": [{"hosts": ["./*"]}], "ingress": ports}))]
}

fn gateway(address: &str) -> Vec<Value> {
    let server = json!({"port": {"number": HTTP, "name": "http", "protocol": "HTTP"}, "bind": address, "hosts": ["*"]});
    let routes = json!({"hosts": ["*"], "gateways": ["default"], "http": [{"directResponse": {"status": 200}}]});
    vec![
        pod("gateway", address, json!({})),
        networking("Gateway", json!({"selector": {"app": "gateway"}, "servers": [server]})),
        networking("VirtualService", routes),
    ]
}

/// Translates each document for its proxy, a few at a time.
fn translated(documents: &[(PathBuf, &str)]) -> Result<Vec<Value>> {
    let translate = |(path, proxy): &(PathBuf, &str)| -> Result<Value> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_istiod-lite"));
        let output = command
            .arg("translate")
            .arg("-f")
            .arg(path)
            .args(["--proxy", proxy, "--bootstrap", "-o", "json"])
            .args(["--multipleCustomAuthzProviders", "true"])
            .output()?;
        // 2: something was refused, and what stands there in its place is what is wanted here.
        let said = || format!("{}: {}", path.display(), String::from_utf8_lossy(&output.stderr));
        ensure!(matches!(output.status.code(), Some(0 | 2)), said());
        serde_json::from_slice(&output.stdout).with_context(said)
    };
    let each = documents.len().div_ceil(2).max(1);
    thread::scope(|scope| {
        let parts: Vec<_> =
            documents.chunks(each).map(|part| scope.spawn(|| part.iter().map(translate).collect::<Result<Vec<_>>>())).collect();
        let mut all = Vec::new();
        for part in parts {
            all.extend(part.join().map_err(|_| anyhow::anyhow!("a translation panicked"))??);
        }
        Ok(all)
    })
}

/// Puts the listeners of all into one bootstrap, with the clusters of the first: they have the same ones.
fn together(bootstraps: Vec<Value>, authority: &Authority, mut names: BTreeSet<String>) -> Result<Value> {
    names.insert("server".into());
    let own = authority.issue("cluster.local/ns/shop/sa/server", names)?;
    let mut clusters: Vec<Value> = Vec::new();
    let mut listeners = Vec::new();
    let mut first = None;
    for mut bootstrap in bootstraps {
        let resources = &mut bootstrap["static_resources"];
        // Those of the application's own requests, which without capture are on localhost, are not of interest.
        let is_inbound = |listener: &Value| listener["address"]["socket_address"]["address"] != "127.0.0.1";
        listeners.extend(resources["listeners"].as_array().cloned().unwrap_or_default().into_iter().filter(is_inbound));
        for cluster in resources["clusters"].as_array().cloned().unwrap_or_default() {
            match clusters.iter().find(|known| known["name"] == cluster["name"]) {
                None => clusters.push(cluster),
                Some(known) => ensure!(*known == cluster, "two clusters of one name: {known} {cluster}"),
            }
        }
        first.get_or_insert(bootstrap);
    }
    let mut bootstrap = first.context("no workloads")?;
    let secrets = json!([
        {"name": "default", "tls_certificate": {"certificate_chain": {"inline_string": own.certificate}, "private_key": {"inline_string": own.key}}},
        {"name": "ROOTCA", "validation_context": {"trusted_ca": {"inline_string": authority.root}}},
    ]);
    bootstrap["static_resources"] = json!({"listeners": listeners, "clusters": clusters, "secrets": secrets});
    written_secrets(&mut bootstrap);
    Ok(bootstrap)
}

/// Has secrets taken from the bootstrap.
fn written_secrets(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if fields.contains_key("name") {
                fields.remove("sds_config");
            }
            fields.values_mut().for_each(written_secrets);
        }
        Value::Array(values) => values.iter_mut().for_each(written_secrets),
        _ => {}
    }
}

/// Starts an application on localhost that gives each connection an answer, and ends it.
async fn application<A, F>(answer: A) -> Result<(JoinHandle<()>, SocketAddr)>
where
    A: Fn(TcpStream) -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream));
        }
    });
    Ok((task, address))
}

async fn answer_http(mut stream: TcpStream) {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read_buf(&mut request).await {
            Ok(read) if read > 0 => {}
            _ => return,
        }
    }
    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
}

async fn answer_tcp(mut stream: TcpStream) {
    let mut first = [0; HELLO.len()];
    if stream.read_exact(&mut first).await.is_ok() {
        let _ = stream.write_all(b"ok").await;
    }
}

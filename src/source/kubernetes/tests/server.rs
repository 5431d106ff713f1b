//! An API server in this process: lists in pages, watches that replay, and faults on demand.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    convert::Infallible,
    io,
    sync::Arc,
};

use bytes::Bytes;
use futures::StreamExt;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

/// The UID of the cluster at first.
pub(super) const OURS: &str = "ours";

type Chunk = Result<Bytes, io::Error>;
type Answer = Response<UnsyncBoxBody<Bytes, io::Error>>;

/// Cheap to clone: all clones are one server.
#[derive(Clone)]
pub(super) struct Server(Arc<Mutex<State>>);

struct State {
    uid: String,
    version: u64,
    custom: bool,
    custom_version: &'static str,
    page: usize,
    silent: bool,
    objects: BTreeMap<String, BTreeMap<String, Value>>,
    /// What was deleted and watchers were told of: whoever opens a watch from before is told, too.
    gone: HashMap<String, Vec<Value>>,
    watchers: HashMap<String, Vec<Watcher>>,
    watched_from: HashMap<String, Vec<String>>,
    refused: HashMap<String, u16>,
    refused_all: Option<u16>,
    expired: HashSet<String>,
    by_namespace: bool,
}

struct Watcher {
    namespace: Option<String>,
    name: Option<String>,
    chunks: mpsc::UnboundedSender<Chunk>,
}

/// Returns a Service in namespace `shop`; `v` tells its versions apart.
pub(super) fn service(name: &str, v: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "shop", "labels": {"v": v}}, "spec": {"ports": [{"port": 80}]}})
}

/// Returns a VirtualService in namespace `shop`; `v` tells its versions apart.
pub(super) fn virtual_service(name: &str, v: &str) -> Value {
    let http = json!([{"route": [{"destination": {"host": "a"}}]}]);
    json!({"metadata": {"name": name, "namespace": "shop", "labels": {"v": v}}, "spec": {"hosts": ["a"], "http": http}})
}

impl Server {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(State {
            uid: OURS.into(),
            version: 100,
            custom: true,
            custom_version: "v1",
            page: 500,
            silent: false,
            objects: BTreeMap::new(),
            gone: HashMap::new(),
            watchers: HashMap::new(),
            watched_from: HashMap::new(),
            refused: HashMap::new(),
            refused_all: None,
            expired: HashSet::new(),
            by_namespace: false,
        })))
    }

    pub(super) fn client(&self) -> kube::Client {
        let server = self.clone();
        let answer = move |request: Request<Body>| {
            let answer = server.0.lock().answer(&request);
            async move { Ok::<_, Infallible>(answer) }
        };
        kube::Client::new(tower::service_fn(answer), "default")
    }

    /// Stores an object, and tells the watchers.
    pub(super) fn put(&self, plural: &str, mut object: Value) {
        let mut state = self.0.lock();
        state.version += 1;
        object["metadata"]["resourceVersion"] = state.version.to_string().into();
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        state.objects.entry(plural.to_owned()).or_default().insert(name, object.clone());
        state.tell(plural, &json!({"type": "MODIFIED", "object": object}));
    }

    /// Removes an object, and tells the watchers.
    pub(super) fn remove(&self, plural: &str, name: &str) {
        let mut state = self.0.lock();
        state.version += 1;
        let mut object = state.objects.get_mut(plural).unwrap().remove(name).unwrap();
        object["metadata"]["resourceVersion"] = state.version.to_string().into();
        state.tell(plural, &json!({"type": "DELETED", "object": object}));
        if !state.silent {
            state.gone.entry(plural.to_owned()).or_default().push(object);
        }
    }

    /// Does something of which the watchers are not told.
    pub(super) fn silently(&self, what: impl FnOnce(&Self)) {
        self.0.lock().silent = true;
        what(self);
        self.0.lock().silent = false;
    }

    /// Tells the watchers of all objects that there are, as a watch does that is opened again.
    pub(super) fn replay(&self, plural: &str) {
        // Whoever opens later is told then, as the objects are newer than what it has.
        let state = self.0.lock();
        for object in state.objects.get(plural).into_iter().flat_map(BTreeMap::values) {
            state.tell(plural, &json!({"type": "MODIFIED", "object": object}));
        }
    }

    /// Sends the watchers these bytes.
    pub(super) fn say(&self, plural: &str, text: String) {
        self.0.lock().send(plural, || Ok(text.clone().into()));
    }

    /// Breaks the connections of the watchers.
    pub(super) fn break_off(&self, plural: &str) {
        let mut state = self.0.lock();
        state.send(plural, || Err(io::ErrorKind::ConnectionReset.into()));
        state.watchers.remove(plural);
    }

    /// Returns the resource versions from which this was watched.
    pub(super) fn watched_from(&self, plural: &str) -> Vec<String> {
        self.0.lock().watched_from.get(plural).cloned().unwrap_or_default()
    }

    /// Answers requests about one kind with a failure, or no longer.
    pub(super) fn refuse(&self, plural: &str, code: Option<u16>) {
        let mut state = self.0.lock();
        match code {
            Some(code) => _ = state.refused.insert(plural.to_owned(), code),
            None => _ = state.refused.remove(plural),
        }
    }

    /// Answers all requests with a failure from now on, or no longer.
    pub(super) fn refuse_all(&self, code: Option<u16>) {
        self.0.lock().refused_all = code;
    }

    /// Answers as another cluster from now on.
    pub(super) fn become_cluster(&self, uid: &str) {
        self.0.lock().uid = uid.to_owned();
    }

    /// Sets the resource version; gives the one before.
    pub(super) fn set_version(&self, version: u64) -> u64 {
        std::mem::replace(&mut self.0.lock().version, version)
    }

    /// Lists have at most so many objects a page.
    pub(super) fn page(&self, size: usize) {
        self.0.lock().page = size;
    }

    /// Lets the next request for a further page of the list fail.
    pub(super) fn expire_next_page(&self, plural: &str) {
        self.0.lock().expired.insert(plural.to_owned());
    }

    /// Gives rights in namespaces only from now on, except for namespaces and nodes.
    pub(super) fn give_rights_by_namespace(&self) {
        self.0.lock().by_namespace = true;
    }

    /// Sets the one version in which Istio's kinds are served.
    pub(super) fn serve_custom_as(&self, version: &'static str) {
        self.0.lock().custom_version = version;
    }

    /// Sets whether Istio's kinds are served.
    pub(super) fn serve_custom(&self, yes: bool) {
        self.0.lock().custom = yes;
    }
}

impl State {
    fn tell(&self, plural: &str, event: &Value) {
        if self.silent {
            return;
        }
        let metadata = &event["object"]["metadata"];
        let is = |wanted: &Option<String>, field: &str| wanted.as_deref().is_none_or(|wanted| metadata[field] == wanted);
        for watcher in self.watchers.get(plural).into_iter().flatten() {
            if is(&watcher.namespace, "namespace") && is(&watcher.name, "name") {
                // One that hung up is not told.
                let _ = watcher.chunks.send(Ok(format!("{event}\n").into()));
            }
        }
    }

    fn send(&self, plural: &str, chunk: impl Fn() -> Chunk) {
        for watcher in self.watchers.get(plural).into_iter().flatten() {
            // One that hung up is not told.
            let _ = watcher.chunks.send(chunk());
        }
    }

    fn answer(&mut self, request: &Request<Body>) -> Answer {
        let path = request.uri().path().trim_start_matches('/').to_owned();
        let query: HashMap<String, String> = request.uri().query().map(pairs).unwrap_or_default();
        let parts: Vec<&str> = path.split('/').collect();
        if let Some(code) = self.refused_all {
            return failure(code);
        }
        if let ["apis", group, version] = parts[..] {
            return self.served(group, version);
        }
        let plural = parts.last().copied().unwrap_or_default();
        let custom = parts[0] == "apis" && parts[1].ends_with("istio.io");
        let absent = custom && !(self.custom && parts[2] == self.custom_version);
        if let Some(code) = self.refused.get(plural).copied().or(absent.then_some(404)) {
            return failure(code);
        }
        if query.get("fieldSelector").is_some_and(|selector| selector.ends_with("kube-system")) {
            let kube_system = json!({"metadata": {"name": "kube-system", "uid": self.uid}});
            return self.listed(vec![kube_system], String::new());
        }
        let namespace =
            parts.iter().position(|part| *part == "namespaces").and_then(|at| parts.get(at + 1)).filter(|_| plural != "namespaces");
        let namespace = namespace.copied();
        if self.by_namespace && namespace.is_none() && !matches!(plural, "namespaces" | "nodes") {
            return failure(403);
        }
        if query.contains_key("watch") { self.watch(plural, namespace, &query) } else { self.list(plural, namespace, &query) }
    }

    fn served(&self, group: &str, version: &str) -> Answer {
        let plurals: &[&str] = match (group, version) {
            _ if !self.custom => return failure(404),
            (_, version) if version != self.custom_version => return failure(404),
            ("networking.istio.io", _) => {
                &["destinationrules", "gateways", "serviceentries", "sidecars", "virtualservices", "workloadentries"]
            }
            ("security.istio.io", _) => &["peerauthentications"],
            _ => return failure(404),
        };
        let resources: Vec<Value> = plurals.iter().map(|name| json!({"name": name})).collect();
        good(json!({"resources": resources}).to_string())
    }

    fn list(&mut self, plural: &str, namespace: Option<&str>, query: &HashMap<String, String>) -> Answer {
        let from: usize = query.get("continue").map_or(0, |from| from.parse().unwrap());
        if from > 0 && self.expired.remove(plural) {
            return failure(410);
        }
        let name = name_of(query);
        let within = |object: &&Value| {
            let metadata = &object["metadata"];
            namespace.is_none_or(|namespace| metadata["namespace"] == namespace) && name.is_none_or(|name| metadata["name"] == name)
        };
        let all: Vec<Value> = self.objects.get(plural).into_iter().flat_map(BTreeMap::values).filter(within).cloned().collect();
        let until = all.len().min(from + self.page);
        let next = if until < all.len() { until.to_string() } else { String::new() };
        self.listed(all[from..until].to_vec(), next)
    }

    fn listed(&self, items: Vec<Value>, next: String) -> Answer {
        good(json!({"metadata": {"resourceVersion": self.version.to_string(), "continue": next}, "items": items}).to_string())
    }

    // What is newer than what the watcher has comes first.
    fn watch(&mut self, plural: &str, namespace: Option<&str>, query: &HashMap<String, String>) -> Answer {
        let from = query["resourceVersion"].clone();
        let (sender, receiver) = mpsc::unbounded_channel();
        let since: u64 = from.parse().unwrap();
        let there = self.objects.get(plural).into_iter().flat_map(BTreeMap::values).map(|object| ("MODIFIED", object));
        let gone = self.gone.get(plural).into_iter().flatten().map(|object| ("DELETED", object));
        for (event, object) in there.chain(gone) {
            let version: u64 = object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
            let metadata = &object["metadata"];
            let within = namespace.is_none_or(|namespace| metadata["namespace"] == namespace);
            if version > since && within && name_of(query).is_none_or(|name| metadata["name"] == name) {
                sender.send(Ok(format!("{}\n", json!({"type": event, "object": object})).into())).unwrap();
            }
        }
        let watcher = Watcher { namespace: namespace.map(str::to_owned), name: name_of(query).map(str::to_owned), chunks: sender };
        self.watchers.entry(plural.to_owned()).or_default().push(watcher);
        self.watched_from.entry(plural.to_owned()).or_default().push(from);
        let frames = UnboundedReceiverStream::new(receiver).map(|chunk| chunk.map(http_body::Frame::data));
        Response::new(StreamBody::new(frames).boxed_unsync())
    }
}

/// Returns the name of the only object that is asked for.
fn name_of(query: &HashMap<String, String>) -> Option<&str> {
    query.get("fieldSelector")?.strip_prefix("metadata.name=")
}

fn pairs(query: &str) -> HashMap<String, String> {
    query.split('&').filter_map(|pair| pair.split_once('=')).map(|(name, value)| (name.to_owned(), value.replace("%3D", "="))).collect()
}

fn good(body: String) -> Answer {
    Response::new(Full::new(Bytes::from(body)).map_err(|never| match never {}).boxed_unsync())
}

fn failure(code: u16) -> Answer {
    let mut answer = good(json!({"kind": "Status", "code": code, "reason": "Test", "message": "as the test wants it"}).to_string());
    *answer.status_mut() = http::StatusCode::from_u16(code).unwrap();
    answer
}

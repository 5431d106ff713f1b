//! What each proxy was sent, took and refused, told in the user's objects.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use parking_lot::Mutex;
use smol_str::{SmolStr, format_smolstr};

pub use super::metrics::DeliveryMetrics;
use super::{
    node::Node,
    per_type::PerType,
    resource::Resource,
    resource_type::ResourceType,
    session::{Event, Response, TypeState},
};

/// Told how far proxies are.
pub trait Observer: fmt::Debug + Send + Sync {
    /// The proxy has answered for all of the view of that generation.
    fn current(&self, proxy: &str, generation: u64);

    /// Its stream has ended.
    fn disconnected(&self, proxy: &str);
}

/// All connected proxies.
#[derive(Debug, Default)]
pub struct Ledger {
    metrics: DeliveryMetrics,
    observer: Option<Arc<dyn Observer>>,
    last: AtomicU64,
    proxies: Mutex<BTreeMap<u64, ProxyStatus>>,
}

/// Where one proxy stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyStatus {
    /// `pod.namespace`
    pub id: SmolStr,
    /// Names the connection: the id and a number.
    pub connection: SmolStr,
    /// What the proxy said of itself.
    pub node: Arc<Node>,
    /// Where it calls from, when that is known.
    pub address: Option<SocketAddr>,
    /// Since when.
    pub connected: Timestamp,
    /// How far it is with each type.
    pub types: PerType<TypeStatus>,
    /// Generation of the newest view that its session works towards.
    pub wanted: u64,
    /// Generation of the newest view for all of which it has answered (removals apart).
    pub current: u64,
    /// What it refused last and still lacks, by type.
    pub rejected: BTreeMap<ResourceType, Rejection>,
}

/// How far a proxy is with one type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TypeStatus {
    /// The nonces.
    pub state: TypeState,
    /// When the last response went.
    pub sent_at: Option<Timestamp>,
}

/// A refusal in the user's terms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// What the proxy said.
    pub error: String,
    /// Envoy's resources.
    pub resources: Vec<SmolStr>,
    /// The objects that they come from (`Kind/namespace/name`), sorted.
    pub objects: Vec<String>,
    /// Whether these are what was refused; else some of them are.
    pub found: bool,
}

/// An object from which something was made that some connected proxy refused and still lacks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refusal {
    /// `Kind/namespace/name`
    pub object: String,
    /// What was made of it.
    pub kind: ResourceType,
    /// What one of the proxies said.
    pub error: String,
}

/// One proxy's line in the ledger; dropping it strikes it out.
#[derive(Debug)]
pub struct Entry {
    ledger: Arc<Ledger>,
    number: u64,
    id: SmolStr,
    version: String,
    noted: (u64, bool, Vec<ResourceType>),
    states: PerType<TypeState>,
    /// Labels of refusals that are shown while the proxy is connected.
    refusals: BTreeSet<(ResourceType, String)>,
}

impl Ledger {
    /// An empty ledger that counts in `metrics`.
    pub fn new(metrics: DeliveryMetrics) -> Self {
        Self { metrics, ..Self::default() }
    }

    /// The same, telling `observer` how far proxies are.
    pub fn observed(metrics: DeliveryMetrics, observer: Arc<dyn Observer>) -> Self {
        Self { metrics, observer: Some(observer), ..Self::default() }
    }

    /// Where the connected proxies stand, in order of connection.
    pub fn proxies(&self) -> Vec<ProxyStatus> {
        self.proxies.lock().values().cloned().collect()
    }

    /// What connected proxies refuse, as far as it is found out, told of each object and type once, sorted.
    pub fn refusals(&self) -> Vec<Refusal> {
        let mut all = BTreeSet::new();
        for status in self.proxies.lock().values() {
            for (kind, rejection) in status.rejected.iter().filter(|(_, rejection)| rejection.found) {
                let of = |object: &String| Refusal { object: object.clone(), kind: *kind, error: rejection.error.clone() };
                all.extend(rejection.objects.iter().map(of));
            }
        }
        let mut all: Vec<Refusal> = all.into_iter().collect();
        all.dedup_by(|a, b| (&a.object, a.kind) == (&b.object, b.kind));
        all
    }

    /// Its counters.
    pub fn metrics(&self) -> &DeliveryMetrics {
        &self.metrics
    }

    /// Opens a line for a proxy that calls from `address`.
    pub fn enter(self: &Arc<Self>, node: &Arc<Node>, address: Option<SocketAddr>) -> Entry {
        let number = self.last.fetch_add(1, Ordering::Relaxed);
        let id = node.proxy.id.clone();
        let status = ProxyStatus {
            id: id.clone(),
            connection: format_smolstr!("{id}-{number}"),
            node: Arc::clone(node),
            address,
            connected: Timestamp::now(),
            types: Default::default(),
            wanted: 0,
            current: 0,
            rejected: BTreeMap::new(),
        };
        self.proxies.lock().insert(number, status);
        let version = match node.istio_version.as_str() {
            "" => "unknown".to_owned(),
            version => version.to_owned(),
        };
        self.metrics.connected.get_or_create(&[("version", version.clone())]).inc();
        let (noted, states) = ((0, false, Vec::new()), PerType::default());
        Entry { ledger: Arc::clone(self), number, id, version, noted, states, refusals: BTreeSet::new() }
    }
}

impl Entry {
    /// Notes a response, and how long it took to make it.
    pub fn sent(&self, response: &Response, took: Duration) {
        let Some(kind) = response.kind else { return };
        let metrics = &self.ledger.metrics;
        let label = [("type", kind.as_str())];
        metrics.pushes.get_or_create(&label).inc();
        metrics.push_time.get_or_create(&label).observe(took.as_secs_f64());
        let bytes: u64 = response.resources.iter().map(|resource| resource.body.len() as u64).sum();
        metrics.bytes.get_or_create(&label).inc_by(bytes);
        metrics.config_size.get_or_create(&label).observe(bytes as f64);
        for (reason, count) in &response.reasons {
            metrics.resources.get_or_create(&[("type", kind.as_str()), ("reason", reason.as_str())]).inc_by(*count);
        }
        if let Some(status) = self.ledger.proxies.lock().get_mut(&self.number) {
            status.types[kind].sent_at = Some(Timestamp::now());
        }
        tracing::debug!(
            proxy = %self.id,
            r#type = kind.as_str(),
            nonce = %response.nonce,
            resources = response.resources.len(),
            removed = response.removed.len(),
            bytes,
            "sent"
        );
    }

    /// Notes how far the proxy is with each type.
    pub fn answered(&mut self, states: PerType<TypeState>) {
        if self.states == states {
            return;
        }
        if let Some(status) = self.ledger.proxies.lock().get_mut(&self.number) {
            status.types.values_mut().zip(states.values()).for_each(|(status, state)| status.state = *state);
        }
        self.states = states;
    }

    /// Notes how far the proxy is, and of which types it has refused something that stands.
    pub fn progress(&mut self, wanted: u64, is_current: bool, refused: &[ResourceType]) {
        let noted = (wanted, is_current, refused.to_vec());
        if self.noted == noted {
            return;
        }
        let advanced = match self.ledger.proxies.lock().get_mut(&self.number) {
            Some(status) => {
                status.rejected.retain(|kind, _| refused.contains(kind));
                status.wanted = wanted;
                let advanced = is_current && status.current != wanted;
                if advanced {
                    status.current = wanted;
                }
                advanced
            }
            None => false,
        };
        if let Some(observer) = self.ledger.observer.as_ref().filter(|_| advanced) {
            observer.current(&self.id, wanted);
        }
        self.noted = noted;
    }

    /// Notes what happened in the conversation.
    pub fn event(&mut self, event: &Event) {
        match event {
            Event::Rejected { kind, code, error, refused, suspects } => {
                self.count_rejection(*kind, *code);
                self.rejected(*kind, error, refused, suspects);
            }
            Event::Expired { kind } => self.ledger.metrics.expired_nonces.get_or_create(&[("type", kind.as_str())]).inc(),
            Event::GateOpened { kind, awaited } => {
                self.ledger.metrics.gates_opened.get_or_create(&[("type", kind.as_str())]).inc();
                let awaited = listed(awaited);
                tracing::warn!(proxy = %self.id, r#type = kind.as_str(), awaited, "no ACK before the deadline: the rollout goes on");
            }
        }
    }

    fn count_rejection(&mut self, kind: ResourceType, code: i32) {
        let metrics = &self.ledger.metrics;
        metrics.rejects.get_or_create(&[("type", kind.as_str())]).inc();
        let code = format!("{:?}", tonic::Code::from_i32(code));
        metrics.rejects_by_proxy[kind].get_or_create(&self.refusal(&code)).inc();
        self.refusals.insert((kind, code));
    }

    fn refusal(&self, code: &str) -> [(&'static str, String); 2] {
        [("node", self.id.to_string()), ("err", code.to_owned())]
    }

    fn rejected(&self, kind: ResourceType, error: &str, refused: &[Arc<Resource>], suspects: &[Arc<Resource>]) {
        let resources: Vec<_> = refused.iter().chain(suspects).map(|resource| resource.name.clone()).collect();
        let mut objects: Vec<_> = refused.iter().chain(suspects).flat_map(|resource| resource.origins.iter()).collect();
        objects.sort_unstable();
        objects.dedup();
        let objects: Vec<_> = objects.into_iter().map(|origin| origin.object.to_string()).collect();
        // Suspects are only counted when they are found out.
        let found = !refused.is_empty();
        if found {
            objects.iter().for_each(|object| {
                self.ledger.metrics.refused_objects.get_or_create(&[("object", object.clone())]).inc();
            });
        }
        tracing::warn!(
            proxy = %self.id,
            r#type = kind.as_str(),
            found,
            resources = listed(&resources),
            objects = listed(&objects),
            error,
            "the proxy refused configuration"
        );
        if let Some(status) = self.ledger.proxies.lock().get_mut(&self.number) {
            status.rejected.insert(kind, Rejection { error: error.into(), resources, objects, found });
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.ledger.proxies.lock().remove(&self.number);
        self.ledger.metrics.connected.get_or_create(&[("version", std::mem::take(&mut self.version))]).dec();
        // Else every pod that ever was would leave a series behind.
        for (kind, code) in &self.refusals {
            self.ledger.metrics.rejects_by_proxy[*kind].remove(&self.refusal(code));
        }
        if let Some(observer) = &self.ledger.observer {
            observer.disconnected(&self.id);
        }
    }
}

/// The first few of a list, and how many more there are.
fn listed<T: AsRef<str>>(items: &[T]) -> String {
    const SHOWN: usize = 10;
    let shown: Vec<_> = items.iter().take(SHOWN).map(AsRef::as_ref).collect();
    let more = items.len().saturating_sub(SHOWN);
    if more == 0 { shown.join(", ") } else { format!("{} and {more} more", shown.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::{Kind, ObjectKey},
        mesh::model::{Origin, Proxy, ProxyKind},
        xds::resource::ContentHash,
    };

    #[test]
    fn a_refusal_is_counted_under_the_users_object() {
        let ledger = Arc::new(Ledger::new(DeliveryMetrics::default()));
        let mut entry = ledger.enter(&Arc::new(Node::from(Arc::new(Proxy::new(ProxyKind::Sidecar, "client.shop")))), None);
        let object =
            ObjectKey { cluster: "Kubernetes".into(), kind: Kind::DestinationRule, namespace: "shop".into(), name: "reviews".into() };
        let resource = Arc::new(Resource {
            kind: ResourceType::Cluster,
            name: "outbound|80||reviews".into(),
            version: ContentHash(1),
            body: Default::default(),
            clusters: Arc::new([]),
            routes: Arc::new([]),
            eds: true,
            origins: Arc::new([Origin { object, generation: 1 }]),
        });
        let rejected =
            |refused: Vec<_>, suspects| Event::Rejected { kind: ResourceType::Cluster, code: 13, error: "no".into(), refused, suspects };
        entry.event(&rejected(vec![], vec![Arc::clone(&resource)]));
        let counter = || ledger.metrics().refused_objects.get_or_create(&[("object", "DestinationRule/shop/reviews".into())]).get();
        assert_eq!(counter(), 0, "a suspect is not guilty");
        assert_eq!(ledger.refusals(), []);
        entry.event(&rejected(vec![resource], vec![]));
        assert_eq!(counter(), 1);
        assert_eq!(ledger.proxies()[0].rejected[&ResourceType::Cluster].objects, ["DestinationRule/shop/reviews"]);
        let refusal = Refusal { object: "DestinationRule/shop/reviews".into(), kind: ResourceType::Cluster, error: "no".into() };
        assert_eq!(ledger.refusals(), [refusal]);
        entry.progress(1, true, &[]);
        assert!(ledger.proxies()[0].rejected.is_empty(), "nothing refused stands");
    }
}

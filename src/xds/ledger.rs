//! What each proxy was sent, took and refused, told in the user's objects.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use smol_str::SmolStr;

use super::{
    node::Node,
    resource::{Resource, ResourceType},
    session::{Event, Response},
};

type Label = [(&'static str, &'static str); 1];
type Labels = [(&'static str, &'static str); 2];

/// Counters of delivery.
#[derive(Clone, Debug, Default)]
pub struct DeliveryMetrics {
    /// Proxies with an open stream.
    pub connected: Gauge,
    /// Responses, by type.
    pub pushes: Family<Label, Counter>,
    /// Bytes of resources sent, by type.
    pub bytes: Family<Label, Counter>,
    /// Resources sent, by type and reason.
    pub resources: Family<Labels, Counter>,
    /// Responses refused, by type.
    pub rejects: Family<Label, Counter>,
    /// How often a proxy refused something that came from an object (`Kind/namespace/name`).
    pub refused_objects: Family<[(&'static str, String); 1], Counter>,
    /// Gates that a deadline opened, by the type whose ACK was awaited.
    pub gates_opened: Family<Label, Counter>,
}

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
    /// Generation of the newest view that its session works towards.
    pub wanted: u64,
    /// Generation of the newest view for all of which it has answered (removals apart).
    pub current: u64,
    /// What it refused last and still lacks, by type.
    pub rejected: BTreeMap<ResourceType, Rejection>,
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
    noted: (u64, bool, Vec<ResourceType>),
}

impl DeliveryMetrics {
    /// Puts the counters under the names that `/metrics` shows (`istiod_lite_xds_*`).
    pub fn register(&self, registry: &mut Registry) {
        registry.register("istiod_lite_xds_connected", "Proxies with an open stream", self.connected.clone());
        registry.register("istiod_lite_xds_pushes", "Responses sent", self.pushes.clone());
        registry.register("istiod_lite_xds_bytes", "Bytes of resources sent", self.bytes.clone());
        registry.register("istiod_lite_xds_resources", "Resources sent, by reason", self.resources.clone());
        registry.register("istiod_lite_xds_rejects", "Responses that proxies refused", self.rejects.clone());
        registry.register("istiod_lite_xds_refused_objects", "Refusals, by the object refused", self.refused_objects.clone());
        registry.register("istiod_lite_xds_gates_opened", "Gates that a deadline opened", self.gates_opened.clone());
    }
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

    /// Opens a line for a proxy.
    pub fn enter(self: &Arc<Self>, node: &Node) -> Entry {
        let number = self.last.fetch_add(1, Ordering::Relaxed);
        let id = node.proxy.id.clone();
        let status = ProxyStatus { id: id.clone(), wanted: 0, current: 0, rejected: BTreeMap::new() };
        self.proxies.lock().insert(number, status);
        self.metrics.connected.inc();
        Entry { ledger: Arc::clone(self), number, id, noted: (0, false, Vec::new()) }
    }
}

impl Entry {
    /// Notes a response.
    pub fn sent(&self, response: &Response) {
        let Some(kind) = response.kind else { return };
        let metrics = &self.ledger.metrics;
        metrics.pushes.get_or_create(&[("type", kind.short())]).inc();
        let bytes = response.resources.iter().map(|resource| resource.body.len() as u64).sum();
        metrics.bytes.get_or_create(&[("type", kind.short())]).inc_by(bytes);
        for (reason, count) in &response.reasons {
            metrics.resources.get_or_create(&[("type", kind.short()), ("reason", reason.label())]).inc_by(*count);
        }
        tracing::debug!(
            proxy = %self.id,
            r#type = kind.short(),
            nonce = %response.nonce,
            resources = response.resources.len(),
            removed = response.removed.len(),
            bytes,
            "sent"
        );
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
    pub fn event(&self, event: &Event) {
        match event {
            Event::Rejected { kind, error, refused, suspects } => self.rejected(*kind, error, refused, suspects),
            Event::GateOpened { kind, awaited } => {
                self.ledger.metrics.gates_opened.get_or_create(&[("type", kind.short())]).inc();
                let awaited = listed(awaited);
                tracing::warn!(proxy = %self.id, r#type = kind.short(), awaited, "no ACK before the deadline: the rollout goes on");
            }
        }
    }

    fn rejected(&self, kind: ResourceType, error: &str, refused: &[Arc<Resource>], suspects: &[Arc<Resource>]) {
        self.ledger.metrics.rejects.get_or_create(&[("type", kind.short())]).inc();
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
            r#type = kind.short(),
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
        self.ledger.metrics.connected.dec();
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
        let mut entry = ledger.enter(&Node { proxy: Arc::new(Proxy::new(ProxyKind::Sidecar, "client.shop")) });
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
        let rejected = |refused: Vec<_>, suspects| Event::Rejected { kind: ResourceType::Cluster, error: "no".into(), refused, suspects };
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

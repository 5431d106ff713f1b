//! Runs a history on a control plane with connected proxies, and holds it against new ones.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use istiod_lite::{
    api::{self, Diagnostic, Object, ObjectKey, Parsed, mesh_config::MeshConfig, yaml},
    mesh::{
        engine::Engine,
        model::{Caller, Flavour, Interception, Proxy, ProxyKind, ProxyPorts},
        world::{Touched, World},
    },
    xds::{
        classes::Classes,
        node::{Node, Proven},
        resource_type::ResourceType,
        view::{Attachment, View, Views},
    },
};

use super::generate::{Event, Step};

/// Proxies that may be connected: their names, addresses, labels, and what else they differ in.
pub(super) const PROXIES: [Connecting; 7] = [
    Connecting { id: "client.shop", ip: [10, 0, 0, 9], app: "client", edit: |_| {} },
    Connecting { id: "a.web", ip: [10, 1, 0, 1], app: "a", edit: |proxy| proxy.flavour = Flavour::Stock },
    Connecting { id: "b.web", ip: [10, 1, 0, 2], app: "b", edit: |proxy| proxy.interception = Interception::None },
    Connecting { id: "client.istio-system", ip: [10, 0, 0, 8], app: "client", edit: |proxy| proxy.ports.unprivileged = true },
    Connecting { id: "twin.shop", ip: [10, 0, 0, 7], app: "client", edit: |proxy| proxy.ips.push([0xfd00, 0, 0, 0, 0, 0, 0, 7].into()) },
    Connecting { id: "edge.shop", ip: [10, 0, 0, 100], app: "edge", edit: |proxy| proxy.kind = ProxyKind::Gateway },
    Connecting { id: "edge.web", ip: [10, 0, 0, 101], app: "edge", edit: |proxy| proxy.kind = ProxyKind::Gateway },
];

/// A proxy that may be connected.
pub(super) struct Connecting {
    id: &'static str,
    ip: [u8; 4],
    app: &'static str,
    edit: fn(&mut Proxy),
}

/// A control plane, its proxies, and what its sources hold.
struct Plane {
    engine: Engine,
    classes: Classes,
    connected: BTreeMap<usize, (Arc<Node>, Attachment)>,
    held: BTreeMap<ObjectKey, Held>,
}

struct Held {
    object: Arc<Object>,
    /// Whether it is only what holds of a refused object.
    remnant: bool,
}

/// What a history came to.
pub(super) struct Outcome {
    /// How many of its steps changed what some proxy has.
    pub(super) changes: usize,
    /// The first thing that was not as it should be.
    pub(super) fault: Option<String>,
}

/// Runs a history.
pub(super) fn run(history: &[Step]) -> Outcome {
    let mut plane = Plane::new();
    let mut changes = 0;
    for (at, step) in history.iter().enumerate() {
        let before = plane.contents();
        plane.apply(step);
        changes += usize::from(plane.contents() != before);
        if let Some(fault) = plane.fault() {
            return Outcome { changes, fault: Some(format!("step {at}: {fault}")) };
        }
    }
    Outcome { changes, fault: plane.fault_against_a_new_engine() }
}

impl Plane {
    fn new() -> Self {
        let engine = Engine::new("cluster.local", MeshConfig::default());
        Self { engine, classes: Classes::default(), connected: BTreeMap::new(), held: BTreeMap::new() }
    }

    fn apply(&mut self, step: &Step) {
        let mut changes = Vec::new();
        for event in step {
            match event {
                Event::Written(document) => changes.extend(self.write(document)),
                Event::Removed(document) => changes.extend(self.remove(document)),
                Event::Connected(proxy) => {
                    let node = Arc::new(Node::from(Arc::new(PROXIES[*proxy].proxy())));
                    let attachment = self.classes.attach(&Proven::new(Arc::clone(&node), Caller::Anonymous).unwrap());
                    self.connected.insert(*proxy, (node, attachment));
                }
                Event::Left(proxy) => drop(self.connected.remove(proxy)),
            }
        }
        let applied = self.engine.apply(changes);
        self.classes.prepare(applied.world, &applied.touched).send();
    }

    /// Returns what a source passes on of a document: as in `source::kubernetes::cache`, what is refused leaves the last good
    /// version, and without one what holds of it.
    fn write(&mut self, document: &str) -> Vec<(ObjectKey, Option<Arc<Object>>)> {
        let parsed = parsed(document);
        let mut changes = Vec::new();
        for object in parsed.objects {
            self.held.insert(object.key.clone(), Held { object: Arc::clone(&object), remnant: false });
            changes.push((object.key.clone(), Some(object)));
        }
        for refused in parsed.refused {
            if self.held.get(&refused.key).is_some_and(|held| !held.remnant) {
                continue;
            }
            let object = refused.remnant.map(|remnant| remnant.object);
            match &object {
                Some(object) => drop(self.held.insert(refused.key.clone(), Held { object: Arc::clone(object), remnant: true })),
                None => drop(self.held.remove(&refused.key)),
            }
            changes.push((refused.key, object));
        }
        changes
    }

    fn remove(&mut self, document: &str) -> Vec<(ObjectKey, Option<Arc<Object>>)> {
        let parsed = parsed(document);
        let keys = parsed.objects.iter().map(|object| object.key.clone()).chain(parsed.refused.into_iter().map(|refused| refused.key));
        keys.filter(|key| self.held.remove(key).is_some()).map(|key| (key, None)).collect()
    }

    fn contents(&self) -> Vec<Content> {
        self.connected.values().map(|(_, views)| content(&views.borrow())).collect()
    }

    /// Returns what the connected proxies have that new ones would not, or the other way round.
    fn fault(&self) -> Option<String> {
        let fresh = classes_of(self.engine.world());
        self.differing(&fresh).or_else(|| {
            let told: BTreeSet<Diagnostic> = self.connected.values().flat_map(|(node, _)| fresh.findings_for(&node.proxy)).collect();
            let findings = self.classes.findings().borrow().clone();
            (findings != told).then(|| {
                let (only, lost): (Vec<_>, Vec<_>) = (findings.difference(&told).collect(), told.difference(&findings).collect());
                format!("findings: told {only:?}, not told {lost:?}")
            })
        })
    }

    /// Returns what they have that they would not if the control plane had only ever known what there is at the end.
    fn fault_against_a_new_engine(&self) -> Option<String> {
        let mut engine = Engine::new("cluster.local", MeshConfig::default());
        let objects: Vec<_> = self.held.values().rev().map(|held| (held.object.key.clone(), Some(Arc::clone(&held.object)))).collect();
        // In an order and in batches that the history did not have.
        for batch in objects.chunks(3) {
            engine.apply(batch.to_vec());
        }
        let fault = self.differing(&classes_of(engine.world()));
        fault.map(|fault| format!("against a new engine: {fault}"))
    }

    fn differing(&self, fresh: &Classes) -> Option<String> {
        self.connected.values().find_map(|(node, views)| {
            let (has, should) = (content(&views.borrow()), content(&fresh.view_for(&node.proxy)));
            let names: BTreeSet<_> = has.keys().chain(should.keys()).filter(|key| has.get(*key) != should.get(*key)).collect();
            (!names.is_empty()).then(|| format!("{} has something else than a new proxy: {names:?}", node.proxy.id))
        })
    }
}

fn parsed(document: &str) -> Parsed {
    api::parse(&yaml::document(yaml::documents(document)[0]).unwrap(), &"Kubernetes".into())
}

type Content = BTreeMap<(&'static str, String), String>;

/// Returns the content of a view by type and name.
fn content(view: &View) -> Content {
    let all = ResourceType::ALL.into_iter().flat_map(|kind| view.iter(kind).map(move |resource| (kind, resource)));
    all.map(|(kind, resource)| ((kind.as_str(), resource.name.to_string()), format!("{:?}", resource.version))).collect()
}

fn classes_of(world: &Arc<World>) -> Classes {
    let classes = Classes::default();
    classes.prepare(Arc::clone(world), &Touched { everything: true, ..Touched::default() }).send();
    classes
}

impl Connecting {
    fn proxy(&self) -> Proxy {
        let labels = Arc::new([("app".into(), self.app.into())].into());
        let mut proxy = Proxy { ips: vec![self.ip.into()], labels, ports: ProxyPorts::USUAL, ..Proxy::new(ProxyKind::Sidecar, self.id) };
        (self.edit)(&mut proxy);
        proxy
    }
}

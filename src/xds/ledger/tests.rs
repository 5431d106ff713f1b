use std::mem::size_of;

use super::*;
use crate::{
    api::Kind,
    mesh::model::{Origin, Proxy, ProxyKind, SpiffeId},
    xds::{
        node::Node,
        resource::{ContentHash, Resource},
        resource_type::ResourceType,
        session::{
            Refused,
            tests::{resource, view},
        },
    },
};

fn clock() -> Clock {
    Arc::new(|| Timestamp::UNIX_EPOCH)
}

fn enter(ledger: &Arc<Ledger>, proxy: &str) -> Entry {
    let identity = SpiffeId { trust_domain: "td".into(), namespace: "shop".into(), service_account: "default".into() };
    enter_as(ledger, proxy, Caller::Workload(identity))
}

fn enter_as(ledger: &Arc<Ledger>, proxy: &str, caller: Caller) -> Entry {
    let node = Arc::new(Node::from(Arc::new(Proxy::new(ProxyKind::Sidecar, proxy))));
    ledger.enter(&Proven::new(node, caller).unwrap(), None, &clock())
}

fn object(name: &str) -> ObjectKey {
    ObjectKey { cluster: "Kubernetes".into(), kind: Kind::DestinationRule, namespace: "shop".into(), name: name.into() }
}

/// Returns a cluster that is made of the object of the same name.
fn cluster(name: &str, generation: i64) -> Resource {
    let origins = Arc::new([Origin { object: object(name), generation }]);
    Resource { origins, version: ContentHash(generation as u64), ..resource(ResourceType::Cluster, name, 1) }
}

impl Entry {
    fn tell(&self, event: Event) {
        self.record(&event, Timestamp::UNIX_EPOCH);
    }

    /// Lets the proxy take all clusters of a view, in one response.
    fn take(&self, view: &crate::xds::view::View) {
        let kind = ResourceType::Cluster;
        self.tell(Event::Completed { kind, view: view.clone() });
        self.tell(Event::Acked { kind, nonce: 1, items: view.iter(kind).cloned().collect() });
        self.tell(Event::Current { generation: view.generation });
    }

    fn refuse(&self, refused: &Arc<Resource>) {
        let (kind, refused) = (refused.kind, vec![Arc::clone(refused)]);
        let items = refused.iter().map(|resource| Refused { resource: Arc::clone(resource), error: "no".into() }).collect();
        self.tell(Event::Rejected { kind, code: 13, error: "no".into(), refused, suspects: vec![] });
        self.tell(Event::Refusing { kind, items });
    }
}

#[test]
fn a_refusal_is_counted_under_the_users_object_for_as_long_as_it_stands() {
    let ledger = Arc::new(Ledger::new(DeliveryMetrics::default()));
    let (entry, other) = (enter(&ledger, "client.shop"), enter(&ledger, "other.shop"));
    let resource = Arc::new(cluster("reviews", 1));
    let mut refused = ledger.refused_objects().subscribe();
    let label = [("object", "DestinationRule/shop/reviews".to_owned())];
    let counter = || ledger.metrics().refused_objects.get(&label).map(|counter| counter.get());
    let kind = ResourceType::Cluster;
    entry.tell(Event::Rejected { kind, code: 13, error: "no".into(), refused: vec![], suspects: vec![Arc::clone(&resource)] });
    assert_eq!(counter(), None, "a suspect is not guilty");
    assert!(!refused.has_changed().unwrap());
    entry.refuse(&resource);
    assert_eq!(counter(), Some(1));
    assert_eq!(ledger.proxies()[0].rejected[&kind].origins[..], resource.origins[..]);
    let refusal = Refusal { object: object("reviews"), kind, error: "no".into() };
    assert_eq!(refused.borrow_and_update()[..], [refusal]);
    other.refuse(&resource);
    assert_eq!(counter(), Some(2));
    assert!(!refused.has_changed().unwrap(), "nothing new of the object");
    entry.tell(Event::Refusing { kind, items: Arc::default() });
    assert!(ledger.proxies()[0].rejected.is_empty(), "nothing refused stands");
    assert_eq!(counter(), Some(2), "the other proxy still refuses it");
    drop(other);
    assert_eq!(counter(), None, "nobody is left who refuses it");
    assert_eq!(refused.borrow_and_update()[..], []);
}

#[test]
fn what_somebody_refuses_who_has_proven_nothing_is_blamed_on_no_object() {
    let ledger = Arc::new(Ledger::new(DeliveryMetrics::default()));
    let (proven, stranger) = (enter(&ledger, "client.shop"), enter_as(&ledger, "stranger.shop", Caller::Anonymous));
    let refused = ledger.refused_objects().subscribe();
    let world = view(1, [cluster("reviews", 1)]);
    for entry in [&proven, &stranger] {
        entry.tell(Event::Turned { view: world.clone() });
    }
    stranger.refuse(world.get(ResourceType::Cluster, "reviews").unwrap());
    let metrics = ledger.metrics();
    let counted = [&metrics.rejects, &metrics.unproven_rejects].map(|family| family.get_or_create(&[("type", "cds")]).get());
    assert_eq!(counted, [0, 1], "it is counted apart");
    let label = [("object", "DestinationRule/shop/reviews".to_owned())];
    let by_proxy = [("node", "stranger.shop".to_owned()), ("err", "Internal".to_owned())];
    assert!(metrics.refused_objects.get(&label).is_none() && metrics.rejects_by_proxy[ResourceType::Cluster].get(&by_proxy).is_none());
    assert!(refused.borrow().is_empty());
    let progress = ledger.progress(&object("reviews"));
    assert_eq!((progress.proxies, progress.refused_by.len()), (1, 0), "nothing waits for it");
    assert!(!ledger.proxies()[1].rejected.is_empty(), "what it said is still seen of the proxy itself");
}

#[test]
fn what_was_refused_and_replaced_is_forgotten_with_the_next_answer() {
    let ledger = Arc::new(Ledger::new(DeliveryMetrics::default()));
    let entry = enter(&ledger, "client.shop");
    let (kind, refused) = (ResourceType::Cluster, vec![Arc::new(cluster("reviews", 1))]);
    entry.tell(Event::Rejected { kind, code: 13, error: "no".into(), refused, suspects: vec![] });
    let label = [("object", "DestinationRule/shop/reviews".to_owned())];
    assert!(ledger.metrics().refused_objects.get(&label).is_some());
    entry.take(&view(2, [cluster("reviews", 2)]));
    assert!(ledger.metrics().refused_objects.get(&label).is_none());
    assert!(ledger.proxies()[0].rejected.is_empty());
}

#[test]
fn progress_counts_proxies_by_the_generation_that_they_acknowledged() {
    let ledger = Arc::new(Ledger::new(DeliveryMetrics::default()));
    let proxies: Vec<_> = ["a.shop", "b.shop", "c.shop", "d.shop"].into_iter().map(|proxy| enter(&ledger, proxy)).collect();
    let old = view(1, [cluster("reviews", 1), cluster("ratings", 1)]);
    let new = view(2, [cluster("reviews", 2), cluster("ratings", 1)]);
    for proxy in &proxies[..3] {
        proxy.tell(Event::Turned { view: old.clone() });
        proxy.take(&old);
    }
    proxies.iter().for_each(|proxy| proxy.tell(Event::Turned { view: new.clone() }));
    let progress = |name: &str| ledger.progress(&object(name));
    let counts = |progress: &Progress| progress.acknowledged.iter().map(|(generation, count)| (*generation, *count)).collect::<Vec<_>>();
    assert_eq!((progress("reviews").proxies, counts(&progress("reviews"))), (4, vec![(1, 3)]));
    assert_eq!((progress("ratings").proxies, counts(&progress("ratings"))), (4, vec![(1, 3)]), "d has answered for nothing");
    proxies[0].take(&new);
    // Of the new view, b has acknowledged this much.
    let items = vec![Arc::clone(new.get(ResourceType::Cluster, "reviews").unwrap())];
    proxies[1].tell(Event::Acked { kind: ResourceType::Cluster, nonce: 2, items });
    proxies[2].refuse(new.get(ResourceType::Cluster, "reviews").unwrap());
    let reviews = progress("reviews");
    assert_eq!((reviews.proxies, counts(&reviews)), (4, vec![(2, 2)]));
    assert_eq!(reviews.refused_by.keys().collect::<Vec<_>>(), ["c.shop"]);
    assert_eq!(progress("nothing"), Progress::default());
}

#[test]
fn what_a_proxy_acknowledged_of_one_resource_is_known() {
    let ledger = Arc::new(Ledger::new(DeliveryMetrics::default()));
    let (old, new) = (view(1, [cluster("reviews", 1)]), view(2, [cluster("reviews", 2)]));
    let (proxy, kind) = (enter(&ledger, "a.shop"), ResourceType::Cluster);
    let said = || ledger.acknowledged(kind, "reviews").into_values().next();
    let of = |view: &crate::xds::view::View| Arc::clone(view.get(kind, "reviews").unwrap());
    proxy.take(&old);
    assert_eq!(said(), None, "it does not ask for the type");
    proxy.tell(Event::Subscribed { kind });
    assert_eq!(said(), Some(Acknowledged::Taken(of(&old))));
    proxy.tell(Event::Turned { view: new.clone() });
    assert_eq!(said(), Some(Acknowledged::Taken(of(&old))), "it has not answered yet");
    proxy.refuse(&of(&new));
    assert_eq!(said(), Some(Acknowledged::Refused));
    proxy.tell(Event::Refusing { kind, items: Arc::default() });
    proxy.tell(Event::Acked { kind, nonce: 2, items: vec![of(&new)] });
    assert_eq!(said(), Some(Acknowledged::Taken(of(&new))));
    assert_eq!(ledger.acknowledged(kind, "ratings").len(), 0);
}

/// Checks that what the ledger keeps for a proxy does not depend on how many objects there are: 1,000 proxies with 500
/// resources each refer to one view.
#[test]
fn a_proxy_costs_the_same_however_many_objects_there_are() {
    const PROXIES: usize = 1_000;
    const OBJECTS: usize = 500;
    let ledger = Arc::new(Ledger::new(DeliveryMetrics::default()));
    let shared = view(1, (0..OBJECTS).map(|n| cluster(&format!("c{n}"), 1)));
    let entries: Vec<_> = (0..PROXIES).map(|n| enter(&ledger, &format!("client-{n}.shop"))).collect();
    for entry in &entries {
        entry.tell(Event::Turned { view: shared.clone() });
        entry.take(&shared);
    }
    assert_eq!(ledger.progress(&object("c7")).acknowledged, [(1, PROXIES)].into());
    let listed = || ledger.rows.iter().map(|row| row.entries()).sum::<usize>();
    assert_eq!(listed(), 0, "nothing is kept by proxy and object");
    assert!(shared.iter(ResourceType::Cluster).all(|resource| Arc::strong_count(resource) == 1), "not even a reference");
    assert!(size_of::<row::Row>() <= 840, "{} bytes for a proxy", size_of::<row::Row>());
    // What deviates is kept, by whom it does.
    entries[3].refuse(shared.get(ResourceType::Cluster, "c7").unwrap());
    assert_eq!(listed(), 2, "what is refused, and what was said of it last");
    assert_eq!(ledger.progress(&object("c7")).acknowledged, [(1, PROXIES - 1)].into());
    assert_eq!(ledger.progress(&object("c7")).refused_by.len(), 1);
}

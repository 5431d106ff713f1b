//! A client that behaves as Envoy does, for property tests: whatever happens on the way, in the end it has the view.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use envoy_types::pb::{
    envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest},
    google::rpc,
};
use jiff::Timestamp;
use proptest::prelude::*;
use smol_str::SmolStr;

use super::{
    Delta, Response, Session, Settings, Sotw,
    protocol::Protocol,
    tests::{cluster, contents_of_hosts, endpoint, listener, route, route_of_hosts, view},
};
use crate::{
    clock::Clock,
    mesh::model::{Caller, Proxy, ProxyKind},
    xds::{
        bounds::Bounds,
        ledger::{Entry, Ledger},
        metrics::DeliveryMetrics,
        node::{Node, Proven},
        per_type::PerType,
        resource::Resource,
        resource_type::ResourceType,
        view::View,
    },
};

use ResourceType::{Cluster, Endpoint, Listener, Route};

const SETTINGS: Settings = Settings { ordered: true, gate: Duration::from_secs(5), drain: Duration::from_secs(3) };

/// What is in a view: for each backend its cluster's and its endpoints' content, and which backends the routes use.
#[derive(Clone, Debug)]
pub(super) struct World {
    backends: BTreeMap<u8, (u64, u64)>,
    listeners: u8,
    picks: Vec<u8>,
    /// The contents of the virtual hosts of each route table.
    hosts: Vec<BTreeMap<u8, u64>>,
}

#[derive(Clone, Debug)]
enum Happening {
    World(World),
    /// The client reads so many responses.
    Read(u8),
    /// So many of the client's requests reach the server.
    Deliver(u8),
    /// The server says what it can.
    Speak,
    /// Milliseconds pass.
    Pass(u16),
    Reconnect,
}

/// Speaks a protocol for the model.
trait Dialect: Protocol {
    /// Makes a first request; `held` are versions from an earlier connection.
    fn open(client: &Store, kind: ResourceType) -> Self::Request;
    fn change(client: &Store, kind: ResourceType, added: Vec<String>, removed: Vec<String>) -> Self::Request;
    fn answer(client: &Store, response: &Response, error: Option<String>) -> Self::Request;
    /// Returns the names that a response takes away.
    fn removed(client: &Store, response: &Response) -> Vec<SmolStr>;
}

/// What the client keeps across connections.
#[derive(Debug, Default)]
struct Store {
    held: PerType<BTreeMap<SmolStr, Arc<Resource>>>,
    asked: PerType<BTreeSet<SmolStr>>,
    warming: BTreeSet<SmolStr>,
    versions: PerType<SmolStr>,
    nonces: PerType<SmolStr>,
    /// The client refuses these contents, naming them or not.
    bad: BTreeSet<u64>,
    names_errors: bool,
}

struct Model<P: Dialect> {
    session: Session<P>,
    ledger: Arc<Ledger>,
    entry: Entry,
    store: Store,
    now: Instant,
    view: View,
    to_client: VecDeque<Response>,
    to_server: VecDeque<P::Request>,
    withheld: Vec<P::Request>,
    paused_open: bool,
    /// No deadline passed, nothing was refused, no connection was lost: no route may ever name a missing cluster.
    strict: bool,
}

impl World {
    /// Returns a world of these backends and so many listeners.
    pub(super) fn of(backends: &[u8], listeners: u8) -> Self {
        let backends = backends.iter().map(|backend| (*backend, (1, 11))).collect();
        Self { backends, listeners, picks: vec![0, 1, 2], hosts: Vec::new() }
    }

    pub(super) fn resources(&self) -> Vec<Resource> {
        let name = |backend: &u8| format!("c{backend}");
        let mut all = Vec::new();
        for (backend, (content, endpoints)) in &self.backends {
            all.push(cluster(&name(backend), *content));
            all.push(endpoint(&name(backend), *endpoints));
        }
        let known: Vec<_> = self.backends.keys().collect();
        for number in 0..self.listeners {
            let picked = self.picks.get(usize::from(number)).filter(|_| !known.is_empty());
            let clusters: Vec<_> = picked.map(|pick| name(known[usize::from(*pick) % known.len()])).into_iter().collect();
            let clusters: Vec<_> = clusters.iter().map(String::as_str).collect();
            let content = clusters.iter().map(|name| name.bytes().map(u64::from).sum::<u64>()).sum::<u64>() + 1000;
            let table = format!("r{number}");
            // Odd listeners name their cluster themselves, even ones by a route table.
            if number % 2 == 0 {
                let own = listener(&format!("l{number}"), 7, &[]);
                all.push(Resource { references: Arc::new([(Route, table.as_str().into())]), ..own });
                let hosts = self.hosts.get(usize::from(number / 2)).filter(|hosts| !hosts.is_empty() && !known.is_empty());
                let host = |(host, content): (&u8, &u64)| (format!("h{host}"), *content, name(known[*content as usize % known.len()]));
                all.push(match hosts {
                    Some(hosts) => route_of_hosts(&table, &hosts.iter().map(host).collect::<Vec<_>>()),
                    None => route(&table, content, &clusters),
                });
            } else {
                all.push(listener(&format!("l{number}"), content, &clusters));
            }
        }
        all
    }
}

fn enter(ledger: &Arc<Ledger>) -> Entry {
    let clock: Clock = Arc::new(|| Timestamp::UNIX_EPOCH);
    let node = Arc::new(Node::from(Arc::new(Proxy::new(ProxyKind::Sidecar, "web-1.shop"))));
    ledger.enter(&Proven::new(node, Caller::Anonymous).unwrap(), None, &clock)
}

impl<P: Dialect> Model<P> {
    fn new(store: Store) -> Self {
        let strict = store.bad.is_empty();
        let view = View::default();
        let ledger = Arc::new(Ledger::new(DeliveryMetrics::default()));
        let mut model = Self {
            session: Session::new(SETTINGS, Bounds::default(), view.clone(), &Arc::default()),
            entry: enter(&ledger),
            ledger,
            store,
            now: Instant::now(),
            view,
            to_client: VecDeque::new(),
            to_server: VecDeque::new(),
            withheld: Vec::new(),
            paused_open: false,
            strict,
        };
        model.connect();
        model
    }

    fn connect(&mut self) {
        self.session = Session::new(SETTINGS, Bounds::default(), self.view.clone(), &Arc::default());
        self.entry = enter(&self.ledger);
        self.to_client.clear();
        self.to_server.clear();
        self.withheld.clear();
        self.store.nonces = Default::default();
        self.paused_open = !self.store.warming.is_empty();
        for kind in ResourceType::in_views() {
            let silent = !kind.is_wildcard() && self.store.asked[kind].is_empty();
            if !(silent || kind == Cluster && self.paused_open) {
                self.to_server.push_back(P::open(&self.store, kind));
            }
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::World(world) => {
                self.view = view(self.view.generation + 1, world.resources());
                self.session.on_view(self.view.clone());
            }
            Happening::Read(count) => (0..count).for_each(|_| self.read()),
            Happening::Deliver(count) => (0..count).for_each(|_| self.deliver()),
            Happening::Speak => self.speak(),
            Happening::Pass(milliseconds) => {
                self.strict = false;
                self.now += Duration::from_millis(milliseconds.into());
            }
            Happening::Reconnect => {
                self.strict = false;
                self.connect();
            }
        }
    }

    fn deliver(&mut self) {
        if let Some(request) = self.to_server.pop_front() {
            self.session.on_request(request, self.now).unwrap();
        }
    }

    fn speak(&mut self) {
        let mut said = 0;
        while let Some(response) = self.session.next(self.now) {
            self.to_client.push_back(response);
            said += 1;
            assert!(said < 1000, "the server does not come to an end");
        }
        for event in self.session.take_events() {
            self.entry.record(&event, Timestamp::UNIX_EPOCH);
        }
    }

    fn read(&mut self) {
        let Some(response) = self.to_client.pop_front() else { return };
        let kind = response.kind.unwrap();
        let bad = |resource: &Arc<Resource>| self.store.refuses(resource);
        let refused: Vec<_> = response.resources.iter().filter(|resource| bad(resource)).map(|resource| resource.name.clone()).collect();
        self.store.nonces[kind] = response.nonce.clone();
        // Envoy applies the rest where it can tell the resources apart, and nothing otherwise.
        let partly = self.store.names_errors && kind.is_wildcard();
        if refused.is_empty() || partly {
            self.apply(kind, &response, &refused);
        }
        if refused.is_empty() {
            self.store.versions[kind] = response.version.clone();
        }
        let error = (!refused.is_empty()).then(|| if partly { format!("cannot add {}: bad", refused.join(", ")) } else { "bad".into() });
        let answer = P::answer(&self.store, &response, error);
        self.withheld_or_sent(kind, answer);
        if self.strict {
            self.assert_no_dangling_route();
        }
    }

    fn withheld_or_sent(&mut self, kind: ResourceType, answer: P::Request) {
        if kind == Cluster {
            self.withheld.push(answer);
        } else {
            self.to_server.push_back(answer);
        }
        if self.store.warming.is_empty() {
            self.to_server.extend(self.withheld.drain(..));
            if std::mem::take(&mut self.paused_open) {
                self.to_server.push_back(P::open(&self.store, Cluster));
            }
        }
    }

    fn apply(&mut self, kind: ResourceType, response: &Response, refused: &[SmolStr]) {
        for name in P::removed(&self.store, response) {
            // Envoy does not take endpoints or route tables away by name.
            if kind.is_wildcard() {
                self.store.held[kind].remove(&name);
            }
            // A cluster is warm when it is told that there are no endpoints.
            if matches!(kind, Cluster | Endpoint) {
                self.store.warming.remove(&name);
            }
        }
        for resource in response.resources.iter().filter(|resource| !refused.contains(&resource.name)) {
            let before = self.store.held[kind].insert(resource.name.clone(), resource.clone());
            match kind {
                Cluster if before.is_none_or(|before| before.version != resource.version) => {
                    self.store.warming.insert(resource.name.clone());
                }
                Endpoint => drop(self.store.warming.remove(&resource.name)),
                _ => {}
            }
        }
        match kind {
            Cluster => {
                let clusters = self.store.held[Cluster].keys().cloned().collect();
                self.ask(Endpoint, clusters);
            }
            Listener => {
                let tables = self.store.held[Listener].values().flat_map(|listener| listener.references_to(Route).cloned()).collect();
                self.ask(Route, tables);
            }
            _ => {}
        }
    }

    fn ask(&mut self, kind: ResourceType, names: BTreeSet<SmolStr>) {
        let asked = std::mem::replace(&mut self.store.asked[kind], names.clone());
        let added: Vec<String> = names.difference(&asked).map(ToString::to_string).collect();
        let removed: Vec<String> = asked.difference(&names).map(ToString::to_string).collect();
        self.store.held[kind].retain(|name, _| names.contains(name));
        if added.is_empty() && removed.is_empty() {
            return;
        }
        if !removed.is_empty() {
            // State of the world cannot tell, after a reconnect, that a name was given up and taken up in between.
            self.store.versions[kind] = SmolStr::default();
        }
        self.to_server.push_back(P::change(&self.store, kind, added, removed));
    }

    fn assert_no_dangling_route(&self) {
        let clusters = &self.store.held[Cluster];
        for resource in self.store.held[Listener].values().chain(self.store.held[Route].values()) {
            for name in resource.references_to(Cluster) {
                assert!(clusters.contains_key(name), "{} names {name}, which is not there", resource.name);
            }
        }
    }

    // What is refused stays as it was, and nothing else does.
    fn assert_has_all_but_bad_hosts(&self, held: &Resource, wanted: &Resource) {
        let (held, mut expected) = (contents_of_hosts(held), contents_of_hosts(wanted));
        for (host, content) in expected.clone().into_iter().filter(|(_, content)| self.store.bad.contains(content)) {
            assert_ne!(held.get(&host), Some(&content));
            expected.remove(&host);
            expected.extend(held.get(&host).map(|earlier| (host, *earlier)));
        }
        assert_eq!(held, expected);
    }

    fn settle(&mut self) {
        let mut steps = 0;
        for _ in 0..200 {
            self.speak();
            while !self.to_client.is_empty() || !self.to_server.is_empty() {
                steps += 1;
                assert!(steps < 400, "the two never stop talking");
                self.read();
                self.deliver();
                self.speak();
            }
            match self.session.deadline() {
                Some(at) => self.now = self.now.max(at),
                None => return,
            }
        }
        panic!("it does not come to rest");
    }

    fn assert_has_view(&self) {
        if self.paused_open || !self.withheld.is_empty() {
            // It refuses the endpoints that it waits for, and so does not speak of clusters any more.
            assert!(!self.store.bad.is_empty());
            return;
        }
        for kind in ResourceType::in_views() {
            let held = &self.store.held[kind];
            let wanted: BTreeMap<_, _> = self.view.iter(kind).map(|resource| (resource.name.clone(), resource.clone())).collect();
            for (name, resource) in &wanted {
                let asked = kind.is_wildcard() || self.store.asked[kind].contains(name);
                if let Some(held) = held.get(name).filter(|_| !resource.virtual_hosts.is_empty() && self.store.refuses(resource)) {
                    self.assert_has_all_but_bad_hosts(held, resource);
                    continue;
                }
                let excused = self.store.refuses(resource) && resource.virtual_hosts.is_empty();
                let version = held.get(name).map(|resource| resource.version);
                assert!(!asked || excused || version == Some(resource.version), "{kind:?} {name}: {version:?}, not {resource:?}");
            }
            if self.store.bad.is_empty() && kind.is_wildcard() {
                assert_eq!(held.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>());
            }
        }
        let refused = self.ledger.proxies()[0].rejected.get(&Route).is_some_and(|rejection| rejection.found);
        let is_bad = |table: &Arc<Resource>| self.store.asked[Route].contains(&table.name) && self.store.refuses(table);
        assert_eq!(refused, self.view.iter(Route).any(is_bad), "what is refused is said, and nothing else");
        if self.store.bad.is_empty() {
            assert_eq!(self.store.warming, BTreeSet::new(), "clusters that wait for endpoints");
            let proxies = self.ledger.proxies();
            assert_eq!(proxies.len(), 1, "an earlier connection is struck out");
            assert_eq!((proxies[0].wanted, proxies[0].current), (self.view.generation, self.view.generation), "as the ledger has it");
            assert!(proxies[0].rejected.is_empty());
        }
    }
}

impl Store {
    fn refuses(&self, resource: &Resource) -> bool {
        let content = resource.body[..].try_into().map(u64::from_le_bytes).unwrap_or_default();
        self.bad.contains(&content) || contents_of_hosts(resource).values().any(|content| self.bad.contains(content))
    }
}

impl Dialect for Delta {
    fn open(client: &Store, kind: ResourceType) -> DeltaDiscoveryRequest {
        let held = &client.held[kind];
        DeltaDiscoveryRequest {
            type_url: kind.type_url().into(),
            resource_names_subscribe: client.asked[kind].iter().map(ToString::to_string).collect(),
            initial_resource_versions: held
                .iter()
                .map(|(name, resource)| (name.to_string(), resource.version.to_string()))
                .collect::<HashMap<_, _>>(),
            ..DeltaDiscoveryRequest::default()
        }
    }

    fn change(_: &Store, kind: ResourceType, added: Vec<String>, removed: Vec<String>) -> DeltaDiscoveryRequest {
        DeltaDiscoveryRequest {
            type_url: kind.type_url().into(),
            resource_names_subscribe: added,
            resource_names_unsubscribe: removed,
            ..DeltaDiscoveryRequest::default()
        }
    }

    fn answer(_: &Store, response: &Response, error: Option<String>) -> DeltaDiscoveryRequest {
        DeltaDiscoveryRequest {
            type_url: response.type_url.to_string(),
            response_nonce: response.nonce.to_string(),
            error_detail: error.map(|message| rpc::Status { message, ..rpc::Status::default() }),
            ..DeltaDiscoveryRequest::default()
        }
    }

    fn removed(_: &Store, response: &Response) -> Vec<SmolStr> {
        response.removed.clone()
    }
}

impl Dialect for Sotw {
    fn open(client: &Store, kind: ResourceType) -> DiscoveryRequest {
        DiscoveryRequest {
            type_url: kind.type_url().into(),
            version_info: client.versions[kind].to_string(),
            resource_names: client.asked[kind].iter().map(ToString::to_string).collect(),
            response_nonce: client.nonces[kind].to_string(),
            ..DiscoveryRequest::default()
        }
    }

    fn change(client: &Store, kind: ResourceType, _: Vec<String>, _: Vec<String>) -> DiscoveryRequest {
        Self::open(client, kind)
    }

    fn answer(client: &Store, response: &Response, error: Option<String>) -> DiscoveryRequest {
        DiscoveryRequest {
            response_nonce: response.nonce.to_string(),
            error_detail: error.map(|message| rpc::Status { message, ..rpc::Status::default() }),
            ..Self::open(client, response.kind.unwrap())
        }
    }

    fn removed(client: &Store, response: &Response) -> Vec<SmolStr> {
        let kind = response.kind.unwrap();
        let said: BTreeSet<_> = response.resources.iter().map(|resource| &resource.name).collect();
        let gone = client.held[kind].keys().filter(|name| !said.contains(name));
        if kind.is_wildcard() { gone.cloned().collect() } else { Vec::new() }
    }
}

pub(super) fn world() -> impl Strategy<Value = World> {
    let backends = prop::collection::btree_map(0..5_u8, (1..4_u64, 11..14_u64), 0..5);
    let hosts = prop::collection::vec(prop::collection::btree_map(0..6_u8, 1..8_u64, 0..6), 2);
    let parts = (backends, 0..4_u8, prop::collection::vec(0..5_u8, 4), hosts);
    parts.prop_map(|(backends, listeners, picks, hosts)| World { backends, listeners, picks, hosts })
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        3 => world().prop_map(Happening::World),
        4 => (1..4_u8).prop_map(Happening::Read),
        4 => (1..4_u8).prop_map(Happening::Deliver),
        4 => Just(Happening::Speak),
        1 => (1..8000_u16).prop_map(Happening::Pass),
        1 => Just(Happening::Reconnect),
    ]
}

fn calm() -> impl Strategy<Value = Happening> {
    happening().prop_filter("no time, no loss", |happening| !matches!(happening, Happening::Pass(_) | Happening::Reconnect))
}

fn run<P: Dialect>(store: Store, happenings: Vec<Happening>) {
    let mut model = Model::<P>::new(store);
    happenings.into_iter().for_each(|happening| model.happen(happening));
    model.settle();
    model.assert_has_view();
}

fn refusing(bad: BTreeSet<u64>, names_errors: bool) -> Store {
    Store { bad, names_errors, ..Store::default() }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(200)) })]

    #[test]
    fn delta_ends_with_the_view_and_no_route_ever_dangles(happenings in prop::collection::vec(calm(), 0..60)) {
        run::<Delta>(Store::default(), happenings);
    }

    #[test]
    fn delta_survives_deadlines_and_reconnects(happenings in prop::collection::vec(happening(), 0..60)) {
        run::<Delta>(Store::default(), happenings);
    }

    #[test]
    fn delta_survives_refusals(bad in prop::collection::btree_set(1..14_u64, 1..3), named: bool, happenings in prop::collection::vec(happening(), 0..60)) {
        run::<Delta>(refusing(bad, named), happenings);
    }

    #[test]
    fn sotw_ends_with_the_view_and_no_route_ever_dangles(happenings in prop::collection::vec(calm(), 0..60)) {
        run::<Sotw>(Store::default(), happenings);
    }

    #[test]
    fn sotw_survives_deadlines_and_reconnects(happenings in prop::collection::vec(happening(), 0..60)) {
        run::<Sotw>(Store::default(), happenings);
    }

    #[test]
    fn sotw_survives_refusals(bad in prop::collection::btree_set(1..14_u64, 1..3), named: bool, happenings in prop::collection::vec(happening(), 0..60)) {
        run::<Sotw>(refusing(bad, named), happenings);
    }
}

#[test]
fn a_table_that_was_sent_twice_before_it_was_refused_comes_to_its_good_hosts() {
    let world = |backends: &[u8], listeners, hosts: &[(u8, u64)]| {
        let backends = backends.iter().map(|backend| (*backend, (1, 11))).collect();
        let hosts = vec![hosts.iter().copied().collect(), BTreeMap::new()];
        Happening::World(World { backends, listeners, picks: vec![0; 4], hosts })
    };
    let happenings = vec![
        Happening::Deliver(2),
        Happening::Speak,
        world(&[], 1, &[]),
        Happening::Speak,
        world(&[1], 3, &[(0, 5), (1, 1)]),
        Happening::Speak,
        Happening::Pass(5000),
    ];
    run::<Sotw>(refusing([5].into(), false), happenings);
}

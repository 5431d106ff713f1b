//! Peers that break every rule of the protocol: nonces played back, of other types or made up, names given up that were never
//! asked for, versions of what never was, refusals of what was taken long ago. Whatever they say, nothing panics, the session comes to
//! rest, and whoever then speaks properly has the view.
//!
//! `make fuzz` runs each test for `FUZZ_SECONDS`. The seed is printed, and `FUZZ_SEED` repeats it.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::{Duration, Instant},
};

use envoy_types::pb::{
    envoy::{
        config::core::v3::Node as Message,
        service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest},
    },
    google::{
        protobuf::{ListValue, Struct, Value, value::Kind},
        rpc,
    },
};
use proptest::{
    prelude::*,
    sample::{Index, select},
    test_runner::{RngAlgorithm, TestRng, TestRunner},
};
use prost::Message as _;
use smol_str::SmolStr;

use super::{
    Delta, Protocol, Request, Response, Session, Settings, Sotw,
    model::{World, world},
    tests::view,
};
use crate::xds::{
    bounds::{Bounds, measure},
    node::Node,
    per_type::PerType,
    resource::Resource,
    resource_type::ResourceType::{self, Cluster, Endpoint, Listener, Route},
    view::View,
};

const SETTINGS: Settings = Settings { ordered: true, gate: Duration::from_secs(5), drain: Duration::from_secs(3) };
const NAMES: [&str; 14] = ["c0", "c1", "c2", "c3", "c4", "r0", "r2", "l0", "l1", "l2", "l3", "x0", "x1", "*"];
const KINDS: [ResourceType; 4] = [Cluster, Endpoint, Listener, Route];

#[derive(Clone, Debug)]
enum Happening {
    World(World),
    Say(Said),
    Read,
    Pass(u16),
}

/// A request.
#[derive(Clone, Debug)]
struct Said {
    kind: ResourceType,
    names: Vec<&'static str>,
    given_up: Vec<&'static str>,
    held: Vec<&'static str>,
    nonce: Nonce,
    refuses: bool,
}

#[derive(Clone, Debug)]
enum Nonce {
    None,
    /// Of the newest response of the type.
    Newest,
    /// Of any response, of whatever type.
    Any(Index),
    MadeUp(String),
}

/// What a client has come to by what it said and heard, if it keeps books as it should.
#[derive(Default)]
struct Books {
    open: PerType<bool>,
    wildcard: PerType<bool>,
    named: PerType<BTreeSet<SmolStr>>,
    /// Versions by name.
    held: PerType<BTreeMap<SmolStr, String>>,
    heard: Vec<(ResourceType, SmolStr)>,
}

trait Dialect: Protocol {
    fn request(said: &Said, nonce: String) -> Self::Request;
    /// Returns whether a later request with such a nonce changes what the client asks for.
    fn counts(nonce: &str, is_own: bool) -> bool;
    fn note(books: &mut Books, said: &Said);
    fn hear(books: &mut Books, response: &Response);
    /// Returns the names that each answer has to repeat.
    fn restated(books: &Books, kind: ResourceType) -> Vec<&'static str>;
}

impl Books {
    fn ask(&mut self, kind: ResourceType, name: &'static str) {
        if name == "*" {
            self.wildcard[kind] = true;
        } else {
            self.named[kind].insert(name.into());
        }
    }

    fn drop_unasked(&mut self, kind: ResourceType) {
        if !self.wildcard[kind] {
            let named = &self.named[kind];
            self.held[kind].retain(|name, _| named.contains(name));
        }
    }
}

impl Dialect for Delta {
    fn request(said: &Said, response_nonce: String) -> DeltaDiscoveryRequest {
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        DeltaDiscoveryRequest {
            type_url: said.kind.type_url().into(),
            resource_names_subscribe: names(&said.names),
            resource_names_unsubscribe: names(&said.given_up),
            initial_resource_versions: said.held.iter().map(|name| (name.to_string(), "0123456789abcdef".into())).collect(),
            response_nonce,
            error_detail: error(said),
            ..DeltaDiscoveryRequest::default()
        }
    }

    fn counts(_: &str, _: bool) -> bool {
        true
    }

    fn note(books: &mut Books, said: &Said) {
        let kind = said.kind;
        if !books.open[kind] {
            books.wildcard[kind] = said.names.is_empty() && kind.is_wildcard();
            books.held[kind] = said.held.iter().map(|name| (SmolStr::from(*name), "?".to_owned())).collect();
        } else {
            for name in &said.given_up {
                if *name == "*" {
                    books.wildcard[kind] = false;
                } else {
                    books.named[kind].remove(*name);
                }
                books.drop_unasked(kind);
            }
        }
        said.names.iter().for_each(|name| books.ask(kind, name));
        if !books.open[kind] && !books.wildcard[kind] {
            said.held.iter().filter(|name| **name != "*").for_each(|name| books.ask(kind, name));
        }
    }

    fn hear(books: &mut Books, response: &Response) {
        let held = &mut books.held[response.kind.unwrap()];
        response.removed.iter().for_each(|name| drop(held.remove(name)));
        held.extend(response.resources.iter().map(|resource| (resource.name.clone(), resource.version.to_string())));
    }

    fn restated(_: &Books, _: ResourceType) -> Vec<&'static str> {
        Vec::new()
    }
}

impl Dialect for Sotw {
    fn request(said: &Said, response_nonce: String) -> DiscoveryRequest {
        DiscoveryRequest {
            type_url: said.kind.type_url().into(),
            resource_names: said.names.iter().map(ToString::to_string).collect(),
            version_info: said.held.concat(),
            response_nonce,
            error_detail: error(said),
            ..DiscoveryRequest::default()
        }
    }

    fn counts(nonce: &str, is_own: bool) -> bool {
        nonce.is_empty() || is_own
    }

    fn note(books: &mut Books, said: &Said) {
        let kind = said.kind;
        let keeps = said.names.is_empty() && if books.open[kind] { books.wildcard[kind] } else { kind.is_wildcard() };
        books.wildcard[kind] = keeps;
        books.named[kind].clear();
        said.names.iter().for_each(|name| books.ask(kind, name));
        books.drop_unasked(kind);
    }

    fn hear(books: &mut Books, response: &Response) {
        let kind = response.kind.unwrap();
        if kind.is_wildcard() {
            books.held[kind].clear();
        }
        let told = response.resources.iter().map(|resource| (resource.name.clone(), resource.version.to_string()));
        books.held[kind].extend(told);
    }

    fn restated(books: &Books, kind: ResourceType) -> Vec<&'static str> {
        let asked = |name: &&str| books.named[kind].contains(*name) || (*name == "*" && books.wildcard[kind]);
        NAMES.into_iter().filter(asked).collect()
    }
}

fn error(said: &Said) -> Option<rpc::Status> {
    said.refuses.then(|| rpc::Status { message: "c1: no".into(), ..rpc::Status::default() })
}

struct Peer<P: Dialect> {
    session: Session<P>,
    books: Books,
    view: View,
    now: Instant,
    /// Nobody knows what a client has that refused something.
    has_refused: bool,
}

impl<P: Dialect> Peer<P> {
    fn new() -> Self {
        let session = Session::new(SETTINGS, Bounds::default(), View::default(), &Arc::default());
        Self { session, books: Books::default(), view: View::default(), now: Instant::now(), has_refused: false }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::World(world) => {
                self.view = view(self.view.generation + 1, world.resources());
                self.session.on_view(self.view.clone());
            }
            Happening::Say(said) => self.say(&said),
            Happening::Read => drop(self.read()),
            Happening::Pass(milliseconds) => self.now += Duration::from_millis(milliseconds.into()),
        }
        self.session.take_events();
    }

    fn say(&mut self, said: &Said) {
        let heard = &self.books.heard;
        let newest = || heard.iter().rfind(|(kind, _)| *kind == said.kind);
        let nonce = match &said.nonce {
            Nonce::None => String::new(),
            Nonce::Newest => newest().map(|(_, nonce)| nonce.to_string()).unwrap_or_default(),
            Nonce::Any(_) if heard.is_empty() => "1".into(),
            Nonce::Any(index) => index.get(heard).1.to_string(),
            Nonce::MadeUp(text) => text.clone(),
        };
        // A stream has one count for all types. Whatever is not above the type's last counts as the type's own.
        let last = newest().and_then(|(_, nonce)| nonce.parse::<u64>().ok()).unwrap_or(0);
        let is_own = nonce.parse::<u64>().is_ok_and(|nonce| (1..=last).contains(&nonce));
        if !self.books.open[said.kind] || P::counts(&nonce, is_own) {
            P::note(&mut self.books, said);
        }
        self.books.open[said.kind] = true;
        self.has_refused |= said.refuses;
        self.session.on_request(P::request(said, nonce), self.now).unwrap();
    }

    fn read(&mut self) -> Option<Response> {
        let response = self.session.next(self.now)?;
        P::hear(&mut self.books, &response);
        self.books.heard.push((response.kind.unwrap(), response.nonce.clone()));
        Some(response)
    }

    /// Takes all that is said, and says so.
    fn settle(&mut self) {
        for _ in 0..100 {
            let mut said = 0;
            while let Some(response) = self.read() {
                said += 1;
                assert!(said < 200, "the server does not come to an end");
                self.acknowledge(response.kind.unwrap());
            }
            match self.session.deadline() {
                Some(at) => self.now = self.now.max(at),
                None => return,
            }
        }
        panic!("it does not come to rest");
    }

    fn acknowledge(&mut self, kind: ResourceType) {
        let nonce = self.books.heard.last().unwrap().1.to_string();
        let names = P::restated(&self.books, kind);
        let said = Said { kind, names, given_up: Vec::new(), held: Vec::new(), nonce: Nonce::None, refuses: false };
        self.session.on_request(P::request(&said, nonce), self.now).unwrap();
    }

    fn assert_has_view(&self) {
        for kind in KINDS.into_iter().filter(|kind| self.books.open[*kind]) {
            let held = &self.books.held[kind];
            // Virtual hosts that were refused are not offered again on a connection.
            let is_known = |resource: &&Arc<Resource>| !self.has_refused || resource.virtual_hosts.is_empty();
            for resource in self.view.iter(kind).filter(is_known) {
                let wanted = self.books.wildcard[kind] || self.books.named[kind].contains(&resource.name);
                let version = held.get(&resource.name);
                assert!(!wanted || version == Some(&resource.version.to_string()), "{kind:?} {}: {version:?}", resource.name);
            }
            // A table that the client keeps asking for may name a cluster for as long.
            let names_others = kind == Cluster && self.books.held[Route].keys().any(|name| self.view.get(Route, name).is_none());
            if kind.is_wildcard() && !names_others && !self.has_refused {
                let asks = |name: &SmolStr| self.books.wildcard[kind] || self.books.named[kind].contains(name);
                let gone: Vec<_> = held.keys().filter(|name| asks(name) && self.view.get(kind, name).is_none()).collect();
                assert_eq!(gone, [""; 0], "{kind:?}: what is gone");
            }
        }
    }
}

fn names() -> impl Strategy<Value = Vec<&'static str>> {
    prop::collection::vec(select(&NAMES[..]), 0..4)
}

fn said(refuses: impl Strategy<Value = bool>) -> impl Strategy<Value = Said> {
    let nonce =
        prop_oneof![Just(Nonce::None), Just(Nonce::Newest), any::<Index>().prop_map(Nonce::Any), "[0-9x-]{1,20}".prop_map(Nonce::MadeUp),];
    (select(&KINDS[..]), names(), names(), names(), nonce, refuses).prop_map(|(kind, names, given_up, held, nonce, refuses)| Said {
        kind,
        names,
        given_up,
        held,
        nonce,
        refuses,
    })
}

fn happenings(refuses: impl Strategy<Value = bool>) -> impl Strategy<Value = Vec<Happening>> {
    let one = prop_oneof![
        2 => world().prop_map(Happening::World),
        5 => said(refuses).prop_map(Happening::Say),
        5 => Just(Happening::Read),
        1 => (1..8000_u16).prop_map(Happening::Pass),
    ];
    prop::collection::vec(one, 0..50)
}

/// Runs a test for `FUZZ_SECONDS`, or so many cases of it.
fn fuzz<S: Strategy>(name: &str, cases: u32, strategy: S, test: impl Fn(S::Value)) {
    let number = |name: &str| env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let until = Instant::now() + Duration::from_secs(number("FUZZ_SECONDS").unwrap_or(0));
    let mut seed = number("FUZZ_SEED").unwrap_or_else(|| RandomState::new().hash_one(name));
    let mut runs = 0_u64;
    loop {
        println!("{name}: FUZZ_SEED={seed}");
        let bytes: Vec<u8> = seed.to_le_bytes().into_iter().cycle().take(32).collect();
        let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases) };
        let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
        let outcome = runner.run(&strategy, |value| {
            test(value);
            Ok(())
        });
        if let Err(error) = outcome {
            panic!("{name}: FUZZ_SEED={seed}: {error}");
        }
        runs += u64::from(cases);
        if Instant::now() >= until {
            println!("{name}: {runs} cases");
            return;
        }
        seed = seed.wrapping_add(1);
    }
}

fn run<P: Dialect>(happenings: Vec<Happening>) {
    let mut peer = Peer::<P>::new();
    happenings.into_iter().for_each(|happening| peer.happen(happening));
    peer.settle();
    peer.assert_has_view();
}

// What was refused is not sent again unasked: it is asked for.
fn run_refusing<P: Dialect>(happenings: Vec<Happening>) {
    let mut peer = Peer::<P>::new();
    happenings.into_iter().for_each(|happening| peer.happen(happening));
    peer.settle();
    for kind in KINDS {
        let names = NAMES[..NAMES.len() - 1].to_vec();
        peer.say(&Said { kind, names, given_up: Vec::new(), held: Vec::new(), nonce: Nonce::None, refuses: false });
    }
    peer.settle();
    peer.assert_has_view();
}

#[test]
fn hostile_delta_sequences_end_with_the_view() {
    fuzz("delta", 300, happenings(Just(false)), run::<Delta>);
}

#[test]
fn hostile_sequences_end_with_the_view() {
    fuzz("state of the world", 300, happenings(Just(false)), run::<Sotw>);
}

#[test]
fn hostile_delta_refusals_leave_what_is_asked_for_again() {
    fuzz("delta with refusals", 300, happenings(any::<bool>()), run_refusing::<Delta>);
}

#[test]
fn hostile_refusals_leave_what_is_asked_for_again() {
    fuzz("state of the world with refusals", 300, happenings(any::<bool>()), run_refusing::<Sotw>);
}

/// Returns a request for listeners.
fn ask(names: &[&'static str], given_up: &[&'static str], held: &[&'static str]) -> Happening {
    let (names, given_up, held) = (names.to_vec(), given_up.to_vec(), held.to_vec());
    Happening::Say(Said { kind: Listener, names, given_up, held, nonce: Nonce::None, refuses: false })
}

/// Returns a world of that many listeners, and nothing else.
fn listeners(count: u8) -> Happening {
    Happening::World(World::of(&[], count))
}

// Found by the above: a listener that goes, and comes back after the client has dropped it.
#[test]
fn what_was_dropped_while_it_was_gone_is_sent_when_it_is_back() {
    run::<Delta>(vec![ask(&["*"], &[], &[]), listeners(1), Happening::Read, listeners(0), ask(&["*"], &["*"], &[]), listeners(1)]);
}

#[test]
fn what_was_named_and_goes_is_taken_from_whoever_then_asks_for_all() {
    let ask = |names: &[&'static str]| {
        let (names, nonce) = (names.to_vec(), Nonce::Newest);
        Happening::Say(Said { kind: Listener, names, given_up: Vec::new(), held: Vec::new(), nonce, refuses: false })
    };
    let happenings = || vec![ask(&["l0"]), listeners(1), Happening::Read, listeners(0), ask(&["*"])];
    run::<Sotw>(happenings());
    run::<Delta>(happenings());
}

#[test]
fn what_is_named_no_more_is_still_there_for_whoever_asked_for_all_again() {
    let before = [ask(&["l0", "*"], &[], &[]), listeners(1), Happening::Read, listeners(0)];
    run::<Delta>(before.into_iter().chain([ask(&["*"], &["*"], &[]), ask(&[], &["l0"], &[])]).collect());
}

#[test]
fn what_is_named_no_more_goes_from_whoever_has_just_asked_for_all() {
    let before = || [listeners(1), ask(&["l0"], &[], &[]), Happening::Read, ask(&["*"], &[], &[]), ask(&[], &["l0"], &[]), listeners(0)];
    run::<Delta>(before().into_iter().chain([ask(&[], &["l0"], &[])]).collect());
    let in_between = [
        listeners(1),
        ask(&["l0", "*"], &[], &[]),
        Happening::Read,
        ask(&[], &["*"], &[]),
        ask(&["*"], &[], &[]),
        ask(&[], &["l0"], &[]),
        listeners(0),
    ];
    run::<Delta>(in_between.into_iter().chain([ask(&[], &["l0"], &[])]).collect());
}

#[test]
fn what_is_given_up_and_named_again_in_one_goes_from_whoever_has_just_asked_for_all() {
    let again = || [ask(&["*"], &[], &[]), ask(&["l0"], &["l0"], &[]), ask(&[], &["l0"], &[])];
    run::<Delta>([ask(&["l1"], &[], &["l0"])].into_iter().chain(again()).collect());
    run::<Delta>([listeners(1), ask(&["l0"], &[], &[]), Happening::Read, listeners(0)].into_iter().chain(again()).collect());
}

#[test]
fn what_is_named_instead_of_all_is_taken_from_whoever_then_asks_for_all() {
    let ask = |kind, names: &[&'static str]| {
        let (names, nonce) = (names.to_vec(), Nonce::Newest);
        Happening::Say(Said { kind, names, given_up: Vec::new(), held: Vec::new(), nonce, refuses: false })
    };
    let world = |clusters: &[u8], listeners| Happening::World(World::of(clusters, listeners));
    for (kind, name) in [(Cluster, "c0"), (Listener, "l0")] {
        run::<Sotw>(vec![world(&[0], 1), ask(kind, &[]), Happening::Read, ask(kind, &[name]), world(&[], 0), ask(kind, &["*"])]);
        // The other way round: it is gone before it is named.
        run::<Sotw>(vec![world(&[0], 1), ask(kind, &[]), Happening::Read, world(&[], 0), ask(kind, &[name]), ask(kind, &["*"])]);
    }
}

// === first requests ===

#[derive(Clone, Debug)]
enum Change {
    Set(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, u8),
    Repeat(Index, Index),
    Cut(Index),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        3 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        2 => (any::<Index>(), prop::collection::vec(any::<u8>(), 1..12)).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        2 => (any::<Index>(), 1..20_u8).prop_map(|(at, count)| Change::Remove(at, count)),
        1 => (any::<Index>(), any::<Index>()).prop_map(|(from, to)| Change::Repeat(from, to)),
        1 => any::<Index>().prop_map(Change::Cut),
    ]
}

fn apply(bytes: &mut Vec<u8>, change: Change) {
    let place = |index: Index| index.index(bytes.len() + 1);
    match change {
        Change::Set(at, byte) if !bytes.is_empty() => {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        Change::Set(..) => {}
        Change::Insert(at, more) => drop(bytes.splice(place(at)..place(at), more)),
        Change::Remove(at, count) => {
            let start = place(at);
            let end = (start + usize::from(count)).min(bytes.len());
            bytes.drain(start..end);
        }
        Change::Repeat(from, to) => {
            let (start, end) = (place(from).min(place(to)), place(from).max(place(to)));
            let again = bytes[start..end].to_vec();
            bytes.splice(end..end, again);
        }
        Change::Cut(at) => bytes.truncate(place(at)),
    }
}

fn node() -> Message {
    let text = |text: &str| Value { kind: Some(Kind::StringValue(text.into())) };
    let list = Value { kind: Some(Kind::ListValue(ListValue { values: vec![text("a"), Value::default()] })) };
    let labels = Struct { fields: [("app".to_owned(), text("web"))].into() };
    let fields = [
        ("INSTANCE_IPS", text("10.0.0.1,fd00::1")),
        ("NAMESPACE", text("shop")),
        ("LABELS", Value { kind: Some(Kind::StructValue(labels)) }),
        ("POD_PORTS", text(r#"[{"name":"http","containerPort":8080}]"#)),
        ("IDLE_TIMEOUT", text("1h")),
        ("ENVOY_STATUS_PORT", Value { kind: Some(Kind::NumberValue(15021.0)) }),
        ("PROXY_CONFIG", list),
    ];
    let metadata = Some(Struct { fields: fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect() });
    Message { id: "sidecar~10.0.0.1~web-1.shop~shop.svc.cluster.local".into(), metadata, ..Message::default() }
}

fn first<P: Dialect>(said: &Said, changes: Vec<Change>) {
    let mut bytes = DiscoveryRequest { node: Some(node()), ..DiscoveryRequest::default() }.encode_to_vec();
    if P::NAMES != Sotw::NAMES {
        bytes = DeltaDiscoveryRequest { node: Some(node()), ..DeltaDiscoveryRequest::default() }.encode_to_vec();
    }
    bytes.extend(P::request(said, String::new()).encode_to_vec());
    changes.into_iter().for_each(|change| apply(&mut bytes, change));
    if measure(P::MESSAGE, &bytes, Bounds::default().first_names()).is_err() {
        return;
    }
    let Ok(mut request) = P::Request::decode(&bytes[..]) else { return };
    if let Some(node) = request.take_node() {
        let _ = Node::parse(&node);
    }
    let world = World::of(&[0, 1, 2], 3);
    let mut session = Session::<P>::new(SETTINGS, Bounds::default(), view(1, world.resources()), &Arc::default());
    let now = Instant::now();
    if session.on_request(request, now).is_ok() {
        assert!(session.effort_to_speak() < bytes.len() + 100, "no more is held than was said");
        let said = std::iter::from_fn(|| session.next(now)).take(20).count();
        assert!(said < 20, "it does not come to an end");
    }
    session.take_events();
}

#[test]
fn no_first_request_is_too_much() {
    let strategy = || (said(any::<bool>()), prop::collection::vec(change(), 0..12));
    fuzz("first delta request", 500, strategy(), |(said, changes)| first::<Delta>(&said, changes));
    fuzz("first request", 500, strategy(), |(said, changes)| first::<Sotw>(&said, changes));
}

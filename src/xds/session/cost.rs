//! What peers that mean ill make a session look at: at most about twice as much when they send twice as much.

use std::{sync::Arc, time::Instant};

use envoy_types::pb::{
    envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest},
    google::rpc,
};

use super::{
    Delta, Protocol, Response, Session, Settings, Sotw,
    tests::{cluster, endpoint, listener, resource, route, view},
};
use crate::{
    visits::Visits,
    xds::{
        bounds::Bounds,
        resource_type::ResourceType::{self, Cluster, Endpoint, Listener, Route},
        view::View,
    },
};

/// Asserts that something costs little more than twice as much at twice the size.
#[track_caller]
fn assert_linear(what: &str, run: impl Fn(usize)) {
    let cost = |size| {
        let before = Visits::of_this_thread();
        run(size);
        (Visits::of_this_thread() - before).names
    };
    let (small, large) = (cost(600), cost(1200));
    assert!(small >= 600 && large * 10 <= small * 24, "{what}: {small} names looked at, and {large} for twice as much");
}

/// A client that says what it likes.
struct Peer<P: Protocol> {
    session: Session<P>,
    now: Instant,
}

impl<P: Protocol> Peer<P> {
    fn of(view: View) -> Self {
        Self { session: Session::new(Settings::default(), Bounds::default(), view, &Arc::default()), now: Instant::now() }
    }

    // As the stream does it.
    fn say(&mut self, request: P::Request) {
        self.session.on_request(request, self.now).unwrap();
        self.session.take_events();
    }

    fn read(&mut self) -> Option<Response> {
        let response = self.session.next(self.now);
        self.session.take_events();
        response
    }

    fn read_all(&mut self) -> Vec<Response> {
        std::iter::from_fn(|| self.read()).collect()
    }
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("none-{number}")).collect()
}

fn ask(kind: ResourceType, subscribe: Vec<String>, unsubscribe: Vec<String>) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: kind.type_url().into(),
        resource_names_subscribe: subscribe,
        resource_names_unsubscribe: unsubscribe,
        ..DeltaDiscoveryRequest::default()
    }
}

fn held(kind: ResourceType, count: usize) -> DeltaDiscoveryRequest {
    let initial_resource_versions = names(count).into_iter().map(|name| (name, "0123456789abcdef".into())).collect();
    DeltaDiscoveryRequest { initial_resource_versions, ..ask(kind, Vec::new(), Vec::new()) }
}

fn answer(response: &Response, error: Option<String>) -> DeltaDiscoveryRequest {
    let error_detail = error.map(|message| rpc::Status { message, ..rpc::Status::default() });
    DeltaDiscoveryRequest {
        type_url: response.type_url.to_string(),
        response_nonce: response.nonce.to_string(),
        error_detail,
        ..DeltaDiscoveryRequest::default()
    }
}

fn whole(kind: ResourceType, names: Vec<String>) -> DiscoveryRequest {
    DiscoveryRequest { type_url: kind.type_url().into(), resource_names: names, ..DiscoveryRequest::default() }
}

fn all() -> Vec<String> {
    vec!["*".to_owned()]
}

fn small_view() -> View {
    view(1, [cluster("a", 1), endpoint("a", 1), listener("l", 1, &["a"]), route("r", 1, &["a"])])
}

fn clusters(count: usize) -> View {
    view(1, (0..count).map(|number| cluster(&format!("outbound|80||s-{number}.shop"), 1)))
}

#[test]
fn what_is_held_and_gone() {
    for kind in ResourceType::in_views() {
        assert_linear(&format!("held of {kind:?}"), |size| {
            let mut peer = Peer::<Delta>::of(small_view());
            peer.say(held(kind, size));
            peer.read_all();
        });
    }
}

#[test]
fn names_that_are_not_there() {
    for kind in [Endpoint, Route] {
        assert_linear(&format!("delta names of {kind:?}"), |size| {
            let mut peer = Peer::<Delta>::of(small_view());
            peer.say(ask(kind, names(size), Vec::new()));
            peer.read_all();
            peer.say(ask(kind, Vec::new(), names(size)));
            peer.read_all();
        });
        assert_linear(&format!("names of {kind:?}"), |size| {
            let mut peer = Peer::<Sotw>::of(small_view());
            peer.say(whole(kind, names(size)));
            peer.read_all();
            peer.say(whole(kind, Vec::new()));
            peer.read_all();
        });
    }
}

#[test]
fn a_long_error_about_many_clusters() {
    assert_linear("an error", |size| {
        let mut peer = Peer::<Delta>::of(clusters(size));
        peer.say(ask(Cluster, Vec::new(), Vec::new()));
        let response = peer.read().unwrap();
        peer.say(answer(&response, Some("outbound|80||s-1.shop: no, ".repeat(size))));
        peer.read();
    });
    assert_linear("errors that name nothing", |size| {
        let mut peer = Peer::<Delta>::of(clusters(size));
        peer.say(ask(Cluster, Vec::new(), Vec::new()));
        for _ in 0..5 {
            let response = peer.read().unwrap();
            peer.say(answer(&response, Some("no".into())));
        }
    });
}

#[test]
fn small_requests_while_much_is_pending_and_nothing_is_read() {
    let kinds = [("a name", Endpoint, vec!["a".to_owned()], vec![]), ("less than all", Endpoint, vec![], all())];
    let both = [("all and not all", Cluster, all(), all()), ("nothing", Cluster, vec![], vec![])];
    for (what, kind, subscribe, unsubscribe) in kinds.into_iter().chain(both) {
        assert_linear(what, |size| {
            let mut peer = Peer::<Delta>::of(clusters(size));
            peer.say(ask(Endpoint, names(size), Vec::new()));
            peer.say(ask(Cluster, Vec::new(), Vec::new()));
            for _ in 0..size {
                peer.say(ask(kind, subscribe.clone(), unsubscribe.clone()));
            }
            peer.read_all();
        });
    }
    assert_linear("once more, please", |size| {
        let mut peer = Peer::<Sotw>::of(clusters(size));
        (0..size).for_each(|_| peer.say(whole(Cluster, Vec::new())));
        peer.read_all();
    });
    assert_linear("answers that nobody awaits", |size| {
        let mut peer = Peer::<Sotw>::of(clusters(size));
        peer.say(whole(Cluster, Vec::new()));
        for _ in 0..size {
            peer.say(DiscoveryRequest { response_nonce: "77".into(), ..whole(Cluster, Vec::new()) });
        }
        peer.read_all();
    });
}

#[test]
fn small_requests_that_are_read_after_many_names_that_are_not_there() {
    assert_linear("a table", |size| {
        let mut peer = Peer::<Delta>::of(small_view());
        peer.say(ask(Route, names(size), Vec::new()));
        peer.read_all();
        for _ in 0..size {
            peer.say(ask(Route, vec!["r".to_owned()], Vec::new()));
            for response in peer.read_all() {
                peer.say(answer(&response, None));
            }
        }
    });
}

#[test]
fn a_client_that_reads_and_never_answers() {
    assert_linear("no answer", |size| {
        let mut peer = Peer::<Delta>::of(small_view());
        for number in 0..size {
            peer.say(ask(Endpoint, vec![format!("none-{number}"), "a".to_owned()], Vec::new()));
            peer.read_all();
        }
    });
    // Each takes the place of one before: what nobody asks for any more is not remembered for its sake.
    let mut peer = Peer::<Delta>::of(small_view());
    for round in 0..40 {
        let names: Vec<String> = (0..1000).map(|number| format!("{round}-{number}")).collect();
        peer.say(ask(Endpoint, names.clone(), Vec::new()));
        peer.read_all();
        peer.say(ask(Endpoint, Vec::new(), names));
    }
    assert!(peer.session.effort_to_speak() < 12_000, "{}", peer.session.effort_to_speak());
}

#[test]
fn names_have_a_bound() {
    let most = Bounds::default().unknown_names + 1;
    let mut peer = Peer::<Delta>::of(small_view());
    peer.say(ask(Endpoint, names(most), Vec::new()));
    peer.say(ask(Endpoint, names(most), Vec::new()));
    let more = peer.session.on_request(ask(Endpoint, vec!["more".into()], Vec::new()), peer.now).unwrap_err();
    assert_eq!(more.to_string(), "resource_names_subscribe: at most 10001 names of a type are served on a stream");
    let mut fresh = Peer::<Delta>::of(small_view());
    assert!(fresh.session.on_request(held(Route, most + 1), fresh.now).is_err());
    let mut whole_world = Peer::<Sotw>::of(small_view());
    assert!(whole_world.session.on_request(whole(Endpoint, names(most + 1)), whole_world.now).is_err());
}

#[test]
fn what_a_view_had_may_still_be_held() {
    let many = view(1, (0..500).map(|number| endpoint(&format!("e-{number}"), 1)));
    let bounds = Bounds { unknown_names: 2, ..Bounds::default() };
    let mut session = Session::<Delta>::new(Settings::default(), bounds, many.clone(), &Arc::default());
    let every: Vec<String> = many.iter(Endpoint).map(|resource| resource.name.to_string()).collect();
    session.on_request(ask(Endpoint, every, Vec::new()), Instant::now()).unwrap();
    session.on_view(view(2, [endpoint("new", 1)]));
    assert_eq!(session.on_request(ask(Endpoint, vec!["new".into(), "one".into()], Vec::new()), Instant::now()), Ok(()));
    assert!(session.on_request(ask(Endpoint, vec!["two".into()], Vec::new()), Instant::now()).is_err());
}

#[test]
fn what_an_error_says_is_kept_in_part() {
    let mut peer = Peer::<Delta>::of(view(1, [resource(Listener, "l", 1)]));
    peer.say(ask(Listener, Vec::new(), Vec::new()));
    let response = peer.read().unwrap();
    let error = "ä".repeat(100_000);
    peer.session.on_request(answer(&response, Some(error)), peer.now).unwrap();
    peer.session.next(peer.now);
    let said = peer.session.take_events().into_iter().filter_map(|event| match event {
        super::Event::Rejected { error, .. } => Some(error.len()),
        super::Event::Refusing { items, .. } => Some(items[0].error.len()),
        _ => None,
    });
    let said: Vec<usize> = said.collect();
    assert!(said.len() == 2 && said.iter().all(|length| (900..=1024).contains(length)), "{said:?}");
}

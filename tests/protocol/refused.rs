//! What a real Envoy refuses keeps back nothing else. The configuration is made by hand: our checks would not let it through.

use std::{sync::Arc, time::Duration};

use envoy_types::pb::{
    envoy::{
        config::{
            cluster::v3::Cluster,
            core::v3::{DataSource, data_source::Specifier},
            listener::v3::Listener,
            route::v3::{
                DirectResponseAction, Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, route::Action,
                route_action::ClusterSpecifier, route_match::PathSpecifier,
            },
        },
        r#type::matcher::v3::RegexMatcher,
    },
    google::protobuf::{BoolValue, Duration as ProtoDuration},
};
use harness::{address::Ports, tools};
use istiod_lite::{
    api::{Kind, ObjectKey},
    mesh::model::Origin,
    translate::input::Built,
    xds::{encode, resource::Resource, resource_type::ResourceType, session::Settings},
};

use super::{
    envoy::{backend, mesh, request_of, start, until},
    server::Server,
};

const SETTINGS: Settings = Settings { ordered: true, gate: Duration::from_secs(2), drain: Duration::from_secs(1) };

/// A regular expression that RE2 does not take.
const BAD: &str = "a++";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_virtual_host_keeps_back_only_itself_in_delta() {
    refuse_one_host("DELTA_GRPC").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_virtual_host_keeps_back_only_itself_in_sotw() {
    refuse_one_host("GRPC").await;
}

async fn refuse_one_host(api: &str) {
    let binary = tools::envoy("1.40").unwrap();
    let [entry, admin] = Ports::free().unwrap().all();
    let backend = backend().await;
    let with = |hosts: Vec<Built<VirtualHost>>| -> Vec<Resource> {
        let mut resources = mesh(entry, backend, 0);
        resources.retain(|resource| resource.kind != ResourceType::Route);
        resources.push(table(hosts));
        resources
    };
    // A proxy that has nothing yet is given all but what it refuses.
    let first = (0..6).map(|n| says(&format!("good-{n}"), "1")).chain([matching("bad", BAD)]);
    let server = Server::start(SETTINGS, with(first.collect())).await;
    let _envoy = start(&binary, api, server.address.port(), admin);
    until("the good hosts", || async { has(entry, "good-0", "1").await && has(entry, "good-5", "1").await }).await;
    until("the bad one to be found", || async { blamed(&server) == ["bad"] }).await;
    assert!(!has(entry, "bad", "1").await);
    // What others change arrives though the bad one stands.
    let second = (0..6).map(|n| says(&format!("good-{n}"), "2")).chain([matching("bad", BAD)]);
    let refusals = || server.ledger.metrics().rejects.get_or_create(&[("type", "rds")]).get();
    let before = refusals();
    server.set(with(second.collect()));
    until("the change of the others", || async { has(entry, "good-3", "2").await }).await;
    until("all ACKs", || async { server.status()[0].current == 2 }).await;
    assert_eq!((refusals(), blamed(&server)), (before, vec!["bad".to_owned()]), "it is not sent again unchanged");
    // Once it is mended it arrives, and nothing is refused any more.
    let third = (0..6).map(|n| says(&format!("good-{n}"), "2")).chain([says("bad", "3")]);
    server.set(with(third.collect()));
    until("the mended one", || async { has(entry, "bad", "3").await && server.status()[0].rejected.is_empty() }).await;
    // One that worked goes on as it was when its change is refused.
    let fourth = (0..6).map(|n| says(&format!("good-{n}"), "4")).chain([matching("bad", BAD)]);
    server.set(with(fourth.collect()));
    until("the change of the others", || async { has(entry, "good-1", "4").await && blamed(&server) == ["bad"] }).await;
    assert!(has(entry, "bad", "3").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_cluster_and_a_refused_listener_keep_back_nothing_for_good() {
    let binary = tools::envoy("1.40").unwrap();
    let [entry, admin] = Ports::free().unwrap().all();
    let backend = backend().await;
    let with = |host: Vec<Built<VirtualHost>>, others: Vec<Resource>| -> Vec<Resource> {
        let mut resources = mesh(entry, backend, 0);
        resources.retain(|resource| resource.kind != ResourceType::Route);
        resources.push(table(host));
        resources.extend(others);
        resources
    };
    let server = Server::start(SETTINGS, with(vec![says("good", "1")], Vec::new())).await;
    let _envoy = start(&binary, "DELTA_GRPC", server.address.port(), admin);
    until("the first table", || async { has(entry, "good", "1").await }).await;
    let never = Cluster { name: "refused".into(), connect_timeout: Some(ProtoDuration { seconds: -1, nanos: 0 }), ..Cluster::default() };
    let nowhere = Listener { name: "nowhere".into(), ..Listener::default() };
    let others = vec![encode::cluster(Built::new(never, [origin("cluster")])), encode::listener(Built::new(nowhere, [origin("listener")]))];
    server.set(with(vec![says("good", "2"), leading("other", "refused")], others));
    until("the table in spite of them", || async { has(entry, "good", "2").await }).await;
    assert!(request_of(entry, "other", "/").await.unwrap().starts_with("HTTP/1.1 503"));
    let rejected = &server.status()[0].rejected;
    let names = |kind| rejected[&kind].resources.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!((names(ResourceType::Cluster), names(ResourceType::Listener)), (vec!["refused".to_owned()], vec!["nowhere".to_owned()]));
    assert_eq!(server.ledger.metrics().gates_opened.get_or_create(&[("type", "cds")]).get(), 1);
}

/// Returns the objects that are blamed for a route table.
fn blamed(server: &Server) -> Vec<String> {
    let rejected = &server.status()[0].rejected;
    let rejection = rejected.get(&ResourceType::Route).filter(|rejection| rejection.found);
    rejection.into_iter().flat_map(|rejection| rejection.origins.iter()).map(|origin| origin.object.name.to_string()).collect()
}

async fn has(entry: u16, host: &str, body: &str) -> bool {
    request_of(entry, host, "/").await.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200") && answer.ends_with(body))
}

fn table(hosts: Vec<Built<VirtualHost>>) -> Resource {
    let validate_clusters = Some(BoolValue { value: false });
    let header = RouteConfiguration { name: "r".into(), validate_clusters, ..RouteConfiguration::default() };
    encode::route_configuration(&header, hosts.into_iter().map(|host| Arc::new(encode::virtual_host(host))))
}

fn says(host: &str, body: &str) -> Built<VirtualHost> {
    let body = DataSource { specifier: Some(Specifier::InlineString(body.into())), ..DataSource::default() };
    let action = Action::DirectResponse(DirectResponseAction { status: 200, body: Some(body), ..DirectResponseAction::default() });
    virtual_host(host, PathSpecifier::Prefix("/".into()), action)
}

fn matching(host: &str, regex: &str) -> Built<VirtualHost> {
    let path = PathSpecifier::SafeRegex(RegexMatcher { regex: regex.into(), ..RegexMatcher::default() });
    virtual_host(host, path, Action::DirectResponse(DirectResponseAction { status: 204, ..DirectResponseAction::default() }))
}

fn leading(host: &str, cluster: &str) -> Built<VirtualHost> {
    let action = RouteAction { cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.into())), ..RouteAction::default() };
    Built { clusters: vec![cluster.into()], ..virtual_host(host, PathSpecifier::Prefix("/".into()), Action::Route(action)) }
}

fn virtual_host(host: &str, path: PathSpecifier, action: Action) -> Built<VirtualHost> {
    let r#match = Some(RouteMatch { path_specifier: Some(path), ..RouteMatch::default() });
    let route = Route { r#match, action: Some(action), ..Route::default() };
    let message = VirtualHost { name: host.into(), domains: vec![host.into()], routes: vec![route], ..VirtualHost::default() };
    Built::new(message, [origin(host)])
}

fn origin(name: &str) -> Origin {
    let object = ObjectKey { cluster: "Kubernetes".into(), kind: Kind::VirtualService, namespace: "shop".into(), name: name.into() };
    Origin { object, generation: 1 }
}

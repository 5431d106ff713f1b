//! What is named is there: in all golden and oracle cases every route table that a listener names has content, every filter that it
//! names is sent, and every cluster that a listener or a route names is among the proxy's clusters, or a finding says why not.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;

use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use istiod_lite::{
    mesh::{
        model::{Proxy, ProxyKind},
        scope::gateways_for,
        validate,
        world::{Touched, World},
    },
    xds::{classes::Classes, resource::Resource, resource_type::ResourceType, view::View},
};
use prost::Message;

use crate::{golden, oracle};

#[test]
fn what_is_named_is_there_or_told() {
    let mut faults = Vec::new();
    for feature in golden::features() {
        let objects = fs::read_to_string(feature.join("in.yaml")).unwrap();
        let world = oracle::answer::world(&objects);
        for proxy in proxies(&world) {
            faults.extend(dangling(&objects, &proxy).into_iter().map(|fault| format!("{}: {fault}", feature.display())));
        }
    }
    for (case, proxy) in oracle::proxies() {
        let (objects, proxy) = oracle::answer::asked(&oracle::cases().join(&case), &proxy);
        faults.extend(dangling(&objects, &proxy).into_iter().map(|fault| format!("{case}: {fault}")));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The test above can fail: without the finding the cluster is one that is named in vain.
#[test]
fn a_cluster_that_is_named_in_vain_is_found() {
    let objects = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: n}
spec: {clusterIP: 10.96.0.1, ports: [{name: http, port: 80}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a, namespace: n}
spec: {hosts: [a.example.com], http: [{route: [{destination: {host: gone.example.com}}]}]}
";
    let proxy = Proxy::new(ProxyKind::Sidecar, "client.n");
    let view = oracle::answer::view(objects, &proxy);
    assert_eq!(unsent(&view), ["outbound|80||gone.example.com"]);
    assert_eq!(dangling(objects, &proxy), [""; 0], "the route has a finding");
}

fn proxies(world: &World) -> Vec<Proxy> {
    let proxy = |pod: &istiod_lite::mesh::model::Workload| {
        let kind = if gateways_for(world, &pod.labels).is_empty() { ProxyKind::Sidecar } else { ProxyKind::Gateway };
        let dns_domain = format!("{}.svc.cluster.local", pod.namespace).into();
        let id = format!("{}.{}", pod.name, pod.namespace);
        Proxy { ips: pod.ips.to_vec(), labels: pod.labels.clone(), dns_domain, ..Proxy::new(kind, &id) }
    };
    world.workloads.values().map(|pod| proxy(pod)).collect()
}

fn dangling(objects: &str, proxy: &Proxy) -> Vec<String> {
    let world = oracle::answer::world(objects);
    let mut findings = validate::check(&world);
    let classes = Classes::default();
    classes.prepare(world, &Touched { everything: true, ..Touched::default() }).send();
    let view = classes.view_for(proxy);
    findings.extend(classes.findings_for(proxy));
    let told = |named: &String| {
        let host = named.rsplit('|').next().unwrap_or_default();
        findings.iter().any(|finding| finding.message.contains(host))
    };
    let mut faults: Vec<_> = unanswered(&view).into_iter().map(|table| format!("{}: no content in table {table}", proxy.id)).collect();
    faults.extend(unsent(&view).into_iter().filter(|named| !told(named)).map(|named| format!("{}: {named} is not sent", proxy.id)));
    faults
}

/// The route tables that listeners name and that have no virtual host.
fn unanswered(view: &View) -> Vec<String> {
    let named = view.iter(ResourceType::Listener).flat_map(|listener| listener.references_to(ResourceType::Route));
    let has_content = |name: &str| {
        let table = view.get(ResourceType::Route, name);
        table.is_some_and(|table| !RouteConfiguration::decode(&table.body[..]).unwrap().virtual_hosts.is_empty())
    };
    named.filter(|name| !has_content(name)).map(ToString::to_string).collect()
}

/// The clusters and filters that listeners and routes name and that the proxy does not get.
fn unsent(view: &View) -> Vec<String> {
    let resources = view.iter(ResourceType::Listener).chain(view.iter(ResourceType::Route));
    let unsent = |kind: ResourceType| {
        move |resource: &Resource| {
            let named = resource.references_to(kind).filter(|name| view.get(kind, name).is_none());
            named.map(ToString::to_string).collect::<Vec<_>>()
        }
    };
    let (clusters, filters) = (unsent(ResourceType::Cluster), unsent(ResourceType::ExtensionConfig));
    resources.flat_map(|resource| [clusters(resource), filters(resource)].concat()).collect()
}

//! Everything for one sidecar of 1,000 services, from objects to encoded bytes; and what one change costs after that.
//!
//! The mesh is that of the comparison with istiod: every service has one HTTP port and 10 endpoints, every tenth is a
//! canary with two subsets and a weighted VirtualService.
//!
//! The figures are CPU time of the one thread that does the work (what istiod's are too), so that what else the machine
//! does shows less.

#![allow(clippy::expect_used, reason = "a bench ends when something fails")]

mod measure;

use std::{fmt::Write, hint::black_box, sync::Arc};

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use istiod_lite::{
    api::{self, Object, ObjectKey, Parsed, mesh_config::MeshConfig, yaml},
    mesh::{
        engine::{Applied, Engine},
        model::{Proxy, ProxyKind, ProxyPorts},
        validate,
        world::Touched,
    },
    xds::{classes::Classes, resource_type::ResourceType, view::View},
};
use measure::ThreadCpu;

// As the binary does.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const SERVICES: usize = 1_000;
const ENDPOINTS: usize = 10;

fn sidecar(c: &mut Criterion<ThreadCpu>) {
    let objects = mesh();
    let proxy = client();
    let mut group = c.benchmark_group("sidecar of 1,000 services");
    group.sample_size(20);
    group.bench_function("objects to encoded bytes", |b| {
        b.iter_batched(|| objects.clone(), |objects| everything(&objects, &proxy), BatchSize::PerIteration);
    });
    group.bench_function("objects to world", |b| {
        b.iter_batched(|| objects.clone(), |objects| world(&objects), BatchSize::PerIteration);
    });
    group.bench_function("findings about the whole mesh", |b| {
        let (_engine, applied) = world(&objects);
        b.iter(|| black_box(validate::check(&applied.world)));
    });
    group.bench_function("world to encoded bytes", |b| {
        let mut engine = Engine::new("cluster.local", MeshConfig::default());
        let world = engine.apply(keyed(&objects)).world;
        b.iter(|| {
            let classes = Classes::default();
            classes.prepare(Arc::clone(&world), &everything_touched()).send();
            black_box(classes.view_for(&proxy).len(ResourceType::Cluster))
        });
    });
    for (what, one, other) in [("one weight", canary(0, 90), canary(0, 50)), ("one endpoint", slice(1, 10), slice(1, 9))] {
        group.bench_function(format!("{what} changes"), |b| {
            let mut engine = Engine::new("cluster.local", MeshConfig::default());
            let classes = Classes::default();
            let first = engine.apply(keyed(&objects));
            classes.prepare(first.world, &first.touched).send();
            black_box(classes.view_for(&proxy));
            let (one, other) = (parse(&one), parse(&other));
            let mut flip = false;
            b.iter(|| {
                flip = !flip;
                let applied = engine.apply(keyed(if flip { &other } else { &one }));
                classes.prepare(applied.world, &applied.touched).send();
            });
        });
    }
    group.finish();
}

// What is made is given back, so that its end is not measured.
fn everything(objects: &[Arc<Object>], proxy: &Proxy) -> (Engine, Classes, View, usize) {
    let (engine, applied) = world(objects);
    let classes = Classes::default();
    classes.prepare(applied.world, &applied.touched).send();
    let view = classes.view_for(proxy);
    let bytes = ResourceType::ALL.iter().flat_map(|kind| view.iter(*kind)).map(|resource| resource.body.len()).sum();
    (engine, classes, view, bytes)
}

fn world(objects: &[Arc<Object>]) -> (Engine, Applied) {
    let mut engine = Engine::new("cluster.local", MeshConfig::default());
    let applied = engine.apply(keyed(objects));
    (engine, applied)
}

fn everything_touched() -> Touched {
    Touched { everything: true, ..Touched::default() }
}

fn keyed(objects: &[Arc<Object>]) -> impl Iterator<Item = (ObjectKey, Option<Arc<Object>>)> {
    objects.iter().map(|object| (object.key.clone(), Some(Arc::clone(object))))
}

fn mesh() -> Vec<Arc<Object>> {
    let mut text = String::new();
    for n in 0..SERVICES {
        let _ = write!(
            text,
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: s{n}, namespace: load}}\n\
             spec: {{clusterIP: 10.{}.{}.{}, selector: {{app: s{n}}}, ports: [{{name: http, port: 80, targetPort: 8080}}]}}\n{}",
            100 + n / 65_536,
            (n / 256) % 256,
            n % 256,
            slice(n, ENDPOINTS)
        );
        if n % 10 == 0 {
            text += &canary(n, 90);
        }
    }
    parse(&text)
}

fn slice(n: usize, endpoints: usize) -> String {
    let mut text = format!(
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: s{n}, namespace: load, \
         labels: {{kubernetes.io/service-name: s{n}}}}}\naddressType: IPv4\nports: [{{name: http, port: 8080}}]\nendpoints:\n"
    );
    for e in 0..endpoints {
        let _ = writeln!(text, "- {{addresses: [10.{}.{}.{}], conditions: {{ready: true}}}}", 1 + e, n / 250, 1 + n % 250);
    }
    text
}

fn canary(n: usize, weight: u32) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: s{n}, namespace: load}}\n\
         spec: {{host: s{n}, subsets: [{{name: v1, labels: {{version: v1}}}}, {{name: v2, labels: {{version: v2}}}}]}}\n\
         ---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: s{n}, namespace: load}}\n\
         spec:\n  hosts: [s{n}]\n  http:\n  - route:\n    - {{destination: {{host: s{n}, subset: v1}}, weight: {weight}}}\n    \
         - {{destination: {{host: s{n}, subset: v2}}, weight: {}}}\n",
        100 - weight
    )
}

fn parse(text: &str) -> Vec<Arc<Object>> {
    let documents = yaml::documents(text).into_iter().map(|document| {
        let read = yaml::document(document);
        assert!(read.is_ok(), "{read:?}");
        read.unwrap_or_default()
    });
    let parsed: Vec<Parsed> = documents.map(|document| api::parse(&document, &"Kubernetes".into())).collect();
    assert!(parsed.iter().all(|parsed| parsed.diagnostics.is_empty()));
    parsed.into_iter().flat_map(|parsed| parsed.objects).collect()
}

fn client() -> Proxy {
    let own = vec![[10, 200, 0, 1].into()];
    let known = Proxy::new(ProxyKind::Sidecar, "client.load");
    Proxy { service_account: "client".into(), ips: own, ports: ProxyPorts::USUAL, ..known }
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(ThreadCpu);
    targets = sidecar
}
criterion_main!(benches);

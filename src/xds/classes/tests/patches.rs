//! What EnvoyFilters make of views, and that nobody else is given anything new.

use proptest::{
    prelude::*,
    sample::{Index, select},
    test_runner::TestRunner,
};
use serde_json::{Value, json};

use super::*;

const MANAGER: &str = "envoy.filters.network.http_connection_manager";

/// Returns an EnvoyFilter for pods with a label.
pub(super) fn filter(name: &str, app: &str, patches: &Value) -> String {
    let object = json!({
        "apiVersion": "networking.istio.io/v1alpha3",
        "kind": "EnvoyFilter",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"workloadSelector": {"labels": {"app": app}}, "configPatches": patches},
    });
    object.to_string()
}

pub(super) fn plane() -> Plane {
    let mut plane = Plane::new();
    plane.apply(&format!("{SHOP}---{REVIEWS}"));
    plane.connect(ProxyKind::Sidecar, "a-1.shop", [10, 0, 0, 2]);
    plane.connect(ProxyKind::Sidecar, "b-1.shop", [10, 0, 0, 3]);
    plane.connect(ProxyKind::Gateway, "gateway-1.istio-system", [10, 0, 0, 1]);
    plane
}

impl Plane {
    pub(super) fn view(&self, id: &str) -> View {
        let (_, views) = self.connected.iter().find(|(node, _)| node.proxy.id == id).unwrap();
        views.borrow().clone()
    }

    pub(super) fn told(&self) -> Vec<String> {
        self.classes.findings().borrow().iter().map(ToString::to_string).collect()
    }
}

fn changed<'a>(
    now: &BTreeMap<(&'static str, SmolStr), ContentHash>,
    before: &'a BTreeMap<(&'static str, SmolStr), ContentHash>,
) -> Vec<&'a str> {
    before.iter().filter(|(key, version)| now.get(*key) != Some(version)).map(|((_, name), _)| name.as_str()).collect()
}

pub(super) fn lua(name: &str) -> Value {
    let code = json!({"inline_string": "function envoy_on_request(handle) end"});
    json!({"name": name, "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua", "default_source_code": code}})
}

pub(super) fn before_router(context: &str, value: &Value) -> Value {
    let filter = json!({"name": MANAGER, "subFilter": {"name": "envoy.filters.http.router"}});
    json!({
        "applyTo": "HTTP_FILTER",
        "match": {"context": context, "listener": {"filterChain": {"filter": filter}}},
        "patch": {"operation": "INSERT_BEFORE", "value": value},
    })
}

/// Returns a patch of all outbound clusters.
pub(super) fn merging(value: &Value) -> Value {
    json!({"applyTo": "CLUSTER", "match": {"context": "SIDECAR_OUTBOUND"}, "patch": {"operation": "MERGE", "value": value}})
}

/// Returns a patch that Envoy would refuse: the router must be the last filter.
pub(super) fn behind_router() -> Value {
    json!({
        "applyTo": "HTTP_FILTER",
        "match": {"context": "SIDECAR_OUTBOUND", "listener": {"filterChain": {"filter": {"name": MANAGER}}}},
        "patch": {"operation": "ADD", "value": lua("behind")},
    })
}

#[test]
fn only_what_a_filter_selects_is_made_anew() {
    let mut plane = plane();
    let ids = ["a-1.shop", "b-1.shop", "gateway-1.istio-system"];
    let [a, b, gateway] = ids.map(|id| plane.view(id));
    let made = plane.classes.translated();
    plane.apply(&filter("lua", "a", &json!([before_router("SIDECAR_OUTBOUND", &lua("x"))])));
    assert!(plane.view(ids[1]).has_layers_of(&b) && plane.view(ids[2]).has_layers_of(&gateway));
    assert_eq!(changed(&content(&plane.view(ids[0])), &content(&a)), ["0.0.0.0_9080"]);
    // Clusters and routes are those of everybody still.
    for kind in [ResourceType::Cluster, ResourceType::Route] {
        assert!(plane.view(ids[0]).layers(kind).iter().zip(a.layers(kind)).all(|(now, before)| Arc::ptr_eq(now, before)));
    }
    let more: BTreeMap<_, _> = plane.classes.translated().into_iter().filter(|(what, count)| made[what] != *count).collect();
    assert_eq!(more.keys().copied().collect::<Vec<_>>(), ["patched"]);
    plane.check();

    plane.apply(&filter("lua", "nobody", &json!([before_router("SIDECAR_OUTBOUND", &lua("x"))])));
    assert_eq!(content(&plane.view(ids[0])), content(&a));
    plane.check();
}

#[test]
fn what_envoy_would_refuse_is_left_out_alone() {
    let mut plane = plane();
    let nowhere =
        json!({"applyTo": "LISTENER", "match": {"listener": {"name": "none"}}, "patch": {"operation": "MERGE", "value": {"name": "none"}}});
    let unknown = json!({"name": "x", "typed_config": {"@type": "type.googleapis.com/no.Such"}});
    let patches = json!([
        merging(&json!({"connect_timeout": "3s"})),
        merging(&json!({"connect_timeout": "-3s"})),
        behind_router(),
        before_router("SIDECAR_OUTBOUND", &lua("good")),
        nowhere,
        before_router("SIDECAR_OUTBOUND", &unknown),
    ]);
    plane.apply(&filter("some", "a", &patches));
    let told = plane.told();
    let expected = [
        (
            "error: EnvoyFilter/shop/some spec.configPatches[1].patch: cannot be what becomes of cluster BlackHoleCluster and ",
            "must not be negative",
        ),
        ("error: EnvoyFilter/shop/some spec.configPatches[2].patch: cannot be what becomes of listener 0.0.0.0_9080 (", "must be the last"),
        ("warning: EnvoyFilter/shop/some spec.configPatches[4].match: has no effect", ""),
    ];
    assert_eq!(told.len(), expected.len(), "{told:#?}");
    for (said, (start, what)) in told.iter().zip(expected) {
        assert!(said.starts_with(start) && said.contains(what), "{said}");
    }
    let shown = |kind, name: &str| crate::xds::render::resource_to_json(plane.view("a-1.shop").get(kind, name).unwrap()).to_string();
    assert!(shown(ResourceType::Listener, "0.0.0.0_9080").contains(r#""good""#));
    assert!(!shown(ResourceType::Listener, "0.0.0.0_9080").contains(r#""behind""#));
    assert!(shown(ResourceType::Cluster, "outbound|9080||reviews.shop.svc.cluster.local").contains(r#""connect_timeout":"3s""#));
    plane.check();
}

#[test]
fn what_is_added_gives_way_to_what_has_its_name() {
    let mut plane = plane();
    let name = "outbound|80||later.shop.svc.cluster.local";
    let cluster = json!({"name": name, "type": "STATIC", "connect_timeout": "1s"});
    let adding = json!({"applyTo": "CLUSTER", "match": {"context": "SIDECAR_OUTBOUND"}, "patch": {"operation": "ADD", "value": cluster}});
    plane.apply(&filter("adding", "a", &json!([adding, adding])));
    let added = plane.view("a-1.shop").version(ResourceType::Cluster, name).unwrap();
    assert_eq!(plane.view("b-1.shop").version(ResourceType::Cluster, name), None);
    let told = plane.told();
    assert!(told.len() == 1 && told[0].contains("configPatches[1]") && told[0].contains("another one of this name"), "{told:?}");

    let later = "
apiVersion: v1
kind: Service
metadata: {name: later, namespace: shop}
spec: {clusterIP: 10.96.0.2, ports: [{name: http, port: 80}]}
";
    plane.apply(later);
    let taken = plane.view("a-1.shop").version(ResourceType::Cluster, name).unwrap();
    assert_ne!(added, taken);
    assert_eq!(plane.view("b-1.shop").version(ResourceType::Cluster, name), Some(taken));
    assert_eq!(plane.told().len(), 2);
    plane.check();
}

#[test]
fn a_stock_envoy_is_not_given_what_only_istios_has() {
    let mut plane = plane();
    let stats = json!({"name": "istio.stats", "typed_config": {
        "@type": "type.googleapis.com/udpa.type.v1.TypedStruct", "type_url": "type.googleapis.com/stats.PluginConfig", "value": {},
    }});
    plane.apply(&filter("stats", "a", &json!([before_router("SIDECAR_OUTBOUND", &stats)])));
    assert!(plane.told()[0].contains("this Envoy has no extension of type stats.PluginConfig"), "{:?}", plane.told());
    plane.check();
}

#[test]
fn a_filter_finds_its_configuration_where_a_patch_adds_it() {
    let mut plane = plane();
    let discovered = json!({"name": "found", "config_discovery": {"config_source": {"ads": {}}, "type_urls": ["x"]}});
    let asking = before_router("SIDECAR_OUTBOUND", &discovered);
    plane.apply(&filter("asking", "a", &json!([asking])));
    assert!(plane.told()[0].contains("adds an EXTENSION_CONFIG \"found\""), "{:?}", plane.told());
    assert_eq!(plane.view("a-1.shop").len(ResourceType::ExtensionConfig), 0);

    let config = lua("found");
    let adding = json!({"applyTo": "EXTENSION_CONFIG", "patch": {"operation": "ADD", "value": config}});
    plane.apply(&filter("asking", "a", &json!([asking, adding])));
    assert_eq!(plane.told(), [""; 0]);
    let view = plane.view("a-1.shop");
    assert!(view.get(ResourceType::ExtensionConfig, "found").is_some());
    assert!(view.get(ResourceType::Listener, "0.0.0.0_9080").unwrap().refers_to(ResourceType::ExtensionConfig, "found"));
    assert_eq!(plane.view("b-1.shop").len(ResourceType::ExtensionConfig), 0);
    plane.check();
}

/// Returns values for patches: right ones, wrong ones and odd ones.
fn values() -> Vec<Value> {
    let any = |kind: &str| json!({"@type": format!("type.googleapis.com/{kind}")});
    vec![
        json!({}),
        json!({"name": "x"}),
        json!({"name": ""}),
        json!({"name": "0.0.0.0_9080"}),
        json!({"name": "a", "domains": ["*"]}),
        json!({"name": "a", "domains": ["a", "A"], "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}]}),
        json!({"match": {"prefix": "/x"}, "route": {"cluster": "x"}}),
        json!({"connect_timeout": "-1s", "lb_policy": 99}),
        json!({"connect_timeout": "1s", "type": "EDS"}),
        json!({"name": "y", "connect_timeout": "1s", "type": "STATIC"}),
        json!({"filter_chains": [{"filters": [{"name": "f"}]}]}),
        json!({"filters": [{"name": "f", "typed_config": any("envoy.extensions.filters.network.echo.v3.Echo")}]}),
        json!({"filter_chain_match": {"destination_port": 70000}}),
        json!({"name": "f", "typed_config": any("envoy.extensions.filters.network.echo.v3.Echo")}),
        json!({"name": MANAGER, "typed_config": any("envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager")}),
        json!({"name": "f", "typed_config": any("no.Such")}),
        json!({"typed_config": any("envoy.extensions.filters.http.router.v3.Router")}),
        json!({"transport_socket": {"name": "envoy.transport_sockets.tls"}}),
        json!({"virtual_hosts": [{"name": "v", "domains": ["*"]}]}),
        json!({"name": 5}),
        json!({"metadata": {"filter_metadata": {"b": {"c": 1}, "a": {"d": [null]}}}}),
        lua("lua"),
    ]
}

fn matches() -> Vec<Value> {
    let of_manager = |sub: &str| json!({"listener": {"filterChain": {"filter": {"name": MANAGER, "subFilter": {"name": sub}}}}});
    vec![
        json!({}),
        json!({"listener": {"portNumber": 9080}}),
        json!({"listener": {"name": "virtualInbound", "listenerFilter": "envoy.filters.listener.tls_inspector"}}),
        json!({"listener": {"filterChain": {"filter": {"name": MANAGER}}}}),
        of_manager("envoy.filters.http.router"),
        of_manager("envoy.filters.http.fault"),
        json!({"routeConfiguration": {"name": "9080"}}),
        json!({"routeConfiguration": {"vhost": {"domainName": "reviews", "route": {"action": "ROUTE"}}}}),
        json!({"cluster": {"service": "reviews.shop.svc.cluster.local"}}),
        json!({"cluster": {"name": "BlackHoleCluster"}}),
    ]
}

prop_compose! {
    fn patch()(
        apply_to in select(&[
            "LISTENER", "FILTER_CHAIN", "NETWORK_FILTER", "HTTP_FILTER", "LISTENER_FILTER", "ROUTE_CONFIGURATION", "VIRTUAL_HOST", "HTTP_ROUTE",
            "CLUSTER", "EXTENSION_CONFIG", "BOOTSTRAP",
        ][..]),
        operation in select(&["MERGE", "ADD", "REMOVE", "INSERT_BEFORE", "INSERT_AFTER", "INSERT_FIRST", "REPLACE"][..]),
        context in select(&["ANY", "SIDECAR_INBOUND", "SIDECAR_OUTBOUND", "GATEWAY"][..]),
        matching in any::<Index>(),
        value in any::<Index>(),
    ) -> Value {
        let mut matching = matching.get(&matches()).clone();
        matching["context"] = json!(context);
        json!({"applyTo": apply_to, "match": matching, "patch": {"operation": operation, "value": value.get(&values())}})
    }
}

#[test]
fn any_filter_leaves_the_bytes_of_others_alone() {
    let steps = proptest::collection::vec((proptest::collection::vec(patch(), 1..5), any::<bool>()), 1..4);
    let mut runner = TestRunner::new(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() });
    runner
        .run(&steps, |steps| {
            let mut plane = plane();
            let others = ["b-1.shop", "gateway-1.istio-system"];
            let before = others.map(|id| plane.view(id));
            for (at, (patches, again)) in steps.into_iter().enumerate() {
                // An object that does not fit is refused as a whole.
                let text = filter(if again { "one" } else { "another" }, "a", &Value::from(patches));
                let parsed = parse(&serde_json::from_str(&text).unwrap(), &"Kubernetes".into());
                if parsed.objects.is_empty() {
                    prop_assert!(!parsed.diagnostics.is_empty());
                    continue;
                }
                plane.apply(&text);
                for (id, before) in others.iter().zip(&before) {
                    prop_assert!(plane.view(id).has_layers_of(before), "{id} at step {at}");
                }
                plane.check();
                for kind in ResourceType::in_views() {
                    for resource in plane.view("a-1.shop").iter(kind) {
                        let found = crate::xds::encode::constraints::violations_of(full_name(kind), &resource.body);
                        prop_assert!(found.is_empty(), "{}: {found:?}", resource.name);
                    }
                }
            }
            Ok(())
        })
        .unwrap();
}

fn full_name(kind: ResourceType) -> &'static str {
    kind.type_url().rsplit('/').next().unwrap()
}

//! What EnvoyFilters said before stays where what they say now cannot be applied.

use serde_json::{Value, json};

use super::{
    patches::{before_router, behind_router, filter, lua, merging, plane},
    *,
};

#[test]
fn where_a_filter_is_broken_what_it_said_before_stays() {
    const CLUSTER: &str = "outbound|9080||reviews.shop.svc.cluster.local";
    let broken = || json!([merging(&json!({"connect_timeout": "5s"})), behind_router(), before_router("SIDECAR_OUTBOUND", &lua("new"))]);
    let timeout = |plane: &Plane| {
        crate::xds::render::resource_to_json(plane.view("a-1.shop").get(ResourceType::Cluster, CLUSTER).unwrap())["connect_timeout"].clone()
    };
    let listener = |plane: &Plane, id| plane.view(id).version(ResourceType::Listener, "0.0.0.0_9080").unwrap();
    let mut plane = plane();
    let unpatched = listener(&plane, "a-1.shop");
    let good = json!([merging(&json!({"connect_timeout": "3s"})), before_router("SIDECAR_OUTBOUND", &lua("good"))]);
    plane.apply(&filter("one", "a", &good));
    let patched = listener(&plane, "a-1.shop");
    assert_ne!(patched, unpatched);

    // What Envoy would refuse of the new content concerns the listener: the clusters are as it says.
    plane.apply(&filter("one", "a", &broken()));
    assert_eq!((listener(&plane, "a-1.shop"), timeout(&plane)), (patched, json!("5s")));
    let told = plane.told();
    let start = "error: EnvoyFilter/shop/one spec.configPatches[1].patch: cannot be what becomes of listener 0.0.0.0_9080 (";
    assert!(told.len() == 1 && told[0].starts_with(start) && told[0].ends_with("what the object said before stays there"), "{told:#?}");
    plane.check();

    // Of what is no message, nothing is known but that it is none: all stays as it was.
    let unknown = json!({"name": "x", "typed_config": {"@type": "type.googleapis.com/no.Such"}});
    plane.apply(&filter("one", "a", &json!([merging(&json!({"connect_timeout": "7s"})), before_router("SIDECAR_OUTBOUND", &unknown)])));
    assert_eq!((listener(&plane, "a-1.shop"), timeout(&plane)), (patched, json!("5s")));
    let said: Vec<String> = crate::mesh::validate::check(plane.engine.world()).iter().map(ToString::to_string).collect();
    let ends = "all of the object stays as it was before";
    assert!(said.iter().any(|said| said.contains("configPatches[1].patch.value.typed_config.@type") && said.ends_with(ends)), "{said:#?}");
    plane.check();

    plane.apply(&filter("one", "a", &json!([merging(&json!({"connect_timeout": "7s"}))])));
    assert_eq!((listener(&plane, "a-1.shop"), timeout(&plane)), (unpatched, json!("7s")));
    assert_eq!(plane.told(), [""; 0]);
    plane.check();
}

#[test]
fn what_a_filter_said_before_is_for_nobody_else() {
    let listener = |plane: &Plane, id| plane.view(id).version(ResourceType::Listener, "0.0.0.0_9080").unwrap();
    let mut plane = plane();
    let [a, b] = ["a-1.shop", "b-1.shop"].map(|id| listener(&plane, id));
    plane.apply(&filter("one", "a", &json!([before_router("SIDECAR_OUTBOUND", &lua("good"))])));
    plane.apply(&filter("one", "b", &json!([behind_router()])));
    assert_eq!(["a-1.shop", "b-1.shop"].map(|id| listener(&plane, id)), [a, b]);
    assert!(plane.told()[0].ends_with("what the object said before stays there"), "{:?}", plane.told());
    plane.check();
    // An object that said nothing before has the patch left out alone.
    plane.apply(&filter("other", "b", &json!([behind_router(), before_router("SIDECAR_OUTBOUND", &lua("good"))])));
    assert_ne!(listener(&plane, "b-1.shop"), b);
    assert!(plane.told().iter().any(|told| told.contains("/other ") && told.ends_with("and the others are applied")), "{:?}", plane.told());
    plane.check();
}

#[test]
fn what_a_filter_added_before_stays_where_it_adds_what_is_broken() {
    let adding = |apply_to: &str, value: Value| json!({"applyTo": apply_to, "match": {"context": "SIDECAR_OUTBOUND"}, "patch": {"operation": "ADD", "value": value}});
    let asking = before_router(
        "SIDECAR_OUTBOUND",
        &json!({"name": "found", "config_discovery": {"config_source": {"ads": {}}, "type_urls": ["x"]}}),
    );
    let config = json!({"applyTo": "EXTENSION_CONFIG", "patch": {"operation": "ADD", "value": lua("found")}});
    let host = json!({"name": "v", "domains": ["v.example.com"]});
    let good = json!([
        adding("CLUSTER", json!({"name": "x", "type": "STATIC", "connect_timeout": "1s"})),
        adding("VIRTUAL_HOST", host),
        asking,
        config,
    ]);
    let mut plane = plane();
    plane.apply(&filter("adding", "a", &good));
    let before = content(&plane.view("a-1.shop"));
    assert_eq!(plane.told(), [""; 0]);

    let mut broken_config = config.clone();
    broken_config["patch"]["value"] = json!({"typed_config": lua("found")["typed_config"]});
    let broken = json!([
        adding("CLUSTER", json!({"name": "x", "type": "EDS", "connect_timeout": "1s"})),
        adding("VIRTUAL_HOST", json!({"name": "v"})),
        asking,
        broken_config,
    ]);
    plane.apply(&filter("adding", "a", &broken));
    let now = content(&plane.view("a-1.shop"));
    let differing: Vec<_> = before.keys().chain(now.keys()).filter(|key| before.get(*key) != now.get(*key)).collect();
    assert!(differing.is_empty(), "{differing:?}");
    let told = plane.told();
    assert!(told.len() == 3 && told.iter().all(|told| told.ends_with("what the object said before stays there")), "{told:#?}");
    plane.check();
}

//! Code of users' own: what is replaced with it and what is not, and who is given what a registry asks for.

use super::*;
use crate::{
    mesh::model::{SpiffeId, WasmSupport},
    xds::resource::Resource,
};

const FILTER: &str = "extensions.istio.io/trafficextension/shop.check~istio-translated-wasmplugin";

const PULL: &str = "
apiVersion: v1
kind: Secret
metadata: {name: registry, namespace: shop}
stringData: {.dockerconfigjson: '{\"auths\": {\"r.example.com\": {\"auth\": \"aHVudGVyMjo=\"}}}'}
";

fn plugin(spec: &str) -> String {
    format!(
        "apiVersion: extensions.istio.io/v1alpha1\nkind: WasmPlugin\nmetadata: {{name: check, namespace: shop}}\n\
         spec: {{url: \"oci://r.example.com/check:v1\"{spec}}}\n"
    )
}

fn attach(plane: &mut Plane, id: &str, caller: Caller, wasm: WasmSupport) {
    let namespace = id.rsplit_once('.').unwrap().1;
    let proxy = Proxy { namespace: namespace.into(), ips: vec![[10, 0, 0, 2].into()], wasm, ..Proxy::new(ProxyKind::Sidecar, id) };
    let node = Arc::new(Node::from(Arc::new(proxy)));
    let views = plane.classes.attach(&Proven::new(Arc::clone(&node), caller).unwrap());
    plane.connected.push((node, views));
}

const ALL: WasmSupport = WasmSupport { runs: true, fetches: true };

fn workload(namespace: &str) -> Caller {
    Caller::Workload(SpiffeId { trust_domain: "td".into(), namespace: namespace.into(), service_account: "a".into() })
}

fn module(plane: &Plane, at: usize) -> Option<Arc<Resource>> {
    plane.connected[at].1.borrow().get(ResourceType::ExtensionConfig, FILTER).cloned()
}

fn text(resource: &Resource) -> String {
    String::from_utf8_lossy(&resource.body).into_owned()
}

fn listeners(plane: &Plane) -> Vec<Arc<Resource>> {
    plane.connected[0].1.borrow().iter(ResourceType::Listener).cloned().collect()
}

#[test]
fn a_module_is_replaced_without_the_listeners_that_name_it() {
    let mut plane = Plane::new();
    plane.apply(SHOP);
    plane.apply(REVIEWS);
    attach(&mut plane, "a-1.shop", Caller::Anonymous, ALL);
    plane.apply(&plugin(""));
    let (named, first) = (listeners(&plane), module(&plane, 0).unwrap());
    assert!(named.iter().any(|listener| listener.refers_to(ResourceType::ExtensionConfig, FILTER)));
    let before = plane.classes.translated();
    plane.apply(&plugin(", pluginConfig: {rule: other}"));
    assert_ne!(module(&plane, 0).unwrap().version, first.version);
    assert!(named.iter().zip(&listeners(&plane)).all(|(old, new)| Arc::ptr_eq(old, new)), "the same listeners, to the pointer");
    let after = plane.classes.translated();
    let made: Vec<_> = after.iter().filter(|(what, count)| before[*what] != **count).map(|(what, _)| *what).collect();
    assert_eq!(made, ["extension_config"], "nothing else is translated");
    plane.check();
    // Where it stands is the listeners'.
    plane.apply(&plugin(", phase: AUTHN, match: [{ports: [{number: 1}]}]"));
    assert!(!listeners(&plane).iter().any(|listener| listener.refers_to(ResourceType::ExtensionConfig, FILTER)));
    plane.check();
}

#[test]
fn what_a_registry_asks_for_is_for_proven_callers_of_the_plugins_namespace() {
    let mut plane = Plane::new();
    plane.apply(SHOP);
    attach(&mut plane, "a-1.shop", Caller::Anonymous, ALL);
    attach(&mut plane, "a-1.shop", workload("shop"), ALL);
    attach(&mut plane, "a-1.other", workload("other"), ALL);
    let knows = |plane: &Plane| [0, 1, 2].map(|at| module(plane, at).map(|module| text(&module).contains("aHVudGVyMjo=")));
    plane.apply(&plugin(", imagePullSecret: registry"));
    assert_eq!(knows(&plane), [Some(false), Some(false), None], "there is no such Secret");
    plane.apply(PULL);
    assert_eq!(knows(&plane), [Some(false), Some(true), None]);
    // Another namespace's is not to be had, whatever is written.
    plane.apply(&PULL.replace("namespace: shop", "namespace: bank").replace("name: registry", "name: bank-registry"));
    plane.apply(&plugin(", imagePullSecret: \"kubernetes://bank/bank-registry\""));
    assert_eq!(knows(&plane), [Some(false), Some(false), None]);
    plane.apply(&plugin(", imagePullSecret: registry"));
    assert_eq!(knows(&plane), [Some(false), Some(true), None]);
    // What is no longer there is no longer shown.
    let key = ObjectKey { cluster: "Kubernetes".into(), kind: Kind::Secret, namespace: "shop".into(), name: "registry".into() };
    let applied = plane.engine.apply([(key, None)]);
    plane.classes.prepare(applied.world, &applied.touched).send();
    assert_eq!(knows(&plane), [Some(false), Some(false), None]);
    let found: Vec<String> = crate::mesh::validate::check(plane.engine.world()).iter().map(ToString::to_string).collect();
    assert!(found.iter().any(|finding| finding.contains("Secret shop/registry does not exist: proxies that do not have")), "{found:?}");
}

#[test]
fn a_proxy_that_cannot_run_a_module_is_sent_what_its_strategy_says() {
    let mut plane = Plane::new();
    plane.apply(SHOP);
    attach(&mut plane, "a-1.shop", Caller::Anonymous, WasmSupport { runs: false, fetches: true });
    attach(&mut plane, "b-1.shop", Caller::Anonymous, WasmSupport { runs: true, fetches: false });
    for (strategy, prefix) in
        [("FAIL_CLOSE", "wasm-default-deny"), ("FAIL_OPEN", "wasm-default-allow"), ("FAIL_RELOAD", "wasm-default-deny")]
    {
        plane.apply(&plugin(&format!(", failStrategy: {strategy}")));
        for at in [0, 1] {
            let sent = text(&module(&plane, at).unwrap());
            assert!(sent.contains(prefix) && !sent.contains("envoy.wasm.runtime.v8"), "{at}: {sent}");
        }
    }
    let found: Vec<String> = plane.classes.findings().borrow().iter().map(ToString::to_string).collect();
    for what in ["built without what runs WebAssembly (V8)", "have no agent beside them that fetches modules"] {
        assert!(found.iter().any(|finding| finding.contains(what) && finding.contains("spec.url")), "{found:?}");
    }
    // A file needs nobody who fetches it.
    let beside = plugin("").replace("oci://r.example.com/check:v1", "file:///opt/check.wasm");
    plane.apply(&beside);
    assert!(text(&module(&plane, 1).unwrap()).contains("/opt/check.wasm"));
    assert!(!text(&module(&plane, 0).unwrap()).contains("/opt/check.wasm"));
}

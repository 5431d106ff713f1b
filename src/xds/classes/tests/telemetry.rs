//! Telemetry objects: whose proxies they touch, and what of these.

use std::collections::BTreeSet;

use super::*;
use crate::xds::resource::Resource;

const GATEWAY: usize = 0;
const A: usize = 1;
const B: usize = 2;
const OTHER: usize = 3;
const ALL: [usize; 4] = [GATEWAY, A, B, OTHER];

const LOGS: &str = "accessLogging: [{providers: [{name: envoy}]}]";
const OF_A: &str = "selector: {matchLabels: {app: a}}, ";

/// Returns a plane with a gateway in the root namespace, two sidecars in one namespace and one in another.
fn plane() -> Plane {
    let mut plane = Plane::of_three();
    plane.connect(ProxyKind::Sidecar, "c-1.other", [10, 0, 0, 4]);
    plane
}

fn telemetry(namespace: &str, spec: &str) -> String {
    format!("apiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {{name: it, namespace: {namespace}}}\nspec: {{{spec}}}\n")
}

fn removed(plane: &mut Plane, namespace: &str) {
    let key = ObjectKey { cluster: "Kubernetes".into(), kind: Kind::Telemetry, namespace: namespace.into(), name: "it".into() };
    let applied = plane.engine.apply([(key, None)]);
    plane.classes.prepare(applied.world, &applied.touched).send();
}

type Sent = BTreeMap<(&'static str, SmolStr), Arc<Resource>>;

fn sent(plane: &Plane) -> [Sent; 4] {
    ALL.map(|at| {
        let view = plane.connected[at].1.borrow();
        let all = ResourceType::in_views().flat_map(|kind| view.iter(kind).map(move |resource| (kind, resource)));
        all.map(|(kind, resource)| ((kind.as_str(), resource.name.clone()), Arc::clone(resource))).collect()
    })
}

/// Returns what a proxy was sent anew, though it may be the same.
fn anew(before: &Sent, after: &Sent) -> BTreeSet<String> {
    assert!(before.keys().eq(after.keys()), "nothing comes or goes");
    let changed = before.iter().zip(after.values()).filter(|((_, before), after)| !Arc::ptr_eq(before, after));
    changed.map(|(((kind, name), _), _)| format!("{kind}/{name}")).collect()
}

#[test]
fn an_object_touches_the_proxies_that_it_is_for_and_of_them_their_listeners() {
    let mut plane = plane();
    for (namespace, target, of) in [("shop", "", &[A, B][..]), ("shop", OF_A, &[A]), ("other", "", &[OTHER]), ("istio-system", "", &ALL)] {
        let (before, counts) = (sent(&plane), plane.classes.translated());
        plane.apply(&telemetry(namespace, &format!("{target}{LOGS}")));
        let after = sent(&plane);
        for at in ALL {
            let anew = anew(&before[at], &after[at]);
            assert_eq!(!anew.is_empty(), of.contains(&at), "{namespace} {target}: {at} has {anew:?}");
            assert!(anew.iter().all(|name| name.starts_with("lds/")), "{namespace} {target}: {at} has {anew:?}");
        }
        let counted = plane.classes.translated();
        let made: Vec<_> = counted.iter().filter(|(what, count)| counts[*what] != **count).map(|(what, _)| *what).collect();
        // What an earlier object had made is remembered.
        assert!(made.iter().all(|what| *what == "listener"), "{namespace} {target}: {made:?}");
        plane.check();
        removed(&mut plane, namespace);
        plane.check();
        assert_eq!(sent(&plane).map(|sent| versions(&sent)), before.map(|sent| versions(&sent)), "as if it had never been");
    }
}

#[test]
fn an_object_for_one_side_leaves_the_listeners_of_the_other_alone() {
    let mut plane = plane();
    for (mode, inbound) in [("SERVER", true), ("CLIENT", false)] {
        let before = sent(&plane);
        plane.apply(&telemetry("istio-system", &format!("accessLogging: [{{match: {{mode: {mode}}}, providers: [{{name: envoy}}]}}]")));
        let after = sent(&plane);
        for at in [A, B, OTHER] {
            let anew = anew(&before[at], &after[at]);
            assert!(!anew.is_empty() && anew.iter().all(|name| (name == "lds/virtualInbound") == inbound), "{mode}: {at} has {anew:?}");
        }
        assert_eq!(anew(&before[GATEWAY], &after[GATEWAY]).is_empty(), inbound, "what passes a gateway is a client's");
        removed(&mut plane, "istio-system");
    }
}

#[test]
fn an_object_that_says_what_held_before_sends_nothing() {
    let mut plane = plane();
    plane.apply(&telemetry("istio-system", LOGS));
    let before = sent(&plane);
    plane.apply(&telemetry("shop", LOGS));
    let after = sent(&plane);
    for at in ALL {
        assert_eq!(versions(&before[at]), versions(&after[at]), "{at}");
    }
    plane.check();
}

fn versions(sent: &Sent) -> Vec<ContentHash> {
    sent.values().map(|resource| resource.version).collect()
}

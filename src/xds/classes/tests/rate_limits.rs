//! Limits: whose proxies hold them, and what is replaced when one changes.

use super::*;
use crate::xds::resource::Resource;

const FILTER: &str = "istiod-lite.io/ratelimitpolicy/shop.few/each";
const GATEWAY: usize = 0;
const A: usize = 1;
const B: usize = 2;

fn policy(target: &str, limit: &str) -> String {
    format!(
        "apiVersion: istiod-lite.io/v1alpha1\nkind: RateLimitPolicy\nmetadata: {{name: few, namespace: shop}}\n\
         spec: {{{target}limits: [{{name: each, {limit}}}]}}\n"
    )
}

const OF_A: &str = "selector: {matchLabels: {app: a}}, ";
const OF_REVIEWS: &str = "targetRefs: [{kind: Service, name: reviews}], ";
const OF_PUBLIC: &str = "targetRefs: [{group: networking.istio.io, kind: Gateway, name: public}], ";

fn resources(plane: &Plane, at: usize, kind: ResourceType) -> Vec<Arc<Resource>> {
    plane.connected[at].1.borrow().iter(kind).cloned().collect()
}

fn all(plane: &Plane, at: usize) -> Vec<Arc<Resource>> {
    ResourceType::in_views().flat_map(|kind| resources(plane, at, kind)).collect()
}

fn same(before: &[Arc<Resource>], after: &[Arc<Resource>]) -> bool {
    before.len() == after.len() && before.iter().zip(after).all(|(before, after)| Arc::ptr_eq(before, after))
}

/// Returns which proxies hold the limit: they are given the filter, and their listeners ask for it.
fn holders(plane: &Plane) -> Vec<usize> {
    let holds = |at: &usize| {
        let asks = |listener: &Arc<Resource>| listener.refers_to(ResourceType::ExtensionConfig, FILTER);
        let asked = resources(plane, *at, ResourceType::Listener).iter().any(asks);
        let given = plane.connected[*at].1.borrow().get(ResourceType::ExtensionConfig, FILTER).is_some();
        assert_eq!(asked, given, "{at}");
        given
    };
    [GATEWAY, A, B].into_iter().filter(holds).collect()
}

#[test]
fn a_limit_is_for_the_workloads_that_it_names_and_no_others_bytes_change() {
    let mut plane = Plane::of_three();
    for (target, of) in [(OF_A, vec![A]), (OF_REVIEWS, vec![B]), (OF_PUBLIC, vec![GATEWAY]), ("", vec![A, B])] {
        let before = [GATEWAY, A, B].map(|at| all(&plane, at));
        plane.apply(&policy(target, "requests: 1"));
        assert_eq!(holders(&plane), of, "{target}");
        for at in [GATEWAY, A, B].into_iter().filter(|at| !of.contains(at)) {
            assert!(same(&before[at], &all(&plane, at)), "{target}: {at}");
        }
        plane.check();
        plane.remove(Kind::RateLimitPolicy, "shop", "few");
        assert_eq!(holders(&plane), [0; 0]);
        for at in [GATEWAY, A, B] {
            assert!(before[at].iter().zip(&all(&plane, at)).all(|(before, after)| before.version == after.version), "{target}: {at}");
        }
        plane.check();
    }
}

#[test]
fn a_limit_changes_without_the_listeners_that_hold_it() {
    let mut plane = Plane::of_three();
    plane.apply(&policy(OF_A, "requests: 1"));
    let (listeners, counts) = (resources(&plane, A, ResourceType::Listener), plane.classes.translated());
    let first = plane.connected[A].1.borrow().get(ResourceType::ExtensionConfig, FILTER).cloned().unwrap();
    plane.apply(&policy(OF_A, "requests: 2"));
    let second = plane.connected[A].1.borrow().get(ResourceType::ExtensionConfig, FILTER).cloned().unwrap();
    assert_ne!(first.version, second.version);
    assert!(same(&listeners, &resources(&plane, A, ResourceType::Listener)), "the same listeners, to the pointer");
    let after = plane.classes.translated();
    let made: Vec<_> = after.iter().filter(|(what, count)| counts[*what] != **count).map(|(what, _)| *what).collect();
    assert_eq!(made, ["rate_limit"], "nothing else is translated");
    plane.check();
}

#[test]
fn a_limit_follows_the_service_that_it_names() {
    let mut plane = Plane::of_three();
    plane.apply(&policy(OF_REVIEWS, "requests: 1"));
    assert_eq!(holders(&plane), [B]);
    plane.apply(&REVIEWS.replace("app: b", "app: a"));
    assert_eq!(holders(&plane), [A]);
    plane.check();
    plane.remove(Kind::Service, "shop", "reviews");
    assert_eq!(holders(&plane), [0; 0]);
    plane.check();
}

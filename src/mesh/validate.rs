//! Checks across objects: what each object says may be right by itself and still lead nowhere.
//!
//! What is doubtful is a warning: the objects are applied as they are. An error names the part of an object that is not
//! applied because it is not supported. Checks of one object alone are in `api`.

mod authorization;
mod destination_rules;
mod endpoints;
mod envoy_filters;
mod extensions;
mod gateways;
mod imports;
mod lookups;
mod rate_limits;
mod routes;
mod services;
mod singletons;
mod telemetry;
mod tokens;
mod unreached;
mod unsupported;

use std::cmp::Ordering;

pub use self::{imports::unused_imports, unreached::Unreached};
use super::world::World;
use crate::api::{Diagnostic, Kind, ObjectKey};

/// How many findings about one object are told.
const MOST_OF_OBJECT: usize = 50;

/// Returns what is doubtful in the world, or refused, sorted. It costs one pass over the objects.
pub fn check(world: &World) -> Vec<Diagnostic> {
    let mut found = routes::check(world);
    found.extend(world.trust.findings.iter().cloned());
    found.extend(destination_rules::check(world));
    found.extend(gateways::check(world));
    found.extend(singletons::check(world));
    found.extend(tokens::check(world));
    found.extend(authorization::check(world));
    found.extend(telemetry::check(world));
    found.extend(envoy_filters::check(world));
    found.extend(extensions::check(world));
    found.extend(rate_limits::check(world));
    found.extend(unsupported::check(world));
    found.extend(services::check(world));
    found.extend(endpoints::check(world));
    sorted(found)
}

/// Returns what is doubtful or refused about one object of the world, and doubtful about the delegates that it names, sorted.
/// It costs no pass over all objects.
pub fn of(world: &World, object: &ObjectKey) -> Vec<Diagnostic> {
    let key = (object.namespace.clone(), object.name.clone());
    let is_about = |finding: &Diagnostic| {
        finding.object.as_ref().is_some_and(|of| (of.kind, &of.namespace, &of.name) == (object.kind, &key.0, &key.1))
    };
    // With a VirtualService's own findings come those about its delegates; others are about this object alone.
    let mut found = match object.kind {
        Kind::VirtualService => routes::of(world, &key),
        Kind::DestinationRule => world.destination_rules.get(&key).map(|rule| destination_rules::of(world, rule)).unwrap_or_default(),
        Kind::Gateway => world.gateways.get(&key).map(|gateway| gateways::of(world, gateway)).unwrap_or_default(),
        Kind::RequestAuthentication => world.request_authentications.get(&key).map(|object| tokens::of(world, object)).unwrap_or_default(),
        Kind::AuthorizationPolicy => {
            world.authorization_policies.get(&key).map(|policy| authorization::of(world, policy)).unwrap_or_default()
        }
        Kind::EnvoyFilter => world.envoy_filters.get(&key).map(envoy_filters::of).unwrap_or_default(),
        Kind::TrafficExtension | Kind::WasmPlugin => extensions::check(world),
        Kind::RateLimitPolicy => world.rate_limit_policies.get(&key).map(|policy| rate_limits::of(world, policy)).unwrap_or_default(),
        Kind::ServiceEntry => [services::check(world), endpoints::check(world)].concat(),
        Kind::WorkloadEntry => endpoints::check(world),
        Kind::Telemetry => {
            let own = world.telemetries.get(&key).map(|object| telemetry::of(world, object)).unwrap_or_default();
            [own, singletons::check(world)].concat()
        }
        Kind::Sidecar | Kind::PeerAuthentication | Kind::ProxyConfig => singletons::check(world),
        _ => Vec::new(),
    };
    found.extend(unsupported::of(world, object));
    found.retain(|finding| object.kind == Kind::VirtualService || is_about(finding));
    sorted(found)
}

/// Sorts by object and field, says once what several roots say of one delegate, and no more of an object than a person reads.
fn sorted(mut found: Vec<Diagnostic>) -> Vec<Diagnostic> {
    let by_place = |a: &Diagnostic, b: &Diagnostic| (&a.object, &a.field, &a.message).cmp(&(&b.object, &b.field, &b.message));
    found.sort_by(by_place);
    found.dedup();
    found.chunk_by(|a, b| a.object == b.object).flat_map(|of_object| few(of_object, by_place)).collect()
}

/// Returns the findings about one object, if they are many only the first, errors before warnings, and how many more there are.
fn few(of_object: &[Diagnostic], by_place: impl Fn(&Diagnostic, &Diagnostic) -> Ordering) -> Vec<Diagnostic> {
    let mut found = of_object.to_vec();
    if found.len() > MOST_OF_OBJECT {
        found.sort_by_key(|finding| finding.severity);
        found.truncate(MOST_OF_OBJECT);
        found.sort_by(by_place);
        let object = found[0].object.clone();
        let message = format!("{} more findings are not listed", of_object.len() - MOST_OF_OBJECT);
        found.push(Diagnostic { object, ..Diagnostic::warning("", message) });
    }
    found
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::{
        api::{
            Diagnostic, Kind, ObjectKey,
            mesh_config::MeshConfig,
            parse,
            yaml::{document, documents},
        },
        mesh::{
            engine::Engine,
            validate::{check, of},
        },
    };

    const SHOP: &str = "
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: shop}
spec: {clusterIP: 10.96.0.1, ports: [{name: http, port: 9080}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: shop}
spec: {host: reviews, subsets: [{name: v1, labels: {version: v1}}]}
";

    fn findings(yaml: &str) -> Vec<String> {
        let mut engine = Engine::new("cluster.local", MeshConfig::default());
        for text in documents(SHOP).into_iter().chain(documents(yaml)) {
            let parsed = parse(&document(text).unwrap(), &"Kubernetes".into());
            assert_eq!(parsed.refused, []);
            for object in parsed.objects {
                // What is said of an object before it stands is what is said of it then.
                let foreseen = of(&engine.clone().apply([(object.key.clone(), Some(Arc::clone(&object)))]).world, &object.key);
                engine.apply([(object.key.clone(), Some(Arc::clone(&object)))]);
                let mut stands = check(engine.world());
                stands.retain(|finding| finding.object.as_ref() == Some(&object.key));
                assert_eq!(foreseen, stands);
            }
        }
        check(engine.world()).iter().map(ToString::to_string).collect()
    }

    fn virtual_service(name: &str, spec: &str) -> String {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n"
        )
    }

    #[test]
    fn nothing_is_said_of_what_is_right() {
        let right = virtual_service("reviews", "{hosts: [reviews], http: [{route: [{destination: {host: reviews, subset: v1}}]}]}");
        assert_eq!(findings(&right), Vec::<String>::new());
    }

    #[test]
    fn destinations_that_lead_nowhere_are_named() {
        let wrong = virtual_service(
            "reviews",
            "{hosts: [reviews], http: [{route: [{destination: {host: reviews, subset: v9}, weight: 1}, {destination: {host: gone}, weight: 1}, \
             {destination: {host: reviews, port: {number: 1}}, weight: 1}]}]}",
        );
        assert_eq!(
            findings(&wrong),
            [
                "warning: VirtualService/shop/reviews spec.http[0].route[0].destination.subset: subset v9 of \
                 reviews.shop.svc.cluster.local is defined by no DestinationRule; requests get 503 \
                 (DestinationRule/shop/reviews defines: v1)",
                "warning: VirtualService/shop/reviews spec.http[0].route[1].destination.host: no service has the host \
                 gone.shop.svc.cluster.local; requests get 503",
                "warning: VirtualService/shop/reviews spec.http[0].route[2].destination.port: reviews.shop.svc.cluster.local \
                 has no port 1; requests get 503",
            ]
        );
    }

    #[test]
    fn what_two_objects_multiply_is_bounded_and_told() {
        let list = |count: usize, item: fn(usize) -> String| (0..count).map(item).collect::<Vec<_>>().join(", ");
        let ports = list(50, |at| format!("{{number: {}, name: n{at}, protocol: HTTP}}", at + 1));
        let entry = format!(
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: a, namespace: shop}}\n\
             spec: {{hosts: [a.example.com], resolution: STATIC, ports: [{ports}]}}\n"
        );
        let subsets = list(401, |at| format!("{{name: n{at}, labels: {{a: b}}}}"));
        let rule = format!(
            "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: a, namespace: shop}}\n\
             spec: {{host: a.example.com, subsets: [{subsets}]}}\n"
        );
        // Some 500 bytes a route, for 50 ports.
        let matches = list(3000, |at| format!("{{uri: {{exact: /{at}}}}}"));
        let routes =
            format!("{{hosts: [a.example.com], http: [{{match: [{matches}], route: [{{destination: {{host: a.example.com}}}}]}}]}}");
        let found = findings(&(entry + &rule + &virtual_service("a", &routes)));
        assert_eq!(
            found,
            [
                "error: DestinationRule/shop/a spec.subsets: are 401 of a.example.com, which has 50 ports: there is room for 400. The first are \
                 used, and requests for the others get 503",
                "error: VirtualService/shop/a spec.http: are too many routes for all the ports that these hosts have, each of which has them \
                 all: proxies that see these services get none, and requests get 503"
            ]
        );
    }

    #[test]
    fn of_an_object_no_more_is_told_than_a_person_reads() {
        let routes: Vec<String> = (0..60).map(|at| format!("{{route: [{{destination: {{host: gone-{at}}}}}]}}")).collect();
        let found = findings(&virtual_service("reviews", &format!("{{hosts: [reviews], http: [{}]}}", routes.join(", "))));
        // 60 hosts that no service has, and 59 routes behind one that takes everything.
        assert_eq!((found.len(), found[50].as_str()), (51, "warning: VirtualService/shop/reviews: 69 more findings are not listed"));
    }

    #[test]
    fn the_younger_of_two_virtual_services_for_a_host_is_named() {
        let route = "{hosts: [reviews], http: [{route: [{destination: {host: reviews}}]}]}";
        let both = virtual_service("a", route) + &virtual_service("b", route);
        assert_eq!(
            findings(&both),
            ["warning: VirtualService/shop/b spec.hosts[0]: reviews.shop.svc.cluster.local is routed by VirtualService/shop/a too, \
              which goes first by age, then name: these routes are ignored for proxies and ports that it has any for"]
        );
    }

    #[test]
    fn what_a_second_definition_of_a_host_loses_is_named() {
        let entry = |name: &str, spec: &str| {
            format!(
                "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{{spec}}}\n"
            )
        };
        let both = entry("a", "hosts: [a.example.com], resolution: DNS, ports: [{number: 80, name: http, protocol: HTTP}]")
            + &entry(
                "b",
                "hosts: [a.example.com], resolution: STATIC, ports: [{number: 80, name: tcp, protocol: TCP}, {number: 81, name: tcp-81, protocol: TCP}]",
            )
            + &entry(
                "c",
                "hosts: [reviews.shop.svc.cluster.local], location: MESH_INTERNAL, resolution: STATIC, ports: [{number: 9081, name: http, protocol: HTTP}]",
            );
        assert_eq!(
            findings(&both),
            [
                "warning: ServiceEntry/shop/b spec.hosts: a.example.com is defined by ServiceEntry/shop/a too, which goes first by age, then \
                 name: ports 81 of this one lead nowhere, because the two differ in resolution; ports 80 have the protocol that it gives \
                 them; resolution of this one has no effect; endpoints of both are used",
                "warning: ServiceEntry/shop/c spec.hosts: reviews.shop.svc.cluster.local is defined by Service/shop/reviews too, which goes \
                 first: ports 9081 of this one lead nowhere, because a Service of Kubernetes takes no ports of ServiceEntries; endpoints \
                 of both are used",
            ]
        );
    }

    #[test]
    fn endpoints_that_nobody_is_sent_are_named() {
        let object = |kind: &str, name: &str, spec: &str| {
            format!(
                "---\napiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{{spec}}}\n"
            )
        };
        let http = "ports: [{number: 80, name: http, protocol: HTTP}]";
        let yaml = [
            object("ServiceEntry", "a", &format!("hosts: [a.example.com], resolution: STATIC, {http}, endpoints: [{{address: 192.0.2.1}}]")),
            object("ServiceEntry", "b", &format!("hosts: [a.example.com], resolution: DNS, {http}, endpoints: [{{address: b.example.com}}]")),
            object("ServiceEntry", "c", &format!("hosts: [c.example.com], resolution: DNS_ROUND_ROBIN, {http}, endpoints: [{{address: c1.example.com}}]")),
            object("ServiceEntry", "d", &format!("hosts: [c.example.com], resolution: DNS_ROUND_ROBIN, {http}, endpoints: [{{address: c2.example.com}}]")),
            object("ServiceEntry", "vms", &format!("hosts: [vms.example.com], resolution: STATIC, {http}, workloadSelector: {{labels: {{app: vm}}}}")),
            "---\napiVersion: v1\nkind: Service\nmetadata: {name: vms, namespace: shop}\nspec: {clusterIP: 10.96.0.7, selector: {app: vm}, \
             ports: [{name: http, port: 80}, {name: admin, port: 81, targetPort: admin}]}\n".to_owned(),
            object("WorkloadEntry", "by-address", "address: 192.0.2.2, labels: {app: vm}, ports: {admin: 8081}"),
            object("WorkloadEntry", "by-name", "address: vm.example.com, labels: {app: vm}"),
            object("WorkloadEntry", "by-socket", "address: 'unix:///run/vm', labels: {app: vm}"),
            object("WorkloadEntry", "no-port", "address: 192.0.2.3, labels: {app: vm}"),
        ];
        let by_ip = |name: &str, host: &str, address: &str| {
            format!(
                "warning: WorkloadEntry/shop/{name} spec.address: {host} has endpoints by IP address: {address} is none of them (resolution \
                 DNS, of a ServiceEntry, takes names)"
            )
        };
        let mut found = findings(&yaml.concat());
        found.retain(|finding| !finding.contains(" spec.hosts: "));
        assert_eq!(
            found,
            [
                "warning: ServiceEntry/shop/b spec.resolution: a.example.com is defined by ServiceEntry/shop/a too, which goes first and finds \
                 no endpoint by DNS: names among the endpoints of this one are not used"
                    .to_owned(),
                "warning: ServiceEntry/shop/c spec.resolution: c.example.com has 2 endpoints for port 80, of which proxies take one with \
                 DNS_ROUND_ROBIN: use DNS for all"
                    .to_owned(),
                by_ip("by-name", "vms.example.com", "vm.example.com"),
                by_ip("by-name", "vms.shop.svc.cluster.local", "vm.example.com"),
                by_ip("by-socket", "vms.shop.svc.cluster.local", "unix:///run/vm"),
                "warning: WorkloadEntry/shop/no-port spec.ports: has no port admin, which is the targetPort of a port of \
                 vms.shop.svc.cluster.local: it is no endpoint for that"
                    .to_owned(),
            ]
        );
    }

    #[test]
    fn what_a_match_of_everything_leaves_without_effect_is_named() {
        let to = "route: [{destination: {host: reviews}}]";
        let spec = format!(
            "{{hosts: [reviews], http: [{{match: [{{uri: {{regex: '.*'}}, port: 80}}, {{uri: {{regex: '/.*'}}}}, {{uri: {{prefix: /a}}}}], {to}}}, \
             {{match: [{{uri: {{prefix: /b}}}}], {to}}}]}}"
        );
        assert_eq!(
            findings(&virtual_service("reviews", &spec)),
            [
                "warning: VirtualService/shop/reviews spec.http[0].match[2]: has no effect: spec.http[0] before it matches every request",
                "warning: VirtualService/shop/reviews spec.http[1]: has no effect: spec.http[0] before it matches every request",
            ]
        );
    }

    #[test]
    fn what_is_wrong_in_a_delegate_is_told_there_and_of_its_roots() {
        let leaf = virtual_service(
            "leaf",
            "{http: [{match: [{uri: {prefix: /a}}], route: [{destination: {host: reviews}}]}, {match: [{uri: {prefix: /b}}], route: [{destination: {host: gone}}]}]}",
        );
        let to_leaf = "delegate: {name: leaf}, mirrors: [{destination: {host: reviews}}, {destination: {host: away}}]";
        let root = |name, host| {
            virtual_service(name, &format!("{{hosts: [{host}], http: [{{{to_leaf}}}, {{route: [{{destination: {{host: lost}}}}]}}]}}"))
        };
        let mut engine = Engine::new("cluster.local", MeshConfig::default());
        let objects = [SHOP, &root("one", "reviews"), &root("two", "example.com"), &leaf].concat();
        for text in documents(&objects) {
            let parsed = parse(&document(text).unwrap(), &"Kubernetes".into());
            engine.apply(parsed.objects.into_iter().map(|object| (object.key.clone(), Some(object))));
        }
        let nowhere = |at: &str, host: &str| {
            format!("warning: VirtualService/shop/{at}.host: no service has the host {host}.shop.svc.cluster.local; requests get 503")
        };
        let of_leaf = nowhere("leaf spec.http[1].route[0].destination", "gone");
        let of_root = |name: &str| {
            [
                nowhere(&format!("{name} spec.http[0].mirrors[1].destination"), "away"),
                nowhere(&format!("{name} spec.http[1].route[0].destination"), "lost"),
            ]
        };
        let told = |findings: Vec<Diagnostic>| findings.iter().map(ToString::to_string).collect::<Vec<_>>();
        let about = |name: &str| {
            told(of(
                engine.world(),
                &ObjectKey { cluster: "Kubernetes".into(), kind: Kind::VirtualService, namespace: "shop".into(), name: name.into() },
            ))
        };
        assert_eq!(told(check(engine.world())), [vec![of_leaf.clone()], of_root("one").into(), of_root("two").into()].concat());
        assert_eq!(about("leaf"), std::slice::from_ref(&of_leaf));
        assert_eq!(about("one"), [vec![of_leaf], of_root("one").into()].concat());
    }

    #[test]
    fn what_would_leave_something_open_is_an_error_unless_a_label_says_that_it_is_known() {
        let sidecar = |name: &str, namespace: &str, labels: &str| {
            format!(
                "---\napiVersion: networking.istio.io/v1\nkind: Sidecar\n\
                 metadata: {{name: {name}, namespace: {namespace}, labels: {{{labels}}}}}\n\
                 spec: {{workloadSelector: {{labels: {{app: {name}}}}}, outboundTrafficPolicy: {{egressProxy: {{host: way-out.example.com}}}}}}\n"
            )
        };
        let known = "istiod-lite.io/allow-unsupported: 'true'";
        let namespace = format!("---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: wide, labels: {{{known}}}}}\n");
        let at = "spec.outboundTrafficPolicy.egressProxy";
        let blocked = "is not supported yet: what would have gone through it is blocked, as with mode REGISTRY_ONLY";
        assert_eq!(
            findings(&[sidecar("a", "shop", ""), sidecar("b", "shop", known), namespace, sidecar("c", "wide", "")].concat()),
            [
                format!("error: Sidecar/shop/a {at}: {blocked}; label istiod-lite.io/allow-unsupported: \"true\" stores it all the same"),
                format!("warning: Sidecar/shop/b {at}: {blocked}"),
                format!("warning: Sidecar/wide/c {at}: {blocked}"),
            ]
        );
    }

    #[test]
    fn routes_of_a_server_that_is_refused_are_not_told_that_they_lead_nowhere() {
        let yaml =
            virtual_service("web", "{hosts: [a.example.com], gateways: [public], http: [{route: [{destination: {host: reviews}}]}]}")
                + "---\napiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: public, namespace: shop}\n\
               spec: {selector: {}, servers: [{port: {number: 443, name: https, protocol: HTTPS}, hosts: [a.example.com], \
               tls: {mode: SIMPLE, credentialName: 'sds://c'}}]}\n";
        let found = findings(&yaml);
        assert!(found.iter().any(|finding| finding.contains("tls.credentialName")), "{found:?}");
        assert!(!found.iter().any(|finding| finding.contains("none of these hosts")), "{found:?}");
    }

    #[test]
    fn gateways_without_pods_routes_without_gateways_and_rules_without_services_are_named() {
        let yaml = virtual_service("web", "{hosts: [a.example.com], gateways: [none], http: [{route: [{destination: {host: reviews}}]}]}")
            + &virtual_service("other", "{hosts: [b.example.com], gateways: [public], http: [{route: [{destination: {host: reviews}}]}]}")
            + "---\napiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: public, namespace: shop}\n\
               spec: {selector: {istio: ingress}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [a.example.com]}]}\n\
               ---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: gone, namespace: shop}\nspec: {host: gone}\n";
        assert_eq!(
            findings(&yaml),
            [
                "warning: DestinationRule/shop/gone spec.host: no service has the host gone.shop.svc.cluster.local: the rule has no effect",
                "warning: Gateway.networking.istio.io/shop/public spec.selector: no pod has the labels istio=ingress: nothing serves this Gateway",
                "warning: VirtualService/shop/other spec.hosts: none of these hosts is among those of Gateway.networking.istio.io/shop/public: \
                 nothing reaches these routes",
                "warning: VirtualService/shop/web spec.gateways[0]: there is no Gateway shop/none",
            ]
        );
    }
}

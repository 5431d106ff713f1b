//! Limits that cannot be held, or limit nothing.

use crate::cases::Case;

fn policy(spec: &str) -> String {
    format!("apiVersion: istiod-lite.io/v1alpha1\nkind: RateLimitPolicy\nmetadata: {{name: r, namespace: shop}}\nspec: {{{spec}}}\n")
}

fn said(severity: &str, field: &str, why: &str) -> String {
    format!("{severity}: RateLimitPolicy/shop/r (z.yaml, document 1) {field}: {why}")
}

/// Returns what is said of a policy: a field and why, or several.
fn case(name: &'static str, severity: &str, spec: &str, found: &[(&str, &str)]) -> Case {
    let findings: Vec<String> = found.iter().map(|(field, why)| said(severity, field, why)).collect();
    Case::new(name, policy(spec), &findings.iter().map(String::as_str).collect::<Vec<_>>())
}

pub(crate) fn rate_limits() -> Vec<Case> {
    vec![
        case(
            "a policy without limits",
            "error",
            "selector: {matchLabels: {app: client}}",
            &[("spec.limits", "is missing, and so is global: there is nothing to hold")],
        ),
        case(
            "limits that are none",
            "error",
            "limits: [{requests: 1}, {name: a, interval: 1s}, {name: a, requests: 1, burst: 0}, {name: a.b, requests: 1, interval: 49ms}]",
            &[
                ("spec.limits[0].name", "is missing"),
                ("spec.limits[1].requests", "must be at least 1"),
                ("spec.limits[2].burst", "must be at least 1"),
                ("spec.limits[2].name", "\"a\" is there twice"),
                ("spec.limits[3].interval", "must be from 50ms to 24h"),
                ("spec.limits[3].name", "must be letters, digits and - (at most 63), is \"a.b\""),
            ],
        ),
        case(
            "a service that counts nothing",
            "error",
            "global: {port: 0, timeout: 11s, descriptors: [{}, {entries: [{key: a}, {value: b, header: c}, {key: a, header: b, match: {}}]}]}",
            &[
                ("spec.global.descriptors[1].entries[0]", "exactly one of value, header and clientIdentity: true must be set"),
                ("spec.global.descriptors[1].entries[1]", "exactly one of value, header and clientIdentity: true must be set"),
                ("spec.global.descriptors[1].entries[2].match", "is possible beside value only"),
            ],
        ),
        case(
            "a service that is none",
            "error",
            "global: {service: a_b, port: 0, timeout: 11s, descriptors: [{}, {entries: [{header: 'a b'}]}]}",
            &[
                ("spec.global.descriptors[0].entries", "is missing: a descriptor without entries is none"),
                ("spec.global.descriptors[1].entries[0].header", "\"a b\" is no name of a header"),
                ("spec.global.descriptors[1].entries[0].key", "is missing"),
                ("spec.global.domain", "is missing"),
                ("spec.global.port", "must be from 1 to 65535"),
                ("spec.global.service", "must be the host of a service, is \"a_b\""),
                ("spec.global.timeout", "must be from 1ms to 10s: each request waits for it"),
            ],
        ),
        case(
            "a service that is not there, and lets pass",
            "error",
            "global: {service: gone, port: 8081, domain: a, descriptors: [{entries: [{key: a, value: b}]}]}",
            &[(
                "spec.global.service",
                "there is no service gone.shop.svc.cluster.local: requests pass uncounted until that is mended (failClosed: true would refuse them)",
            )],
        ),
        case(
            "a service that does not speak gRPC, and refuses",
            "warning",
            "global: {service: reviews, port: 9080, domain: a, failClosed: true, descriptors: [{entries: [{key: a, value: b}]}]}",
            &[(
                "spec.global.port",
                "port 9080 of reviews.shop.svc.cluster.local is not declared to speak gRPC (name it grpc, or grpc-…): requests get 500 until that is mended, as failClosed says",
            )],
        ),
        case(
            "a limit per two things",
            "error",
            "limits: [{name: a, requests: 1, per: {header: x-a, clientIdentity: true}}, {name: b, requests: 1, per: {}}]",
            &[
                ("spec.limits[0].per", "exactly one of header and clientIdentity: true must be set"),
                ("spec.limits[1].per", "exactly one of header and clientIdentity: true must be set"),
            ],
        ),
        case(
            "a limit per what is no header, and for too many",
            "error",
            "limits: [{name: a, requests: 1, per: {header: 'x a', maxValues: 100001}}]",
            &[
                ("spec.limits[0].per.header", "\"x a\" is no name of a header"),
                ("spec.limits[0].per.maxValues", "must be from 1 to 100000"),
            ],
        ),
        case(
            "requests that nobody sends",
            "error",
            "limits: [{name: a, requests: 1, match: {uri: {prefix: a}, headers: {'a b': {exact: c}}}}]",
            &[
                ("spec.limits[0].match.headers[\"a b\"]", "\"a b\" is no name of a header"),
                ("spec.limits[0].match.uri", "must begin with /, is \"a\": no request would count"),
            ],
        ),
        case(
            "a target without proxies of its own",
            "error",
            "targetRefs: [{group: networking.istio.io, kind: ServiceEntry, name: a}, {kind: Service, name: a, namespace: b}], limits: [{name: a, requests: 1}]",
            &[
                ("spec.targetRefs[0]", "must be a Service, or a Gateway of networking.istio.io or gateway.networking.k8s.io"),
                ("spec.targetRefs[1].namespace", "must be left out: a policy names objects of its own namespace"),
            ],
        ),
        case(
            "a selector and a target",
            "error",
            "selector: {matchLabels: {app: a}}, targetRefs: [{kind: Service, name: a}], limits: [{name: a, requests: 1}]",
            &[("spec", "only one of selector, targetRef and targetRefs may be set")],
        ),
        case(
            "targets that do not exist",
            "warning",
            "targetRefs: [{kind: Service, name: gone}, {group: networking.istio.io, kind: Gateway, name: gone}], limits: [{name: a, requests: 1}]",
            &[
                ("spec.targetRefs[0]", "there is no Service shop/gone: nothing is limited there"),
                ("spec.targetRefs[1]", "there is no Gateway.networking.istio.io shop/gone: nothing is limited there"),
            ],
        ),
        case(
            "a selector of nobody",
            "warning",
            "selector: {matchLabels: {app: nobody}}, limits: [{name: a, requests: 1}]",
            &[("spec.selector", "no workload has the labels app=nobody: nothing is limited")],
        ),
    ]
}

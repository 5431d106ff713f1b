//! What objects ask for that is not built yet, where doing without it would leave something open (contract §3.2, §3.7).
//!
//! It is an error at the object, and the part that asks is refused: a server is not opened, a connection not made, a
//! request not routed. Conversions ask here what they have to leave out.

use smol_str::{SmolStr, format_smolstr};

use super::{
    credential::{self, Unnamed},
    model::{Labels, Origin},
};
use crate::api::{
    Object, Spec,
    istio::{
        self, AuthorizationPolicy, ClientTls, ClientTlsMode, DestinationRule, ServerTls, ServerTlsMode, Sidecar, TargetRef, TrafficPolicy,
        VirtualService,
    },
};

/// The label by which users of an object or of a namespace say that they know what is not supported: the error is a warning.
pub const ALLOW_UNSUPPORTED: &str = "istiod-lite.io/allow-unsupported";

/// What is said where sidecars are to route by claims.
pub(in crate::mesh) const CLAIMS_AT_SIDECARS: &str = "claims of tokens are known at gateways only: at sidecars, requests that fit the rest of \
                                                      this match get 503 (name the gateways: gateways)";

/// What one object asks for in vain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsupported {
    /// The object.
    pub origin: Origin,
    /// Whether a label of the object itself says that this is known.
    pub allowed: bool,
    /// Never empty.
    pub demands: Vec<Demand>,
}

/// One thing that is asked for in vain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demand {
    /// The path of the field; empty for the object as a whole.
    pub field: SmolStr,
    /// What is missing, and what happens instead.
    pub consequence: SmolStr,
}

/// Returns what an object asks for in vain; `None` if that is nothing.
pub(in crate::mesh) fn of(object: &Object) -> Option<Unsupported> {
    let demands = match &object.spec {
        Spec::Gateway(gateway) => of_gateway(gateway),
        Spec::DestinationRule(rule) => of_rule(rule),
        Spec::VirtualService(routes) => of_routes(routes),
        Spec::Sidecar(sidecar) => of_sidecar(sidecar),
        Spec::AuthorizationPolicy(policy) => of_authorization(policy),
        _ => Vec::new(),
    };
    let allowed = allows(&object.metadata.labels);
    (!demands.is_empty()).then(|| Unsupported { origin: Origin::of(object), allowed, demands })
}

/// Returns whether the labels of an object or of a namespace say that what is not supported is known.
pub(in crate::mesh) fn allows(labels: &Labels) -> bool {
    labels.get(ALLOW_UNSUPPORTED).is_some_and(|value| value == "true")
}

/// Returns the fields of a server's TLS that cannot be had, and why: it must not be opened.
pub(in crate::mesh) fn server_tls(tls: &ServerTls) -> Vec<(SmolStr, &'static str)> {
    if matches!(tls.mode, ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough) {
        return Vec::new();
    }
    let secrets = credential::server_tls(tls);
    let verified = match (tls.mode, secrets.certificates.is_empty()) {
        _ if tls.ca_cert_credential_name.is_empty() => None,
        (ServerTlsMode::Simple, _) => Some("needs mode MUTUAL: in mode SIMPLE clients present no certificate"),
        (_, true) => Some("is possible beside credentialName only (use caCertificates)"),
        (_, false) => None,
    };
    let verified = verified.map(|why| ("caCertCredentialName".into(), why));
    let unnamed = secrets.all().filter_map(|(field, name)| Some((field, why(name.err()?))));
    let mut found: Vec<_> = unnamed.chain(verified).collect();
    found.dedup_by(|one, other| one.0 == other.0);
    found
}

/// Returns the fields of a client's TLS that cannot be had, and why: it must not connect. Mode ISTIO_MUTUAL has the mesh's own
/// certificates.
pub(in crate::mesh) fn client_tls(tls: &ClientTls) -> Vec<(&'static str, &'static str)> {
    let unnamed = credential::client_tls(tls).and_then(Result::err);
    let secret = unnamed.map(|unnamed| ("credentialName", why(unnamed)));
    let checks = tls.checks_of_servers.iter().filter(|_| tls.mode != ClientTlsMode::Disable);
    secret.into_iter().chain(checks.map(|field| (*field, "is no field of a client's TLS"))).collect()
}

fn why(unnamed: Unnamed) -> &'static str {
    match unnamed {
        Unnamed::Scheme => "only Secrets are read, and ConfigMaps: write the name of a Secret, kubernetes:// or configmap://",
        Unnamed::Form => {
            "names no Secret: write NAME, kubernetes://NAMESPACE/NAME or kubernetes-gateway://NAMESPACE/NAME (or configmap://NAMESPACE/NAME \
             for what peers are verified with)"
        }
        Unnamed::Public => "is a ConfigMap, where a certificate with its key is needed: name a Secret",
        Unnamed::Suffix => "ends in -cacert, by which proxies ask for what peers are verified with: no certificate can have this name",
    }
}

/// Returns whether a Sidecar sends what is unknown through a proxy: it must not go past that.
pub(in crate::mesh) fn egress_proxy(sidecar: &Sidecar) -> bool {
    sidecar.egress_proxy.is_some()
}

fn of_gateway(gateway: &istio::Gateway) -> Vec<Demand> {
    let mut demands = Vec::new();
    for (index, server) in gateway.servers.iter().enumerate() {
        for (field, why) in server.tls.as_ref().map(server_tls).unwrap_or_default() {
            demands.push(Demand {
                field: format_smolstr!("spec.servers[{index}].tls.{field}"),
                consequence: format_smolstr!("{why}; this server is not opened"),
            });
        }
    }
    demands
}

fn of_rule(rule: &DestinationRule) -> Vec<Demand> {
    let mut demands = Vec::new();
    of_policy(rule.traffic_policy.as_deref(), "spec.trafficPolicy", &mut demands);
    for (index, subset) in rule.subsets.iter().enumerate() {
        of_policy(subset.traffic_policy.as_deref(), &format!("spec.subsets[{index}].trafficPolicy"), &mut demands);
    }
    demands
}

fn of_policy(policy: Option<&TrafficPolicy>, at: &str, demands: &mut Vec<Demand>) {
    let Some(policy) = policy else { return };
    let ports = policy.port_level_settings.iter().enumerate();
    let of_ports = ports.map(|(index, port)| (format!("{at}.portLevelSettings[{index}].tls"), &port.tls));
    for (at, tls) in std::iter::once((format!("{at}.tls"), &policy.tls)).chain(of_ports) {
        for (field, why) in tls.as_ref().map(client_tls).unwrap_or_default() {
            let consequence = format_smolstr!("{why}: rather than without it, no connection is made (use files: caCertificates, …)");
            demands.push(Demand { field: format_smolstr!("{at}.{field}"), consequence });
        }
    }
}

// What a delegate is bound to is said by those that name it.
fn of_routes(routes: &VirtualService) -> Vec<Demand> {
    let at_sidecars = |gateways: &[SmolStr]| gateways.is_empty() || gateways.iter().any(|gateway| gateway == "mesh");
    let mut demands = Vec::new();
    if routes.hosts.is_empty() || !at_sidecars(&routes.gateways) {
        return demands;
    }
    for (index, route) in routes.http.iter().enumerate() {
        for (at, matched) in route.matches.iter().enumerate().filter(|(_, matched)| at_sidecars(&matched.gateways)) {
            for (field, headers) in [("headers", &matched.headers), ("withoutHeaders", &matched.without_headers)] {
                let claims = headers.iter().filter(|(name, _)| istio::is_claim(name));
                demands.extend(claims.map(|(name, _)| Demand {
                    field: format_smolstr!("spec.http[{index}].match[{at}].{field}[{name:?}]"),
                    consequence: CLAIMS_AT_SIDECARS.into(),
                }));
            }
        }
    }
    demands
}

fn of_sidecar(sidecar: &Sidecar) -> Vec<Demand> {
    let demand = || Demand {
        field: "spec.outboundTrafficPolicy.egressProxy".into(),
        consequence: "is not supported yet: what would have gone through it is blocked, as with mode REGISTRY_ONLY".into(),
    };
    egress_proxy(sidecar).then(demand).into_iter().collect()
}

fn of_authorization(policy: &AuthorizationPolicy) -> Vec<Demand> {
    of_waypoint(&policy.target.refs)
}

/// Returns those of the targets that a waypoint would stand for: a sidecar does not, so that nothing holds the policy.
fn of_waypoint(targets: &[TargetRef]) -> Vec<Demand> {
    let unserved = targets.iter().enumerate().filter(|(_, target)| target.kind != "Gateway");
    let demand = |(index, target): (usize, &TargetRef)| Demand {
        field: format_smolstr!("spec.targetRefs[{index}]"),
        consequence: format_smolstr!(
            "waypoints are not supported, which would hold a policy for a {}: it protects nothing (use selector)",
            target.kind
        ),
    };
    unserved.map(demand).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{
        parse,
        yaml::{document, documents},
    };

    fn fields(kind: &str, group: &str, spec: &str) -> Vec<String> {
        let yaml = format!("apiVersion: {group}.istio.io/v1\nkind: {kind}\nmetadata: {{name: a, namespace: shop}}\nspec: {spec}\n");
        let parsed = parse(&document(documents(&yaml)[0]).unwrap(), &"Kubernetes".into());
        assert_eq!(parsed.refused, [], "{:?}", parsed.diagnostics);
        let demands = of(&parsed.objects[0]).map(|unsupported| unsupported.demands).unwrap_or_default();
        demands.iter().map(|demand| demand.field.to_string()).collect()
    }

    #[test]
    fn each_server_whose_secret_cannot_be_had_is_named() {
        let server = |number: u16, tls: &str| {
            format!("{{port: {{number: {number}, name: p{number}, protocol: HTTPS}}, hosts: [a.example.com], tls: {{{tls}}}}}")
        };
        let servers = [
            server(1, "mode: SIMPLE, credentialName: 'sds://a'"),
            server(2, "mode: OPTIONAL_MUTUAL, credentialNames: [a, b-cacert], caCertCredentialName: 'configmap://a'"),
            server(3, "mode: MUTUAL, serverCertificate: /a, privateKey: /b, caCertificates: /c, caCertCredentialName: c"),
            server(4, "mode: PASSTHROUGH, credentialName: 'sds://a'"),
            server(5, "mode: ISTIO_MUTUAL"),
            server(6, "mode: MUTUAL, credentialName: 'kubernetes://bank/a', caCertCredentialName: c"),
            server(7, "mode: SIMPLE, credentialName: a, caCertCredentialName: c"),
            server(8, "mode: MUTUAL, credentialName: 'a/b/c'"),
            server(9, "mode: MUTUAL, credentialName: a, caCertCredentialName: 'configmap://any/b'"),
            server(10, "mode: SIMPLE, credentialName: 'configmap://shop/b'"),
        ];
        let expected = [
            "[0].tls.credentialName",
            "[1].tls.credentialNames[1]",
            "[1].tls.caCertCredentialName",
            "[2].tls.caCertCredentialName",
            "[6].tls.caCertCredentialName",
            "[7].tls.credentialName",
            "[9].tls.credentialName",
        ];
        let spec = format!("{{selector: {{istio: edge}}, servers: [{}]}}", servers.join(", "));
        assert_eq!(fields("Gateway", "networking", &spec), expected.map(|field| format!("spec.servers{field}")));
    }

    #[test]
    fn connections_are_looked_at_wherever_a_rule_speaks_of_them() {
        let spec = "{host: a, trafficPolicy: {tls: {mode: ISTIO_MUTUAL, credentialName: a}, portLevelSettings: [\
                    {port: {number: 80}, tls: {mode: SIMPLE, verifyCertificateSpki: [x], caCertCredentialName: y}}]}, \
                    subsets: [{name: v1}, {name: v2, trafficPolicy: {tls: {mode: MUTUAL, credentialName: 'sds://b'}}}, \
                    {name: v3, trafficPolicy: {tls: {mode: DISABLE, credentialName: c, verifyCertificateHash: [x]}}}]}";
        let expected = [
            "spec.trafficPolicy.portLevelSettings[0].tls.verifyCertificateSpki",
            "spec.trafficPolicy.portLevelSettings[0].tls.caCertCredentialName",
            "spec.subsets[1].trafficPolicy.tls.credentialName",
        ];
        assert_eq!(fields("DestinationRule", "networking", spec), expected);
    }

    #[test]
    fn claims_are_found_in_either_sort_of_match_where_sidecars_have_the_routes() {
        let rule = |gateways: &str| {
            format!(
                "{{match: [{{uri: {{prefix: /}}}}, {{headers: {{x: {{exact: a}}, '@Request.Auth.claims.group': {{exact: a}}}}{gateways}}}, \
                 {{withoutHeaders: {{'@request.auth.claims[group][id]': {{exact: a}}}}}}], route: [{{destination: {{host: a}}}}]}}"
            )
        };
        let first = r#"spec.http[0].match[1].headers["@Request.Auth.claims.group"]"#;
        let second = r#"spec.http[0].match[2].withoutHeaders["@request.auth.claims[group][id]"]"#;
        let found = |bound: &str, gateways: &str| fields("VirtualService", "networking", &format!("{{{bound}http: [{}]}}", rule(gateways)));
        assert_eq!(found("hosts: [a], ", ""), [first, second]);
        assert_eq!(found("hosts: [a], gateways: [front, mesh], ", ""), [first, second]);
        assert_eq!(found("hosts: [a], gateways: [front, mesh], ", ", gateways: [front]"), [second]);
        assert_eq!(found("hosts: [a.example.com], gateways: [front], ", ""), [""; 0]);
        assert_eq!(found("", ""), [""; 0], "a delegate");
    }

    #[test]
    fn a_proxy_for_unknown_destinations_is_named() {
        let policy = "{outboundTrafficPolicy: {mode: ALLOW_ANY, egressProxy: {host: way-out.shop.svc.cluster.local, port: {number: 80}}}}";
        assert_eq!(fields("Sidecar", "networking", policy), ["spec.outboundTrafficPolicy.egressProxy"]);
        assert_eq!(fields("Sidecar", "networking", "{outboundTrafficPolicy: {mode: ALLOW_ANY}}"), [""; 0]);
    }

    #[test]
    fn policies_for_waypoints_are_named() {
        let custom = "{action: CUSTOM, provider: {name: a}, rules: [{}], targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: a}, {kind: Service, name: a}]}";
        assert_eq!(fields("AuthorizationPolicy", "security", custom), ["spec.targetRefs[1]"]);
        assert_eq!(fields("AuthorizationPolicy", "security", "{}"), [""; 0]);
        assert_eq!(fields("PeerAuthentication", "security", "{mtls: {mode: STRICT}}"), [""; 0]);
    }
}

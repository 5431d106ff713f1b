//! AuthorizationPolicies whose effect is another than it looks: for nobody, for identities that nobody proves, for connections of which
//! nothing is known that a rule asks for, and those that have somebody asked who cannot be.

use std::{collections::BTreeSet, sync::Arc};

use smol_str::{SmolStr, format_smolstr};

use crate::{
    api::{Diagnostic, Kind},
    mesh::{
        authorization::{Action, AuthorizationPolicy, ExtAuthzProtocol, OperationCondition, Rule, SourceCondition},
        configured::Configured,
        model::{Hostname, MtlsMode, Origin, Protocol, Workload},
        policy::{
            authorizer::{Authorizer, authorizer},
            mtls::workload_mtls,
        },
        policy_table::Policy,
        scope::Scope,
        world::World,
    },
    visits::{Visit, Visited},
};

pub(super) fn check(world: &World) -> Vec<Diagnostic> {
    world.authorization_policies.values().visiting(Visited::Object).flat_map(|policy| of(world, policy)).collect()
}

/// Returns what is doubtful about one policy.
pub(super) fn of(world: &World, policy: &Arc<Configured<AuthorizationPolicy>>) -> Vec<Diagnostic> {
    let looked_at = LookedAt { world, policy };
    let mut found: Vec<Diagnostic> = looked_at.for_nobody().into_iter().collect();
    found.extend(looked_at.without_identities());
    match policy.spec.provider() {
        Some(provider) => found.extend(looked_at.asking(provider)),
        None => found.extend(looked_at.unknown_of_connections()),
    }
    found
}

/// Says of policies that have a service asked which proxies of a scope have no cluster for: their Sidecar does not import it. `origins`
/// are the objects that the proxies' listeners come from.
pub(super) fn not_imported(world: &World, scope: &Scope, (host, port): (&Hostname, u16), origins: &[Origin]) -> Vec<Diagnostic> {
    let named = origins.iter().filter(|origin| origin.object.kind == Kind::AuthorizationPolicy);
    let policies =
        named.filter_map(|origin| world.authorization_policies.get(&(origin.object.namespace.clone(), origin.object.name.clone())));
    let found = policies.filter_map(|policy| {
        let authorizer = authorizer(world, policy.spec.provider()?).ok()?;
        let looked_at = LookedAt { world, policy };
        let asked = authorizer.hostname == *host && authorizer.provider.port == port && looked_at.unreached(&authorizer).is_none();
        let namespace = &scope.namespace;
        asked.then(|| {
            let message =
                format!("proxies of namespace {namespace} do not see {host} (a Sidecar does not import it): {}", instead(&authorizer));
            looked_at.warning("spec.provider.name", message)
        })
    });
    found.collect()
}

/// A policy, in the mesh for which it is looked at.
struct LookedAt<'a> {
    world: &'a World,
    policy: &'a Arc<Configured<AuthorizationPolicy>>,
}

impl<'a> LookedAt<'a> {
    /// Iterates over the workloads that it is for.
    fn workloads(&self) -> impl Iterator<Item = &'a Arc<Workload>> {
        let (world, policy) = (self.world, self.policy);
        let root = &world.mesh.root_namespace;
        let own = policy.is_for_one_namespace(root).then(|| world.workloads_in(&policy.origin.object.namespace, ""));
        let all = own.is_none().then(|| world.workloads.values());
        let candidates = own.into_iter().flatten().chain(all.into_iter().flatten()).visiting(Visited::Object);
        candidates.filter(move |workload| policy.is_for(root, &workload.namespace, &workload.labels))
    }

    fn warning(&self, field: impl Into<SmolStr>, message: impl Into<String>) -> Diagnostic {
        Diagnostic::warning(field.into(), message.into()).of(&self.policy.origin.object)
    }

    fn for_nobody(&self) -> Option<Diagnostic> {
        let (field, wanted) = self.policy.spec.attachment().described()?;
        self.workloads().next().is_none().then(|| self.warning(field, format!("no workload {wanted}: the policy decides about nobody")))
    }

    /// Reports the rules that ask for an identity where none is proven: no workload takes mTLS.
    fn without_identities(&self) -> Vec<Diagnostic> {
        let asking = self.policy.spec.rules.iter().enumerate().filter(|(_, rule)| needs_identity(rule));
        let mut asking = asking.peekable();
        if asking.peek().is_none() {
            return Vec::new();
        }
        let mut workloads = self.workloads().peekable();
        let takes_none = |workload: &Arc<Workload>| {
            let mtls = workload_mtls(self.world, &workload.namespace, &workload.labels);
            mtls.mode == MtlsMode::Disable && mtls.ports.iter().all(|(_, mode)| *mode == MtlsMode::Disable)
        };
        if workloads.peek().is_none() || !workloads.all(takes_none) {
            return Vec::new();
        }
        let effect = match self.policy.spec.action {
            Action::Allow => "allows",
            Action::Deny => "denies",
            Action::Audit => "marks",
            Action::Custom(_) => "asks about",
        };
        let message = format!(
            "asks for an identity, and PeerAuthentications with mode DISABLE have nobody prove one to these workloads: it {effect} nothing"
        );
        asking.map(|(index, _)| self.warning(format_smolstr!("spec.rules[{index}]"), message.clone())).collect()
    }

    /// Reports the rules that allow by what only HTTP has, where there are TCP ports.
    fn unknown_of_connections(&self) -> Vec<Diagnostic> {
        if self.policy.spec.action != Action::Allow {
            return Vec::new();
        }
        let rules = self.policy.spec.rules.iter().enumerate();
        let mut of_http = rules.filter(|(_, rule)| rule.is_http() && !names_ports(rule)).peekable();
        let port = of_http.peek().and_then(|_| self.tcp_port());
        let Some(port) = port else { return Vec::new() };
        let message = format!("asks for what only HTTP requests have: at TCP ports, such as {port}, it allows nothing");
        of_http.map(|(index, _)| self.warning(format_smolstr!("spec.rules[{index}]"), message.clone())).collect()
    }

    /// Finds a port of a workload that is known to carry no HTTP.
    fn tcp_port(&self) -> Option<String> {
        let services = self.workloads().flat_map(|workload| workload.ips.iter()).filter_map(|ip| self.world.services_at.get(ip));
        let services = services.flat_map(|keys| keys.iter()).filter_map(|key| self.world.services.get(key));
        let mut ports = services.flat_map(|service| service.ports.iter().map(move |port| (service, port)));
        let found = ports.find(|(_, port)| port.protocol != Protocol::Auto && !port.protocol.is_http());
        found.map(|(service, port)| format!("{} of {}", port.number, service.hostname))
    }

    fn asking(&self, provider: &SmolStr) -> Vec<Diagnostic> {
        let at = "spec.provider.name";
        let authorizer = match authorizer(self.world, provider) {
            Ok(authorizer) => authorizer,
            Err(why) => return vec![self.warning(at, format!("{why}: {DENIED}"))],
        };
        let mut found: Vec<Diagnostic> = self.unreached(&authorizer).into_iter().map(|why| self.warning(at, why)).collect();
        found.extend(self.beside_others(provider).map(|why| self.warning(at, why)));
        if authorizer.provider.protocol != ExtAuthzProtocol::Grpc
            && let Some(port) = self.tcp_port()
        {
            found.push(self.warning(
                at,
                format!("speaks HTTP, in which it cannot be asked about TCP connections: those, such as to {port}, pass unasked (use envoyExtAuthzGrpc)"),
            ));
        }
        found
    }

    /// Says why proxies would have no way to the server that is to be asked.
    fn unreached(&self, authorizer: &Authorizer) -> Option<String> {
        let Authorizer { provider, hostname } = authorizer;
        let instead = instead(authorizer);
        let services = || self.world.services_named(hostname);
        if !services().any(|service| service.ports.iter().any(|port| port.number == provider.port)) {
            return Some(format!(
                "{hostname} has no port {}, which extensionProviders of MeshConfig name for it: {instead}",
                provider.port
            ));
        }
        let namespace = &self.policy.origin.object.namespace;
        let hidden = *namespace != self.world.mesh.root_namespace && !services().any(|service| service.export_to.allows(namespace));
        hidden.then(|| format!("{hostname} is not exported to namespace {namespace}: {instead}"))
    }

    /// Says which workload has policies with other providers too, where one may be asked only.
    fn beside_others(&self, provider: &SmolStr) -> Option<String> {
        if self.world.mesh.several_ext_authz {
            return None;
        }
        let policies = &self.world.authorization_policies;
        let providers: BTreeSet<&SmolStr> =
            policies.values().visiting(Visited::Object).filter_map(|policy| policy.spec.provider()).collect();
        if providers.len() < 2 {
            return None;
        }
        let root = &self.world.mesh.root_namespace;
        self.workloads().find_map(|workload| {
            let applying = policies.applying(root, &workload.namespace, &workload.labels);
            let other = applying.into_iter().find(|other| other.spec.provider().is_some_and(|other| other != provider))?;
            let (namespace, name, other) = (&workload.namespace, &workload.name, &other.origin.object);
            Some(format!(
                "workload {namespace}/{name} has another provider by {other}, and without --multipleCustomAuthzProviders one workload \
                 can have one only: {DENIED}"
            ))
        })
    }
}

const DENIED: &str = "what a rule of this policy holds for is denied";

/// Says what becomes of what is to be asked of a server to which there is no way.
fn instead(authorizer: &Authorizer) -> &'static str {
    match authorizer.provider.fail_open {
        true => "what the policy holds for passes (failOpen)",
        false => DENIED,
    }
}

/// Returns whether each alternative asks for an identity.
fn needs_identity(rule: &Rule) -> bool {
    rule.sources.iter().all(|conditions| conditions.iter().any(SourceCondition::needs_mtls))
}

/// Returns whether a rule says itself which ports it is for.
fn names_ports(rule: &Rule) -> bool {
    rule.operations.iter().all(|conditions| conditions.iter().any(|condition| matches!(condition, OperationCondition::Port(_))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::{
            mesh_config::{Features, MeshConfig},
            parse, parse_mesh_config,
            yaml::{Document, document, documents},
        },
        mesh::engine::Engine,
    };

    const MESH: &str = "
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: shop}
spec: {clusterIP: 10.96.0.1, selector: {app: reviews}, ports: [{name: http, port: 9080}, {name: tcp, port: 9081}]}
---
apiVersion: v1
kind: Pod
metadata: {name: reviews-1, namespace: shop, labels: {app: reviews, security.istio.io/tlsMode: istio}}
spec: {serviceAccountName: reviews}
status: {phase: Running, podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: reviews-a, namespace: shop, labels: {kubernetes.io/service-name: reviews}}
addressType: IPv4
ports: [{name: http, port: 9080}, {name: tcp, port: 9081}]
endpoints: [{addresses: [10.0.0.1], conditions: {ready: true}, targetRef: {kind: Pod, name: reviews-1, namespace: shop}}]
---
apiVersion: v1
kind: Pod
metadata: {name: plain-1, namespace: plain, labels: {app: plain}}
spec: {serviceAccountName: plain}
status: {phase: Running, podIP: 10.0.0.2, podIPs: [{ip: 10.0.0.2}]}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: plain}
spec: {mtls: {mode: DISABLE}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: guard, namespace: shop}
spec: {hosts: [guard.example.com], ports: [{number: 80, name: http, protocol: HTTP}, {number: 90, name: grpc, protocol: GRPC}], resolution: DNS}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: twice, namespace: shop}
spec: {hosts: [twice.example.com], ports: [{number: 90, name: grpc, protocol: GRPC}], resolution: DNS}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: twice, namespace: plain}
spec: {hosts: [twice.example.com], exportTo: ['.'], ports: [{number: 90, name: grpc, protocol: GRPC}], resolution: DNS}
";

    const PROVIDERS: &str = "extensionProviders:
- {name: grpc, envoyExtAuthzGrpc: {service: guard.example.com, port: 90}}
- {name: http, envoyExtAuthzHttp: {service: guard.example.com, port: 80}}
- {name: gone, envoyExtAuthzGrpc: {service: gone.example.com, port: 90}}
- {name: twice, envoyExtAuthzGrpc: {service: twice.example.com, port: 90}}
- {name: one-of-two, envoyExtAuthzGrpc: {service: shop/twice.example.com, port: 90}}
- {name: hidden, envoyExtAuthzGrpc: {service: plain/twice.example.com, port: 90}}
- {name: port, envoyExtAuthzGrpc: {service: guard.example.com, port: 91}}
- {name: open, envoyExtAuthzGrpc: {service: guard.example.com, port: 91, failOpen: true}}
- {name: tracer, zipkin: {service: guard.example.com, port: 90}}
";

    /// Returns what is said of policies, each of a namespace and a spec.
    fn said(policies: &[(&str, &str)]) -> Vec<String> {
        said_with(Features::default(), policies)
    }

    fn said_with(features: Features, policies: &[(&str, &str)]) -> Vec<String> {
        let mut engine = Engine::new("cluster.local", MeshConfig { features, ..MeshConfig::default() });
        let mesh = parse_mesh_config(&document(Document { lines_before: 0, text: PROVIDERS }).unwrap(), &"Kubernetes".into());
        assert_eq!(mesh.refused, []);
        let policies = policies.iter().enumerate().map(|(at, (namespace, spec))| {
            format!(
                "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p{at}, namespace: {namespace}}}\nspec: {spec}\n"
            )
        });
        let text = [MESH.to_owned()].into_iter().chain(policies).collect::<String>();
        let parsed = documents(&text).into_iter().map(|text| parse(&document(text).unwrap(), &"Kubernetes".into())).chain([mesh]);
        engine.apply(parsed.flat_map(|parsed| parsed.objects).map(|object| (object.key.clone(), Some(object))));
        let found = check(engine.world());
        assert!(found.iter().all(|finding| finding.object.as_ref().is_some_and(|object| object.kind == Kind::AuthorizationPolicy)));
        found.iter().map(|finding| format!("{}: {}", finding.field, finding.message)).collect()
    }

    fn custom(provider: &str) -> Vec<String> {
        said(&[("shop", &format!("{{action: CUSTOM, provider: {{name: {provider}}}, rules: [{{}}]}}"))])
    }

    #[test]
    fn a_policy_for_nobody_is_named() {
        let of = |namespace, target: &str| said(&[(namespace, &format!("{{{target}, rules: [{{}}]}}"))]);
        let nobody = |labels: &str| [format!("spec.selector: no workload has the labels {labels}: the policy decides about nobody")];
        assert_eq!(of("shop", "selector: {matchLabels: {app: reviewss}}"), nobody("app=reviewss"));
        assert_eq!(of("plain", "selector: {matchLabels: {app: reviews}}"), nobody("app=reviews"), "of another namespace");
        assert_eq!(of("istio-system", "selector: {matchLabels: {app: reviews}}"), [""; 0], "of the mesh");
        let gateway = "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: front}]";
        assert_eq!(of("shop", gateway), ["spec.targetRefs: no workload stands for one of these: the policy decides about nobody"]);
        assert_eq!(of("empty", "action: ALLOW"), [""; 0], "a namespace may be filled later");
    }

    #[test]
    fn a_rule_for_identities_that_nobody_proves_is_named() {
        let rules = "[{from: [{source: {namespaces: [shop]}}]}, {from: [{source: {principals: [a]}}, {source: {ipBlocks: [10.0.0.0/8]}}]}, \
                     {when: [{key: source.principal, values: [a]}]}, {from: [{source: {notPrincipals: [a]}}]}]";
        let why = "asks for an identity, and PeerAuthentications with mode DISABLE have nobody prove one to these workloads: it";
        let of = |namespace, action: &str| said(&[(namespace, &format!("{{action: {action}, rules: {rules}}}"))]);
        assert_eq!(of("plain", "DENY"), [0, 2].map(|at| format!("spec.rules[{at}]: {why} denies nothing")));
        assert_eq!(of("plain", "ALLOW"), [0, 2].map(|at| format!("spec.rules[{at}]: {why} allows nothing")));
        assert_eq!(of("shop", "DENY"), [""; 0]);
        assert_eq!(of("istio-system", "DENY"), [""; 0], "some workloads take mTLS");
    }

    #[test]
    fn rules_of_http_at_tcp_ports_are_named() {
        let rules = "[{to: [{operation: {paths: [/a]}}]}, {to: [{operation: {paths: [/a], ports: ['9080']}}]}, \
                     {from: [{source: {namespaces: [shop]}}]}, {when: [{key: 'request.headers[a]', values: [a]}]}]";
        let why = "asks for what only HTTP requests have: at TCP ports, such as 9081 of reviews.shop.svc.cluster.local, it allows nothing";
        let of = |namespace, action: &str| said(&[(namespace, &format!("{{action: {action}, rules: {rules}}}"))]);
        assert_eq!(of("shop", "ALLOW"), [0, 3].map(|at| format!("spec.rules[{at}]: {why}")));
        assert_eq!(of("shop", "DENY"), [""; 0], "that is said of the object by itself");
        assert_eq!(said(&[("plain", "{rules: [{to: [{operation: {paths: [/a]}}]}]}")]), [""; 0], "no TCP port is known there");
    }

    #[test]
    fn who_cannot_be_asked_is_named() {
        let at = |why: &str| [format!("spec.provider.name: {why}")];
        let denied = "what a rule of this policy holds for is denied";
        assert_eq!(custom("grpc"), [""; 0]);
        assert_eq!(custom("one-of-two"), [""; 0]);
        let none = at(&format!("MeshConfig has no envoyExtAuthzHttp or envoyExtAuthzGrpc of this name in extensionProviders: {denied}"));
        assert_eq!(custom("nowhere"), none);
        assert_eq!(custom("tracer"), none);
        let gone = "there is no service gone.example.com, which extensionProviders of MeshConfig name for it";
        assert_eq!(custom("gone"), at(&format!("{gone}: {denied}")));
        let several = "several namespaces define twice.example.com, which extensionProviders of MeshConfig name for it: \
                       write NAMESPACE/twice.example.com";
        assert_eq!(custom("twice"), at(&format!("{several}: {denied}")));
        let port = "guard.example.com has no port 91, which extensionProviders of MeshConfig name for it";
        assert_eq!(custom("port"), at(&format!("{port}: {denied}")));
        assert_eq!(custom("open"), at(&format!("{port}: what the policy holds for passes (failOpen)")));
        let connections = "speaks HTTP, in which it cannot be asked about TCP connections: those, such as to 9081 of \
                           reviews.shop.svc.cluster.local, pass unasked (use envoyExtAuthzGrpc)";
        assert_eq!(custom("http"), at(connections));
    }

    #[test]
    fn several_providers_for_one_workload_are_named_at_both() {
        let policy =
            |provider: &str, selector: &str| format!("{{{selector}action: CUSTOM, provider: {{name: {provider}}}, rules: [{{}}]}}");
        let both = |one: &str, other: &str| said(&[("shop", &policy("grpc", one)), ("istio-system", &policy("one-of-two", other))]);
        let why = |other: &str| {
            format!(
                "spec.provider.name: workload shop/reviews-1 has another provider by {other}, and without --multipleCustomAuthzProviders \
                 one workload can have one only: what a rule of this policy holds for is denied"
            )
        };
        let expected = [why("AuthorizationPolicy/shop/p0"), why("AuthorizationPolicy/istio-system/p1")];
        assert_eq!(both("", ""), expected);
        assert_eq!(both("", "selector: {matchLabels: {app: plain}}, "), [""; 0]);
        let features = Features { several_ext_authz: true, ..Features::default() };
        assert_eq!(said_with(features, &[("shop", &policy("grpc", "")), ("istio-system", &policy("one-of-two", ""))]), [""; 0]);
    }
}

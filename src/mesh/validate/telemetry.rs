//! Telemetry objects, and defaults of MeshConfig, by which less is reported than it looks: they are for nobody, name providers that
//! there are not, or nobody takes what is reported.

use std::sync::Arc;

use smol_str::{SmolStr, format_smolstr};

use crate::{
    api::{Diagnostic, istio::Telemetry},
    mesh::{
        configured::Configured,
        policy::server::server,
        policy_table::Policy,
        providers::{NamedProvider, Signal},
        world::World,
    },
    visits::{Visit, Visited},
};

pub(super) fn check(world: &World) -> Vec<Diagnostic> {
    let mut found = of_mesh(world);
    found.extend(world.telemetries.values().visiting(Visited::Object).flat_map(|telemetry| of(world, telemetry)));
    found
}

/// Returns what is doubtful about one object.
pub(super) fn of(world: &World, telemetry: &Arc<Configured<Telemetry>>) -> Vec<Diagnostic> {
    let mut found: Vec<Diagnostic> = for_nobody(world, telemetry).into_iter().chain(not_on_stock(world, telemetry)).collect();
    for (signal, entry, providers) in named(&telemetry.spec) {
        let (at, defaults) = (signal.field(), world.mesh.providers.defaults_of(signal));
        for (number, name) in providers.iter().enumerate() {
            let field = format_smolstr!("spec.{at}[{entry}].providers[{number}].name");
            found.extend(unusable(world, name, signal).map(|why| Diagnostic::warning(field, why).of(&telemetry.origin.object)));
        }
        if providers.is_empty() && defaults.is_empty() && !names_some_elsewhere(world, telemetry, signal) {
            let why = "has no effect: neither this names providers, nor what it could inherit some from";
            found.push(Diagnostic::warning(format_smolstr!("spec.{at}[{entry}]"), why).of(&telemetry.origin.object));
        }
    }
    found
}

/// Returns each entry of an object: what it is about, where it stands, and the providers that it names.
fn named(spec: &Telemetry) -> Vec<(Signal, usize, &Vec<SmolStr>)> {
    let logs = spec.access_logging.iter().map(|entry| &entry.providers).enumerate();
    let spans = spec.tracing.iter().map(|entry| &entry.providers).enumerate();
    let metrics = spec.metrics.iter().map(|entry| &entry.providers).enumerate();
    let logs = logs.map(|(at, providers)| (Signal::Logs, at, providers));
    let spans = spans.map(|(at, providers)| (Signal::Spans, at, providers));
    logs.chain(spans).chain(metrics.map(|(at, providers)| (Signal::Metrics, at, providers))).collect()
}

/// Returns whether any object names a provider that this one may inherit, itself among them.
fn names_some_elsewhere(world: &World, telemetry: &Configured<Telemetry>, signal: Signal) -> bool {
    let own = &telemetry.origin.object.namespace;
    let wider = [own, &world.mesh.root_namespace].into_iter().flat_map(|namespace| world.telemetries.in_namespace(namespace));
    let names = |spec: &Telemetry| named(spec).into_iter().any(|(of, _, providers)| of == signal && !providers.is_empty());
    wider.visiting(Visited::Object).any(|other| names(&other.spec))
}

/// Returns what is doubtful about MeshConfig's default providers.
fn of_mesh(world: &World) -> Vec<Diagnostic> {
    let Some(object) = &world.mesh_config else { return Vec::new() };
    let defaults = [Signal::Logs, Signal::Spans, Signal::Metrics];
    let named = defaults.into_iter().flat_map(|signal| world.mesh.providers.defaults_of(signal).iter().map(move |name| (signal, name)));
    let told = |(signal, name): (Signal, &SmolStr)| {
        let why = unusable(world, name, signal)?;
        Some(Diagnostic::warning(format_smolstr!("defaultProviders.{}", signal.field()), format!("{name}: {why}")).of(object))
    };
    named.filter_map(told).collect()
}

fn for_nobody(world: &World, telemetry: &Configured<Telemetry>) -> Option<Diagnostic> {
    let attachment = telemetry.spec.attachment();
    let (field, wanted) = attachment.described()?;
    let namespace = &telemetry.origin.object.namespace;
    let mut workloads = world.workloads_in(namespace, "").visiting(Visited::Object);
    let is_for_some = workloads.any(|workload| attachment.covers(&workload.labels));
    (!is_for_some).then(|| {
        let message = format!("no workload of namespace {namespace} {wanted}: it has no effect");
        Diagnostic::warning(field, message).of(&telemetry.origin.object)
    })
}

/// Returns what stock Envoys do not do of what is asked of metrics.
fn not_on_stock(world: &World, telemetry: &Configured<Telemetry>) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let mut tell = |field: SmolStr, why: &str| found.push(Diagnostic::warning(field, why).of(&telemetry.origin.object));
    for (number, entry) in telemetry.spec.metrics.iter().enumerate() {
        let at = format_smolstr!("spec.metrics[{number}]");
        for (number, _) in entry.overrides.iter().enumerate().filter(|(_, of)| !of.tags.is_empty()) {
            tell(
                format_smolstr!("{at}.overrides[{number}].tagOverrides"),
                "has an effect on Istio's proxy only: metrics of a stock Envoy keep their labels",
            );
        }
        if entry.reporting_interval.is_some() {
            tell(
                format_smolstr!("{at}.reportingInterval"),
                "has an effect on Istio's proxy only: a stock Envoy counts a connection when it ends",
            );
        }
        let prometheus = |name: &SmolStr| world.mesh.providers.find(name).and_then(|known| known.takes()) == Some(Signal::Metrics);
        if !world.mesh.metrics && entry.providers.iter().any(prometheus) {
            tell(
                format_smolstr!("{at}.providers"),
                "has an effect on Istio's proxy only: stock Envoys report metrics where defaultProviders.metrics of MeshConfig names such a provider",
            );
        }
    }
    found
}

/// Says why nothing is reported to a provider.
fn unusable(world: &World, name: &SmolStr, signal: Signal) -> Option<String> {
    let Some(provider) = world.mesh.providers.find(name) else {
        return Some("MeshConfig has no provider of this name in extensionProviders: it has no effect".to_owned());
    };
    if provider.takes() == Some(signal) {
        return unreached(world, provider);
    }
    let what = match signal {
        Signal::Logs => "access logs",
        Signal::Spans => "spans",
        Signal::Metrics => "metrics",
    };
    Some(format!("is a provider that takes no {what}: it has no effect here"))
}

/// Says why nobody takes what is sent to a provider.
fn unreached(world: &World, provider: &NamedProvider) -> Option<String> {
    let (written, port) = provider.service()?;
    let host = match server(world, written) {
        Ok(host) => host,
        Err(why) => return Some(format!("{why}: nothing is reported to it")),
    };
    let has_port = world.services_named(&host).any(|service| service.has_cluster_for(port));
    (!has_port).then(|| format!("{host} has no port {port}, which extensionProviders of MeshConfig name for it: nothing is reported to it"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::{
            mesh_config::MeshConfig,
            parse, parse_mesh_config,
            yaml::{Document, document, documents},
        },
        mesh::engine::Engine,
    };

    const MESH_CONFIG: &str = "
extensionProviders:
- {name: lost, envoyOtelAls: {service: gone.shop.svc.cluster.local, port: 4317}}
- {name: port, envoyTcpAls: {service: shop/logs.shop.svc.cluster.local, port: 1}}
- {name: logs, envoyHttpAls: {service: logs.shop.svc.cluster.local, port: 9001}}
- {name: asked, envoyExtAuthzGrpc: {service: logs.shop.svc.cluster.local, port: 9001}}
";
    const MESH: &str = "
apiVersion: v1
kind: Service
metadata: {name: logs, namespace: shop}
spec: {clusterIP: 10.96.0.1, ports: [{name: grpc, port: 9001}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web-1, namespace: shop, labels: {app: web}}
spec: {serviceAccountName: web}
status: {phase: Running, podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}]}
";

    fn findings(mesh: &str, yaml: &str) -> Vec<String> {
        let mut engine = Engine::new("cluster.local", MeshConfig::default());
        let value = |text| document(Document { lines_before: 0, text }).unwrap();
        let mut parsed = vec![parse_mesh_config(&value(&format!("{MESH_CONFIG}{mesh}")), &"Kubernetes".into())];
        parsed.extend(documents(MESH).into_iter().chain(documents(yaml)).map(|text| parse(&document(text).unwrap(), &"Kubernetes".into())));
        for parsed in parsed {
            assert_eq!(parsed.refused, []);
            engine.apply(parsed.objects.into_iter().map(|object| (object.key.clone(), Some(object))));
        }
        check(engine.world()).iter().map(ToString::to_string).collect()
    }

    fn telemetry(name: &str, spec: &str) -> String {
        format!("---\napiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{{spec}}}\n")
    }

    #[test]
    fn providers_that_log_nothing_are_named() {
        let names = ["LOGS", "envoy", "nope", "asked", "prometheus", "lost", "port"];
        let providers = names.map(|name| format!("{{name: {name}}}")).join(", ");
        let found = findings(
            "defaultProviders: {accessLogging: [envoy, nope]}",
            &telemetry("a", &format!("accessLogging: [{{providers: [{providers}]}}]")),
        );
        let of = |number: usize, why: &str| format!("warning: Telemetry/shop/a spec.accessLogging[0].providers[{number}].name: {why}");
        assert_eq!(
            found,
            [
                "warning: MeshConfig/istio defaultProviders.accessLogging: nope: MeshConfig has no provider of this name in \
                 extensionProviders: it has no effect"
                    .to_owned(),
                of(2, "MeshConfig has no provider of this name in extensionProviders: it has no effect"),
                of(3, "is a provider that takes no access logs: it has no effect here"),
                of(4, "is a provider that takes no access logs: it has no effect here"),
                of(
                    5,
                    "there is no service gone.shop.svc.cluster.local, which extensionProviders of MeshConfig name for it: nothing is reported to it"
                ),
                of(
                    6,
                    "logs.shop.svc.cluster.local has no port 1, which extensionProviders of MeshConfig name for it: nothing is reported to it"
                ),
            ]
        );
    }

    #[test]
    fn who_is_for_nobody_is_named() {
        let logging = "accessLogging: [{providers: [{name: envoy}]}]";
        let found = findings(
            "",
            &[
                telemetry("web", &format!("selector: {{matchLabels: {{app: web}}}}, {logging}")),
                telemetry("db", &format!("selector: {{matchLabels: {{app: db}}}}, {logging}")),
                telemetry("edge", &format!("targetRefs: [{{group: gateway.networking.k8s.io, kind: Gateway, name: edge}}], {logging}")),
            ]
            .concat(),
        );
        assert_eq!(
            found,
            [
                "warning: Telemetry/shop/db spec.selector: no workload of namespace shop has the labels app=db: it has no effect",
                "warning: Telemetry/shop/edge spec.targetRefs: no workload of namespace shop stands for one of these: it has no effect",
            ]
        );
    }

    #[test]
    fn who_inherits_nothing_is_named() {
        let none = telemetry("web", "accessLogging: [{}]");
        assert_eq!(findings("", &telemetry("web", "tracing: [{}], metrics: [{}]")).len(), 2);
        assert!(findings("", &none)[0].starts_with("warning: Telemetry/shop/web spec.accessLogging[0]: has no effect: neither"));
        assert_eq!(findings("defaultProviders: {accessLogging: [envoy]}", &none), [""; 0]);
        let named = telemetry("all", "accessLogging: [{providers: [{name: envoy}]}]");
        assert_eq!(findings("", &(named + &none)), [""; 0]);
    }
}

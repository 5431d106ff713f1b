//! What a proxy has of its own: a sidecar its inbound side, a gateway its listeners and routes.
//!
//! The inputs of the translation are the key: proxies whose own side looks the same share it.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use imbl::OrdMap;
use smol_str::SmolStr;

use super::{
    cached_units::Changes,
    extending::{Extending, extending},
    key::SharedKey,
    missing::MissingClusters,
    patching::Patching,
    resource_cache::ResourceCache,
};
use crate::{
    api::{Diagnostic, ObjectKey},
    mesh::{
        credential::SecretName,
        gateway::Listener,
        model::{Flavour, Hostname, Place, Proxy, ProxyKind, Service},
        policy::{envoy_filter::Patches, mtls::workload_mtls, request_authentication::token_rules, workload::WorkloadPolicies},
        routing::model::GatewayRef,
        scope::{Scope, ServiceTarget, gateways_for, placed_limits, routes_for_gateway, service_targets, workload_rate_limits},
        telemetry::UnseenCollector,
        world::{Gateway, World},
    },
    translate::{
        cluster::{self, ClusterInput, InboundTarget},
        endpoint::{self, EndpointInput},
        extension::ExtensionInput,
        input::ProxyClass,
        listener::{
            Refused,
            gateway::{self, GatewayListenerInput, GatewayView},
            inbound::{self, InboundInput, InboundView},
        },
        rate_limit::RateLimitInput,
        route::{self, RouteTable},
    },
    visits::{Visit, Visited},
    xds::{
        encode::{Unfit, checked::Encoded, patch_report::PatchReport},
        per_type::PerType,
        resource_type::ResourceType,
        view::Layer,
    },
};

/// All that decides about a proxy's own side.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct PerProxyInputs {
    /// With whom it shares the clusters of services that its own resources name; a sidecar's inbound side names none.
    shared: Option<SharedKey>,
    clusters: Vec<ClusterInput>,
    assignments: Vec<EndpointInput>,
    inbound: Option<InboundInput>,
    gateway: Vec<GatewayListenerInput>,
    tables: Vec<RouteTable>,
    /// What filters of users' own do.
    extensions: Vec<ExtensionInput>,
    /// What filters that hold limits do.
    rate_limits: Vec<RateLimitInput>,
    refused: BTreeSet<Refused>,
    /// The secrets that its listeners ask for, with the Gateways that name them.
    secrets: BTreeSet<(ObjectKey, SecretName)>,
    /// The patches for all of it; `None`: there are none.
    patching: Option<Patching>,
}

/// The resources made from it.
#[derive(Debug)]
pub(super) struct PerProxy {
    layers: PerType<Layer>,
    /// Of its listeners and of its routes.
    missing: [MissingClusters; 2],
    /// What Envoy would refuse.
    unfit: Vec<Arc<Unfit>>,
    /// What came of patches.
    reports: Vec<Arc<PatchReport>>,
}

/// The types of its own resources that name clusters of services.
const NAMING: [ResourceType; 2] = [ResourceType::Listener, ResourceType::Route];

impl PerProxyInputs {
    /// Finds what decides about a proxy; `class` is that of the listeners of its own side. `proven`: its caller has proven to be of its
    /// namespace.
    pub(super) fn of(
        world: &World,
        scope: &Scope,
        shared: &SharedKey,
        (proxy, proven): (&Proxy, bool),
        class: &ProxyClass,
        patching: Patching,
    ) -> Self {
        let patching = Some(patching).filter(|patching| !patching.patches.is_empty());
        let mut own = match proxy.kind {
            ProxyKind::Sidecar => Self { patching: patching.map(|of| of.behind(world, proxy)), ..sidecar(world, scope, proxy, class) },
            ProxyKind::Gateway => Self { shared: Some(shared.clone()), patching, ..gateway_proxy(world, scope, proxy, class) },
        };
        let Extending { extensions, refused } = extending(world, proxy, proven);
        own.refused.extend(refused);
        Self { extensions, ..own }
    }

    /// Adds what its listeners do not report, because there is no cluster for who should take it.
    pub(super) fn without_collectors(mut self, unseen: BTreeSet<UnseenCollector>) -> Self {
        self.refused.extend(unseen.into_iter().map(Refused::from));
        self
    }

    /// Returns the patches for all of it.
    pub(super) fn patches(&self) -> Option<&Patches> {
        self.patching.as_ref().map(|patching| &patching.patches)
    }

    /// Returns whether it is a gateway's that passes mTLS on: only such have clusters and endpoints of services of their own.
    pub(super) fn passes_mtls_on(&self) -> bool {
        self.inbound.is_none() && !self.clusters.is_empty()
    }

    /// Returns the secrets that its listeners ask for, with the Gateways that name them.
    pub(super) fn secrets(&self) -> impl Iterator<Item = &(ObjectKey, SecretName)> {
        self.secrets.iter()
    }

    /// Returns what of the objects has no place in the proxy's listeners.
    pub(super) fn refused(&self) -> impl Iterator<Item = &Refused> {
        self.refused.iter()
    }
}

impl PerProxy {
    /// Translates the inputs.
    pub(super) fn new(inputs: &PerProxyInputs, clusters: &Layer, cache: &mut ResourceCache) -> Self {
        // Without patches it does not matter for whom they are.
        let none = Patching::none(ProxyKind::Sidecar, Flavour::Stock);
        let patching = inputs.patching.as_ref().unwrap_or(&none);
        let made = PerType::from_fn(|kind| match kind {
            ResourceType::Cluster => inputs.clusters.iter().cloned().map(|input| cache.cluster(input, patching)).collect(),
            ResourceType::Endpoint => inputs.assignments.iter().cloned().map(|input| cache.assignment(input)).collect(),
            ResourceType::Listener => listeners(inputs, patching, cache),
            ResourceType::Route => inputs.tables.iter().cloned().map(|table| cache.table(table, patching)).collect(),
            ResourceType::ExtensionConfig => extension_configs(inputs, cache),
            ResourceType::Secret | ResourceType::NameTable | ResourceType::ProxyConfig => Vec::new(),
        });
        let unfit = ResourceType::ALL.into_iter().flat_map(|kind| &made[kind]).flat_map(|made| made.unfit.iter().cloned()).collect();
        let reports = ResourceType::ALL.into_iter().flat_map(|kind| &made[kind]).filter_map(|made| made.report.clone()).collect();
        let layers = PerType::from_fn(|kind| layer(&made[kind]));
        let mut missing: [MissingClusters; 2] = Default::default();
        for (missing, kind) in missing.iter_mut().zip(NAMING) {
            let made = Changes { made: layers[kind].keys().cloned().collect(), ..Changes::default() };
            missing.update(&layers[kind], &made, clusters, &BTreeSet::new());
        }
        Self { layers, missing, unfit, reports }
    }

    /// Follows the clusters that appeared or vanished.
    pub(super) fn check(&mut self, clusters: &Layer, renamed: &BTreeSet<SmolStr>) {
        for (missing, kind) in self.missing.iter_mut().zip(NAMING) {
            missing.update(&self.layers[kind], &Changes::default(), clusters, renamed);
        }
    }

    /// Returns the destinations of its own routes that it has no cluster for, and what Envoy would refuse.
    pub(super) fn findings(&self, world: &World, scope: &Scope, left_out: &BTreeSet<&SmolStr>) -> Vec<Diagnostic> {
        let found = self.missing.iter().zip(NAMING).map(|(missing, kind)| missing.findings(world, scope, &self.layers[kind], left_out));
        found.flatten().chain(self.unfit.iter().flat_map(|unfit| unfit.findings(false))).collect()
    }

    /// Returns what came of patches.
    pub(super) fn reports(&self) -> impl Iterator<Item = &PatchReport> {
        self.reports.iter().map(Arc::as_ref)
    }

    /// Returns the resources of one type.
    pub(super) fn layer(&self, kind: ResourceType) -> &Layer {
        &self.layers[kind]
    }
}

fn listeners(inputs: &PerProxyInputs, patching: &Patching, cache: &mut ResourceCache) -> Vec<Encoded> {
    let mut listeners: Vec<_> = inputs.inbound.iter().cloned().flat_map(|input| cache.inbound_listeners(input, patching)).collect();
    listeners.extend(inputs.gateway.iter().cloned().map(|input| cache.gateway_listener(input, patching)));
    listeners
}

fn extension_configs(inputs: &PerProxyInputs, cache: &mut ResourceCache) -> Vec<Encoded> {
    let mut configs: Vec<_> = inputs.extensions.iter().cloned().map(|input| cache.extension_config(input)).collect();
    configs.extend(inputs.rate_limits.iter().cloned().map(|input| cache.rate_limit(input)));
    configs
}

fn sidecar(world: &World, scope: &Scope, proxy: &Proxy, class: &ProxyClass) -> PerProxyInputs {
    let targets = inbound_targets(world, scope, proxy);
    let workload = proxy.ips.first().copied().unwrap_or(IpAddr::from([127, 0, 0, 1]));
    let sidecar = scope.sidecar.as_ref();
    let services = service_targets(world, proxy);
    let limits = workload_rate_limits(world, proxy, &services);
    let shared = class.without_listeners();
    let (inbound, refused) = inbound::planned(InboundView {
        class,
        mesh: &world.mesh,
        mtls: &workload_mtls(world, &proxy.namespace, &proxy.labels),
        tokens: &Arc::new(token_rules(world, &proxy.namespace, &proxy.labels)),
        policies: &WorkloadPolicies::of(world, &proxy.namespace, &proxy.labels).with_rate_limits(placed_limits(world, &limits)),
        sidecar: sidecar.map(Arc::as_ref),
        targets: &services,
        workload: &proxy.ips,
        ports: proxy.ports,
    });
    PerProxyInputs {
        clusters: cluster::inbound_inputs(&shared, &world.mesh, sidecar, &targets, workload),
        inbound: Some(inbound),
        rate_limits: RateLimitInput::of(world, &limits),
        refused,
        ..PerProxyInputs::default()
    }
}

fn gateway_proxy(world: &World, scope: &Scope, proxy: &Proxy, class: &ProxyClass) -> PerProxyInputs {
    let gateways = gateways_for(world, &proxy.labels);
    let targets = service_targets(world, proxy);
    let limits = workload_rate_limits(world, proxy, &targets);
    let policies = WorkloadPolicies::of(world, &proxy.namespace, &proxy.labels).with_rate_limits(placed_limits(world, &limits));
    let plan = gateway::plan(GatewayView {
        class,
        mesh: &world.mesh,
        gateways: &gateways,
        world,
        scope,
        tokens: &Arc::new(token_rules(world, &proxy.namespace, &proxy.labels)),
        targets: &targets,
        policies: &policies,
        ports: proxy.ports,
    });
    let mut refused = plan.refused;
    let routes_for = |at: &GatewayRef| routes_for_gateway(world, &proxy.namespace, at);
    let route::GatewayTables { tables, refused: of_tables } = route::gateway_tables(scope, class, &world.mesh, &plan.tables, routes_for);
    refused.extend(of_tables);
    let place = world.place_detail().map(|detail| Place::of(proxy, &detail));
    let (clusters, assignments) =
        if passes_mtls_on(&gateways) { auto_passthrough(world, scope, class, place.as_ref()) } else { Default::default() };
    let secrets = secrets_of(&gateways);
    let rate_limits = RateLimitInput::of(world, &limits);
    PerProxyInputs { clusters, assignments, tables, gateway: plan.listeners, rate_limits, refused, secrets, ..PerProxyInputs::default() }
}

fn secrets_of(gateways: &[Arc<Gateway>]) -> BTreeSet<(ObjectKey, SecretName)> {
    let listeners = gateways.iter().flat_map(|gateway| gateway.spec.listeners.iter().map(move |listener| (gateway, listener)));
    listeners.flat_map(|(gateway, listener)| listener.secrets().map(|name| (gateway.origin.object.clone(), name.clone()))).collect()
}

fn passes_mtls_on(gateways: &[Arc<Gateway>]) -> bool {
    gateways.iter().flat_map(|gateway| &gateway.spec.listeners).any(Listener::is_auto_passthrough)
}

fn auto_passthrough(world: &World, scope: &Scope, class: &ProxyClass, place: Option<&Place>) -> (Vec<ClusterInput>, Vec<EndpointInput>) {
    let (mut clusters, mut assignments) = (Vec::new(), Vec::new());
    // The mesh's own mTLS ends at none of the others.
    let in_mesh = |(_, service): &(&Hostname, &Arc<Service>)| !service.mesh_external;
    for (host, service) in scope.services.iter().visiting(Visited::Service).filter(in_mesh) {
        let (rule, endpoints) = (scope.destination_rules.get(host), world.endpoints.get(&service.key()));
        clusters.extend(cluster::auto_passthrough_inputs(class, &world.mesh, place, service, rule, endpoints));
        assignments.extend(endpoint::inputs(class, &world.mesh, place, service, rule, endpoints, true));
    }
    (clusters, assignments)
}

fn inbound_targets(world: &World, scope: &Scope, proxy: &Proxy) -> Vec<InboundTarget> {
    let target = |target: ServiceTarget| {
        let port = target.service.ports.get(target.port)?.number;
        let rule = scope.destination_rules.get(&target.service.hostname).cloned();
        Some(InboundTarget { port, target_port: target.target_port, rule, service: target.service })
    };
    service_targets(world, proxy).into_iter().filter_map(target).collect()
}

fn layer(made: &[Encoded]) -> Layer {
    let resources = made.iter().filter_map(|encoded| encoded.resource.clone());
    Arc::new(resources.map(|resource| (resource.name.clone(), resource)).collect::<OrdMap<_, _>>())
}

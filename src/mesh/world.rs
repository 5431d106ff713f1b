//! The immutable snapshot of all that the mesh means at one moment.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use imbl::{GenericHashMap, OrdMap, OrdSet, shared_ptr::DefaultSharedPtr};
use rustc_hash::{FxBuildHasher, FxHashSet};
use smol_str::SmolStr;

use super::{
    authorization::AuthorizationPolicy,
    configured::Configured,
    credential::{Credential, Holder, Part, Scheme, SecretName, SecretUse},
    envoy_filter::EnvoyFilter,
    extension::{Extension, PullSecret},
    gateway,
    model::{
        Eclipsed, EndpointSet, Hostname, Labels, MtlsMode, Origin, PlaceDetail, Service, ServiceKey, UnusedEndpoint, Workload, WorkloadKey,
    },
    peer_authentication::PeerAuthentication,
    policy_table::PolicyTable,
    proxy_config::ProxyConfig,
    rate_limit::RateLimitPolicy,
    reach::Reach,
    request_authentication::{FetchedKeys, RequestAuthentication},
    routing::model::{GatewayRef, RouteSet},
    settings::{MeshSettings, ProxyDefaults},
    sidecar,
    traffic::{DestinationRule, EffectiveDestinationRule, RulePlace, own_place_detail},
    trust::Trust,
    unsupported::Unsupported,
};
use crate::{
    api::{ConfigId, Kind, ObjectKey, istio},
    visits::{Visit, Visited},
};

pub use super::model::NamedKey;

/// What the mesh means now. Cheap to clone: every table shares its unchanged parts with the world before.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct World {
    /// Counts worlds within this process; for logs and debug only, never in what is served.
    pub generation: u64,
    /// Mesh-wide settings.
    pub mesh: Arc<MeshSettings>,
    /// Where they are written; `None`: nowhere.
    pub mesh_config: Option<ObjectKey>,
    /// Whom proxies trust, as far as the control plane says it.
    pub trust: Arc<Trust>,
    /// How proxies are injected; apart from `mesh`, as it changes nothing of what proxies are sent.
    pub proxy_defaults: Arc<ProxyDefaults>,
    /// Services by hostname and defining namespace.
    pub services: OrdMap<ServiceKey, Arc<Service>>,
    /// Index: services whose endpoints depend on where the client is, whatever rules there are.
    pub located: OrdSet<ServiceKey>,
    /// Index: what of clients' places may count by DestinationRules, and by how many of them. Where nothing does, they are not counted.
    pub rule_places: OrdMap<RulePlace, usize>,
    /// Definitions of services of which something has no effect.
    pub eclipsed: OrdMap<ServiceKey, Arc<[Eclipsed]>>,
    /// Services of which something has no effect outside of their namespace, by host.
    pub eclipsed_abroad: OrdMap<Hostname, Arc<[Eclipsed]>>,
    /// Their endpoints.
    pub endpoints: OrdMap<ServiceKey, Arc<EndpointSet>>,
    /// Endpoints that somebody wrote and no proxy is sent.
    pub unused_endpoints: OrdMap<ServiceKey, Arc<[UnusedEndpoint]>>,
    /// Pods (and WorkloadEntries) of all clusters.
    pub workloads: OrdMap<WorkloadKey, Arc<Workload>>,
    /// Routes by object.
    pub routes: OrdMap<NamedKey, Arc<RouteSet>>,
    /// DestinationRules by object.
    pub destination_rules: PolicyTable<DestinationRule>,
    /// Gateways by object.
    pub gateways: PolicyTable<gateway::Gateway>,
    /// Sidecars by object.
    pub sidecars: PolicyTable<sidecar::Sidecar>,
    /// PeerAuthentications by object.
    pub peer_authentications: PolicyTable<PeerAuthentication>,
    /// RequestAuthentications by object.
    pub request_authentications: PolicyTable<RequestAuthentication>,
    /// ProxyConfigs by object; they, too, change nothing of what proxies are sent.
    pub proxy_configs: PolicyTable<ProxyConfig>,
    /// The keys of issuers, by the URL where they are.
    pub key_sets: OrdMap<SmolStr, FetchedKeys>,
    /// AuthorizationPolicies by object.
    pub authorization_policies: PolicyTable<AuthorizationPolicy>,
    /// Telemetry objects.
    pub telemetries: PolicyTable<istio::Telemetry>,
    /// EnvoyFilters by object.
    pub envoy_filters: PolicyTable<EnvoyFilter>,
    /// TrafficExtensions by object, and WasmPlugins by a name that no object has.
    pub extensions: PolicyTable<Extension>,
    /// RateLimitPolicies by object.
    pub rate_limit_policies: PolicyTable<RateLimitPolicy>,
    /// What registries ask for, by the Secrets that extensions name.
    pub pull_secrets: OrdMap<NamedKey, PullSecret>,
    /// Objects that ask for what is not built yet.
    pub unsupported: OrdMap<ConfigId, Arc<Unsupported>>,
    /// What the Secrets and ConfigMaps hold that some object names.
    pub credentials: OrdMap<Holder, Arc<Credential>>,
    /// The secrets that objects name.
    pub secret_uses: OrdMap<ConfigId, Arc<[SecretUse]>>,
    /// Index: the objects that name a secret.
    pub secret_users: OrdMap<SecretName, OrdSet<ConfigId>>,
    /// Labels of namespaces.
    pub namespaces: OrdMap<SmolStr, Arc<Labels>>,
    /// Index: services that have an endpoint at an address, sorted.
    pub services_at: GenericHashMap<IpAddr, Arc<[ServiceKey]>, FxBuildHasher, DefaultSharedPtr>,
    /// Index: DestinationRules by namespace and host.
    pub rules_by_host: OrdMap<SmolStr, OrdMap<Hostname, Arc<HostRules>>>,
    /// Index: routes for sidecars by host, the oldest first.
    pub routes_by_host: OrdMap<Hostname, Arc<Vec<Arc<RouteSet>>>>,
    /// Index: routes by the delegates that are merged into them, the oldest first.
    pub routes_by_delegate: OrdMap<NamedKey, Arc<Vec<Arc<RouteSet>>>>,
    /// Index: routes by the Gateway that they are bound to, the oldest first.
    pub routes_by_gateway: OrdMap<GatewayRef, Arc<Vec<Arc<RouteSet>>>>,
}

/// The DestinationRules of one namespace for one host.
#[derive(Clone, Debug, PartialEq)]
pub struct HostRules {
    /// The oldest first.
    pub rules: Vec<Arc<Configured<DestinationRule>>>,
    /// Their merge, when every proxy sees the same: no selector, all public. Shared by all scopes.
    pub common: Option<Arc<EffectiveDestinationRule>>,
}

/// A Gateway.
pub type Gateway = Configured<gateway::Gateway>;

/// A Sidecar.
pub type Sidecar = Configured<sidecar::Sidecar>;

/// What a batch of changes touched, so that only that is translated again.
///
/// The engine fills it from what really differs: an object written again without change touches nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Services whose endpoints differ. (Those that are not in `services` too differ in nothing else.)
    pub endpoints: BTreeSet<Hostname>,
    /// Services that appeared, vanished or differ in shape (ports, addresses, identities, …), with those whose
    /// DestinationRule or mTLS mode differs.
    pub services: BTreeSet<Hostname>,
    /// Hosts whose routes differ, whatever service they name.
    pub routes: BTreeSet<Hostname>,
    /// `(namespace, name)` of Gateways that differ.
    pub gateways: BTreeSet<NamedKey>,
    /// Namespaces in which something that decides about inbound traffic or scope differs (Sidecar,
    /// PeerAuthentication, Workload): proxies there are sorted into classes again.
    pub namespaces: BTreeSet<SmolStr>,
    /// Addresses for which the services behind them, or those services' ports, differ: proxies that have one of them
    /// may have other service targets.
    pub addresses: FxHashSet<IpAddr>,
    /// Secrets and ConfigMaps that differ, of those that some object names.
    pub secrets: BTreeSet<Holder>,
    /// Names of secrets that an object names now and none did, or the other way round.
    pub secret_names: BTreeSet<SecretName>,
    /// Workloads that policies of theirs differ for.
    pub policies: Vec<Reach>,
    /// Mesh-wide settings (or a policy of the root namespace) differ: everything is looked at again.
    pub everything: bool,
}

/// The inbound mTLS modes of one workload.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EffectiveMtls {
    /// For ports that none below names.
    pub mode: MtlsMode,
    /// By port of the workload (target port); sorted.
    pub ports: Vec<(u16, MtlsMode)>,
}

impl World {
    /// Iterates over the origins of all configuration objects that have effect.
    pub fn configuration(&self) -> impl Iterator<Item = &Origin> {
        let rules = self.destination_rules.origins().chain(self.gateways.origins());
        let workloads = self.peer_authentications.origins().chain(self.sidecars.origins());
        let requests = self.request_authentications.origins().chain(self.authorization_policies.origins());
        let policies = workloads.chain(requests).chain(self.envoy_filters.origins()).chain(self.proxy_configs.origins());
        let policies =
            policies.chain(self.telemetries.origins()).chain(self.extensions.origins()).chain(self.rate_limit_policies.origins());
        rules.chain(policies).chain(self.routes.values().map(|routes| &routes.origin))
    }

    /// Returns the workload of that name for who says to be in `cluster`: the one there, else that of the first cluster.
    pub fn workload(&self, cluster: &str, namespace: &str, name: &str) -> Option<&Arc<Workload>> {
        let mut named = self.workloads_in(namespace, name).take_while(|workload| workload.name == name).peekable();
        let first = named.peek().copied();
        named.find(|workload| workload.cluster == cluster).or(first)
    }

    /// Returns the workloads of a namespace in all clusters from that name on, sorted by name.
    pub(in crate::mesh) fn workloads_in<'a>(&'a self, namespace: &str, from: &str) -> impl Iterator<Item = &'a Arc<Workload>> {
        let first = WorkloadKey { namespace: namespace.into(), name: from.into(), cluster: SmolStr::default() };
        self.workloads.range(first..).take_while(move |(key, _)| key.namespace == namespace).map(|(_, workload)| workload)
    }

    /// Returns the services of that hostname, of all namespaces, in all views.
    pub fn services_named<'a>(&'a self, host: &'a Hostname) -> impl Iterator<Item = &'a Arc<Service>> {
        let from = ServiceKey { hostname: host.clone(), namespace: SmolStr::default() };
        self.services.range(from..).take_while(move |(key, _)| key.hostname == *host).flat_map(|(_, service)| views(service))
    }

    /// Returns the names under which proxies ask for something in a Secret or ConfigMap.
    pub fn names_of_secret<'a>(&'a self, holder: &'a Holder) -> impl Iterator<Item = &'a SecretName> {
        let named = move |base: SmolStr| {
            let first = SecretName { name: base.clone(), namespace: None, scheme: Scheme::Kubernetes, part: Part::KeyPair };
            self.secret_users.range(first..).map(|(name, _)| name).take_while(move |name| name.name == base)
        };
        let Holder { kind, name: held, namespace } = holder;
        let bare = held.strip_suffix("-cacert").map(SmolStr::from);
        let all = std::iter::once(held.clone()).chain(bare).flat_map(named);
        let there = move |name: &SecretName| name.kind() == *kind && name.namespace_for(namespace) == namespace;
        all.filter(move |name| there(name) && name.candidates().any(|candidate| candidate == *held))
    }

    /// Returns the namespaces that have what a secret's name stands for, and in which it is asked for.
    pub fn namespaces_of_secret<'a>(&'a self, name: &'a SecretName) -> impl Iterator<Item = &'a SmolStr> {
        let having = name.candidates().flat_map(|candidate| {
            let first = Holder { kind: name.kind(), name: candidate, namespace: SmolStr::default() };
            let of_name = |first: Holder| move |other: &&Holder| (other.kind, &other.name) == (first.kind, &first.name);
            self.credentials.range(first.clone()..).map(|(holder, _)| holder).take_while(of_name(first))
        });
        having.map(|holder| &holder.namespace).filter(|namespace| name.namespace_for(namespace) == *namespace)
    }

    /// Returns the origin of an object that names secrets.
    pub fn origin_of(&self, user: &ConfigId) -> Option<&Origin> {
        let key = (user.namespace.clone(), user.name.clone());
        match user.kind {
            Kind::Gateway => self.gateways.get(&key).map(|gateway| &gateway.origin),
            Kind::DestinationRule => self.destination_rules.get(&key).map(|rule| &rule.origin),
            _ => None,
        }
    }

    /// Returns what a secret's name stands for in a namespace; `None`: there is no such object.
    pub fn credential(&self, namespace: &SmolStr, name: &SecretName) -> Option<&Arc<Credential>> {
        let holder = |name_of: SmolStr| Holder { kind: name.kind(), name: name_of, namespace: namespace.clone() };
        name.candidates().find_map(|candidate| self.credentials.get(&holder(candidate)))
    }

    /// Returns what of clients' places counts; `None`: nothing does.
    pub fn place_detail(&self) -> Option<PlaceDetail> {
        let setting = &self.mesh.locality_lb;
        let mut detail = setting.place_detail(false);
        for place in self.rule_places.keys() {
            detail.extend(&place.own);
            detail.extend(&setting.place_detail(place.detects_outliers));
        }
        let located = self.located.iter().visiting(Visited::Service).filter_map(|key| self.services.get(key)).flat_map(views);
        located.for_each(|service| detail.extend(&own_place_detail(service)));
        Some(detail).filter(|detail| !detail.is_empty())
    }

    /// Returns all services, sorted by hostname and namespace, in all views.
    pub(in crate::mesh) fn all_services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values().flat_map(views)
    }
}

/// Returns a service and what others see of its hostname.
pub(in crate::mesh) fn views(service: &Arc<Service>) -> impl Iterator<Item = &Arc<Service>> {
    std::iter::once(service).chain(&service.other_views)
}

impl EffectiveMtls {
    /// Returns the mode for a port of the workload.
    pub fn port(&self, number: u16) -> MtlsMode {
        self.ports.iter().find(|(port, _)| *port == number).map_or(self.mode, |(_, mode)| *mode)
    }
}

//! Clusters of services: one per port and subset.

use std::sync::Arc;

use envoy_types::pb::{
    envoy::{
        config::{
            cluster::v3::{
                Cluster,
                cluster::{
                    ClusterDiscoveryType, CustomClusterType, DiscoveryType, DnsLookupFamily, EdsClusterConfig, LbConfig, LbPolicy,
                    MaglevLbConfig, OriginalDstLbConfig, RingHashLbConfig,
                    common_lb_config::{LocalityConfigSpecifier, LocalityWeightedLbConfig},
                },
            },
            core::v3::{Metadata, TypedExtensionConfig},
        },
        extensions::{
            clusters::dynamic_forward_proxy::v3::{ClusterConfig, cluster_config::ClusterImplementationSpecifier},
            network::dns_resolver::cares::v3::CaresDnsResolverConfig,
        },
        r#type::v3::Percent,
    },
    google::protobuf::{Duration, Value},
};
use smol_str::SmolStr;

use super::{
    ClusterInput, Profile,
    connection::{self, HttpVersion, UpstreamHttp},
    upstream_tls::{self, AutoMtls, NamesOfRequest, Peer},
};
use crate::{
    mesh::{
        model::{
            Endpoint, EndpointSet, MtlsMode, Origin, Place, Protocol, ProxyKind, Registry, Resolution, Service, ServicePort, TargetPort,
        },
        settings::MeshSettings,
        traffic::{ClientTls, EffectiveDestinationRule, EffectiveSubset, HashTable, LoadBalancer, PortPolicy, Preference},
    },
    translate::{
        endpoint::{self, Nearness, Unready},
        filter::{
            http::dns_cache,
            peer_header::{Told, writers},
        },
        input::{Built, ByPtr, ProxyClass},
        metadata, naming, tls, wkt,
    },
};

/// A port (and perhaps subset) of a service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Outbound {
    profile: Profile,
    mesh: ByPtr<MeshSettings>,
    service: ByPtr<Service>,
    rule: Option<ByPtr<EffectiveDestinationRule>>,
    port: u16,
    /// Position in the rule's subsets.
    subset: Option<usize>,
    discovery: Discovery,
    auto_mtls: AutoMtls,
    naming: Naming,
    /// How the endpoints that it holds itself are chosen by where the client is.
    nearness: Option<Arc<Nearness>>,
}

/// How the cluster finds its endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Discovery {
    Eds,
    StrictDns(Arc<[Endpoint]>),
    LogicalDns(Arc<[Endpoint]>),
    OriginalDestination,
    DynamicForwardProxy,
    /// There is nobody: the connection that a rule asks for cannot be had.
    Nowhere,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Naming {
    /// `outbound|80||host`
    Plain,
    /// `outbound_.80_._.host`, for AUTO_PASSTHROUGH gateways: bytes pass as they are, so there is no TLS.
    Sni,
}

/// Returns the clusters through which an AUTO_PASSTHROUGH gateway passes mTLS on: those of [`super::inputs`], under
/// other names.
pub fn auto_passthrough_inputs(
    class: &ProxyClass,
    mesh: &Arc<MeshSettings>,
    place: Option<&Place>,
    service: &Arc<Service>,
    rule: Option<&Arc<EffectiveDestinationRule>>,
    endpoints: Option<&Arc<EndpointSet>>,
) -> Vec<ClusterInput> {
    let profile = Profile::from(class);
    named_inputs(Named { naming: Naming::Sni, profile: &profile, place }, mesh, service, rule, None, endpoints.map(Arc::as_ref))
}

pub(super) fn inputs(
    profile: &Profile,
    mesh: &Arc<MeshSettings>,
    place: Option<&Place>,
    service: &Arc<Service>,
    rule: Option<&Arc<EffectiveDestinationRule>>,
    mtls: Option<MtlsMode>,
    endpoints: Option<&EndpointSet>,
) -> Vec<ClusterInput> {
    named_inputs(Named { naming: Naming::Plain, profile, place }, mesh, service, rule, mtls, endpoints)
}

/// For whom clusters are, and how they are named.
struct Named<'a> {
    naming: Naming,
    profile: &'a Profile,
    place: Option<&'a Place>,
}

fn named_inputs(
    Named { naming, profile, place }: Named<'_>,
    mesh: &Arc<MeshSettings>,
    service: &Arc<Service>,
    rule: Option<&Arc<EffectiveDestinationRule>>,
    mtls: Option<MtlsMode>,
    endpoints: Option<&EndpointSet>,
) -> Vec<ClusterInput> {
    if service.external_name.is_some() {
        return Vec::new();
    }
    let subsets = rule.map_or(0, |rule| rule.subsets.len());
    let ports = service.ports.iter().filter(|port| port.protocol != Protocol::Udp);
    let outbound = |port: &ServicePort, subset: Option<usize>| {
        let at = subset.and_then(|at| rule?.subsets.get(at));
        let by_destination = rule.is_some_and(|rule| rule.balances_by_destination(at, port.number));
        let endpoints = endpoints.map_or(&[][..], |endpoints| endpoints.port(port.number));
        let tls = rule.and_then(|rule| rule.port(at, port.number).tls.as_deref());
        let discovery = match naming {
            Naming::Plain if tls.is_some_and(|tls| !tls.connects(profile.kind)) => Discovery::Nowhere,
            _ => discovery(profile, service, by_destination, at, endpoints)?,
        };
        let auto_mtls = auto_mtls(mesh, service, mtls, &discovery, endpoints);
        let holds_endpoints = matches!(discovery, Discovery::StrictDns(_) | Discovery::LogicalDns(_));
        let policy = rule.map_or(PortPolicy::NONE, |rule| rule.port(at, port.number));
        let nearness = place.filter(|_| holds_endpoints).and_then(|place| Nearness::of(place, mesh, service, policy));
        Some(ClusterInput::Outbound(Outbound {
            profile: *profile,
            mesh: mesh.into(),
            service: service.into(),
            rule: rule.map(Into::into),
            port: port.number,
            subset,
            discovery,
            auto_mtls,
            naming,
            nearness: nearness.map(Arc::new),
        }))
    };
    ports.flat_map(|port| std::iter::once(None).chain((0..subsets).map(Some)).filter_map(move |at| outbound(port, at))).collect()
}

// `None`: DNS clusters without endpoints are not sent.
fn discovery(
    profile: &Profile,
    service: &Service,
    by_destination: bool,
    subset: Option<&EffectiveSubset>,
    endpoints: &[Endpoint],
) -> Option<Discovery> {
    let resolved = |most: usize| {
        let chosen = endpoint::of_subset(endpoints, subset.map(|subset| &*subset.labels)).take(most);
        let chosen: Arc<[Endpoint]> = chosen.cloned().collect();
        (!chosen.is_empty()).then_some(chosen)
    };
    Some(match service.resolution {
        Resolution::DynamicDns => Discovery::DynamicForwardProxy,
        _ if by_destination => Discovery::OriginalDestination,
        Resolution::DnsLb => Discovery::StrictDns(resolved(usize::MAX)?),
        // Envoy refuses more than one, which several addresses or definitions of the host would give it.
        Resolution::DnsRoundRobin => Discovery::LogicalDns(resolved(1)?),
        // What a gateway takes in was sent to the gateway itself: it has no original destination.
        Resolution::Passthrough if profile.kind == ProxyKind::Gateway => Discovery::Eds,
        Resolution::Passthrough => Discovery::OriginalDestination,
        Resolution::ClientSideLb => Discovery::Eds,
    })
}

// Where the original destination is used, nothing tells the proxy whether it can do mTLS: all must.
fn auto_mtls(mesh: &MeshSettings, service: &Service, mtls: Option<MtlsMode>, discovery: &Discovery, endpoints: &[Endpoint]) -> AutoMtls {
    let wanted = mesh.enable_auto_mtls && !service.mesh_external && mtls.is_some_and(|mode| mode != MtlsMode::Disable);
    let direct = *discovery == Discovery::OriginalDestination;
    let all_must = direct || service.resolution == Resolution::Passthrough;
    let all_can = !endpoints.is_empty() && endpoints.iter().all(|endpoint| endpoint.mtls);
    match wanted && (!all_must || all_can) {
        false => AutoMtls::Off,
        true if direct => AutoMtls::Direct,
        true => AutoMtls::Match,
    }
}

pub(super) fn cluster(input: &Outbound) -> Built<Cluster> {
    let subset = input.subset();
    let policy = input.policy();
    let name = input.name();
    let protocol = input.service.port(input.port).map_or(Protocol::Tcp, |port| port.protocol);
    let sniffed = input.profile.kind == ProxyKind::Sidecar;
    let version = HttpVersion::of_port(protocol, sniffed).upgraded(protocol, policy.connection_pool.as_deref(), &input.mesh);

    let mut cluster = Cluster {
        name: name.to_string(),
        alt_stat_name: statistics_name(input, subset).unwrap_or_else(|| name.to_string()) + ";",
        metadata: istio_metadata(input, subset),
        filters: upstream_tls::peer_exchange_filter(input.profile.flavour),
        common_lb_config: connection::common_lb_config(),
        ..Default::default()
    };
    let names = input.names_of_request().and_then(NamesOfRequest::http_options);
    let told = input.told().filter(|_| protocol.is_http() || protocol == Protocol::Auto);
    let preserves_case = input.profile.preserves_case && version.has_case(protocol);
    let upstream = UpstreamHttp { names, filters: told.map(writers).unwrap_or_default(), preserves_case };
    connection::apply(&mut cluster, &input.mesh, policy.connection_pool.as_deref(), version, upstream);
    discover(&mut cluster, input, &name);
    balance(&mut cluster, input, policy.load_balancer.as_deref());
    if let Some(detection) = &policy.outlier_detection {
        connection::detect_outliers(&mut cluster, detection);
    }
    choose_by_health(&mut cluster, input);
    if input.naming == Naming::Plain {
        let peer = Peer {
            service: &input.service,
            sni: match input.discovery {
                // That of each request.
                Discovery::DynamicForwardProxy => SmolStr::default(),
                _ => naming::dns_srv(input.port, subset.map_or("", |subset| &subset.name), &input.service.hostname),
            },
            http2: version == HttpVersion::Two,
            flavour: input.profile.flavour,
            trust: tls::TrustSource::of(&input.mesh),
            defaults: &input.mesh.tls_defaults,
        };
        // What nothing is connected by asks for no secret.
        let settings = policy.tls.as_deref().map(|tls| if tls.connects(input.profile.kind) { tls } else { &ClientTls::Unavailable });
        upstream_tls::apply(&mut cluster, &peer, settings, input.auto_mtls);
    }
    Built::new(cluster, origins(input))
}

fn discover(cluster: &mut Cluster, input: &Outbound, name: &SmolStr) {
    let kind = |kind: DiscoveryType| Some(ClusterDiscoveryType::Type(kind.into()));
    match &input.discovery {
        Discovery::Eds => {
            cluster.cluster_discovery_type = kind(DiscoveryType::Eds);
            cluster.eds_cluster_config = Some(EdsClusterConfig { eds_config: Some(tls::ads()), service_name: name.to_string() });
        }
        Discovery::StrictDns(endpoints) => {
            cluster.cluster_discovery_type = kind(DiscoveryType::StrictDns);
            resolve(cluster, input, endpoints);
        }
        Discovery::LogicalDns(endpoints) => {
            cluster.cluster_discovery_type = kind(DiscoveryType::LogicalDns);
            resolve(cluster, input, endpoints);
        }
        Discovery::OriginalDestination => {
            cluster.cluster_discovery_type = kind(DiscoveryType::OriginalDst);
            cluster.lb_config = other_port(input).map(LbConfig::OriginalDstLbConfig);
        }
        Discovery::Nowhere => cluster.cluster_discovery_type = kind(DiscoveryType::Static),
        Discovery::DynamicForwardProxy => {
            // Envoy asks for both names wherever HTTP has options, in plaintext too.
            let options = !cluster.typed_extension_protocol_options.is_empty();
            let insecure = input.names_of_request().map_or(options, NamesOfRequest::is_incomplete);
            cluster.cluster_discovery_type = Some(ClusterDiscoveryType::ClusterType(forward_proxy(input, insecure)));
            cluster.common_lb_config = None;
        }
    }
}

/// Returns the port to which a ServiceEntry leads what is sent to the original destination, where it is another one.
fn other_port(input: &Outbound) -> Option<OriginalDstLbConfig> {
    let entry = input.service.resolution == Resolution::Passthrough && input.service.registry == Registry::External;
    match input.service.port(input.port).filter(|_| entry)?.target_port {
        TargetPort::Number(number) if number != input.port => {
            Some(OriginalDstLbConfig { upstream_port_override: wkt::uint32(number.into()), ..Default::default() })
        }
        _ => None,
    }
}

// The DNS settings of the cluster itself are older than `envoy.clusters.dns`, but all that istiod sends.
#[allow(deprecated)]
fn resolve(cluster: &mut Cluster, input: &Outbound, endpoints: &[Endpoint]) {
    cluster.dns_lookup_family = dns_family(input.profile).into();
    cluster.dns_refresh_rate = Some(wkt::duration(input.mesh.dns_refresh_rate));
    cluster.dns_jitter = Some(Duration { seconds: 0, nanos: 100_000_000 });
    cluster.respect_dns_ttl = true;
    cluster.typed_dns_resolver_config = Some(TypedExtensionConfig {
        name: "envoy.network.dns_resolver.cares".into(),
        typed_config: Some(wkt::any(&CaresDnsResolverConfig { udp_max_queries: wkt::uint32(100), ..Default::default() })),
    });
    let mtls = endpoint::keeps_mtls(input.rule.as_deref(), input.subset(), input.port);
    let said = endpoint::Said { mtls, all_labels: input.profile.peers };
    cluster.load_assignment = Some(endpoint::assignment(&cluster.name, endpoints, input.unready(), input.nearness.as_deref(), said));
}

fn forward_proxy(input: &Outbound, allow_insecure_cluster_options: bool) -> CustomClusterType {
    // Envoy refuses a listener whose filter says anything else of the cache than the cluster does.
    let cache = dns_cache(&format!("{}_dfp_dns_cache", input.service.hostname));
    let config = ClusterConfig {
        cluster_implementation_specifier: Some(ClusterImplementationSpecifier::DnsCacheConfig(cache)),
        allow_insecure_cluster_options,
        ..Default::default()
    };
    CustomClusterType { name: "envoy.clusters.dynamic_forward_proxy".into(), typed_config: Some(wkt::any(&config)) }
}

fn dns_family(profile: Profile) -> DnsLookupFamily {
    match (profile.ipv4, profile.ipv6) {
        (true, true) => DnsLookupFamily::All,
        (false, true) => DnsLookupFamily::V6Only,
        _ => DnsLookupFamily::V4Only,
    }
}

fn balance(cluster: &mut Cluster, input: &Outbound, load_balancer: Option<&LoadBalancer>) {
    if matches!(input.discovery, Discovery::OriginalDestination | Discovery::DynamicForwardProxy) {
        cluster.lb_policy = LbPolicy::ClusterProvided.into();
        return;
    }
    let policy = match load_balancer {
        None | Some(LoadBalancer::LeastRequest | LoadBalancer::Passthrough) => LbPolicy::LeastRequest,
        Some(LoadBalancer::RoundRobin) => LbPolicy::RoundRobin,
        Some(LoadBalancer::Random) => LbPolicy::Random,
        Some(LoadBalancer::ConsistentHash(hash)) => match hash.table {
            HashTable::Ring { minimum_size } => {
                let minimum_ring_size = wkt::uint64(minimum_size);
                cluster.lb_config = Some(LbConfig::RingHashLbConfig(RingHashLbConfig { minimum_ring_size, ..Default::default() }));
                LbPolicy::RingHash
            }
            HashTable::Maglev { size } => {
                let table_size = size.and_then(wkt::uint64);
                cluster.lb_config = Some(LbConfig::MaglevLbConfig(MaglevLbConfig { table_size }));
                LbPolicy::Maglev
            }
        },
    };
    cluster.lb_policy = policy.into();
}

/// Sets when endpoints that are not ready have traffic, and lets the weights of localities count where some are preferred.
fn choose_by_health(cluster: &mut Cluster, input: &Outbound) {
    let Some(common) = &mut cluster.common_lb_config else { return };
    let threshold = endpoint::panic_threshold(&input.mesh, &input.service, input.policy());
    if let Some(value) = threshold.filter(|_| input.discovery == Discovery::Eds) {
        common.healthy_panic_threshold = Some(Percent { value });
    }
    let preference = Preference::of(&input.mesh.locality_lb, input.service.distribution, input.policy());
    if preference.is_some_and(|preference| preference.weighs_localities()) {
        common.locality_config_specifier = Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(LocalityWeightedLbConfig {}));
    }
}

fn istio_metadata(input: &Outbound, subset: Option<&EffectiveSubset>) -> Option<Metadata> {
    let mut fields = Vec::new();
    // istiod says it of whole services only.
    if input.service.mesh_external && subset.is_none() {
        fields.push(("external", wkt::bool_value(true)));
    }
    if let Some(origin) = input.rule.as_deref().and_then(|rule| rule.origins.first()) {
        fields.push(("config", wkt::text_value(naming::config_path(origin).as_str())));
    }
    if let Some(subset) = subset {
        fields.push(("subset", wkt::text_value(subset.name.as_str())));
    }
    if upstream_tls::originates(input.policy().tls.as_deref()) {
        fields.push(("alpn_override", wkt::text_value("false")));
    }
    if input.discovery != Discovery::DynamicForwardProxy {
        fields.push(("services", services(std::iter::once(&*input.service))));
        fields.extend(input.profile.peers.then(|| in_metrics(&input.service)).into_iter().flatten());
    }
    metadata::istio(fields)
}

/// Returns the service's names for metrics, which cannot be taken out of a list.
pub(super) fn in_metrics(service: &Service) -> [(&'static str, Value); 2] {
    let name = name_in_metrics(service);
    [("host", wkt::text_value(service.hostname.as_str())), ("service", wkt::text_value(format!("{name};{}", service.namespace)))]
}

fn name_in_metrics(service: &Service) -> &str {
    match service.registry {
        Registry::Kubernetes => service.name.as_str(),
        Registry::External => service.hostname.as_str(),
    }
}

/// Returns `services: [{host, name, namespace}, …]`; what comes from a ServiceEntry is named by its host.
pub(super) fn services<'a>(services: impl Iterator<Item = &'a Service>) -> Value {
    let named = services.map(|service| {
        let fields = [
            ("host", wkt::text_value(service.hostname.as_str())),
            ("name", wkt::text_value(name_in_metrics(service))),
            ("namespace", wkt::text_value(service.namespace.as_str())),
        ];
        wkt::struct_value(wkt::structure(fields))
    });
    wkt::list_value(named.collect())
}

fn statistics_name(input: &Outbound, subset: Option<&EffectiveSubset>) -> Option<String> {
    let port = input.service.port(input.port)?;
    let subset = subset.map_or("", |subset| &subset.name);
    naming::statistics_name(&input.mesh.outbound_cluster_stat_name, &input.service, port, subset)
}

fn origins(input: &Outbound) -> Vec<Origin> {
    let rules = input.rule.iter().flat_map(|rule| rule.origins.iter().cloned());
    input.service.origins().cloned().chain(rules).collect()
}

impl Outbound {
    pub(super) fn name(&self) -> SmolStr {
        let subset = self.subset().map_or("", |subset| &subset.name);
        match self.naming {
            Naming::Plain => naming::outbound_cluster(self.port, subset, &self.service.hostname),
            Naming::Sni => naming::dns_srv(self.port, subset, &self.service.hostname),
        }
    }

    fn subset(&self) -> Option<&EffectiveSubset> {
        self.rule.as_ref()?.subsets.get(self.subset?)
    }

    fn unready(&self) -> Unready {
        Unready::of(&self.mesh, &self.service, self.policy())
    }

    fn names_of_request(&self) -> Option<NamesOfRequest> {
        // An AUTO_PASSTHROUGH gateway passes bytes on.
        let tls = self.policy().tls.as_deref().filter(|_| self.naming == Naming::Plain);
        NamesOfRequest::of(tls, self.auto_mtls, self.discovery == Discovery::DynamicForwardProxy)
    }

    /// Returns which requests reach a proxy of the mesh by mTLS, if proxies tell each other who they are.
    fn told(&self) -> Option<Told> {
        let by_mtls = match (self.policy().tls.as_deref(), self.auto_mtls) {
            (Some(ClientTls::IstioMutual { .. }), _) | (None, AutoMtls::Direct) => Some(Told::Always),
            (None, AutoMtls::Match) => Some(Told::ByEndpoint),
            _ => None,
        };
        by_mtls.filter(|_| self.profile.peers && self.naming == Naming::Plain)
    }

    fn policy(&self) -> &PortPolicy {
        self.rule.as_ref().map_or(PortPolicy::NONE, |rule| rule.port(self.subset(), self.port))
    }
}

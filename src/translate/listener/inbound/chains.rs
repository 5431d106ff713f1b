//! The filter chains of inbound ports. mTLS mode and protocol decide which there are (contract §3.4, table).

use envoy_types::pb::envoy::config::{
    listener::v3::{Filter, FilterChain, FilterChainMatch, Listener},
    route::v3::{
        Decorator, RetryPolicy, Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, route, route_action,
        route_match::PathSpecifier,
    },
};
use smol_str::SmolStr;

use super::{InboundInput, InboundPort, carries};
use crate::{
    mesh::model::{Flavour, MtlsMode, Protocol},
    translate::{
        filter::{
            Direction,
            connection_manager::{ConnectionManager, Routes, connection_manager},
            extensions::Extensions,
            network::{Reports, TcpTarget, black_hole, metadata_exchange, stats, tcp_filters},
            policies::PolicyFilters,
        },
        input::Built,
        listener::chain::{MESH, MESH_HTTP, MESH_TCP, PLAINTEXT_HTTP},
        metadata::istio_config,
        naming::{INBOUND_PASSTHROUGH_CLUSTER, config_path, inbound_cluster},
        tls::{PEER_EXCHANGE, TrustSource, downstream_istio_mutual},
        wkt,
    },
};

/// Returns the chains for ports that no service names, and for the listener's own port (which nobody may reach: a loop).
pub(super) fn passthrough(input: &InboundInput, policies: &PolicyFilters) -> Vec<FilterChain> {
    let own_port = FilterChainMatch { destination_port: wkt::uint32(input.mesh.proxy_inbound_listen_port.into()), ..Default::default() };
    let counted = stats(&input.class, Direction::Inbound);
    let filters = metadata_exchange(input.class.flavour).into_iter().chain(counted).chain([black_hole()]);
    let mut chains = vec![FilterChain {
        name: "virtualInbound-blackhole".into(),
        filter_chain_match: Some(own_port),
        filters: filters.collect(),
        ..Default::default()
    }];
    chains.extend(Handover::passthrough(None).chains(input, policies, input.mtls.mode));
    let covered = |port: u16| input.ports.iter().any(|known| known.target_port == port);
    for (port, mode) in input.mtls.ports.iter().filter(|(port, _)| !covered(*port)) {
        chains.extend(Handover::passthrough(Some(*port)).chains(input, policies, *mode));
    }
    chains
}

/// Returns the chains for one port.
pub(super) fn port(input: &InboundInput, policies: &PolicyFilters, port: &InboundPort) -> Vec<FilterChain> {
    let name = port.name();
    let cluster = inbound_cluster(port.target_port);
    let handover = Handover {
        destination: Some(port.target_port),
        protocol: port.protocol,
        http_name: name.clone(),
        tcp_name: name.clone(),
        stat_prefix: format!("inbound_{name}"),
        tcp_stat_prefix: port.stat_prefix.clone(),
        operation: format!("{}:{}/*", port.host, port.service_port),
        service_port: port.service_port,
        cluster,
    };
    let mut chains = handover.chains(input, policies, input.mtls.port(port.target_port));
    if let Some(origin) = &port.config {
        for chain in &mut chains {
            chain.metadata = Some(istio_config(&config_path(origin)));
        }
    }
    chains
}

/// Notes what the chains of these ports ask for of what filters do. `captured`: so do those of all other ports.
pub(super) fn note_extensions(
    input: &InboundInput,
    policies: &PolicyFilters,
    ports: &[&InboundPort],
    captured: bool,
    built: &mut Built<Listener>,
) {
    let own = ports.iter().map(|port| (port.target_port, carries(port.protocol) != Some(false)));
    let others = [0].into_iter().chain(input.mtls.ports.iter().map(|(port, _)| *port)).map(|port| (port, true));
    for (port, requests) in own.chain(others.filter(|_| captured)) {
        Extensions::at(&input.class.own.extensions, Direction::Inbound, port).note(requests, built);
        if requests {
            policies.limits.note(port, built);
        }
    }
}

/// Where a port's traffic is handed over, and under which names.
struct Handover {
    destination: Option<u16>,
    protocol: Protocol,
    http_name: SmolStr,
    tcp_name: SmolStr,
    stat_prefix: String,
    tcp_stat_prefix: SmolStr,
    operation: String,
    service_port: u16,
    cluster: SmolStr,
}

/// The chain of one row of that table: what it matches, and what is inside.
struct Shape {
    tls: bool,
    alpn: &'static [&'static str],
    http: bool,
    /// Whether the proxy ends the TLS; otherwise it passes the TLS on.
    mtls: bool,
}

fn shapes(mode: MtlsMode, protocol: Protocol) -> Vec<Shape> {
    let shape = |tls, alpn, http, mtls| Shape { tls, alpn, http, mtls };
    let (auto, http) = (protocol == Protocol::Auto, protocol.is_http());
    match mode {
        MtlsMode::Permissive if auto => vec![
            shape(true, &MESH_HTTP, true, true),
            shape(false, &PLAINTEXT_HTTP, true, false),
            shape(true, &MESH_TCP, false, true),
            shape(false, &[], false, false),
            shape(true, &[], false, false),
        ],
        MtlsMode::Permissive if http => vec![shape(true, &MESH, true, true), shape(false, &[], true, false)],
        MtlsMode::Permissive => vec![shape(true, &MESH, false, true), shape(true, &[], false, false), shape(false, &[], false, false)],
        MtlsMode::Strict if auto => vec![shape(true, &MESH_HTTP, true, true), shape(true, &[], false, true)],
        MtlsMode::Strict => vec![shape(true, &[], http, true)],
        MtlsMode::Disable if auto => vec![shape(false, &PLAINTEXT_HTTP, true, false), shape(false, &[], false, false)],
        MtlsMode::Disable => vec![shape(false, &[], http, false)],
    }
}

impl Handover {
    fn passthrough(destination: Option<u16>) -> Self {
        Self {
            destination,
            protocol: Protocol::Auto,
            http_name: "virtualInbound-catchall-http".into(),
            tcp_name: "virtualInbound".into(),
            stat_prefix: INBOUND_PASSTHROUGH_CLUSTER.into(),
            tcp_stat_prefix: INBOUND_PASSTHROUGH_CLUSTER.into(),
            operation: ":0/*".into(),
            service_port: 0,
            cluster: INBOUND_PASSTHROUGH_CLUSTER.into(),
        }
    }

    fn chains(&self, input: &InboundInput, policies: &PolicyFilters, mode: MtlsMode) -> Vec<FilterChain> {
        shapes(mode, self.protocol).into_iter().map(|shape| self.chain(input, policies, &shape)).collect()
    }

    fn chain(&self, input: &InboundInput, policies: &PolicyFilters, shape: &Shape) -> FilterChain {
        let matcher = FilterChainMatch {
            destination_port: self.destination.and_then(|port| wkt::uint32(port.into())),
            transport_protocol: if shape.tls { "tls".into() } else { "raw_buffer".into() },
            application_protocols: shape.alpn.iter().map(|name| (*name).to_owned()).collect(),
            ..Default::default()
        };
        let body = if shape.http { self.http_filters(input, policies, shape.mtls) } else { self.tcp_filters(input, policies, shape.mtls) };
        FilterChain {
            name: if shape.http { self.http_name.to_string() } else { self.tcp_name.to_string() },
            filter_chain_match: Some(matcher),
            filters: metadata_exchange(input.class.flavour).into_iter().chain(body).collect(),
            transport_socket: shape.mtls.then(|| mesh_tls(input, shape.http)),
            ..Default::default()
        }
    }

    fn tcp_filters(&self, input: &InboundInput, policies: &PolicyFilters, from_mesh: bool) -> Vec<Filter> {
        let target = TcpTarget {
            stat_prefix: self.tcp_stat_prefix.clone(),
            idle_timeout: input.class.idle_timeout,
            mongo: self.protocol == Protocol::Mongo,
            ..TcpTarget::cluster(self.cluster.clone())
        };
        let reports = Reports { class: &input.class, direction: Direction::Inbound, from_mesh };
        self.extensions(input).among_policies(policies).into_iter().chain(tcp_filters(&target, reports)).collect()
    }

    fn http_filters(&self, input: &InboundInput, policies: &PolicyFilters, from_mesh: bool) -> Vec<Filter> {
        let extensions = self.extensions(input);
        let manager = connection_manager(ConnectionManager {
            class: &input.class,
            mesh: &input.mesh,
            direction: Direction::Inbound,
            port: self.destination.unwrap_or_default(),
            stat_prefix: &self.stat_prefix,
            routes: Routes::Inline(Box::new(self.routes())),
            tokens: Some(&input.tokens),
            http2: self.protocol.is_http2(),
            grpc_web: self.protocol == Protocol::GrpcWeb,
            sniffed: false,
            dns_cache: None,
            policies,
            extensions: &extensions,
            explicit_proxy: false,
            from_mesh,
        });
        extensions.before_requests().chain([manager]).collect()
    }

    fn extensions<'a>(&self, input: &'a InboundInput) -> Extensions<'a> {
        Extensions::at(&input.class.own.extensions, Direction::Inbound, self.destination.unwrap_or_default())
    }

    // Everything goes to the application (contract §3.6 "Inbound").
    fn routes(&self) -> RouteConfiguration {
        let grpc = matches!(self.protocol, Protocol::Grpc | Protocol::GrpcWeb);
        let retry = RetryPolicy { retry_on: "reset-before-request".into(), num_retries: wkt::uint32(2), ..Default::default() };
        let action = RouteAction {
            cluster_specifier: Some(route_action::ClusterSpecifier::Cluster(self.cluster.to_string())),
            timeout: Some(Default::default()),
            max_stream_duration: Some(route_action::MaxStreamDuration {
                max_stream_duration: Some(Default::default()),
                grpc_timeout_header_max: Some(Default::default()),
                ..Default::default()
            }),
            retry_policy: (!grpc).then_some(retry),
            ..Default::default()
        };
        let route = Route {
            name: "default".into(),
            r#match: Some(RouteMatch { path_specifier: Some(PathSpecifier::Prefix("/".into())), ..Default::default() }),
            action: Some(route::Action::Route(action)),
            decorator: Some(Decorator { operation: self.operation.clone(), ..Default::default() }),
            ..Default::default()
        };
        RouteConfiguration {
            name: self.cluster.to_string(),
            virtual_hosts: vec![VirtualHost {
                name: format!("inbound|http|{}", self.service_port),
                domains: vec!["*".into()],
                routes: vec![route],
                ..Default::default()
            }],
            validate_clusters: wkt::boolean(false),
            ..Default::default()
        }
    }
}

// `istio-peer-exchange` is offered only where the filter is that speaks it (contract §3.8).
fn mesh_tls(input: &InboundInput, http: bool) -> envoy_types::pb::envoy::config::core::v3::TransportSocket {
    let exchanges = !http && input.class.flavour == Flavour::Istio;
    let alpn = exchanges.then_some(PEER_EXCHANGE).into_iter().chain(["h2", "http/1.1"]).collect::<Vec<_>>();
    downstream_istio_mutual(&input.mesh.trust_domains(), TrustSource::of(&input.mesh), &alpn, &input.mesh.mesh_mtls)
}

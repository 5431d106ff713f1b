//! Makes the messages of planned outbound listeners.

use envoy_types::pb::envoy::config::{
    core::v3::TrafficDirection,
    listener::v3::{AdditionalAddress, FilterChain, FilterChainMatch, Listener},
};
use smol_str::SmolStr;

use super::{Chain, ListenerInput, Plan, ServiceListener, Target};
use crate::{
    mesh::model::Interception,
    translate::{
        filter::{
            Direction,
            access_log::listener_access_logs,
            connection_manager::{ConnectionManager, Routes, connection_manager},
            extensions::Extensions,
            network::{Reports, TcpTarget, black_hole, stats, tcp_filters},
            policies::PolicyFilters,
        },
        input::Built,
        listener::{
            address, balance,
            chain::{ChainMatch, PASSTHROUGH_CHAIN, outgoing_chain},
            inspector::{http_inspector, tls_inspector},
            note_reports,
        },
        naming::{BLACK_HOLE_CLUSTER, PASSTHROUGH_CLUSTER},
        wkt,
    },
};

pub(super) fn listener(input: &ListenerInput) -> Built<Listener> {
    match &input.plan {
        Plan::Virtual => virtual_outbound(input),
        Plan::HttpProxy(port) => http_proxy(input, *port),
        Plan::Service(service) => service_listener(input, service),
    }
}

fn virtual_outbound(input: &ListenerInput) -> Built<Listener> {
    let port = input.mesh.proxy_listen_port;
    let own_port = FilterChainMatch { destination_port: wkt::uint32(port.into()), ..Default::default() };
    let black_hole = FilterChain {
        name: "virtualOutbound-blackhole".into(),
        filter_chain_match: Some(own_port),
        filters: stats(&input.class, Direction::Outbound).into_iter().chain([black_hole()]).collect(),
        ..Default::default()
    };
    let catch_all = FilterChain {
        name: "virtualOutbound-catchall-tcp".into(),
        filters: tcp_filters(&everything_else(input), reports(input)),
        ..Default::default()
    };
    let listener = Listener {
        name: input.name().into(),
        address: Some(address(input.class.wildcard(), port)),
        additional_addresses: additional(second_wildcard(input), port),
        filter_chains: vec![black_hole, catch_all],
        use_original_dst: wkt::boolean(true),
        transparent: if input.class.interception == Interception::Tproxy { wkt::boolean(true) } else { None },
        traffic_direction: TrafficDirection::Outbound.into(),
        access_log: listener_access_logs(&input.class.own.reports, &input.mesh),
        max_connections_to_accept_per_socket_event: wkt::uint32(1),
        ..Default::default()
    };
    let mut built = Built::new(listener, []);
    built.clusters = vec![BLACK_HOLE_CLUSTER.into(), everything_else_cluster(input).into()];
    finished(built, input)
}

fn second_wildcard(input: &ListenerInput) -> Option<&'static str> {
    input.class.dual_stack().then_some("::")
}

fn http_proxy(input: &ListenerInput, port: u16) -> Built<Listener> {
    let name = input.name();
    let routes = SmolStr::new_static("http_proxy");
    let extensions = Extensions::at(&input.class.own.extensions, Direction::Outbound, port);
    let manager = connection_manager(ConnectionManager {
        class: &input.class,
        mesh: &input.mesh,
        direction: Direction::Outbound,
        port: 0,
        stat_prefix: &format!("outbound_{name}"),
        routes: Routes::Rds(routes.clone()),
        tokens: None,
        http2: false,
        grpc_web: false,
        sniffed: false,
        dns_cache: None,
        policies: &PolicyFilters::default(),
        extensions: &extensions,
        explicit_proxy: true,
        from_mesh: false,
    });
    let filters = extensions.before_requests().chain([manager]).collect();
    let listener = Listener {
        name: name.into(),
        address: Some(address(input.class.localhost(), port)),
        filter_chains: vec![outgoing_chain(&ChainMatch::default(), filters, None, None)],
        traffic_direction: TrafficDirection::Outbound.into(),
        connection_balance_config: balance(input.class.own.exact_balance.outbound),
        continue_on_listener_filters_timeout: true,
        listener_filters_timeout: Some(Default::default()),
        max_connections_to_accept_per_socket_event: wkt::uint32(1),
        ..Default::default()
    };
    let mut built = Built::new(listener, []);
    built.routes = vec![routes];
    extensions.note(true, &mut built);
    finished(built, input)
}

fn service_listener(input: &ListenerInput, service: &ServiceListener) -> Built<Listener> {
    let name = service.name();
    let sniffs = service.chains.iter().any(|chain| chain.matcher.plaintext_http);
    let looks_at_tls = service.chains.iter().any(Chain::needs_sni);
    let inspectors = [looks_at_tls.then(tls_inspector), sniffs.then(http_inspector)];
    let first = service.binds.first().map_or("", SmolStr::as_str);
    let mut built = Built::new(Listener::default(), [service.origin.clone()]);
    let extensions = Extensions::at(&input.class.own.extensions, Direction::Outbound, service.port);
    extensions.note(service.chains.iter().any(|chain| matches!(chain.target, Target::Http { .. })), &mut built);
    let (mut chains, mut default) = (Vec::new(), None);
    for planned in &service.chains {
        let filters = planned.filters(input, &extensions, &name, &mut built);
        let chain = outgoing_chain(&planned.matcher, filters, None, planned.config.as_ref());
        if planned.matcher.is_all() {
            default = Some(chain)
        } else {
            chains.push(chain)
        }
        built.origins.extend(planned.config.clone());
    }
    // Without a default, traffic that matches some chain in part and none as a whole would be dropped.
    let default = match default {
        Some(only) if chains.is_empty() => {
            chains.push(only);
            None
        }
        Some(default) => Some(default),
        None => Some(passthrough_chain(input, &mut built)),
    };
    built.message = Listener {
        name: name.into(),
        address: Some(address(first, service.port)),
        additional_addresses: additional(service.binds.iter().skip(1).map(SmolStr::as_str), service.port),
        filter_chains: chains,
        default_filter_chain: default,
        listener_filters: inspectors.into_iter().flatten().collect(),
        listener_filters_timeout: Some(if sniffs { wkt::duration(input.mesh.protocol_detection_timeout) } else { Default::default() }),
        continue_on_listener_filters_timeout: true,
        traffic_direction: TrafficDirection::Outbound.into(),
        connection_balance_config: balance(input.class.own.exact_balance.outbound),
        bind_to_port: if service.bound { None } else { wkt::boolean(false) },
        max_connections_to_accept_per_socket_event: if service.bound { wkt::uint32(1) } else { None },
        ..Default::default()
    };
    finished(built, input)
}

fn passthrough_chain(input: &ListenerInput, built: &mut Built<Listener>) -> FilterChain {
    built.clusters.push(everything_else_cluster(input).into());
    FilterChain {
        name: PASSTHROUGH_CHAIN.into(),
        filter_chain_match: Some(FilterChainMatch::default()),
        filters: tcp_filters(&everything_else(input), reports(input)),
        ..Default::default()
    }
}

fn reports(input: &ListenerInput) -> Reports<'_> {
    Reports { class: &input.class, direction: Direction::Outbound, from_mesh: false }
}

fn everything_else(input: &ListenerInput) -> TcpTarget {
    TcpTarget { idle_timeout: input.class.idle_timeout, ..TcpTarget::cluster(everything_else_cluster(input)) }
}

fn everything_else_cluster(input: &ListenerInput) -> &'static str {
    if input.allow_any { PASSTHROUGH_CLUSTER } else { BLACK_HOLE_CLUSTER }
}

fn additional<'a>(addresses: impl IntoIterator<Item = &'a str>, port: u16) -> Vec<AdditionalAddress> {
    addresses.into_iter().map(|ip| AdditionalAddress { address: Some(address(ip, port)), ..Default::default() }).collect()
}

fn finished(mut built: Built<Listener>, input: &ListenerInput) -> Built<Listener> {
    note_reports(&mut built, &input.class);
    built.routes.sort_unstable();
    built.routes.dedup();
    built
}

impl Chain {
    fn needs_sni(&self) -> bool {
        let forwards_by_sni = matches!(&self.target, Target::Tcp(target) if target.sni_forward.is_some());
        !self.matcher.server_names.is_empty() || forwards_by_sni
    }

    fn filters(
        &self,
        input: &ListenerInput,
        extensions: &Extensions<'_>,
        name: &str,
        built: &mut Built<Listener>,
    ) -> Vec<envoy_types::pb::envoy::config::listener::v3::Filter> {
        match &self.target {
            Target::Tcp(target) => {
                built.clusters.extend(target.clusters.iter().map(|(cluster, _)| cluster.clone()));
                let mut filters = extensions.among_policies(&PolicyFilters::default());
                filters.extend(tcp_filters(target, reports(input)));
                filters
            }
            Target::Http { routes, sniffed, grpc_web, dns_cache } => {
                built.routes.push(routes.clone());
                let manager = connection_manager(ConnectionManager {
                    class: &input.class,
                    mesh: &input.mesh,
                    direction: Direction::Outbound,
                    port: 0,
                    stat_prefix: &format!("outbound_{name}"),
                    routes: Routes::Rds(routes.clone()),
                    tokens: None,
                    http2: false,
                    grpc_web: *grpc_web,
                    sniffed: *sniffed,
                    dns_cache: dns_cache.as_ref(),
                    policies: &PolicyFilters::default(),
                    extensions,
                    explicit_proxy: false,
                    from_mesh: false,
                });
                extensions.before_requests().chain([manager]).collect()
            }
        }
    }
}

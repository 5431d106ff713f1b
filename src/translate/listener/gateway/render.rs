//! Makes the messages of planned gateway listeners.

use envoy_types::pb::envoy::config::{
    core::v3::TrafficDirection,
    listener::v3::{AdditionalAddress, Filter, Listener},
};
use smol_str::SmolStr;

use super::{Chain, GatewayListenerInput, Target};
use crate::translate::{
    filter::{
        Direction,
        access_log::listener_access_logs,
        connection_manager::{ConnectionManager, Routes, connection_manager},
        extensions::Extensions,
        network::{Reports, metadata_exchange, tcp_filters},
        policies::PolicyFilters,
    },
    input::Built,
    listener::{
        address, balance,
        chain::outgoing_chain,
        inspector::{proxy_protocol, tls_inspector},
        note_reports,
    },
    wkt,
};

pub(super) fn listener(input: &GatewayListenerInput) -> Built<Listener> {
    let name = input.name();
    let looks_at_tls = input.chains.iter().any(|chain| chain.tls.is_some() || !chain.matcher.server_names.is_empty());
    let second = (input.class.dual_stack() && input.bind == input.class.wildcard()).then_some("::");
    let policies = PolicyFilters::of(&input.policies);
    let mut built = Built::new(Listener::default(), input.origins.iter().chain(input.policies.origins()).cloned());
    built.clusters.extend(policies.clusters.iter().cloned());
    let extensions = Extensions::at(&input.class.own.extensions, Direction::Gateway, input.port);
    let takes_requests = input.chains.iter().any(|chain| matches!(chain.target, Target::Http { .. }));
    extensions.note(takes_requests, &mut built);
    if takes_requests {
        policies.limits.note(input.port, &mut built);
    }
    let own = OwnFilters { policies: &policies, extensions: &extensions };
    let chains = input.chains.iter().map(|chain| {
        let tls = chain.tls.as_ref().map(|tls| tls.socket(input.class.flavour, &input.mesh));
        outgoing_chain(&chain.matcher, filters(input, &own, &name, chain, &mut built), tls, None)
    });
    let filter_chains = chains.collect();
    built.message = Listener {
        name: name.into(),
        address: Some(address(&input.bind, input.port)),
        additional_addresses: second
            .into_iter()
            .map(|ip| AdditionalAddress { address: Some(address(ip, input.port)), ..Default::default() })
            .collect(),
        filter_chains,
        // The PROXY protocol stands before everything else in a connection.
        listener_filters: input
            .class
            .own
            .topology
            .proxy_protocol
            .then(proxy_protocol)
            .into_iter()
            .chain(looks_at_tls.then(tls_inspector))
            .collect(),
        traffic_direction: TrafficDirection::Outbound.into(),
        connection_balance_config: balance(input.class.own.exact_balance.outbound),
        access_log: listener_access_logs(&input.class.own.reports, &input.mesh),
        max_connections_to_accept_per_socket_event: wkt::uint32(1),
        ..Default::default()
    };
    note_reports(&mut built, &input.class);
    built.routes.sort_unstable();
    built
}

/// The filters that the chains of a listener have in common.
struct OwnFilters<'a> {
    policies: &'a PolicyFilters,
    extensions: &'a Extensions<'a>,
}

fn filters(input: &GatewayListenerInput, own: &OwnFilters<'_>, name: &SmolStr, chain: &Chain, built: &mut Built<Listener>) -> Vec<Filter> {
    match &chain.target {
        Target::Http { routes, grpc_web } => {
            built.routes.push(routes.clone());
            let manager = connection_manager(ConnectionManager {
                class: &input.class,
                mesh: &input.mesh,
                direction: Direction::Gateway,
                port: input.port,
                stat_prefix: &format!("outbound_{name}"),
                routes: Routes::Rds(routes.clone()),
                tokens: Some(&input.tokens),
                http2: false,
                grpc_web: *grpc_web,
                sniffed: false,
                dns_cache: None,
                policies: own.policies,
                extensions: own.extensions,
                explicit_proxy: false,
                from_mesh: false,
            });
            own.extensions.before_requests().chain([manager]).collect()
        }
        Target::Tcp(target) => {
            built.clusters.extend(target.clusters.iter().map(|(cluster, _)| cluster.clone()));
            let exchanges = chain.tls.as_ref().is_some_and(|tls| tls.exchanges_metadata());
            let exchange = exchanges.then(|| metadata_exchange(input.class.flavour)).flatten();
            let reports = Reports { class: &input.class, direction: Direction::Gateway, from_mesh: false };
            exchange.into_iter().chain(own.extensions.among_policies(own.policies)).chain(tcp_filters(target, reports)).collect()
        }
    }
}

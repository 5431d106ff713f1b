//! The one listener that the tests serve: mutual TLS with the workload's secrets, and a fixed answer.

use std::net::SocketAddr;

use envoy_types::pb::{
    envoy::{
        config::{
            cluster::v3::{Cluster, cluster},
            core::v3::{
                Address, ApiConfigSource, ApiVersion, ConfigSource, DataSource, GrpcService, Metadata, SocketAddress, TrafficDirection,
                TransportSocket, address, api_config_source::ApiType, config_source::ConfigSourceSpecifier, data_source, grpc_service,
                socket_address::PortSpecifier, transport_socket,
            },
            endpoint::v3::{ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint::HostIdentifier},
            listener::v3::{Filter, FilterChain, Listener, filter},
            route::v3::{
                DirectResponseAction, Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, route,
                route_action::ClusterSpecifier, route_match,
            },
        },
        extensions::{
            filters::{
                http::router::v3::Router,
                network::http_connection_manager::v3::{
                    HttpConnectionManager, HttpFilter, http_connection_manager::RouteSpecifier, http_filter,
                },
            },
            transport_sockets::tls::v3::{
                CommonTlsContext, DownstreamTlsContext, SdsSecretConfig, UpstreamTlsContext, common_tls_context::ValidationContextType,
            },
        },
    },
    google::protobuf::{Any, BoolValue, Duration as ProtoDuration, Struct, Value, value},
};
use prost::{Message, Name};

/// Returns a listener of that name which Envoy takes, or else refuses, as it has no chains.
pub(crate) fn capturing(name: &str, at: SocketAddr, is_right: bool) -> Any {
    let chains = vec![FilterChain { filters: Vec::new(), ..Default::default() }];
    any(&Listener {
        name: name.to_owned(),
        address: Some(address(at)),
        bind_to_port: Some(BoolValue { value: false }),
        filter_chains: if is_right { chains } else { Vec::new() },
        ..Default::default()
    })
}

/// Returns a listener at `at` whose statistics have this prefix.
pub(crate) fn counted(at: SocketAddr, stat_prefix: &str) -> Any {
    any(&Listener {
        name: "counted".to_owned(),
        address: Some(address(at)),
        stat_prefix: stat_prefix.to_owned(),
        filter_chains: vec![FilterChain { filters: Vec::new(), ..Default::default() }],
        ..Default::default()
    })
}

/// Returns a listener at `at` that wants a client certificate and answers each request with `answer`.
pub(crate) fn answering(at: SocketAddr, answer: &str) -> Any {
    any(&Listener {
        name: "inbound".to_owned(),
        address: Some(address(at)),
        traffic_direction: TrafficDirection::Inbound.into(),
        filter_chains: vec![FilterChain {
            filters: vec![Filter {
                name: "envoy.filters.network.http_connection_manager".to_owned(),
                config_type: Some(filter::ConfigType::TypedConfig(any(&connection_manager(answer)))),
            }],
            transport_socket: Some(TransportSocket {
                name: "envoy.transport_sockets.tls".to_owned(),
                config_type: Some(transport_socket::ConfigType::TypedConfig(any(&mutual_tls()))),
            }),
            ..Default::default()
        }],
        ..Default::default()
    })
}

/// Returns some cluster: readiness asks for one update of clusters. Its metadata makes it at least `size` bytes long.
pub(crate) fn cluster(size: usize) -> Any {
    let note = Value { kind: Some(value::Kind::StringValue("x".repeat(size))) };
    let notes = Struct { fields: [("note".to_owned(), note)].into() };
    any(&Cluster {
        name: "some".to_owned(),
        metadata: Some(Metadata { filter_metadata: [("test".to_owned(), notes)].into(), ..Default::default() }),
        connect_timeout: Some(ProtoDuration { seconds: 1, nanos: 0 }),
        cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(cluster::DiscoveryType::Static.into())),
        ..Default::default()
    })
}

/// Returns a listener at `at` that sends each request in the clear to the cluster `some`.
pub(crate) fn forwarding(at: SocketAddr) -> Any {
    let action = RouteAction { cluster_specifier: Some(ClusterSpecifier::Cluster("some".to_owned())), ..Default::default() };
    any(&Listener {
        name: "inbound".to_owned(),
        address: Some(address(at)),
        traffic_direction: TrafficDirection::Inbound.into(),
        filter_chains: vec![FilterChain {
            filters: vec![Filter {
                name: "envoy.filters.network.http_connection_manager".to_owned(),
                config_type: Some(filter::ConfigType::TypedConfig(any(&manager(route::Action::Route(action))))),
            }],
            ..Default::default()
        }],
        ..Default::default()
    })
}

/// Returns the cluster `some`: one endpoint; with TLS where there are names of secrets: a certificate's and the roots'.
pub(crate) fn upstream(at: SocketAddr, secrets: Option<(&str, &str)>) -> Any {
    let endpoint = Endpoint { address: Some(address(at)), ..Default::default() };
    let endpoint = LbEndpoint { host_identifier: Some(HostIdentifier::Endpoint(endpoint)), ..Default::default() };
    let tls = |(certificate, roots)| UpstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_certificate_sds_secret_configs: vec![secret(certificate)],
            validation_context_type: Some(ValidationContextType::ValidationContextSdsSecretConfig(secret(roots))),
            ..Default::default()
        }),
        sni: "shop.example".to_owned(),
        ..Default::default()
    };
    any(&Cluster {
        name: "some".to_owned(),
        connect_timeout: Some(ProtoDuration { seconds: 1, nanos: 0 }),
        cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(cluster::DiscoveryType::Static.into())),
        load_assignment: Some(ClusterLoadAssignment {
            cluster_name: "some".to_owned(),
            endpoints: vec![LocalityLbEndpoints { lb_endpoints: vec![endpoint], ..Default::default() }],
            ..Default::default()
        }),
        transport_socket: secrets.map(|names| TransportSocket {
            name: "envoy.transport_sockets.tls".to_owned(),
            config_type: Some(transport_socket::ConfigType::TypedConfig(any(&tls(names)))),
        }),
        ..Default::default()
    })
}

fn connection_manager(answer: &str) -> HttpConnectionManager {
    manager(route::Action::DirectResponse(DirectResponseAction {
        status: 200,
        body: Some(DataSource { specifier: Some(data_source::Specifier::InlineString(answer.to_owned())), ..Default::default() }),
        ..Default::default()
    }))
}

fn manager(action: route::Action) -> HttpConnectionManager {
    let route = Route {
        r#match: Some(RouteMatch { path_specifier: Some(route_match::PathSpecifier::Prefix("/".to_owned())), ..Default::default() }),
        action: Some(action),
        ..Default::default()
    };
    HttpConnectionManager {
        stat_prefix: "inbound_test".to_owned(),
        route_specifier: Some(RouteSpecifier::RouteConfig(RouteConfiguration {
            virtual_hosts: vec![VirtualHost {
                name: "all".to_owned(),
                domains: vec!["*".to_owned()],
                routes: vec![route],
                ..Default::default()
            }],
            ..Default::default()
        })),
        http_filters: vec![HttpFilter {
            name: "envoy.filters.http.router".to_owned(),
            config_type: Some(http_filter::ConfigType::TypedConfig(any(&Router::default()))),
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn mutual_tls() -> DownstreamTlsContext {
    DownstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_certificate_sds_secret_configs: vec![secret("default")],
            validation_context_type: Some(ValidationContextType::ValidationContextSdsSecretConfig(secret("ROOTCA"))),
            ..Default::default()
        }),
        require_client_certificate: Some(BoolValue { value: true }),
        ..Default::default()
    }
}

/// Refers to a secret as istiod does: by the agent's static cluster, without a time limit.
fn secret(name: &str) -> SdsSecretConfig {
    let sds = GrpcService {
        target_specifier: Some(grpc_service::TargetSpecifier::EnvoyGrpc(grpc_service::EnvoyGrpc {
            cluster_name: "sds-grpc".to_owned(),
            ..Default::default()
        })),
        ..Default::default()
    };
    SdsSecretConfig {
        name: name.to_owned(),
        sds_config: Some(ConfigSource {
            config_source_specifier: Some(ConfigSourceSpecifier::ApiConfigSource(ApiConfigSource {
                api_type: ApiType::Grpc.into(),
                transport_api_version: ApiVersion::V3.into(),
                grpc_services: vec![sds],
                set_node_on_first_message_only: true,
                ..Default::default()
            })),
            initial_fetch_timeout: Some(ProtoDuration::default()),
            resource_api_version: ApiVersion::V3.into(),
            ..Default::default()
        }),
    }
}

fn address(at: SocketAddr) -> Address {
    Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: at.ip().to_string(),
            port_specifier: Some(PortSpecifier::PortValue(at.port().into())),
            ..Default::default()
        })),
    }
}

fn any<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

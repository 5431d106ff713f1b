//! Views as static Envoy bootstraps: what ADS would deliver piece by piece, in one file that `envoy -c` takes.

use std::collections::HashMap;

use envoy_types::pb::{
    envoy::{
        config::{
            bootstrap::v3::{Bootstrap, bootstrap::StaticResources},
            cluster::v3::{
                Cluster,
                cluster::{ClusterDiscoveryType, DiscoveryType},
            },
            core::v3::{
                Address, ConfigSource, ExtensionConfigSource, Http2ProtocolOptions, Node, Pipe, TransportSocket, TypedExtensionConfig,
                address, config_source::ConfigSourceSpecifier, transport_socket,
            },
            endpoint::v3::{ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint::HostIdentifier},
            listener::v3::{Filter, FilterChain, Listener, filter::ConfigType},
            route::v3::RouteConfiguration,
        },
        extensions::{
            filters::network::http_connection_manager::v3::{HttpConnectionManager, http_connection_manager::RouteSpecifier, http_filter},
            transport_sockets::tls::v3::{
                CommonTlsContext, DownstreamTlsContext, UpstreamTlsContext, common_tls_context::ValidationContextType,
            },
            upstreams::http::v3::{
                HttpProtocolOptions,
                http_protocol_options::{ExplicitHttpConfig, UpstreamProtocolOptions, explicit_http_config::ProtocolConfig},
            },
        },
    },
    google::protobuf::{Any, Duration},
};
use prost::{DecodeError, Message, Name};

use super::{render::from_json, resource_type::ResourceType, view::View};
use crate::{common_bootstrap::common_bootstrap, mesh::model::Proxy, translate::tls::agent_sds};

/// The cluster under which Istio's sidecars find their certificates.
const SDS_CLUSTER: &str = "sds-grpc";
/// Where the agent serves them, relative to Envoy's working directory.
const SDS_SOCKET: &str = "./var/run/secrets/workload-spiffe-uds/socket";

/// Why there is no bootstrap; a fault of this program.
#[derive(Debug, thiserror::Error)]
pub enum StaticBootstrapError {
    /// A resource cannot be put into another one.
    #[error("a resource does not decode: {0}")]
    Resource(#[from] DecodeError),
    /// What the agents' bootstraps say is none of Envoy's.
    #[error("what all bootstraps have in common is not valid: {0}")]
    Common(String),
}

/// Puts everything that the proxy is to have into one bootstrap, endpoints inside clusters, routes and filters inside listeners.
///
/// # Errors
/// When a resource does not decode, which is a fault of this program.
pub fn static_bootstrap(view: &View, proxy: &Proxy) -> Result<Bootstrap, StaticBootstrapError> {
    let mut clusters = vec![sds_cluster()];
    for resource in view.iter(ResourceType::Cluster) {
        let mut cluster = Cluster::decode(&resource.body[..])?;
        secrets_from_agent(&mut cluster.transport_socket)?;
        cluster.transport_socket_matches.iter_mut().try_for_each(|matched| secrets_from_agent(&mut matched.transport_socket))?;
        clusters.push(with_endpoints(cluster, view)?);
    }
    let mut listeners = Vec::new();
    for resource in view.iter(ResourceType::Listener) {
        listeners.push(with_all(Listener::decode(&resource.body[..])?, view)?);
    }
    let common = from_json(&Bootstrap::type_url(), &common_bootstrap()).map_err(StaticBootstrapError::Common)?;
    Ok(Bootstrap {
        node: Some(Node {
            id: format!("sidecar~{}~{}~{}", proxy.ips.first().map(ToString::to_string).unwrap_or_default(), proxy.id, proxy.dns_domain),
            cluster: proxy.id.to_string(),
            ..Node::default()
        }),
        static_resources: Some(StaticResources { clusters, listeners, ..StaticResources::default() }),
        ..Bootstrap::decode(&common[..])?
    })
}

fn with_endpoints(mut cluster: Cluster, view: &View) -> Result<Cluster, DecodeError> {
    if cluster.cluster_discovery_type == Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)) {
        let assignment = match view.get(ResourceType::Endpoint, &cluster.name) {
            Some(resource) => ClusterLoadAssignment::decode(&resource.body[..])?,
            None => ClusterLoadAssignment { cluster_name: cluster.name.clone(), ..ClusterLoadAssignment::default() },
        };
        cluster.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::Static as i32));
        cluster.eds_cluster_config = None;
        cluster.load_assignment = Some(assignment);
    }
    Ok(cluster)
}

fn with_all(mut listener: Listener, view: &View) -> Result<Listener, DecodeError> {
    for chain in listener.filter_chains.iter_mut().chain(&mut listener.default_filter_chain) {
        inline_filters(chain, view)?;
        inline_managers(chain, view)?;
        secrets_from_agent(&mut chain.transport_socket)?;
    }
    Ok(listener)
}

fn inline_filters(chain: &mut FilterChain, view: &View) -> Result<(), DecodeError> {
    for filter in &mut chain.filters {
        if let Some(ConfigType::ConfigDiscovery(source)) = &filter.config_type {
            filter.config_type = extension(&filter.name, source, view)?.map(ConfigType::TypedConfig);
        }
    }
    // Of one that does not exist nothing is known, not even that it is to be waited for.
    chain.filters.retain(|filter| filter.config_type.is_some());
    Ok(())
}

/// Returns what a filter does: what is said to do it meanwhile, if something is, as nobody fetches modules for a static bootstrap.
fn extension(name: &str, source: &ExtensionConfigSource, view: &View) -> Result<Option<Any>, DecodeError> {
    if source.default_config.is_some() {
        return Ok(source.default_config.clone());
    }
    let Some(resource) = view.get(ResourceType::ExtensionConfig, name) else { return Ok(None) };
    Ok(TypedExtensionConfig::decode(&resource.body[..])?.typed_config)
}

fn inline_managers(chain: &mut FilterChain, view: &View) -> Result<(), DecodeError> {
    for filter in &mut chain.filters {
        let Filter { config_type: Some(ConfigType::TypedConfig(config)), .. } = filter else { continue };
        if config.type_url != HttpConnectionManager::type_url() {
            continue;
        }
        let mut manager = HttpConnectionManager::decode(&config.value[..])?;
        if let Some(RouteSpecifier::Rds(rds)) = &manager.route_specifier {
            let routes = match view.get(ResourceType::Route, &rds.route_config_name) {
                Some(resource) => RouteConfiguration::decode(&resource.body[..])?,
                None => RouteConfiguration { name: rds.route_config_name.clone(), ..RouteConfiguration::default() },
            };
            manager.route_specifier = Some(RouteSpecifier::RouteConfig(routes));
        }
        for filter in &mut manager.http_filters {
            if let Some(http_filter::ConfigType::ConfigDiscovery(source)) = &filter.config_type {
                filter.config_type = extension(&filter.name, source, view)?.map(http_filter::ConfigType::TypedConfig);
            }
        }
        manager.http_filters.retain(|filter| filter.config_type.is_some());
        *config = Any { type_url: HttpConnectionManager::type_url(), value: manager.encode_to_vec() };
    }
    Ok(())
}

/// Takes all secrets from the agent's server: a static bootstrap has no ADS, and Envoy does not survive being sent there.
fn secrets_from_agent(socket: &mut Option<TransportSocket>) -> Result<(), DecodeError> {
    let Some(transport_socket::ConfigType::TypedConfig(config)) = socket.as_mut().and_then(|socket| socket.config_type.as_mut()) else {
        return Ok(());
    };
    if config.type_url == DownstreamTlsContext::type_url() {
        let mut context = DownstreamTlsContext::decode(&config.value[..])?;
        context.common_tls_context.iter_mut().for_each(common_from_agent);
        config.value = context.encode_to_vec();
    } else if config.type_url == UpstreamTlsContext::type_url() {
        let mut context = UpstreamTlsContext::decode(&config.value[..])?;
        context.common_tls_context.iter_mut().for_each(common_from_agent);
        config.value = context.encode_to_vec();
    }
    Ok(())
}

fn common_from_agent(context: &mut CommonTlsContext) {
    let trusted = match &mut context.validation_context_type {
        Some(ValidationContextType::CombinedValidationContext(combined)) => combined.validation_context_sds_secret_config.as_mut(),
        _ => None,
    };
    for secret in context.tls_certificate_sds_secret_configs.iter_mut().chain(trusted) {
        let source = secret.sds_config.as_ref().and_then(|source| source.config_source_specifier.as_ref());
        if matches!(source, Some(ConfigSourceSpecifier::Ads(_))) {
            secret.sds_config = Some(ConfigSource { initial_fetch_timeout: None, ..agent_sds() });
        }
    }
}

fn sds_cluster() -> Cluster {
    let pipe = Address { address: Some(address::Address::Pipe(Pipe { path: SDS_SOCKET.into(), mode: 0 })) };
    let endpoint = LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(Endpoint { address: Some(pipe), ..Endpoint::default() })),
        ..LbEndpoint::default()
    };
    let http2 = HttpProtocolOptions {
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(Http2ProtocolOptions::default())),
        })),
        ..HttpProtocolOptions::default()
    };
    Cluster {
        name: SDS_CLUSTER.into(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Static as i32)),
        connect_timeout: Some(Duration { seconds: 1, nanos: 0 }),
        typed_extension_protocol_options: HashMap::from([(
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions".into(),
            Any { type_url: HttpProtocolOptions::type_url(), value: http2.encode_to_vec() },
        )]),
        load_assignment: Some(ClusterLoadAssignment {
            cluster_name: SDS_CLUSTER.into(),
            endpoints: vec![LocalityLbEndpoints { lb_endpoints: vec![endpoint], ..LocalityLbEndpoints::default() }],
            ..ClusterLoadAssignment::default()
        }),
        ..Cluster::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{mesh::model::ProxyKind, xds::render::to_json};

    #[test]
    fn it_says_all_that_the_agents_bootstraps_have_in_common() {
        let bootstrap = static_bootstrap(&View::default(), &Proxy::new(ProxyKind::Sidecar, "client.shop")).unwrap();
        let shown = to_json(&Bootstrap::type_url(), &bootstrap.encode_to_vec());
        let common = from_json(&Bootstrap::type_url(), &common_bootstrap()).unwrap();
        let common = to_json(&Bootstrap::type_url(), &common);
        for (field, value) in common.as_object().unwrap() {
            assert_eq!(shown.get(field), Some(value), "{field}");
        }
        let layers = &shown["layered_runtime"]["layers"];
        assert_eq!(layers[0]["static_layer"]["re2.max_program_size.error_level"], "32768");
    }
}

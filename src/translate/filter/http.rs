//! HTTP filters, in the order in which requests pass them (contract §3.5).

use envoy_types::pb::{
    envoy::{
        config::{
            cluster::v3::cluster::DnsLookupFamily,
            core::v3::{DataSource, SubstitutionFormatString, data_source, substitution_format_string::Format},
        },
        extensions::{
            common::dynamic_forward_proxy::v3::DnsCacheConfig,
            filters::{
                common::set_filter_state::v3::{
                    FilterStateValue,
                    filter_state_value::{Key, SharedWithUpstream, Value as StateValue},
                },
                http::{
                    cors::v3::Cors,
                    dynamic_forward_proxy::v3::{FilterConfig as DynamicForwardProxy, filter_config::ImplementationSpecifier},
                    fault::v3::HttpFault,
                    grpc_stats::v3::FilterConfig as GrpcStats,
                    grpc_web::v3::GrpcWeb,
                    router::v3::Router,
                    set_filter_state::v3::Config as SetFilterState,
                },
                network::http_connection_manager::v3::{HttpFilter, http_filter::ConfigType},
            },
        },
    },
    google::protobuf::Any,
};
use smol_str::SmolStr;

use super::{
    Direction,
    extensions::Extensions,
    istio_stats,
    jwt_authn::{JWT_AUTHN, jwt_authn},
    peer_header,
    policies::PolicyFilters,
};
use crate::{
    mesh::{
        extension::ExtensionPhase as Phase,
        model::{Disabled, Flavour},
        policy::request_authentication::TokenRules,
    },
    proto::alpn::{
        FilterConfig as Alpn,
        filter_config::{AlpnOverride, Protocol},
    },
    translate::{
        input::ListenerClass,
        wkt::{
            self,
            typed_struct::{Value, typed_struct},
        },
    },
};

/// What decides which filters a connection manager has.
#[derive(Clone, Copy, Debug)]
pub struct HttpFilters<'a> {
    /// The class of proxies.
    pub class: &'a ListenerClass,
    /// Where it stands.
    pub direction: Direction,
    /// The workload's port; 0: any, or none.
    pub port: u16,
    /// Which tokens are good.
    pub tokens: Option<&'a TokenRules>,
    /// Whether the port speaks gRPC-Web.
    pub grpc_web: bool,
    /// Whether requests come from a sniffed port and go to a sniffed port.
    pub sniffed: bool,
    /// The DNS cache of a service whose name comes from the request (`DYNAMIC_DNS`).
    pub dns_cache: Option<&'a SmolStr>,
    /// Those that hold policies.
    pub policies: &'a PolicyFilters,
    /// Whether a stock Envoy reads who the client is, for metrics.
    pub reads_peer: bool,
    /// Whether it is the explicit HTTP proxy.
    pub explicit_proxy: bool,
    /// Those of users' own.
    pub extensions: &'a Extensions<'a>,
}

/// Returns all filters, the router last.
pub fn http_filters(wanted: HttpFilters<'_>) -> Vec<HttpFilter> {
    let istio = wanted.class.flavour == Flavour::Istio;
    let headers = &wanted.class.own.headers;
    let outgoing = wanted.direction != Direction::Inbound;
    let mut filters = Vec::with_capacity(8);
    if istio {
        let in_mesh = headers.exchange_in_mesh == Some(true) && !wanted.explicit_proxy;
        filters.push(filter("istio.metadata_exchange", peer_metadata(wanted.direction, in_mesh)));
    }
    filters.extend(wanted.reads_peer.then(peer_header::reader));
    filters.extend_from_slice(&wanted.policies.asking);
    filters.extend(wanted.extensions.http(Phase::Authn));
    let tokens = wanted.tokens.and_then(|tokens| jwt_authn(tokens, wanted.direction == Direction::Gateway));
    filters.extend(tokens.map(|tokens| filter(JWT_AUTHN, wkt::any(&tokens))));
    filters.extend(wanted.extensions.http(Phase::Authz));
    filters.extend_from_slice(&wanted.policies.http);
    filters.extend(wanted.policies.limits.at(wanted.port));
    filters.extend(wanted.extensions.http(Phase::Stats));
    filters.extend(wanted.extensions.http(Phase::Unspecified));
    if wanted.grpc_web {
        filters.push(filter("envoy.filters.http.grpc_web", wkt::any(&GrpcWeb {})));
    }
    filters.push(filter("envoy.filters.http.grpc_stats", wkt::any(&grpc_stats())));
    if istio && outgoing {
        filters.push(filter("istio.alpn", wkt::any(&alpn())));
    }
    if !istio && outgoing && wanted.sniffed {
        filters.push(filter("envoy.filters.http.set_filter_state", wkt::any(&sniffed_alpn())));
    }
    filters.push(filter("envoy.filters.http.fault", wkt::any(&HttpFault::default())));
    filters.push(filter("envoy.filters.http.cors", wkt::any(&Cors {})));
    filters.extend(istio_stats::configs(wanted.class, wanted.direction).into_iter().map(|config| filter(istio_stats::NAME, config)));
    if let Some(cache) = wanted.dns_cache {
        filters.push(filter("envoy.filters.http.dynamic_forward_proxy", wkt::any(&dynamic_forward_proxy(cache))));
    }
    let suppress_envoy_headers = headers.envoy_debug_headers == Some(Disabled(true));
    filters.push(filter("envoy.filters.http.router", wkt::any(&Router { suppress_envoy_headers, ..Default::default() })));
    filters
}

/// Returns how the proxy tells of itself: if `in_mesh`, not to what is outside of the mesh.
fn peer_metadata(direction: Direction, in_mesh: bool) -> Any {
    let way = |name| Value::Object(vec![(name, Value::Object(Vec::new()))]);
    let limits = if in_mesh { vec![("skip_external_clusters", Value::Bool(true))] } else { Vec::new() };
    let discovery = Value::List(vec![way("istio_headers"), way("workload_discovery")]);
    let propagation = Value::List(vec![way("istio_headers")]);
    let fields = match direction {
        Direction::Inbound => vec![("downstream_discovery", discovery), ("downstream_propagation", propagation)],
        Direction::Outbound | Direction::Gateway => {
            let propagation = Value::List(vec![Value::Object(vec![("istio_headers", Value::Object(limits))])]);
            vec![("upstream_discovery", discovery), ("upstream_propagation", propagation)]
        }
    };
    typed_struct("type.googleapis.com/io.istio.http.peer_metadata.Config", fields)
}

fn grpc_stats() -> GrpcStats {
    use envoy_types::pb::envoy::extensions::filters::http::grpc_stats::v3::filter_config::PerMethodStatSpecifier;
    GrpcStats {
        emit_filter_state: true,
        per_method_stat_specifier: wkt::boolean(false).map(PerMethodStatSpecifier::StatsForAllMethods),
        ..Default::default()
    }
}

// The ALPN names tell the server's sniffing whether there is HTTP inside the TLS.
fn alpn() -> Alpn {
    let names = |protocol: Protocol, names: [&str; 3]| AlpnOverride {
        upstream_protocol: protocol.into(),
        alpn_override: names.map(str::to_owned).to_vec(),
    };
    Alpn {
        alpn_override: vec![
            names(Protocol::Http10, ["istio-http/1.0", "istio", "http/1.0"]),
            names(Protocol::Http11, ["istio-http/1.1", "istio", "http/1.1"]),
            names(Protocol::Http2, ["istio-h2", "istio", "h2"]),
        ],
    }
}

/// Returns what stands in for `istio.alpn` on a stock Envoy, for requests of sniffed ports.
///
/// A server's sniffed port tells HTTP inside mTLS from other bytes by the ALPN names that the client offers (contract
/// §3.4), and a cluster can only offer `istio`, which means other bytes. So the filter state that overrides the offered
/// names adds `istio-http/1.1`. It names no real protocol, so none is agreed on, and the server's connection manager
/// tells HTTP/1 from HTTP/2 by the first bytes: one value serves both. Connections without TLS do not look at it. It is
/// limited to sniffed ports because a cluster that originates TLS towards something outside the mesh must offer the
/// names of its own protocol; what reaches a sniffed port in another way (a gateway, a shared port) is carried as TCP
/// by the server, as Istio does for clients without `istio.alpn`.
fn sniffed_alpn() -> SetFilterState {
    let names = DataSource { specifier: Some(data_source::Specifier::InlineString("istio-http/1.1,istio".into())), ..Default::default() };
    let format = SubstitutionFormatString { format: Some(Format::TextFormatSource(names)), ..Default::default() };
    SetFilterState {
        on_request_headers: vec![FilterStateValue {
            shared_with_upstream: SharedWithUpstream::Once.into(),
            key: Some(Key::ObjectKey("envoy.network.application_protocols".into())),
            value: Some(StateValue::FormatString(format)),
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn dynamic_forward_proxy(cache: &str) -> DynamicForwardProxy {
    DynamicForwardProxy { implementation_specifier: Some(ImplementationSpecifier::DnsCacheConfig(dns_cache(cache))), ..Default::default() }
}

/// Returns the cache that the filters and the cluster of a `DYNAMIC_DNS` service share by its name.
pub fn dns_cache(name: &str) -> DnsCacheConfig {
    DnsCacheConfig { name: name.into(), dns_lookup_family: DnsLookupFamily::V4Only.into(), ..Default::default() }
}

fn filter(name: &str, config: Any) -> HttpFilter {
    HttpFilter { name: name.into(), config_type: Some(ConfigType::TypedConfig(config)), ..Default::default() }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        mesh::{
            model::Interception,
            telemetry::{ReportedMetrics, SideTelemetry},
        },
        translate::input::ListenerTraits,
    };

    fn names(flavour: Flavour, direction: Direction, sniffed: bool) -> Vec<String> {
        let policies = &PolicyFilters::default();
        let reports = SideTelemetry { metrics: vec![ReportedMetrics::default()], ..SideTelemetry::default() };
        let own = ListenerTraits { reports: Arc::new(reports), ..ListenerTraits::default() };
        let interception = Interception::Redirect;
        let class = &ListenerClass { flavour, interception, ipv4: true, ipv6: false, http10: false, idle_timeout: None, own };
        let extensions = &Extensions::default();
        let wanted = HttpFilters {
            class,
            direction,
            port: 0,
            tokens: None,
            grpc_web: true,
            sniffed,
            dns_cache: None,
            policies,
            reads_peer: false,
            explicit_proxy: false,
            extensions,
        };
        http_filters(wanted)
            .into_iter()
            .map(|filter| filter.name.rsplit_once("http.").map_or(filter.name.clone(), |(_, name)| name.into()))
            .collect()
    }

    #[test]
    fn istios_filters_are_for_istios_proxy_only() {
        assert_eq!(
            names(Flavour::Istio, Direction::Outbound, true),
            ["istio.metadata_exchange", "grpc_web", "grpc_stats", "istio.alpn", "fault", "cors", "istio.stats", "router"]
        );
        assert_eq!(names(Flavour::Istio, Direction::Inbound, true)[3], "fault");
        assert_eq!(names(Flavour::Stock, Direction::Outbound, false), ["grpc_web", "grpc_stats", "fault", "cors", "router"]);
        assert_eq!(names(Flavour::Stock, Direction::Outbound, true)[2], "set_filter_state");
        assert_eq!(names(Flavour::Stock, Direction::Inbound, true)[2], "fault");
    }
}

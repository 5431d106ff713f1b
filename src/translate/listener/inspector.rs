//! Listener filters: what looks at a connection before its filter chain is chosen.

use envoy_types::pb::{
    envoy::{
        config::listener::v3::{
            ListenerFilter, ListenerFilterChainMatchPredicate,
            listener_filter::ConfigType,
            listener_filter_chain_match_predicate::{MatchSet, Rule},
        },
        extensions::filters::listener::{
            http_inspector::v3::HttpInspector, original_dst::v3::OriginalDst, original_src::v3::OriginalSrc,
            proxy_protocol::v3::ProxyProtocol, tls_inspector::v3::TlsInspector,
        },
        r#type::v3::Int32Range,
    },
    google::protobuf::Any,
};

use crate::translate::wkt;

/// Returns the filter that finds out the SNI and ALPN names of TLS.
pub(crate) fn tls_inspector() -> ListenerFilter {
    filter(
        "envoy.filters.listener.tls_inspector",
        wkt::any(&TlsInspector { initial_read_buffer_size: wkt::uint32(512), ..Default::default() }),
    )
}

/// Returns the filter that reads who the client is from the header of the PROXY protocol.
pub(crate) fn proxy_protocol() -> ListenerFilter {
    filter("envoy.filters.listener.proxy_protocol", wkt::any(&ProxyProtocol::default()))
}

/// Returns the filter that finds out whether plaintext is HTTP.
pub(crate) fn http_inspector() -> ListenerFilter {
    filter("envoy.filters.listener.http_inspector", wkt::any(&HttpInspector {}))
}

/// Returns the filter that restores the address that the client meant.
pub(crate) fn original_dst() -> ListenerFilter {
    filter("envoy.filters.listener.original_dst", wkt::any(&OriginalDst::default()))
}

/// Returns the filter that keeps the client's address towards the application (TPROXY). The mark keeps the
/// application's answers from being captured.
pub(crate) fn original_src() -> ListenerFilter {
    filter("envoy.filters.listener.original_src", wkt::any(&OriginalSrc { mark: 1337, ..Default::default() }))
}

/// Turns a filter off for these destination ports (ascending); port 0 stands for those that no range names.
pub(crate) fn disabled_for(mut filter: ListenerFilter, ports: &[u16]) -> ListenerFilter {
    filter.filter_disabled = any_of(ports);
    filter
}

/// Turns a filter off for all but these destination ports (ascending).
pub(crate) fn disabled_but_for(mut filter: ListenerFilter, ports: &[u16]) -> ListenerFilter {
    filter.filter_disabled = any_of(ports).map(|ports| predicate(Rule::NotMatch(Box::new(ports))));
    filter
}

fn any_of(ports: &[u16]) -> Option<ListenerFilterChainMatchPredicate> {
    match ports {
        [] => None,
        [port] => Some(is_port(*port)),
        ports => Some(predicate(Rule::OrMatch(MatchSet { rules: ports.iter().map(|port| is_port(*port)).collect() }))),
    }
}

fn is_port(port: u16) -> ListenerFilterChainMatchPredicate {
    let start = i32::from(port);
    predicate(Rule::DestinationPortRange(Int32Range { start, end: start + 1 }))
}

fn predicate(rule: Rule) -> ListenerFilterChainMatchPredicate {
    ListenerFilterChainMatchPredicate { rule: Some(rule) }
}

fn filter(name: &str, config: Any) -> ListenerFilter {
    ListenerFilter { name: name.into(), config_type: Some(ConfigType::TypedConfig(config)), ..Default::default() }
}

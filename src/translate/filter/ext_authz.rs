//! `envoy.filters.http.ext_authz` and its sibling for TCP: a server is asked about what a policy of action CUSTOM holds for (contract
//! §6.7). Which requests these are, an RBAC filter before it has written down.

use std::time::Duration;

use envoy_types::pb::{
    envoy::{
        config::core::v3::{
            ApiVersion, GrpcService, HeaderValue, HttpUri,
            grpc_service::{EnvoyGrpc, TargetSpecifier},
            http_uri::HttpUpstreamType,
        },
        extensions::filters::{
            http::ext_authz::v3::{
                AuthorizationRequest, AuthorizationResponse, BufferSettings, ExtAuthz as HttpExtAuthz, HttpService, ext_authz::Services,
            },
            network::ext_authz::v3::ExtAuthz as NetworkExtAuthz,
        },
        r#type::{
            matcher::v3::{ListStringMatcher, MetadataMatcher, StringMatcher, string_matcher::MatchPattern},
            v3::HttpStatus,
        },
    },
    google::protobuf::Duration as ProtoDuration,
};
use smol_str::SmolStr;

use crate::{
    mesh::{
        authorization::{ExtAuthz, ExtAuthzProtocol, HttpCheck, RequestBody},
        policy::authorizer::Authorizer,
    },
    translate::{naming::outbound_cluster, wkt},
};

/// How long a server may take, unless its provider says otherwise: Istio's default, 10 minutes.
const TIMEOUT: Duration = Duration::from_secs(600);

/// Returns the cluster of the server that is asked.
pub(super) fn cluster(authorizer: &Authorizer) -> SmolStr {
    outbound_cluster(authorizer.provider.port, "", &authorizer.hostname)
}

/// Returns the filter of a connection manager that asks where `wanted` holds.
pub(super) fn http(authorizer: &Authorizer, wanted: MetadataMatcher) -> HttpExtAuthz {
    let provider = &*authorizer.provider;
    let (services, allowed_headers) = match &provider.protocol {
        ExtAuthzProtocol::Grpc => (Services::GrpcService(grpc_service(authorizer)), None),
        ExtAuthzProtocol::Http(check) => (Services::HttpService(http_service(authorizer, check)), patterns(&check.request_headers)),
    };
    HttpExtAuthz {
        transport_api_version: ApiVersion::V3.into(),
        failure_mode_allow: provider.fail_open,
        clear_route_cache: provider.clear_route_cache,
        status_on_error: provider.status_on_error.map(|code| HttpStatus { code: code.into() }),
        with_request_body: provider.body.map(buffer),
        filter_enabled_metadata: Some(wanted),
        allowed_headers,
        services: Some(services),
        ..HttpExtAuthz::default()
    }
}

/// Returns the filter of a chain that ends in a TCP proxy; `None` if the server speaks HTTP, in which one cannot ask about connections.
pub(super) fn network(authorizer: &Authorizer, wanted: MetadataMatcher) -> Option<NetworkExtAuthz> {
    let grpc = authorizer.provider.protocol == ExtAuthzProtocol::Grpc;
    grpc.then(|| NetworkExtAuthz {
        stat_prefix: "tcp.".into(),
        transport_api_version: ApiVersion::V3.into(),
        failure_mode_allow: authorizer.provider.fail_open,
        grpc_service: Some(grpc_service(authorizer)),
        filter_enabled_metadata: Some(wanted),
        ..NetworkExtAuthz::default()
    })
}

fn grpc_service(authorizer: &Authorizer) -> GrpcService {
    let envoy = EnvoyGrpc { cluster_name: cluster(authorizer).into(), authority: authorizer.hostname.to_string(), ..EnvoyGrpc::default() };
    GrpcService {
        timeout: Some(timeout(&authorizer.provider)),
        target_specifier: Some(TargetSpecifier::EnvoyGrpc(envoy)),
        ..GrpcService::default()
    }
}

fn http_service(authorizer: &Authorizer, check: &HttpCheck) -> HttpService {
    let added = check.additional_headers.iter().map(|(key, value)| HeaderValue {
        key: key.to_string(),
        value: value.to_string(),
        ..HeaderValue::default()
    });
    let headers_to_add: Vec<HeaderValue> = added.collect();
    let response = AuthorizationResponse {
        allowed_upstream_headers: patterns(&check.to_upstream_on_allow),
        allowed_client_headers: patterns(&check.to_downstream_on_deny),
        allowed_client_headers_on_success: patterns(&check.to_downstream_on_allow),
        ..AuthorizationResponse::default()
    };
    HttpService {
        server_uri: Some(HttpUri {
            uri: format!("http://{}", authorizer.hostname),
            timeout: Some(timeout(&authorizer.provider)),
            http_upstream_type: Some(HttpUpstreamType::Cluster(cluster(authorizer).into())),
        }),
        path_prefix: check.path_prefix.to_string(),
        authorization_request: (!headers_to_add.is_empty())
            .then(|| AuthorizationRequest { headers_to_add, ..AuthorizationRequest::default() }),
        authorization_response: (response != AuthorizationResponse::default()).then_some(response),
        ..HttpService::default()
    }
}

fn timeout(provider: &ExtAuthz) -> ProtoDuration {
    wkt::duration(provider.timeout.unwrap_or(TIMEOUT))
}

fn buffer(body: RequestBody) -> BufferSettings {
    BufferSettings { max_request_bytes: body.max_bytes, allow_partial_message: body.partial, pack_as_bytes: body.as_bytes }
}

/// Matches the names of headers; `None` if there are none.
fn patterns(names: &[SmolStr]) -> Option<ListStringMatcher> {
    let matcher = |name: &SmolStr| StringMatcher {
        ignore_case: true,
        match_pattern: Some(match (name.strip_prefix('*'), name.strip_suffix('*')) {
            (Some(end), _) => MatchPattern::Suffix(end.into()),
            (None, Some(beginning)) => MatchPattern::Prefix(beginning.into()),
            (None, None) => MatchPattern::Exact(name.to_string()),
        }),
    };
    (!names.is_empty()).then(|| ListStringMatcher { patterns: names.iter().map(matcher).collect() })
}

//! Virtual hosts and their routes from inputs.

use std::sync::Arc;

use envoy_types::pb::envoy::config::route::v3::{
    Decorator, Route, RouteAction, VirtualHost, route::Action, route_action::ClusterSpecifier, virtual_host::TlsRequirementType,
};
use envoy_types::pb::google::protobuf::Duration;
use smol_str::SmolStr;

use super::{
    Content, DefaultRoute, VirtualHostInput,
    action::{self, Headers},
    filters, matching,
};
use crate::{
    mesh::{
        routing::{
            model::{HttpAction, HttpMatch, HttpRule, RulePrecedence},
            selection::HttpSelection,
        },
        settings::MeshSettings,
    },
    translate::{
        input::{Built, RouteTraits},
        metadata, naming,
    },
};

pub(super) fn virtual_host(input: &VirtualHostInput) -> Built<VirtualHost> {
    let mut host = VirtualHost {
        name: input.name.to_string(),
        domains: input.domains.iter().map(SmolStr::to_string).collect(),
        include_request_attempt_count: !input.traits.omits_attempts,
        ..Default::default()
    };
    let mut origins = Vec::new();
    match &input.content {
        Content::Service(default) => {
            host.routes = vec![default_route(default)];
            origins.push(default.origin.clone());
        }
        Content::Routes { mesh, selections, tls, require_tls } => {
            host.routes = http_routes(selections, *tls, mesh, input.traits);
            for selection in selections {
                origins.push(selection.routes.origin.clone());
                origins.extend(selection.routes.merged.iter().cloned());
            }
            if *require_tls {
                host.require_tls = TlsRequirementType::All.into();
            }
        }
        Content::AllowAny => host.routes = vec![catch_all("allow_any", pass_through(input.traits))],
        Content::BlockAll => host.routes = vec![catch_all("block_all", action::direct_response(502, &[]))],
        Content::Closed(by) => {
            host.routes = vec![catch_all("closed", action::direct_response(503, &[]))];
            origins.push(by.clone());
        }
        Content::BlackHole => host.include_request_attempt_count = false,
    }
    origins.sort();
    origins.dedup();
    let clusters = clusters(&host.routes);
    Built { clusters, ..Built::new(host, origins) }
}

pub(super) fn closed(host: &VirtualHost) -> VirtualHost {
    let answer = action::direct_response(503, &[]);
    VirtualHost { name: host.name.clone(), domains: host.domains.clone(), routes: vec![catch_all("closed", answer)], ..Default::default() }
}

// Where several VirtualServices share a host, routes that take everything go last.
fn http_routes(selections: &[Arc<HttpSelection>], tls: bool, mesh: &MeshSettings, traits: RouteTraits) -> Vec<Route> {
    let shared = selections.len() > 1;
    let mut routes: Vec<(bool, &RulePrecedence, Route)> = Vec::new();
    for selection in selections {
        routes.extend(selection.rules().map(|(rule, matched)| {
            let last = shared && matched.is_none_or(HttpMatch::takes_everything);
            (last, &rule.precedence, http_route(selection, tls, rule, matched, mesh, traits))
        }));
    }
    routes.sort_by(|(last, precedence, _), (other_last, other, _)| (last, precedence).cmp(&(other_last, other)));
    routes.into_iter().map(|(_, _, route)| route).collect()
}

fn http_route(
    selection: &HttpSelection,
    tls: bool,
    rule: &HttpRule,
    matched: Option<&HttpMatch>,
    mesh: &MeshSettings,
    traits: RouteTraits,
) -> Route {
    // A sidecar knows no tokens of its application's requests: whether the match holds cannot be told.
    let undecidable = !selection.at_gateway && matched.is_some_and(|matched| !matched.claims.is_empty());
    let mut route_match = matching::route_match(matched);
    if undecidable {
        route_match.dynamic_metadata.clear();
    }
    let mut headers = rule.headers.as_ref().map(Headers::new).unwrap_or_default();
    let mut operation = format!("{}:{}", selection.routes.name, selection.port);
    let action = match &rule.action {
        _ if undecidable => action::direct_response(503, &[]),
        HttpAction::Redirect(redirect) => action::redirect(redirect, selection.port, tls),
        HttpAction::DirectResponse { status, body } => action::direct_response(*status, body),
        HttpAction::Forward(to) => {
            let (mut action, all) = action::forward(selection, rule, to, mesh.default_http_retry_policy.as_ref());
            action.append_x_forwarded_host = traits.keeps_host && rule.rewrite.is_some();
            headers = all;
            if let [only] = to.as_slice()
                && let Some(resolved) = selection.resolved(&only.destination)
            {
                operation = format!("{}:{}", resolved.host, resolved.port);
            }
            Action::Route(action)
        }
    };
    operation.push_str(&matching::path_label(&route_match));
    Route {
        name: name(rule, matched),
        r#match: Some(route_match),
        metadata: Some(metadata::istio_config(&naming::config_path(&selection.routes.origin))),
        decorator: Some(Decorator { operation, ..Default::default() }),
        typed_per_filter_config: filters::per_route(rule),
        request_headers_to_add: headers.request_add,
        request_headers_to_remove: headers.request_remove,
        response_headers_to_add: headers.response_add,
        response_headers_to_remove: headers.response_remove,
        stat_prefix: matched.map(|matched| matched.stat_prefix.to_string()).unwrap_or_default(),
        action: Some(action),
        ..Default::default()
    }
}

// The rule's name, with the match's after a dot.
fn name(rule: &HttpRule, matched: Option<&HttpMatch>) -> String {
    match matched.map(|matched| matched.name.as_str()).filter(|name| !name.is_empty()) {
        Some(matched) => format!("{}.{matched}", rule.name),
        None => rule.name.to_string(),
    }
}

fn default_route(default: &DefaultRoute) -> Route {
    let hash = default.hash.as_deref().and_then(|rule| rule.hash_key("", default.port));
    let cluster = naming::outbound_cluster(default.port, "", &default.host);
    let mut action = unlimited(cluster.as_str());
    action.retry_policy = action::retry_policy(default.mesh.default_http_retry_policy.as_ref(), false);
    action.hash_policy = hash.map(action::hash_policy).into_iter().collect();
    Route {
        name: "default".into(),
        r#match: Some(matching::route_match(None)),
        decorator: Some(Decorator { operation: format!("{}:{}/*", default.host, default.port), ..Default::default() }),
        action: Some(Action::Route(action)),
        ..Default::default()
    }
}

fn catch_all(name: &str, action: Action) -> Route {
    Route { name: name.into(), r#match: Some(matching::route_match(None)), action: Some(action), ..Default::default() }
}

fn pass_through(traits: RouteTraits) -> Action {
    Action::Route(RouteAction { append_x_forwarded_host: traits.keeps_host, ..unlimited(naming::PASSTHROUGH_CLUSTER) })
}

// No timeout, and none for gRPC either (`max_grpc_timeout` is deprecated but what Istio sends).
#[allow(deprecated)]
fn unlimited(cluster: &str) -> RouteAction {
    RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.into())),
        timeout: Some(Duration::default()),
        max_grpc_timeout: Some(Duration::default()),
        ..Default::default()
    }
}

fn clusters(routes: &[Route]) -> Vec<SmolStr> {
    let mut clusters: Vec<SmolStr> = Vec::new();
    for route in routes {
        let Some(Action::Route(action)) = &route.action else { continue };
        match &action.cluster_specifier {
            Some(ClusterSpecifier::Cluster(cluster)) => clusters.push(cluster.into()),
            Some(ClusterSpecifier::WeightedClusters(weighted)) => {
                clusters.extend(weighted.clusters.iter().map(|cluster| SmolStr::from(&cluster.name)));
            }
            _ => {}
        }
        clusters.extend(action.request_mirror_policies.iter().map(|mirror| SmolStr::from(&mirror.cluster)));
    }
    clusters.sort();
    clusters.dedup();
    clusters
}

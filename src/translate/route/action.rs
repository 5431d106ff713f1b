//! What a route does with a request: forward, redirect, answer (contract §6.2).

use envoy_types::pb::envoy::{
    config::{
        core::v3::{
            DataSource, HeaderValue, HeaderValueOption, RuntimeFractionalPercent, data_source, header_value_option::HeaderAppendAction,
        },
        route::v3::{
            DirectResponseAction, RedirectAction, RetryPolicy as EnvoyRetryPolicy, RouteAction, WeightedCluster,
            redirect_action::{PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier},
            retry_policy::{RetryBackOff, RetryHostPredicate, RetryPriority, retry_host_predicate, retry_priority},
            route::Action,
            route_action::{
                ClusterSpecifier, HashPolicy, HostRewriteSpecifier, RequestMirrorPolicy,
                hash_policy::{ConnectionProperties, Cookie, CookieAttribute, Header, PolicySpecifier, QueryParameter},
            },
            weighted_cluster::{ClusterWeight, cluster_weight},
        },
    },
    extensions::retry::{host::previous_hosts::v3::PreviousHostsPredicate, priority::previous_priorities::v3::PreviousPrioritiesConfig},
    r#type::matcher::v3::RegexMatchAndSubstitute,
};
use smol_str::SmolStr;

use super::{filters, matching};
use crate::{
    mesh::{
        routing::model::{
            HeaderModification, HeaderModifications, HttpRule, PathModifier, Redirect, RedirectCode, RedirectPort, RetryConditions,
            RetryPolicy, WeightedDestination,
        },
        routing::selection::{HttpSelection, ResolvedDestination},
        traffic::HashKey,
    },
    translate::{naming::outbound_cluster, wkt},
};

const DEFAULT_RETRY_ON: &str = "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes";

/// Header operations in Envoy's four lists.
#[derive(Default)]
pub(super) struct Headers {
    pub(super) request_add: Vec<HeaderValueOption>,
    pub(super) request_remove: Vec<String>,
    pub(super) response_add: Vec<HeaderValueOption>,
    pub(super) response_remove: Vec<String>,
    /// What the request's authority becomes.
    pub(super) authority: Option<SmolStr>,
}

/// Returns a forwarding action, with the header operations that belong to the route and not to one destination.
pub(super) fn forward(
    selection: &HttpSelection,
    rule: &HttpRule,
    to: &[WeightedDestination],
    default_retries: Option<&RetryPolicy>,
) -> (RouteAction, Headers) {
    let mut headers = rule.headers.as_ref().map(Headers::new).unwrap_or_default();
    let timeout = wkt::duration(rule.timeout.unwrap_or_default());
    // The maximum for gRPC's own timeout is deprecated but what Istio sends; without it gRPC's timeout would not count.
    #[allow(deprecated)]
    let mut action = RouteAction { timeout: Some(timeout), max_grpc_timeout: Some(timeout), ..Default::default() };
    rewrite(&mut action, rule, &mut headers);
    action.request_mirror_policies = mirrors(selection, rule);
    let single_hash = match to {
        [only] => {
            let single = Headers::new(&only.headers);
            headers.authority = headers.authority.take().or(single.authority.clone());
            headers.append(single);
            let resolved = selection.resolved(&only.destination);
            action.cluster_specifier = resolved.map(|resolved| ClusterSpecifier::Cluster(cluster(resolved)));
            resolved.and_then(ResolvedDestination::hash_key).is_some()
        }
        several => {
            action.cluster_specifier = Some(ClusterSpecifier::WeightedClusters(weighted(selection, several)));
            false
        }
    };
    let counted = to.iter().filter(|destination| to.len() == 1 || destination.weight > 0);
    let hashes = counted.filter_map(|destination| selection.resolved(&destination.destination)?.hash_key());
    action.hash_policy = hashes.map(hash_policy).collect();
    action.host_rewrite_specifier = headers.authority.take().map(|authority| HostRewriteSpecifier::HostRewriteLiteral(authority.into()));
    action.retry_policy = retry_policy(rule.retries.as_ref().or(default_retries), single_hash);
    (action, headers)
}

/// Returns a redirect.
pub(super) fn redirect(redirect: &Redirect, port: u16, tls: bool) -> Action {
    let code = match redirect.code {
        RedirectCode::MovedPermanently => RedirectResponseCode::MovedPermanently,
        RedirectCode::Found => RedirectResponseCode::Found,
        RedirectCode::SeeOther => RedirectResponseCode::SeeOther,
        RedirectCode::TemporaryRedirect => RedirectResponseCode::TemporaryRedirect,
        RedirectCode::PermanentRedirect => RedirectResponseCode::PermanentRedirect,
    };
    let scheme = redirect.scheme.as_deref().unwrap_or(if tls { "https" } else { "http" });
    let port = match redirect.port {
        Some(RedirectPort::Number(port)) => port,
        Some(RedirectPort::FromRequestPort) => port,
        Some(RedirectPort::FromProtocolDefault) | None => 0,
    };
    let implied = matches!((port, scheme), (80, "http") | (443, "https"));
    Action::Redirect(RedirectAction {
        host_redirect: text(redirect.authority.as_ref()),
        port_redirect: if implied { 0 } else { port.into() },
        response_code: code.into(),
        path_rewrite_specifier: Some(PathRewriteSpecifier::PathRedirect(text(redirect.path.as_ref()))),
        scheme_rewrite_specifier: redirect.scheme.as_ref().map(|scheme| SchemeRewriteSpecifier::SchemeRedirect(scheme.to_string())),
        ..Default::default()
    })
}

/// Returns an answer that the proxy gives itself.
pub(super) fn direct_response(status: u32, body: &[u8]) -> Action {
    let source = match std::str::from_utf8(body) {
        Ok(text) => data_source::Specifier::InlineString(text.into()),
        Err(_) => data_source::Specifier::InlineBytes(body.into()),
    };
    let body = (!body.is_empty()).then(|| DataSource { specifier: Some(source), ..Default::default() });
    Action::DirectResponse(DirectResponseAction { status, body, ..Default::default() })
}

/// Returns the retry policy; `None` when retries are switched off. With a consistent hash retries go to the same host.
pub(super) fn retry_policy(policy: Option<&RetryPolicy>, consistent_hash: bool) -> Option<EnvoyRetryPolicy> {
    let mut envoy = EnvoyRetryPolicy {
        retry_on: DEFAULT_RETRY_ON.into(),
        num_retries: wkt::uint32(2),
        host_selection_retry_max_attempts: 5,
        ..Default::default()
    };
    let mut avoid_previous = !consistent_hash;
    if let Some(policy) = policy {
        envoy.num_retries = wkt::uint32(Some(policy.attempts).filter(|attempts| *attempts > 0)?);
        if let Some(conditions) = &policy.conditions {
            envoy.retry_on = retry_on(conditions);
            envoy.retriable_status_codes = conditions.status_codes.clone();
        }
        envoy.per_try_timeout = policy.per_try_timeout.map(wkt::duration);
        envoy.retry_back_off =
            policy.backoff.map(|backoff| RetryBackOff { base_interval: Some(wkt::duration(backoff)), max_interval: None });
        avoid_previous = policy.ignore_previous_hosts.unwrap_or(avoid_previous);
        if policy.remote_localities {
            envoy.retry_priority = Some(previous_priorities());
        }
    }
    envoy.retry_host_predicate = avoid_previous.then(previous_hosts).into_iter().collect();
    Some(envoy)
}

/// Returns the policy that hashes this part of a request.
pub(super) fn hash_policy(key: &HashKey) -> HashPolicy {
    let specifier = match key {
        HashKey::HttpHeader(name) => PolicySpecifier::Header(Header { header_name: name.to_string(), ..Default::default() }),
        HashKey::HttpCookie { name, path, ttl, attributes } => PolicySpecifier::Cookie(Cookie {
            name: name.to_string(),
            path: path.to_string(),
            ttl: ttl.map(wkt::duration),
            attributes: attributes
                .iter()
                .map(|(name, value)| CookieAttribute { name: name.to_string(), value: value.to_string() })
                .collect(),
        }),
        HashKey::SourceIp => PolicySpecifier::ConnectionProperties(ConnectionProperties { source_ip: true }),
        HashKey::HttpQueryParameter(name) => PolicySpecifier::QueryParameter(QueryParameter { name: name.to_string() }),
    };
    HashPolicy { policy_specifier: Some(specifier), ..Default::default() }
}

fn cluster(resolved: &ResolvedDestination) -> String {
    outbound_cluster(resolved.port, resolved.subset(), &resolved.host).into()
}

fn rewrite(action: &mut RouteAction, rule: &HttpRule, headers: &mut Headers) {
    let Some(rewrite) = &rule.rewrite else { return };
    match &rewrite.path {
        Some(PathModifier::ReplaceRegex { pattern, substitution }) => {
            action.regex_rewrite =
                Some(RegexMatchAndSubstitute { pattern: Some(matching::regex(pattern)), substitution: substitution.to_string() });
        }
        Some(PathModifier::ReplacePrefix(prefix)) => action.prefix_rewrite = prefix.to_string(),
        None => {}
    }
    headers.authority = rewrite.authority.clone().or(headers.authority.take());
}

fn mirrors(selection: &HttpSelection, rule: &HttpRule) -> Vec<RequestMirrorPolicy> {
    let wanted = rule.mirrors.iter().filter(|mirror| mirror.share.numerator > 0);
    let policy = wanted.filter_map(|mirror| {
        Some(RequestMirrorPolicy {
            cluster: cluster(selection.resolved(&mirror.destination)?),
            runtime_fraction: Some(RuntimeFractionalPercent {
                default_value: Some(filters::fractional(mirror.share)),
                ..Default::default()
            }),
            trace_sampled: wkt::boolean(false),
            disable_shadow_host_suffix_append: true,
            ..Default::default()
        })
    });
    policy.collect()
}

fn weighted(selection: &HttpSelection, to: &[WeightedDestination]) -> WeightedCluster {
    let clusters = to.iter().filter(|destination| destination.weight > 0).filter_map(|destination| {
        let headers = Headers::new(&destination.headers);
        Some(ClusterWeight {
            name: cluster(selection.resolved(&destination.destination)?),
            weight: wkt::uint32(destination.weight),
            request_headers_to_add: headers.request_add,
            request_headers_to_remove: headers.request_remove,
            response_headers_to_add: headers.response_add,
            response_headers_to_remove: headers.response_remove,
            host_rewrite_specifier: headers
                .authority
                .map(|authority| cluster_weight::HostRewriteSpecifier::HostRewriteLiteral(authority.into())),
            ..Default::default()
        })
    });
    WeightedCluster { clusters: clusters.collect(), ..Default::default() }
}

// Status codes have a list of their own, which counts only with its condition.
fn retry_on(conditions: &RetryConditions) -> String {
    let mut names: Vec<&str> = conditions.names.iter().map(SmolStr::as_str).collect();
    if !conditions.status_codes.is_empty() && !names.contains(&"retriable-status-codes") {
        names.push("retriable-status-codes");
    }
    names.join(",")
}

fn text(text: Option<&SmolStr>) -> String {
    text.map(SmolStr::to_string).unwrap_or_default()
}

fn previous_hosts() -> RetryHostPredicate {
    RetryHostPredicate {
        name: "envoy.retry_host_predicates.previous_hosts".into(),
        config_type: Some(retry_host_predicate::ConfigType::TypedConfig(wkt::any(&PreviousHostsPredicate {}))),
    }
}

fn previous_priorities() -> RetryPriority {
    RetryPriority {
        name: "envoy.retry_priorities.previous_priorities".into(),
        config_type: Some(retry_priority::ConfigType::TypedConfig(wkt::any(&PreviousPrioritiesConfig { update_frequency: 2 }))),
    }
}

// === impl Headers ===

impl Headers {
    pub(super) fn new(modifications: &HeaderModifications) -> Self {
        let (request_add, authority) = changes(&modifications.request);
        let (response_add, _) = changes(&modifications.response);
        Self {
            request_add,
            request_remove: removals(&modifications.request),
            response_add,
            response_remove: removals(&modifications.response),
            authority,
        }
    }

    fn append(&mut self, other: Self) {
        self.request_add.extend(other.request_add);
        self.request_remove.extend(other.request_remove);
        self.response_add.extend(other.response_add);
        self.response_remove.extend(other.response_remove);
    }
}

fn is_authority(name: &str) -> bool {
    name.eq_ignore_ascii_case(":authority") || name.eq_ignore_ascii_case("host")
}

// Envoy refuses to change pseudo headers; the authority is rewritten in another way.
fn is_internal(name: &str) -> bool {
    name.starts_with(':') || name.eq_ignore_ascii_case("host")
}

fn changes(changes: &HeaderModification) -> (Vec<HeaderValueOption>, Option<SmolStr>) {
    let option = |(key, value): &(SmolStr, SmolStr), append: HeaderAppendAction| HeaderValueOption {
        header: Some(HeaderValue { key: key.to_string(), value: value.to_string(), ..Default::default() }),
        append_action: append.into(),
        ..Default::default()
    };
    let plain = |(name, _): &&(SmolStr, SmolStr)| !is_internal(name);
    let set = changes.set.iter().filter(plain).map(|header| option(header, HeaderAppendAction::OverwriteIfExistsOrAdd));
    let add = changes.add.iter().filter(plain).map(|header| option(header, HeaderAppendAction::AppendIfExistsOrAdd));
    let named = changes.set.iter().chain(&changes.add).find(|(name, _)| is_authority(name));
    (set.chain(add).collect(), named.map(|(_, value)| value.clone()))
}

fn removals(changes: &HeaderModification) -> Vec<String> {
    changes.remove.iter().filter(|name| !is_internal(name)).map(SmolStr::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(names: &[&str], status_codes: &[u32]) -> RetryPolicy {
        let names = names.iter().copied().map(SmolStr::from).collect();
        RetryPolicy {
            attempts: 3,
            conditions: Some(RetryConditions { names, status_codes: status_codes.to_vec() }),
            ..RetryPolicy::default()
        }
    }

    #[test]
    fn status_codes_among_the_conditions_have_a_list_of_their_own() {
        let envoy = retry_policy(Some(&policy(&["5xx"], &[429, 503])), false).unwrap();
        assert_eq!(envoy.retry_on, "5xx,retriable-status-codes");
        assert_eq!(envoy.retriable_status_codes, [429, 503]);
        let codes_alone = retry_policy(Some(&policy(&[], &[503])), false).unwrap();
        assert_eq!(codes_alone.retry_on, "retriable-status-codes");
    }

    #[test]
    fn no_attempts_are_no_policy_and_a_hash_keeps_its_host() {
        assert_eq!(retry_policy(Some(&RetryPolicy { attempts: 0, ..policy(&[], &[]) }), false), None);
        assert!(retry_policy(None, true).unwrap().retry_host_predicate.is_empty());
        assert_eq!(retry_policy(None, false).unwrap().retry_host_predicate.len(), 1);
    }

    #[test]
    fn a_redirect_does_not_name_the_port_of_its_scheme() {
        let of = |port, scheme: Option<&str>, listener, tls| {
            let redirect = Redirect { scheme: scheme.map(SmolStr::from), port: Some(port), ..Redirect::default() };
            match super::redirect(&redirect, listener, tls) {
                Action::Redirect(action) => action.port_redirect,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(of(RedirectPort::FromRequestPort, None, 80, false), 0);
        assert_eq!(of(RedirectPort::FromRequestPort, Some("https"), 80, false), 80);
        assert_eq!(of(RedirectPort::Number(443), None, 8443, true), 0);
        assert_eq!(of(RedirectPort::FromProtocolDefault, None, 8080, false), 0);
    }
}

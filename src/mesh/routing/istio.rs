//! VirtualService → [`RouteSet`], in one pass: every name is resolved as its object means it, and delegates are merged
//! in (contract §6.2).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use smol_str::{SmolStr, format_smolstr};

use super::{
    delegate,
    model::{
        Abort, AbortStatus, ClaimMatch, CorsPolicy, Delay, Denominator, Destination, Fault, GatewayRef, HeaderMatch, HeaderModification,
        HeaderModifications, HttpAction, HttpMatch, HttpRule, L4Match, L4Rule, LeftOutRule, Mirror, PathModifier, QueryParameterMatch,
        Redirect, RedirectCode, RedirectPort, RetryConditions, RetryPolicy, Rewrite, RouteSet, RulePrecedence, RuleSource, Share,
        StringMatch, WeightedDestination,
    },
    weight,
};
use crate::{
    api::{
        Object,
        istio::{self, VirtualService},
    },
    mesh::{
        model::{Hostname, NamedKey, Origin, Precedence, Visibility},
        names::{full_hostname, visibility},
    },
    patience::Patient,
};

/// What the mesh's settings say where an object does not.
#[derive(Clone, Copy)]
pub(in crate::mesh) struct Defaults<'a> {
    /// The cluster's DNS domain.
    pub(in crate::mesh) domain: &'a str,
    /// `exportTo` of VirtualServices that have none, as written.
    pub(in crate::mesh) export_to: &'a [SmolStr],
}

/// Finds a VirtualService by namespace and name.
pub(in crate::mesh) type Find<'a> = &'a dyn Fn(&NamedKey) -> Option<(&'a Object, &'a VirtualService)>;

/// Says whether a delegate's routes are given to so many older objects that no more are.
pub(in crate::mesh) type IsExhausted<'a> = &'a dyn Fn(&NamedKey) -> bool;

/// Converts a VirtualService; `None` for a delegate, which has no hosts and no routes of its own.
pub(in crate::mesh) fn route_set(
    object: &Object,
    spec: &VirtualService,
    defaults: Defaults<'_>,
    find: Find<'_>,
    is_exhausted: IsExhausted<'_>,
) -> Option<RouteSet> {
    if spec.hosts.is_empty() {
        return None;
    }
    let (name, namespace) = (&object.key.name, &object.key.namespace);
    let precedence = Arc::new(Precedence::of(object));
    let reader = Reader::new(object, defaults.domain);
    let HttpRules { http, merged, left_out } = http_rules(&reader, spec, &precedence, defaults, find, is_exhausted);
    Some(RouteSet {
        name: name.clone(),
        namespace: namespace.clone(),
        hosts: spec.hosts.iter().map(|host| reader.host(host)).collect(),
        gateways: if spec.gateways.is_empty() { vec![GatewayRef::Mesh] } else { reader.gateways(&spec.gateways) },
        export_to: exported_to(spec, namespace, defaults),
        weights: http.iter().map(weight::of_route).collect(),
        http,
        left_out,
        tls: reader.l4_rules("tls", &precedence, spec.tls.iter().map(|route| (&route.matches, &route.route))),
        tcp: reader.l4_rules("tcp", &precedence, spec.tcp.iter().map(|route| (&route.matches, &route.route))),
        precedence,
        origin: Origin::clone(&reader.origin),
        merged,
    })
}

/// Returns the delegates that a VirtualService names, whether they exist or not.
pub(in crate::mesh) fn delegates(spec: &VirtualService, namespace: &SmolStr) -> BTreeSet<NamedKey> {
    spec.http.iter().filter_map(|route| route.delegate.as_ref()).map(|delegate| delegate_key(delegate, namespace)).collect()
}

/// Returns the delegates that give a VirtualService routes, each with how many of its matches take these over.
pub(in crate::mesh) fn delegations(
    spec: &VirtualService,
    namespace: &SmolStr,
    defaults: Defaults<'_>,
    find: Find<'_>,
) -> BTreeMap<NamedKey, usize> {
    let mut found = BTreeMap::new();
    for route in spec.http.iter().filter(|_| !spec.hosts.is_empty()) {
        let key = route.delegate.as_ref().map(|delegate| delegate_key(delegate, namespace));
        if let Some(key) = key.filter(|key| usable_delegate(key, namespace, defaults, find).is_ok()) {
            *found.entry(key).or_default() += route.matches.len().max(1);
        }
    }
    found
}

/// Returns how many matches a delegate has for its roots.
pub(in crate::mesh) fn matches_of_delegate(leaf: &VirtualService) -> usize {
    leaf.http.iter().filter(|route| route.delegate.is_none()).map(|route| route.matches.len().max(1)).sum()
}

/// What becomes of the HTTP routes of an object.
#[derive(Default)]
struct HttpRules {
    http: Vec<HttpRule>,
    /// The delegates.
    merged: Vec<Origin>,
    left_out: Vec<LeftOutRule>,
}

/// Converts the HTTP routes, with the routes of delegates in the place of the routes that name them. One level only; a
/// delegate that does not exist or is not exported to the root's namespace gives no routes.
fn http_rules(
    reader: &Reader<'_>,
    spec: &VirtualService,
    precedence: &Arc<Precedence>,
    defaults: Defaults<'_>,
    find: Find<'_>,
    is_exhausted: IsExhausted<'_>,
) -> HttpRules {
    let at = |position| RulePrecedence { object: Arc::clone(precedence), position };
    let mut rules = HttpRules::default();
    let mut made: usize = 0;
    for (index, route) in spec.http.iter().enumerate().patiently() {
        let rule = reader.http_rule(index, route, at(rules.http.len()));
        let Some(delegate) = &route.delegate else {
            rules.http.push(rule);
            continue;
        };
        let key = delegate_key(delegate, reader.namespace());
        let (object, leaf) = match usable_delegate(&key, reader.namespace(), defaults, find) {
            Ok(found) => found,
            Err(reason) => {
                rules.left_out.push(LeftOutRule { source: rule.source, field: ".delegate", reason });
                continue;
            }
        };
        if is_exhausted(&key) {
            let name = format!("{}/{}", key.0, key.1);
            let reason = format!("older VirtualServices have as many routes of {name} as may become of them all together");
            rules.left_out.push(LeftOutRule { source: rule.source, field: ".delegate", reason });
            continue;
        }
        let leaf_reader = Reader::new(object, reader.domain);
        for (index, route) in leaf.http.iter().enumerate().filter(|(_, route)| route.delegate.is_none()).patiently() {
            let narrower = leaf_reader.http_rule(index, route, at(rules.http.len()));
            let source = narrower.source.clone();
            made = made.saturating_add(rule.matches.len().max(1) * narrower.matches.len().max(1));
            if made > delegate::MOST_MATCHES {
                let reason = format!("the matches of delegates make more than {} routes", delegate::MOST_MATCHES);
                rules.left_out.push(LeftOutRule { source: rule.source, field: ".delegate", reason });
                break;
            }
            match delegate::merge(&rule, narrower) {
                Some(merged) => rules.http.push(merged),
                None => {
                    let reason = format!("fits no match of {} {}, which delegates to it", rule.source.origin.object, rule.source.field);
                    rules.left_out.push(LeftOutRule { source, field: "", reason });
                }
            }
        }
        rules.merged.push(Origin::clone(&leaf_reader.origin));
    }
    rules
}

/// Finds a delegate that a root of `namespace` may name, or says why it has none.
fn usable_delegate<'a>(
    key: &NamedKey,
    namespace: &SmolStr,
    defaults: Defaults<'_>,
    find: Find<'a>,
) -> Result<(&'a Object, &'a VirtualService), String> {
    let name = format!("{}/{}", key.0, key.1);
    let (object, leaf) = find(key).ok_or_else(|| format!("there is no VirtualService {name}"))?;
    if !leaf.hosts.is_empty() {
        return Err(format!("VirtualService {name} has hosts, and a delegate has none"));
    }
    if !exported_to(leaf, &key.0, defaults).allows(namespace) {
        return Err(format!("VirtualService {name} is not exported to namespace {namespace}"));
    }
    Ok((object, leaf))
}

fn exported_to(spec: &VirtualService, namespace: &SmolStr, defaults: Defaults<'_>) -> Visibility {
    visibility(&spec.export_to, defaults.export_to, namespace)
}

fn delegate_key(delegate: &istio::Delegate, namespace: &SmolStr) -> NamedKey {
    let of = if delegate.namespace.is_empty() { namespace } else { &delegate.namespace };
    (of.clone(), delegate.name.clone())
}

/// Reads the routes of one object: names are relative to its namespace, and rules say that they are from it.
struct Reader<'a> {
    origin: Arc<Origin>,
    /// The cluster's DNS domain.
    domain: &'a str,
}

impl<'a> Reader<'a> {
    fn new(object: &Object, domain: &'a str) -> Self {
        Self { origin: Arc::new(Origin::of(object)), domain }
    }

    fn namespace(&self) -> &SmolStr {
        &self.origin.object.namespace
    }

    fn source(&self, field: SmolStr) -> RuleSource {
        RuleSource { origin: Arc::clone(&self.origin), field }
    }

    fn host(&self, written: &str) -> Hostname {
        full_hostname(written, self.namespace(), self.domain)
    }

    fn gateways(&self, written: &[SmolStr]) -> Vec<GatewayRef> {
        written.iter().map(|name| gateway(name, self.namespace())).collect()
    }

    fn http_rule(&self, index: usize, route: &istio::HttpRoute, precedence: RulePrecedence) -> HttpRule {
        let field = format_smolstr!("spec.http[{index}]");
        HttpRule {
            mirrors: route.mirrors.iter().map(|mirror| self.mirror(&field, mirror)).collect(),
            source: self.source(field),
            precedence,
            name: route.name.clone(),
            matches: route.matches.iter().map(|matched| self.http_match(matched)).collect(),
            action: self.action(route),
            timeout: route.timeout,
            retries: route.retries.as_ref().map(RetryPolicy::from),
            fault: route.fault.as_ref().map(fault),
            cors: route.cors.as_ref().map(cors_policy),
            headers: route.headers.as_ref().map(header_modifications),
            rewrite: route.rewrite.as_ref().map(rewrite),
        }
    }

    fn http_match(&self, matched: &istio::HttpMatch) -> HttpMatch {
        HttpMatch {
            name: matched.name.clone(),
            path: matched.uri.as_ref().map(string_match),
            ignore_path_case: matched.ignore_uri_case,
            scheme: matched.scheme.as_ref().map(string_match),
            method: matched.method.as_ref().map(string_match),
            authority: matched.authority.as_ref().map(string_match),
            headers: header_matches(matched),
            query_parameters: matched
                .query_params
                .iter()
                .map(|(name, value)| QueryParameterMatch { name: name.clone(), value: string_match(value) })
                .collect(),
            port: matched.port,
            source_labels: matched.source_labels.clone(),
            source_namespace: matched.source_namespace.clone(),
            gateways: self.gateways(&matched.gateways),
            stat_prefix: matched.stat_prefix.clone(),
            claims: claim_matches(matched),
        }
    }

    fn action(&self, route: &istio::HttpRoute) -> HttpAction {
        if let Some(written) = &route.redirect {
            return HttpAction::Redirect(redirect(written));
        }
        if let Some(response) = &route.direct_response {
            return HttpAction::DirectResponse { status: response.status, body: Arc::clone(&response.body) };
        }
        HttpAction::Forward(self.destinations(&route.route))
    }

    fn mirror(&self, rule: &str, mirror: &istio::HttpMirror) -> Mirror {
        Mirror {
            source: self.source(format_smolstr!("{rule}.{}", mirror.field)),
            destination: self.destination(&mirror.destination),
            share: share(mirror.share),
        }
    }

    fn l4_rules<'r>(
        &self,
        list: &str,
        precedence: &Arc<Precedence>,
        routes: impl Iterator<Item = (&'r Vec<istio::L4Match>, &'r Vec<istio::RouteDestination>)>,
    ) -> Vec<L4Rule> {
        let rule = |(index, (matches, to)): (usize, (&Vec<istio::L4Match>, &Vec<istio::RouteDestination>))| L4Rule {
            source: self.source(format_smolstr!("spec.{list}[{index}]")),
            precedence: RulePrecedence { object: Arc::clone(precedence), position: index },
            matches: matches.iter().map(|matched| self.l4_match(matched)).collect(),
            destinations: self.destinations(to),
        };
        routes.enumerate().map(rule).collect()
    }

    fn l4_match(&self, matched: &istio::L4Match) -> L4Match {
        L4Match {
            sni_hosts: matched.sni_hosts.iter().map(Hostname::new).collect(),
            destination_subnets: matched.destination_subnets.clone(),
            port: matched.port,
            source_labels: matched.source_labels.clone(),
            source_namespace: matched.source_namespace.clone(),
            gateways: self.gateways(&matched.gateways),
        }
    }

    fn destinations(&self, to: &[istio::RouteDestination]) -> Vec<WeightedDestination> {
        let weighted = |written: &istio::RouteDestination| WeightedDestination {
            destination: self.destination(&written.destination),
            weight: written.weight,
            headers: header_modifications(&written.headers),
        };
        to.iter().map(weighted).collect()
    }

    fn destination(&self, written: &istio::Destination) -> Destination {
        Destination { host: self.host(&written.host), subset: written.subset.clone(), port: written.port }
    }
}

/// Reads `mesh`, `name`, `namespace/name`, `./name`, or the old form `name.namespace.svc…`.
fn gateway(written: &str, namespace: &SmolStr) -> GatewayRef {
    if written == "mesh" {
        return GatewayRef::Mesh;
    }
    let (gateway_namespace, name): (SmolStr, SmolStr) = match written.split_once('/') {
        Some((".", name)) => (namespace.clone(), name.into()),
        Some((other, name)) => (other.into(), name.into()),
        None => match written.split_once('.') {
            Some((name, rest)) => (rest.split('.').next().unwrap_or(rest).into(), name.into()),
            None => (namespace.clone(), written.into()),
        },
    };
    GatewayRef::istio(&gateway_namespace, &name)
}

impl From<&istio::RetryPolicy> for RetryPolicy {
    fn from(written: &istio::RetryPolicy) -> Self {
        Self {
            attempts: written.attempts.max(0).unsigned_abs(),
            per_try_timeout: written.per_try_timeout,
            conditions: (!written.retry_on.is_empty()).then(|| retry_conditions(&written.retry_on)),
            remote_localities: written.retry_remote_localities.unwrap_or_default(),
            ignore_previous_hosts: written.retry_ignore_previous_hosts,
            backoff: written.backoff,
        }
    }
}

fn string_match(written: &istio::StringMatch) -> StringMatch {
    match written {
        istio::StringMatch::Exact(text) => StringMatch::Exact(text.clone()),
        istio::StringMatch::Prefix(text) => StringMatch::Prefix(text.clone()),
        istio::StringMatch::Regex(text) => StringMatch::Regex(text.clone()),
        istio::StringMatch::Present => StringMatch::Present,
    }
}

fn header_matches(matched: &istio::HttpMatch) -> Vec<HeaderMatch> {
    let read = |inverted| {
        move |(name, value): &(SmolStr, istio::StringMatch)| HeaderMatch { name: name.clone(), value: string_match(value), inverted }
    };
    let both = matched.headers.iter().map(read(false)).chain(matched.without_headers.iter().map(read(true)));
    let mut headers: Vec<_> = both.filter(|header| !istio::is_claim(&header.name)).collect();
    // Of one name the one that must match stays first.
    headers.sort_by(|a, b| a.name.cmp(&b.name));
    headers
}

// What names no claim is no valid object.
fn claim_matches(matched: &istio::HttpMatch) -> Vec<ClaimMatch> {
    let read = |inverted| {
        move |(name, value): &(SmolStr, istio::StringMatch)| {
            Some(ClaimMatch { path: istio::claim_path(name)?, name: name.clone(), value: string_match(value), inverted })
        }
    };
    let both = matched.headers.iter().filter_map(read(false)).chain(matched.without_headers.iter().filter_map(read(true)));
    let mut claims: Vec<_> = both.collect();
    claims.sort_by(|a, b| a.name.cmp(&b.name));
    claims
}

fn redirect(written: &istio::Redirect) -> Redirect {
    Redirect {
        path: given(&written.uri),
        authority: given(&written.authority),
        scheme: given(&written.scheme),
        port: written.port.map(|port| match port {
            istio::RedirectPort::Number(number) => RedirectPort::Number(number),
            istio::RedirectPort::FromProtocolDefault => RedirectPort::FromProtocolDefault,
            istio::RedirectPort::FromRequestPort => RedirectPort::FromRequestPort,
        }),
        code: match written.code {
            istio::RedirectCode::MovedPermanently => RedirectCode::MovedPermanently,
            istio::RedirectCode::Found => RedirectCode::Found,
            istio::RedirectCode::SeeOther => RedirectCode::SeeOther,
            istio::RedirectCode::TemporaryRedirect => RedirectCode::TemporaryRedirect,
            istio::RedirectCode::PermanentRedirect => RedirectCode::PermanentRedirect,
        },
    }
}

fn rewrite(written: &istio::Rewrite) -> Rewrite {
    let prefix = || given(&written.uri).map(PathModifier::ReplacePrefix);
    let regex = written.uri_regex.clone().map(|(pattern, substitution)| PathModifier::ReplaceRegex { pattern, substitution });
    Rewrite { path: regex.or_else(prefix), authority: given(&written.authority) }
}

// Numbers among the conditions are status codes.
fn retry_conditions(written: &str) -> RetryConditions {
    let mut conditions = RetryConditions::default();
    for word in written.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        match word.parse().ok().filter(|code| (100..600).contains(code)) {
            Some(code) => conditions.status_codes.push(code),
            None => conditions.names.push(word.into()),
        }
    }
    conditions
}

fn fault(written: &istio::Fault) -> Fault {
    Fault {
        delay: written.delay.map(|(duration, of)| Delay { duration, share: share(of) }),
        abort: written.abort.map(|(status, of)| Abort {
            status: match status {
                istio::AbortStatus::Http(code) => AbortStatus::Http(code),
                istio::AbortStatus::Grpc(code) => AbortStatus::Grpc(code),
            },
            share: share(of),
        }),
    }
}

fn share(written: istio::Share) -> Share {
    let denominator = if written.of_million { Denominator::Million } else { Denominator::Hundred };
    Share { numerator: written.numerator, denominator }
}

fn cors_policy(written: &istio::CorsPolicy) -> CorsPolicy {
    CorsPolicy {
        allow_origins: written.allow_origins.iter().map(string_match).collect(),
        allow_methods: written.allow_methods.clone(),
        allow_headers: written.allow_headers.clone(),
        expose_headers: written.expose_headers.clone(),
        max_age: written.max_age,
        allow_credentials: written.allow_credentials,
        forward_unmatched_preflights: written.forward_unmatched_preflights,
    }
}

fn header_modifications(written: &istio::HeaderOperations) -> HeaderModifications {
    HeaderModifications { request: header_modification(&written.request), response: header_modification(&written.response) }
}

fn header_modification(written: &istio::HeaderChanges) -> HeaderModification {
    HeaderModification { set: written.set.clone(), add: written.add.clone(), remove: written.remove.clone() }
}

/// Returns a name that was written. One that was not is empty in the API.
fn given(written: &SmolStr) -> Option<SmolStr> {
    (!written.is_empty()).then(|| written.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{self, Spec};

    const SHOP: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shop, namespace: web, generation: 4}
spec:
  hosts: [shop, shop.example.com]
  gateways: [mesh, public, infra/private]
  http:
  - match: [{uri: {exact: /}, gateways: [public]}]
    redirect: {uri: /home}
  - name: cart
    match: [{uri: {prefix: /cart}, headers: {b: {exact: x}}, withoutHeaders: {a: {}, b: {exact: y}}}]
    delegate: {name: cart, namespace: cart}
  - route: [{destination: {host: front}, weight: 9}, {destination: {host: front.other.svc.cluster.local, port: {number: 81}}, weight: 1}]
    mirror: {host: shadow}
    rewrite: {uri: /new, authority: front}
    retries: {attempts: 3, retryOn: '5xx,429,503'}
  tcp:
  - route: [{destination: {host: db}}]
";
    const CART: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: cart, namespace: cart, generation: 7}
spec:
  http:
  - match: [{uri: {prefix: /other}}]
    route: [{destination: {host: never}}]
  - match: [{uri: {exact: /cart/pay}, gateways: [infra/private]}]
    route: [{destination: {host: pay}}]
  - name: rest
    route: [{destination: {host: cart}}]
";

    const DEFAULTS: Defaults<'_> = Defaults { domain: "cluster.local", export_to: &[] };

    fn read(text: &str) -> Object {
        let document = api::yaml::document(api::yaml::documents(text)[0]).unwrap();
        let read = api::parse(&document, &"Kubernetes".into());
        let [object] = &read.objects[..] else { panic!("{:?}", read.diagnostics) };
        Object::clone(object)
    }

    fn converted(root: &str, others: &[&str]) -> RouteSet {
        let others: Vec<Object> = others.iter().map(|text| read(text)).collect();
        let find = |(namespace, name): &NamedKey| {
            let object = others.iter().find(|object| (&object.key.namespace, &object.key.name) == (namespace, name))?;
            Some((object, spec(object)))
        };
        let root = read(root);
        route_set(&root, spec(&root), DEFAULTS, &find, &|_| false).unwrap()
    }

    fn spec(object: &Object) -> &VirtualService {
        match &object.spec {
            Spec::VirtualService(spec) => spec,
            other => panic!("{other:?}"),
        }
    }

    fn hosts<'a>(destinations: impl Iterator<Item = &'a Destination>) -> Vec<&'a str> {
        destinations.map(|destination| destination.host.as_str()).collect()
    }

    fn gateway_ref(namespace: &str, name: &str) -> GatewayRef {
        GatewayRef::istio(&namespace.into(), &name.into())
    }

    #[test]
    fn names_are_full_and_relative_to_the_object_that_has_them() {
        let routes = converted(SHOP, &[CART]);
        assert_eq!(routes.hosts.iter().map(Hostname::as_str).collect::<Vec<_>>(), ["shop.web.svc.cluster.local", "shop.example.com"]);
        assert_eq!(routes.gateways, [GatewayRef::Mesh, gateway_ref("web", "public"), gateway_ref("infra", "private")]);
        assert_eq!(routes.http[0].matches[0].gateways, [gateway_ref("web", "public")]);
        let to: Vec<Vec<&str>> = routes.http.iter().map(|rule| hosts(rule.destinations())).collect();
        assert_eq!(
            to,
            [
                vec![],
                vec!["pay.cart.svc.cluster.local"],
                vec!["cart.cart.svc.cluster.local"],
                vec!["front.web.svc.cluster.local", "front.other.svc.cluster.local", "shadow.web.svc.cluster.local"],
            ]
        );
        assert_eq!(hosts(routes.tcp[0].destinations.iter().map(|weighted| &weighted.destination)), ["db.web.svc.cluster.local"]);
    }

    #[test]
    fn gateways_may_name_their_namespace() {
        let shop = SmolStr::from("shop");
        assert_eq!(gateway("mesh", &shop), GatewayRef::Mesh);
        assert_eq!(gateway("public", &shop), gateway_ref("shop", "public"));
        assert_eq!(gateway("./public", &shop), gateway_ref("shop", "public"));
        assert_eq!(gateway("infra/public", &shop), gateway_ref("infra", "public"));
        assert_eq!(gateway("public.infra.svc.cluster.local", &shop), gateway_ref("infra", "public"));
    }

    #[test]
    fn rules_say_where_they_were_written() {
        let routes = converted(SHOP, &[CART]);
        let sources = routes.http.iter().map(|rule| &rule.source).chain(routes.tcp.iter().map(|rule| &rule.source));
        let sources: Vec<_> =
            sources.map(|source| (source.origin.object.name.as_str(), source.origin.generation, source.field.as_str())).collect();
        assert_eq!(
            sources,
            [
                ("shop", 4, "spec.http[0]"),
                ("cart", 7, "spec.http[1]"),
                ("cart", 7, "spec.http[2]"),
                ("shop", 4, "spec.http[2]"),
                ("shop", 4, "spec.tcp[0]"),
            ]
        );
        assert_eq!((routes.origin.object.name.as_str(), routes.origin.generation), ("shop", 4));
        assert_eq!(routes.merged.iter().map(|origin| origin.object.name.as_str()).collect::<Vec<_>>(), ["cart"]);
    }

    #[test]
    fn delegates_are_merged_into_the_route_that_names_them() {
        let routes = converted(SHOP, &[CART]);
        let [pay, rest] = &routes.http[1..3] else { panic!("{:?}", routes.http) };
        assert_eq!((pay.name.as_str(), rest.name.as_str()), ("cart", "cart-rest"));
        assert_eq!(pay.matches[0].path, Some(StringMatch::Exact("/cart/pay".into())));
        assert_eq!(pay.matches[0].gateways, [gateway_ref("infra", "private")]);
        assert_eq!(rest.matches[0].path, Some(StringMatch::Prefix("/cart".into())));
        let headers: Vec<_> = rest.matches[0].headers.iter().map(|header| (header.name.as_str(), header.inverted)).collect();
        assert_eq!(headers, [("a", true), ("b", false), ("b", true)]);
    }

    #[test]
    fn a_delegate_that_is_missing_or_hidden_gives_no_routes() {
        assert_eq!(converted(SHOP, &[]).http.len(), 2);
        let hidden = CART.replace("spec:", "spec:\n  exportTo: ['.']");
        let routes = converted(SHOP, &[&hidden]);
        assert_eq!((routes.http.len(), routes.merged.len()), (2, 0));
        let told =
            |routes: &RouteSet| format!("{}{} {}", routes.left_out[0].source.field, routes.left_out[0].field, routes.left_out[0].reason);
        assert_eq!(told(&routes), "spec.http[1].delegate VirtualService cart/cart is not exported to namespace web");
        assert_eq!(told(&converted(SHOP, &[])), "spec.http[1].delegate there is no VirtualService cart/cart");
        let contradicted = converted(SHOP, &[CART]);
        assert_eq!(told(&contradicted), "spec.http[0] fits no match of VirtualService/web/shop spec.http[1], which delegates to it");
    }

    #[test]
    fn delegates_do_not_multiply_without_end() {
        let matches = |count: usize| vec!["{uri: {prefix: /}}"; count].join(", ");
        let head =
            |name| format!("apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}, namespace: shop}}\n");
        let root =
            format!("{}spec: {{hosts: [a.example.com], http: [{{match: [{}], delegate: {{name: leaf}}}}]}}", head("root"), matches(500));
        let leaf = format!("{}spec: {{http: [{{match: [{}], route: [{{destination: {{host: a}}}}]}}]}}", head("leaf"), matches(401));
        let routes = converted(&root, &[&leaf]);
        assert_eq!((routes.http.len(), routes.left_out.len()), (0, 1));
        assert_eq!(routes.left_out[0].reason, "the matches of delegates make more than 200000 routes");
    }

    #[test]
    fn a_delegate_is_no_route_set_of_its_own() {
        let cart = read(CART);
        assert_eq!(route_set(&cart, spec(&cart), DEFAULTS, &|_| None, &|_| false), None);
        let shop = read(SHOP);
        assert_eq!(delegates(spec(&shop), &"web".into()), BTreeSet::from([("cart".into(), "cart".into())]));
    }

    #[test]
    fn values_lose_what_means_nothing() {
        let routes = converted(SHOP, &[]);
        let [redirect, forward] = &routes.http[..] else { panic!("{:?}", routes.http) };
        let HttpAction::Redirect(redirect) = &redirect.action else { panic!("{redirect:?}") };
        assert_eq!(*redirect, Redirect { path: Some("/home".into()), ..Redirect::default() });
        let rewrite = Rewrite { path: Some(PathModifier::ReplacePrefix("/new".into())), authority: Some("front".into()) };
        assert_eq!(forward.rewrite, Some(rewrite));
        let retries = forward.retries.as_ref().unwrap();
        let conditions = RetryConditions { names: vec!["5xx".into()], status_codes: vec![429, 503] };
        assert_eq!((retries.attempts, &retries.conditions), (3, &Some(conditions)));
        let off = RetryPolicy::from(&istio::RetryPolicy { attempts: -1, retry_on: SmolStr::default(), ..read_retries() });
        assert_eq!((off.attempts, off.conditions), (0, None));
    }

    fn read_retries() -> istio::RetryPolicy {
        spec(&read(SHOP)).http[2].retries.clone().unwrap()
    }
}

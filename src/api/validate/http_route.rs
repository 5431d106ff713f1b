//! Checks `http[]` of a VirtualService.

use std::time::Duration;

use smol_str::SmolStr;

use super::{Check, text::is_dns_label, text::is_header_name};
use crate::api::{
    findings::Path,
    istio::{
        AbortStatus, CorsPolicy, DirectResponse, Fault, HeaderChanges, HeaderOperations, HttpMatch, HttpRoute, Redirect, RedirectPort,
        RetryPolicy, Rewrite, StringMatch, claim_path, is_claim,
    },
};

const LARGE_BODY: usize = 100 << 10;
const LARGEST_BODY: usize = 1 << 20;
/// How many headers Envoy adds or sets at most, by those of one route.
const MOST_HEADERS: usize = 1000;
/// How long the name of a query parameter may be, in bytes.
const LONGEST_PARAMETER: usize = 1024;
pub(super) const PSEUDO_HEADERS: [&str; 5] = [":method", ":scheme", ":authority", ":path", ":status"];
const CORS_METHODS: [&str; 10] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "*"];
/// The retry conditions of Envoy for HTTP and gRPC.
const RETRY_ON: [&str; 17] = [
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "envoy-ratelimited",
    "retriable-4xx",
    "refused-stream",
    "retriable-status-codes",
    "retriable-headers",
    "http3-post-connect-failure",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
    "unknown",
];

impl Check<'_> {
    pub(super) fn http_route(self, route: &HttpRoute, delegate: bool, at: &Path<'_>) {
        self.action(route, delegate, at);
        let matches = at.field("match");
        for (index, found) in route.matches.iter().enumerate() {
            self.http_match(found, &matches.index(index));
        }
        self.weights(&route.route, &at.field("route"));
        for (index, destination) in route.route.iter().enumerate() {
            self.header_operations(&destination.headers, &at.field("route").index(index).field("headers"));
        }
        if let Some(headers) = &route.headers {
            self.header_operations(headers, &at.field("headers"));
        }
        self.one_authority(route, at);
        self.number_of_headers(route, at);
        let mirrors = at.field("mirrors");
        for (index, mirror) in route.mirrors.iter().enumerate() {
            self.destination(&mirror.destination, &mirrors.index(index).field("destination"));
        }
        self.route_settings(route, at);
    }

    fn route_settings(self, route: &HttpRoute, at: &Path<'_>) {
        if let Some(redirect) = &route.redirect {
            self.redirect(redirect, &at.field("redirect"));
        }
        if let Some(response) = &route.direct_response {
            self.direct_response(response, &at.field("directResponse"));
        }
        if let Some(rewrite) = &route.rewrite {
            self.rewrite(rewrite, &at.field("rewrite"));
        }
        if let Some(retries) = &route.retries {
            self.retries(retries, &at.field("retries"));
        }
        if let Some(fault) = &route.fault {
            self.fault(fault, &at.field("fault"));
        }
        if let Some(cors) = &route.cors {
            self.cors(cors, &at.field("corsPolicy"));
        }
        // Zero disables the timeout.
        self.at_least_a_millisecond(route.timeout.filter(|timeout| !timeout.is_zero()), &at.field("timeout"));
    }

    /// Checks that there is one of `route`, `redirect` and `directResponse`, or a delegate, and only what goes with it.
    fn action(self, route: &HttpRoute, delegate: bool, at: &Path<'_>) {
        let actions = [
            ("route", !route.route.is_empty()),
            ("redirect", route.redirect.is_some()),
            ("directResponse", route.direct_response.is_some()),
        ];
        let given: Vec<_> = actions.into_iter().filter(|(_, given)| *given).map(|(name, _)| name).collect();
        if route.delegate.is_some() {
            if delegate {
                self.error(&at.field("delegate"), "a delegate cannot delegate");
            }
            for name in given.iter().filter(|name| **name != "directResponse") {
                self.error(&at.field(name), "is not possible beside delegate");
            }
            return;
        }
        match given[..] {
            [] => self.error(at, "needs route, redirect, directResponse or delegate"),
            [one] => {
                let forwards_not = [("fault", route.fault.is_some()), ("rewrite", route.rewrite.is_some())];
                for (name, _) in forwards_not.into_iter().filter(|(_, given)| *given && one != "route") {
                    self.error(&at.field(name), format!("is not possible beside {one}"));
                }
            }
            _ => self.error(at, format!("only one of {} may be set", given.join(", "))),
        }
    }

    fn http_match(self, found: &HttpMatch, at: &Path<'_>) {
        // An empty prefix matches every path, but Envoy refuses it for anything else.
        if let Some(StringMatch::Regex(regex)) = &found.uri {
            self.regex(regex, &at.field("uri").field("regex"));
        }
        for (name, value) in [("scheme", &found.scheme), ("method", &found.method), ("authority", &found.authority)] {
            if let Some(value) = value {
                self.string_match(value, &at.field(name));
            }
        }
        for (field, headers) in [("headers", &found.headers), ("withoutHeaders", &found.without_headers)] {
            let at = at.field(field);
            for (name, value) in headers {
                self.matched_header(name, &at.key(name));
                self.string_match(value, &at.key(name));
            }
        }
        for (name, value) in &found.query_params {
            if name.is_empty() || name.len() > LONGEST_PARAMETER {
                self.error(
                    &at.field("queryParams").key(name),
                    format!("a query parameter needs a name of at most {LONGEST_PARAMETER} bytes"),
                );
            }
            self.string_match(value, &at.field("queryParams").key(name));
        }
        self.labels(&found.source_labels, &at.field("sourceLabels"));
        self.gateway_names(&found.gateways, &at.field("gateways"));
        if let Some(namespace) = found.source_namespace.as_ref().filter(|namespace| !is_dns_label(namespace)) {
            self.error(&at.field("sourceNamespace"), format!("{namespace:?} is no namespace"));
        }
    }

    fn matched_header(self, name: &str, at: &Path<'_>) {
        if is_claim(name) {
            if claim_path(name).is_none() {
                self.error(at, "names no claim: write @request.auth.claims.name, or @request.auth.claims[name][inner]");
            }
        } else if !PSEUDO_HEADERS.contains(&name) && !is_header_name(name) {
            self.error(at, "is no name of a header");
        }
    }

    pub(super) fn string_match(self, found: &StringMatch, at: &Path<'_>) {
        match found {
            StringMatch::Prefix(prefix) if prefix.is_empty() => self.error(&at.field("prefix"), "must not be empty"),
            // This is no expression, but stands for "is present".
            StringMatch::Regex(regex) if regex == "*" => {}
            StringMatch::Regex(regex) => self.regex(regex, &at.field("regex")),
            StringMatch::Exact(_) | StringMatch::Prefix(_) | StringMatch::Present => {}
        }
    }

    fn header_operations(self, operations: &HeaderOperations, at: &Path<'_>) {
        self.header_changes(&operations.request, true, &at.field("request"));
        self.header_changes(&operations.response, false, &at.field("response"));
    }

    fn header_changes(self, changes: &HeaderChanges, request: bool, at: &Path<'_>) {
        for (field, headers) in [("set", &changes.set), ("add", &changes.add)] {
            let at = at.field(field);
            for (name, value) in headers {
                self.header_name(name, request, &at.key(name));
                self.header_value(value, &at.key(name));
            }
        }
        let removed = at.field("remove");
        for (index, name) in changes.remove.iter().enumerate() {
            self.header_name(name, false, &removed.index(index));
        }
    }

    /// Checks the number of headers that are changed: those of a single destination are added to those of the route.
    fn number_of_headers(self, route: &HttpRoute, at: &Path<'_>) {
        let of = |operations: &HeaderOperations| {
            [&operations.request, &operations.response].map(|changes| changes.set.len() + changes.add.len())
        };
        let own = route.headers.as_ref().map(of).unwrap_or_default();
        let most = match route.route.as_slice() {
            [only] => of(&only.headers).into_iter().zip(own).map(|(one, other)| one + other).max(),
            several => several.iter().flat_map(|destination| of(&destination.headers)).chain(own).max(),
        };
        if most.is_some_and(|most| most > MOST_HEADERS) {
            self.error(at, format!("sets or adds more than the {MOST_HEADERS} headers that are possible"));
        }
    }

    /// Checks that `rewrite.authority` and the request headers do not both set the authority.
    fn one_authority(self, route: &HttpRoute, at: &Path<'_>) {
        let request = route.headers.as_ref().map(|headers| &headers.request);
        let in_headers = request.into_iter().flat_map(|request| request.set.iter().chain(&request.add));
        let authority = |name: &SmolStr| name.eq_ignore_ascii_case("host") || name.eq_ignore_ascii_case(":authority");
        let rewritten = route.rewrite.as_ref().is_some_and(|rewrite| !rewrite.authority.is_empty());
        if usize::from(rewritten) + in_headers.filter(|(name, _)| authority(name)).count() > 1 {
            self.error(at, "the authority is set more than once");
        }
    }

    fn redirect(self, redirect: &Redirect, at: &Path<'_>) {
        if redirect.uri.is_empty() && redirect.authority.is_empty() && redirect.scheme.is_empty() && redirect.port.is_none() {
            self.error(at, "needs uri, authority, scheme or port");
        }
        if !["", "http", "https"].contains(&redirect.scheme.as_str()) {
            self.error(&at.field("scheme"), format!("must be http or https, is {:?}", redirect.scheme));
        }
        self.one_line(&redirect.uri, &at.field("uri"));
        self.one_line(&redirect.authority, &at.field("authority"));
        if redirect.port == Some(RedirectPort::Number(0)) {
            self.error(&at.field("port"), "must be from 1 to 65535");
        }
    }

    fn direct_response(self, response: &DirectResponse, at: &Path<'_>) {
        self.http_status(response.status, &at.field("status"));
        match response.body.len() {
            size if size > LARGEST_BODY => {
                self.error(&at.field("body"), format!("has {size} bytes, more than the {LARGEST_BODY} that are possible"))
            }
            size if size > LARGE_BODY => self.warning(&at.field("body"), format!("has {size} bytes, which every proxy is sent")),
            _ => {}
        }
    }

    fn http_status(self, status: u32, at: &Path<'_>) {
        if !(200..600).contains(&status) {
            self.error(at, format!("must be from 200 to 599, is {status}"));
        }
    }

    fn rewrite(self, rewrite: &Rewrite, at: &Path<'_>) {
        self.one_line(&rewrite.uri, &at.field("uri"));
        self.one_line(&rewrite.authority, &at.field("authority"));
        match &rewrite.uri_regex {
            Some(_) if !rewrite.uri.is_empty() => self.error(at, "only one of uri and uriRegexRewrite may be set"),
            Some((found, replaced)) => {
                let at = at.field("uriRegexRewrite");
                self.regex(found, &at.field("match"));
                if replaced.is_empty() {
                    self.error(&at.field("rewrite"), "must not be empty");
                }
                self.one_line(replaced, &at.field("rewrite"));
            }
            None if rewrite.uri.is_empty() && rewrite.authority.is_empty() => self.error(at, "needs uri, uriRegexRewrite or authority"),
            None => {}
        }
    }

    fn retries(self, retries: &RetryPolicy, at: &Path<'_>) {
        if retries.attempts < 0 {
            self.error(&at.field("attempts"), format!("must not be negative, is {}", retries.attempts));
        }
        let settings = retries.per_try_timeout.is_some() || !retries.retry_on.is_empty() || retries.retry_remote_localities.is_some();
        if retries.attempts == 0 && settings {
            self.error(&at.field("attempts"), "is 0, which means no retries: other settings are not possible then");
        }
        self.at_least_a_millisecond(retries.per_try_timeout, &at.field("perTryTimeout"));
        self.at_least_a_millisecond(retries.backoff, &at.field("backoff"));
        for condition in retries.retry_on.split(',').filter(|_| !retries.retry_on.is_empty()) {
            let status = condition.parse::<u16>().is_ok_and(|status| (100..=599).contains(&status));
            if !status && !RETRY_ON.contains(&condition) {
                self.error(&at.field("retryOn"), format!("unknown condition {condition:?}"));
            }
        }
    }

    fn fault(self, fault: &Fault, at: &Path<'_>) {
        if let Some((delay, _)) = fault.delay {
            self.at_least_a_millisecond(Some(delay), &at.field("delay").field("fixedDelay"));
        }
        if let Some((AbortStatus::Http(status), _)) = fault.abort {
            self.http_status(status, &at.field("abort").field("httpStatus"));
        }
        if fault.delay.is_none() && fault.abort.is_none() {
            self.error(at, "needs delay or abort");
        }
    }

    fn cors(self, cors: &CorsPolicy, at: &Path<'_>) {
        let origins = at.field("allowOrigins");
        for (index, origin) in cors.allow_origins.iter().enumerate() {
            let at = origins.index(index);
            match origin {
                StringMatch::Regex(regex) => self.regex(regex, &at.field("regex")),
                StringMatch::Exact(text) | StringMatch::Prefix(text) if !text.is_empty() => {}
                _ => self.error(&at, "must not be empty"),
            }
        }
        let methods = at.field("allowMethods");
        for (index, method) in cors.allow_methods.iter().enumerate() {
            if !CORS_METHODS.contains(&method.as_str()) {
                self.error(&methods.index(index), format!("unknown method {method:?}"));
            }
        }
        for (field, names) in [("allowHeaders", &cors.allow_headers), ("exposeHeaders", &cors.expose_headers)] {
            for (index, name) in names.iter().enumerate() {
                if name != "*" && !is_header_name(name) {
                    self.error(&at.field(field).index(index), format!("{name:?} is no name of a header"));
                }
            }
        }
        if cors.max_age.is_some_and(|age| age.subsec_nanos() != 0 || age < Duration::from_millis(1)) {
            self.error(&at.field("maxAge"), "must be whole seconds, 1s or more");
        }
    }
}

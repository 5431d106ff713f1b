//! Rules for RateLimitPolicy.

use std::{collections::BTreeSet, ops::RangeInclusive, time::Duration};

use smol_str::SmolStr;

use super::{
    Check,
    host::is_host,
    text::{is_dns_label, is_header_name},
};
use crate::api::{
    findings::Path,
    istio::{PolicyTarget, StringMatch, TargetRef},
    rate_limit_policy::{CountedRequests, EntryValue, GlobalRateLimit, Per, PerKey, RateLimit, RateLimitPolicy, RequestDescriptor},
};

/// What policies may name: group and kind.
const POSSIBLE: [(&str, &str); 3] = [("", "Service"), ("networking.istio.io", "Gateway"), ("gateway.networking.k8s.io", "Gateway")];

/// How many limits an object may have: each is a filter in all the chains of its workloads.
const MOST_LIMITS: usize = 32;
/// How many headers a match may name.
const MOST_HEADERS: usize = 16;
/// Envoy fills no bucket more often, and none outlives the Envoy that it is in.
const INTERVALS: RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_hours(24);
/// How long names of the service's may be, in bytes.
const LONGEST_TEXT: usize = 256;
/// How many entries a descriptor may have.
const MOST_ENTRIES: usize = 16;
/// How long a service that counts may take.
const TIMEOUTS: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(10);
/// Each value has a bucket in the memory of each proxy.
const VALUES: RangeInclusive<u32> = 1..=100_000;

impl Check<'_> {
    pub(super) fn rate_limit_policy(self, policy: &RateLimitPolicy, at: &Path<'_>) {
        self.rate_limit_target(&policy.target, at);
        let list = at.field("limits");
        match policy.limits.len() {
            0 if policy.global.is_none() => self.error(&list, "is missing, and so is global: there is nothing to hold"),
            0..=MOST_LIMITS => {}
            several => self.error(&list, format!("has {several} limits, more than the {MOST_LIMITS} that are possible")),
        }
        let mut known = BTreeSet::new();
        for (index, limit) in policy.limits.iter().enumerate() {
            let at = list.index(index);
            if !known.insert(&limit.name) {
                self.error(&at.field("name"), format!("{:?} is there twice", limit.name));
            }
            self.rate_limit(limit, &at);
        }
        if let Some(global) = &policy.global {
            self.global_rate_limit(global, &at.field("global"));
        }
    }

    fn global_rate_limit(self, global: &GlobalRateLimit, at: &Path<'_>) {
        let missing = [("service", global.service.is_empty()), ("domain", global.domain.is_empty())];
        for (name, _) in missing.into_iter().filter(|(_, missing)| *missing) {
            self.error(&at.field(name), "is missing");
        }
        if !global.service.is_empty() && !is_host(&global.service) {
            self.error(&at.field("service"), format!("must be the host of a service, is {:?}", global.service));
        }
        self.port_number(global.port, &at.field("port"));
        if global.domain.len() > LONGEST_TEXT {
            self.error(&at.field("domain"), format!("must have at most {LONGEST_TEXT} bytes"));
        }
        if global.timeout.is_some_and(|timeout| !TIMEOUTS.contains(&timeout)) {
            self.error(&at.field("timeout"), "must be from 1ms to 10s: each request waits for it");
        }
        let list = at.field("descriptors");
        match global.descriptors.len() {
            0 => self.error(&list, "is missing: the service would be asked about nothing"),
            1..=MOST_LIMITS => {}
            several => self.error(&list, format!("has {several} descriptors, more than the {MOST_LIMITS} that are possible")),
        }
        for (index, descriptor) in global.descriptors.iter().enumerate() {
            self.request_descriptor(descriptor, &list.index(index).field("entries"));
        }
    }

    fn request_descriptor(self, descriptor: &RequestDescriptor, at: &Path<'_>) {
        match descriptor.entries.len() {
            0 => self.error(at, "is missing: a descriptor without entries is none"),
            1..=MOST_ENTRIES => {}
            several => self.error(at, format!("has {several} entries, more than the {MOST_ENTRIES} that are possible")),
        }
        for (index, entry) in descriptor.entries.iter().enumerate() {
            let at = at.index(index);
            self.short_text(&entry.key, &at.field("key"));
            match &entry.value {
                Some(EntryValue::Text(text, counted)) => {
                    self.short_text(text, &at.field("value"));
                    self.counted_requests(counted, &at.field("match"));
                }
                Some(EntryValue::Of(PerKey::Header(name))) => self.limited_header(name, &at.field("header")),
                Some(EntryValue::Of(PerKey::ClientIdentity)) | None => {}
            }
        }
    }

    fn short_text(self, text: &str, at: &Path<'_>) {
        match text.len() {
            0 => self.error(at, "is missing"),
            1..=LONGEST_TEXT => {}
            _ => self.error(at, format!("must have at most {LONGEST_TEXT} bytes")),
        }
    }

    fn rate_limit(self, limit: &RateLimit, at: &Path<'_>) {
        if limit.name.is_empty() {
            self.error(&at.field("name"), "is missing");
        } else if !is_dns_label(&limit.name) {
            self.error(&at.field("name"), format!("must be letters, digits and - (at most 63), is {:?}", limit.name));
        }
        self.counted_requests(&limit.counted, &at.field("match"));
        self.per(&limit.per, &at.field("per"));
        if limit.requests == 0 {
            self.error(&at.field("requests"), "must be at least 1");
        }
        if limit.burst == Some(0) {
            self.error(&at.field("burst"), "must be at least 1");
        }
        if !INTERVALS.contains(&limit.interval) {
            self.error(&at.field("interval"), "must be from 50ms to 24h");
        }
    }

    fn counted_requests(self, counted: &CountedRequests, at: &Path<'_>) {
        if let Some(uri) = &counted.uri {
            let at = at.field("uri");
            self.string_match(uri, &at);
            if let StringMatch::Exact(path) | StringMatch::Prefix(path) = uri
                && !path.starts_with('/')
            {
                self.error(&at, format!("must begin with /, is {path:?}: no request would count"));
            }
        }
        if let Some(method) = &counted.method {
            self.string_match(method, &at.field("method"));
        }
        let headers = at.field("headers");
        if counted.headers.len() > MOST_HEADERS {
            self.error(&headers, format!("has {} headers, more than the {MOST_HEADERS} that are possible", counted.headers.len()));
        }
        for (name, value) in &counted.headers {
            self.limited_header(name, &headers.key(name));
            self.string_match(value, &headers.key(name));
        }
    }

    fn per(self, per: &Per, at: &Path<'_>) {
        if let Some(PerKey::Header(name)) = &per.key {
            self.limited_header(name, &at.field("header"));
        }
        if !VALUES.contains(&per.max_values) {
            self.error(&at.field("maxValues"), format!("must be from {} to {}", VALUES.start(), VALUES.end()));
        }
    }

    fn limited_header(self, name: &SmolStr, at: &Path<'_>) {
        if name != ":authority" && !is_header_name(name) {
            self.error(at, format!("{name:?} is no name of a header"));
        }
    }

    fn rate_limit_target(self, target: &PolicyTarget, at: &Path<'_>) {
        if let Some(selector) = &target.selector {
            self.selector(selector, &at.field("selector").field("matchLabels"));
        }
        let list = at.field("targetRefs");
        for (index, named) in target.refs.iter().enumerate() {
            let at = if target.single { at.field("targetRef") } else { list.index(index) };
            self.limited_target(named, &at);
        }
    }

    fn limited_target(self, named: &TargetRef, at: &Path<'_>) {
        if named.name.is_empty() {
            self.error(&at.field("name"), "is missing");
        }
        if !named.namespace.is_empty() {
            self.error(&at.field("namespace"), "must be left out: a policy names objects of its own namespace");
        }
        let group = if named.group == "core" { "" } else { named.group.as_str() };
        if !POSSIBLE.contains(&(group, named.kind.as_str())) {
            self.error(at, "must be a Service, or a Gateway of networking.istio.io or gateway.networking.k8s.io");
        }
    }
}

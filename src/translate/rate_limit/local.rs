//! `envoy.filters.http.local_ratelimit`: the proxy counts by itself.
//!
//! A filter has a bucket for each value that it has seen lately of what tells requests apart, and one for those without any. Requests
//! that the limit is not for get no descriptor, and without one they meet no bucket.

use envoy_types::pb::envoy::{
    config::{core::v3::RuntimeFractionalPercent, route::v3::RateLimit as RequestDescriptor},
    extensions::{
        common::ratelimit::v3::{LocalRateLimitDescriptor, XRateLimitHeadersRfcVersion, rate_limit_descriptor::Entry},
        filters::http::local_ratelimit::v3::LocalRateLimit,
    },
    r#type::v3::{FractionalPercent, TokenBucket, fractional_percent::DenominatorType},
};

use super::{STATISTICS, action};
use crate::{
    mesh::{model::ObjectKey, rate_limit::RateLimit},
    translate::wkt,
};

/// The key under which a request that counts has the limit's name.
const LIMIT: &str = "limit";
/// The key under which it has what tells it apart.
const VALUE: &str = "value";

/// Returns the filter.
pub(super) fn filter(limit: &RateLimit, object: &ObjectKey) -> LocalRateLimit {
    let bucket = bucket(limit);
    let together = LocalRateLimitDescriptor {
        entries: vec![entry(LIMIT, &limit.name)],
        token_bucket: Some(bucket),
        ..LocalRateLimitDescriptor::default()
    };
    // A value that is left empty stands for any.
    let each = limit.per.key.as_ref().map(|_| LocalRateLimitDescriptor {
        entries: vec![entry(LIMIT, &limit.name), entry(VALUE, "")],
        token_bucket: Some(bucket),
        ..LocalRateLimitDescriptor::default()
    });
    let headers = if limit.headers { XRateLimitHeadersRfcVersion::DraftVersion03 } else { XRateLimitHeadersRfcVersion::Off };
    LocalRateLimit {
        stat_prefix: format!("{STATISTICS}.{}.{}.{}", object.namespace, object.name, limit.name),
        filter_enabled: Some(of_all(true)),
        filter_enforced: Some(of_all(!limit.shadow)),
        max_dynamic_descriptors: each.as_ref().and_then(|_| wkt::uint32(limit.per.max_values)),
        descriptors: each.into_iter().chain([together]).collect(),
        rate_limits: vec![descriptor(limit)],
        enable_x_ratelimit_headers: headers.into(),
        // Clients try again what is merely unavailable.
        rate_limited_as_resource_exhausted: true,
        ..LocalRateLimit::default()
    }
}

fn entry(key: &str, value: &str) -> Entry {
    Entry { key: key.into(), value: value.into() }
}

fn bucket(limit: &RateLimit) -> TokenBucket {
    TokenBucket {
        max_tokens: limit.at_once(),
        tokens_per_fill: wkt::uint32(limit.requests),
        fill_interval: Some(wkt::duration(limit.interval)),
    }
}

/// Returns what a request that counts is described by.
fn descriptor(limit: &RateLimit) -> RequestDescriptor {
    let counts = action::text(LIMIT, &limit.name, &limit.counted);
    let value = limit.per.key.as_ref().map(|key| action::value(VALUE, key));
    RequestDescriptor { actions: [counts].into_iter().chain(value).collect(), ..RequestDescriptor::default() }
}

/// Returns all requests, or none.
fn of_all(all: bool) -> RuntimeFractionalPercent {
    let numerator = if all { 100 } else { 0 };
    let default_value = FractionalPercent { numerator, denominator: DenominatorType::Hundred.into() };
    RuntimeFractionalPercent { default_value: Some(default_value), ..RuntimeFractionalPercent::default() }
}

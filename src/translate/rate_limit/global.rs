//! `envoy.filters.http.ratelimit`: a service counts for all proxies together.

use envoy_types::pb::envoy::{
    config::{
        core::v3::{
            ApiVersion, GrpcService,
            grpc_service::{EnvoyGrpc, TargetSpecifier},
        },
        ratelimit::v3::RateLimitServiceConfig,
        route::v3::RateLimit as Described,
    },
    extensions::filters::http::ratelimit::v3::{RateLimit, rate_limit::XRateLimitHeadersRfcVersion},
};
use smol_str::SmolStr;

use super::action;
use crate::{
    mesh::{
        model::{Hostname, ObjectKey},
        rate_limit::{DescriptorEntry, EntryValue, GlobalRateLimit, RequestDescriptor},
    },
    translate::{naming::outbound_cluster, wkt},
};

/// Returns the cluster of the service.
pub(super) fn cluster(limit: &GlobalRateLimit, host: &Hostname) -> SmolStr {
    outbound_cluster(limit.port, "", host)
}

/// Returns the filter.
pub(super) fn filter(limit: &GlobalRateLimit, host: &Hostname, object: &ObjectKey) -> RateLimit {
    let envoy = EnvoyGrpc { cluster_name: cluster(limit, host).into(), authority: host.to_string(), ..EnvoyGrpc::default() };
    let grpc_service = GrpcService { target_specifier: Some(TargetSpecifier::EnvoyGrpc(envoy)), ..GrpcService::default() };
    let headers = if limit.headers { XRateLimitHeadersRfcVersion::DraftVersion03 } else { XRateLimitHeadersRfcVersion::Off };
    RateLimit {
        domain: limit.domain.to_string(),
        timeout: limit.timeout.map(wkt::duration),
        failure_mode_deny: limit.fail_closed,
        // Clients try again what is merely unavailable.
        rate_limited_as_resource_exhausted: true,
        rate_limit_service: Some(RateLimitServiceConfig { grpc_service: Some(grpc_service), transport_api_version: ApiVersion::V3.into() }),
        enable_x_ratelimit_headers: headers.into(),
        stat_prefix: format!("{}.{}", object.namespace, object.name),
        rate_limits: limit.descriptors.iter().map(described).collect(),
        ..RateLimit::default()
    }
}

fn described(descriptor: &RequestDescriptor) -> Described {
    let entry = |entry: &DescriptorEntry| match entry.value.as_ref()? {
        EntryValue::Text(text, counted) => Some(action::text(&entry.key, text, counted)),
        EntryValue::Of(key) => Some(action::value(&entry.key, key)),
    };
    Described { actions: descriptor.entries.iter().filter_map(entry).collect(), ..Described::default() }
}

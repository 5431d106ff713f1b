//! What filters do on one route: faults and CORS (contract §6.2).

use std::collections::HashMap;

use envoy_types::pb::{
    envoy::{
        config::core::v3::RuntimeFractionalPercent,
        extensions::filters::{
            common::fault::v3::{FaultDelay, fault_delay::FaultDelaySecifier},
            http::{
                cors::v3::CorsPolicy as EnvoyCors,
                fault::v3::{FaultAbort, HttpFault, fault_abort::ErrorType},
            },
        },
        r#type::v3::{FractionalPercent, fractional_percent::DenominatorType},
    },
    google::protobuf::Any,
};

use super::matching;
use crate::{
    mesh::routing::model::{Abort, AbortStatus, CorsPolicy, Delay, Denominator, Fault, HttpRule, Share},
    translate::wkt,
};

/// Returns `typed_per_filter_config` of a route.
pub(super) fn per_route(rule: &HttpRule) -> HashMap<String, Any> {
    let fault = rule.fault.as_ref().map(|policy| ("envoy.filters.http.fault".to_owned(), wkt::any(&fault(policy))));
    let cors = rule.cors.as_ref().map(|policy| ("envoy.filters.http.cors".to_owned(), wkt::any(&cors(policy))));
    fault.into_iter().chain(cors).collect()
}

/// Returns a share as Envoy counts it.
pub(super) fn fractional(share: Share) -> FractionalPercent {
    let denominator = match share.denominator {
        Denominator::Hundred => DenominatorType::Hundred,
        Denominator::Million => DenominatorType::Million,
    };
    FractionalPercent { numerator: share.numerator, denominator: denominator.into() }
}

fn fault(fault: &Fault) -> HttpFault {
    let delay = fault.delay.map(|Delay { duration, share }| FaultDelay {
        percentage: Some(fractional(share)),
        fault_delay_secifier: Some(FaultDelaySecifier::FixedDelay(wkt::duration(duration))),
    });
    let abort = fault.abort.map(|Abort { status, share }| FaultAbort {
        percentage: Some(fractional(share)),
        error_type: Some(match status {
            AbortStatus::Http(status) => ErrorType::HttpStatus(status),
            AbortStatus::Grpc(status) => ErrorType::GrpcStatus(status),
        }),
        ..Default::default()
    });
    HttpFault { delay, abort, ..Default::default() }
}

fn cors(cors: &CorsPolicy) -> EnvoyCors {
    let always = FractionalPercent { numerator: 100, denominator: DenominatorType::Hundred.into() };
    EnvoyCors {
        allow_origin_string_match: cors.allow_origins.iter().filter_map(matching::string_matcher).collect(),
        allow_methods: cors.allow_methods.join(","),
        allow_headers: cors.allow_headers.join(","),
        expose_headers: cors.expose_headers.join(","),
        max_age: cors.max_age.map(|age| age.as_secs().to_string()).unwrap_or_default(),
        allow_credentials: cors.allow_credentials.and_then(wkt::boolean),
        filter_enabled: Some(RuntimeFractionalPercent { default_value: Some(always), ..Default::default() }),
        forward_not_matching_preflights: wkt::boolean(cors.forward_unmatched_preflights),
        ..Default::default()
    }
}

//! Network and HTTP filters of listeners (contract §3.5, §3.8).

pub mod access_log;
pub mod connection_manager;
pub mod http;
pub mod network;
pub mod tracing;
pub mod typed_struct;

use envoy_types::pb::google::protobuf::{BoolValue, Duration as Period, UInt32Value};

/// Where in the mesh a listener stands; filters differ by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Traffic of the sidecar's own application going out.
    Outbound,
    /// Traffic for the sidecar's own application.
    Inbound,
    /// A gateway.
    Gateway,
}

pub(crate) fn wrapped(value: bool) -> Option<BoolValue> {
    Some(BoolValue { value })
}

pub(crate) fn number(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

pub(crate) fn period(duration: std::time::Duration) -> Period {
    Period { seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX), nanos: duration.subsec_nanos().cast_signed() }
}

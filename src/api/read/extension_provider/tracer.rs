//! Reads the providers that spans are sent to.

use smol_str::SmolStr;

use super::server;
use crate::api::{
    extension_provider::{OpenTelemetry, OtelExport, Zipkin},
    read::fields::{Fields, Node, Read},
    validate::added_header,
};

/// Reads `zipkin`.
pub(super) fn zipkin(fields: &Fields<'_>) -> Zipkin {
    let contexts = [("USE_B3", false), ("USE_B3_WITH_W3C_PROPAGATION", true)];
    Zipkin {
        server: server(fields),
        max_tag_length: fields.nonempty("maxTagLength"),
        short_trace_ids: fields.get("enable64bitTraceId"),
        path: path(fields),
        with_w3c: fields.with("traceContextOption", |node| node.one_of(&contexts)).unwrap_or_default(),
        timeout: fields.opt("timeout"),
        headers: headers(fields, "headers"),
    }
}

/// Reads `opentelemetry`.
pub(super) fn open_telemetry(fields: &Fields<'_>) -> OpenTelemetry {
    fields.exclusive(&["http", "grpc"]);
    for name in ["serviceAttributeEnrichment", "dynatraceSampler"] {
        fields.unsupported(name);
    }
    let http = fields.with("http", |node| node.message(http));
    let grpc = fields.with("grpc", |node| node.message(grpc));
    let detects = |fields: &Fields<'_>| ["environment", "dynatrace"].map(|name| fields.with(name, |node| node.message(|_| ())).is_some());
    let [environment_detector, dynatrace_detector] = fields.with("resourceDetectors", |node| node.message(detects)).unwrap_or_default();
    OpenTelemetry {
        server: server(fields),
        max_tag_length: fields.nonempty("maxTagLength"),
        export: http.or(grpc).unwrap_or(OtelExport::Grpc { timeout: None, metadata: Vec::new() }),
        environment_detector,
        dynatrace_detector,
    }
}

fn http(fields: &Fields<'_>) -> OtelExport {
    OtelExport::Http { path: path(fields), timeout: fields.opt("timeout"), headers: headers(fields, "headers") }
}

fn grpc(fields: &Fields<'_>) -> OtelExport {
    OtelExport::Grpc { timeout: fields.opt("timeout"), metadata: headers(fields, "initialMetadata") }
}

fn path(fields: &Fields<'_>) -> SmolStr {
    let path: SmolStr = fields.get("path");
    if path.chars().any(|letter| letter.is_control() || letter == ' ') {
        fields.refuse("path", format!("must be a path, such as /v1/traces, is {path:?}"));
    }
    path
}

fn headers(fields: &Fields<'_>, name: &'static str) -> Vec<(SmolStr, SmolStr)> {
    let read: Vec<Header> = fields.get(name);
    read.into_iter().filter_map(|Header(header)| header).collect()
}

/// Name and value; `None` where the value is not known.
struct Header(Option<(SmolStr, SmolStr)>);

impl Read for Header {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| {
            fields.exclusive(&["value", "envName"]);
            let (name, value): (SmolStr, SmolStr) = (fields.get("name"), fields.get("value"));
            if let Err(why) = added_header(&name, &value) {
                fields.refuse("name", why);
            }
            let is_known = !fields.has("envName");
            fields.unsupported("envName");
            Self(is_known.then_some((name, value)))
        })
    }
}

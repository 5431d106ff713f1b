//! Reads `http[]` of a VirtualService (contract §6.2).

use std::{sync::Arc, time::Duration};

use base64::{
    Engine,
    alphabet::{STANDARD, URL_SAFE},
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use serde_json::Value;
use smol_str::{SmolStr, format_smolstr};

use super::fields::{Fields, Node, Read};
use crate::api::istio::{
    AbortStatus, CorsPolicy, Delegate, Destination, DirectResponse, Fault, HeaderChanges, HeaderOperations, HttpMatch, HttpMirror,
    HttpRoute, Redirect, RedirectCode, RedirectPort, RetryPolicy, Rewrite, Share, StringMatch,
};

impl Read for HttpRoute {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| Self {
            name: fields.get("name"),
            matches: fields.get("match"),
            route: fields.get("route"),
            redirect: fields.opt("redirect"),
            direct_response: fields.opt("directResponse"),
            delegate: fields.opt("delegate"),
            rewrite: fields.opt("rewrite"),
            timeout: fields.opt("timeout"),
            retries: fields.opt("retries"),
            fault: fields.opt("fault"),
            mirrors: mirrors(fields),
            cors: fields.opt("corsPolicy"),
            headers: fields.opt("headers"),
        })
    }
}

/// Reads `mirrors`, or the older `mirror`, whose share is a field beside it.
fn mirrors(fields: &Fields<'_>) -> Vec<HttpMirror> {
    fields.exclusive(&["mirror", "mirrors"]);
    let deprecated = deprecated_percent(fields, "mirrorPercent", "mirrorPercentage");
    let share = fields.with("mirrorPercentage", percentage).or(deprecated).unwrap_or(ALL);
    match fields.opt::<Destination>("mirror") {
        Some(destination) => vec![HttpMirror { field: "mirror".into(), destination, share }],
        None => {
            let written = fields.get::<Vec<HttpMirror>>("mirrors").into_iter().enumerate();
            written.map(|(index, mirror)| HttpMirror { field: format_smolstr!("mirrors[{index}].destination"), ..mirror }).collect()
        }
    }
}

/// Reads a share from the deprecated form of a percentage, a whole number.
fn deprecated_percent(fields: &Fields<'_>, name: &'static str, replacement: &str) -> Option<Share> {
    let percent = fields.opt::<u32>(name)?;
    fields.warn(name, format!("is deprecated: use {replacement}"));
    if percent > 100 {
        fields.refuse(name, format!("must be from 0 to 100, is {percent}"));
    }
    Some(Share { numerator: percent.min(100), of_million: false })
}

const ALL: Share = Share { numerator: 100, of_million: false };
const NONE: Share = Share { numerator: 0, of_million: false };

impl Read for HttpMirror {
    fn read(node: Node<'_>) -> Option<Self> {
        let fields = node.fields()?;
        let destination = fields.opt("destination");
        if destination.is_none() {
            fields.error("destination is missing");
        }
        let share = fields.with("percentage", percentage).unwrap_or(ALL);
        fields.finish();
        Some(Self { field: SmolStr::default(), destination: destination?, share })
    }
}

/// Reads a percentage, which Envoy is given in millionths.
fn percentage(node: Node<'_>) -> Option<Share> {
    let fields = node.fields()?;
    let value: f64 = fields.get("value");
    if !(0.0..=100.0).contains(&value) || (value > 0.0 && value < 0.0001) {
        fields.refuse("value", format!("must be 0 or from 0.0001 to 100, is {value}"));
    }
    fields.finish();
    // The cast saturates, and a value out of range is refused anyway.
    Some(Share { numerator: (value * 10_000.0).clamp(0.0, 1_000_000.0) as u32, of_million: true })
}

impl Read for HttpMatch {
    fn read(node: Node<'_>) -> Option<Self> {
        let fields = node.fields()?;
        let found = Self {
            name: fields.get("name"),
            uri: text_match(&fields, "uri"),
            ignore_uri_case: fields.get("ignoreUriCase"),
            scheme: text_match(&fields, "scheme"),
            method: text_match(&fields, "method"),
            authority: text_match(&fields, "authority"),
            headers: fields.entries("headers"),
            without_headers: fields.entries("withoutHeaders"),
            query_params: fields.entries("queryParams"),
            port: fields.nonempty("port"),
            source_labels: fields.get("sourceLabels"),
            source_namespace: fields.nonempty("sourceNamespace"),
            gateways: fields.get("gateways"),
            stat_prefix: fields.get("statPrefix"),
        };
        fields.finish();
        Some(found)
    }
}

/// Reads a matcher of a text that every request has. An empty one matches anything and counts as absent.
fn text_match(fields: &Fields<'_>, name: &'static str) -> Option<StringMatch> {
    fields.opt(name).filter(|found| *found != StringMatch::Present)
}

impl Read for StringMatch {
    fn read(node: Node<'_>) -> Option<Self> {
        // In YAML an empty matcher is often written `x-user:`, which is null.
        if node.value.is_null() {
            return Some(Self::Present);
        }
        let fields = node.fields()?;
        fields.exclusive(&["exact", "prefix", "regex"]);
        let exact = fields.opt("exact").map(Self::Exact);
        let prefix = fields.opt("prefix").map(Self::Prefix);
        let regex = fields.opt("regex").map(Self::Regex);
        fields.finish();
        Some(exact.or(prefix).or(regex).unwrap_or(Self::Present))
    }
}

impl Read for Redirect {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| {
            fields.exclusive(&["port", "derivePort"]);
            let derived =
                [("FROM_PROTOCOL_DEFAULT", RedirectPort::FromProtocolDefault), ("FROM_REQUEST_PORT", RedirectPort::FromRequestPort)];
            Self {
                uri: fields.get("uri"),
                authority: fields.get("authority"),
                scheme: fields.get("scheme"),
                port: fields.opt("port").map(RedirectPort::Number).or_else(|| fields.with("derivePort", |node| node.one_of(&derived))),
                code: redirect_code(fields).unwrap_or_default(),
            }
        })
    }
}

/// Reads `redirectCode`. There is no value for a code that Envoy cannot redirect with, so that none gets further than this.
fn redirect_code(fields: &Fields<'_>) -> Option<RedirectCode> {
    let found = match fields.opt::<u32>("redirectCode")? {
        0 | 301 => RedirectCode::MovedPermanently,
        302 => RedirectCode::Found,
        303 => RedirectCode::SeeOther,
        307 => RedirectCode::TemporaryRedirect,
        308 => RedirectCode::PermanentRedirect,
        other => {
            fields.refuse("redirectCode", format!("must be 301, 302, 303, 307 or 308, is {other}"));
            return None;
        }
    };
    Some(found)
}

impl Read for DirectResponse {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| Self { status: fields.get("status"), body: fields.with("body", body).unwrap_or_default() })
    }
}

fn body(node: Node<'_>) -> Option<Arc<[u8]>> {
    let fields = node.fields()?;
    fields.exclusive(&["string", "bytes"]);
    let text = fields.opt::<SmolStr>("string").map(|text| Arc::from(text.as_bytes()));
    let bytes = fields.with("bytes", base64);
    fields.finish();
    text.or(bytes)
}

/// Reads base64 as proto3 JSON does: in both alphabets, with or without padding.
fn base64(node: Node<'_>) -> Option<Arc<[u8]>> {
    let Value::String(text) = node.value else {
        node.wrong("base64 text");
        return None;
    };
    let lenient = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let alphabet = if text.contains(['-', '_']) { &URL_SAFE } else { &STANDARD };
    let decoded = GeneralPurpose::new(alphabet, lenient).decode(text);
    if decoded.is_err() {
        node.wrong("base64 text");
    }
    decoded.ok().map(Arc::from)
}

impl Read for Delegate {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| Self { name: fields.get("name"), namespace: fields.get("namespace") })
    }
}

impl Read for Rewrite {
    fn read(node: Node<'_>) -> Option<Self> {
        let fields = node.fields()?;
        let rewrite = Self {
            uri: fields.get("uri"),
            authority: fields.get("authority"),
            uri_regex: fields.with("uriRegexRewrite", |node| {
                let fields = node.fields()?;
                let both = (fields.get("match"), fields.get("rewrite"));
                fields.finish();
                Some(both)
            }),
        };
        fields.finish();
        Some(rewrite)
    }
}

impl Read for RetryPolicy {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| Self {
            attempts: fields.get("attempts"),
            per_try_timeout: fields.opt("perTryTimeout"),
            retry_on: fields.get("retryOn"),
            retry_remote_localities: fields.opt("retryRemoteLocalities"),
            retry_ignore_previous_hosts: fields.opt("retryIgnorePreviousHosts"),
            backoff: fields.opt("backoff"),
        })
    }
}

impl Read for Fault {
    fn read(node: Node<'_>) -> Option<Self> {
        let fields = node.fields()?;
        let fault = Self {
            delay: fields.with("delay", delay),
            abort: fields.with("abort", |node| {
                let fields = node.fields()?;
                fields.exclusive(&["httpStatus", "grpcStatus"]);
                fields.unsupported("http2Error");
                let share = fields.with("percentage", percentage).unwrap_or(NONE);
                let http = fields.opt("httpStatus").map(AbortStatus::Http);
                let grpc = fields.with("grpcStatus", grpc_status).map(AbortStatus::Grpc);
                if !fields.has("httpStatus") && !fields.has("grpcStatus") {
                    fields.error("httpStatus or grpcStatus is missing");
                }
                fields.finish();
                Some((http.or(grpc)?, share))
            }),
        };
        fields.finish();
        Some(fault)
    }
}

fn delay(node: Node<'_>) -> Option<(Duration, Share)> {
    let fields = node.fields()?;
    if fields.has("exponentialDelay") {
        fields.refuse("exponentialDelay", "is not supported (nor is it by Istio): use fixedDelay");
    }
    fields.opt::<Duration>("exponentialDelay");
    let deprecated = deprecated_percent(&fields, "percent", "percentage");
    let share = fields.with("percentage", percentage).or(deprecated).unwrap_or(NONE);
    let fixed = fields.opt("fixedDelay");
    if !fields.has("fixedDelay") {
        fields.error("fixedDelay is missing");
    }
    fields.finish();
    Some((fixed?, share))
}

/// Reads a status code of gRPC by its name or number.
fn grpc_status(node: Node<'_>) -> Option<u32> {
    node.one_of(&[
        ("OK", 0),
        ("CANCELLED", 1),
        ("UNKNOWN", 2),
        ("INVALID_ARGUMENT", 3),
        ("DEADLINE_EXCEEDED", 4),
        ("NOT_FOUND", 5),
        ("ALREADY_EXISTS", 6),
        ("PERMISSION_DENIED", 7),
        ("RESOURCE_EXHAUSTED", 8),
        ("FAILED_PRECONDITION", 9),
        ("ABORTED", 10),
        ("OUT_OF_RANGE", 11),
        ("UNIMPLEMENTED", 12),
        ("INTERNAL", 13),
        ("UNAVAILABLE", 14),
        ("DATA_LOSS", 15),
        ("UNAUTHENTICATED", 16),
    ])
}

impl Read for CorsPolicy {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| {
            let old_origins: Vec<SmolStr> = fields.get("allowOrigin");
            let origins: Vec<StringMatch> = fields.get("allowOrigins");
            let preflights = [("UNSPECIFIED", true), ("FORWARD", true), ("IGNORE", false)];
            Self {
                allow_origins: if origins.is_empty() { old_origins.into_iter().map(StringMatch::Exact).collect() } else { origins },
                allow_methods: fields.get("allowMethods"),
                allow_headers: fields.get("allowHeaders"),
                expose_headers: fields.get("exposeHeaders"),
                max_age: fields.opt("maxAge"),
                allow_credentials: fields.opt("allowCredentials"),
                forward_unmatched_preflights: fields.with("unmatchedPreflights", |node| node.one_of(&preflights)).unwrap_or(true),
            }
        })
    }
}

impl Read for HeaderOperations {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| Self { request: fields.get("request"), response: fields.get("response") })
    }
}

impl Read for HeaderChanges {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| Self { set: fields.entries("set"), add: fields.entries("add"), remove: fields.get("remove") })
    }
}

//! Reads the providers that access logs are written to. Envoy refuses every listener that has a log which it does not understand, so
//! what it would not is refused here.

use serde_json::{Map, Value};
use smol_str::SmolStr;

use super::server;
use crate::api::{
    extension_provider::{FileAccessLog, GrpcAccessLog, LogFormat, OtelAccessLog, StreamKind},
    findings::{Findings, Path},
    read::fields::Fields,
    validate::{is_header_name, log_format},
};

/// Linux's limits, in bytes.
const LONGEST_PATH: usize = 4096;
const LONGEST_FILE_NAME: usize = 255;
/// How deep objects and lists may stand in each other in a format.
pub(in crate::api::read) const DEEPEST: usize = 16;
/// Files that every proxy can open, whatever its container looks like.
const STREAMS: [&str; 4] = ["/dev/stdout", "/dev/stderr", "/dev/null", "/dev/fd/1"];

/// Reads `envoyFileAccessLog`.
pub(super) fn file(fields: &Fields<'_>) -> FileAccessLog {
    let path: SmolStr = fields.get("path");
    if let Err(why) = log_path(&path) {
        fields.refuse("path", why);
    } else if !is_stream(&path) {
        fields.warn("path", UNSURE);
    }
    let format = fields.with("logFormat", |node| node.message(file_format)).flatten();
    FileAccessLog { path, format, omit_empty_values: fields.get("omitEmptyValues") }
}

/// What is said of a file that a proxy may be unable to open.
pub(in crate::api::read) const UNSURE: &str = "is a file that must be writable in the container of every proxy that logs to it: where its \
                                               folder is missing, Envoy refuses the listeners that log there (/dev/stdout is always there)";

/// Returns whether every proxy can open the file.
pub(in crate::api::read) fn is_stream(path: &str) -> bool {
    path.is_empty() || STREAMS.contains(&path)
}

/// Checks the path of a log.
pub(in crate::api::read) fn log_path(path: &str) -> Result<(), &'static str> {
    let fits = path.len() < LONGEST_PATH && path.split('/').all(|name| name.len() <= LONGEST_FILE_NAME);
    let is_path = fits && !path.chars().any(char::is_control);
    if is_path { Ok(()) } else { Err("must be the path of a file, such as /dev/stdout") }
}

fn file_format(fields: &Fields<'_>) -> Option<LogFormat> {
    fields.exclusive(&["text", "labels"]);
    let text = fields.opt("text").map(|text: SmolStr| {
        check_text(fields, "text", &text);
        LogFormat::Text(text)
    });
    text.or_else(|| labels(fields).map(LogFormat::Json))
}

/// Reads `labels`, a JSON object whose texts are formats.
fn labels(fields: &Fields<'_>) -> Option<Map<String, Value>> {
    fields.with("labels", |node| {
        let Value::Object(labels) = node.value else {
            node.wrong("a map");
            return None;
        };
        check_json(node.value, &node.path, node.findings, DEEPEST);
        Some(labels.clone())
    })
}

/// Checks each text in a JSON value.
pub(in crate::api::read) fn check_json(value: &Value, at: &Path<'_>, findings: &Findings, depth: usize) {
    match value {
        Value::Object(_) | Value::Array(_) if depth == 0 => {
            findings.error(at, format!("has more than {DEEPEST} objects or lists within each other"));
        }
        Value::Object(fields) => fields.iter().for_each(|(key, value)| check_json(value, &at.key(key), findings, depth - 1)),
        Value::Array(values) => {
            values.iter().enumerate().for_each(|(index, value)| check_json(value, &at.index(index), findings, depth - 1))
        }
        Value::String(text) => {
            if let Err(why) = log_format(text) {
                findings.error(at, why);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn check_text(fields: &Fields<'_>, name: &str, text: &str) {
    if let Err(why) = log_format(text) {
        fields.refuse(name, why);
    }
}

/// Reads `envoyHttpAls`.
pub(super) fn http_stream(fields: &Fields<'_>) -> GrpcAccessLog {
    let headers = |name| {
        let names: Vec<SmolStr> = fields.get(name);
        if let Some(wrong) = names.iter().find(|header| !is_header_name(header.strip_prefix(':').unwrap_or(header))) {
            fields.refuse(name, format!("{wrong:?} is no name of a header"));
        }
        names
    };
    let kind = StreamKind::Http {
        request_headers: headers("additionalRequestHeadersToLog"),
        response_headers: headers("additionalResponseHeadersToLog"),
        response_trailers: headers("additionalResponseTrailersToLog"),
    };
    stream(fields, kind)
}

/// Reads `envoyTcpAls`.
pub(super) fn tcp_stream(fields: &Fields<'_>) -> GrpcAccessLog {
    stream(fields, StreamKind::Tcp)
}

fn stream(fields: &Fields<'_>, kind: StreamKind) -> GrpcAccessLog {
    let filter_state = fields.get("filterStateObjectsToLog");
    GrpcAccessLog { kind, server: server(fields), log_name: fields.get("logName"), filter_state }
}

/// Reads `envoyOtelAls`.
pub(super) fn otel(fields: &Fields<'_>) -> OtelAccessLog {
    let (text, labels) = fields.with("logFormat", |node| node.message(otel_format)).unwrap_or_default();
    OtelAccessLog { server: server(fields), log_name: fields.get("logName"), text, labels }
}

fn otel_format(fields: &Fields<'_>) -> (SmolStr, Vec<(SmolStr, SmolStr)>) {
    let text: SmolStr = fields.get("text");
    check_text(fields, "text", &text);
    let labels = labels(fields).unwrap_or_default();
    if let Some((name, _)) = labels.iter().find(|(_, value)| !value.is_string()) {
        fields.warn("labels", format!("{name:?} is no text: the attribute is empty"));
    }
    let mut attributes: Vec<(SmolStr, SmolStr)> =
        labels.iter().map(|(name, value)| (name.into(), value.as_str().unwrap_or_default().into())).collect();
    attributes.sort_unstable();
    (text, attributes)
}

//! Checks the values of headers, in which `%…%` is a command to Envoy: it refuses a whole route table for one that it does
//! not know, or whose parameters do not fit.

use super::{
    Check, cel,
    text::{LONGEST_HEADER, is_header_name},
};
use crate::api::findings::Path;

impl Check<'_> {
    pub(super) fn header_value(self, value: &str, at: &Path<'_>) {
        if value.bytes().any(|byte| (byte < b' ' && byte != b'\t') || byte == 0x7f) {
            self.error(at, "has control characters");
        } else if value.len() > LONGEST_HEADER {
            self.error(at, format!("has {} bytes, more than the {LONGEST_HEADER} that are possible", value.len()));
        } else if let Err(why) = check(value) {
            self.error(at, why);
        }
    }
}

/// Checks a text in which `%…%` is a command.
pub(super) fn check(value: &str) -> Result<(), String> {
    commands(value, &[])
}

/// Checks the format of an access log, which may have a command more: Istio adds the formatter for it.
pub(super) fn check_log(format: &str) -> Result<(), String> {
    commands(format, &["REQ_WITHOUT_QUERY"])
}

fn commands(text: &str, more: &[&str]) -> Result<(), String> {
    let mut rest = text;
    while let Some((_, after)) = rest.split_once('%') {
        rest = match after.strip_prefix('%') {
            Some(after) => after,
            None => command(after, more)?,
        };
    }
    Ok(())
}

/// Checks the command that stands here, `NAME%`, `NAME(parameter)%` or `NAME(parameter):3%`, and returns what comes after it.
/// `more` are commands that take a parameter, beside those that there are everywhere.
fn command<'t>(text: &'t str, more: &[&str]) -> Result<&'t str, String> {
    let no_command = || "has a % that starts no command: a plain percent sign is written %%".to_owned();
    let length = text.find(|letter: char| !(letter.is_ascii_uppercase() || letter.is_ascii_digit() || letter == '_')).unwrap_or(text.len());
    let (name, after) = text.split_at(length);
    if name.is_empty() {
        return Err(no_command());
    }
    let (parameter, after) = match after.strip_prefix('(') {
        Some(inner) => closed(inner).map(|(parameter, after)| (Some(parameter), after)).ok_or_else(no_command)?,
        None => (None, after),
    };
    let (limit, after) = after.split_once('%').ok_or_else(no_command)?;
    let parameterized = WITH_PARAMETER.contains(&name) || more.contains(&name);
    match parameter {
        _ if !parameterized && !WITHOUT_PARAMETER.contains(&name) && !EITHER_WAY.contains(&name) => {
            return Err(format!("Envoy knows no command %{name}%; a plain percent sign is written %%"));
        }
        None | Some("") if parameterized => return Err(format!("%{name}% needs a parameter, as in %{name}(x)%")),
        Some(_) if WITHOUT_PARAMETER.contains(&name) => return Err(format!("%{name}% takes no parameter")),
        Some(parameter) if !fits(name, parameter) => return Err(format!("%{name}% does not understand {parameter:?}")),
        _ => {}
    }
    // At most so many characters.
    match limit.strip_prefix(':') {
        Some(number) if parameterized && number.parse::<u32>().is_ok() => Ok(after),
        None if limit.is_empty() => Ok(after),
        _ => Err(format!("%{name}% takes no {limit:?}")),
    }
}

/// Returns the parameter up to the first bracket that ends the command, and what comes after that bracket.
fn closed(inner: &str) -> Option<(&str, &str)> {
    let ends = |after: &str| {
        after.strip_prefix(':').map_or(after, |limit| limit.trim_start_matches(|digit: char| digit.is_ascii_digit())).starts_with('%')
    };
    let brackets = inner.match_indices(')').map(|(at, _)| (&inner[..at], &inner[at + 1..]));
    brackets.into_iter().find(|(_, after)| ends(after))
}

fn fits(name: &str, parameter: &str) -> bool {
    match name {
        // A header, and perhaps another one that stands in for it.
        "REQ" | "REQ_WITHOUT_QUERY" | "RESP" | "TRAILER" | "REQUEST_HEADER" | "RESPONSE_HEADER" | "RESPONSE_TRAILER" => {
            let is_name = |name: &str| name.is_empty() || is_header_name(name.strip_prefix(':').unwrap_or(name));
            parameter.matches('?').count() <= 1 && parameter.split('?').all(is_name)
        }
        "PATH" => parameter == "WQ" || parameter == "NQ",
        "REQUESTED_SERVER_NAME" => ["SNI_ONLY", "SNI_FIRST", "HOST_FIRST"].contains(&parameter),
        "GRPC_STATUS" => ["CAMEL_STRING", "SNAKE_STRING", "NUMBER"].contains(&parameter),
        "METADATA" => METADATA.contains(&parameter.split(':').next().unwrap_or_default()),
        "COMMON_DURATION" => {
            let parts: Vec<&str> = parameter.split(':').collect();
            matches!(parts[..], [from, to, "ms" | "us" | "ns"] if !from.is_empty() && !to.is_empty())
        }
        "CEL" => cel::check(parameter).is_ok(),
        "FILTER_STATE" | "UPSTREAM_FILTER_STATE" => match parameter.split_once(':') {
            Some((_, form)) => matches!(form, "PLAIN" | "TYPED") || form.strip_prefix("FIELD:").is_some_and(|field| !field.is_empty()),
            None => true,
        },
        _ => true,
    }
}

const METADATA: &[&str] = &["CLUSTER", "DYNAMIC", "LISTENER", "LISTENER_FILTER_CHAIN", "ROUTE", "UPSTREAM_HOST", "VIRTUAL_HOST"];
const WITH_PARAMETER: &[&str] = &[
    "CEL",
    "CLUSTER_METADATA",
    "COMMON_DURATION",
    "DYNAMIC_METADATA",
    "ENVIRONMENT",
    "FILTER_STATE",
    "METADATA",
    "PER_REQUEST_STATE",
    "QUERY_PARAM",
    "REQ",
    "REQUEST_HEADER",
    "RESP",
    "RESPONSE_HEADER",
    "RESPONSE_TRAILER",
    "TRAILER",
    "UPSTREAM_FILTER_STATE",
    "UPSTREAM_METADATA",
];
const EITHER_WAY: &[&str] = &[
    "DOWNSTREAM_DIRECT_LOCAL_ADDRESS_WITHOUT_PORT",
    "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT",
    "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
    "DOWNSTREAM_PEER_CERT_V_END",
    "DOWNSTREAM_PEER_CERT_V_START",
    "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
    "EMIT_TIME",
    "EMIT_TIME_LOCAL",
    "GRPC_STATUS",
    "PATH",
    "REQUESTED_SERVER_NAME",
    "RESPONSE_CODE_DETAILS",
    "START_TIME",
    "START_TIME_LOCAL",
    "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
    "UPSTREAM_PEER_CERT_V_END",
    "UPSTREAM_PEER_CERT_V_START",
    "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
];
const WITHOUT_PARAMETER: &[&str] = &[
    "ACCESS_LOG_TYPE",
    "BYTES_RECEIVED",
    "BYTES_RETRANSMITTED",
    "BYTES_SENT",
    "CONNECTION_ID",
    "CONNECTION_TERMINATION_DETAILS",
    "CUSTOM_FLAGS",
    "DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED",
    "DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_SENT",
    "DOWNSTREAM_DETECTED_CLOSE_TYPE",
    "DOWNSTREAM_DIRECT_LOCAL_ADDRESS",
    "DOWNSTREAM_DIRECT_LOCAL_PORT",
    "DOWNSTREAM_DIRECT_REMOTE_ADDRESS",
    "DOWNSTREAM_DIRECT_REMOTE_PORT",
    "DOWNSTREAM_HANDSHAKE_DURATION",
    "DOWNSTREAM_HEADER_BYTES_RECEIVED",
    "DOWNSTREAM_HEADER_BYTES_SENT",
    "DOWNSTREAM_LOCAL_ADDRESS",
    "DOWNSTREAM_LOCAL_ADDRESS_ENDPOINT_ID",
    "DOWNSTREAM_LOCAL_CLOSE_REASON",
    "DOWNSTREAM_LOCAL_DNS_SAN",
    "DOWNSTREAM_LOCAL_EMAIL_SAN",
    "DOWNSTREAM_LOCAL_IP_SAN",
    "DOWNSTREAM_LOCAL_OTHERNAME_SAN",
    "DOWNSTREAM_LOCAL_PORT",
    "DOWNSTREAM_LOCAL_SUBJECT",
    "DOWNSTREAM_LOCAL_URI_SAN",
    "DOWNSTREAM_PEER_CERT",
    "DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_1",
    "DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_256",
    "DOWNSTREAM_PEER_CHAIN_SERIALS",
    "DOWNSTREAM_PEER_DNS_SAN",
    "DOWNSTREAM_PEER_EMAIL_SAN",
    "DOWNSTREAM_PEER_FINGERPRINT_1",
    "DOWNSTREAM_PEER_FINGERPRINT_256",
    "DOWNSTREAM_PEER_IP_SAN",
    "DOWNSTREAM_PEER_ISSUER",
    "DOWNSTREAM_PEER_OTHERNAME_SAN",
    "DOWNSTREAM_PEER_SERIAL",
    "DOWNSTREAM_PEER_SUBJECT",
    "DOWNSTREAM_PEER_URI_SAN",
    "DOWNSTREAM_REMOTE_ADDRESS",
    "DOWNSTREAM_REMOTE_PORT",
    "DOWNSTREAM_TLS_CIPHER",
    "DOWNSTREAM_TLS_SESSION_ID",
    "DOWNSTREAM_TLS_VERSION",
    "DOWNSTREAM_TRANSPORT_FAILURE_REASON",
    "DOWNSTREAM_WIRE_BYTES_RECEIVED",
    "DOWNSTREAM_WIRE_BYTES_SENT",
    "DURATION",
    "FILTER_CHAIN_NAME",
    "GRPC_STATUS_NUMBER",
    "HOSTNAME",
    "LOCAL_REPLY_BODY",
    "PACKETS_RETRANSMITTED",
    "PROTOCOL",
    "QUERY_PARAMS",
    "REQUEST_DURATION",
    "REQUEST_HEADERS_BYTES",
    "REQUEST_TX_DURATION",
    "RESPONSE_CODE",
    "RESPONSE_DURATION",
    "RESPONSE_FLAGS",
    "RESPONSE_FLAGS_LONG",
    "RESPONSE_HEADERS_BYTES",
    "RESPONSE_TRAILERS_BYTES",
    "RESPONSE_TX_DURATION",
    "ROUNDTRIP_DURATION",
    "ROUTE_NAME",
    "SPAN_ID",
    "STREAM_ID",
    "TLS_JA3_FINGERPRINT",
    "TLS_JA4_FINGERPRINT",
    "TRACE_ID",
    "UNIQUE_ID",
    "UPSTREAM_CLUSTER",
    "UPSTREAM_CLUSTER_RAW",
    "UPSTREAM_CONNECTION_ID",
    "UPSTREAM_CONNECTION_IDS_ATTEMPTED",
    "UPSTREAM_CONNECTION_POOL_READY_DURATION",
    "UPSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED",
    "UPSTREAM_DECOMPRESSED_HEADER_BYTES_SENT",
    "UPSTREAM_DETECTED_CLOSE_TYPE",
    "UPSTREAM_HEADER_BYTES_RECEIVED",
    "UPSTREAM_HEADER_BYTES_SENT",
    "UPSTREAM_HOST",
    "UPSTREAM_HOSTS_ATTEMPTED",
    "UPSTREAM_HOSTS_ATTEMPTED_WITHOUT_PORT",
    "UPSTREAM_HOST_NAME",
    "UPSTREAM_HOST_NAMES_ATTEMPTED",
    "UPSTREAM_HOST_NAME_WITHOUT_PORT",
    "UPSTREAM_LOCAL_ADDRESS",
    "UPSTREAM_LOCAL_CLOSE_REASON",
    "UPSTREAM_LOCAL_DNS_SAN",
    "UPSTREAM_LOCAL_IP_SAN",
    "UPSTREAM_LOCAL_PORT",
    "UPSTREAM_LOCAL_URI_SAN",
    "UPSTREAM_PEER_CERT",
    "UPSTREAM_PEER_DNS_SAN",
    "UPSTREAM_PEER_IP_SAN",
    "UPSTREAM_PEER_ISSUER",
    "UPSTREAM_PEER_SUBJECT",
    "UPSTREAM_PEER_URI_SAN",
    "UPSTREAM_PROTOCOL",
    "UPSTREAM_REMOTE_ADDRESS",
    "UPSTREAM_REMOTE_PORT",
    "UPSTREAM_REQUEST_ATTEMPT_COUNT",
    "UPSTREAM_TLS_CIPHER",
    "UPSTREAM_TLS_SESSION_ID",
    "UPSTREAM_TLS_VERSION",
    "UPSTREAM_TRANSPORT_FAILURE_REASON",
    "UPSTREAM_WIRE_BYTES_RECEIVED",
    "UPSTREAM_WIRE_BYTES_SENT",
    "VIRTUAL_CLUSTER_NAME",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_signs_start_commands_that_envoy_knows() {
        for good in [
            "",
            "plain",
            "100%%",
            "%HOSTNAME%",
            "a %REQ(x-y?z):10% b",
            "%START_TIME(%s)%",
            "%DOWNSTREAM_PEER_URI_SAN%",
            "%REQ(:path)%",
            "%RESP(?a)%",
            "%PATH(WQ)%",
            "%PATH%",
            "%METADATA(ROUTE:a)%",
            "%COMMON_DURATION(A:B:ms)%",
            "%CEL(request.headers['x-a'])%",
            "%CEL(xds.node.metadata['a.b']['c'])%",
            "%CEL(request.headers['x-a'] == 'b' ? xds.node.id : '')%",
            "%CEL(request.path.contains('a') ? '(' : ')')%",
            "%GRPC_STATUS%",
            "%GRPC_STATUS(NUMBER)%",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in [
            "%",
            "abc%123",
            "%START_TIME%%",
            "%REQ(x",
            "%req%",
            "50% off",
            "%NOPE%",
            "%REQ%",
            "%REQ()%",
            "%REQ(a?b?c)%",
            "%REQ(a b)%",
            "%RESP(a?b/c)%",
            "%PATH(x)%",
            "%METADATA(NOPE)%",
            "%COMMON_DURATION(A:B:s)%",
            "%CEL(a b)%",
            "%CEL(request.path +)%",
            "%CEL(request.path == 'b'' ? xds.node : '')%",
            "%CEL(request.headers['a'b'])%",
            "%REQ(x):%",
            "%REQ(x):99999999999%",
            "%HOSTNAME(x)%",
            "%PROTOCOL:3%",
            "%FILTER_STATE(x:NOPE)%",
            "%DYNAMIC_METADATA%",
            "%GRPC_STATUS(x)%",
            "%REQ_WITHOUT_QUERY(:path)%",
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn logs_may_leave_queries_out() {
        assert_eq!(check_log("%REQ_WITHOUT_QUERY(x-path?:path):80% %PROTOCOL%"), Ok(()));
        for bad in ["%REQ_WITHOUT_QUERY%", "%REQ_WITHOUT_QUERY(a?b?c)%", "%NOPE%"] {
            assert!(check_log(bad).is_err(), "{bad}");
        }
    }
}

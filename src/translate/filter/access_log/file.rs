//! Access logs that are written to files, mostly to standard output.

use envoy_types::pb::{
    envoy::{
        config::core::v3::{
            DataSource, JsonFormatOptions, SubstitutionFormatString, TypedExtensionConfig, data_source, substitution_format_string::Format,
        },
        extensions::{
            access_loggers::file::v3::FileAccessLog as Message, access_loggers::file::v3::file_access_log::AccessLogFormat,
            formatter::req_without_query::v3::ReqWithoutQuery,
        },
    },
    google::protobuf::Any,
};
use prost::{Message as _, Name};
use serde_json::{Map, Value};

use crate::{
    mesh::providers::{FileAccessLog, LogFormat},
    translate::{
        wire,
        wkt::{self, typed_struct::encode_json},
    },
};

pub(super) const TEXT_FORMAT: &str = concat!(
    r#"[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE% %RESPONSE_FLAGS% "#,
    r#"%RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% "%UPSTREAM_TRANSPORT_FAILURE_REASON%" "#,
    r#"%BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "%REQ(X-FORWARDED-FOR)%" "#,
    r#""%REQ(USER-AGENT)%" "%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%" %UPSTREAM_CLUSTER_RAW% "#,
    "%UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% ",
    "%ROUTE_NAME%\n",
);

const JSON_FORMAT: [(&str, &str); 24] = [
    ("authority", "%REQ(:AUTHORITY)%"),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("connection_termination_details", "%CONNECTION_TERMINATION_DETAILS%"),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("duration", "%DURATION%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("route_name", "%ROUTE_NAME%"),
    ("start_time", "%START_TIME%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER_RAW%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("upstream_local_address", "%UPSTREAM_LOCAL_ADDRESS%"),
    ("upstream_service_time", "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%"),
    ("upstream_transport_failure_reason", "%UPSTREAM_TRANSPORT_FAILURE_REASON%"),
    ("user_agent", "%REQ(USER-AGENT)%"),
    ("x_forwarded_for", "%REQ(X-FORWARDED-FOR)%"),
];

/// The command that Envoy knows only beside a formatter for it.
const WITHOUT_QUERY: &str = "%REQ_WITHOUT_QUERY";

/// Returns the configuration of the logger.
pub(super) fn config(log: &FileAccessLog) -> Any {
    let path = if log.path.is_empty() { "/dev/stdout".to_owned() } else { log.path.to_string() };
    let value = match &log.format {
        None => text_file(path, TEXT_FORMAT.to_owned(), log.omit_empty_values),
        Some(LogFormat::Text(written)) => text_file(path, text(written), log.omit_empty_values),
        Some(LogFormat::Json(keys)) => json_file(path, keys, log.omit_empty_values),
    };
    Any { type_url: Message::type_url(), value }
}

/// Returns the formatters that a format needs which has these texts.
pub(super) fn formatters<'t>(mut texts: impl Iterator<Item = &'t str>) -> Vec<TypedExtensionConfig> {
    let formatter = || TypedExtensionConfig {
        name: "envoy.formatter.req_without_query".into(),
        typed_config: Some(wkt::any(&ReqWithoutQuery::default())),
    };
    texts.any(|text| text.contains(WITHOUT_QUERY)).then(formatter).into_iter().collect()
}

/// Returns a text as a line: of an empty one Istio's.
fn text(written: &str) -> String {
    match written {
        "" => TEXT_FORMAT.to_owned(),
        line if line.ends_with('\n') => line.to_owned(),
        line => format!("{line}\n"),
    }
}

fn text_file(path: String, text: String, omit_empty_values: bool) -> Vec<u8> {
    let formatters = formatters([text.as_str()].into_iter());
    let source = DataSource { specifier: Some(data_source::Specifier::InlineString(text)), ..DataSource::default() };
    let format = Some(Format::TextFormatSource(source));
    let format = SubstitutionFormatString { format, omit_empty_values, formatters, ..SubstitutionFormatString::default() };
    Message { path, access_log_format: Some(AccessLogFormat::LogFormat(format)) }.encode_to_vec()
}

fn json_file(path: String, keys: &Map<String, Value>, omit_empty_values: bool) -> Vec<u8> {
    let usual = || JSON_FORMAT.iter().map(|(key, value)| ((*key).to_owned(), Value::from(*value))).collect();
    let keys = if keys.is_empty() { &usual() } else { keys };
    let mut texts = Vec::new();
    keys.values().for_each(|value| collect_texts(value, &mut texts));
    let mut format = SubstitutionFormatString {
        json_format_options: Some(JsonFormatOptions::default()),
        omit_empty_values,
        formatters: formatters(texts.into_iter()),
        ..SubstitutionFormatString::default()
    }
    .encode_to_vec();
    // `json_format` is a map, which must be encoded in a fixed order.
    wire::message(&mut format, 2, &encode_json(keys));
    let mut file = Message { path, access_log_format: None }.encode_to_vec();
    wire::message(&mut file, 5, &format);
    file
}

// Formats are checked to be no deeper than a few levels.
fn collect_texts<'v>(value: &'v Value, texts: &mut Vec<&'v str>) {
    match value {
        Value::String(text) => texts.push(text),
        Value::Array(values) => values.iter().for_each(|value| collect_texts(value, texts)),
        Value::Object(fields) => fields.values().for_each(|value| collect_texts(value, texts)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(format: Option<LogFormat>) -> SubstitutionFormatString {
        let any = config(&FileAccessLog { path: "".into(), format, omit_empty_values: true });
        let file = Message::decode(any.value.as_slice()).unwrap();
        assert_eq!(file.path, "/dev/stdout");
        let Some(AccessLogFormat::LogFormat(format)) = file.access_log_format else { panic!("no format") };
        assert!(format.omit_empty_values);
        format
    }

    fn text_of(format: Option<LogFormat>) -> String {
        let Some(Format::TextFormatSource(source)) = decoded(format).format else { panic!("not text") };
        let Some(data_source::Specifier::InlineString(text)) = source.specifier else { panic!("not inline") };
        text
    }

    #[test]
    fn a_text_ends_with_one_line_break() {
        let written = |text: &str| text_of(Some(LogFormat::Text(text.into())));
        assert_eq!(written("%PROTOCOL%"), "%PROTOCOL%\n");
        assert_eq!(written("%PROTOCOL%\n"), "%PROTOCOL%\n");
        assert_eq!((written(""), text_of(None)), (TEXT_FORMAT.to_owned(), TEXT_FORMAT.to_owned()));
    }

    #[test]
    fn json_has_the_keys_of_the_user_or_istios() {
        let keys = |json: serde_json::Value| {
            let serde_json::Value::Object(keys) = json else { panic!("{json}") };
            let Some(Format::JsonFormat(json)) = decoded(Some(LogFormat::Json(keys))).format else { panic!("not JSON") };
            json.fields
        };
        assert_eq!(keys(serde_json::json!({})).len(), 24);
        let own = keys(serde_json::json!({"a": "%PROTOCOL%", "b": {"c": [1, true, null]}}));
        let mut names: Vec<&str> = own.keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["a", "b"]);
    }

    #[test]
    fn the_formatter_is_there_where_it_is_needed() {
        let formatters = |format: LogFormat| decoded(Some(format)).formatters.len();
        assert_eq!(formatters(LogFormat::Text("%REQ_WITHOUT_QUERY(:path)%".into())), 1);
        assert_eq!(formatters(LogFormat::Text("%REQ(:path)%".into())), 0);
        let nested = serde_json::json!({"a": {"b": ["%REQ_WITHOUT_QUERY(:path)%"]}});
        assert_eq!(formatters(LogFormat::Json(nested.as_object().cloned().unwrap())), 1);
    }
}

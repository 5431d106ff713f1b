//! Access logs as MeshConfig asks for them (contract §7 `accessLogFile`, `accessLogFormat`, `accessLogEncoding`).

use envoy_types::pb::{
    envoy::{
        config::{
            accesslog::v3::{AccessLog, AccessLogFilter, ResponseFlagFilter, access_log, access_log_filter::FilterSpecifier},
            core::v3::{DataSource, JsonFormatOptions, SubstitutionFormatString, data_source, substitution_format_string},
        },
        extensions::access_loggers::file::v3::{FileAccessLog, file_access_log::AccessLogFormat},
    },
    google::protobuf::Any,
};
use prost::{Message, Name};

use crate::{
    mesh::settings::{AccessLog as Settings, AccessLogFormat as Format, MeshSettings},
    translate::{
        wire,
        wkt::typed_struct::{Value, encode_struct},
    },
};

const TEXT_FORMAT: &str = concat!(
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

/// Returns the logs of requests and connections.
pub fn access_log(mesh: &MeshSettings) -> Vec<AccessLog> {
    log(mesh, None)
}

/// Returns the logs of a whole listener: only connections for which there is no filter chain.
pub fn listener_access_log(mesh: &MeshSettings) -> Vec<AccessLog> {
    let no_route = ResponseFlagFilter { flags: vec!["NR".into()] };
    log(mesh, Some(AccessLogFilter { filter_specifier: Some(FilterSpecifier::ResponseFlagFilter(no_route)) }))
}

fn log(mesh: &MeshSettings, filter: Option<AccessLogFilter>) -> Vec<AccessLog> {
    let entry = |settings: &Settings| AccessLog {
        name: "envoy.access_loggers.file".into(),
        filter,
        config_type: Some(access_log::ConfigType::TypedConfig(Any { type_url: FileAccessLog::type_url(), value: file(settings) })),
    };
    mesh.access_log.as_ref().map(entry).into_iter().collect()
}

fn file(settings: &Settings) -> Vec<u8> {
    match &settings.format {
        Format::Default => text_file(&settings.file, TEXT_FORMAT.to_owned()),
        Format::Text(written) if written.ends_with('\n') => text_file(&settings.file, written.to_string()),
        Format::Text(written) => text_file(&settings.file, format!("{written}\n")),
        Format::Json => json_file(&settings.file),
    }
}

fn text_file(path: &str, format: String) -> Vec<u8> {
    let source = DataSource { specifier: Some(data_source::Specifier::InlineString(format)), ..Default::default() };
    let format = Some(substitution_format_string::Format::TextFormatSource(source));
    let format = SubstitutionFormatString { format, ..Default::default() };
    FileAccessLog { path: path.to_owned(), access_log_format: Some(AccessLogFormat::LogFormat(format)) }.encode_to_vec()
}

fn json_file(path: &str) -> Vec<u8> {
    let fields = JSON_FORMAT.iter().map(|(key, value)| (*key, Value::Text((*value).to_owned()))).collect();
    let mut format =
        SubstitutionFormatString { json_format_options: Some(JsonFormatOptions::default()), ..Default::default() }.encode_to_vec();
    // `json_format` is a map, which must be encoded in a fixed order.
    wire::message(&mut format, 2, &encode_struct(fields));
    let mut file = FileAccessLog { path: path.to_owned(), access_log_format: None }.encode_to_vec();
    wire::message(&mut file, 5, &format);
    file
}

#[cfg(test)]
mod tests {
    use substitution_format_string::Format as Written;

    use super::*;

    fn logging(format: Format) -> MeshSettings {
        MeshSettings { access_log: Some(Settings { file: "/dev/stdout".into(), format }), ..MeshSettings::default() }
    }

    fn decoded(mesh: &MeshSettings) -> SubstitutionFormatString {
        let logs = access_log(mesh);
        let Some(access_log::ConfigType::TypedConfig(any)) = &logs[0].config_type else { panic!("no configuration") };
        let file = FileAccessLog::decode(any.value.as_slice()).unwrap();
        assert_eq!(file.path, "/dev/stdout");
        let Some(AccessLogFormat::LogFormat(format)) = file.access_log_format else { panic!("no format") };
        format
    }

    fn text(mesh: &MeshSettings) -> String {
        let Some(Written::TextFormatSource(source)) = decoded(mesh).format else { panic!("not text") };
        let Some(data_source::Specifier::InlineString(text)) = source.specifier else { panic!("not inline") };
        text
    }

    #[test]
    fn there_is_a_log_only_where_the_mesh_asks_for_one() {
        assert!(access_log(&MeshSettings::default()).is_empty());
        let text = text(&logging(Format::Default));
        assert!(text.starts_with("[%START_TIME%] \"%REQ(:METHOD)%") && text.ends_with("%ROUTE_NAME%\n"), "{text}");
    }

    #[test]
    fn a_text_ends_with_one_line_break() {
        assert_eq!(text(&logging(Format::Text("%PROTOCOL%".into()))), "%PROTOCOL%\n");
        assert_eq!(text(&logging(Format::Text("%PROTOCOL%\n".into()))), "%PROTOCOL%\n");
    }

    #[test]
    fn json_logs_have_all_keys_in_a_fixed_order() {
        let mesh = logging(Format::Json);
        let Some(Written::JsonFormat(json)) = decoded(&mesh).format else { panic!("not JSON") };
        assert_eq!(json.fields.len(), 24);
        assert_eq!(json_file("/dev/stdout"), json_file("/dev/stdout"));
    }
}

//! Names of HTTP/1 headers as they were written, which Envoy otherwise makes lower case.

use envoy_types::pb::envoy::{
    config::core::v3::{
        TypedExtensionConfig,
        http1_protocol_options::{HeaderKeyFormat, header_key_format::HeaderFormat},
    },
    extensions::http::header_formatters::preserve_case::v3::PreserveCaseFormatterConfig,
};

use super::wkt;

/// Returns the format that remembers how each name was written.
pub(super) fn preserving_case() -> HeaderKeyFormat {
    let formatter =
        TypedExtensionConfig { name: "preserve_case".into(), typed_config: Some(wkt::any(&PreserveCaseFormatterConfig::default())) };
    HeaderKeyFormat { header_format: Some(HeaderFormat::StatefulFormatter(formatter)) }
}

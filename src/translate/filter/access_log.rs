//! Access logs (contract §6.8, §7).

mod file;
mod service;

use envoy_types::pb::{
    envoy::{
        config::accesslog::v3::{
            AccessLog, AccessLogFilter, AndFilter, ExtensionFilter, ResponseFlagFilter, access_log, access_log_filter::FilterSpecifier,
            extension_filter,
        },
        extensions::access_loggers::filters::cel::v3::ExpressionFilter,
    },
    google::protobuf::Any,
};
use smol_str::SmolStr;

use crate::{
    mesh::{
        providers::Provider,
        settings::MeshSettings,
        telemetry::{self, SideTelemetry},
    },
    translate::{naming::outbound_cluster, wkt},
};

/// Returns the logs of requests and connections.
pub fn access_logs(reports: &SideTelemetry) -> Vec<AccessLog> {
    logs(reports, None)
}

/// Returns the logs of a whole listener: only connections for which there is no filter chain.
pub fn listener_access_logs(reports: &SideTelemetry, mesh: &MeshSettings) -> Vec<AccessLog> {
    let unmatched = ResponseFlagFilter { flags: vec!["NR".into()] };
    match mesh.logs_unmatched {
        true => logs(reports, Some(FilterSpecifier::ResponseFlagFilter(unmatched))),
        false => Vec::new(),
    }
}

/// Returns the clusters of those that take logs.
pub fn clusters(reports: &SideTelemetry) -> impl Iterator<Item = SmolStr> {
    reports.access_logs.iter().filter_map(|log| cluster(log).map(|(cluster, _)| cluster))
}

fn logs(reports: &SideTelemetry, condition: Option<FilterSpecifier>) -> Vec<AccessLog> {
    let entry = |log: &telemetry::AccessLog| {
        let (name, config) = logger(log)?;
        let chosen = log.filter.as_ref().map(|expression| chosen(expression));
        let filter = both(condition.clone(), chosen);
        Some(AccessLog { name: name.into(), filter, config_type: Some(access_log::ConfigType::TypedConfig(config)) })
    };
    reports.access_logs.iter().filter_map(entry).collect()
}

/// Returns the logger's name and configuration; `None` for a provider that takes no logs.
fn logger(log: &telemetry::AccessLog) -> Option<(&'static str, Any)> {
    match log.provider.provider.as_ref()? {
        Provider::FileAccessLog(log) => Some(("envoy.access_loggers.file", file::config(log))),
        Provider::GrpcAccessLog(of) => Some(service::envoy(of, cluster(log)?)),
        Provider::OtelAccessLog(of) => Some(("envoy.access_loggers.open_telemetry", service::open_telemetry(of, cluster(log)?))),
        _ => None,
    }
}

/// Returns the cluster of who takes a log, and the host that is asked for.
fn cluster(log: &telemetry::AccessLog) -> Option<(SmolStr, String)> {
    let host = log.collector.as_ref()?;
    let (_, port) = log.provider.service()?;
    Some((outbound_cluster(port, "", host), host.to_string()))
}

/// Chooses the entries for which an expression holds.
fn chosen(expression: &str) -> FilterSpecifier {
    let filter = ExpressionFilter { expression: expression.into(), ..ExpressionFilter::default() };
    FilterSpecifier::ExtensionFilter(ExtensionFilter {
        name: "envoy.access_loggers.extension_filters.cel".into(),
        config_type: Some(extension_filter::ConfigType::TypedConfig(wkt::any(&filter))),
    })
}

fn both(one: Option<FilterSpecifier>, other: Option<FilterSpecifier>) -> Option<AccessLogFilter> {
    let filter = |specifier| AccessLogFilter { filter_specifier: Some(specifier) };
    match (one, other) {
        (Some(one), Some(other)) => Some(filter(FilterSpecifier::AndFilter(AndFilter { filters: vec![filter(one), filter(other)] }))),
        (one, other) => one.or(other).map(filter),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::mesh::{
        by_ptr::ByPtr,
        providers::{FileAccessLog, NamedProvider},
    };

    fn reports(filter: Option<&str>) -> SideTelemetry {
        let provider = Some(Provider::FileAccessLog(FileAccessLog::default()));
        let provider = ByPtr(Arc::new(NamedProvider { name: "a".into(), provider }));
        let log = telemetry::AccessLog { provider, collector: None, filter: filter.map(SmolStr::new) };
        SideTelemetry { access_logs: vec![log], ..SideTelemetry::default() }
    }

    fn condition(logs: &[AccessLog]) -> Option<&FilterSpecifier> {
        logs[0].filter.as_ref()?.filter_specifier.as_ref()
    }

    #[test]
    fn listeners_log_what_no_chain_takes_and_the_expression_chooses() {
        let mesh = MeshSettings::default();
        assert_eq!(condition(&access_logs(&reports(None))), None);
        assert!(matches!(condition(&access_logs(&reports(Some("true")))), Some(FilterSpecifier::ExtensionFilter(_))));
        let of_listener = listener_access_logs(&reports(None), &mesh);
        assert!(matches!(condition(&of_listener), Some(FilterSpecifier::ResponseFlagFilter(filter)) if filter.flags == ["NR"]));
        let chosen = listener_access_logs(&reports(Some("true")), &mesh);
        assert!(matches!(condition(&chosen), Some(FilterSpecifier::AndFilter(both)) if both.filters.len() == 2));
        let silent = MeshSettings { logs_unmatched: false, ..mesh };
        assert_eq!(listener_access_logs(&reports(None), &silent), []);
    }
}

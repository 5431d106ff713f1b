//! `istio.stats`, the filter of Istio's proxy that counts Istio's metrics (contract §3.8, §6.8). A stock Envoy does not have it.

use envoy_types::pb::google::protobuf::Any;

use super::Direction;
use crate::{
    mesh::{
        model::Flavour,
        telemetry::{METRICS, MetricOverride, ReportedMetrics},
    },
    proto::stats::{MetricConfig, PluginConfig},
    translate::{input::ListenerClass, wkt},
};

/// The name of the filter, of HTTP and of connections alike.
pub(super) const NAME: &str = "istio.stats";

/// Returns the configuration of each such filter that a class of proxies has.
pub(super) fn configs(class: &ListenerClass, direction: Direction) -> Vec<Any> {
    let reported = class.own.reports.metrics.iter().filter(|_| class.flavour == Flavour::Istio);
    reported.map(|metrics| wkt::any(&config(metrics, direction))).collect()
}

fn config(metrics: &ReportedMetrics, direction: Direction) -> PluginConfig {
    PluginConfig {
        // Only what workloads send may name its destination by itself; elsewhere the host is what clients make up.
        disable_host_header_fallback: direction != Direction::Outbound,
        tcp_reporting_duration: metrics.reporting_interval.map(wkt::duration),
        metrics: metrics.overrides.iter().map(|(name, of)| metric_config(name, of)).collect(),
        ..PluginConfig::default()
    }
}

fn metric_config(metric: &str, of: &MetricOverride) -> MetricConfig {
    let name = METRICS.iter().find(|(known, _)| *known == metric).map_or(metric, |(_, series)| series);
    MetricConfig {
        dimensions: of.tags.iter().filter_map(|(tag, value)| Some((tag.to_string(), value.as_ref()?.to_string()))).collect(),
        name: name.into(),
        tags_to_remove: of.tags.iter().filter(|(_, value)| value.is_none()).map(|(tag, _)| tag.to_string()).collect(),
        drop: of.disabled,
        ..MetricConfig::default()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn metrics_have_the_names_of_their_series() {
        let of = MetricOverride {
            disabled: true,
            tags: [("b".into(), Some("request.host".into())), ("a".into(), None), ("c".into(), Some("'x'".into()))].into(),
        };
        let overrides = [("REQUEST_COUNT".into(), of), ("own".into(), MetricOverride::default())].into();
        let metrics = ReportedMetrics { overrides, reporting_interval: Some(Duration::from_secs(5)) };
        let made = config(&metrics, Direction::Inbound);
        assert!(made.disable_host_header_fallback && !config(&metrics, Direction::Outbound).disable_host_header_fallback);
        assert_eq!(made.tcp_reporting_duration.map(|duration| duration.seconds), Some(5));
        let [count, own] = &made.metrics[..] else { panic!("{made:?}") };
        assert_eq!((count.name.as_str(), count.drop, &count.tags_to_remove[..]), ("requests_total", true, &["a".to_owned()][..]));
        assert_eq!((count.dimensions.len(), count.dimensions["b"].as_str(), own.name.as_str()), (2, "request.host", "own"));
    }
}

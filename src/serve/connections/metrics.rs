//! How many connections there are, and how many had to go.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, gauge::ConstGauge},
    registry::Registry,
};

use super::{Connections, Shown};

impl Connections {
    /// Registers the metrics.
    pub(in crate::serve) fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(self.clone()));
    }
}

impl Collector for Connections {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let (open, counts) = {
            let state = self.0.state.lock();
            let open = [("nothing", Shown::Nothing), ("request", Shown::Request), ("identity", Shown::Identity)]
                .map(|(name, shown)| (name, state.table.count_shown(shown)));
            (open, state.counts)
        };
        let help = "Open connections, by what the peer has shown: nothing, a request, an identity";
        let mut gauge = encoder.encode_descriptor("istiod_lite_connections", help, None, MetricType::Gauge)?;
        for (shown, count) in open {
            let labels = [("shown", shown)];
            number(count as u64).encode(gauge.encode_family(&labels)?)?;
        }
        let help = "Connections that may be open";
        let limit = encoder.encode_descriptor("istiod_lite_connections_limit", help, None, MetricType::Gauge)?;
        number(self.0.limits.total as u64).encode(limit)?;
        for (name, help, count) in [
            ("istiod_lite_connections_evicted", "Connections that had to go, to make room for others", counts.evicted),
            (
                "istiod_lite_connections_refused",
                "How often a connection was refused, or had to wait, since no other had to go for it",
                counts.refused,
            ),
        ] {
            number(count).encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
        }
        Ok(())
    }
}

// What is encoded as a gauge keeps its name.
fn number(value: u64) -> ConstGauge<i64> {
    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX))
}

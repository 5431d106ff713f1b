//! What of the budget is used, and who was refused.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, gauge::ConstGauge},
    registry::Registry,
};

use super::{Budget, Purpose};

impl Budget {
    /// Registers the metrics.
    pub fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(self.clone()));
    }
}

impl Collector for Budget {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let limit =
            encoder.encode_descriptor("istiod_lite_budget_limit_bytes", "Bytes that callers may have held", None, MetricType::Gauge)?;
        number(self.0.limit as u64).encode(limit)?;
        let taken = *self.0.taken.lock();
        let help = "Bytes that callers have held";
        let mut used = encoder.encode_descriptor("istiod_lite_budget_bytes", help, None, MetricType::Gauge)?;
        for purpose in Purpose::ALL {
            let labels = [("purpose", purpose.as_str())];
            number(taken[purpose as usize].total() as u64).encode(used.encode_family(&labels)?)?;
        }
        let help = "Requests refused because there was no memory left for such a caller";
        let mut refused = encoder.encode_descriptor("istiod_lite_budget_refusals", help, None, MetricType::Counter)?;
        for purpose in Purpose::ALL {
            let taken = taken[purpose as usize];
            for (standing, count) in [("unproven", taken.refused_unproven), ("proven", taken.refused_proven)] {
                let labels = [("purpose", purpose.as_str()), ("standing", standing)];
                // What is encoded as a gauge keeps its name.
                number(count).encode(refused.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

fn number(value: u64) -> ConstGauge<i64> {
    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;
    use crate::budget::Standing;

    #[test]
    fn use_and_refusals_are_shown() {
        let (budget, mut registry) = (Budget::of(1600), Registry::default());
        budget.register(&mut registry);
        let _portion = budget.take(Purpose::Reviews, Standing::Unproven, 300).unwrap();
        assert!(budget.take(Purpose::Reviews, Standing::Unproven, 400).is_err());
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            "istiod_lite_budget_limit_bytes 1600",
            "istiod_lite_budget_bytes{purpose=\"reviews\"} 300",
            "istiod_lite_budget_bytes{purpose=\"messages\"} 0",
            "istiod_lite_budget_refusals{purpose=\"reviews\",standing=\"unproven\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
    }
}

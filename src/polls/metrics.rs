//! Shows how long polls took.

use std::{fmt, sync::atomic::Ordering, time::Duration};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, gauge::ConstGauge},
    registry::Registry,
};

use super::{OF_THIS_PROCESS, Polls, Task};

/// Registers the metrics of this process.
pub(crate) fn register(registry: &mut Registry) {
    registry.register_collector(Box::new(&OF_THIS_PROCESS));
}

impl Collector for &'static Polls {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "The longest that a task has computed at a stretch, seconds of CPU time";
        let mut longest = encoder.encode_descriptor("istiod_lite_longest_poll_seconds", help, None, MetricType::Gauge)?;
        for task in Task::ALL {
            let taken = Duration::from_nanos(self.0[task as usize].longest.load(Ordering::Relaxed));
            let labels = [("task", task.as_str())];
            ConstGauge::new(taken.as_secs_f64()).encode(longest.encode_family(&labels)?)?;
        }
        let help = "How often a task has computed for more than 50 ms of CPU time at a stretch";
        let mut slow = encoder.encode_descriptor("istiod_lite_slow_polls", help, None, MetricType::Counter)?;
        for task in Task::ALL {
            let count = i64::try_from(self.0[task as usize].slow.load(Ordering::Relaxed)).unwrap_or(i64::MAX);
            let labels = [("task", task.as_str())];
            // What is encoded as a gauge keeps its name.
            ConstGauge::new(count).encode(slow.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;

    #[test]
    fn each_sort_of_task_is_shown() {
        static POLLS: Polls = Polls::new();
        POLLS.count(Task::Request, Duration::from_millis(75));
        let (mut registry, mut text) = (Registry::default(), String::new());
        registry.register_collector(Box::new(&POLLS));
        encode(&mut text, &registry).unwrap();
        for line in [
            "istiod_lite_longest_poll_seconds{task=\"request\"} 0.075",
            "istiod_lite_longest_poll_seconds{task=\"stream\"} 0.0",
            "istiod_lite_slow_polls{task=\"request\"} 1",
            "istiod_lite_slow_polls{task=\"connection\"} 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
    }
}

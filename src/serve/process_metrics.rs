//! The metrics that every process exports by Prometheus' conventions, read from `/proc` on each scrape, and istiod's metrics
//! about its build (contract §10.2).

use std::{
    fmt, fs,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use nix::unistd::{SysconfVar, sysconf};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, family::Family, gauge::ConstGauge, gauge::Gauge},
    registry::Registry,
};

use crate::{metrics::MetricLabels, version};

/// Where the kernel describes this process.
const PROC: &str = "/proc/self";

/// Registers all of them. Uptime is counted from now.
pub(super) fn register(registry: &mut Registry) {
    let build = Family::<MetricLabels<2, &'static str>, Gauge>::default();
    build.get_or_create(&[("component", "pilot"), ("tag", version::VERSION)]).set(1);
    registry.register("istio_build", "This build, by component and version", build);
    let info = Family::<MetricLabels<1, &'static str>, Gauge>::default();
    info.get_or_create(&[("version", version::VERSION)]).set(1);
    registry.register("pilot_info", "This build, by version", info);
    registry.register_collector(Box::new(ProcessMetrics { started: Instant::now() }));
}

#[derive(Debug)]
struct ProcessMetrics {
    started: Instant,
}

/// The contents of `/proc/self/stat` that are exported, in seconds and bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Usage {
    cpu: f64,
    started_after_boot: f64,
    virtual_memory: f64,
    resident_memory: f64,
}

impl Collector for ProcessMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut gauge = |name: &str, help: &str, kind: MetricType, value: Option<f64>| match value {
            Some(value) => ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, None, kind)?),
            None => Ok(()),
        };
        let usage = usage();
        gauge("istiod_uptime_seconds", "Seconds since the start", MetricType::Gauge, Some(self.started.elapsed().as_secs_f64()))?;
        gauge("process_cpu_seconds_total", "CPU time used, seconds", MetricType::Counter, usage.map(|usage| usage.cpu))?;
        gauge("process_start_time_seconds", "Start, Unix seconds", MetricType::Gauge, usage.and_then(Usage::start))?;
        gauge("process_virtual_memory_bytes", "Virtual memory", MetricType::Gauge, usage.map(|usage| usage.virtual_memory))?;
        gauge("process_resident_memory_bytes", "Resident memory", MetricType::Gauge, usage.map(|usage| usage.resident_memory))?;
        gauge("process_open_fds", "Open file descriptors", MetricType::Gauge, open_files())?;
        gauge("process_max_fds", "File descriptors that may be open", MetricType::Gauge, most_open_files())
    }
}

impl Usage {
    fn start(self) -> Option<f64> {
        let uptime: f64 = fs::read_to_string("/proc/uptime").ok()?.split(' ').next()?.parse().ok()?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64();
        Some(now - uptime + self.started_after_boot)
    }
}

fn usage() -> Option<Usage> {
    let ticks = sysconf(SysconfVar::CLK_TCK).ok()??;
    let page = sysconf(SysconfVar::PAGE_SIZE).ok()??;
    parse(&fs::read_to_string(format!("{PROC}/stat")).ok()?, ticks as f64, page as f64)
}

/// Reads the fields by their numbers in proc(5): 14 and 15 CPU, 22 start, 23 and 24 memory.
fn parse(stat: &str, ticks: f64, page: f64) -> Option<Usage> {
    // The second field is a name, which may contain blanks and parentheses.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
    Some(Usage {
        cpu: (field(14)? + field(15)?) / ticks,
        started_after_boot: field(22)? / ticks,
        virtual_memory: field(23)?,
        resident_memory: field(24)? * page,
    })
}

fn open_files() -> Option<f64> {
    Some(fs::read_dir(format!("{PROC}/fd")).ok()?.count() as f64)
}

fn most_open_files() -> Option<f64> {
    let limits = fs::read_to_string(format!("{PROC}/limits")).ok()?;
    limits.lines().find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().next()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_line_is_read_whatever_the_name() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 8 0 6000 1048576 300 184 1 1";
        let expected = Usage { cpu: 3.0, started_after_boot: 60.0, virtual_memory: 1_048_576.0, resident_memory: 300.0 * 4096.0 };
        assert_eq!(parse(stat, 100.0, 4096.0), Some(expected));
        assert_eq!(parse("7 (a", 100.0, 4096.0), None);
    }

    #[test]
    fn this_process_is_measured() {
        let usage = usage().unwrap();
        let start = usage.start().unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        assert!(usage.resident_memory > 1e5 && usage.virtual_memory > usage.resident_memory, "{usage:?}");
        assert!(start < now + 1.0 && start > now - 86_400.0, "{start}, now {now}");
        assert!(open_files().unwrap() > 2.0 && most_open_files().unwrap() > 2.0);
    }
}

//! Istio's standard metrics, made of what a stock Envoy counts ([`crate::metric_tags`]): whoever reads the text of metrics finds the
//! names and labels that Istio's own proxy has.

mod family;
mod labels;
mod own;

use std::hash::BuildHasher;

use parking_lot::Mutex;
use rustc_hash::{FxBuildHasher, FxHashSet};

use self::family::Family;
pub(crate) use self::own::Own;
use crate::{metric_tags::SCOPE, version};

/// Makes Istio's metrics of Envoy's.
pub(crate) struct IstioMetrics {
    own: Own,
    /// The series that were served before.
    shown: Mutex<FxHashSet<u64>>,
}

impl IstioMetrics {
    /// Makes them for the proxy of a workload.
    pub(crate) fn new(own: Own) -> Self {
        Self { own, shown: Mutex::default() }
    }

    /// Returns Envoy's text with Istio's metrics under Istio's names. A series that is new begins at zero: what it counted so far is
    /// served from the next time on. Otherwise nobody could tell it from one that has not moved for long.
    pub(crate) fn renamed(&self, text: &str) -> String {
        let ours = format!("envoy_{SCOPE}_");
        let mut renamed = Renamed { text: String::with_capacity(text.len()), family: None, any: false };
        for line in text.lines() {
            if let Some(declared) = line.strip_prefix("# TYPE ").and_then(|declared| declared.strip_prefix(&ours)) {
                self.finish(&mut renamed);
                renamed.family = Some(Family::declared(declared));
            } else if let Some(sample) = line.strip_prefix(&ours) {
                renamed.family.get_or_insert_default().add(sample, &self.own);
            } else {
                self.finish(&mut renamed);
                renamed.text.push_str(line);
                renamed.text.push('\n');
            }
        }
        self.finish(&mut renamed);
        if renamed.any {
            renamed
                .text
                .push_str(&format!("# TYPE istio_build gauge\nistio_build{{component=\"proxy\",tag=\"{}\"}} 1\n", version::VERSION));
        }
        renamed.text
    }

    fn finish(&self, renamed: &mut Renamed) {
        let Some(family) = renamed.family.take() else { return };
        renamed.any = true;
        let mut shown = self.shown.lock();
        family.write(&mut renamed.text, |name, labels| shown.insert(FxBuildHasher.hash_one((name, labels))));
    }
}

/// A text that is being written.
struct Renamed {
    text: String,
    /// The metric whose lines are being read.
    family: Option<Family>,
    /// Whether there was one.
    any: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::settings::tests::settings;

    const TEXT: &str = "\
# TYPE envoy_cluster_upstream_cx_total counter
envoy_cluster_upstream_cx_total{cluster_name=\"a\"} 3
# TYPE envoy_istio_requests_total counter
envoy_istio_requests_total{istio_request=\"destination;http;-;;200;\",istio_peer=\"\",istio_service=\"reviews;shop\",istio_host=\"h\"} 2
envoy_istio_requests_total{istio_request=\"destination;http;-;;200;\",istio_peer=\"junk\",istio_service=\"reviews;shop\",istio_host=\"h\"} 5
# TYPE envoy_istio_request_bytes histogram
envoy_istio_request_bytes_bucket{istio_request=\"destination;http;-;;200;\",istio_peer=\"\",istio_service=\"\",istio_host=\"h\",le=\"0.5\"} 1
envoy_istio_request_bytes_bucket{istio_request=\"destination;http;-;;200;\",istio_peer=\"\",istio_service=\"\",istio_host=\"h\",le=\"+Inf\"} 2
envoy_istio_request_bytes_sum{istio_request=\"destination;http;-;;200;\",istio_peer=\"\",istio_service=\"\",istio_host=\"h\"} 310.5
envoy_istio_request_bytes_count{istio_request=\"destination;http;-;;200;\",istio_peer=\"\",istio_service=\"\",istio_host=\"h\"} 2
# TYPE envoy_server_uptime gauge
envoy_server_uptime{} 7
";

    fn ends(text: &str) -> Vec<String> {
        let short = |line: &str| match (line.split_once('{'), line.rsplit_once(' ')) {
            (Some((name, labels)), Some((_, value))) => {
                let le = labels.split_once("le=").map_or("", |(_, le)| le.split('}').next().unwrap_or_default());
                format!("{name}{le} {value}")
            }
            _ => line.to_owned(),
        };
        text.lines().map(short).collect()
    }

    #[test]
    fn what_differs_only_for_envoy_is_one_series() {
        let metrics = IstioMetrics::new(Own::of(&settings()));
        let first = metrics.renamed(TEXT);
        let expected = |requests, sizes: [&str; 4]| {
            vec![
                "# TYPE envoy_cluster_upstream_cx_total counter".to_owned(),
                "envoy_cluster_upstream_cx_total 3".to_owned(),
                "# TYPE istio_requests_total counter".to_owned(),
                format!("istio_requests_total {requests}"),
                "# TYPE istio_request_bytes histogram".to_owned(),
                format!("istio_request_bytes_bucket\"0.5\" {}", sizes[0]),
                format!("istio_request_bytes_bucket\"+Inf\" {}", sizes[1]),
                format!("istio_request_bytes_sum {}", sizes[2]),
                format!("istio_request_bytes_count {}", sizes[3]),
                "# TYPE envoy_server_uptime gauge".to_owned(),
                "envoy_server_uptime 7".to_owned(),
                "# TYPE istio_build gauge".to_owned(),
                "istio_build 1".to_owned(),
            ]
        };
        assert_eq!(ends(&first), expected(0, ["0"; 4]), "series begin at zero");
        assert_eq!(ends(&metrics.renamed(TEXT)), expected(7, ["1", "2", "310.5", "2"]));
    }

    #[test]
    fn other_metrics_stay_as_they_are() {
        let text = "# TYPE envoy_a counter\nenvoy_a{b=\"c\"} 1\n";
        assert_eq!(IstioMetrics::new(Own::of(&settings())).renamed(text), text);
    }
}

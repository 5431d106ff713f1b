//! What the load generator knows of a burst, and when Prometheus scraped before and after it.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use harness::prometheus::Labels;
use promql_parser::label::Matchers;

use super::known::{Known, Vector};

/// The metric of requests, whose series durations and sizes have as well.
pub(super) const REQUESTS: &str = "istio_requests_total";

/// How the values of a counter are taken.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rate {
    /// As they are.
    None,
    /// The growth between the last two scrapes, for each second.
    OfLastTwo,
    /// The growth within the window, for each second, as Prometheus extrapolates it.
    OfWindow,
}

/// A series of one proxy.
#[derive(Clone, Debug)]
pub(super) struct Series {
    /// The proxy that has it.
    pub(super) pod: String,
    /// Its labels.
    pub(super) labels: Labels,
    /// Its value before the burst.
    pub(super) before: f64,
    /// What the burst added.
    pub(super) added: f64,
    /// How long each request of it took, in milliseconds: at least and at most.
    pub(super) duration: (f64, f64),
}

/// The window of time that is asked about.
#[derive(Clone, Debug)]
pub(super) struct Window {
    /// Its length in seconds.
    pub(super) seconds: f64,
    /// Its end, in Unix seconds.
    pub(super) end: f64,
    /// When each proxy was scraped within it.
    pub(super) scrapes: BTreeMap<String, Vec<f64>>,
}

/// All of it.
#[derive(Clone, Debug)]
pub(super) struct Truth {
    /// The series of each metric.
    pub(super) series: BTreeMap<String, Vec<Series>>,
    /// The window.
    pub(super) window: Window,
}

impl Truth {
    /// Returns the values of the series that match.
    pub(super) fn values(&self, metric: &str, matchers: &Matchers, rate: Rate) -> Result<Vector> {
        let (of, bounds) = match metric.strip_suffix("_bucket") {
            Some(histogram) => (REQUESTS, Some(histogram)),
            None => (metric, None),
        };
        let matching = self.series.get(of).into_iter().flatten().filter(|series| matches(&series.labels, matchers));
        let mut values = Vector::new();
        for series in matching {
            let mut labels = series.labels.clone();
            let value = match bounds {
                Some(_) if series.added == 0.0 => continue,
                Some(histogram) => {
                    let Some((low, high)) = within(histogram, series) else { continue };
                    labels.insert("le".to_owned(), "any".to_owned());
                    Known::Within(low, high)
                }
                None => Known::Exactly(self.window.value(series, rate)?),
            };
            // Series of two proxies differ by a label that the scrape adds.
            labels.insert("pod".to_owned(), series.pod.clone());
            values.insert(labels, value);
        }
        Ok(values)
    }
}

impl Window {
    fn value(&self, series: &Series, rate: Rate) -> Result<f64> {
        let scrapes = self.scrapes.get(&series.pod).with_context(|| format!("no scrape of {}", series.pod))?;
        let [first, .., before, last] = *scrapes.as_slice() else { anyhow::bail!("too few scrapes of {}", series.pod) };
        Ok(match rate {
            Rate::None => series.before + series.added,
            Rate::OfLastTwo => series.added / (last - before),
            Rate::OfWindow => {
                let (sampled, average) = (last - first, (last - first) / (scrapes.len() - 1) as f64);
                ensure!(sampled > 0.0, "all scrapes of {} at once", series.pod);
                // A counter is not extrapolated to below zero.
                let to_zero = if series.added > 0.0 { sampled * series.before / series.added } else { f64::INFINITY };
                let to_start = (first - (self.end - self.seconds)).min(to_zero);
                let gap = |gap: f64| if gap < average * 1.1 { gap } else { average / 2.0 };
                series.added * (sampled + gap(to_start) + gap(self.end - last)) / sampled / self.seconds
            }
        })
    }
}

fn matches(labels: &Labels, matchers: &Matchers) -> bool {
    matchers.matchers.iter().all(|matcher| matcher.is_match(labels.get(&matcher.name).map_or("", String::as_str)))
}

/// Returns the bounds of a histogram's buckets between which all values lie.
fn within(histogram: &str, series: &Series) -> Option<(f64, f64)> {
    match histogram {
        "istio_request_duration_milliseconds" => Some(series.duration),
        // A request line or status line and a handful of headers.
        "istio_request_bytes" | "istio_response_bytes" => Some((50.0, 1000.0)),
        _ => None,
    }
}

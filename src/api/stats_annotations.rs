//! The annotations of a pod about Envoy's own statistics, which the agent reads (contract §5.5): which are kept, with what labels and
//! buckets, and how often they are flushed.

use std::{collections::BTreeMap, time::Duration};

use smol_str::SmolStr;

use super::{go_duration, re2};

/// What the annotations of a pod say of its proxy's statistics. Each list takes the place of ProxyConfig's.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StatsAnnotations {
    /// `statsInclusionPrefixes`
    pub prefixes: Option<Vec<SmolStr>>,
    /// `statsInclusionSuffixes`
    pub suffixes: Option<Vec<SmolStr>>,
    /// `statsInclusionRegexps`
    pub regexps: Option<Vec<SmolStr>>,
    /// `extraStatTags`, beside ProxyConfig's.
    pub extra_tags: Vec<SmolStr>,
    /// `statsHistogramBuckets`: the upper bounds of the buckets of histograms whose names begin so.
    pub buckets: BTreeMap<String, Vec<f64>>,
    /// `statsFlushInterval`
    pub flush_interval: Option<Duration>,
    /// `statsEvictionInterval`: after which time without use a statistic is forgotten; a multiple of the flush interval.
    pub eviction_interval: Option<Duration>,
}

/// An annotation whose value is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrongAnnotation {
    /// The annotation.
    pub name: &'static str,
    /// What the value must be, or what is wrong with it.
    pub why: String,
    /// Whether Envoy would not start with the value. Otherwise it has no effect, as with Istio's agent.
    pub is_fatal: bool,
}

/// The annotations that are read.
pub const STATS_ANNOTATIONS: [&str; 7] = [PREFIXES, SUFFIXES, REGEXPS, TAGS, BUCKETS, FLUSH, EVICTION];

const PREFIXES: &str = "sidecar.istio.io/statsInclusionPrefixes";
const SUFFIXES: &str = "sidecar.istio.io/statsInclusionSuffixes";
const REGEXPS: &str = "sidecar.istio.io/statsInclusionRegexps";
const TAGS: &str = "sidecar.istio.io/extraStatTags";
const BUCKETS: &str = "sidecar.istio.io/statsHistogramBuckets";
const FLUSH: &str = "sidecar.istio.io/statsFlushInterval";
const EVICTION: &str = "sidecar.istio.io/statsEvictionInterval";

/// How often Envoy flushes if nobody says.
const USUAL_FLUSH: Duration = Duration::from_secs(5);
/// Envoy's own limits of the interval.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(1);
const LONGEST_FLUSH: Duration = Duration::from_secs(300);

// === impl StatsAnnotations ===

impl StatsAnnotations {
    /// Reads the annotations of a pod; `get` returns the value of one. What is wrong is left out and returned beside.
    pub fn read<'a>(get: impl Fn(&str) -> Option<&'a str>) -> (Self, Vec<WrongAnnotation>) {
        let mut wrong = Vec::new();
        let list = |name: &'static str| get(name).map(parts).filter(|list| !list.is_empty());
        let regexps = list(REGEXPS).map(|list| {
            let (good, bad): (Vec<_>, Vec<_>) = list.into_iter().map(|regexp| (re2(&regexp), regexp)).partition(|(read, _)| read.is_ok());
            wrong.extend(bad.into_iter().filter_map(|(read, regexp)| {
                let why = format!("{regexp:?} is no regular expression of RE2: {}", read.err()?);
                Some(WrongAnnotation { name: REGEXPS, why, is_fatal: true })
            }));
            good.into_iter().map(|(_, regexp)| regexp).collect()
        });
        let mut or_none =
            |name, read: Result<_, _>| read.map_err(|(why, is_fatal)| wrong.push(WrongAnnotation { name, why, is_fatal })).ok();
        let flush_interval = get(FLUSH).and_then(|text| or_none(FLUSH, flush_interval(text)));
        let between = flush_interval.unwrap_or(USUAL_FLUSH);
        let eviction_interval = get(EVICTION).and_then(|text| or_none(EVICTION, eviction_interval(text, between)));
        let (prefixes, suffixes) = (list(PREFIXES), list(SUFFIXES));
        let extra_tags = list(TAGS).unwrap_or_default();
        let (buckets, flaws) = get(BUCKETS).map(buckets).unwrap_or_default();
        wrong.extend(flaws);
        (Self { prefixes, suffixes, regexps, extra_tags, buckets, flush_interval, eviction_interval }, wrong)
    }
}

fn parts(text: &str) -> Vec<SmolStr> {
    text.split(',').filter(|part| !part.is_empty()).map(SmolStr::from).collect()
}

fn buckets(text: &str) -> (BTreeMap<String, Vec<f64>>, Vec<WrongAnnotation>) {
    let wrong = |why: String, is_fatal| WrongAnnotation { name: BUCKETS, why, is_fatal };
    let read: BTreeMap<String, Vec<f64>> = match serde_json::from_str(text) {
        Ok(read) => read,
        Err(error) => {
            let why = format!("must be JSON such as {{\"istio\": [1, 5, 10]}}: {error}");
            return (BTreeMap::new(), vec![wrong(why, false)]);
        }
    };
    let (good, bad): (BTreeMap<_, _>, BTreeMap<_, _>) =
        read.into_iter().partition(|(prefix, bounds)| !prefix.is_empty() && are_bounds(bounds));
    let named = |(prefix, _): (String, _)| wrong(format!("{prefix:?} must be a prefix with bounds above 0, each once"), true);
    (good, bad.into_iter().map(named).collect())
}

/// Returns whether Envoy takes the bounds; it sorts them itself.
fn are_bounds(bounds: &[f64]) -> bool {
    let repeated = |(index, bound): (usize, &f64)| bounds[..index].contains(bound);
    bounds.iter().all(|bound| *bound > 0.0) && !bounds.iter().enumerate().any(repeated)
}

type Read<T> = Result<T, (String, bool)>;

fn flush_interval(text: &str) -> Read<Duration> {
    let interval = duration(text)?;
    match (SHORTEST_INTERVAL..LONGEST_FLUSH).contains(&interval) {
        true => Ok(interval),
        false => Err(("must be from 1ms to less than 5m".to_owned(), true)),
    }
}

/// Reads whole seconds: Istio's agent leaves out the rest.
fn eviction_interval(text: &str, flush: Duration) -> Read<Duration> {
    let interval = duration(text)?;
    if interval.as_nanos() % flush.as_nanos() != 0 {
        return Err((format!("must be a multiple of the flush interval, {flush:?}"), false));
    }
    match interval.subsec_nanos() {
        0 if !interval.is_zero() => Ok(interval),
        _ => Err(("must be whole seconds, one at least".to_owned(), true)),
    }
}

fn duration(text: &str) -> Read<Duration> {
    go_duration::parse(text).ok_or_else(|| ("must be a duration such as 5s".to_owned(), false))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(annotations: &[(&str, &str)]) -> (StatsAnnotations, Vec<WrongAnnotation>) {
        StatsAnnotations::read(|name| annotations.iter().find(|(other, _)| *other == name).map(|(_, value)| *value))
    }

    #[test]
    fn annotations_become_values() {
        let (read, wrong) = read(&[
            (PREFIXES, "cluster.outbound,,listener"),
            (SUFFIXES, ""),
            (REGEXPS, r"http\..*_rq,vhost\..*"),
            (TAGS, "one,two"),
            (BUCKETS, r#"{"istio": [1, 5.5], "cluster.x": []}"#),
            (FLUSH, "1s"),
            (EVICTION, "2m"),
        ]);
        let list = |parts: &[&str]| parts.iter().map(SmolStr::new).collect::<Vec<_>>();
        let expected = StatsAnnotations {
            prefixes: Some(list(&["cluster.outbound", "listener"])),
            suffixes: None,
            regexps: Some(list(&[r"http\..*_rq", r"vhost\..*"])),
            extra_tags: list(&["one", "two"]),
            buckets: [("istio".to_owned(), vec![1.0, 5.5]), ("cluster.x".to_owned(), Vec::new())].into(),
            flush_interval: Some(Duration::from_secs(1)),
            eviction_interval: Some(Duration::from_secs(120)),
        };
        assert_eq!((read, wrong), (expected, Vec::new()));
    }

    #[test]
    fn what_is_wrong_is_left_out_and_told() {
        let cases = [
            (REGEXPS, "(a", true),
            (BUCKETS, "{", false),
            (BUCKETS, r#"{"a": [2, 2]}"#, true),
            (BUCKETS, r#"{"a": [-1]}"#, true),
            (BUCKETS, r#"{"": [1]}"#, true),
            (FLUSH, "soon", false),
            (FLUSH, "0", true),
            (FLUSH, "5m", true),
            (EVICTION, "7s", false),
            (EVICTION, "-5s", false),
            (EVICTION, "0s", true),
        ];
        for (name, value, is_fatal) in cases {
            let (read, wrong) = read(&[(name, value)]);
            let told: Vec<_> = wrong.iter().map(|wrong| (wrong.name, wrong.is_fatal)).collect();
            assert_eq!(told, [(name, is_fatal)], "{name}={value}");
            let without_effect = StatsAnnotations { regexps: read.regexps.clone(), ..StatsAnnotations::default() };
            assert_eq!((read.clone(), read.regexps.unwrap_or_default().len()), (without_effect, 0), "{name}={value}");
        }
    }
}

//! One metric with all its series. What Envoy counts apart may be one series for Istio: a service's subsets, say.

use std::{collections::BTreeMap, fmt::Write as _};

use super::{labels, own::Own};

/// A metric whose lines are being gathered.
#[derive(Default)]
pub(super) struct Family {
    /// `name type`
    declared: String,
    /// By their labels, as they are written.
    series: BTreeMap<String, Vec<Point>>,
}

/// One line of a series: histograms have several.
struct Point {
    /// With `_bucket`, `_sum` or `_count` for histograms.
    name: String,
    /// The upper bound of a bucket, in quotes; empty for other lines.
    bound: String,
    value: f64,
}

impl Family {
    /// Begins a metric: `requests_total counter`.
    pub(super) fn declared(declared: &str) -> Self {
        Self { declared: declared.to_owned(), series: BTreeMap::new() }
    }

    /// Adds a line: `requests_total{…} 7`. One that cannot be read is left out.
    pub(super) fn add(&mut self, sample: &str, own: &Own) {
        let Some((name, value, pairs)) = read(sample) else { return };
        let bound = pairs.iter().find(|(key, _)| *key == "le").map_or("", |(_, bound)| bound);
        let points = self.series.entry(labels::expanded(&pairs, own)).or_default();
        match points.iter_mut().find(|point| point.name == name && point.bound == bound) {
            Some(point) => point.value += value,
            None => points.push(Point { name: name.to_owned(), bound: bound.to_owned(), value }),
        }
    }

    /// Writes all lines; those of a series that is new are zero.
    pub(super) fn write(&self, text: &mut String, mut is_new: impl FnMut(&str, &str) -> bool) {
        if !self.declared.is_empty() {
            text.push_str(&format!("# TYPE istio_{}\n", self.declared));
        }
        for (labels, points) in &self.series {
            let new = is_new(&self.declared, labels);
            for Point { name, bound, value } in points {
                let value = if new { 0.0 } else { *value };
                // Writing to a text cannot fail.
                let _ = match bound.as_str() {
                    "" => writeln!(text, "istio_{name}{{{labels}}} {value}"),
                    bound => writeln!(text, "istio_{name}{{{labels},le=\"{bound}\"}} {value}"),
                };
            }
        }
    }
}

/// Names and values of labels. Values stay escaped.
type Labels<'a> = Vec<(&'a str, &'a str)>;

/// Returns name, value and labels of a line.
fn read(sample: &str) -> Option<(&str, f64, Labels<'_>)> {
    let (name, rest) = sample.split_once('{')?;
    let (mut labels, value) = rest.rsplit_once("} ")?;
    let mut pairs = Vec::new();
    while let Some((key, rest)) = labels.split_once("=\"") {
        let end = closing_quote(rest)?;
        pairs.push((key, &rest[..end]));
        labels = rest[end + 1..].trim_start_matches(',');
    }
    Some((name, value.trim().parse().ok()?, pairs))
}

/// Returns where a quoted text ends.
fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let closes = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_brackets_within_values_end_nothing() {
        let (name, value, pairs) = read(r#"a{x="1\"} 2,\\",y="",z="}"} 3.5"#).unwrap();
        assert_eq!((name, value), ("a", 3.5));
        assert_eq!(pairs, [("x", r#"1\"} 2,\\"#), ("y", ""), ("z", "}")]);
        for broken in ["a 1", r#"a{x="1} 2"#, r#"a{x="1"} b"#] {
            assert!(read(broken).is_none(), "{broken}");
        }
    }
}

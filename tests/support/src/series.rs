//! The text of metrics, as a Prometheus reads it.

use std::{collections::BTreeMap, net::SocketAddr};

use anyhow::{Context, Result};

use crate::http_client::get_text;

/// The labels of a series.
pub type Labels = BTreeMap<String, String>;

/// All series of one scrape, with their values.
#[derive(Clone, Debug, Default)]
pub struct Scrape(BTreeMap<(String, Labels), f64>);

impl Scrape {
    /// Scrapes an agent twice: a series that is new to it begins at zero.
    pub async fn of(agent: SocketAddr) -> Result<Self> {
        Self::once(agent).await?;
        Self::once(agent).await
    }

    /// Scrapes an agent.
    pub async fn once(agent: SocketAddr) -> Result<Self> {
        Self::parse(&get_text(agent, "/stats/prometheus").await?)
    }

    /// Reads the text.
    pub fn parse(text: &str) -> Result<Self> {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines.map(|line| sample(line).with_context(|| format!("no sample: {line}"))).collect::<Result<_>>().map(Self)
    }

    /// Returns the series of a metric.
    pub fn of_metric<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a Labels, f64)> {
        self.0.iter().filter(move |((of, _), _)| of == name).map(|((_, labels), value)| (labels, *value))
    }

    /// Returns how much the series of a metric grew since an earlier scrape, those that did not left out.
    pub fn growth(&self, earlier: &Self, name: &str) -> BTreeMap<Labels, f64> {
        let before = |labels: &Labels| earlier.0.get(&(name.to_owned(), labels.clone())).copied().unwrap_or_default();
        let grown = self.of_metric(name).map(|(labels, value)| (labels.clone(), value - before(labels)));
        grown.filter(|(_, by)| *by != 0.0).collect()
    }
}

fn sample(line: &str) -> Option<((String, Labels), f64)> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = series.split_once('{').map_or((series, ""), |(name, labels)| (name, labels));
    let labels = labels.strip_suffix('}').unwrap_or(labels).split("\",").filter(|pair| !pair.is_empty());
    let labels = labels.map(|pair| pair.split_once("=\"").map(|(key, value)| (key.to_owned(), value.trim_end_matches('"').to_owned())));
    Some(((name.to_owned(), labels.collect::<Option<_>>()?), value.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_grew_is_told() {
        let read = |text| Scrape::parse(text).unwrap();
        let before = read("# TYPE a counter\na{b=\"1\",c=\"\"} 2\na{b=\"2\",c=\"x\"} 5\nd 1\n");
        let after = read("a{b=\"1\",c=\"\"} 2\na{b=\"2\",c=\"x\"} 8\na{b=\"3\",c=\"\"} 1\n");
        let labels = |b: &str, c: &str| Labels::from([("b".to_owned(), b.to_owned()), ("c".to_owned(), c.to_owned())]);
        assert_eq!(after.growth(&before, "a"), [(labels("2", "x"), 3.0), (labels("3", ""), 1.0)].into());
        assert!(Scrape::parse("a{b} 1").is_err() && Scrape::parse("a b").is_err());
    }
}

//! A real Prometheus that scrapes what it is told to.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::Path,
    process::Command,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use crate::{
    http_client::get_text,
    mesh::{START, wait_until_ready},
    process::Process,
    tools, wait,
};

/// The labels of a series.
pub type Labels = BTreeMap<String, String>;

/// A running Prometheus. Dropping it ends it.
#[derive(Debug)]
pub struct Prometheus {
    process: Process,
    address: SocketAddr,
}

/// What is scraped under one name.
#[derive(Clone, Debug)]
pub struct Job<'j> {
    /// Its name: the label `job`.
    pub name: &'j str,
    /// How often.
    pub every: Duration,
    /// The path.
    pub path: &'j str,
    /// The targets, each with the label `pod`.
    pub targets: Vec<(SocketAddr, &'j str)>,
    /// More of its configuration, as Prometheus has it.
    pub further: Value,
}

/// A series of an answer at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Its labels.
    pub labels: Labels,
    /// Its value.
    pub value: f64,
}

impl Prometheus {
    /// Starts it on `address`, with its data and configuration in a folder below `home`; `istiod_lite` has the kernel end it with
    /// this process.
    pub async fn start(istiod_lite: &Path, home: &Path, address: SocketAddr, jobs: &[Job<'_>]) -> Result<Self> {
        let folder = home.join("prometheus");
        fs::create_dir_all(&folder)?;
        let jobs = jobs.iter().map(Job::configuration).collect::<Result<Vec<_>>>()?;
        fs::write(folder.join("prometheus.yml"), json!({ "scrape_configs": jobs }).to_string())?;
        let mut command = Command::new(istiod_lite);
        command.args(["agent", "launch", &std::process::id().to_string()]).arg(tools::prometheus("prometheus")?);
        command.arg(format!("--config.file={}", folder.join("prometheus.yml").display()));
        command.arg(format!("--storage.tsdb.path={}", folder.join("data").display()));
        command.arg(format!("--web.listen-address={address}")).arg("--log.level=warn");
        let mut process = Process::start("prometheus", command, &home.join("logs"))?;
        wait_until_ready(&mut process, address, "/-/ready").await?;
        Ok(Self { process, address })
    }

    /// Returns where it answers.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until it has scraped every target without an error.
    pub async fn wait_for_targets(&mut self, count: usize) -> Result<()> {
        self.process.check_running()?;
        let this = &*self;
        wait::until("a scrape of every target", START, || async move {
            let up = this.query("up == 1").await?;
            ensure!(up.len() == count, "only {} of {count} targets are up: {}", up.len(), this.errors().await?);
            Ok(())
        })
        .await
    }

    /// Returns what an expression gives now.
    pub async fn query(&self, expression: &str) -> Result<Vec<Sample>> {
        self.query_at(expression, unix_seconds()).await
    }

    /// Returns what an expression gave at a moment, in Unix seconds.
    pub async fn query_at(&self, expression: &str, at: f64) -> Result<Vec<Sample>> {
        let data = self.ask(&format!("query?time={at:.3}&query={}", encoded(expression))).await?;
        series(&data)?.iter().map(|series| Ok(Sample { labels: labels(series)?, value: point(&series["value"])?.1 })).collect()
    }

    /// Returns the one number that an expression gives now; `None`: there is none.
    pub async fn number(&self, expression: &str) -> Result<Option<f64>> {
        Ok(self.query(expression).await?.first().map(|sample| sample.value).filter(|value| value.is_finite()))
    }

    /// Returns what an expression gives from one moment to another, each time after `step` seconds.
    pub async fn query_range(&self, expression: &str, (from, to): (f64, f64), step: f64) -> Result<Vec<Sample>> {
        let data = self.ask(&format!("query_range?start={from:.3}&end={to:.3}&step={step:.3}&query={}", encoded(expression))).await?;
        let mut samples = Vec::new();
        for series in series(&data)? {
            for value in series["values"].as_array().context("no values")? {
                samples.push(Sample { labels: labels(series)?, value: point(value)?.1 });
            }
        }
        Ok(samples)
    }

    /// Returns when each pod was scraped in the seconds before a moment, in Unix seconds.
    pub async fn scrapes(&self, job: &str, seconds: u64, at: f64) -> Result<BTreeMap<String, Vec<f64>>> {
        let data = self.ask(&format!("query?time={at:.3}&query={}", encoded(&format!("up{{job=\"{job}\"}}[{seconds}s]")))).await?;
        let mut scrapes = BTreeMap::new();
        for series in series(&data)? {
            let values = series["values"].as_array().context("no values")?;
            let moments = values.iter().map(|value| Ok(point(value)?.0)).collect::<Result<Vec<_>>>()?;
            scrapes.insert(labels(series)?.remove("pod").context("no pod")?, moments);
        }
        Ok(scrapes)
    }

    /// Returns what was wrong with the last scrape of each target.
    pub async fn errors(&self) -> Result<String> {
        let data = self.ask("targets").await?;
        let targets = data["activeTargets"].as_array().context("no targets")?;
        Ok(targets.iter().map(|target| format!("{} {}", target["scrapeUrl"], target["lastError"])).collect::<Vec<_>>().join(", "))
    }

    async fn ask(&self, what: &str) -> Result<Value> {
        let mut answer: Value = serde_json::from_str(&get_text(self.address, &format!("/api/v1/{what}")).await?)?;
        ensure!(answer["status"] == "success", "{what}: {answer}");
        Ok(answer["data"].take())
    }
}

impl Job<'_> {
    fn configuration(&self) -> Result<Value> {
        let every = format!("{}ms", self.every.as_millis());
        let targets = self.targets.iter().map(|(address, pod)| json!({"targets": [address.to_string()], "labels": {"pod": pod}}));
        let mut job = json!({
            "job_name": self.name,
            "scrape_interval": every,
            "scrape_timeout": every,
            "metrics_path": self.path,
            "static_configs": targets.collect::<Vec<_>>(),
        });
        let own = job.as_object_mut().context("an object")?;
        own.extend(self.further.as_object().cloned().unwrap_or_default());
        Ok(job)
    }
}

/// Returns the time as Prometheus has it.
pub fn unix_seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

fn series(data: &Value) -> Result<&Vec<Value>> {
    data["result"].as_array().with_context(|| format!("no series: {data}"))
}

fn labels(series: &Value) -> Result<Labels> {
    let metric = series["metric"].as_object().context("no labels")?;
    Ok(metric.iter().map(|(label, value)| (label.clone(), value.as_str().unwrap_or_default().to_owned())).collect())
}

/// Returns the moment and the value of a point.
fn point(point: &Value) -> Result<(f64, f64)> {
    let value = point[1].as_str().with_context(|| format!("no point: {point}"))?;
    Ok((point[0].as_f64().context("no time")?, value.parse()?))
}

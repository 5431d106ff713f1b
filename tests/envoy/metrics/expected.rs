//! What metrics have to say: all labels of a series, and how much it grew.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use harness::{
    mesh::{CLIENT, CONVERGE, Mesh, PODS, Pod},
    series::{Labels, Scrape},
    wait,
};

use super::{HISTOGRAMS, REQUESTS, scrape};

/// What is said where nothing is known.
pub(super) const UNKNOWN: &str = "unknown";

/// A service by host, name and namespace.
pub(super) type Service = [&'static str; 3];

/// What each proxy has to report more than before.
#[derive(Default)]
pub(super) struct Expected(BTreeMap<&'static str, BTreeMap<Labels, f64>>);

impl Expected {
    /// Adds a request that a workload answered, with mTLS.
    pub(super) fn request(&mut self, from: &Workload, server: Pod, service: Service, request: &Labels) {
        let to = Workload::of(server);
        let labels = || [request.clone(), of_source(from, &from.principal), of_destination(&to, &to.principal)];
        self.add(from.pod, joined("source", labels(), service, UNKNOWN));
        self.add(server, joined("destination", labels(), service, "mutual_tls"));
    }

    /// Adds one to a series.
    pub(super) fn add(&mut self, pod: Pod, labels: Labels) {
        *self.0.entry(pod.name).or_default().entry(labels).or_default() += 1.0;
    }

    /// Waits until the proxies report just this.
    pub(super) async fn are_counted(&self, mesh: &Mesh, before: &BTreeMap<&'static str, Scrape>) -> Result<()> {
        let after = wait::until("the metrics of what was sent", CONVERGE, || async {
            let after = scrape(mesh).await?;
            for pod in PODS {
                let seen = after[pod.name].growth(&before[pod.name], REQUESTS);
                let expected = self.0.get(pod.name).cloned().unwrap_or_default();
                ensure!(seen == expected, "{}: {seen:#?}\nnot\n{expected:#?}", pod.name);
            }
            Ok(after)
        })
        .await?;
        for (pod, expected) in &self.0 {
            for metric in HISTOGRAMS {
                let grown = after[pod].growth(&before[pod], &format!("{metric}_bucket"));
                let all = grown.into_iter().filter(|(labels, _)| labels.get("le").is_some_and(|bound| bound == "+Inf"));
                ensure!(all.map(|(_, by)| by).sum::<f64>() == expected.values().sum::<f64>(), "{pod}: {metric}: buckets");
            }
        }
        Ok(())
    }
}

/// What metrics say of a workload; the default is one that is not known.
pub(super) struct Workload {
    pub(super) pod: Pod,
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) app: String,
    pub(super) version: String,
    pub(super) revision: String,
    pub(super) cluster: String,
    pub(super) principal: String,
}

impl Default for Workload {
    fn default() -> Self {
        let unknown = || UNKNOWN.to_owned();
        let revision = "latest".to_owned();
        let (name, namespace, app, version, cluster, principal) = (unknown(), unknown(), unknown(), unknown(), unknown(), unknown());
        Self { pod: CLIENT, name, namespace, app, version, revision, cluster, principal }
    }
}

impl Workload {
    pub(super) fn of(pod: Pod) -> Self {
        let label = |key: &str| pod.labels.iter().find(|(label, _)| *label == key).map(|(_, value)| (*value).to_owned());
        Self {
            pod,
            name: pod.name.to_owned(),
            namespace: pod.namespace.to_owned(),
            app: label("app").unwrap_or_default(),
            version: label("version").unwrap_or_else(|| UNKNOWN.to_owned()),
            revision: label("version").unwrap_or_else(|| "latest".to_owned()),
            cluster: "Kubernetes".to_owned(),
            principal: format!("spiffe://cluster.local/ns/{}/sa/{}", pod.namespace, pod.service_account),
        }
    }

    fn labels(&self, side: &str, principal: &str) -> Labels {
        let labels = [
            ("workload", &*self.name),
            ("workload_namespace", &self.namespace),
            ("principal", principal),
            ("app", &self.app),
            ("version", &self.version),
            ("canonical_service", &self.app),
            ("canonical_revision", &self.revision),
            ("cluster", &self.cluster),
        ];
        labels.into_iter().map(|(label, value)| (format!("{side}_{label}"), value.to_owned())).collect()
    }
}

pub(super) fn of_source(workload: &Workload, principal: &str) -> Labels {
    workload.labels("source", principal)
}

pub(super) fn of_destination(workload: &Workload, principal: &str) -> Labels {
    workload.labels("destination", principal)
}

pub(super) fn of_http(code: &str, flags: &str) -> Labels {
    owned([("request_protocol", "http"), ("response_code", code), ("grpc_response_status", ""), ("response_flags", flags)])
}

/// Returns what is said of a call of gRPC.
pub(super) fn of_grpc(status: &str) -> Labels {
    owned([("request_protocol", "grpc"), ("response_code", "200"), ("grpc_response_status", status), ("response_flags", "-")])
}

pub(super) fn of_tcp() -> Labels {
    owned([("request_protocol", "tcp"), ("response_flags", "-")])
}

/// Returns all labels of a series: Istio has 25 of HTTP, and 23 of TCP.
pub(super) fn joined(reporter: &str, parts: [Labels; 3], [service, name, namespace]: Service, security: &str) -> Labels {
    let common = owned([
        ("reporter", reporter),
        ("destination_service", service),
        ("destination_service_name", name),
        ("destination_service_namespace", namespace),
        ("connection_security_policy", security),
    ]);
    parts.into_iter().flatten().chain(common).collect()
}

fn owned<const COUNT: usize>(labels: [(&str, &str); COUNT]) -> Labels {
    labels.into_iter().map(|(label, value)| (label.to_owned(), value.to_owned())).collect()
}

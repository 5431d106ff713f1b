//! The pods of the cluster, and how to get into their network.

use std::{net::IpAddr, path::PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Cluster, place::Place};
use crate::{admin::Admin, counters::Counters, launch::PORT_MONITORING};

/// A running pod, with its network entered.
#[derive(Debug)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    place: Place,
}

impl Pod {
    /// Returns its network: `127.0.0.1` is the pod's own there, and what is sent is captured as the application's would be.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Returns the counters of its Envoy.
    ///
    /// # Errors
    /// When Envoy does not answer.
    pub async fn counters(&self) -> Result<Counters> {
        let name = self.name.clone();
        self.place.run(async move { Counters::read(&name, Self::admin()).await }).await
    }

    /// Sends a GET to the control plane's monitoring port, from within its pod.
    ///
    /// # Errors
    /// Unless it answers with 200.
    pub async fn monitoring(&self, path: &str) -> Result<String> {
        let path = path.to_owned();
        self.place.run(async move { crate::http_client::get_text(([127, 0, 0, 1], PORT_MONITORING).into(), &path).await }).await
    }

    /// Returns its Envoy's admin port, as seen from its own place.
    pub fn admin() -> Admin {
        Admin::new(([127, 0, 0, 1], 15000).into())
    }
}

impl Cluster {
    /// Returns every pod with these labels that runs and is not about to end, by name.
    ///
    /// # Errors
    /// When the API server or containerd cannot be asked.
    pub async fn pods(&self, namespace: &str, labels: &str) -> Result<Vec<Pod>> {
        let listed = self.kubectl(&["-n", namespace, "get", "pods", "-l", labels, "-o", "json"]).await?;
        let listed: Value = serde_json::from_str(&listed)?;
        let mut pods = Vec::new();
        for pod in listed["items"].as_array().into_iter().flatten() {
            if pod["status"]["phase"] == "Running" && pod["metadata"]["deletionTimestamp"].is_null() {
                pods.push(self.pod(pod).await?);
            }
        }
        Ok(pods)
    }

    /// Returns the one pod with these labels.
    ///
    /// # Errors
    /// When there is not exactly one.
    pub async fn only_pod(&self, namespace: &str, labels: &str) -> Result<Pod> {
        let mut pods = self.pods(namespace, labels).await?;
        ensure!(
            pods.len() == 1,
            "{} pods in {namespace} with {labels}: {:?}",
            pods.len(),
            pods.iter().map(|pod| &pod.name).collect::<Vec<_>>()
        );
        pods.pop().context("there is one")
    }

    async fn pod(&self, pod: &Value) -> Result<Pod> {
        let name = pod["metadata"]["name"].as_str().context("a pod has a name")?;
        let address = pod["status"]["podIP"].as_str().context("a running pod has an address")?.parse()?;
        let container = pod["status"]["containerStatuses"][0]["containerID"].as_str().unwrap_or_default();
        let container = container.strip_prefix("containerd://").with_context(|| format!("{name} runs no container"))?;
        let place = Place::enter(&self.network_of(container).await?).with_context(|| format!("pod {name}"))?;
        Ok(Pod { namespace: pod["metadata"]["namespace"].as_str().unwrap_or_default().to_owned(), name: name.to_owned(), address, place })
    }

    /// Returns the network namespace of a container: a file of the node, seen through its first process.
    async fn network_of(&self, container: &str) -> Result<PathBuf> {
        let described: Value = serde_json::from_str(&self.on_node("ctr", &["-n", "k8s.io", "containers", "info", container]).await?)?;
        let namespaces = described["Spec"]["linux"]["namespaces"].as_array().context("a container has namespaces")?;
        let network = namespaces.iter().find(|namespace| namespace["type"] == "network");
        let path = network.and_then(|network| network["path"].as_str()).context("a container has a network")?;
        Ok(PathBuf::from(format!("/proc/{}/root{path}", self.init())))
    }
}

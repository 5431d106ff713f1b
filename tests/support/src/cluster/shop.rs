//! The mesh of `manifests/demo` on the cluster: the shop, its client and its ingress gateway.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{Cluster, PATIENCE, pods::Pod};
use crate::{
    canary::Stage,
    convergence::{self, Converged, unix_millis},
    counters::Counters,
    http_client::get,
    load::{Load, Path, Plan},
    mesh::{MESH_HOST, PUBLIC_HOST, VIRTUAL_SERVICE},
    wait,
    workload::{ECHO_PORT, HTTP_PORT},
};

/// The control plane's namespace.
pub const SYSTEM: &str = "istio-system";
/// The shop's.
pub const SHOP: &str = "shop";
/// The gateway's.
pub const INGRESS: &str = "istio-ingress";
/// The control plane's pods.
pub const ISTIOD: &str = "app=istiod";

/// An answer later than this is a failure. The machine starts pods while it answers; a connection to nobody takes longer.
const LATE: Duration = Duration::from_secs(5);
/// How long a change may take to every Envoy's ACK.
const CONVERGE: Duration = Duration::from_secs(30);

/// The mesh, installed and ready.
#[derive(Debug)]
pub struct Shop<'a> {
    cluster: &'a Cluster,
    gateway: Pod,
    client: Pod,
    /// `reviews` v1 and v2 as they were when the mesh was ready.
    reviews: Vec<Pod>,
    /// The address of the Service `reviews`, and of the gateway's.
    services: [std::net::IpAddr; 2],
}

/// Applies `manifests/{crds,base,demo}` in that order, each when the one before is ready, as the docs say.
///
/// # Errors
/// When one is refused or does not become ready; with what the cluster says of it.
pub async fn install(cluster: &Cluster) -> Result<()> {
    cluster.apply_folder("crds").await?;
    cluster.wait_for("default", "condition=Established", &["customresourcedefinition", "--all"]).await?;
    cluster.apply_folder("base").await?;
    available(cluster, SYSTEM, &["istiod"]).await?;
    cluster.apply_folder("demo").await?;
    available(cluster, INGRESS, &["istio-ingressgateway"]).await?;
    available(cluster, SHOP, &["reviews-v1", "reviews-v2", "client"]).await
}

/// Waits until Deployments are available.
///
/// # Errors
/// When they do not become so; with the state and the events of their namespace.
pub async fn available(cluster: &Cluster, namespace: &str, deployments: &[&str]) -> Result<()> {
    let names = deployments.iter().map(|name| format!("deployment/{name}")).collect::<Vec<_>>();
    let names = names.iter().map(String::as_str).collect::<Vec<_>>();
    match cluster.wait_for(namespace, "condition=Available", &names).await {
        Ok(()) => Ok(()),
        Err(error) => Err(error.context(account(cluster, namespace).await)),
    }
}

/// Returns what a person would look at when a namespace's pods do not come up.
pub async fn account(cluster: &Cluster, namespace: &str) -> String {
    let mut text = String::new();
    for arguments in [
        &["get", "pods,deployments,replicasets", "-o", "wide"][..],
        &["get", "events", "--sort-by=.lastTimestamp"],
        &["logs", "--all-containers", "--prefix", "--tail=15", "-l", "app", "--max-log-requests=20"],
    ] {
        let said = cluster.kubectl(&[&["-n", namespace], arguments].concat()).await;
        text += &format!("{}\n", said.unwrap_or_else(|error| format!("{error:#}")));
    }
    text
}

impl<'a> Shop<'a> {
    /// Finds the mesh's pods; waits until requests pass on both ways.
    ///
    /// # Errors
    /// When a pod is missing or no request passes in time.
    pub async fn find(cluster: &'a Cluster) -> Result<Self> {
        let mut reviews = Vec::new();
        for version in ["v1", "v2"] {
            reviews.push(cluster.only_pod(SHOP, &format!("app=reviews,version={version}")).await?);
        }
        let services = [cluster.service(SHOP, "reviews").await?, cluster.service(INGRESS, "istio-ingressgateway").await?];
        let gateway = cluster.only_pod(INGRESS, "istio=ingressgateway").await?;
        let client = cluster.only_pod(SHOP, "app=client").await?;
        let shop = Self { cluster, gateway, client, reviews, services };
        for (path, from) in [(shop.public(), shop.cluster.node()), (shop.inner(), shop.client.place())] {
            wait::until(&format!("a first answer through {}", path.name), PATIENCE, || {
                let path = path.clone();
                from.run(async move {
                    let response = get(path.target, &path.host, "/").await?;
                    ensure!(response.status == http::StatusCode::OK, "status {}: {}", response.status, response.text());
                    Ok(())
                })
            })
            .await?;
        }
        Ok(shop)
    }

    /// Returns the client's pod.
    pub fn client(&self) -> &Pod {
        &self.client
    }

    /// Returns the pods of `reviews` v1 and v2, as they were when this was found.
    pub fn versions(&self) -> &[Pod] {
        &self.reviews
    }

    /// Returns the gateway's pod.
    pub fn gateway(&self) -> &Pod {
        &self.gateway
    }

    /// Returns the address of the Service `reviews` for HTTP.
    pub fn reviews(&self) -> SocketAddr {
        SocketAddr::new(self.services[0], HTTP_PORT)
    }

    /// Starts load: from outside through the gateway, and from the client's pod through its sidecar. `tcp` keeps TCP
    /// connections open besides.
    pub fn load(&self, rate: u32, tcp: bool) -> Load {
        let plan = |path| Plan { late: LATE, ..Plan::new(vec![path], rate) };
        let outside = plan(self.public());
        let mut inside = plan(self.inner());
        inside.tcp = tcp.then_some((SocketAddr::new(self.services[0], ECHO_PORT), 2));
        let mut load = {
            let _there = self.cluster.node().handle().enter();
            Load::start(&outside)
        };
        load.send_from(&inside, self.client.place().handle());
        load
    }

    /// Returns the counters of the Envoys at which load enters the mesh.
    ///
    /// # Errors
    /// When one does not answer.
    pub async fn entrances(&self) -> Result<Vec<Counters>> {
        Ok(vec![self.gateway.counters().await?, self.client.counters().await?])
    }

    /// Returns the control plane's pods that run.
    ///
    /// # Errors
    /// When the cluster cannot be asked.
    pub async fn control_planes(&self) -> Result<Vec<Pod>> {
        self.cluster.pods(SYSTEM, ISTIOD).await
    }

    /// Returns the kubelet's account of probes that failed in the last hour: it tells a machine that is too busy from a fault of the
    /// mesh.
    ///
    /// # Errors
    /// When the cluster cannot be asked.
    pub async fn failed_probes(&self) -> Result<String> {
        let told = self.cluster.kubectl(&["get", "events", "-A", "--field-selector=reason=Unhealthy", "--sort-by=.lastTimestamp"]).await?;
        let condition = r#"{range .items[*]}{.metadata.name}{range .status.conditions[?(@.type=="Ready")]}: ready {.status} since {.lastTransitionTime}{end}{"\n"}{end}"#;
        let pods = self.cluster.kubectl(&["-n", SHOP, "get", "pods", "-o", &format!("jsonpath={condition}")]).await?;
        Ok(format!("probes that failed:\n{}\nnow:\n{}", if told.is_empty() { "none" } else { told.trim_end() }, pods.trim_end()))
    }

    fn public(&self) -> Path {
        Path { name: "gateway", target: SocketAddr::new(self.services[1], 80), host: PUBLIC_HOST.to_owned() }
    }

    fn inner(&self) -> Path {
        Path { name: "mesh", target: self.reviews(), host: MESH_HOST.to_owned() }
    }

    /// Returns how often containers of the mesh were started again.
    async fn restarts(&self) -> Result<Vec<String>> {
        let listed: Value = serde_json::from_str(&self.cluster.kubectl(&["get", "pods", "-A", "-o", "json"]).await?)?;
        let mut found = Vec::new();
        for pod in listed["items"].as_array().context("a list")? {
            for kind in ["containerStatuses", "initContainerStatuses"] {
                for container in pod["status"][kind].as_array().into_iter().flatten() {
                    if container["restartCount"].as_u64().unwrap_or_default() > 0 {
                        found.push(format!("{}/{}: {}", pod["metadata"]["name"], container["name"], container["lastState"]));
                    }
                }
            }
        }
        Ok(found)
    }
}

impl Stage for Shop<'_> {
    const EDITED: &'static str = "VirtualService reviews";

    async fn load(&self, rate: u32) -> Result<Load> {
        Ok(self.load(rate, true))
    }

    async fn counters(&self) -> Result<Vec<Counters>> {
        let mut counted = self.entrances().await?;
        for pod in &self.reviews {
            counted.push(pod.counters().await?);
        }
        Ok(counted)
    }

    async fn shift(&self, v2_percent: u32) -> Result<Converged> {
        let edited = unix_millis();
        let change =
            |place: usize, weight: u32| json!({"op": "replace", "path": format!("/spec/http/0/route/{place}/weight"), "value": weight});
        let patch = json!([change(0, 100 - v2_percent), change(1, v2_percent)]).to_string();
        let said = self.cluster.kubectl(&["-n", SHOP, "patch", "virtualservice", "reviews", "--type=json", "-p", &patch]).await?;
        if said.contains("no change") {
            return Ok(Converged { took: Duration::ZERO, proxies: 0 });
        }
        let istiod = self.cluster.only_pod(SYSTEM, ISTIOD).await?;
        wait::until("the last ACK of the weights", CONVERGE, || async {
            convergence::read(&istiod.monitoring("/debug/convergence").await?, VIRTUAL_SERVICE, edited)
        })
        .await
    }

    async fn turn_v2(&self, bad: bool) -> Result<()> {
        let turn = if bad { "bad" } else { "good" };
        self.cluster.kubectl(&["-n", SHOP, "exec", "deployment/reviews-v2", "-c", "reviews", "--", "/reviews", "turn", turn]).await?;
        Ok(())
    }

    async fn circumstances(&self) -> String {
        self.failed_probes().await.unwrap_or_else(|error| format!("{error:#}"))
    }

    async fn check_running(&mut self) -> Result<()> {
        let restarts = self.restarts().await?;
        ensure!(restarts.is_empty(), "containers ended by themselves: {restarts:?}");
        Ok(())
    }
}

impl Cluster {
    /// Returns the address of a Service.
    ///
    /// # Errors
    /// When there is none.
    pub async fn service(&self, namespace: &str, name: &str) -> Result<std::net::IpAddr> {
        let address = self.kubectl(&["-n", namespace, "get", "service", name, "-o", "jsonpath={.spec.clusterIP}"]).await?;
        address.parse().with_context(|| format!("the address of {namespace}/{name}"))
    }
}

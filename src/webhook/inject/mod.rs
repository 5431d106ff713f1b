//! Adds the proxy to a pod (contract §5), for the webhook and for `istiod-lite inject`.
//!
//! The steps: an earlier injection is undone ([`restore`]), the pod's annotations are read ([`annotations`]), a [`template`] is
//! rendered from them and the settings of the mesh, the result is merged over the pod ([`merge`]), and probes and Prometheus
//! are diverted to the agent ([`probes`], [`prometheus`]). What of the pod defeats its proxy is warned of ([`obstacles`]).

mod annotations;
pub mod decision;
mod merge;
mod metrics;
mod obstacles;
pub mod offline;
mod patch;
mod path;
mod probes;
mod prometheus;
mod restore;
mod service;
pub mod settings;
mod shape;
mod template;
mod value;
mod workload;

use k8s_openapi::api::core::v1::Pod;
use serde::Deserialize;
use serde_json::Value;

use self::{
    annotations::{Annotations, Template},
    template::TemplateInputs,
};
pub use self::{
    metrics::{InjectionMetrics, Outcome},
    path::Parameters,
    restore::STATUS,
    service::{Injector, routes},
    settings::Settings,
    workload::Owner,
};
use crate::{
    api::proxy_config::{InterceptionMode, ProxyConfig},
    mesh::{model::Labels, policy::proxy_config::proxy_config, world::World},
};

/// Where a pod is to run, and the settings that apply to it.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings<'a> {
    /// The namespace of the pod.
    pub namespace: &'a str,
    /// The level of the Pod Security Standards that the namespace enforces; `None` if that is unknown.
    pub pod_security: Option<&'a str>,
    /// The owner of the pod; `None` to find it by the controller reference.
    pub owner: Option<&'a Owner>,
    /// The parameters in the webhook's URL.
    pub parameters: &'a Parameters,
    /// The settings of the operator.
    pub settings: &'a Settings,
    /// What the mesh says of proxies.
    pub world: &'a World,
}

/// A pod with its proxy.
#[derive(Clone, Debug, PartialEq)]
pub struct Injected {
    /// The pod as a JSON document.
    pub pod: Value,
    /// What is doubtful about the pod.
    pub warnings: Vec<String>,
}

/// Why a pod cannot be injected, one line for each reason, which names the annotation or field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct Refused(pub Vec<String>);

/// Adds the proxy to a pod. Whether the pod is to have one is decided in [`decision`].
///
/// # Errors
/// When the document is no pod, or its annotations ask for what cannot be done.
pub fn inject(original: &Value, around: Surroundings<'_>) -> Result<Injected, Refused> {
    let metadata = typed(original)?.metadata;
    let (annotations, found) = annotations::read(&metadata.annotations.unwrap_or_default());
    let labels = metadata.labels.into_iter().flatten().map(|(key, value)| (key.into(), value.into())).collect::<Labels>();
    let config = proxy_config(around.world, around.namespace, &labels, &annotations.config);
    let template = annotations.template.unwrap_or_default();
    refuse(found.refusals, &annotations, &config, template)?;

    let port = annotations.status_port.or(config.status_port).unwrap_or(template::STATUS_PORT);
    let merges_metrics = prometheus::is_wanted(&annotations, &around.world.proxy_defaults);
    let mut pod = restore::restore(original, Some(port).filter(|_| merges_metrics));
    let before = typed(&pod)?;
    let owner = around.owner.cloned().unwrap_or_else(|| Owner::of(&before));
    let inputs = TemplateInputs {
        pod: &before,
        namespace: around.namespace,
        owner: &owner,
        annotations: &annotations,
        config: &config,
        parameters: around.parameters,
        settings: around.settings,
        mesh: &around.world.mesh,
    };
    let rendered = serde_json::to_value(template::render(template, &inputs)).map_err(|error| Refused(vec![error.to_string()]))?;
    let added = merge::merge(&mut pod, rendered);

    let mut warnings = found.warnings;
    let rewrites_probes = annotations.rewrite_probes.unwrap_or(around.settings.rewrite_probes) && inputs.status_port().is_some();
    warnings.extend(template::doubt_of_image(&inputs));
    warnings.extend(obstacles::of(template, &inputs, around.pod_security, rewrites_probes));
    warnings.extend(added.left_out.iter().cloned());
    if let Some(port) = inputs.status_port() {
        if rewrites_probes {
            warnings.extend(probes::rewrite(&mut pod, port));
        }
        if merges_metrics {
            prometheus::merge(&mut pod, port);
        }
    }
    restore::record(&mut pod, &added, around.settings.named_revision().unwrap_or("default"));
    Ok(Injected { pod, warnings })
}

fn typed(pod: &Value) -> Result<Pod, Refused> {
    let read = Pod::deserialize(pod);
    let refused = |why: &str| Refused(vec![format!("is no Pod: {why}")]);
    match read {
        Ok(pod) if pod.spec.is_some() => Ok(pod),
        Ok(_) => Err(refused("spec is missing")),
        Err(error) => Err(refused(&error.to_string())),
    }
}

fn refuse(mut refusals: Vec<String>, annotations: &Annotations, config: &ProxyConfig, template: Template) -> Result<(), Refused> {
    let mode = annotations.interception.or(config.interception_mode).unwrap_or_default();
    if template == Template::Sidecar && mode == InterceptionMode::Tproxy {
        let name = if annotations.interception.is_some() {
            "annotation sidecar.istio.io/interceptionMode"
        } else {
            "ProxyConfig interceptionMode"
        };
        refusals.push(format!("{name}: TPROXY is not supported; use REDIRECT, or NONE for no capture"));
    }
    if refusals.is_empty() { Ok(()) } else { Err(Refused(refusals)) }
}

#[cfg(test)]
mod tests;

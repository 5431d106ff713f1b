//! Renders the container of the proxy: a stock Envoy under `istiod-lite agent`.

use k8s_openapi::{
    api::core::v1::{
        Capabilities, Container, ContainerPort, ExecAction, HTTPGetAction, Lifecycle, LifecycleHandler, Probe, ResourceRequirements,
        SecurityContext,
    },
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{PROXY, Template, TemplateInputs, environment, image, volumes};
use crate::api::proxy_config::InterceptionMode;

/// The user that Envoy and the agent run as, whose traffic is not captured.
const PROXY_USER: i64 = 1337;
/// The port at which Envoy serves readiness.
pub(in crate::webhook::inject) const READINESS_PORT: u16 = 15021;
/// The port at which Envoy serves its metrics.
pub(in crate::webhook::inject) const METRICS_PORT: u16 = 15090;

/// Renders a native sidecar: an init container that keeps running. The kubelet starts the containers after it when its startup
/// probe succeeds, and stops it after the application's containers have ended.
pub(super) fn sidecar(inputs: &TemplateInputs<'_>) -> Container {
    Container {
        restart_policy: Some("Always".to_owned()),
        startup_probe: inputs.status_port().map(|_| startup_probe()),
        readiness_probe: inputs.status_port().map(|_| readiness_probe(inputs)),
        lifecycle: Some(drain_first(inputs)),
        security_context: Some(security_context(inputs)),
        ..container(Template::Sidecar, inputs)
    }
}

/// Renders the only container of a gateway's pod.
pub(super) fn gateway(inputs: &TemplateInputs<'_>) -> Container {
    Container {
        readiness_probe: Some(readiness_probe(inputs)),
        lifecycle: Some(drain_first(inputs)),
        security_context: Some(security_context(inputs)),
        ..container(Template::Gateway, inputs)
    }
}

pub(super) fn resources(inputs: &TemplateInputs<'_>) -> ResourceRequirements {
    inputs.annotations.resources.as_ref().unwrap_or(&inputs.settings.resources).requirements()
}

/// Returns the user whose traffic is not captured: the one that the user's `istio-proxy` container names, unless it is root.
pub(in crate::webhook::inject) fn user(inputs: &TemplateInputs<'_>) -> i64 {
    completed(inputs, |context| context.run_as_user).filter(|user| *user != 0).unwrap_or(PROXY_USER)
}

pub(in crate::webhook::inject) fn group(inputs: &TemplateInputs<'_>) -> i64 {
    completed(inputs, |context| context.run_as_group).filter(|group| *group != 0).unwrap_or(PROXY_USER)
}

fn completed(inputs: &TemplateInputs<'_>, field: impl Fn(&SecurityContext) -> Option<i64>) -> Option<i64> {
    let spec = inputs.pod.spec.as_ref()?;
    let mut containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let own = containers.find(|container| container.name == PROXY)?;
    field(own.security_context.as_ref()?)
}

fn container(template: Template, inputs: &TemplateInputs<'_>) -> Container {
    Container {
        name: PROXY.to_owned(),
        image: Some(image::of(inputs)),
        image_pull_policy: inputs.settings.image_pull_policy.clone(),
        command: Some(vec!["istiod-lite".to_owned()]),
        args: Some(arguments(template, inputs)),
        env: Some(environment::of(inputs)),
        ports: Some(vec![ContainerPort {
            container_port: METRICS_PORT.into(),
            name: Some("http-envoy-prom".to_owned()),
            protocol: Some("TCP".to_owned()),
            ..ContainerPort::default()
        }]),
        resources: Some(resources(inputs)),
        volume_mounts: Some(volumes::mounts(template, inputs)),
        ..Container::default()
    }
}

fn arguments(template: Template, inputs: &TemplateInputs<'_>) -> Vec<String> {
    let role = match template {
        Template::Sidecar => "sidecar",
        Template::Gateway => "gateway",
    };
    let (annotations, settings) = (inputs.annotations, inputs.settings);
    let mut arguments = vec!["agent".to_owned(), role.to_owned()];
    let mut flag = |name: &str, value: &str| arguments.extend([format!("--{name}"), value.to_owned()]);
    flag("dns-domain", &settings.domain);
    flag("work-dir", volumes::WORK_DIR);
    flag("labels-file", volumes::LABELS_FILE);
    flag("envoy-log-level", annotations.envoy_log_level.as_ref().unwrap_or(&settings.envoy_log_level));
    flag("log-level", annotations.agent_log_level.as_ref().unwrap_or(&settings.agent_log_level));
    if let Some(port) = inputs.status_port() {
        flag("agent-port", &port.to_string());
    }
    if let Some(levels) = &annotations.component_log_level {
        flag("envoy-arg", "--component-log-level");
        flag("envoy-arg", levels);
    }
    arguments
}

/// Starts to drain when the pod begins to end. The signal to end comes only after the application's containers have ended.
fn drain_first(inputs: &TemplateInputs<'_>) -> Lifecycle {
    let mut command = ["istiod-lite", "agent", "drain"].map(str::to_owned).to_vec();
    if let Some(port) = inputs.status_port() {
        command.extend(["--agent-port".to_owned(), port.to_string()]);
    }
    let drain = LifecycleHandler { exec: Some(ExecAction { command: Some(command) }), ..LifecycleHandler::default() };
    Lifecycle { pre_stop: Some(drain), ..Lifecycle::default() }
}

/// Returns the probe that the application waits for: it runs every second for up to ten minutes.
fn startup_probe() -> Probe {
    Probe { period_seconds: Some(1), failure_threshold: Some(600), timeout_seconds: Some(3), ..ready() }
}

fn readiness_probe(inputs: &TemplateInputs<'_>) -> Probe {
    let asked = &inputs.annotations.readiness;
    Probe {
        initial_delay_seconds: asked.initial_delay_seconds.filter(|seconds| *seconds > 0),
        period_seconds: Some(asked.period_seconds.unwrap_or(15)),
        failure_threshold: Some(asked.failure_threshold.unwrap_or(4)),
        timeout_seconds: Some(3),
        ..ready()
    }
}

fn ready() -> Probe {
    let http_get = HTTPGetAction {
        path: Some("/healthz/ready".to_owned()),
        port: IntOrString::Int(READINESS_PORT.into()),
        ..HTTPGetAction::default()
    };
    Probe { http_get: Some(http_get), ..Probe::default() }
}

fn security_context(inputs: &TemplateInputs<'_>) -> SecurityContext {
    // Only root may use an added capability. The proxy's traffic is then recognised by its group.
    let low_ports = inputs.annotations.cap_net_bind_service && inputs.interception() != InterceptionMode::Tproxy;
    SecurityContext {
        allow_privilege_escalation: Some(false),
        privileged: Some(false),
        capabilities: Some(Capabilities {
            add: low_ports.then(|| vec!["NET_BIND_SERVICE".to_owned()]),
            drop: Some(vec!["ALL".to_owned()]),
        }),
        read_only_root_filesystem: Some(true),
        run_as_group: Some(PROXY_USER),
        run_as_non_root: Some(!low_ports),
        run_as_user: Some(if low_ports { 0 } else { PROXY_USER }),
        ..SecurityContext::default()
    }
}

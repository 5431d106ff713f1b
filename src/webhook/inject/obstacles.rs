//! Finds what in a pod defeats its proxy: what goes past it, what takes its place, what keeps it from becoming ready. The pod is
//! injected all the same, and whoever creates it is warned.

use k8s_openapi::api::core::v1::{Container, ContainerPort, PodSecurityContext, PodSpec, SecurityContext};

use super::{
    annotations::Template,
    merge::AUTO_IMAGE,
    template::{self, INIT, METRICS_PORT, OWN_VOLUMES, PROXY, READINESS_PORT, TLS_MODE, TemplateInputs},
};
use crate::api::proxy_config::InterceptionMode;

/// Returns a warning for each obstacle. `pod_security` is the level that the pod's namespace enforces.
pub(super) fn of(template: Template, inputs: &TemplateInputs<'_>, pod_security: Option<&str>, rewrites_probes: bool) -> Vec<String> {
    let Some(spec) = &inputs.pod.spec else { return Vec::new() };
    let mut warnings = ports_of_the_proxy(template, inputs, spec);
    if template == Template::Sidecar {
        if inputs.interception() != InterceptionMode::None {
            warnings.extend(users_of_the_proxy(inputs, spec));
            warnings.extend(ports_without_capture(inputs, spec));
        }
        if !rewrites_probes {
            warnings.extend(probes_from_outside(spec));
        }
        warnings.extend(tls_mode(inputs));
    }
    warnings.extend(volumes_of_the_proxy(spec));
    warnings.extend(other_proxy(inputs, spec));
    warnings.extend(unreachable_control_plane(inputs, spec));
    warnings.extend(pod_security.and_then(|level| refused_by_pod_security(level, template, inputs, spec)));
    warnings
}

/// Warns of ports that both the proxy and the application would bind.
fn ports_of_the_proxy(template: Template, inputs: &TemplateInputs<'_>, spec: &PodSpec) -> Vec<String> {
    let (mesh, status) = (inputs.mesh, inputs.status_port());
    let mut taken = vec![(inputs.admin_port(), "Envoy's admin"), (READINESS_PORT, "its readiness"), (METRICS_PORT, "its metrics")];
    taken.extend(status.map(|port| (port, "the agent")));
    if template == Template::Sidecar {
        taken.extend([(mesh.proxy_listen_port, "outbound traffic"), (mesh.proxy_inbound_listen_port, "inbound traffic")]);
        taken.extend(Some(mesh.proxy_http_port).filter(|port| *port != 0).map(|port| (port, "its HTTP proxy")));
    }
    let found = tcp_ports(spec).filter_map(|(container, port)| {
        let (number, purpose) = taken.iter().find(|(number, _)| i32::from(*number) == port.container_port)?;
        let name = &container.name;
        Some(format!("container {name}: port {number} is the proxy's ({purpose}), and only one can listen there; use another port"))
    });
    found.collect()
}

/// Warns of containers whose traffic is taken for the proxy's.
fn users_of_the_proxy(inputs: &TemplateInputs<'_>, spec: &PodSpec) -> Vec<String> {
    let of_pod = |field: fn(&PodSecurityContext) -> Option<i64>| spec.security_context.as_ref().and_then(field);
    let found = containers(spec).flat_map(|container| {
        let own = |field: fn(&SecurityContext) -> Option<i64>| container.security_context.as_ref().and_then(field);
        let user = own(|context| context.run_as_user).or_else(|| of_pod(|context| context.run_as_user));
        let group = own(|context| context.run_as_group).or_else(|| of_pod(|context| context.run_as_group));
        let (users, groups) = (template::user(inputs), template::group(inputs));
        let taken = [("user", user.filter(|user| *user == users)), ("group", group.filter(|group| *group == groups))];
        let taken = taken.into_iter().find_map(|(what, id)| Some((what, id?)));
        taken.map(|(what, id)| {
            let name = &container.name;
            format!("container {name}: {what} {id} is the proxy's, so that what it sends goes out without the proxy and without mTLS; run it as another {what}")
        })
    });
    found.collect()
}

/// Warns of ports that clients speak mTLS to and that connections reach without the proxy.
fn ports_without_capture(inputs: &TemplateInputs<'_>, spec: &PodSpec) -> Vec<String> {
    if inputs.labels().get(TLS_MODE).is_some_and(|mode| mode != "istio") {
        return Vec::new();
    }
    let (asked, default) = (&inputs.annotations.capture, &inputs.settings.capture);
    let included = asked.include_inbound_ports.as_ref().unwrap_or(&default.include_inbound_ports);
    let excluded = asked.exclude_inbound_ports.as_ref().unwrap_or(&default.exclude_inbound_ports);
    let lists = |list: &str, port: i32| list == "*" || list.split(',').any(|listed| listed.parse() == Ok(port));
    let found = tcp_ports(spec).filter(|(_, port)| !lists(included, port.container_port) || lists(excluded, port.container_port));
    let warning = |(container, port): (&Container, &ContainerPort)| {
        let (name, port) = (&container.name, port.container_port);
        format!(
            "container {name}: port {port} is not captured, but clients in the mesh speak mTLS to it; capture it, or have mTLS mode \
             DISABLE for this port in a PeerAuthentication"
        )
    };
    found.map(warning).collect()
}

/// Warns of probes that reach the application in plain text from outside the mesh.
fn probes_from_outside(spec: &PodSpec) -> Vec<String> {
    let found = containers(spec).filter_map(|container| {
        let probes = [
            ("livenessProbe", &container.liveness_probe),
            ("readinessProbe", &container.readiness_probe),
            ("startupProbe", &container.startup_probe),
        ];
        let (probe, _) = probes.into_iter().find(|(_, probe)| {
            probe.as_ref().is_some_and(|probe| probe.http_get.is_some() || probe.tcp_socket.is_some() || probe.grpc.is_some())
        })?;
        let name = &container.name;
        Some(format!(
            "container {name}: {probe} is not led through the agent, and fails while mTLS is STRICT; have it rewritten, or use a port \
             that is not captured"
        ))
    });
    found.collect()
}

fn tls_mode(inputs: &TemplateInputs<'_>) -> Option<String> {
    let mode = inputs.labels().remove(TLS_MODE).filter(|mode| !matches!(mode.as_str(), "istio" | "disabled"))?;
    Some(format!("label {TLS_MODE}: {mode:?} is neither istio nor disabled, and turns mTLS off for clients; leave the label out"))
}

/// Warns of volumes that the proxy mounts in place of its own.
fn volumes_of_the_proxy(spec: &PodSpec) -> Vec<String> {
    let found = spec.volumes.iter().flatten().filter(|volume| OWN_VOLUMES.contains(&volume.name.as_str()));
    let warning = |name: &str| {
        format!("volume {name}: the proxy mounts it in place of its own of that name, without which it may not start; rename it")
    };
    found.map(|volume| warning(&volume.name)).collect()
}

/// Warns of Istio's own image for the proxy, which does not hold what the template starts.
fn other_proxy(inputs: &TemplateInputs<'_>, spec: &PodSpec) -> Option<String> {
    let all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let own = all.filter(|container| container.name == PROXY).find_map(|container| container.image.clone());
    let image = own.filter(|image| image != AUTO_IMAGE).or_else(|| inputs.annotations.image.clone())?;
    let name = image.rsplit('/').next()?.split([':', '@']).next()?;
    (name == "proxyv2").then(|| format!("image {image} is Istio's, and has no istiod-lite to start; leave it out, or write \"auto\""))
}

/// Warns if the pod does not use the cluster's DNS, which alone knows the Service of the control plane.
fn unreachable_control_plane(inputs: &TemplateInputs<'_>, spec: &PodSpec) -> Option<String> {
    let policy = spec.dns_policy.as_deref()?;
    let domain = &inputs.settings.domain;
    let config = spec.dns_config.as_ref();
    let searches = config.and_then(|config| config.searches.as_deref()).unwrap_or_default();
    // Without the node's network, `ClusterFirstWithHostNet` is the same as `ClusterFirst`.
    let finds = match policy {
        "ClusterFirst" | "ClusterFirstWithHostNet" => true,
        "None" => searches.iter().any(|search| search.trim_end_matches('.') == domain),
        _ => false,
    };
    (!finds).then(|| {
        format!(
            "spec.dnsPolicy is {policy}: the proxy may not find the control plane; use ClusterFirst, or None with the cluster's \
             resolver and {domain} in spec.dnsConfig.searches"
        )
    })
}

/// Warns if Kubernetes will refuse the pod with its proxy, by the Pod Security Standards.
fn refused_by_pod_security(level: &str, template: Template, inputs: &TemplateInputs<'_>, spec: &PodSpec) -> Option<String> {
    let captures = template == Template::Sidecar && inputs.interception() != InterceptionMode::None;
    let seccomp = spec.security_context.as_ref().and_then(|context| context.seccomp_profile.as_ref());
    let why = match level {
        "baseline" | "restricted" if captures => {
            "which forbids istio-init NET_ADMIN and NET_RAW; enforce privileged, or capture nothing (sidecar.istio.io/interceptionMode: NONE)"
        }
        "restricted" if inputs.annotations.cap_net_bind_service => {
            "which forbids the proxy to run as root; leave out sidecar.istio.io/capNetBindService"
        }
        "restricted" if seccomp.is_none() => {
            "which wants a seccomp profile for the proxy; set spec.securityContext.seccompProfile to RuntimeDefault"
        }
        _ => return None,
    };
    Some(format!("namespace {} enforces the pod security level {level}, {why}", inputs.namespace))
}

/// Returns the application's containers, init containers included.
fn containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    let all = spec.init_containers.iter().flatten().chain(&spec.containers);
    all.filter(|container| container.name != PROXY && container.name != INIT)
}

fn tcp_ports(spec: &PodSpec) -> impl Iterator<Item = (&Container, &ContainerPort)> {
    let ports = containers(spec).flat_map(|container| container.ports.iter().flatten().map(move |port| (container, port)));
    ports.filter(|(_, port)| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP"))
}

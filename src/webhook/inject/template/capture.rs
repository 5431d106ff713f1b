//! Renders the init container that captures traffic: it runs `istiod-lite capture` as root before all other containers.

use k8s_openapi::api::core::v1::{Capabilities, Container, SecurityContext};

use super::{INIT, METRICS_PORT, READINESS_PORT, TemplateInputs, image, proxy};
use crate::api::proxy_config::InterceptionMode;

/// Renders the container, unless the pod's traffic is not captured.
pub(super) fn init_container(inputs: &TemplateInputs<'_>) -> Option<Container> {
    if inputs.interception() == InterceptionMode::None {
        return None;
    }
    Some(Container {
        name: INIT.to_owned(),
        image: Some(image::of(inputs)),
        image_pull_policy: inputs.settings.image_pull_policy.clone(),
        command: Some(vec!["istiod-lite".to_owned()]),
        args: Some(arguments(inputs)),
        resources: Some(proxy::resources(inputs)),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            privileged: Some(false),
            capabilities: Some(Capabilities {
                add: Some(vec!["NET_ADMIN".to_owned(), "NET_RAW".to_owned()]),
                drop: Some(vec!["ALL".to_owned()]),
            }),
            read_only_root_filesystem: Some(false),
            run_as_group: Some(0),
            run_as_non_root: Some(false),
            run_as_user: Some(0),
            ..SecurityContext::default()
        }),
        ..Container::default()
    })
}

fn arguments(inputs: &TemplateInputs<'_>) -> Vec<String> {
    let (asked, default) = (&inputs.annotations.capture, &inputs.settings.capture);
    let or = |asked: &Option<String>, default: &String| asked.as_ref().unwrap_or(default).clone();
    let flags = [
        ("--mode", inputs.interception().as_str().to_owned()),
        ("--outbound-port", inputs.mesh.proxy_listen_port.to_string()),
        ("--inbound-port", inputs.mesh.proxy_inbound_listen_port.to_string()),
        ("--uid", proxy::user(inputs).to_string()),
        ("--gid", proxy::group(inputs).to_string()),
        ("--include-inbound-ports", or(&asked.include_inbound_ports, &default.include_inbound_ports)),
        ("--exclude-inbound-ports", excluded_inbound(inputs)),
        ("--include-outbound-ranges", or(&asked.include_outbound_ranges, &default.include_outbound_ranges)),
        ("--exclude-outbound-ranges", or(&asked.exclude_outbound_ranges, &default.exclude_outbound_ranges)),
        ("--include-outbound-ports", or(&asked.include_outbound_ports, &default.include_outbound_ports)),
        ("--exclude-outbound-ports", or(&asked.exclude_outbound_ports, &default.exclude_outbound_ports)),
        ("--exclude-interfaces", asked.exclude_interfaces.clone().unwrap_or_default()),
    ];
    let flags = flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]);
    [String::from("capture")].into_iter().chain(flags).collect()
}

fn excluded_inbound(inputs: &TemplateInputs<'_>) -> String {
    // These are scraped and probed from outside the mesh in plain text.
    let own = [METRICS_PORT, READINESS_PORT].into_iter().chain(inputs.status_port()).map(|port| port.to_string());
    let asked = inputs.annotations.capture.exclude_inbound_ports.as_ref().unwrap_or(&inputs.settings.capture.exclude_inbound_ports);
    let asked = asked.split(',').filter(|port| !port.is_empty()).map(str::to_owned);
    let mut ports: Vec<String> = own.collect();
    for port in asked {
        if !ports.contains(&port) {
            ports.push(port);
        }
    }
    ports.join(",")
}

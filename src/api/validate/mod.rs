//! Istio's rules for its kinds (contract §5.6), and those of the API server that a folder of YAML goes without, on objects
//! that could be read. An error keeps the object from being
//! applied: Envoy, or a person, would misunderstand it.

mod destination_rule;
mod gateway;
mod host;
mod http_route;
mod kubernetes;
mod regex;
mod service_entry;
mod sidecar;
mod text;
mod virtual_service;

use super::{
    Object, Spec,
    findings::{Findings, Path},
    istio::PeerAuthentication,
};

/// Checks one object.
pub(super) fn object(object: &Object, findings: &Findings) {
    let check = Check { namespace: &object.key.namespace, findings };
    let spec = Path::Root.field("spec");
    match &object.spec {
        Spec::VirtualService(service) => check.virtual_service(service, &spec),
        Spec::DestinationRule(rule) => check.destination_rule(rule, &spec),
        Spec::Gateway(gateway) => check.gateway(&object.key.name, gateway, &spec),
        Spec::Sidecar(sidecar) => check.sidecar(sidecar, &spec),
        Spec::ServiceEntry(entry) => check.service_entry(entry, &spec),
        Spec::WorkloadEntry(entry) => check.workload_entry(entry, &spec),
        Spec::PeerAuthentication(authentication) => check.peer_authentication(authentication, &spec),
        Spec::Service(service) => check.service(service, &spec),
        Spec::EndpointSlice(slice) => check.endpoint_slice(slice, &Path::Root),
        // Checked as they were read.
        Spec::Namespace | Spec::Node | Spec::Pod(_) | Spec::MeshConfig(_) => {}
    }
}

/// The check of one object; the rules are spread over the files of this folder, by kind.
#[derive(Clone, Copy)]
struct Check<'a> {
    namespace: &'a str,
    findings: &'a Findings,
}

impl Check<'_> {
    fn error(self, at: &Path<'_>, message: impl Into<String>) {
        self.findings.error(at, message);
    }

    fn warning(self, at: &Path<'_>, message: impl Into<String>) {
        self.findings.warning(at, message);
    }

    fn peer_authentication(self, authentication: &PeerAuthentication, at: &Path<'_>) {
        if let Some(selector) = &authentication.selector {
            self.selector(selector, &at.field("selector").field("matchLabels"));
        }
        let selects = authentication.selector.as_ref().is_some_and(|labels| !labels.is_empty());
        if !authentication.port_level.is_empty() && !selects {
            self.error(&at.field("portLevelMtls"), "needs a selector: ports are those of one workload");
        }
    }
}

#[cfg(test)]
mod tests;

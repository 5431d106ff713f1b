//! Several definitions of one host: what of them has no effect.

use crate::{
    api::Diagnostic,
    mesh::{
        model::{Eclipsed, Obstacle},
        world::World,
    },
    visits::{Visit, Visited},
};

pub(super) fn check(world: &World) -> Vec<Diagnostic> {
    let all = world.eclipsed.values().chain(world.eclipsed_abroad.values());
    all.flat_map(|eclipsed| eclipsed.iter()).visiting(Visited::Object).map(told).collect()
}

fn told(eclipsed: &Eclipsed) -> Diagnostic {
    let Eclipsed { hostname, object, by, obstacle, ports, protocols, fields } = eclipsed;
    let mut lost = Vec::new();
    if !ports.is_empty() {
        let why = obstacle.map_or_else(String::new, |obstacle| format!(", because {}", reason(obstacle)));
        lost.push(format!("ports {} of this one lead nowhere{why}", listed(ports)));
    }
    if !protocols.is_empty() {
        lost.push(format!("ports {} have the protocol that it gives them", listed(protocols)));
    }
    if !fields.is_empty() {
        lost.push(format!("{} of this one has no effect", fields.join(", ")));
    }
    let order = match obstacle {
        Some(Obstacle::Namespace) => format!("goes first for namespaces other than {} that see both", object.namespace),
        Some(Obstacle::KubernetesService) => "goes first".to_owned(),
        Some(Obstacle::ExportTo) => "goes first for namespaces that both are exported to".to_owned(),
        _ => "goes first by age, then name".to_owned(),
    };
    let endpoints = if obstacle == &Some(Obstacle::Namespace) { "" } else { "; endpoints of both are used" };
    let message = format!("{hostname} is defined by {by} too, which {order}: {}{endpoints}", lost.join("; "));
    Diagnostic::warning("spec.hosts", message).of(object)
}

fn reason(obstacle: Obstacle) -> &'static str {
    match obstacle {
        Obstacle::Namespace => "the two are of different namespaces",
        Obstacle::KubernetesService => "a Service of Kubernetes takes no ports of ServiceEntries",
        Obstacle::ExportTo => "the two differ in exportTo",
        Obstacle::Resolution => "the two differ in resolution",
        Obstacle::Labels => "the two differ in metadata.labels",
        Obstacle::WorkloadSelector => "the two differ in workloadSelector",
    }
}

fn listed(ports: &[u16]) -> String {
    ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ")
}

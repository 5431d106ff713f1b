//! istiod's gauges about the mesh, counted from the newest world on each scrape (contract §10.2).

use std::{collections::BTreeSet, fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, gauge::ConstGauge},
};
use tokio::sync::watch;

use crate::mesh::{
    model::{Protocol, Resolution},
    world::World,
};

/// Counts the newest world.
#[derive(Debug)]
pub(super) struct WorldMetrics(pub(super) watch::Receiver<Arc<World>>);

impl Collector for WorldMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let world = Arc::clone(&self.0.borrow());
        for (name, help, count) in [
            ("pilot_services", "Services known", world.services.len()),
            ("pilot_virt_services", "VirtualServices known", world.routes.len()),
            ("pilot_vservice_dup_domain", "Hosts that several VirtualServices route", duplicate_domains(&world)),
            ("pilot_destrule_subsets", "Subsets that several DestinationRules for one host define", duplicate_subsets(&world)),
            ("pilot_eds_no_instances", "Clusters of services that have no endpoint", clusters_without_instances(&world)),
        ] {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX)).encode(metric)?;
        }
        Ok(())
    }
}

fn duplicate_domains(world: &World) -> usize {
    world.routes_by_host.values().filter(|routes| routes.len() > 1).count()
}

fn duplicate_subsets(world: &World) -> usize {
    let repeated = |rules: &Arc<crate::mesh::world::HostRules>| {
        let mut names = BTreeSet::new();
        rules.rules.iter().flat_map(|rule| &rule.spec.subsets).filter(|subset| !names.insert(&subset.name)).count()
    };
    world.rules_by_host.values().flat_map(|hosts| hosts.values()).map(repeated).sum()
}

fn clusters_without_instances(world: &World) -> usize {
    let balanced =
        world.services.iter().filter(|(_, service)| service.resolution == Resolution::ClientSideLb && service.external_name.is_none());
    let missing = balanced.map(|(key, service)| {
        let endpoints = world.endpoints.get(key);
        let has =
            |number: u16| endpoints.is_some_and(|set| set.ports.iter().any(|(port, endpoints)| *port == number && !endpoints.is_empty()));
        service.ports.iter().filter(|port| port.protocol != Protocol::Udp && !has(port.number)).count()
    });
    missing.sum()
}

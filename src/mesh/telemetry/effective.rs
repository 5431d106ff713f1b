//! What one proxy reports: its side of all Telemetry objects and of MeshConfig.

use std::{collections::BTreeSet, sync::Arc};

use smol_str::{SmolStr, format_smolstr};

use super::{Side, access_logging};
use crate::{
    api::istio::Telemetry,
    mesh::{
        by_ptr::ByPtr,
        configured::Configured,
        model::{Hostname, Origin, Proxy, ProxyKind},
        policy::server::server,
        providers::NamedProvider,
        scope::Scope,
        world::World,
    },
};

/// What a proxy reports.
#[derive(Clone, Debug, Default)]
pub struct EffectiveTelemetry {
    /// Of what its application sends, or of what passes a gateway.
    pub client: Arc<SideTelemetry>,
    /// Of what its application receives; nothing for a gateway.
    pub server: Arc<SideTelemetry>,
    /// Whom it should report to and cannot.
    pub unseen: BTreeSet<UnseenCollector>,
}

/// What a proxy reports of one side. It is part of the key of what is made of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct SideTelemetry {
    /// Its access logs, by the name of the provider.
    pub access_logs: Vec<AccessLog>,
    /// The objects that say so.
    pub origins: Vec<Origin>,
}

/// An access log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AccessLog {
    /// Where it goes.
    pub provider: ByPtr<NamedProvider>,
    /// The service that takes it; `None` for a file.
    pub collector: Option<Hostname>,
    /// Which entries are logged, in CEL; `None`: all.
    pub filter: Option<SmolStr>,
}

/// A service that a proxy should report to, and has no cluster for: it is not imported, not exported, or has no such port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnseenCollector {
    /// The object that names the provider.
    pub origin: Origin,
    /// Where it does.
    pub field: SmolStr,
    /// The service.
    pub hostname: Hostname,
    /// Its port.
    pub port: u16,
    /// The proxy's namespace.
    pub namespace: SmolStr,
}

/// The objects that count for a proxy, the widest first.
type Objects<'a> = [&'a Arc<Configured<Telemetry>>];

impl EffectiveTelemetry {
    /// Returns what a proxy reports, given what it sees.
    pub fn of(world: &World, scope: &Scope, proxy: &Proxy) -> Self {
        let root = &world.mesh.root_namespace;
        let objects = world.telemetries.layered(root, &proxy.namespace, &proxy.labels);
        let mut unseen = BTreeSet::new();
        let mut side = |side| Arc::new(Reporting { world, scope, objects: &objects, side }.telemetry(&mut unseen));
        let client = side(Side::Client);
        let server = if proxy.kind == ProxyKind::Sidecar { side(Side::Server) } else { Arc::default() };
        Self { client, server, unseen }
    }
}

/// One side of a proxy.
struct Reporting<'a> {
    world: &'a World,
    scope: &'a Scope,
    objects: &'a Objects<'a>,
    side: Side,
}

impl<'a> Reporting<'a> {
    fn telemetry(&self, unseen: &mut BTreeSet<UnseenCollector>) -> SideTelemetry {
        let logging = self.objects.iter().filter(|object| object.spec.access_logging.iter().any(|entry| self.side.is_meant(entry.mode)));
        let origins: BTreeSet<Origin> = logging.map(|object| object.origin.clone()).collect();
        SideTelemetry { access_logs: self.access_logs(unseen), origins: origins.into_iter().collect() }
    }

    fn access_logs(&self, unseen: &mut BTreeSet<UnseenCollector>) -> Vec<AccessLog> {
        let providers = &self.world.mesh.providers;
        let entries: Vec<_> =
            self.objects.iter().map(|object| object.spec.access_logging.as_slice()).filter(|entries| !entries.is_empty()).collect();
        let merged = access_logging::merged(&providers.defaults.access_logging, &entries, self.side);
        let mut known = 0;
        let mut logs = Vec::new();
        for (name, logging) in merged {
            let Some(provider) = providers.find(name).filter(|provider| provider.takes_logs()) else { continue };
            let collector = match provider.service() {
                None => None,
                Some((written, port)) => {
                    let Ok(hostname) = server(self.world, written) else { continue };
                    if !self.sees(&hostname, port) {
                        unseen.extend(self.unseen(name, hostname, port));
                        known += 1;
                        continue;
                    }
                    Some(hostname)
                }
            };
            known += 1;
            if !logging.disabled {
                logs.push(AccessLog { provider: provider.into(), collector, filter: logging.filter.cloned() });
            }
        }
        // As in istiod: where nobody is known to log to, the log of MeshConfig is written.
        if known == 0 {
            logs.extend(providers.mesh_log.iter().map(|log| AccessLog { provider: log.into(), collector: None, filter: None }));
        }
        logs.sort_by(|a, b| a.provider.name.cmp(&b.provider.name));
        logs
    }

    fn sees(&self, host: &Hostname, port: u16) -> bool {
        self.scope.services.get(host).is_some_and(|service| service.has_cluster_for(port))
    }

    fn unseen(&self, name: &SmolStr, hostname: Hostname, port: u16) -> Option<UnseenCollector> {
        let (origin, field) = self.naming(name)?;
        Some(UnseenCollector { origin, field, hostname, port, namespace: self.scope.namespace.clone() })
    }

    /// Returns who names a provider of access logs, and where: the narrowest object that does, or MeshConfig.
    fn naming(&self, name: &SmolStr) -> Option<(Origin, SmolStr)> {
        let written = self.objects.iter().rev().find_map(|object| {
            let named = object.spec.access_logging.iter().enumerate().find_map(|(entry, of)| {
                let at = of.providers.iter().position(|provider| provider == name)?;
                Some(format_smolstr!("spec.accessLogging[{entry}].providers[{at}].name"))
            });
            named.map(|field| (object.origin.clone(), field))
        });
        let by_default = || {
            let object = self.world.mesh_config.clone()?;
            Some((Origin { object, generation: 0 }, "defaultProviders.accessLogging".into()))
        };
        written.or_else(by_default)
    }
}

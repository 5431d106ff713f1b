//! What one proxy reports: its side of all Telemetry objects and of MeshConfig.

use std::{collections::BTreeSet, sync::Arc};

use smol_str::{SmolStr, format_smolstr};

use super::{Side, access_logging, metrics, metrics::ReportedMetrics, tracing};
use crate::{
    api::istio::{CustomTag, METRICS, Telemetry, WorkloadMode},
    mesh::{
        by_ptr::ByPtr,
        configured::Configured,
        model::{Hostname, Origin, Proxy, ProxyKind},
        policy::server::server,
        providers::{NamedProvider, Provider, Signal},
        scope::Scope,
        world::World,
    },
};

/// How many of a hundred requests are traced, unless something says otherwise (contract §6.8).
const SAMPLED: f64 = 1.0;

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
    /// How its requests are traced; `None`: not at all.
    pub tracing: Option<Tracing>,
    /// Istio's metrics, once for each provider that takes some, by its name.
    pub metrics: Vec<ReportedMetrics>,
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

/// How requests are traced.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tracing {
    /// Who is sent spans; `None`: nobody.
    pub tracer: Option<Tracer>,
    /// How many of the requests are, for which nobody before has decided that.
    pub sampling: Percentage,
    /// Whether spans have the tags that name the proxy, and say what policies on trial would have decided.
    pub istio_tags: bool,
    /// Tags of the user's own, by name.
    pub custom_tags: Vec<(SmolStr, CustomTag)>,
    /// Whether the request's id says whether it is traced.
    pub by_request_id: bool,
    /// Whether the next server is not told of the trace.
    pub without_propagation: bool,
}

/// Who is sent spans.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tracer {
    /// How they are sent.
    pub provider: ByPtr<NamedProvider>,
    /// The service that takes them.
    pub collector: Hostname,
}

/// A percentage, compared bit by bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Percentage(u64);

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

impl SideTelemetry {
    /// Returns whether one of Istio's metrics (`requests_total`) is reported to anybody.
    pub fn counts(&self, metric: &str) -> bool {
        let name = METRICS.iter().find(|(_, counted)| *counted == metric).map(|(name, _)| *name);
        let off = |of: &ReportedMetrics| name.and_then(|name| of.overrides.get(name)).is_some_and(|of| of.disabled);
        self.metrics.iter().any(|of| !off(of))
    }

    /// Returns whether spans are sent that name the service of the proxy, which is then part of its listeners.
    pub fn names_service(&self) -> bool {
        let tracer = self.tracing.as_ref().and_then(|tracing| tracing.tracer.as_ref());
        tracer.is_some_and(|tracer| matches!(tracer.provider.provider, Some(Provider::OpenTelemetry(_))))
    }
}

impl Percentage {
    /// Takes a percentage.
    pub fn new(value: f64) -> Self {
        Self(value.to_bits())
    }

    /// Returns it.
    pub fn value(self) -> f64 {
        f64::from_bits(self.0)
    }
}

/// One side of a proxy.
struct Reporting<'a> {
    world: &'a World,
    scope: &'a Scope,
    objects: &'a Objects<'a>,
    side: Side,
}

/// Whether a provider's service is called.
enum Reached {
    /// By this name.
    At(Hostname),
    /// It has none.
    File,
    /// The proxy does not see it.
    Unseen,
}

impl Reporting<'_> {
    fn telemetry(&self, unseen: &mut BTreeSet<UnseenCollector>) -> SideTelemetry {
        let access_logs = self.access_logs(unseen);
        let tracing = self.tracing(unseen);
        let origins: BTreeSet<Origin> =
            self.objects.iter().filter(|object| self.says_something(&object.spec)).map(|object| object.origin.clone()).collect();
        SideTelemetry { access_logs, tracing, metrics: self.metrics(), origins: origins.into_iter().collect() }
    }

    /// Returns whether an object says anything of this side.
    fn says_something(&self, spec: &Telemetry) -> bool {
        let logging = spec.access_logging.iter().map(|entry| entry.mode);
        let tracing = spec.tracing.iter().map(|entry| entry.mode);
        let metrics = spec.metrics.iter().flat_map(|entry| {
            let whole = entry.overrides.is_empty().then_some(WorkloadMode::ClientAndServer);
            whole.into_iter().chain(entry.overrides.iter().map(|of| of.mode))
        });
        logging.chain(tracing).chain(metrics).any(|mode| self.side.is_meant(mode))
    }

    fn access_logs(&self, unseen: &mut BTreeSet<UnseenCollector>) -> Vec<AccessLog> {
        let providers = &self.world.mesh.providers;
        let entries: Vec<_> =
            self.objects.iter().map(|object| object.spec.access_logging.as_slice()).filter(|entries| !entries.is_empty()).collect();
        let merged = access_logging::merged(&providers.defaults.access_logging, &entries, self.side);
        let mut known = 0;
        let mut logs = Vec::new();
        for (name, logging) in merged {
            let Some(provider) = providers.find(name).filter(|provider| provider.takes() == Some(Signal::Logs)) else { continue };
            let Some(reached) = self.reach(name, provider, Signal::Logs, unseen) else { continue };
            known += 1;
            let collector = match reached {
                Reached::At(hostname) => Some(hostname),
                Reached::File => None,
                Reached::Unseen => continue,
            };
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

    fn tracing(&self, unseen: &mut BTreeSet<UnseenCollector>) -> Option<Tracing> {
        let providers = &self.world.mesh.providers;
        let entries: Vec<_> = self.objects.iter().flat_map(|object| &object.spec.tracing).collect();
        let Some(spec) = tracing::merged(providers, &entries, self.side) else {
            return providers.traces.then(|| Tracing {
                tracer: None,
                sampling: Percentage::new(SAMPLED),
                istio_tags: true,
                custom_tags: Vec::new(),
                by_request_id: true,
                without_propagation: false,
            });
        };
        let (name, provider) = spec.provider.filter(|_| !spec.disabled)?;
        let provider = provider.filter(|provider| provider.takes() == Some(Signal::Spans))?;
        let Reached::At(collector) = self.reach(name, provider, Signal::Spans, unseen)? else { return None };
        Some(Tracing {
            tracer: Some(Tracer { provider: provider.into(), collector }),
            sampling: Percentage::new(spec.sampling.unwrap_or(SAMPLED)),
            istio_tags: spec.istio_tags,
            custom_tags: spec.custom_tags.to_vec(),
            by_request_id: spec.by_request_id,
            without_propagation: spec.without_propagation,
        })
    }

    fn metrics(&self) -> Vec<ReportedMetrics> {
        let providers = &self.world.mesh.providers;
        let entries: Vec<_> = self.objects.iter().flat_map(|object| &object.spec.metrics).collect();
        let merged = metrics::merged(&providers.defaults.metrics, &entries, self.side);
        let taken =
            merged.into_iter().filter(|(name, _)| providers.find(name).and_then(|provider| provider.takes()) == Some(Signal::Metrics));
        taken.map(|(_, plan)| plan).collect()
    }

    /// Returns how a provider is reached; `None`: there is no such service in the mesh.
    fn reach(&self, name: &SmolStr, provider: &NamedProvider, signal: Signal, unseen: &mut BTreeSet<UnseenCollector>) -> Option<Reached> {
        let Some((written, port)) = provider.service() else { return Some(Reached::File) };
        let hostname = server(self.world, written).ok()?;
        if self.scope.services.get(&hostname).is_some_and(|service| service.has_cluster_for(port)) {
            return Some(Reached::At(hostname));
        }
        unseen.extend(self.naming(name, signal).map(|(origin, field)| {
            let namespace = self.scope.namespace.clone();
            UnseenCollector { origin, field, hostname, port, namespace }
        }));
        Some(Reached::Unseen)
    }

    /// Returns who names a provider, and where: the narrowest object that does, or MeshConfig.
    fn naming(&self, name: &SmolStr, signal: Signal) -> Option<(Origin, SmolStr)> {
        let written = self.objects.iter().rev().find_map(|object| {
            let spec = &object.spec;
            let lists: Vec<&Vec<SmolStr>> = match signal {
                Signal::Logs => spec.access_logging.iter().map(|entry| &entry.providers).collect(),
                Signal::Spans => spec.tracing.iter().map(|entry| &entry.providers).collect(),
                Signal::Metrics => spec.metrics.iter().map(|entry| &entry.providers).collect(),
            };
            let at = |providers: &Vec<SmolStr>| providers.iter().position(|provider| provider == name);
            let (entry, at) = lists.into_iter().enumerate().find_map(|(entry, providers)| Some((entry, at(providers)?)))?;
            Some((object.origin.clone(), format_smolstr!("spec.{}[{entry}].providers[{at}].name", signal.field())))
        });
        let by_default = || {
            let object = self.world.mesh_config.clone()?;
            Some((Origin { object, generation: 0 }, format_smolstr!("defaultProviders.{}", signal.field())))
        };
        written.or_else(by_default)
    }
}

//! The providers of MeshConfig, and those that there are without it.

use std::sync::Arc;

use smol_str::SmolStr;

pub use crate::api::extension_provider::{
    FileAccessLog, GrpcAccessLog, LogFormat, OpenTelemetry, OtelAccessLog, OtelExport, Provider, StreamKind, Zipkin,
};
use crate::{
    api::mesh_config::{DefaultProviders, MeshConfig},
    mesh::model::Hostname,
};

/// What Telemetry objects can name, and what counts where they name nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Providers {
    /// Those that are there always, then MeshConfig's in its order.
    named: Vec<Arc<NamedProvider>>,
    /// Those of `defaultProviders`.
    pub(in crate::mesh) defaults: DefaultProviders,
    /// The log of `accessLogFile`, for proxies that nothing else gives one.
    pub(in crate::mesh) mesh_log: Option<Arc<NamedProvider>>,
    /// Whether requests of proxies are traced for which nothing says how: sampled, with Istio's tags, and without a collector.
    pub(in crate::mesh) traces: bool,
}

/// A provider. It is shared, so that proxies with the same have it in common by pointer.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedProvider {
    /// Its name; empty for the log of `accessLogFile`.
    pub name: SmolStr,
    /// What it is; `None` for what is not applied.
    pub provider: Option<Provider>,
}

/// The name of the provider that is a log on standard output. It has the format of MeshConfig's own log, unless it is given another.
const ENVOY: &str = "envoy";
/// Other names that Istio knows without MeshConfig.
const PROMETHEUS: &str = "prometheus";
const STACKDRIVER: &str = "stackdriver";

impl Providers {
    /// Converts what MeshConfig says.
    pub fn of(config: &MeshConfig) -> Self {
        let format = config.access_log_format.clone();
        let stdout = FileAccessLog { path: "/dev/stdout".into(), format: format.clone(), omit_empty_values: false };
        let always = [(PROMETHEUS, Some(Provider::Prometheus)), (STACKDRIVER, None), (ENVOY, Some(Provider::FileAccessLog(stdout)))];
        let mut named: Vec<NamedProvider> =
            always.into_iter().map(|(name, provider)| NamedProvider { name: name.into(), provider }).collect();
        for written in &config.extension_providers {
            let provider = written.provider.clone().map(|provider| with_mesh_format(&written.name, provider, config));
            match named.iter_mut().find(|known| known.name == written.name) {
                Some(known) => known.provider = provider,
                None => named.push(NamedProvider { name: written.name.clone(), provider }),
            }
        }
        let file = Some(&config.access_log_file).filter(|file| !file.is_empty());
        let mesh_log = file.map(|file| FileAccessLog { path: file.clone(), format, omit_empty_values: false });
        let mesh_log = mesh_log.map(|log| NamedProvider { name: SmolStr::default(), provider: Some(Provider::FileAccessLog(log)) });
        Self {
            named: named.into_iter().map(Arc::new).collect(),
            defaults: config.default_providers.clone(),
            mesh_log: mesh_log.map(Arc::new),
            traces: config.enable_tracing,
        }
    }

    /// Returns the provider of that name, in whatever case it is written.
    pub fn find(&self, name: &str) -> Option<&Arc<NamedProvider>> {
        self.named.iter().find(|known| known.name.eq_ignore_ascii_case(name))
    }

    /// Returns the log of `accessLogFile`, if MeshConfig asks for it.
    pub fn mesh_log(&self) -> Option<FileAccessLog> {
        match &self.mesh_log.as_ref()?.provider {
            Some(Provider::FileAccessLog(log)) => Some(log.clone()),
            _ => None,
        }
    }

    /// Returns whether `defaultProviders` names one that is scraped for metrics.
    pub fn default_to_prometheus(&self) -> bool {
        let mut named = self.defaults.metrics.iter().filter_map(|name| self.find(name));
        named.any(|named| named.provider == Some(Provider::Prometheus))
    }

    /// Returns whether one of them reports to that host.
    pub fn report_to(&self, host: &Hostname) -> bool {
        self.iter().any(|of| of.takes().is_some() && of.service().is_some_and(|(written, _)| named(written).1 == *host))
    }

    /// Returns the default providers of a signal.
    pub(in crate::mesh) fn defaults_of(&self, signal: Signal) -> &[SmolStr] {
        match signal {
            Signal::Logs => &self.defaults.access_logging,
            Signal::Spans => &self.defaults.tracing,
            Signal::Metrics => &self.defaults.metrics,
        }
    }

    /// Iterates over all of them.
    pub(in crate::mesh) fn iter(&self) -> impl Iterator<Item = &Arc<NamedProvider>> {
        self.named.iter()
    }
}

impl NamedProvider {
    /// Returns the service that is called, as it is written, and its port; `None` if there is nobody to call.
    pub fn service(&self) -> Option<(&SmolStr, u16)> {
        let server = match self.provider.as_ref()? {
            Provider::ExtAuthz(authorizer) => return Some((&authorizer.service, authorizer.port)),
            Provider::FileAccessLog(_) | Provider::Prometheus => return None,
            Provider::GrpcAccessLog(log) => &log.server,
            Provider::OtelAccessLog(log) => &log.server,
            Provider::Zipkin(tracer) => &tracer.server,
            Provider::OpenTelemetry(tracer) => &tracer.server,
        };
        Some((&server.service, server.port))
    }

    /// Returns what can be reported to it; `None`: it is for something else.
    pub fn takes(&self) -> Option<Signal> {
        match self.provider.as_ref()? {
            Provider::ExtAuthz(_) => None,
            Provider::FileAccessLog(_) | Provider::GrpcAccessLog(_) | Provider::OtelAccessLog(_) => Some(Signal::Logs),
            Provider::Zipkin(_) | Provider::OpenTelemetry(_) => Some(Signal::Spans),
            Provider::Prometheus => Some(Signal::Metrics),
        }
    }
}

/// Returns the namespace, if there is one, and the host of what is written as `host` or `namespace/host`.
pub(in crate::mesh) fn named(written: &str) -> (Option<&str>, Hostname) {
    match written.split_once('/') {
        Some((namespace, host)) => (Some(namespace), Hostname::new(host)),
        None => (None, Hostname::new(written)),
    }
}

/// What can be reported to a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Access logs.
    Logs,
    /// Spans.
    Spans,
    /// Metrics.
    Metrics,
}

impl Signal {
    /// Returns the field of Telemetry and of `defaultProviders` that is about it.
    pub(in crate::mesh) fn field(self) -> &'static str {
        match self {
            Self::Logs => "accessLogging",
            Self::Spans => "tracing",
            Self::Metrics => "metrics",
        }
    }
}

/// Gives the log of the name [`ENVOY`] the format of MeshConfig's own, if it has none.
fn with_mesh_format(name: &str, provider: Provider, config: &MeshConfig) -> Provider {
    match provider {
        Provider::FileAccessLog(log) if name == ENVOY && log.format.is_none() && !log.omit_empty_values => {
            Provider::FileAccessLog(FileAccessLog { format: config.access_log_format.clone(), ..log })
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::extension_provider::{ExtensionProvider, LogFormat};

    fn file(path: &str, format: Option<LogFormat>) -> Option<Provider> {
        Some(Provider::FileAccessLog(FileAccessLog { path: path.into(), format, omit_empty_values: false }))
    }

    fn text(format: &str) -> Option<LogFormat> {
        Some(LogFormat::Text(format.into()))
    }

    #[test]
    fn envoy_is_a_log_in_the_format_of_the_mesh() {
        let mesh = |providers: Vec<ExtensionProvider>| MeshConfig {
            access_log_format: text("%PROTOCOL%"),
            extension_providers: providers,
            ..MeshConfig::default()
        };
        let of = |mesh: &MeshConfig, name: &str| Providers::of(mesh).find(name).map(|found| found.provider.clone());
        assert_eq!(of(&mesh(vec![]), "Envoy"), Some(file("/dev/stdout", text("%PROTOCOL%"))));
        assert_eq!(of(&mesh(vec![]), "prometheus"), Some(Some(Provider::Prometheus)));
        assert_eq!(of(&mesh(vec![]), "other"), None);
        let written = |name: &str, format| ExtensionProvider { name: name.into(), provider: file("/dev/stderr", format) };
        assert_eq!(of(&mesh(vec![written("envoy", None)]), "envoy"), Some(file("/dev/stderr", text("%PROTOCOL%"))));
        assert_eq!(of(&mesh(vec![written("envoy", text("a"))]), "envoy"), Some(file("/dev/stderr", text("a"))));
        assert_eq!(of(&mesh(vec![written("other", None)]), "other"), Some(file("/dev/stderr", None)));
    }

    #[test]
    fn there_is_a_log_of_the_mesh_only_where_a_file_is_named() {
        assert_eq!(Providers::of(&MeshConfig { access_log_format: text("a"), ..MeshConfig::default() }).mesh_log, None);
        let log = Providers::of(&MeshConfig { access_log_file: "/dev/stdout".into(), ..MeshConfig::default() }).mesh_log;
        assert_eq!(log.map(|log| log.provider.clone()), Some(file("/dev/stdout", None)));
    }
}

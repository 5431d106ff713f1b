//! Which requests are traced, and how, by all that counts for a proxy. Each field of a later entry overrides that of earlier ones, and
//! custom tags do so as a whole, as istiod has it.

use std::sync::Arc;

use smol_str::SmolStr;

use super::Side;
use crate::{
    api::istio::{self, CustomTag},
    mesh::providers::{NamedProvider, Providers},
};

/// What all entries together say.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Spec<'a> {
    /// Who is named last. A name that there is no provider of takes its place too.
    pub(super) provider: Option<(&'a SmolStr, Option<&'a Arc<NamedProvider>>)>,
    pub(super) disabled: bool,
    pub(super) sampling: Option<f64>,
    pub(super) custom_tags: &'a [(SmolStr, CustomTag)],
    pub(super) by_request_id: bool,
    pub(super) istio_tags: bool,
    pub(super) without_propagation: bool,
}

/// Merges the entries of all objects, the widest first, over the default provider; `None` if there is neither.
pub(super) fn merged<'a>(providers: &'a Providers, entries: &[&'a istio::Tracing], side: Side) -> Option<Spec<'a>> {
    let default = providers.defaults.tracing.first();
    if entries.is_empty() && default.is_none() {
        return None;
    }
    let fetch = |name: &'a SmolStr| (name, providers.find(name));
    let mut spec = Spec {
        provider: default.map(fetch),
        disabled: false,
        sampling: None,
        custom_tags: &[],
        by_request_id: true,
        istio_tags: true,
        without_propagation: false,
    };
    for entry in entries.iter().filter(|entry| side.is_meant(entry.mode)) {
        spec.provider = entry.providers.first().map(fetch).or(spec.provider);
        spec.disabled = entry.disable_span_reporting.unwrap_or(spec.disabled);
        spec.sampling = entry.random_sampling_percentage.or(spec.sampling);
        spec.custom_tags = entry.custom_tags.as_deref().unwrap_or(spec.custom_tags);
        spec.by_request_id = entry.use_request_id.unwrap_or(spec.by_request_id);
        spec.istio_tags = entry.enable_istio_tags.unwrap_or(spec.istio_tags);
        spec.without_propagation = entry.disable_context_propagation.unwrap_or(spec.without_propagation);
    }
    Some(spec)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{
        istio::{Tracing, WorkloadMode},
        mesh_config::{DefaultProviders, MeshConfig},
    };

    fn providers(default: Option<&str>) -> Providers {
        let tracing = default.into_iter().map(SmolStr::new).collect();
        Providers::of(&MeshConfig { default_providers: DefaultProviders { tracing, ..Default::default() }, ..MeshConfig::default() })
    }

    #[test]
    fn nothing_is_said_without_entries_and_defaults() {
        assert_eq!(merged(&providers(None), &[], Side::Client), None);
        let of_default = providers(Some("envoy"));
        let spec = merged(&of_default, &[], Side::Server).unwrap();
        assert_eq!(spec.provider.map(|(name, found)| (name.as_str(), found.is_some())), Some(("envoy", true)));
        assert!(spec.by_request_id && spec.istio_tags && !spec.disabled);
    }

    #[test]
    fn each_field_of_a_later_entry_overrides() {
        let tag = |name: &str| (SmolStr::new(name), CustomTag::Literal("v".into()));
        let wide = Tracing {
            providers: vec!["envoy".into()],
            random_sampling_percentage: Some(10.0),
            custom_tags: Some(vec![tag("a"), tag("b")]),
            enable_istio_tags: Some(false),
            ..Tracing::default()
        };
        let narrow = Tracing {
            mode: WorkloadMode::Server,
            random_sampling_percentage: Some(0.0),
            custom_tags: Some(vec![tag("c")]),
            use_request_id: Some(false),
            disable_span_reporting: Some(true),
            disable_context_propagation: Some(true),
            ..Tracing::default()
        };
        let providers = providers(None);
        let client = merged(&providers, &[&wide, &narrow], Side::Client).unwrap();
        assert_eq!((client.sampling, client.custom_tags.len(), client.istio_tags, client.by_request_id), (Some(10.0), 2, false, true));
        let server = merged(&providers, &[&wide, &narrow], Side::Server).unwrap();
        assert_eq!((server.sampling, server.custom_tags, server.istio_tags), (Some(0.0), &[tag("c")][..], false));
        assert_eq!((server.by_request_id, server.disabled, server.without_propagation), (false, true, true));
        assert_eq!(server.provider, client.provider);
    }

    #[test]
    fn a_provider_that_is_not_there_takes_the_place_of_one_that_is() {
        let named = |name: &str| Tracing { providers: vec![name.into()], ..Tracing::default() };
        let (there, lost) = (named("envoy"), named("lost"));
        let providers = providers(None);
        let spec = merged(&providers, &[&there, &lost], Side::Client).unwrap();
        assert_eq!(spec.provider.map(|(_, found)| found.is_none()), Some(true));
    }
}

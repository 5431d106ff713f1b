//! Patches of the HTTP filters of a connection manager.

use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{HttpFilter, http_filter::ConfigType};

use super::{
    list, matching,
    run::{Run, Step},
};
use crate::mesh::envoy_filter::PatchOperation;

/// Applies patches that are for these filters, or some of them: those that add and remove first, then those that merge.
pub(super) fn patch_http_filters(run: &mut Run<'_>, steps: &[Step<'_>], filters: &mut Vec<HttpFilter>) {
    for step in steps {
        let named = matching::http_filter(step.patch);
        let is_named = |filter: &HttpFilter| named.is_some_and(|name| filter.name == name);
        list::change(run, *step, filters, named.map(|_| &is_named as &dyn Fn(&HttpFilter) -> bool));
    }
    for filter in filters {
        for step in steps.iter().filter(|step| step.patch.operation == PatchOperation::Merge) {
            if matching::http_filter(step.patch).is_none_or(|name| name == filter.name) {
                merge_filter(run, *step, filter);
            }
        }
    }
}

fn merge_filter(run: &mut Run<'_>, step: Step<'_>, filter: &mut HttpFilter) {
    // That a filter finds its configuration elsewhere is no mistake of a patch for all filters.
    let Some(ConfigType::TypedConfig(own)) = &mut filter.config_type else { return };
    let Some(value) = run.value::<HttpFilter>(step) else { return };
    let other = match value.config_type {
        Some(ConfigType::TypedConfig(other)) => Some(other),
        _ => None,
    };
    run.merge_filter(step, (&mut filter.name, own), (value.name, other));
}

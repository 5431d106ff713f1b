//! Filters for code of users' own (contract §6.8): a listener says only that they are there, and asks for what they do.

use envoy_types::pb::envoy::{
    config::{
        core::v3::ExtensionConfigSource,
        listener::v3::{Filter, filter},
    },
    extensions::filters::{
        http::{lua::v3::Lua, rbac::v3::Rbac as HttpRbac, wasm::v3::Wasm as HttpWasm},
        network::{
            http_connection_manager::v3::{HttpFilter, http_filter},
            rbac::v3::Rbac as NetworkRbac,
            wasm::v3::Wasm as NetworkWasm,
        },
    },
};
use prost::Name;

use super::{Direction, policies::PolicyFilters};
use crate::{
    mesh::extension::{ExtensionPhase as Phase, Form, PlacedExtension, WasmType, WorkloadMode},
    translate::{extension::stand_in, input::Built, tls::ads},
};

/// The extensions for one port, in the order in which those of one phase stand.
#[derive(Clone, Debug, Default)]
pub struct Extensions<'a>(Vec<&'a PlacedExtension>);

/// The order of phases where nothing else stands between them.
const PHASES: [Phase; 4] = [Phase::Authn, Phase::Authz, Phase::Stats, Phase::Unspecified];

impl<'a> Extensions<'a> {
    /// Returns those of all that are for the traffic of a port.
    pub fn at(all: &'a [PlacedExtension], direction: Direction, port: u16) -> Self {
        let side = if direction == Direction::Inbound { WorkloadMode::Server } else { WorkloadMode::Client };
        Self(all.iter().filter(|extension| extension.covers(side, port)).collect())
    }

    /// Returns the filters of a connection manager that stand in one phase.
    pub fn http(&self, phase: Phase) -> impl Iterator<Item = HttpFilter> {
        self.0.iter().filter(move |extension| extension.phase == phase && !extension.is_for_connections()).map(|extension| http(extension))
    }

    /// Returns the network filters that stand before a connection manager.
    pub fn before_requests(&self) -> impl Iterator<Item = Filter> {
        PHASES.into_iter().flat_map(|phase| self.network(phase))
    }

    /// Returns the network filters that stand before a TCP proxy, with those of policies among them.
    pub fn among_policies(&self, policies: &PolicyFilters) -> Vec<Filter> {
        let mut filters = policies.asking_of_connections.clone();
        filters.extend(self.network(Phase::Authn));
        filters.extend(self.network(Phase::Authz));
        filters.extend_from_slice(&policies.network);
        filters.extend(self.network(Phase::Stats));
        filters.extend(self.network(Phase::Unspecified));
        filters
    }

    /// Notes at a listener what it asks for. `requests`: it has a connection manager for the port.
    pub fn note<M>(&self, requests: bool, built: &mut Built<M>) {
        let asking = self.0.iter().filter(|extension| requests || extension.is_for_connections());
        built.extensions.extend(asking.map(|extension| extension.filter.clone()));
    }

    fn network(&self, phase: Phase) -> impl Iterator<Item = Filter> {
        let stands = move |extension: &&&PlacedExtension| extension.phase == phase && extension.is_for_connections();
        self.0.iter().filter(stands).map(|extension| Filter {
            name: extension.filter.to_string(),
            config_type: Some(filter::ConfigType::ConfigDiscovery(discovered(extension.form))),
        })
    }
}

fn http(extension: &PlacedExtension) -> HttpFilter {
    let config = Some(http_filter::ConfigType::ConfigDiscovery(discovered(extension.form)));
    HttpFilter { name: extension.filter.to_string(), config_type: config, ..Default::default() }
}

/// Returns where a filter is discovered, and what there is until then. While a module cannot run, a filter of another type stands in.
fn discovered(form: Form) -> ExtensionConfigSource {
    let (type_urls, default_config) = match form {
        Form::Wasm { side, open } => {
            let type_urls = match side {
                WasmType::Http => [HttpWasm::type_url(), HttpRbac::type_url()],
                WasmType::Network => [NetworkWasm::type_url(), NetworkRbac::type_url()],
            };
            (type_urls.to_vec(), open.map(|open| stand_in(side, open)))
        }
        Form::Lua => (vec![Lua::type_url()], None),
    };
    ExtensionConfigSource { config_source: Some(ads()), type_urls, default_config, ..Default::default() }
}

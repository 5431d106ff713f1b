//! Extensions as listeners have them.

use smol_str::SmolStr;

use super::{Code, Extension, ExtensionPhase, FailStrategy, TrafficSelector, WasmType, WorkloadMode};
use crate::mesh::model::Flavour;

/// What a listener reads of an extension. What its filter does is not part of it: that changes without the listener.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PlacedExtension {
    /// The filter's name.
    pub filter: SmolStr,
    /// Before which of the proxy's own filters it stands.
    pub phase: ExtensionPhase,
    /// The traffic that it is for; empty: all.
    pub selectors: Vec<TrafficSelector>,
    /// What the filter is.
    pub form: Form,
}

/// What a filter is, as far as the listener knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// It runs a module.
    Wasm {
        /// Whether it sees requests or connections.
        side: WasmType,
        /// Whether traffic passes while the proxy has no module that it takes; `None`: that is not said to the proxy, as istiod does not
        /// say it to Istio's, and none passes.
        open: Option<bool>,
    },
    /// It runs a script.
    Lua,
}

impl PlacedExtension {
    /// Takes what listeners of a flavour read.
    pub fn of(extension: &Extension, flavour: Flavour) -> Self {
        let Extension { filter, placement, code, .. } = extension;
        let form = match code {
            Code::Wasm(module) => wasm(module.side, module.fail_strategy == FailStrategy::Open, flavour),
            Code::Unknown(side) => wasm(*side, false, flavour),
            Code::Lua(_) => Form::Lua,
        };
        Self { filter: filter.clone(), phase: placement.phase, selectors: placement.selectors.clone(), form }
    }

    /// Returns whether it is for the traffic of a port, on one side of the workload.
    pub fn covers(&self, side: WorkloadMode, port: u16) -> bool {
        let covers = |selector: &TrafficSelector| {
            let is_side = selector.mode == WorkloadMode::ClientAndServer || selector.mode == side;
            is_side && (selector.ports.is_empty() || selector.ports.contains(&port.into()))
        };
        self.selectors.is_empty() || self.selectors.iter().any(covers)
    }

    /// Returns whether it sees connections; others see requests.
    pub fn is_for_connections(&self) -> bool {
        matches!(self.form, Form::Wasm { side: WasmType::Network, .. })
    }
}

fn wasm(side: WasmType, open: bool, flavour: Flavour) -> Form {
    Form::Wasm { side, open: (flavour == Flavour::Stock).then_some(open) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traffic_is_selected_by_side_and_port() {
        let of = |selectors: &[(WorkloadMode, &[u32])]| PlacedExtension {
            filter: "f".into(),
            phase: ExtensionPhase::Authn,
            selectors: selectors.iter().map(|(mode, ports)| TrafficSelector { mode: *mode, ports: ports.to_vec() }).collect(),
            form: Form::Lua,
        };
        let (client, server, both) = (WorkloadMode::Client, WorkloadMode::Server, WorkloadMode::ClientAndServer);
        assert!(of(&[]).covers(client, 0));
        assert!(of(&[(server, &[])]).covers(server, 80) && !of(&[(server, &[])]).covers(client, 80));
        let several = of(&[(server, &[80]), (both, &[81])]);
        assert_eq!(
            [(server, 80), (client, 80), (client, 81), (server, 82)].map(|(side, port)| several.covers(side, port)),
            [true, false, true, false]
        );
    }
}

//! Code of users' own that proxies run: TrafficExtensions, and WasmPlugins, which say the same in an older form (contract §6.8).

mod istio;
mod placed;
mod pull_secret;

use smol_str::SmolStr;

pub(in crate::mesh) use self::istio::{of_traffic_extension, of_wasm_plugin, plugin_name};
pub use self::placed::{Form, PlacedExtension};
pub use crate::api::{
    confidential::Confidential,
    istio::{ExtensionPhase, FailStrategy, Placement, PullPolicy, TrafficSelector, WasmType, WorkloadMode},
    module_url::ModuleUrl,
};
use crate::{
    api::istio::PolicyTarget,
    mesh::policy_table::{Attachment, Policy},
};

/// Code that proxies run, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extension {
    /// The workloads whose proxies run it.
    pub target: PolicyTarget,
    /// The name of the filter, by which proxies ask for what it does.
    pub filter: SmolStr,
    /// Where it is among their filters.
    pub placement: Placement,
    /// The code.
    pub code: Code,
}

/// The code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Code {
    /// A WebAssembly module.
    Wasm(Module),
    /// A script in Lua, for requests.
    Lua(SmolStr),
    /// None that anybody knows: traffic is refused.
    Unknown(WasmType),
}

/// A WebAssembly module, and how it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// How proxies name it in what they log: `<namespace>.<name>`.
    pub name: SmolStr,
    /// Where it is.
    pub url: ModuleUrl,
    /// The digest that it must have; empty: any.
    pub sha256: SmolStr,
    /// When it is fetched again.
    pub pull_policy: PullPolicy,
    /// The Secret of the object's namespace with what a registry asks for; `None`: it asks for nothing.
    pub pull_secret: Option<SmolStr>,
    /// What it is configured with, as JSON; `None`: nothing.
    pub config: Option<SmolStr>,
    /// Which of several plugins in one module is meant.
    pub root_id: SmolStr,
    /// What becomes of traffic while it cannot run.
    pub fail_strategy: FailStrategy,
    /// Variables that it is handed: name and value.
    pub variables: Vec<(SmolStr, SmolStr)>,
    /// Variables of the proxy that it is handed.
    pub proxy_variables: Vec<SmolStr>,
    /// Whether it sees requests or connections.
    pub side: WasmType,
}

/// What a registry asks for, as a Secret has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PullSecret {
    /// Users and passwords by registry, as JSON; `None`: there are none.
    pub credentials: Option<Confidential>,
    /// What is wrong with the Secret, if something is.
    pub trouble: Option<SmolStr>,
}

impl Extension {
    /// Returns what the code sees.
    pub fn side(&self) -> WasmType {
        match &self.code {
            Code::Wasm(module) => module.side,
            Code::Lua(_) => WasmType::Http,
            Code::Unknown(side) => *side,
        }
    }

    /// Returns the module, if it is one.
    pub fn module(&self) -> Option<&Module> {
        match &self.code {
            Code::Wasm(module) => Some(module),
            Code::Lua(_) | Code::Unknown(_) => None,
        }
    }
}

impl Policy for Extension {
    fn attachment(&self) -> Attachment<'_> {
        Attachment::of_target(&self.target)
    }
}

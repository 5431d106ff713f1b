//! `extensions.istio.io TrafficExtension` and `WasmPlugin`: code of users' own that proxies run.

use smol_str::SmolStr;

use super::{PolicyTarget, WorkloadMode};

/// `spec` of a TrafficExtension.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrafficExtension {
    /// The workloads that it is for.
    pub target: PolicyTarget,
    /// Where it is among the filters of their proxies.
    pub placement: Placement,
    /// `wasm` or `lua`; `None`: neither, or both, which is an error.
    pub code: Option<ExtensionCode>,
}

/// `spec` of a WasmPlugin, the older form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WasmPlugin {
    /// The workloads that it is for.
    pub target: PolicyTarget,
    /// Where it is among the filters of their proxies.
    pub placement: Placement,
    /// The module.
    pub module: WasmModule,
}

/// Where code of users' own is among the filters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// `phase`
    pub phase: ExtensionPhase,
    /// `priority`: the higher goes first. Without one it goes last.
    pub priority: Option<i32>,
    /// `match`; empty: all traffic.
    pub selectors: Vec<TrafficSelector>,
}

/// `phase`: before which of the proxy's own filters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ExtensionPhase {
    /// `UNSPECIFIED_PHASE`, of a TrafficExtension `UNSPECIFIED`: behind all of the policies, close to the router.
    #[default]
    Unspecified,
    /// `AUTHN`: before tokens are looked at.
    Authn,
    /// `AUTHZ`: before authorization policies.
    Authz,
    /// `STATS`: behind authorization policies.
    Stats,
}

/// `match[]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct TrafficSelector {
    /// `mode`
    pub mode: WorkloadMode,
    /// `ports[].number`; empty: all.
    pub ports: Vec<u32>,
}

/// The code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExtensionCode {
    /// `wasm`
    Wasm(WasmModule),
    /// `lua.inlineCode`
    Lua(SmolStr),
}

/// A WebAssembly module, and how it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WasmModule {
    /// `url`
    pub url: SmolStr,
    /// `sha256`; empty: whatever is there.
    pub sha256: SmolStr,
    /// `imagePullPolicy`
    pub pull_policy: PullPolicy,
    /// `imagePullSecret`: a Secret of the object's own namespace; empty: none.
    pub pull_secret: SmolStr,
    /// `pluginConfig` as JSON text, with its keys in order; `None`: there is nothing in it.
    pub config: Option<SmolStr>,
    /// `pluginName`
    pub name: SmolStr,
    /// `failStrategy`
    pub fail_strategy: FailStrategy,
    /// `vmConfig.env`
    pub environment: Vec<EnvironmentVariable>,
    /// `type`
    pub side: WasmType,
    /// Whether it is what is left of a module that was refused: its traffic is, too.
    pub refused: bool,
}

/// `imagePullPolicy`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PullPolicy {
    /// `UNSPECIFIED_POLICY`: `Always` for images with the tag `latest`, else `IfNotPresent`.
    #[default]
    Unspecified,
    /// `IfNotPresent`
    IfNotPresent,
    /// `Always`: whenever the object changes.
    Always,
}

/// `failStrategy`: what becomes of traffic while the module cannot be run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum FailStrategy {
    /// `FAIL_CLOSE`: it is refused.
    #[default]
    Close,
    /// `FAIL_OPEN`: it passes without the module.
    Open,
    /// `FAIL_RELOAD`: the module is started again; until then it is refused.
    Reload,
}

/// `type`: what the module sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WasmType {
    /// `HTTP`, and `UNSPECIFIED_PLUGIN_TYPE`: requests.
    #[default]
    Http,
    /// `NETWORK`: connections.
    Network,
}

/// `vmConfig.env[]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EnvironmentVariable {
    /// `name`
    pub name: SmolStr,
    /// `valueFrom` and `value`; `None`: that of the proxy (`HOST`).
    pub value: Option<SmolStr>,
    /// Whether a `value` is written that `valueFrom: HOST` has no place for.
    pub is_contradictory: bool,
}

//! What filters of users' own do, as proxies ask for it (contract §6.8).
//!
//! For a module that somebody has to fetch the agent beside a proxy does that: it takes what is said to it from the variables of the
//! module, and hands on a file. Where a module cannot run, a filter stands in that lets everything pass, or nothing.

use std::{collections::HashMap, time::Duration};

use envoy_types::pb::{
    envoy::{
        config::{
            core::v3::{
                AsyncDataSource, DataSource, HttpUri, RemoteDataSource, TypedExtensionConfig, async_data_source, data_source, http_uri,
            },
            rbac::v3::Rbac as Rules,
        },
        extensions::{
            filters::{
                http::{lua::v3::Lua, rbac::v3::Rbac as HttpRbac, wasm::v3::Wasm as HttpWasm},
                network::{rbac::v3::Rbac as NetworkRbac, wasm::v3::Wasm as NetworkWasm},
            },
            wasm::v3::{EnvironmentVariables, FailurePolicy, PluginConfig, VmConfig, plugin_config::Vm},
        },
    },
    google::protobuf::{Any, StringValue},
};
use smol_str::SmolStr;

use super::{
    input::{Built, ByPtr},
    wkt,
};
use crate::mesh::{
    configured::Configured,
    extension::{Code, Confidential, Extension, FailStrategy, Module, ModuleUrl, PullPolicy, WasmType},
};

/// The variable that holds what a registry asks for. The agent takes it away before Envoy sees it.
pub const PULL_SECRET: &str = "ISTIO_META_WASM_IMAGE_PULL_SECRET";
const PULL_POLICY: &str = "ISTIO_META_WASM_IMAGE_PULL_POLICY";
const VERSION: &str = "ISTIO_META_WASM_PLUGIN_RESOURCE_VERSION";

const RUNTIME: &str = "envoy.wasm.runtime.v8";
/// Names no cluster: Envoy fetches nothing itself.
const NOWHERE: &str = "_";
/// How long agents try to fetch a module.
const PATIENCE: Duration = Duration::from_secs(30);

/// The prefixes of the statistics of what stands in.
const ALLOWS: &str = "wasm-default-allow";
const DENIES: &str = "wasm-default-deny";

/// All that decides about the resource of an extension, and the key of its memo.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ExtensionInput {
    /// The extension.
    pub extension: ByPtr<Configured<Extension>>,
    /// What a registry asks for.
    pub pull: Pull,
    /// Whether the proxy can run what it is.
    pub runs: bool,
}

/// What a registry asks for to hand out a module.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Pull {
    /// Nothing, as far as the object says.
    Nothing,
    /// Something that the proxy may not have, or that does not exist.
    Missing,
    /// This.
    Credentials(Confidential),
}

/// Makes the resource.
pub fn extension_config(input: &ExtensionInput) -> Built<TypedExtensionConfig> {
    let extension = &input.extension.spec;
    let config = match &extension.code {
        Code::Lua(script) => lua(script),
        Code::Wasm(module) if input.runs => wasm(module, vm(module, input)),
        Code::Wasm(module) => stand_in(module.side, module.fail_strategy == FailStrategy::Open),
        Code::Unknown(side) => stand_in(*side, false),
    };
    let message = TypedExtensionConfig { name: extension.filter.to_string(), typed_config: Some(config) };
    Built::new(message, [input.extension.origin.clone()])
}

/// Returns whether the agent beside a proxy makes something else of the resource before Envoy sees it.
pub fn is_rewritten(input: &ExtensionInput) -> bool {
    input.runs && input.extension.spec.module().is_some_and(|module| module.url.is_remote())
}

fn lua(script: &str) -> Any {
    let source = DataSource { specifier: Some(data_source::Specifier::InlineString(script.into())), ..Default::default() };
    wkt::any(&Lua { default_source_code: Some(source), ..Default::default() })
}

fn wasm(module: &Module, vm: VmConfig) -> Any {
    let configuration = module.config.as_ref().map(|text| wkt::any(&StringValue { value: text.to_string() }));
    let policy = match module.fail_strategy {
        FailStrategy::Close => FailurePolicy::FailClosed,
        FailStrategy::Open => FailurePolicy::FailOpen,
        FailStrategy::Reload => FailurePolicy::FailReload,
    };
    let config = PluginConfig {
        name: module.name.to_string(),
        root_id: module.root_id.to_string(),
        configuration,
        failure_policy: policy.into(),
        vm: Some(Vm::VmConfig(vm)),
        ..Default::default()
    };
    match module.side {
        WasmType::Http => wkt::any(&HttpWasm { config: Some(config) }),
        WasmType::Network => wkt::any(&NetworkWasm { config: Some(config) }),
    }
}

fn vm(module: &Module, input: &ExtensionInput) -> VmConfig {
    let mut variables: HashMap<String, String> =
        module.variables.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    if module.url.is_remote() {
        variables.extend(said_to_agent(module, input));
    }
    let names: Vec<String> = module.proxy_variables.iter().map(SmolStr::to_string).collect();
    let any = !variables.is_empty() || !names.is_empty();
    VmConfig {
        runtime: RUNTIME.into(),
        code: Some(AsyncDataSource { specifier: Some(code(module)) }),
        environment_variables: any.then_some(EnvironmentVariables { host_env_keys: names, key_values: variables }),
        ..Default::default()
    }
}

fn said_to_agent(module: &Module, input: &ExtensionInput) -> Vec<(String, String)> {
    let policy = match module.pull_policy {
        PullPolicy::Unspecified => None,
        PullPolicy::IfNotPresent => Some("IfNotPresent"),
        PullPolicy::Always => Some("Always"),
    };
    let secret = match &input.pull {
        Pull::Nothing => None,
        Pull::Missing => Some(String::new()),
        Pull::Credentials(credentials) => Some(String::from_utf8_lossy(credentials.reveal()).into_owned()),
    };
    let said =
        [(PULL_SECRET, secret), (PULL_POLICY, policy.map(str::to_owned)), (VERSION, Some(input.extension.origin.generation.to_string()))];
    said.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

fn code(module: &Module) -> async_data_source::Specifier {
    match &module.url {
        ModuleUrl::File(path) => async_data_source::Specifier::Local(DataSource {
            specifier: Some(data_source::Specifier::Filename(path.to_string())),
            ..Default::default()
        }),
        remote => async_data_source::Specifier::Remote(RemoteDataSource {
            http_uri: Some(HttpUri {
                uri: remote.to_string(),
                timeout: Some(wkt::duration(PATIENCE)),
                http_upstream_type: Some(http_uri::HttpUpstreamType::Cluster(NOWHERE.into())),
            }),
            sha256: module.sha256.to_string(),
            ..Default::default()
        }),
    }
}

/// Returns a filter that lets everything pass, or nothing.
pub(in crate::translate) fn stand_in(side: WasmType, open: bool) -> Any {
    // Without rules all is allowed, with none that allows anything nothing.
    let rules = (!open).then(Rules::default);
    let prefix = if open { ALLOWS } else { DENIES };
    match side {
        WasmType::Http => wkt::any(&HttpRbac { rules, rules_stat_prefix: prefix.into(), ..Default::default() }),
        WasmType::Network => wkt::any(&NetworkRbac { rules, stat_prefix: prefix.into(), ..Default::default() }),
    }
}

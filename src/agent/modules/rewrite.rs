//! What the control plane says of a module becomes what Envoy takes: a file, without what was said to the agent alone. Where there is no
//! module to be had, a filter stands in that lets everything pass, or nothing.

use std::{path::Path, time::Duration};

use envoy_types::pb::{
    envoy::{
        config::{
            core::v3::{AsyncDataSource, DataSource, RemoteDataSource, TypedExtensionConfig, async_data_source, data_source},
            rbac::v3::Rbac as Rules,
        },
        extensions::{
            filters::{
                http::{rbac::v3::Rbac as HttpRbac, wasm::v3::Wasm as HttpWasm},
                network::{rbac::v3::Rbac as NetworkRbac, wasm::v3::Wasm as NetworkWasm},
            },
            wasm::v3::{FailurePolicy, PluginConfig, VmConfig, plugin_config::Vm},
        },
    },
    google::protobuf::{Any, Duration as WireDuration},
};
use prost::{Message, Name};
use tracing::warn;

use super::{Credentials, Modules, PullPolicy, Secret, Wanted};

/// What is said to the agent alone stands in variables whose names begin like this.
const OURS: &str = "ISTIO_META_";
const PULL_SECRET: &str = "ISTIO_META_WASM_IMAGE_PULL_SECRET";
const PULL_POLICY: &str = "ISTIO_META_WASM_IMAGE_PULL_POLICY";
const VERSION: &str = "ISTIO_META_WASM_PLUGIN_RESOURCE_VERSION";
/// Stands for no digest, where one has to be said.
const NO_DIGEST: &str = "nil";
/// How long a module may take that does not say it.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest that any may take: Envoy waits.
const LONGEST: Duration = Duration::from_secs(60);

/// What became of a resource.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Rewritten {
    /// It is as it was.
    Same,
    /// It is this now.
    To(Vec<u8>),
    /// It is this for want of the module.
    StandsIn(Vec<u8>),
}

/// A filter that runs a module.
enum Filter {
    Http(HttpWasm),
    Network(NetworkWasm),
}

/// Rewrites an encoded `TypedExtensionConfig`. It takes as long as the module takes to come.
pub(crate) async fn rewrite(resource: &[u8], modules: &Modules) -> Rewritten {
    // What is no such resource is Envoy's to judge.
    let Ok(mut config) = TypedExtensionConfig::decode(resource) else { return Rewritten::Same };
    let Some(mut filter) = config.typed_config.as_ref().and_then(Filter::of) else { return Rewritten::Same };
    let Some(wanted) = filter.wanted(&config.name) else { return Rewritten::Same };
    let file = match wanted {
        Ok(wanted) => modules.file(&wanted).await.map_err(|why| format!("{}: {why}", wanted.url)),
        Err(why) => Err(why),
    };
    match file {
        Ok(file) => {
            filter.runs(&file);
            config.typed_config = Some(filter.any());
            Rewritten::To(config.encode_to_vec())
        }
        Err(why) => {
            let open = filter.fails_open();
            let then = if open { "traffic passes without it" } else { "traffic is refused" };
            warn!(filter = config.name, "no module, {then}: {why}");
            config.typed_config = Some(filter.stand_in(open));
            Rewritten::StandsIn(config.encode_to_vec())
        }
    }
}

impl Filter {
    fn of(config: &Any) -> Option<Self> {
        match &config.type_url {
            url if *url == HttpWasm::type_url() => HttpWasm::decode(&config.value[..]).ok().map(Self::Http),
            url if *url == NetworkWasm::type_url() => NetworkWasm::decode(&config.value[..]).ok().map(Self::Network),
            _ => None,
        }
    }

    fn any(&self) -> Any {
        match self {
            Self::Http(wasm) => Any { type_url: HttpWasm::type_url(), value: wasm.encode_to_vec() },
            Self::Network(wasm) => Any { type_url: NetworkWasm::type_url(), value: wasm.encode_to_vec() },
        }
    }

    fn plugin(&self) -> Option<&PluginConfig> {
        match self {
            Self::Http(wasm) => wasm.config.as_ref(),
            Self::Network(wasm) => wasm.config.as_ref(),
        }
    }

    fn vm(&self) -> Option<&VmConfig> {
        let Vm::VmConfig(vm) = self.plugin()?.vm.as_ref()?;
        Some(vm)
    }

    /// Returns the module to be fetched, or why it cannot be; `None`: Envoy has it.
    fn wanted(&self, name: &str) -> Option<Result<Wanted, String>> {
        let vm = self.vm()?;
        match vm.code.as_ref()?.specifier.as_ref()? {
            async_data_source::Specifier::Remote(remote) => Some(wanted(name, vm, remote)),
            async_data_source::Specifier::Local(_) => None,
        }
    }

    fn fails_open(&self) -> bool {
        self.plugin().is_some_and(|plugin| plugin.failure_policy() == FailurePolicy::FailOpen)
    }

    /// Has it run a file.
    fn runs(&mut self, file: &Path) {
        let plugin = match self {
            Self::Http(wasm) => wasm.config.as_mut(),
            Self::Network(wasm) => wasm.config.as_mut(),
        };
        let Some(Vm::VmConfig(vm)) = plugin.and_then(|plugin| plugin.vm.as_mut()) else { return };
        let file = DataSource { specifier: Some(data_source::Specifier::Filename(file.display().to_string())), ..Default::default() };
        vm.code = Some(AsyncDataSource { specifier: Some(async_data_source::Specifier::Local(file)) });
        if let Some(variables) = &mut vm.environment_variables {
            variables.key_values.retain(|name, _| !name.starts_with(OURS));
            if variables.key_values.is_empty() && variables.host_env_keys.is_empty() {
                vm.environment_variables = None;
            }
        }
    }

    fn stand_in(&self, open: bool) -> Any {
        // Without rules all is allowed, with none that allows anything nothing.
        let rules = (!open).then(Rules::default);
        let prefix = if open { "wasm-default-allow" } else { "wasm-default-deny" };
        match self {
            Self::Http(_) => {
                let rbac = HttpRbac { rules, rules_stat_prefix: prefix.into(), ..Default::default() };
                Any { type_url: HttpRbac::type_url(), value: rbac.encode_to_vec() }
            }
            Self::Network(_) => {
                let rbac = NetworkRbac { rules, stat_prefix: prefix.into(), ..Default::default() };
                Any { type_url: NetworkRbac::type_url(), value: rbac.encode_to_vec() }
            }
        }
    }
}

/// Returns a time that is not negative.
fn as_long_as(said: &WireDuration) -> Option<Duration> {
    Some(Duration::new(said.seconds.try_into().ok()?, said.nanos.try_into().ok()?))
}

fn wanted(name: &str, vm: &VmConfig, remote: &RemoteDataSource) -> Result<Wanted, String> {
    let uri = remote.http_uri.as_ref().ok_or("nobody says where the module is")?;
    let said = |name: &str| vm.environment_variables.as_ref().and_then(|variables| variables.key_values.get(name)).map(String::as_str);
    let secret = match said(PULL_SECRET) {
        None => Secret::Nothing,
        Some("") => Secret::Missing,
        Some(credentials) => Secret::Is(Credentials(credentials.into())),
    };
    let pull = match said(PULL_POLICY) {
        Some("IfNotPresent") => PullPolicy::IfNotPresent,
        Some("Always") => PullPolicy::Always,
        _ => PullPolicy::Unspecified,
    };
    let patience = uri.timeout.as_ref().and_then(as_long_as).unwrap_or(PATIENCE).min(LONGEST);
    Ok(Wanted {
        filter: name.to_owned(),
        url: uri.uri.clone(),
        digest: if remote.sha256 == NO_DIGEST { String::new() } else { remote.sha256.clone() },
        pull,
        version: said(VERSION).unwrap_or_default().to_owned(),
        secret,
        patience,
    })
}

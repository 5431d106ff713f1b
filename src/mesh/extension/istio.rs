//! TrafficExtensions and WasmPlugins as extensions.

use smol_str::{SmolStr, format_smolstr};

use super::{Code, Extension, Module};
use crate::api::{
    ObjectKey,
    istio::{ExtensionCode, TrafficExtension, WasmModule, WasmPlugin},
    module_url::ModuleUrl,
};

/// What filters are named by, before their objects.
const FILTER: &str = "extensions.istio.io/trafficextension/";
/// What tells a WasmPlugin from a TrafficExtension of its name. No name of an object has a tilde.
const PLUGIN: &str = "~istio-translated-wasmplugin";
/// What the control plane tells agents by variables begins like this; no module is handed such.
const RESERVED: &str = "ISTIO_META_";

/// Converts a TrafficExtension; `None`: what it wants is not clear.
pub(in crate::mesh) fn of_traffic_extension(object: &ObjectKey, written: &TrafficExtension) -> Option<Extension> {
    let name = format_smolstr!("{}.{}", object.namespace, object.name);
    let code = match written.code.as_ref()? {
        ExtensionCode::Wasm(module) => of_module(name.clone(), module)?,
        ExtensionCode::Lua(code) => Code::Lua(code.clone()),
    };
    Some(Extension {
        target: written.target.clone(),
        filter: format_smolstr!("{FILTER}{name}"),
        placement: written.placement.clone(),
        code,
    })
}

/// Converts a WasmPlugin; `None`: what it wants is not clear.
pub(in crate::mesh) fn of_wasm_plugin(object: &ObjectKey, written: &WasmPlugin) -> Option<Extension> {
    let name = format_smolstr!("{}.{}", object.namespace, plugin_name(&object.name));
    Some(Extension {
        target: written.target.clone(),
        filter: format_smolstr!("{FILTER}{name}"),
        placement: written.placement.clone(),
        code: of_module(name, &written.module)?,
    })
}

/// Returns the name of a WasmPlugin among TrafficExtensions.
pub(in crate::mesh) fn plugin_name(name: &str) -> SmolStr {
    format_smolstr!("{name}{PLUGIN}")
}

fn of_module(name: SmolStr, written: &WasmModule) -> Option<Code> {
    if written.refused {
        return Some(Code::Unknown(written.side));
    }
    let (of_proxy, own): (Vec<_>, Vec<_>) =
        written.environment.iter().filter(|variable| !variable.name.starts_with(RESERVED)).partition(|variable| variable.value.is_none());
    Some(Code::Wasm(Module {
        name,
        url: ModuleUrl::parse(&written.url).ok()?,
        sha256: written.sha256.clone(),
        pull_policy: written.pull_policy,
        pull_secret: pull_secret(&written.pull_secret),
        config: written.config.clone(),
        root_id: written.name.clone(),
        fail_strategy: written.fail_strategy,
        variables: own.into_iter().filter_map(|variable| Some((variable.name.clone(), variable.value.clone()?))).collect(),
        proxy_variables: of_proxy.into_iter().map(|variable| variable.name.clone()).collect(),
        side: written.side,
    }))
}

/// Returns the name of the Secret that is meant. As with istiod, it may be written with a scheme and a namespace, and is one of the
/// object's own namespace all the same.
fn pull_secret(written: &str) -> Option<SmolStr> {
    let path = written.split_once("://").map_or(written, |(_, path)| path);
    path.rsplit('/').next().filter(|name| !name.is_empty()).map(SmolStr::new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Kind, istio::EnvironmentVariable};

    fn object() -> ObjectKey {
        ObjectKey { cluster: "c".into(), kind: Kind::WasmPlugin, namespace: "shop".into(), name: "check".into() }
    }

    fn module(pull_secret: &str) -> WasmModule {
        let variable = |name: &str, value: Option<&str>| EnvironmentVariable {
            name: name.into(),
            value: value.map(SmolStr::new),
            is_contradictory: false,
        };
        WasmModule {
            url: "ghcr.io/x/y".into(),
            pull_secret: pull_secret.into(),
            environment: vec![variable("A", Some("1")), variable("B", None), variable("ISTIO_META_WASM_IMAGE_PULL_SECRET", Some("x"))],
            ..WasmModule::default()
        }
    }

    #[test]
    fn a_plugin_is_an_extension_of_another_name() {
        let plugin = of_wasm_plugin(&object(), &WasmPlugin { module: module(""), ..WasmPlugin::default() }).unwrap();
        assert_eq!(plugin.filter, "extensions.istio.io/trafficextension/shop.check~istio-translated-wasmplugin");
        let code = Some(ExtensionCode::Wasm(module("")));
        let extension = of_traffic_extension(&object(), &TrafficExtension { code, ..TrafficExtension::default() }).unwrap();
        assert_eq!(extension.filter, "extensions.istio.io/trafficextension/shop.check");
        let module = extension.module().unwrap();
        assert_eq!((&module.variables[..], &module.proxy_variables[..]), (&[("A".into(), "1".into())][..], &["B".into()][..]));
        assert_eq!(module.url, ModuleUrl::Image("oci://ghcr.io/x/y".into()));
    }

    #[test]
    fn a_pull_secret_has_no_namespace_whatever_is_written() {
        for written in ["pull", "kubernetes://pull", "kubernetes://bank/pull", "bank/pull", "kubernetes-gateway://bank/pull"] {
            assert_eq!(pull_secret(written).as_deref(), Some("pull"), "{written}");
        }
        assert_eq!(pull_secret(""), None);
    }
}

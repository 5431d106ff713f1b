//! Of a WasmPlugin or TrafficExtension whose module is to refuse traffic while it cannot run, that holds: no module can run that nobody
//! knows.

use std::sync::Arc;

use serde_json::Value;

use super::{Left, field, field_of, target};
use crate::api::{
    Kind, ObjectKey, Spec,
    istio::{ExtensionCode, FailStrategy, Placement, TrafficExtension, TrafficSelector, WasmModule, WasmPlugin, WasmType},
};

/// Returns the extension with a module that never runs; `None` if traffic is to pass without the module, or there is none.
pub(super) fn left(key: &ObjectKey, spec: &Value) -> Option<Left> {
    let written = match key.kind {
        Kind::WasmPlugin => spec.clone(),
        _ => field(spec, "wasm", |node| Some(node.value.clone())).flatten()?,
    };
    if let Some(Some(FailStrategy::Open)) = field_of(&written, "failStrategy") {
        return None;
    }
    let side = field_of(&written, "type").unwrap_or(Some(WasmType::Http));
    // Where there is no telling which traffic it was to see, all of it is refused.
    let module = WasmModule { refused: true, side: side.unwrap_or(WasmType::Network), ..WasmModule::default() };
    let selectors = field_of::<Vec<TrafficSelector>>(spec, "match").flatten().filter(|selectors| are_right(selectors));
    let placement = Placement { selectors: selectors.unwrap_or_default(), ..Placement::default() };
    let target = target(spec);
    let spec = match key.kind {
        Kind::WasmPlugin => Spec::WasmPlugin(Arc::new(WasmPlugin { target, placement, module })),
        _ => {
            let code = Some(ExtensionCode::Wasm(module));
            Spec::TrafficExtension(Arc::new(TrafficExtension { target, placement, code }))
        }
    };
    Some(Left { spec, consequence: "the traffic that it is for is refused".to_owned() })
}

fn are_right(selectors: &[TrafficSelector]) -> bool {
    selectors.iter().flat_map(|selector| &selector.ports).all(|port| (1..=65535).contains(port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{
        parse,
        yaml::{document, documents},
    };

    /// Returns what is left of a refused object: its selector, what its module sees, and the ports that it is for.
    fn left_of(kind: &str, spec: &str) -> Option<String> {
        let yaml =
            format!("apiVersion: extensions.istio.io/v1alpha1\nkind: {kind}\nmetadata: {{name: a, namespace: shop}}\nspec: {spec}\n");
        let mut parsed = parse(&document(documents(&yaml)[0]).unwrap(), &"Kubernetes".into());
        assert_eq!(parsed.objects.len(), 0, "{spec} is to be refused");
        let (target, placement, module) = match &parsed.refused.remove(0).remnant?.object.spec {
            Spec::WasmPlugin(plugin) => (plugin.target.clone(), plugin.placement.clone(), plugin.module.clone()),
            Spec::TrafficExtension(extension) => match &extension.code {
                Some(ExtensionCode::Wasm(module)) => (extension.target.clone(), extension.placement.clone(), module.clone()),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        };
        assert!(module.refused);
        let ports: Vec<_> = placement.selectors.iter().map(|selector| selector.ports.clone()).collect();
        Some(format!("{:?} {:?} {ports:?}", target.selector, module.side))
    }

    #[test]
    fn traffic_is_refused_that_a_module_was_to_see() {
        let whole = "{selector: {matchLabels: {app: a}}, url: 'ftp://a/b', match: [{ports: [{number: 80}]}]}";
        assert_eq!(left_of("WasmPlugin", whole).unwrap(), r#"Some({"app": "a"}) Http [[80]]"#);
        for (spec, expected) in [
            ("{url: [], type: NETWORK}", "None Network []"),
            ("{url: a/b, type: NETWRK}", "None Network []"),
            ("{url: a/b, failStrategy: FAIL_OPN}", "None Http []"),
            ("{url: a/b, match: [{ports: [{number: 70000}]}]}", "None Http []"),
            ("{url: a/b, match: 7, failStrategy: FAIL_RELOAD}", "None Http []"),
        ] {
            assert_eq!(left_of("WasmPlugin", spec).unwrap(), expected, "{spec}");
        }
        assert_eq!(left_of("TrafficExtension", "{wasm: {url: 'ftp://a/b'}}").unwrap(), "None Http []");
        assert_eq!(left_of("TrafficExtension", "{wasm: 7}").unwrap(), "None Http []");
    }

    #[test]
    fn what_fails_open_and_what_is_a_script_leaves_nothing() {
        assert_eq!(left_of("WasmPlugin", "{url: 'ftp://a/b', failStrategy: FAIL_OPEN}"), None);
        assert_eq!(left_of("TrafficExtension", "{wasm: {url: 'ftp://a/b', failStrategy: FAIL_OPEN}}"), None);
        assert_eq!(left_of("TrafficExtension", "{lua: {inlineCode: ''}}"), None);
        assert_eq!(left_of("TrafficExtension", "{}"), None);
    }
}

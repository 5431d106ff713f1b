//! Code of users' own that no proxy can run, or not where it is meant to.

use crate::cases::Case;

fn object(kind: &str, name: &str, spec: &str) -> String {
    format!("apiVersion: extensions.istio.io/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{{spec}}}\n")
}

fn plugin(spec: &str) -> String {
    object("WasmPlugin", "p", spec)
}

fn script(spec: &str) -> String {
    object("TrafficExtension", "p", spec)
}

/// Returns what is said of a plugin that is refused: a field and why, or several.
fn refused(name: &'static str, spec: &str, found: &[(&str, &str)]) -> Case {
    let told = |(field, why): &(&str, &str)| format!("error: WasmPlugin/shop/p (z.yaml, document 1) {field}: {why}");
    let left = "warning: WasmPlugin/shop/p (z.yaml, document 1) spec: no good version of it is known, and going without it would leave \
                something open: the traffic that it is for is refused";
    let findings: Vec<String> = found.iter().map(told).chain([left.to_owned()]).collect();
    Case::new(name, plugin(spec), &findings.iter().map(String::as_str).collect::<Vec<_>>())
}

pub(crate) fn extensions() -> Vec<Case> {
    vec![
        refused("a plugin without a module", "phase: AUTHN", &[("spec.url", "is missing")]),
        refused(
            "a module that nobody can fetch",
            "url: 'ftp://a.b/m.wasm'",
            &[("spec.url", "is of ftp, and must be of file://, http://, https:// or oci://")],
        ),
        refused("a module behind a password", "url: 'https://user:word@a.b/m.wasm'", &[("spec.url", "must not hold a user")]),
        refused("a digest that is none", "url: a.b/m, sha256: ABCDEF", &[("spec.sha256", "must be 64 of the digits 0 to 9 and a to f")]),
        refused(
            "a phase that is none",
            "url: a.b/m, phase: AUTH",
            &[("spec.phase", r#"unknown value "AUTH"; known are UNSPECIFIED, UNSPECIFIED_PHASE, AUTHN, AUTHZ, STATS"#)],
        ),
        refused(
            "variables of a module",
            "url: a.b/m, vmConfig: {env: [{value: a}, {name: A, value: a}, {name: A}, {name: B, valueFrom: HOST, value: b}]}",
            &[
                ("spec.vmConfig.env[0].name", "is missing"),
                ("spec.vmConfig.env[2].name", "\"A\" is there twice"),
                ("spec.vmConfig.env[3].value", "is possible with valueFrom INLINE only"),
            ],
        ),
        refused("configuration that is no map", "url: a.b/m, pluginConfig: [a]", &[("spec.pluginConfig", "must be a map, is a list")]),
        refused(
            "ports that are none",
            "url: a.b/m, match: [{mode: SERVER, ports: [{number: 80}, {number: 65536}, {}]}]",
            &[
                ("spec.match[0].ports[1].number", "must be 1 to 65535, is 65536"),
                ("spec.match[0].ports[2].number", "must be 1 to 65535, is 0"),
            ],
        ),
        Case::new(
            "a plugin that fails open",
            plugin("url: 'ftp://a.b/m.wasm', failStrategy: FAIL_OPEN"),
            &["error: WasmPlugin/shop/p (z.yaml, document 1) spec.url: is of ftp, and must be of file://, http://, https:// or oci://"],
        ),
        Case::new(
            "an extension of two forms",
            script("wasm: {url: a.b/m, failStrategy: FAIL_OPEN}, lua: {inlineCode: x}"),
            &["error: TrafficExtension/shop/p (z.yaml, document 1) spec: exactly one of wasm and lua must be set"],
        ),
        Case::new(
            "an empty script",
            script("lua: {}"),
            &["error: TrafficExtension/shop/p (z.yaml, document 1) spec.lua.inlineCode: must not be empty"],
        ),
        Case::new(
            "a long script",
            script(&format!("lua: {{inlineCode: {}}}", "x".repeat(65537))),
            &[
                "error: TrafficExtension/shop/p (z.yaml, document 1) spec.lua.inlineCode: has 65537 bytes, more than the 65536 that are possible",
            ],
        ),
        Case::new(
            "what modules are not handed, and what is not verified",
            plugin("url: a.b/m, verificationKey: k, vmConfig: {env: [{name: ISTIO_META_X, value: a}]}"),
            &[
                "warning: WasmPlugin/shop/p (z.yaml, document 1) spec.verificationKey: field verificationKey is not supported yet and has no \
                 effect",
                "warning: WasmPlugin/shop/p (z.yaml, document 1) spec.vmConfig.env[0].name: begins with ISTIO_META_: the module is not handed \
                 such variables",
            ],
        ),
        Case::new(
            "a Secret that is not there",
            plugin("url: a.b/m, imagePullSecret: gone"),
            &[
                "warning: WasmPlugin/shop/p (z.yaml, document 1) spec.imagePullSecret: Secret shop/gone does not exist: proxies that do not have \
                 the module already cannot fetch it, and failStrategy says what becomes of their traffic",
            ],
        ),
    ]
}

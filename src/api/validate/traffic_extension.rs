//! Rules for TrafficExtension and WasmPlugin.

use std::collections::BTreeSet;

use smol_str::SmolStr;

use super::Check;
use crate::api::{
    findings::Path,
    istio::{EnvironmentVariable, ExtensionCode, Placement, TrafficExtension, WasmModule, WasmPlugin},
    module_url::ModuleUrl,
};

/// How much code an object may have itself, in bytes.
const MOST_CODE: usize = 64 << 10;
const LONGEST_NAME: usize = 256;
const LONGEST_SECRET_NAME: usize = 253;
/// How long the value of a variable may be, in bytes.
const LONGEST_VALUE: usize = 2048;
const MOST_VARIABLES: usize = 256;

/// What the control plane tells the agent by variables of the module begins like this.
const RESERVED: &str = "ISTIO_META_";

impl Check<'_> {
    pub(super) fn traffic_extension(self, extension: &TrafficExtension, at: &Path<'_>) {
        self.target(&extension.target, at);
        self.placement(&extension.placement, at);
        match &extension.code {
            Some(ExtensionCode::Wasm(module)) => self.wasm_module(module, &at.field("wasm")),
            Some(ExtensionCode::Lua(code)) => self.lua(code, &at.field("lua").field("inlineCode")),
            None => {}
        }
    }

    pub(super) fn wasm_plugin(self, plugin: &WasmPlugin, at: &Path<'_>) {
        self.target(&plugin.target, at);
        self.placement(&plugin.placement, at);
        self.wasm_module(&plugin.module, at);
    }

    fn placement(self, placement: &Placement, at: &Path<'_>) {
        let selectors = at.field("match");
        for (index, selector) in placement.selectors.iter().enumerate() {
            let at = selectors.index(index);
            let ports = at.field("ports");
            for (index, number) in selector.ports.iter().enumerate().filter(|(_, number)| !(1..=65535).contains(*number)) {
                self.error(&ports.index(index).field("number"), format!("must be 1 to 65535, is {number}"));
            }
        }
    }

    fn lua(self, code: &str, at: &Path<'_>) {
        match code.len() {
            0 => self.error(at, "must not be empty"),
            1..=MOST_CODE => {}
            bytes => self.error(at, format!("has {bytes} bytes, more than the {MOST_CODE} that are possible")),
        }
    }

    fn wasm_module(self, module: &WasmModule, at: &Path<'_>) {
        if let Err(why) = ModuleUrl::parse(&module.url) {
            self.error(&at.field("url"), why);
        }
        let is_digest = |text: &str| text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        if !module.sha256.is_empty() && !is_digest(&module.sha256) {
            self.error(&at.field("sha256"), "must be 64 of the digits 0 to 9 and a to f");
        }
        self.pull_secret(&module.pull_secret, &at.field("imagePullSecret"));
        if module.name.len() > LONGEST_NAME {
            self.error(&at.field("pluginName"), format!("must have at most {LONGEST_NAME} bytes"));
        }
        self.variables(&module.environment, &at.field("vmConfig").field("env"));
    }

    fn pull_secret(self, written: &SmolStr, at: &Path<'_>) {
        if written.len() > LONGEST_SECRET_NAME {
            self.error(at, format!("must have at most {LONGEST_SECRET_NAME} bytes"));
        }
    }

    fn variables(self, variables: &[EnvironmentVariable], at: &Path<'_>) {
        if variables.len() > MOST_VARIABLES {
            self.error(at, format!("has {} variables, more than the {MOST_VARIABLES} that are possible", variables.len()));
        }
        let mut known = BTreeSet::new();
        for (index, variable) in variables.iter().enumerate() {
            let at = at.index(index);
            let name = at.field("name");
            match variable.name.len() {
                0 => self.error(&name, "is missing"),
                1..=LONGEST_NAME => {}
                _ => self.error(&name, format!("must have at most {LONGEST_NAME} bytes")),
            }
            if !known.insert(&variable.name) {
                self.error(&name, format!("{:?} is there twice", variable.name));
            }
            if variable.name.starts_with(RESERVED) {
                self.warning(&name, format!("begins with {RESERVED}: the module is not handed such variables"));
            }
            if variable.is_contradictory {
                self.error(&at.field("value"), "is possible with valueFrom INLINE only");
            }
            if variable.value.as_ref().is_some_and(|value| value.len() > LONGEST_VALUE) {
                self.error(&at.field("value"), format!("must have at most {LONGEST_VALUE} bytes"));
            }
        }
    }
}

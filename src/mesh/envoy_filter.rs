//! EnvoyFilter objects: what users change in what proxies are sent (contract §6.8).

use std::sync::Arc;

use smol_str::{SmolStr, format_smolstr};

use super::{
    configured::Configured,
    model::{Labels, Origin},
    policy_table::{Attachment, Policy},
};
pub use crate::api::istio::{
    ApplyTo, ClusterMatch, FilterChainMatch, ListenerMatch, ObjectMatch, PatchContext, PatchOperation, RouteAction,
    RouteConfigurationMatch, RouteMatch, VirtualHostMatch,
};
use crate::{
    api::{
        Object,
        istio::{self, ConfigPatch, PolicyTarget, ValueMistake},
    },
    reflection,
};

/// What an EnvoyFilter says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EnvoyFilter {
    /// The workloads that it is for.
    pub target: PolicyTarget,
    /// Filters of a lower one are applied first.
    pub priority: i32,
    /// What can be applied, in the order in which it is written. Shared, as what is made of it is remembered by it.
    pub patches: Vec<Arc<Patch>>,
    /// What cannot, whatever it is applied to.
    pub unusable: Vec<UnusablePatch>,
    /// What the object said before, the newest first, as far as all of it was messages: it stays where this cannot be applied.
    pub earlier: Vec<Arc<Configured<EnvoyFilter>>>,
}

/// One change.
#[derive(Clone, Debug, PartialEq)]
pub struct Patch {
    /// The EnvoyFilter.
    pub origin: Origin,
    /// Which of its `configPatches` it is.
    pub at: usize,
    /// What is changed.
    pub apply_to: ApplyTo,
    /// The side of the proxies on which it is.
    pub context: PatchContext,
    /// Which of these it is; `None`: all.
    pub object: Option<ObjectMatch>,
    /// How it is changed.
    pub operation: PatchOperation,
    /// The message that does it, encoded; empty where none is needed.
    pub value: Vec<u8>,
    /// The clusters that it names, sorted.
    pub clusters: Vec<SmolStr>,
    /// The extension configurations that it names, sorted.
    pub extensions: Vec<SmolStr>,
    /// The types of what is packed into it that only Istio's proxy knows, if any does.
    pub types_of_istio: Vec<SmolStr>,
    /// Messages that come as `TypedStruct` in it, encoded, with their types by full name.
    pub structs: Vec<(SmolStr, Vec<u8>)>,
    version: Option<VersionPattern>,
    metadata: Labels,
}

/// A change of which the value is no message.
#[derive(Clone, Debug, PartialEq)]
pub struct UnusablePatch {
    /// The path of the field with the mistake.
    pub field: SmolStr,
    /// What is wrong there.
    pub what: SmolStr,
}

/// An expression for the versions of proxies.
#[derive(Clone, Debug)]
struct VersionPattern {
    text: SmolStr,
    /// `None`: it cannot be compiled here, and fits nothing. The checks of objects let none through that RE2 does not take.
    compiled: Option<regex_lite::Regex>,
}

/// How many earlier contents of an object are kept: enough for one who mends a mistake in a few steps.
const KEPT: usize = 4;
/// The metadata of proxies in which their version is.
const VERSION: &str = "ISTIO_VERSION";

impl EnvoyFilter {
    /// Converts an EnvoyFilter.
    pub(in crate::mesh) fn of(object: &Object, written: &istio::EnvoyFilter) -> Self {
        let mut filter = Self { target: written.target.clone(), priority: written.priority, ..Self::default() };
        for (at, patch) in written.patches.iter().enumerate() {
            match patch.value.as_ref().map(|value| &value.message) {
                Some(Err(mistake)) => filter.unusable.push(UnusablePatch::of(at, mistake)),
                // There are no waypoints here.
                _ if patch.context == PatchContext::Waypoint || !patch.apply_to.takes(patch.operation) => {}
                Some(Ok(message)) => filter.patches.push(Arc::new(Patch::of(object, at, patch, message.clone()))),
                None => filter.patches.push(Arc::new(Patch::of(object, at, patch, Vec::new()))),
            }
        }
        filter
    }

    /// Adds what the object said before.
    pub(in crate::mesh) fn following(mut self, before: &Configured<Self>) -> Self {
        let old = &before.spec;
        if (&self.target, self.priority, &self.patches, &self.unusable) == (&old.target, old.priority, &old.patches, &old.unusable) {
            return Self { earlier: old.earlier.clone(), ..self };
        }
        let without_others = || Arc::new(Configured { spec: Arc::new(Self { earlier: Vec::new(), ..Self::clone(old) }), ..before.clone() });
        let newest = old.unusable.is_empty().then(without_others);
        self.earlier = newest.into_iter().chain(old.earlier.iter().cloned()).take(KEPT).collect();
        self
    }

    /// Returns what counts of it, and what may stand in for that: what the object says, unless some of it is no message and it said
    /// something else before.
    pub(in crate::mesh) fn in_effect(&self) -> (&Self, &[Arc<Configured<Self>>]) {
        match self.earlier.split_first().filter(|_| !self.unusable.is_empty()) {
            Some((newest, earlier)) => (&newest.spec, earlier),
            None => (self, &self.earlier),
        }
    }
}

impl Policy for EnvoyFilter {
    fn attachment(&self) -> Attachment<'_> {
        Attachment::of_target(&self.in_effect().0.target)
    }
}

impl Patch {
    fn of(object: &Object, at: usize, written: &ConfigPatch, value: Vec<u8>) -> Self {
        use PatchOperation::{Add, InsertAfter, InsertBefore, InsertFirst};
        let operation = match written.operation {
            InsertAfter | InsertBefore | InsertFirst if !written.apply_to.has_order() => Add,
            operation => operation,
        };
        let named = reflection::named(written.apply_to.message_type(), &value);
        let version = Some(&written.proxy_version).filter(|version| !version.is_empty());
        Self {
            origin: Origin::of(object),
            at,
            apply_to: written.apply_to,
            context: written.context,
            object: written.object.clone(),
            operation,
            value,
            clusters: named.clusters.into_iter().collect(),
            extensions: named.extensions.into_iter().collect(),
            structs: named.contents,
            types_of_istio: named.types.into_iter().filter(|name| !reflection::is_of_envoy(name)).collect(),
            version: version.map(|text| VersionPattern { text: text.clone(), compiled: regex_lite::Regex::new(text).ok() }),
            metadata: written.proxy_metadata.clone(),
        }
    }

    /// Returns the path of a field of it in the object.
    pub fn field(&self, name: &str) -> String {
        format!("spec.configPatches[{}].{name}", self.at)
    }

    /// Returns whether it is for proxies that say this of themselves.
    pub(in crate::mesh) fn is_for(&self, metadata: &Labels) -> bool {
        let is_version = |pattern: &VersionPattern| {
            let version = metadata.get(VERSION).filter(|version| !version.is_empty());
            version.is_some_and(|version| pattern.compiled.as_ref().is_some_and(|compiled| compiled.is_match(version)))
        };
        self.version.as_ref().is_none_or(is_version) && self.metadata.iter().all(|(key, value)| metadata.get(key) == Some(value))
    }

    /// Returns whether it is for this side of proxies.
    pub fn is_in(&self, context: PatchContext) -> bool {
        self.context == PatchContext::Any || self.context == context
    }
}

impl UnusablePatch {
    fn of(at: usize, mistake: &ValueMistake) -> Self {
        let dot = if mistake.path.is_empty() { "" } else { "." };
        Self { field: format_smolstr!("spec.configPatches[{at}].patch.value{dot}{}", mistake.path), what: mistake.what.clone() }
    }
}

impl PartialEq for VersionPattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

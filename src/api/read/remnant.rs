//! What of a refused object holds all the same where no good version of it is known: without it, something would be open
//! that the object closes.
//!
//! A part that can be read holds as it is written; a part that cannot is closed. What restricts nothing (load balancing,
//! subsets, routes, imports) is left out with the object.

mod authorization_policy;
mod destination_rule;
mod extension;
pub(super) mod mesh_config;
mod peer_authentication;
mod request_authentication;
mod sidecar;

use std::sync::Arc;

use serde_json::Value;

use super::fields::{Node, Read};
use crate::api::{
    Diagnostic, Kind, Labels, Metadata, Object, ObjectKey, Spec,
    findings::{Findings, Path},
    istio::PolicyTarget,
    validate,
};

/// What is said first where a remnant is applied.
const NO_GOOD_VERSION: &str = "no good version of it is known, and going without it would leave something open";

/// What of a refused object holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Remnant {
    /// The object, reduced to that.
    pub object: Arc<Object>,
    /// What is said while it is applied.
    pub finding: Diagnostic,
}

/// What a kind leaves of a refused object.
struct Left {
    spec: Spec,
    /// What happens.
    consequence: String,
}

/// Returns what holds of an object that is refused; `None` if nothing would be open without it.
pub(super) fn of(key: &ObjectKey, metadata: &Arc<Metadata>, document: &Value) -> Option<Remnant> {
    let spec = document.get("spec").filter(|spec| spec.is_object())?;
    let left = match key.kind {
        Kind::AuthorizationPolicy => authorization_policy::left(key, spec),
        Kind::DestinationRule => destination_rule::left(key, spec),
        Kind::PeerAuthentication => peer_authentication::left(spec),
        Kind::RequestAuthentication => request_authentication::left(key, spec),
        Kind::Sidecar => sidecar::left(key, spec),
        Kind::TrafficExtension | Kind::WasmPlugin => extension::left(key, spec),
        _ => None,
    }?;
    let message = format!("{NO_GOOD_VERSION}: {}", left.consequence);
    let object = Object { key: key.clone(), version: Default::default(), metadata: Arc::clone(metadata), spec: left.spec };
    Some(Remnant { object: Arc::new(object), finding: Diagnostic::warning("spec", message).of(key) })
}

/// Reads a part by itself; `None` if anything is wrong with it.
fn alone<T>(value: &Value, read: impl FnOnce(Node<'_>) -> Option<T>) -> Option<T> {
    let findings = Findings::default();
    let read = read(Node { value, path: Path::Root, findings: &findings });
    read.filter(|_| !findings.refuse())
}

/// Returns whether the checks of its kind find nothing wrong in an object.
fn is_right(key: &ObjectKey, spec: Spec) -> bool {
    let findings = Findings::default();
    validate::object(&Object { key: key.clone(), version: Default::default(), metadata: Arc::default(), spec }, &findings);
    !findings.refuse()
}

/// Reads the labels of a selector, whose numbers and truth values mean their text. What is no selector selects all, as
/// an empty one does.
fn selected(selector: &Value, labels: &str) -> Option<Labels> {
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.as_str().into()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string().into()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    };
    let labels = selector.get(labels).and_then(Value::as_object)?;
    labels.iter().map(|(name, value)| Some((name.as_str().into(), text(value)?))).collect()
}

/// Reads whom a policy is for.
fn target(spec: &Value) -> PolicyTarget {
    let selector = field(spec, "selector", |node| selected(node.value, "matchLabels")).flatten();
    let single = field_of(spec, "targetRef").flatten();
    let several = field_of(spec, "targetRefs").flatten().unwrap_or_default();
    PolicyTarget { selector, single: single.is_some(), refs: single.map_or(several, |single| vec![single]) }
}

/// Reads a field by itself: `None` if it is absent, `Some(None)` if anything is wrong with it.
fn field<T>(message: &Value, name: &'static str, read: impl FnOnce(Node<'_>) -> Option<T>) -> Option<Option<T>> {
    let mut given = false;
    let value = alone(message, |node| {
        node.fields()?.with(name, |node| {
            given = true;
            alone(node.value, read)
        })
    });
    given.then_some(value)
}

/// Reads a field by itself as [`field`] does, by the reader of its type.
fn field_of<T: Read>(message: &Value, name: &'static str) -> Option<Option<T>> {
    field(message, name, T::read)
}

//! Decides whether an object may be stored, and with which warnings. Pure.

use std::sync::Arc;

use serde_json::Value;
use smol_str::SmolStr;

use crate::{
    api::{Diagnostic, Kind, Object, Parsed, Severity, UnreadKind, parse},
    mesh::{engine::Engine, validate},
    webhook::review::{AdmissionRequest, AdmissionResponse},
};

/// The most findings that are listed, with the others counted. The API server cuts warnings of more than 4 kB in all.
const MOST_LISTED: usize = 20;

/// The HTTP status of a refusal.
const UNPROCESSABLE: u16 = 422;

/// What objects are held against.
pub(super) struct Judge<'a> {
    pub(super) engine: &'a Engine,
    pub(super) cluster: &'a SmolStr,
}

/// The decision about one object.
pub(super) struct Verdict {
    pub(super) answer: AdmissionResponse,
    /// Why the object is refused; `None` if it is not.
    pub(super) reason: Option<RefusalReason>,
}

/// Why an object is refused, as istiod's metrics tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RefusalReason {
    /// The kind is unknown.
    UnknownType,
    /// The object is invalid.
    Invalid,
}

impl Judge<'_> {
    pub(super) fn verdict(&self, request: &AdmissionRequest) -> Verdict {
        let object = &request.object;
        // It must be possible to delete any stored object, and finalizers are removed by updates.
        let leaving = object.pointer("/metadata/deletionTimestamp").is_some_and(|time| !time.is_null());
        if !matches!(&*request.operation, "CREATE" | "UPDATE") || leaving {
            return Verdict::allowed(Vec::new());
        }
        match ObjectType::of(object) {
            ObjectType::Read => self.judge(request),
            ObjectType::Unread(kind) => Verdict::allowed(vec![not_read(kind, request)]),
            ObjectType::Unknown(what) => Verdict::refused(
                RefusalReason::UnknownType,
                format!("{what} is none of Istio's kinds: take it out of the rules of this webhook"),
            ),
        }
    }

    fn judge(&self, request: &AdmissionRequest) -> Verdict {
        let parsed = parse(&as_stored(request), self.cluster);
        let mut findings = parsed.diagnostics.clone();
        findings.extend(self.beside_others(&parsed));
        let (errors, warnings): (Vec<_>, Vec<_>) = findings.into_iter().partition(|finding| finding.severity == Severity::Error);
        let warnings = warnings.iter().map(text);
        if errors.is_empty() {
            return Verdict::allowed(warnings.collect());
        }
        if is_as_before(request) {
            let still = errors.iter().map(|error| format!("{} (not applied)", text(error)));
            return Verdict::allowed(still.chain(warnings).collect());
        }
        let mut errors: Vec<String> = errors.iter().map(text).collect();
        cut(&mut errors);
        Verdict {
            answer: AdmissionResponse { warnings: shown(warnings.collect()), ..refusal(errors.join("\n")) },
            reason: Some(RefusalReason::Invalid),
        }
    }

    /// Returns what the checks across objects say of it. Before there is a world they would miss everything but what is refused.
    fn beside_others(&self, parsed: &Parsed) -> Vec<Diagnostic> {
        let known = self.engine.world().generation > 0;
        let of = |object: &Arc<Object>| {
            let applied = self.engine.clone().apply([(object.key.clone(), Some(with_age(object)))]);
            validate::of(&applied.world, &object.key)
        };
        parsed.objects.iter().flat_map(of).filter(|finding| known || finding.severity == Severity::Error).collect()
    }
}

impl Verdict {
    fn allowed(warnings: Vec<String>) -> Self {
        Self { answer: AdmissionResponse { warnings: shown(warnings), ..AdmissionResponse::default() }, reason: None }
    }

    fn refused(reason: RefusalReason, message: String) -> Self {
        Self { answer: refusal(message), reason: Some(reason) }
    }
}

impl RefusalReason {
    /// Returns the value of metric label `reason`.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::UnknownType => "unknown_type",
            Self::Invalid => "invalid_resource",
        }
    }
}

/// What an object says it is.
enum ObjectType {
    Read,
    Unread(&'static UnreadKind),
    Unknown(String),
}

impl ObjectType {
    fn of(object: &Value) -> Self {
        let text = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default();
        let (api_version, kind) = (text("apiVersion"), text("kind"));
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        if Kind::of(group, kind).is_some_and(Kind::is_istio) {
            return Self::Read;
        }
        UnreadKind::of(group, kind).map_or_else(|| Self::Unknown(format!("{kind:?} ({api_version:?})")), Self::Unread)
    }
}

fn not_read(kind: &UnreadKind, request: &AdmissionRequest) -> String {
    format!("{}/{}/{}: is not read by istiod-lite: it has no effect", kind.name, request.namespace, request.name)
}

/// Returns the object with the namespace and name under which it will be stored. A name that the API server is yet to make has
/// the form that it will have.
fn as_stored(request: &AdmissionRequest) -> Value {
    let mut object = request.object.clone();
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return object };
    let absent = |value: Option<&Value>| value.and_then(Value::as_str).is_none_or(str::is_empty);
    if absent(metadata.get("namespace")) && !request.namespace.is_empty() {
        metadata.insert("namespace".to_owned(), request.namespace.clone().into());
    }
    if absent(metadata.get("name")) {
        let beginning = metadata.get("generateName").and_then(Value::as_str).map(|beginning| format!("{beginning}xxxxx"));
        let name = if request.name.is_empty() { beginning } else { Some(request.name.clone()) };
        metadata.extend(name.map(|name| ("name".to_owned(), name.into())));
    }
    object
}

/// Returns the object with an age: one that has none yet is the youngest.
fn with_age(object: &Arc<Object>) -> Arc<Object> {
    if object.metadata.created != 0 {
        return Arc::clone(object);
    }
    let mut young = Object::clone(object);
    Arc::make_mut(&mut young.metadata).created = i64::MAX;
    Arc::new(young)
}

/// Returns whether the update leaves the specification as it was. What slipped in while the webhook was off must still
/// take labels, annotations and owners.
fn is_as_before(request: &AdmissionRequest) -> bool {
    let same = |name: &str| request.object.get(name) == request.old_object.get(name);
    request.operation == "UPDATE" && same("spec") && same("apiVersion")
}

fn text(finding: &Diagnostic) -> String {
    finding.without_severity().to_string()
}

fn refusal(message: String) -> AdmissionResponse {
    AdmissionResponse { refusal: Some((UNPROCESSABLE, message)), ..AdmissionResponse::default() }
}

fn shown(mut warnings: Vec<String>) -> Vec<String> {
    cut(&mut warnings);
    warnings
}

fn cut(lines: &mut Vec<String>) {
    let more = lines.len().saturating_sub(MOST_LISTED);
    if more > 0 {
        lines.truncate(MOST_LISTED);
        lines.push(format!("{more} more findings are not listed"));
    }
}

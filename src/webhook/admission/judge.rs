//! Whether an object may be stored, and what is to be said of it. Pure.

use std::sync::Arc;

use serde_json::Value;
use smol_str::SmolStr;

use crate::{
    api::{Diagnostic, Kind, Object, Parsed, Severity, UnreadKind, parse},
    mesh::{engine::preview, validate, world::World},
    webhook::review::{AdmissionRequest, AdmissionResponse},
};

/// So many findings are listed; the rest is counted. The API server cuts warnings of more than 4 kB in all.
const MOST_LISTED: usize = 20;

/// HTTP status of a refusal.
const UNPROCESSABLE: u16 = 422;

/// What objects are held against.
pub(super) struct Judge<'a> {
    pub(super) world: &'a Arc<World>,
    pub(super) cluster: &'a SmolStr,
}

/// The answer to one question.
pub(super) struct Verdict {
    pub(super) answer: AdmissionResponse,
    /// Why it was refused; `None`: it was not.
    pub(super) reason: Option<Reason>,
}

/// Why an object is refused, in the words of istiod's metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// Nobody knows its kind.
    UnknownType,
    /// It is wrong.
    Invalid,
}

impl Judge<'_> {
    pub(super) fn verdict(&self, request: &AdmissionRequest) -> Verdict {
        let object = &request.object;
        // Whatever was stored must be able to go, and a finalizer is taken off by an update.
        let leaving = object.pointer("/metadata/deletionTimestamp").is_some_and(|time| !time.is_null());
        if !matches!(&*request.operation, "CREATE" | "UPDATE") || leaving {
            return Verdict::allowed(Vec::new());
        }
        match Claim::of(object) {
            Claim::Read => self.judge(request),
            Claim::Unread(kind) => Verdict::allowed(vec![not_read(kind, request)]),
            Claim::Unknown(what) => {
                Verdict::refused(Reason::UnknownType, format!("{what} is none of Istio's kinds: take it out of the rules of this webhook"))
            }
        }
    }

    fn judge(&self, request: &AdmissionRequest) -> Verdict {
        let parsed = parse(&as_stored(request), self.cluster);
        let mut findings = parsed.diagnostics.clone();
        findings.extend(self.beside_others(&parsed));
        let (errors, warnings): (Vec<_>, Vec<_>) = findings.into_iter().partition(|finding| finding.severity == Severity::Error);
        let warnings = warnings.iter().map(told);
        if errors.is_empty() {
            return Verdict::allowed(warnings.collect());
        }
        if is_as_before(request) {
            let still = errors.iter().map(|error| format!("{} (not applied)", told(error)));
            return Verdict::allowed(still.chain(warnings).collect());
        }
        let mut errors: Vec<String> = errors.iter().map(told).collect();
        cut(&mut errors);
        Verdict {
            answer: AdmissionResponse { warnings: shown(warnings.collect()), ..refusal(errors.join("\n")) },
            reason: Some(Reason::Invalid),
        }
    }

    /// What the checks across objects say of it. Before there is a world they would miss everything.
    fn beside_others(&self, parsed: &Parsed) -> Vec<Diagnostic> {
        if self.world.generation == 0 {
            return Vec::new();
        }
        let of = |object: &Arc<Object>| validate::of(&preview(self.world, &with_age(object)), &object.key);
        parsed.objects.iter().flat_map(of).collect()
    }
}

impl Verdict {
    fn allowed(warnings: Vec<String>) -> Self {
        Self { answer: AdmissionResponse { warnings: shown(warnings), ..AdmissionResponse::default() }, reason: None }
    }

    fn refused(reason: Reason, message: String) -> Self {
        Self { answer: refusal(message), reason: Some(reason) }
    }
}

impl Reason {
    /// As in the label `reason`.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::UnknownType => "unknown_type",
            Self::Invalid => "invalid_resource",
        }
    }
}

enum Claim {
    Read,
    Unread(&'static UnreadKind),
    Unknown(String),
}

impl Claim {
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
    format!("{}/{}/{}: is not read by istiod-lite: {}", kind.name, request.namespace, request.name, kind.consequence)
}

/// The object with the name and namespace that it will be stored under. A name that the API server is yet to make has
/// the shape that it will have.
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

/// An object that has no age yet is the youngest.
fn with_age(object: &Arc<Object>) -> Arc<Object> {
    if object.metadata.created != 0 {
        return Arc::clone(object);
    }
    let mut young = Object::clone(object);
    Arc::make_mut(&mut young.metadata).created = i64::MAX;
    Arc::new(young)
}

/// What slipped in while the webhook was off must still take labels, annotations and owners.
fn is_as_before(request: &AdmissionRequest) -> bool {
    let same = |name: &str| request.object.get(name) == request.old_object.get(name);
    request.operation == "UPDATE" && same("spec") && same("apiVersion")
}

// `VirtualService/shop/reviews spec.http[0].timeout: must be …`
fn told(finding: &Diagnostic) -> String {
    let told = finding.to_string();
    let words = told.split_once(": ").filter(|(severity, _)| matches!(*severity, "error" | "warning"));
    words.map_or(told.clone(), |(_, words)| words.to_owned())
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

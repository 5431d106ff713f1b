//! Decides whether an object may be stored, and with which warnings. Pure.

use std::{borrow::Cow, sync::Arc, time::Duration};

use serde::Deserialize;
use serde_json::{Value, value::RawValue};
use smol_str::SmolStr;

use crate::{
    api::{
        Diagnostic, Kind, Object, Parsed, Severity, UnreadKind, parse,
        value::{Allowance, from_json},
    },
    mesh::{engine::Engine, validate},
    peer_text::PeerText,
    webhook::review::{AdmissionRequest, AdmissionResponse},
};

/// The most findings that are listed, with the others counted. The API server cuts warnings of more than 4 kB in all.
const MOST_LISTED: usize = 20;

/// The HTTP status of a refusal.
const UNPROCESSABLE: u16 = 422;

/// The most memory that the values of an object may take. A VirtualService of 3,300 routes is within it.
const MOST_OF_VALUES: usize = 12 << 20;

/// The group of the kinds that protect: while one of them is not in effect, what it forbids is open.
const PROTECTING: &str = "security.istio.io";

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
    /// It was not checked in time.
    Late,
}

impl Judge<'_> {
    pub(super) fn verdict(&self, request: &AdmissionRequest<'_>) -> Verdict {
        let outline = Outline::of(request.object);
        // It must be possible to delete any stored object, and finalizers are removed by updates.
        if !matches!(&*request.operation, "CREATE" | "UPDATE") || outline.leaving {
            return Verdict::allowed(Vec::new());
        }
        match ObjectType::of(&outline) {
            ObjectType::Read => self.judge(request, &outline),
            ObjectType::Unread(kind) => Verdict::allowed(vec![not_read(kind, request)]),
            ObjectType::Unknown(what) => Verdict::refused(
                RefusalReason::UnknownType,
                format!("{what} is none of Istio's kinds: take it out of the rules of this webhook"),
            ),
        }
    }

    fn judge(&self, request: &AdmissionRequest<'_>, outline: &Outline<'_>) -> Verdict {
        let written = match request.object_text() {
            Ok(written) => written,
            Err(answer) => return Verdict { answer, reason: Some(RefusalReason::Invalid) },
        };
        // The values are dropped before the engine takes the object in.
        let read = from_json(written, &Allowance::new(MOST_OF_VALUES)).map(|object| parse(&as_stored(object, request), self.cluster));
        let findings = match read {
            Ok(parsed) => {
                let beside_others = self.beside_others(&parsed);
                parsed.diagnostics.into_iter().chain(beside_others).collect()
            }
            Err(error) => vec![Diagnostic::error("", format!("{} {error}", outline.named(request)))],
        };
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

/// Returns the verdict about an object that was not checked to the end within its time. A kind that protects is refused, since
/// stored and then found wanting it would protect nothing. Any other is let pass: it is checked again when it is read, and until it
/// is found right, what it says is not applied and the last good version stays.
pub(super) fn unchecked(request: &AdmissionRequest<'_>, deadline: Duration) -> Verdict {
    let outline = Outline::of(request.object);
    let message = format!("{} was not checked within {deadline:?}", outline.named(request));
    if outline.group() == PROTECTING {
        return Verdict::refused(
            RefusalReason::Late,
            format!("{message}, and protects nothing if it is wrong: make it smaller, or try again"),
        );
    }
    Verdict::allowed(vec![format!("{message}: it is checked when it is read, and its status and `/debug/diagnostics` say what is found")])
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
            Self::Late => "late",
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
    fn of(object: &Outline<'_>) -> Self {
        let (api_version, kind, group) = (&object.api_version, &object.kind, object.group());
        if Kind::of(group, kind).is_some_and(Kind::is_configuration) {
            return Self::Read;
        }
        UnreadKind::of(group, kind).map_or_else(|| Self::Unknown(format!("{kind:?} ({api_version:?})")), Self::Unread)
    }
}

/// What is read of an object before anything else. A field of another type counts as absent.
#[derive(Default)]
struct Outline<'o> {
    api_version: Cow<'o, str>,
    kind: Cow<'o, str>,
    /// Whether the object is being deleted.
    leaving: bool,
}

impl<'o> Outline<'o> {
    /// The most bytes of `apiVersion` and `kind` that are looked at.
    const MOST: usize = 256;

    fn of(object: Option<&'o RawValue>) -> Self {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Fields<'f> {
            #[serde(borrow, default)]
            api_version: Option<&'f RawValue>,
            #[serde(borrow, default)]
            kind: Option<&'f RawValue>,
            #[serde(borrow, default)]
            metadata: Option<&'f RawValue>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Metadata<'f> {
            #[serde(borrow, default)]
            deletion_timestamp: Option<&'f RawValue>,
        }
        let Some(Ok(fields)) = object.map(|object| serde_json::from_str::<Fields<'o>>(object.get())) else { return Self::default() };
        let text = |field: Option<&'o RawValue>| {
            let short = field.map(RawValue::get).filter(|text| text.len() <= Self::MOST);
            short.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
        };
        let metadata = fields.metadata.and_then(|metadata| serde_json::from_str::<Metadata<'_>>(metadata.get()).ok());
        Self {
            api_version: text(fields.api_version),
            kind: text(fields.kind),
            leaving: metadata.is_some_and(|metadata| metadata.deletion_timestamp.is_some()),
        }
    }

    fn group(&self) -> &str {
        self.api_version.split_once('/').map_or("", |(group, _)| group)
    }

    fn named(&self, request: &AdmissionRequest<'_>) -> String {
        PeerText::new(&format!("{}/{}/{}", self.kind, request.namespace, request.name)).to_string()
    }
}

fn not_read(kind: &UnreadKind, request: &AdmissionRequest<'_>) -> String {
    let named = format!("{}/{}/{}", kind.name, request.namespace, request.name);
    format!("{}: is not read by istiod-lite: it has no effect", PeerText::new(&named))
}

/// Returns the object with the namespace and name under which it will be stored. A name that the API server is yet to make has
/// the form that it will have.
fn as_stored(mut object: Value, request: &AdmissionRequest<'_>) -> Value {
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
fn is_as_before(request: &AdmissionRequest<'_>) -> bool {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Written<'f> {
        #[serde(borrow, default)]
        api_version: Option<&'f RawValue>,
        #[serde(borrow, default)]
        spec: Option<&'f RawValue>,
    }
    fn written<'o>(object: Option<&'o RawValue>) -> Option<Written<'o>> {
        serde_json::from_str(object?.get()).ok()
    }
    let (Some(now), Some(before)) = (written(request.object), written(request.old_object)) else { return false };
    request.operation == "UPDATE" && is_same(now.spec, before.spec) && is_same(now.api_version, before.api_version)
}

/// Returns whether two texts have the same value. The API server writes equal values alike, so most are not read for that.
fn is_same(one: Option<&RawValue>, other: Option<&RawValue>) -> bool {
    let (Some(one), Some(other)) = (one.map(RawValue::get), other.map(RawValue::get)) else { return one.is_none() && other.is_none() };
    let allowance = Allowance::new(MOST_OF_VALUES);
    one == other || matches!((from_json(one, &allowance), from_json(other, &allowance)), (Ok(one), Ok(other)) if one == other)
}

fn text(finding: &Diagnostic) -> String {
    finding.without_severity().to_string()
}

fn refusal(message: String) -> AdmissionResponse {
    AdmissionResponse::refusal(UNPROCESSABLE, message)
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

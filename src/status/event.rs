//! Makes Events (`events.k8s.io/v1`). Pure.
//!
//! The name of an Event is a hash of what it says, so that the same finding is the same Event after a restart and with
//! another leader, and only its count goes up. (kube's `Recorder` takes two findings with the same reason for one Event.)

use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use xxhash_rust::xxh3::xxh3_64;

use super::{
    Settings,
    object::{ObjectPath, ReadObject},
    report::{ConditionReason, ReportLine},
};
use crate::api::ObjectKey;

/// The reporter, for those who search Events by it.
const REPORTER: &str = "istiod-lite.io/status";

/// Makes the Event for one line of the report about an object.
pub(super) fn event(key: &ObjectKey, object: &ReadObject, line: &ReportLine, settings: &Settings) -> Event {
    let path = ObjectPath::of(key, settings);
    let namespace = if path.namespace.is_empty() { "default".to_owned() } else { path.namespace.clone() };
    let uid = &object.metadata.uid;
    let content = format!("{uid}\n{}\n{}\n{}\n{}", settings.revision, line.reason.as_str(), line.field, line.message);
    // A name has at most 253 characters, and those of objects are ASCII.
    let name: String = path.name.chars().take(230).collect();
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{}.{:016x}", name.trim_end_matches('.'), xxh3_64(content.as_bytes()))),
            namespace: Some(namespace),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime((settings.clock)())),
        type_: Some(if line.reason == ConditionReason::Accepted { "Normal" } else { "Warning" }.to_owned()),
        reason: Some(line.reason.as_str().to_owned()),
        action: Some("Check".to_owned()),
        note: Some(line.text()),
        reporting_controller: Some(REPORTER.to_owned()),
        reporting_instance: Some(settings.instance.clone()),
        regarding: Some(ObjectReference {
            api_version: Some(object.api_version.clone()),
            kind: Some(path.kind.to_owned()),
            namespace: Some(path.namespace).filter(|namespace| !namespace.is_empty()),
            name: Some(path.name),
            uid: Some(uid.clone()),
            field_path: Some(line.field.clone()).filter(|field| !field.is_empty()),
            ..ObjectReference::default()
        }),
        ..Event::default()
    }
}

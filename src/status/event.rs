//! Events (`events.k8s.io/v1`). Pure.
//!
//! An Event is named by what it says: the same finding, said again after a restart or by another leader, is the same
//! Event, counted once more. (kube's own `Recorder` takes two findings with one reason for the same.)

use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use xxhash_rust::xxh3::xxh3_64;

use super::{
    Settings,
    report::{Line, Reason},
    server::{Place, Seen},
};
use crate::api::ObjectKey;

/// What reports, for those who look for Events by reporter.
const REPORTER: &str = "istiod-lite.io/status";

/// The Event that says a line of an object.
pub(super) fn event(key: &ObjectKey, seen: &Seen, line: &Line, settings: &Settings) -> Event {
    let place = Place::of(key, settings);
    let namespace = if place.namespace.is_empty() { "default".to_owned() } else { place.namespace.clone() };
    let uid = &seen.metadata.uid;
    let content = format!("{uid}\n{}\n{}\n{}\n{}", settings.revision, line.reason.as_str(), line.field, line.message);
    // Names are at most 253 long, and those of objects are ASCII.
    let name: String = place.name.chars().take(230).collect();
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{}.{:016x}", name.trim_end_matches('.'), xxh3_64(content.as_bytes()))),
            namespace: Some(namespace),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime((settings.clock)())),
        type_: Some(if line.reason == Reason::Accepted { "Normal" } else { "Warning" }.to_owned()),
        reason: Some(line.reason.as_str().to_owned()),
        action: Some("Check".to_owned()),
        note: Some(line.text()),
        reporting_controller: Some(REPORTER.to_owned()),
        reporting_instance: Some(settings.instance.clone()),
        regarding: Some(ObjectReference {
            api_version: Some(seen.api_version.clone()),
            kind: Some(place.kind.to_owned()),
            namespace: Some(place.namespace).filter(|namespace| !namespace.is_empty()),
            name: Some(place.name),
            uid: Some(uid.clone()),
            field_path: Some(line.field.clone()).filter(|field| !field.is_empty()),
            ..ObjectReference::default()
        }),
        ..Event::default()
    }
}

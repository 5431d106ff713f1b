//! Events on the Secrets of the CA and of remote clusters, for those who look at them with kubectl: what was refused, and what ends
//! soon.

use k8s_openapi::{
    api::{
        core::v1::{ObjectReference, Secret},
        events::v1::Event,
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, Client, api::PostParams};
use smol_str::SmolStr;
use tracing::warn;
use xxhash_rust::xxh3::xxh3_64;

use crate::identity::Clock;

/// Writes the Events.
#[derive(Clone)]
pub struct SecretEvents {
    /// The client of the API server.
    pub client: Client,
    /// The namespace of the Secrets.
    pub namespace: String,
    /// Our name.
    pub instance: String,
    /// Returns the current time.
    pub clock: Clock,
}

// === impl SecretEvents ===

impl SecretEvents {
    /// Writes an Event in the background. All replicas see the same, and one Event of a day says it.
    pub fn tell(&self, secret: impl Into<SmolStr>, reason: &'static str, note: String) {
        let (this, secret) = (self.clone(), secret.into());
        tokio::spawn(async move {
            match this.write(&secret, reason, &note).await {
                Ok(()) => {}
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => warn!(%secret, reason, %error, "no Event is written"),
            }
        });
    }

    async fn write(&self, secret: &str, reason: &str, note: &str) -> Result<(), kube::Error> {
        let uid = Api::<Secret>::namespaced(self.client.clone(), &self.namespace).get(secret).await?.metadata.uid;
        let event = self.event(secret, uid, reason, note);
        Api::<Event>::namespaced(self.client.clone(), &self.namespace).create(&PostParams::default(), &event).await.map(drop)
    }

    fn event(&self, secret: &str, uid: Option<String>, reason: &str, note: &str) -> Event {
        let now = (self.clock)();
        let day = now.as_second() / 86_400;
        let content = format!("{uid:?}\n{reason}\n{note}\n{day}");
        // A note has at most 1 kB.
        let note: String = note.chars().take(1000).collect();
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{secret}.{:016x}", xxh3_64(content.as_bytes()))),
                namespace: Some(self.namespace.clone()),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(now)),
            type_: Some("Warning".to_owned()),
            reason: Some(reason.to_owned()),
            action: Some("Check".to_owned()),
            note: Some(note),
            reporting_controller: Some("istiod-lite.io/ca".to_owned()),
            reporting_instance: Some(self.instance.clone()),
            regarding: Some(ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Secret".to_owned()),
                namespace: Some(self.namespace.clone()),
                name: Some(secret.to_owned()),
                uid,
                ..ObjectReference::default()
            }),
            ..Event::default()
        }
    }
}

impl std::fmt::Debug for SecretEvents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SecretEvents").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

//! Reads and keeps the CA in Secrets of our namespace (contract §4.4): `cacerts` if a user provides it, otherwise a
//! self-signed root in `istio-ca-secret`, which the first replica makes.
//!
//! Later contents of the Secrets are offered to the CA in use by the same rules as for a folder. Signing with the loaded CA
//! goes on whatever a Secret holds, and even if it is deleted.

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::{StreamExt, stream::BoxStream};
use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{
    Api, Client,
    api::PostParams,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event},
    },
};
use tokio::time::{interval, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{ControllerMetrics, secret_events::SecretEvents};
use crate::{
    backoff::{Backoff, random_unit},
    identity::{
        Clock,
        ca::{CaHandle, LoadError, OfferOutcome, RevocationError, SelfSigned, SelfSignedError, SigningCa, load_entries, load_self_signed},
        metrics::CaMetrics,
    },
};

/// The Secret with a CA that a user provides.
pub const CACERTS: &str = "cacerts";
/// The Secret with the self-signed root.
pub const SELF_SIGNED: &str = "istio-ca-secret";
const SELF_SIGNED_TYPE: &str = "istio.io/ca-root";
/// The entry by which istiod marks a `cacerts` that it made itself (`USE_CACERTS_FOR_SELF_SIGNED_CA`), with a root and its
/// key.
const GENERATED: &str = "istio-generated";
/// How often it is checked whether a self-signed root is to be renewed.
const RENEWAL_CHECK: Duration = Duration::from_secs(3600);

type SecretEntries = BTreeMap<String, Vec<u8>>;

/// Reads and keeps the Secrets.
#[derive(Clone)]
pub struct CaSecrets {
    /// The client of the API server.
    pub client: Client,
    /// Our namespace.
    pub namespace: String,
    /// How a root is made if there is none.
    pub self_signed: SelfSigned,
    /// Returns the current time.
    pub clock: Clock,
    /// The counters.
    pub metrics: ControllerMetrics,
    /// The metrics that show when the CA expires.
    pub ca_metrics: CaMetrics,
    /// Where what is wrong with a Secret is said at it.
    pub events: SecretEvents,
}

/// Which Secret the CA in use comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaOrigin {
    /// An intermediate CA in `cacerts`.
    Provided,
    /// A self-signed root in the Secret of this name.
    SelfSigned(&'static str),
}

impl CaOrigin {
    /// Returns the name of the Secret.
    pub fn secret(self) -> &'static str {
        match self {
            Self::Provided => CACERTS,
            Self::SelfSigned(name) => name,
        }
    }
}

/// Why there is no CA, which only a person can mend. An API server that cannot be reached is waited for instead.
#[derive(Debug, thiserror::Error)]
pub enum CaSecretError {
    /// The Secret holds no usable CA.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A self-signed root cannot be made or renewed.
    #[error("Secret {SELF_SIGNED}: {0}")]
    SelfSigned(#[from] SelfSignedError),
}

/// Why an attempt to load the CA failed.
enum AttemptError {
    /// A person must mend it.
    Permanent(CaSecretError),
    /// A request about this Secret failed.
    Api(&'static str, kube::Error),
    /// Another replica wrote at the same time.
    Conflict,
}

// === impl CaSecrets ===

impl CaSecrets {
    /// Loads the CA to sign with. Waits for the API server, and for the right to read.
    ///
    /// # Errors
    /// When a Secret exists but cannot be used: signing with another root than the user meant would cut the mesh in two.
    pub async fn load(&self) -> Result<(SigningCa, CaOrigin), CaSecretError> {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        loop {
            match self.try_load().await {
                Ok((ca, origin)) => {
                    ca.log_certificates();
                    ca.record(&self.ca_metrics);
                    return Ok((ca, origin));
                }
                Err(AttemptError::Permanent(error)) => return Err(error),
                Err(AttemptError::Conflict) => info!(secret = SELF_SIGNED, "another replica was faster; its root is read"),
                Err(AttemptError::Api(secret, error)) => {
                    warn!(namespace = self.namespace, secret, %error, "waiting for the CA's Secret");
                    sleep(backoff.next(random_unit())).await;
                }
            }
        }
    }

    /// Offers the contents of the Secrets to `handle` and renews a self-signed root before it expires, until `shutdown`.
    pub async fn keep(self, handle: Arc<CaHandle>, origin: CaOrigin, shutdown: CancellationToken) {
        let (mut given, mut own) = (self.events(CACERTS), self.events(SELF_SIGNED));
        let mut keeper = Keeper { secrets: self, handle, origin };
        let mut checks = interval(RENEWAL_CHECK);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                Some(event) = given.next() => keeper.apply(CACERTS, event),
                Some(event) = own.next() => keeper.apply(SELF_SIGNED, event),
                _ = checks.tick() => keeper.check_renewal().await,
            }
        }
    }

    async fn try_load(&self) -> Result<(SigningCa, CaOrigin), AttemptError> {
        let mut fallback = None;
        if let Some(secret) = self.get(CACERTS).await? {
            let entries = entries_of(&secret);
            if entries.contains_key(GENERATED) {
                fallback = Some((CACERTS, secret));
            } else {
                match load_entries(&self.description(CACERTS), &entries, (self.clock)()) {
                    Ok(ca) => {
                        log_format(&entries);
                        return Ok((ca, CaOrigin::Provided));
                    }
                    Err(LoadError::Empty { .. }) => {
                        warn!(namespace = self.namespace, secret = CACERTS, "holds no CA; a self-signed one is used")
                    }
                    Err(error) => return Err(AttemptError::Permanent(error.into())),
                }
            }
        }
        // As in istiod, its own Secret takes precedence over a `cacerts` that another istiod made.
        let present = self.get(SELF_SIGNED).await?.map(|secret| (SELF_SIGNED, secret)).or(fallback);
        let (name, entries) = match present {
            Some((name, secret)) => (name, self.renew_if_due(name, secret).await?),
            None => (SELF_SIGNED, self.create().await?),
        };
        let ca =
            load_self_signed(&self.description(name), &entries, (self.clock)()).map_err(|error| AttemptError::Permanent(error.into()))?;
        Ok((ca, CaOrigin::SelfSigned(name)))
    }

    async fn create(&self) -> Result<SecretEntries, AttemptError> {
        let entries = self.self_signed.generate((self.clock)()).map_err(|error| AttemptError::Permanent(error.into()))?;
        let metadata = ObjectMeta { name: Some(SELF_SIGNED.into()), ..ObjectMeta::default() };
        let data = Some(data_of(&entries));
        let secret = Secret { metadata, data, type_: Some(SELF_SIGNED_TYPE.into()), ..Secret::default() };
        self.api().create(&PostParams::default(), &secret).await.map_err(|error| attempt_error(SELF_SIGNED, error))?;
        info!(namespace = self.namespace, secret = SELF_SIGNED, "made a self-signed root, as there was none");
        Ok(entries)
    }

    /// Returns the entries of the Secret, after renewing the root in it if that is due.
    async fn renew_if_due(&self, name: &'static str, secret: Secret) -> Result<SecretEntries, AttemptError> {
        let entries = entries_of(&secret);
        let renewed = self.self_signed.renew(&entries, (self.clock)());
        let Some(renewed) = renewed.map_err(|error| AttemptError::Permanent(error.into()))? else { return Ok(entries) };
        let secret = Secret { data: Some(data_of(&renewed)), ..secret };
        self.api().replace(name, &PostParams::default(), &secret).await.map_err(|error| attempt_error(name, error))?;
        info!(namespace = self.namespace, secret = name, "renewed the self-signed root under its own key and name");
        Ok(renewed)
    }

    async fn get(&self, name: &'static str) -> Result<Option<Secret>, AttemptError> {
        self.api().get_opt(name).await.map_err(|error| AttemptError::Api(name, error))
    }

    fn api(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn events(&self, name: &'static str) -> BoxStream<'static, watcher::Result<Event<Secret>>> {
        let selection = watcher::Config::default().fields(&format!("metadata.name={name}"));
        kube::runtime::watcher(self.api(), selection).default_backoff().boxed()
    }

    fn description(&self, name: &str) -> String {
        format!("Secret {}/{name}", self.namespace)
    }
}

impl std::fmt::Debug for CaSecrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CaSecrets").field("namespace", &self.namespace).field("self_signed", &self.self_signed).finish_non_exhaustive()
    }
}

/// Keeps the CA in use up to date with the Secrets.
struct Keeper {
    secrets: CaSecrets,
    handle: Arc<CaHandle>,
    origin: CaOrigin,
}

// === impl Keeper ===

impl Keeper {
    fn apply(&mut self, name: &'static str, event: watcher::Result<Event<Secret>>) {
        match event {
            Ok(Event::Apply(secret) | Event::InitApply(secret)) => self.consider(name, &entries_of(&secret)),
            Ok(Event::Delete(_)) if self.is_source(name) => {
                error!(
                    namespace = self.secrets.namespace,
                    secret = name,
                    "the CA's Secret was deleted; signing goes on with the CA in use"
                );
            }
            Ok(_) => {}
            Err(error) => {
                self.secrets.metrics.count_watch_error("ca_secret");
                warn!(namespace = self.secrets.namespace, secret = name, %error, "the Secret cannot be watched");
            }
        }
    }

    fn consider(&mut self, name: &'static str, entries: &SecretEntries) {
        let generated = name == SELF_SIGNED || entries.contains_key(GENERATED);
        // With a provided CA in use, self-signed roots do not matter.
        if generated && !self.is_source(name) {
            return;
        }
        let description = self.secrets.description(name);
        let load = if generated { load_self_signed } else { load_entries };
        let offered = match load(&description, entries, (self.secrets.clock)()) {
            Ok(offered) => offered,
            Err(LoadError::Empty { .. }) if !self.is_source(name) => return,
            Err(error) => return self.refuse(name, &error),
        };
        if let Some(error) = offered.unusable_revocation() {
            self.refuse_revocation(name, error);
        }
        match self.handle.offer(offered) {
            Ok(OfferOutcome::Unchanged) => self.secrets.metrics.count_ca_offer(name, "unchanged"),
            Ok(OfferOutcome::Accepted) => self.accepted(name, entries, generated),
            Err(error) => self.refuse(name, &error),
        }
    }

    fn accepted(&mut self, name: &'static str, entries: &SecretEntries, generated: bool) {
        info!(namespace = self.secrets.namespace, secret = name, "Update Istiod cacerts");
        let ca = self.handle.current();
        if generated {
            info!(not_after = %ca.not_after(), "Successfully reloaded the renewed self-signed root");
        } else {
            self.origin = CaOrigin::Provided;
            log_format(entries);
            info!(
                subject = ca.certificate().subject, serial = ca.certificate().serial, not_after = %ca.not_after(),
                "Istiod has detected the newly added intermediate CA and updated its key and certs accordingly"
            );
        }
        ca.log_certificates();
        ca.record(&self.secrets.ca_metrics);
        self.secrets.metrics.count_ca_offer(name, "accepted");
    }

    fn refuse(&self, name: &'static str, error: &dyn std::fmt::Display) {
        self.secrets.events.tell(name, "Refused", format!("{error}; signing goes on with the CA in use"));
        self.secrets.metrics.count_ca_offer(name, "refused");
        error!(namespace = self.secrets.namespace, secret = name, %error, "the Secret changed and is refused; signing goes on with the CA in use");
    }

    fn refuse_revocation(&self, name: &'static str, error: &RevocationError) {
        self.secrets.events.tell(name, "RevocationListRefused", format!("{error}; the one in use stays"));
        self.secrets.metrics.count_ca_offer(name, "revocation_refused");
        error!(namespace = self.secrets.namespace, secret = name, %error, "the list of revoked certificates is refused; the one in use stays");
    }

    /// Renews the root in the Secret if that is due. The watch brings the renewed root to this replica and to all others.
    async fn check_renewal(&self) {
        let CaOrigin::SelfSigned(name) = self.origin else { return };
        let checked = match self.secrets.get(name).await {
            Ok(Some(secret)) => self.secrets.renew_if_due(name, secret).await.map(drop),
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        match checked {
            Ok(()) | Err(AttemptError::Conflict) => {}
            Err(AttemptError::Api(_, error)) => {
                warn!(secret = name, %error, "cannot check whether the root is to be renewed; checking again later")
            }
            Err(AttemptError::Permanent(error)) => error!(secret = name, %error, "the self-signed root cannot be renewed"),
        }
    }

    fn is_source(&self, name: &str) -> bool {
        match self.origin {
            CaOrigin::Provided => name == CACERTS,
            CaOrigin::SelfSigned(source) => name == source,
        }
    }
}

fn attempt_error(secret: &'static str, error: kube::Error) -> AttemptError {
    match &error {
        kube::Error::Api(status) if status.code == 409 => AttemptError::Conflict,
        _ => AttemptError::Api(secret, error),
    }
}

fn log_format(entries: &SecretEntries) {
    match entries.contains_key("ca-cert.pem") {
        true => info!("Using istiod file format for signing ca files"),
        false => info!("Using kubernetes.io/tls secret type for signing ca files"),
    }
}

fn entries_of(secret: &Secret) -> SecretEntries {
    secret.data.iter().flatten().map(|(name, ByteString(bytes))| (name.clone(), bytes.clone())).collect()
}

fn data_of(entries: &SecretEntries) -> BTreeMap<String, ByteString> {
    entries.iter().map(|(name, bytes)| (name.clone(), ByteString(bytes.clone()))).collect()
}

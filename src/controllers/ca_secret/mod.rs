//! The CA in Secrets of our namespace (contract §4.4): `cacerts` if somebody gave us one, else a self-signed root in
//! `istio-ca-secret`, made by whichever replica is first.
//!
//! While running, what the Secrets say is offered to the CA in use: the same rules as for a folder. Nothing that a Secret
//! says, or that it is gone, ends signing with what is loaded.

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

use super::ControllerMetrics;
use crate::identity::{
    Clock,
    ca::{CaHandle, LoadError, Offer, SelfSigned, SelfSignedError, SigningCa, load_entries, load_self_signed},
    metrics::CaMetrics,
};

/// The Secret that somebody gives us.
pub const CACERTS: &str = "cacerts";
/// The Secret of the self-signed root.
pub const SELF_SIGNED: &str = "istio-ca-secret";
const SELF_SIGNED_TYPE: &str = "istio.io/ca-root";
/// istiod's mark on a `cacerts` that it made itself (`USE_CACERTS_FOR_SELF_SIGNED_CA`): it holds a root and its key.
const GENERATED: &str = "istio-generated";
/// How often the end of a self-signed root is looked at.
const RENEWAL_CHECK: Duration = Duration::from_secs(3600);

type Entries = BTreeMap<String, Vec<u8>>;

/// Reads and keeps them.
#[derive(Clone)]
pub struct CaSecrets {
    /// Asks the API server.
    pub client: Client,
    /// Our namespace.
    pub namespace: String,
    /// How a root is made when there is none.
    pub self_signed: SelfSigned,
    /// What time it is.
    pub clock: Clock,
    /// Counters.
    pub metrics: ControllerMetrics,
    /// Shows when the CA expires.
    pub ca_metrics: CaMetrics,
}

/// Which Secret the CA in use came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// An intermediate in `cacerts`.
    Given,
    /// A self-signed root in the Secret of this name.
    SelfSigned(&'static str),
}

/// Why there is no CA: for a person to settle. An API server that is away is waited for instead.
#[derive(Debug, thiserror::Error)]
pub enum CaSecretError {
    /// The Secret holds none that can be used.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A root cannot be made or renewed.
    #[error("Secret {SELF_SIGNED}: {0}")]
    SelfSigned(#[from] SelfSignedError),
}

enum Trouble {
    Refused(CaSecretError),
    Api(&'static str, kube::Error),
    /// Another replica wrote at the same moment.
    Race,
}

// === impl CaSecrets ===

impl CaSecrets {
    /// The CA to sign with. Waits for the API server, and for the right to read.
    ///
    /// # Errors
    /// When a Secret is there and no good: signing with another root than the one meant would cut the mesh in two.
    pub async fn load(&self) -> Result<(SigningCa, Origin), CaSecretError> {
        let mut pause = Duration::from_millis(200);
        loop {
            match self.try_load().await {
                Ok((ca, origin)) => {
                    ca.log_certificates();
                    self.ca_metrics.set_expiry(ca.root().not_after, ca.not_after());
                    return Ok((ca, origin));
                }
                Err(Trouble::Refused(error)) => return Err(error),
                Err(Trouble::Race) => info!(secret = SELF_SIGNED, "another replica was faster; its root is read"),
                Err(Trouble::Api(secret, error)) => {
                    warn!(namespace = self.namespace, secret, %error, "waiting for the CA's Secret");
                    sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(5));
                }
            }
        }
    }

    /// Runs until `shutdown`: offers what the Secrets say to `handle`, and renews a self-signed root before it expires.
    pub async fn keep(self, handle: Arc<CaHandle>, origin: Origin, shutdown: CancellationToken) {
        let (mut given, mut own) = (self.events(CACERTS), self.events(SELF_SIGNED));
        let mut keeping = Keeping { secrets: self, handle, origin };
        let mut checks = interval(RENEWAL_CHECK);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                Some(event) = given.next() => keeping.take(CACERTS, event),
                Some(event) = own.next() => keeping.take(SELF_SIGNED, event),
                _ = checks.tick() => keeping.check_renewal().await,
            }
        }
    }

    async fn try_load(&self) -> Result<(SigningCa, Origin), Trouble> {
        let mut fallback = None;
        if let Some(secret) = self.get(CACERTS).await? {
            let entries = entries_of(&secret);
            if entries.contains_key(GENERATED) {
                fallback = Some((CACERTS, secret));
            } else {
                match load_entries(&self.place(CACERTS), &entries, (self.clock)()) {
                    Ok(ca) => {
                        log_form(&entries);
                        return Ok((ca, Origin::Given));
                    }
                    Err(LoadError::Empty { .. }) => {
                        warn!(namespace = self.namespace, secret = CACERTS, "holds no CA; a self-signed one is used")
                    }
                    Err(error) => return Err(Trouble::Refused(error.into())),
                }
            }
        }
        // As istiod: its own Secret comes before one that it only might have made.
        let present = self.get(SELF_SIGNED).await?.map(|secret| (SELF_SIGNED, secret)).or(fallback);
        let (name, entries) = match present {
            Some((name, secret)) => (name, self.renewed(name, secret).await?),
            None => (SELF_SIGNED, self.created().await?),
        };
        let ca = load_self_signed(&self.place(name), &entries, (self.clock)()).map_err(|error| Trouble::Refused(error.into()))?;
        Ok((ca, Origin::SelfSigned(name)))
    }

    async fn created(&self) -> Result<Entries, Trouble> {
        let entries = self.self_signed.generate((self.clock)()).map_err(|error| Trouble::Refused(error.into()))?;
        let metadata = ObjectMeta { name: Some(SELF_SIGNED.into()), ..ObjectMeta::default() };
        let data = Some(data_of(&entries));
        let secret = Secret { metadata, data, type_: Some(SELF_SIGNED_TYPE.into()), ..Secret::default() };
        self.api().create(&PostParams::default(), &secret).await.map_err(|error| trouble(SELF_SIGNED, error))?;
        info!(namespace = self.namespace, secret = SELF_SIGNED, "made a self-signed root, since there was none");
        Ok(entries)
    }

    /// The Secret's entries, replaced by those of a renewed root if it was time.
    async fn renewed(&self, name: &'static str, secret: Secret) -> Result<Entries, Trouble> {
        let entries = entries_of(&secret);
        let renewed = self.self_signed.renew(&entries, (self.clock)());
        let Some(renewed) = renewed.map_err(|error| Trouble::Refused(error.into()))? else { return Ok(entries) };
        let secret = Secret { data: Some(data_of(&renewed)), ..secret };
        self.api().replace(name, &PostParams::default(), &secret).await.map_err(|error| trouble(name, error))?;
        info!(namespace = self.namespace, secret = name, "renewed the self-signed root under its own key and name");
        Ok(renewed)
    }

    async fn get(&self, name: &'static str) -> Result<Option<Secret>, Trouble> {
        self.api().get_opt(name).await.map_err(|error| Trouble::Api(name, error))
    }

    fn api(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn events(&self, name: &'static str) -> BoxStream<'static, watcher::Result<Event<Secret>>> {
        let selection = watcher::Config::default().fields(&format!("metadata.name={name}"));
        kube::runtime::watcher(self.api(), selection).default_backoff().boxed()
    }

    fn place(&self, name: &str) -> String {
        format!("Secret {}/{name}", self.namespace)
    }
}

impl std::fmt::Debug for CaSecrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CaSecrets").field("namespace", &self.namespace).field("self_signed", &self.self_signed).finish_non_exhaustive()
    }
}

/// The CA in use, and where it came from.
struct Keeping {
    secrets: CaSecrets,
    handle: Arc<CaHandle>,
    origin: Origin,
}

// === impl Keeping ===

impl Keeping {
    fn take(&mut self, name: &'static str, event: watcher::Result<Event<Secret>>) {
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

    fn consider(&mut self, name: &'static str, entries: &Entries) {
        let generated = name == SELF_SIGNED || entries.contains_key(GENERATED);
        // Once a CA was given, what others sign with by themselves does not matter.
        if generated && !self.is_source(name) {
            return;
        }
        let place = self.secrets.place(name);
        let load = if generated { load_self_signed } else { load_entries };
        let offered = match load(&place, entries, (self.secrets.clock)()) {
            Ok(offered) => offered,
            Err(LoadError::Empty { .. }) if !self.is_source(name) => return,
            Err(error) => return self.refuse(name, &error),
        };
        match self.handle.offer(offered) {
            Ok(Offer::Unchanged) => self.secrets.metrics.count_ca_offer(name, "unchanged"),
            Ok(Offer::Accepted) => self.accepted(name, entries, generated),
            Err(error) => self.refuse(name, &error),
        }
    }

    fn accepted(&mut self, name: &'static str, entries: &Entries, generated: bool) {
        info!(namespace = self.secrets.namespace, secret = name, "Update Istiod cacerts");
        let ca = self.handle.current();
        if generated {
            info!(not_after = %ca.not_after(), "Successfully reloaded the renewed self-signed root");
        } else {
            self.origin = Origin::Given;
            log_form(entries);
            info!(
                subject = ca.certificate().subject, serial = ca.certificate().serial, not_after = %ca.not_after(),
                "Istiod has detected the newly added intermediate CA and updated its key and certs accordingly"
            );
        }
        ca.log_certificates();
        self.secrets.ca_metrics.set_expiry(ca.root().not_after, ca.not_after());
        self.secrets.metrics.count_ca_offer(name, "accepted");
    }

    fn refuse(&self, name: &str, error: &dyn std::fmt::Display) {
        self.secrets.metrics.count_ca_offer(name, "refused");
        error!(namespace = self.secrets.namespace, secret = name, %error, "the Secret changed and is refused; signing goes on with the CA in use");
    }

    /// The watch brings what was written, to this replica and the others.
    async fn check_renewal(&self) {
        let Origin::SelfSigned(name) = self.origin else { return };
        let checked = match self.secrets.get(name).await {
            Ok(Some(secret)) => self.secrets.renewed(name, secret).await.map(drop),
            Ok(None) => Ok(()),
            Err(trouble) => Err(trouble),
        };
        match checked {
            Ok(()) | Err(Trouble::Race) => {}
            Err(Trouble::Api(_, error)) => warn!(secret = name, %error, "whether the root is to be renewed is checked later"),
            Err(Trouble::Refused(error)) => error!(secret = name, %error, "the self-signed root cannot be renewed"),
        }
    }

    fn is_source(&self, name: &str) -> bool {
        match self.origin {
            Origin::Given => name == CACERTS,
            Origin::SelfSigned(source) => name == source,
        }
    }
}

fn trouble(secret: &'static str, error: kube::Error) -> Trouble {
    match &error {
        kube::Error::Api(status) if status.code == 409 => Trouble::Race,
        _ => Trouble::Api(secret, error),
    }
}

fn log_form(entries: &Entries) {
    match entries.contains_key("ca-cert.pem") {
        true => info!("Using istiod file format for signing ca files"),
        false => info!("Using kubernetes.io/tls secret type for signing ca files"),
    }
}

fn entries_of(secret: &Secret) -> Entries {
    secret.data.iter().flatten().map(|(name, ByteString(bytes))| (name.clone(), bytes.clone())).collect()
}

fn data_of(entries: &Entries) -> BTreeMap<String, ByteString> {
    entries.iter().map(|(name, bytes)| (name.clone(), ByteString(bytes.clone()))).collect()
}

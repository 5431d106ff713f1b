//! Certificates by the Kubernetes API: a CertificateSigningRequest for each, which we approve and a signer answers, as istiod does it
//! (`EXTERNAL_CA=ISTIOD_RA_KUBERNETES_API`).
//!
//! Each request is followed by a watch of its own until it is answered, and deleted afterwards, whatever became of it. Those that a
//! process left behind are found by their labels ([`leftovers`]).

mod leftovers;
mod object;

use std::time::Duration;

use futures::{TryStreamExt, future::BoxFuture};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::{
    Api, Client, ResourceExt,
    api::{PostParams, WatchEvent, WatchParams},
};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tracing::debug;

use self::{
    leftovers::Leftovers,
    object::{answer, approved, is_decided, object},
};
use super::{ControllerMetrics, FIELD_MANAGER};
use crate::{
    backoff::{Backoff, random_unit},
    identity::registration::{Signer, SignerError, Submission},
    peer_text::PeerText,
};

/// How long one watch lasts, in seconds; then another one goes on.
const WATCH: u32 = 240;
/// How often an approval is tried when others write the same object.
const ATTEMPTS: usize = 5;

/// Hands requests to signers of the cluster.
#[derive(Clone)]
pub struct CertificateRequests {
    client: Client,
    labels: Labels,
    patience: Duration,
    used: mpsc::UnboundedSender<String>,
}

/// By what requests of one installation are known.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Labels {
    namespace: String,
    revision: String,
}

/// A request that is deleted when this is dropped, also by a caller that does not wait any longer.
struct InUse {
    name: String,
    used: mpsc::UnboundedSender<String>,
}

// === impl CertificateRequests ===

impl CertificateRequests {
    /// Returns the way to the signers for a control plane of `namespace` and `revision`, and what tidies up behind it. A signer that
    /// does not answer for `patience` is given up.
    pub fn new(
        client: Client,
        namespace: &str,
        revision: &str,
        patience: Duration,
        metrics: ControllerMetrics,
    ) -> (Self, impl Future<Output = ()> + Send + use<>) {
        let (used, finished) = mpsc::unbounded_channel();
        let labels = Labels { namespace: namespace.to_owned(), revision: revision.to_owned() };
        let leftovers = Leftovers { client: client.clone(), labels: labels.clone(), patience, metrics };
        (Self { client, labels, patience, used }, leftovers.run(finished))
    }

    fn api(&self) -> Api<CertificateSigningRequest> {
        Api::all(self.client.clone())
    }

    async fn signed(&self, submission: &Submission) -> Result<String, SignerError> {
        let created = self.api().create(&parameters(), &object(submission, &self.labels)).await.map_err(of_api)?;
        let name = created.name_any();
        debug!(name, signer = %submission.signer, "certificate request handed over");
        let _in_use = InUse { name: name.clone(), used: self.used.clone() };
        let approved = self.approve(created).await?;
        self.wait(&name, approved).await
    }

    /// Approves a request, unless somebody else has decided already.
    async fn approve(&self, mut request: CertificateSigningRequest) -> Result<CertificateSigningRequest, SignerError> {
        let name = request.name_any();
        for _ in 0..ATTEMPTS {
            if is_decided(&request) {
                return Ok(request);
            }
            match self.api().replace_subresource("approval", &name, &parameters(), &approved(request)).await {
                Ok(approved) => return Ok(approved),
                // Somebody else wrote it meanwhile.
                Err(kube::Error::Api(status)) if status.code == 409 => request = self.api().get(&name).await.map_err(of_api)?,
                Err(error) => return Err(of_api(error)),
            }
        }
        Err(SignerError::Unavailable("others keep writing the request".into()))
    }

    /// Waits until a request is answered. A watch that ends, or an API server that is away for a while, does not end the wait.
    async fn wait(&self, name: &str, mut request: CertificateSigningRequest) -> Result<String, SignerError> {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        loop {
            if let Some(answer) = answer(&request) {
                return answer;
            }
            match self.next_version(name, &request.resource_version().unwrap_or_default()).await {
                Ok(Some(newer)) => {
                    request = newer;
                    continue;
                }
                Ok(None) => {}
                Err(error) => debug!(name, %error, "a certificate request cannot be watched; trying again"),
            }
            sleep(backoff.next(random_unit())).await;
            match self.api().get_opt(name).await {
                Ok(Some(newer)) => request = newer,
                Ok(None) => return Err(SignerError::Gone),
                Err(error) => debug!(name, %error, "a certificate request cannot be read; trying again"),
            }
        }
    }

    /// Returns the next version of a request; `None` if the watch ended before there was one.
    async fn next_version(&self, name: &str, version: &str) -> kube::Result<Option<CertificateSigningRequest>> {
        let this = WatchParams::default().fields(&format!("metadata.name={name}")).timeout(WATCH);
        let mut events = std::pin::pin!(self.api().watch(&this, version).await?);
        while let Some(event) = events.try_next().await? {
            match event {
                WatchEvent::Added(newer) | WatchEvent::Modified(newer) => return Ok(Some(newer)),
                WatchEvent::Bookmark(_) => {}
                WatchEvent::Deleted(_) | WatchEvent::Error(_) => return Ok(None),
            }
        }
        Ok(None)
    }
}

impl Signer for CertificateRequests {
    fn sign(&self, submission: Submission) -> BoxFuture<'_, Result<String, SignerError>> {
        Box::pin(async move { timeout(self.patience, self.signed(&submission)).await.unwrap_or(Err(SignerError::Silent(self.patience))) })
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        // Without a receiver the process ends, and the next one finds it.
        let _ = self.used.send(std::mem::take(&mut self.name));
    }
}

fn parameters() -> PostParams {
    PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() }
}

/// Says what an error of the API server means for whoever waits for a certificate.
fn of_api(error: kube::Error) -> SignerError {
    let text = PeerText::new(&error.to_string());
    match error {
        kube::Error::Api(status) => {
            let message = PeerText::new(&status.message);
            match status.code {
                401 | 403 => SignerError::Forbidden(message),
                404 => SignerError::Gone,
                429 | 500.. => SignerError::Unavailable(message),
                _ => SignerError::Refused(message),
            }
        }
        _ => SignerError::Unavailable(text),
    }
}

#[cfg(test)]
mod tests;

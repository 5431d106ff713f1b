//! Asking Kubernetes about a token.

use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::{Api, Client, api::PostParams};
use tokio::{sync::Semaphore, time::timeout};
use tracing::debug;

use super::{Settings, TokenMetrics};
use crate::{
    identity::{proof::PodReference, token::TokenError},
    peer_text::PeerText,
};

/// Entries of a user that say to which pod a token is bound.
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
/// The group of every service account.
const SERVICE_ACCOUNTS: &str = "system:serviceaccounts";

/// Whose token it is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reviewed {
    /// `system:serviceaccount:<namespace>:<name>`
    pub(super) user: String,
    /// The pod to which the token is bound.
    pub(super) pod: Option<PodReference>,
}

/// Asks for TokenReviews, a few at a time.
pub(super) struct TokenReviews {
    api: Api<TokenReview>,
    audiences: Vec<String>,
    permits: Semaphore,
    timeout: Duration,
    metrics: TokenMetrics,
}

// === impl TokenReviews ===

impl TokenReviews {
    /// Returns a client of the API server behind `client`.
    pub(super) fn new(client: Client, settings: &Settings, metrics: TokenMetrics) -> Self {
        Self {
            api: Api::all(client),
            audiences: settings.audiences.clone(),
            permits: Semaphore::new(settings.concurrent_reviews),
            timeout: settings.timeout,
            metrics,
        }
    }

    /// Returns the user that the token proves.
    pub(super) async fn review(&self, token: &str) -> Result<Reviewed, TokenError> {
        let answer = timeout(self.timeout, self.ask(token)).await;
        let status = match answer {
            Ok(Ok(status)) => status,
            Ok(Err(error)) => return Err(self.unavailable(error.to_string())),
            Err(_) => return Err(self.unavailable("no answer in time".into())),
        };
        let user = user_of(status, &self.audiences);
        self.metrics.count_review(if user.is_ok() { "authenticated" } else { "refused" });
        user
    }

    async fn ask(&self, token: &str) -> Result<TokenReviewStatus, kube::Error> {
        // The semaphore is never closed.
        let _permit = self.permits.acquire().await;
        let spec = TokenReviewSpec { audiences: Some(self.audiences.clone()), token: Some(token.to_owned()) };
        let review = TokenReview { spec, ..TokenReview::default() };
        let answer = self.api.create(&PostParams::default(), &review).await?;
        Ok(answer.status.unwrap_or_default())
    }

    fn unavailable(&self, reason: String) -> TokenError {
        self.metrics.count_review("unavailable");
        // An API server's own words may be in it.
        let reason = PeerText::new(&reason);
        debug!(%reason, "no TokenReview");
        TokenError::Unavailable(format!("TokenReview: {reason}"))
    }
}

/// Returns the user, if the token is for one of `audiences`. An API server that does not know audiences names none: its consent
/// would be to another question.
fn user_of(status: TokenReviewStatus, audiences: &[String]) -> Result<Reviewed, TokenError> {
    let refuse = |reason: &str| Err(TokenError::Review(PeerText::new(reason)));
    if status.authenticated != Some(true) {
        return refuse(status.error.as_deref().unwrap_or("not authenticated"));
    }
    if !status.audiences.unwrap_or_default().iter().any(|audience| audiences.contains(audience)) {
        return refuse("it is for another audience");
    }
    let user = status.user.unwrap_or_default();
    let extra = |name: &str| user.extra.as_ref()?.get(name)?.first().map(Into::into);
    let pod = extra(POD_NAME).zip(extra(POD_UID)).map(|(name, uid)| PodReference { name, uid });
    match (user.username, user.groups) {
        (Some(name), Some(groups)) if groups.iter().any(|group| group == SERVICE_ACCOUNTS) => Ok(Reviewed { user: name, pod }),
        _ => refuse("it is not a service account's"),
    }
}

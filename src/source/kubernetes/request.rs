//! Sends requests to the API server, and sorts what can go wrong.

use bytes::Bytes;
use futures::TryFutureExt;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use kube::{Client, client::Body};
use tokio::time::{Duration, timeout};

use super::decode::ApiStatus;
use crate::backoff::Backoff;

/// The most bytes of an answer that are read.
const LONGEST_ANSWER: usize = 64 << 20;
/// The longest time for the head of an answer, or for the whole of one that is no watch.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why a request had no answer, or none that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RequestError {
    /// The API server does not answer, or answers that it cannot.
    #[error("{0}")]
    Unavailable(String),
    /// We have no right to what was asked for.
    #[error("{0}")]
    Forbidden(String),
    /// The resource version that was asked for is too old.
    #[error("{0}")]
    Expired(String),
    /// There is no such kind.
    #[error("{0}")]
    NotFound(String),
    /// The answer is longer than is read.
    #[error("an answer is longer than {LONGEST_ANSWER} bytes")]
    TooLong,
    /// Another cluster answers, or an older state of this one.
    #[error("{0}")]
    Untrusted(String),
}

impl RequestError {
    /// Returns the value that metrics show as the reason.
    pub(super) fn as_str(&self) -> &'static str {
        match self {
            Self::Unavailable(_) => "away",
            Self::Forbidden(_) => "forbidden",
            Self::Expired(_) => "expired",
            Self::NotFound(_) => "absent",
            Self::TooLong => "too_long",
            Self::Untrusted(_) => "untrusted",
        }
    }

    /// Says what a failure means that the API server describes.
    pub(super) fn from_status(status: &ApiStatus) -> Self {
        let text = format!("{} {}: {}", status.code, status.reason, status.message);
        match (status.code, status.reason.as_str()) {
            (410, _) | (_, "Expired" | "Gone") => Self::Expired(text),
            (401 | 403, _) => Self::Forbidden(text),
            (404, _) => Self::NotFound(text),
            _ => Self::Unavailable(text),
        }
    }
}

/// Returns the backoff between attempts. Up to half of a delay is taken off, so that the collections do not ask all at once.
pub(super) fn backoff() -> Backoff {
    Backoff::new(Duration::from_millis(200), Duration::from_secs(5)).with_jitter(0.5)
}

/// Sends a request and reads the whole answer.
///
/// # Errors
/// When there is no successful answer.
pub(super) async fn fetch(client: &Client, request: Request<Body>) -> Result<Bytes, RequestError> {
    let path = request.uri().path().to_owned();
    let answer = timeout(PATIENCE, async { read(send(client, request).await?).await }).await;
    answer.map_err(|_| no_answer(&path))?
}

/// Sends a request and returns the body of the answer, to be read as it comes.
///
/// # Errors
/// When there is no successful answer.
pub(super) async fn open(client: &Client, request: Request<Body>) -> Result<Body, RequestError> {
    let path = request.uri().path().to_owned();
    let answer = timeout(PATIENCE, send(client, request)).await;
    answer.map_err(|_| no_answer(&path))?.map(Response::into_body)
}

async fn send(client: &Client, request: Request<Body>) -> Result<Response<Body>, RequestError> {
    let answer = client.send(request).map_err(|error| RequestError::Unavailable(with_causes(&error))).await?;
    let code = answer.status();
    if code.is_success() {
        return Ok(answer);
    }
    let body = read(answer).await.unwrap_or_default();
    Err(RequestError::from_status(&status_of(code, &body)))
}

fn status_of(code: StatusCode, body: &[u8]) -> ApiStatus {
    let status: ApiStatus = serde_json::from_slice(body).unwrap_or_default();
    let reason = if status.reason.is_empty() { code.canonical_reason().unwrap_or_default().to_owned() } else { status.reason };
    ApiStatus { code: code.as_u16(), reason, message: status.message }
}

async fn read(answer: Response<Body>) -> Result<Bytes, RequestError> {
    match Limited::new(answer.into_body(), LONGEST_ANSWER).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(RequestError::TooLong),
        Err(error) => Err(RequestError::Unavailable(with_causes(&*error))),
    }
}

fn no_answer(path: &str) -> RequestError {
    RequestError::Unavailable(format!("{path}: no answer in {PATIENCE:?}"))
}

/// Formats an error with its causes, since a bare "client error" says nothing.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

//! Asks the API server, and sorts what can go wrong.

use bytes::Bytes;
use futures::TryFutureExt;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use kube::{Client, client::Body};
use tokio::time::{Duration, timeout};

use super::decode::Status;

/// No answer is read beyond this.
const LONGEST_ANSWER: usize = 64 << 20;
/// An answer's head, or the whole of one that is no watch, is not waited for longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why nothing, or nothing to be believed, was learned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Trouble {
    /// The API server does not answer, or answers that it cannot.
    #[error("{0}")]
    Away(String),
    /// It answers that we may not ask.
    #[error("{0}")]
    Forbidden(String),
    /// What was asked for is too long ago.
    #[error("{0}")]
    Expired(String),
    /// There is no such kind.
    #[error("{0}")]
    Absent(String),
    /// The answer was longer than is read.
    #[error("an answer is longer than {LONGEST_ANSWER} bytes")]
    TooLong,
    /// It answers for another cluster, or for this one's past.
    #[error("{0}")]
    Untrusted(String),
}

impl Trouble {
    /// What metrics call it.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Away(_) => "away",
            Self::Forbidden(_) => "forbidden",
            Self::Expired(_) => "expired",
            Self::Absent(_) => "absent",
            Self::TooLong => "too_long",
            Self::Untrusted(_) => "untrusted",
        }
    }
}

/// Asks and reads the whole answer.
///
/// # Errors
/// When there is no good answer.
pub(super) async fn whole(client: &Client, request: Request<Body>) -> Result<Bytes, Trouble> {
    let asked = request.uri().path().to_owned();
    let answer = timeout(PATIENCE, async { body(good(client, request).await?).await }).await;
    answer.map_err(|_| Trouble::Away(format!("{asked}: no answer in {PATIENCE:?}")))?
}

/// Asks and gives the answer's body to read as it comes.
///
/// # Errors
/// When there is no good answer.
pub(super) async fn stream(client: &Client, request: Request<Body>) -> Result<Body, Trouble> {
    let asked = request.uri().path().to_owned();
    let answer = timeout(PATIENCE, good(client, request)).await;
    answer.map_err(|_| Trouble::Away(format!("{asked}: no answer in {PATIENCE:?}")))?.map(Response::into_body)
}

/// What a failure that the server describes means.
pub(super) fn failure(status: &Status) -> Trouble {
    let text = format!("{} {}: {}", status.code, status.reason, status.message);
    match (status.code, status.reason.as_str()) {
        (410, _) | (_, "Expired" | "Gone") => Trouble::Expired(text),
        (401 | 403, _) => Trouble::Forbidden(text),
        (404, _) => Trouble::Absent(text),
        _ => Trouble::Away(text),
    }
}

async fn good(client: &Client, request: Request<Body>) -> Result<Response<Body>, Trouble> {
    let answer = client.send(request).map_err(|error| Trouble::Away(chain(&error))).await?;
    let code = answer.status();
    if code.is_success() {
        return Ok(answer);
    }
    let body = body(answer).await.unwrap_or_default();
    Err(failure(&described(code, &body)))
}

fn described(code: StatusCode, body: &[u8]) -> Status {
    let status: Status = serde_json::from_slice(body).unwrap_or_default();
    let reason = if status.reason.is_empty() { code.canonical_reason().unwrap_or_default().to_owned() } else { status.reason };
    Status { code: code.as_u16(), reason, message: status.message }
}

async fn body(answer: Response<Body>) -> Result<Bytes, Trouble> {
    match Limited::new(answer.into_body(), LONGEST_ANSWER).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Trouble::TooLong),
        Err(error) => Err(Trouble::Away(chain(&*error))),
    }
}

/// An error with its causes: a bare "client error" says nothing.
fn chain(error: &dyn std::error::Error) -> String {
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

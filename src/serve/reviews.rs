//! What reviews may cost. Each is paid for from the budget before its body is read. When there is not enough, the largest that is
//! still being sent has to go, and of equal ones the oldest: whoever sends slowly holds up nobody who sends at once. Then reviews
//! wait for their turn; all of that has a time to end.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes, to_bytes},
    extract::Request,
    http::{
        HeaderMap, StatusCode,
        header::{CONTENT_LENGTH, CONTENT_TYPE},
    },
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures::FutureExt;
use parking_lot::Mutex;
use tokio::{
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::paid_body::Unread;
use crate::{
    budget::{Budget, Portion, Purpose, Standing},
    webhook::review::MOST_OF_OBJECT,
};

/// How many bytes of memory a byte of an object may take while its review is answered. Of objects of 3 MB, the worst that
/// `tests/attack/reviews.rs` knows took 25 MB in an idle process, optimised or not, 8 for each byte; many in a row took no more, where
/// the allocator uses again what it keeps (`.cargo/config.toml`), and 66 MB where it does not.
const PER_BYTE: usize = 12;

/// How many bytes a byte beyond one object may take: it is received, and not read. An update brings the old object, too, and took no
/// more than the new one alone and its text.
const PER_BYTE_UNREAD: usize = 2;

/// What any review takes, in bytes: of most it is all.
const SMALL: usize = 256 << 10;

/// How long one that had to go may take until it is gone.
const GOING: Duration = Duration::from_millis(20);

/// The most that reviews may cost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// The most bytes of a body.
    pub(super) body: usize,
    /// How many are answered at a time; more wait.
    pub(super) at_a_time: usize,
    /// How many of one size may wait until they can be paid for. The beginning of each is here meanwhile: what may come unread.
    pub(super) waiting: usize,
    /// How long one may take.
    pub(super) time: Duration,
}

/// The reviews that are under way. Cloning shares them.
#[derive(Clone, Debug)]
pub(super) struct Reviews {
    limits: Limits,
    budget: Budget,
    turns: Arc<Semaphore>,
    large: Lane,
    small: Lane,
    unread: Unread,
}

/// Reviews of one size. Small ones, as nearly all are, have memory of their own: they never wait for large ones.
#[derive(Clone, Debug)]
struct Lane {
    purpose: Purpose,
    waiting: Arc<Semaphore>,
    sending: Arc<Mutex<Sending>>,
}

/// Reviews whose bodies are not here yet.
#[derive(Debug, Default)]
struct Sending {
    by_cost: BTreeMap<(Reverse<usize>, u64), CancellationToken>,
    last: u64,
}

/// Why a review is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    TooLarge,
    Room,
    Crowd,
    Time,
    Unreadable,
    NoJson,
}

/// Answers a request within the limits.
pub(super) async fn bounded(reviews: Reviews, request: Request, next: Next) -> Response {
    let answered = timeout(reviews.limits.time, reviews.answer(request, next)).await;
    answered.unwrap_or(Err(Refusal::Time)).unwrap_or_else(|refusal| {
        if matches!(refusal, Refusal::Room | Refusal::Crowd | Refusal::Time) {
            reviews.budget.count_refusal(Purpose::Reviews, Standing::Unproven);
        }
        refusal.into_response()
    })
}

impl Reviews {
    /// Returns reviews within limits; their memory is taken from `budget`.
    pub(super) fn new(limits: Limits, budget: Budget) -> Self {
        let lane = |purpose| Lane { purpose, waiting: Arc::new(Semaphore::new(limits.waiting)), sending: Arc::default() };
        let (large, small) = (lane(Purpose::Reviews), lane(Purpose::SmallReviews));
        Self { turns: Arc::new(Semaphore::new(limits.at_a_time)), limits, budget, large, small, unread: Unread::default() }
    }

    async fn answer(&self, request: Request, next: Next) -> Result<Response, Refusal> {
        if !is_json(request.headers()) {
            return Err(Refusal::NoJson);
        }
        let cost = self.cost(&request)?;
        let portion = self.pay(cost).await?;
        let (parts, body) = request.into_parts();
        let body = self.receive(body, cost).await?;
        let turn = self.turns.acquire().await;
        let answer = next.run(Request::from_parts(parts, Body::from(body))).await;
        drop(turn);
        self.until_read(answer, portion).await
    }

    /// Has an answer paid for until it is read: by as much as it is.
    async fn until_read(&self, answer: Response, mut portion: Portion) -> Result<Response, Refusal> {
        let (parts, body) = answer.into_parts();
        // It is here as a whole already.
        let body = to_bytes(body, usize::MAX).await.map_err(|error| Refusal::of(&error))?;
        // Less is always given; it is hardly ever more.
        let _ = portion.resize(body.len());
        Ok(Response::from_parts(parts, Body::new(self.unread.body(body, portion))))
    }

    /// Returns the memory that a request may take. A length that nobody said is the largest.
    fn cost(&self, request: &Request) -> Result<usize, Refusal> {
        let said = request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        let length = said.unwrap_or(if http_body::Body::is_end_stream(request.body()) { 0 } else { self.limits.body });
        let read = length.min(MOST_OF_OBJECT);
        let cost = PER_BYTE * read + PER_BYTE_UNREAD * (length - read);
        if length > self.limits.body { Err(Refusal::TooLarge) } else { Ok(cost.max(SMALL)) }
    }

    fn lane(&self, cost: usize) -> &Lane {
        if cost <= SMALL { &self.small } else { &self.large }
    }

    /// Takes the memory, as soon as those who had to go for it are gone.
    async fn pay(&self, cost: usize) -> Result<Portion, Refusal> {
        let lane = self.lane(cost);
        let paid = || self.budget.wait_for(lane.purpose, Standing::Unproven, cost);
        let mut place = None;
        loop {
            if let Some(portion) = paid().now_or_never() {
                return Ok(portion);
            }
            if self.unread.give_up_oldest() {
                continue;
            }
            if place.is_none() {
                place = Some(lane.waiting.try_acquire().map_err(|_| Refusal::Crowd)?);
            }
            if !lane.sending.lock().evict(cost) {
                return Ok(paid().await);
            }
            tokio::select! {
                portion = paid() => return Ok(portion),
                () = sleep(GOING) => {}
            }
        }
    }

    async fn receive(&self, body: Body, cost: usize) -> Result<Bytes, Refusal> {
        let sending = &self.lane(cost).sending;
        let (number, evicted) = sending.lock().begin(cost);
        let received = tokio::select! {
            () = evicted.cancelled() => Err(Refusal::Room),
            received = to_bytes(body, self.limits.body) => received.map_err(|error| Refusal::of(&error)),
        };
        sending.lock().by_cost.remove(&(Reverse(cost), number));
        received
    }
}

/// Returns whether the body is said to be JSON. No page of a browser can say so to another host without asking it first.
fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

impl Sending {
    fn begin(&mut self, cost: usize) -> (u64, CancellationToken) {
        let evicted = CancellationToken::new();
        self.last += 1;
        self.by_cost.insert((Reverse(cost), self.last), evicted.clone());
        (self.last, evicted)
    }

    /// Sends the most expensive away, unless it costs less than this.
    fn evict(&mut self, cost: usize) -> bool {
        let first = self.by_cost.first_entry().filter(|entry| entry.key().0.0 >= cost);
        let victim = first.map(|entry| entry.remove());
        victim.inspect(CancellationToken::cancel).is_some()
    }
}

impl Refusal {
    fn of(error: &axum::Error) -> Self {
        use std::error::Error;
        let limit = error.source().is_some_and(|source| source.is::<http_body_util::LengthLimitError>());
        if limit { Self::TooLarge } else { Self::Unreadable }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::TooLarge => {
                (StatusCode::PAYLOAD_TOO_LARGE, "the review is too large: an object may have 3 MB, as the API server takes\n")
            }
            Self::Room => (StatusCode::SERVICE_UNAVAILABLE, "the review came too slowly, and had to make room for others\n"),
            Self::Crowd => (StatusCode::SERVICE_UNAVAILABLE, "too many reviews wait already\n"),
            Self::Time => (StatusCode::SERVICE_UNAVAILABLE, "no answer in time\n"),
            Self::NoJson => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "invalid Content-Type, want `application/json`\n"),
            Self::Unreadable => (StatusCode::BAD_REQUEST, "the body cannot be read\n"),
        }
        .into_response()
    }
}

#[cfg(test)]
mod tests {
    use axum::{Router, middleware, routing::post};
    use futures::stream;
    use tower::ServiceExt;

    use super::*;

    const LIMITS: Limits = Limits { body: 8 << 20, at_a_time: 64, waiting: 64, time: Duration::from_secs(10) };

    /// Answers with how long the body is.
    fn routes(reviews: &Reviews) -> Router {
        let reviews = reviews.clone();
        Router::new()
            .route("/", post(|body: Bytes| async move { body.len().to_string() }))
            .layer(middleware::from_fn(move |request: Request, next: Next| bounded(reviews.clone(), request, next)))
    }

    fn request(length: usize, body: Body) -> Request {
        of_type("application/json").header(CONTENT_LENGTH, length).body(body).unwrap()
    }

    fn of_type(kind: &str) -> axum::http::request::Builder {
        Request::post("/").header(CONTENT_TYPE, kind)
    }

    #[tokio::test]
    async fn who_sends_slowly_makes_room_for_who_sends_at_once() {
        // Two small reviews at a time.
        let reviews = Reviews::new(LIMITS, Budget::of(16 * SMALL));
        let routes = routes(&reviews);
        let endless = || Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
        let slow: Vec<_> = (0..2).map(|_| tokio::spawn(routes.clone().oneshot(request(10, endless())))).collect();
        while reviews.small.sending.lock().by_cost.len() < 2 {
            tokio::task::yield_now().await;
        }
        let answer = routes.clone().oneshot(request(3, Body::from("abc"))).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        let [first, second] = slow.try_into().unwrap();
        assert_eq!(first.await.unwrap().unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(!second.is_finished());
        second.abort();
    }

    #[tokio::test]
    async fn only_so_many_wait_and_those_of_another_size_do_not_count() {
        let reviews = Reviews::new(Limits { waiting: 1, ..LIMITS }, Budget::of(1 << 20));
        let pay = |cost| reviews.pay(cost);
        let mut held = Vec::new();
        while let Some(portion) = pay(SMALL).now_or_never() {
            held.push(portion.unwrap());
        }
        // The one that was asked for last has gone again.
        let mut first = Box::pin(pay(SMALL));
        assert!((&mut first).now_or_never().is_none());
        assert_eq!(pay(SMALL).now_or_never().unwrap().unwrap_err(), Refusal::Crowd);
        assert!(pay(SMALL + 1).now_or_never().is_none_or(|paid| paid.is_ok()));
        drop(held);
        assert!(first.await.is_ok());
        assert!(pay(SMALL).await.is_ok());
    }

    #[tokio::test]
    async fn what_says_no_length_is_bounded_too() {
        let reviews = Reviews::new(Limits { body: 1000, ..LIMITS }, Budget::default());
        let chunks = stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from_static(&[b' '; 100])));
        let endless = of_type("application/json; charset=utf-8").body(Body::from_stream(chunks)).unwrap();
        assert_eq!(routes(&reviews).oneshot(endless).await.unwrap().status(), StatusCode::PAYLOAD_TOO_LARGE);
        let said = request(1001, Body::empty());
        assert_eq!(routes(&reviews).oneshot(said).await.unwrap().status(), StatusCode::PAYLOAD_TOO_LARGE);
    }

    #[tokio::test]
    async fn a_review_is_json() {
        let routes = routes(&Reviews::new(LIMITS, Budget::default()));
        for kind in ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", ""] {
            let answer = routes.clone().oneshot(of_type(kind).body(Body::from("{}")).unwrap()).await.unwrap();
            assert_eq!(answer.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE, "{kind}");
        }
    }
}

//! Keys that are fetched and kept: one fetch at a time, and not too often, however many tokens name a key that is not known.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use jiff::Timestamp;
use tokio::sync::Mutex;

use crate::identity::token::TokenError;

/// The keys of an issuer, as they were fetched last. They stay while the issuer is away.
pub(super) struct FetchedKeys<T> {
    current: ArcSwapOption<T>,
    last: Mutex<Option<Attempt>>,
    min_interval: Duration,
}

struct Attempt {
    at: Timestamp,
    failure: Option<String>,
}

// === impl FetchedKeys ===

impl<T> FetchedKeys<T> {
    /// Returns keys that are not known yet; between two fetches are at least `min_interval`.
    pub(super) fn new(min_interval: Duration) -> Self {
        Self { current: ArcSwapOption::empty(), last: Mutex::new(None), min_interval }
    }

    /// Returns the keys, if they were ever fetched.
    pub(super) fn current(&self) -> Option<Arc<T>> {
        self.current.load_full()
    }

    /// Returns newer keys than `old`, which lack a key: those that another caller has fetched meanwhile, or else fetches them.
    ///
    /// There is one fetch at a time, and none in the interval after the last, whose result holds until then. A failed fetch is
    /// [`TokenError::Unavailable`], one that brought nothing new [`TokenError::UnknownKey`].
    pub(super) async fn refresh(
        &self,
        old: Option<&Arc<T>>,
        now: Timestamp,
        fetch: impl Future<Output = Result<T, String>>,
    ) -> Result<Arc<T>, TokenError> {
        let mut last = self.last.lock().await;
        let newer = self.current.load_full().filter(|current| old.is_none_or(|old| !Arc::ptr_eq(old, current)));
        if let Some(attempt) = last.as_ref().filter(|attempt| attempt.is_within(self.min_interval, now)) {
            return match (newer, &attempt.failure) {
                (Some(newer), _) => Ok(newer),
                (None, Some(failure)) => Err(TokenError::Unavailable(failure.clone())),
                (None, None) => Err(TokenError::UnknownKey),
            };
        }
        if let (Some(newer), Some(_)) = (newer, old) {
            return Ok(newer);
        }
        let fetched = fetch.await;
        *last = Some(Attempt { at: now, failure: fetched.as_ref().err().cloned() });
        let fetched = Arc::new(fetched.map_err(TokenError::Unavailable)?);
        self.current.store(Some(Arc::clone(&fetched)));
        Ok(fetched)
    }
}

// === impl Attempt ===

impl Attempt {
    /// Returns whether the attempt was less than `interval` ago. A clock that was set back does not make the interval longer.
    fn is_within(&self, interval: Duration, now: Timestamp) -> bool {
        let passed = now.duration_since(self.at);
        !passed.is_negative() && passed.unsigned_abs() < interval
    }
}

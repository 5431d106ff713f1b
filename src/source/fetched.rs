//! What is fetched again and again from whoever publishes it, as keys of issuers and roots of other meshes are, and what is known of it:
//! the last good content stays while there is none that is newer. It joins the objects of other sources as one of a kind of its own.

use std::{future::Future, sync::Arc, time::Duration};

use smol_str::SmolStr;
use tokio::{sync::mpsc, task::AbortHandle, time::sleep};

use super::Change;
use crate::{
    api::{Kind, Metadata, Object, ObjectKey, Spec, key_set::KeySet, trust_bundle::TrustBundle},
    backoff::{Backoff, random_unit},
};

/// After which time the first failure is followed by another attempt.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// What an attempt gave: the content, or why there is none.
pub(super) type Attempt = Result<SmolStr, String>;

/// What is known of something that is fetched.
pub(super) trait Known: Clone + PartialEq {
    /// The kind of its objects, whose names are the URLs.
    const KIND: Kind;

    /// Makes it of the content that was good last, and of why there is no newer.
    fn new(content: Option<SmolStr>, trouble: Option<SmolStr>) -> Self;

    /// Returns the content that was good last.
    fn content(&self) -> Option<SmolStr>;

    /// Makes it what its object holds.
    fn into_spec(self) -> Spec;
}

/// Learns from an attempt; returns what is known now, if that differs.
pub(super) fn learn<T: Known>(known: &mut Option<T>, attempt: Attempt) -> Option<T> {
    let now = match attempt {
        Ok(content) => T::new(Some(content), None),
        Err(why) => T::new(known.as_ref().and_then(Known::content), Some(why.into())),
    };
    let differs = known.as_ref() != Some(&now);
    differs.then(|| known.insert(now).clone())
}

/// Returns the key of the object of this name.
pub(super) fn key<T: Known>(cluster: &SmolStr, name: &str) -> ObjectKey {
    ObjectKey { cluster: cluster.clone(), kind: T::KIND, namespace: SmolStr::default(), name: name.into() }
}

/// Returns that the object of this name holds what is known.
pub(super) fn applied<T: Known>(cluster: &SmolStr, name: &str, known: T) -> Change {
    let key = key::<T>(cluster, name);
    Change::Applied(Arc::new(Object { key, version: SmolStr::default(), metadata: Arc::<Metadata>::default(), spec: known.into_spec() }))
}

/// The attempts at one URL.
pub(super) struct Attempts {
    url: SmolStr,
    refresh: Duration,
    backoff: Backoff,
    results: mpsc::Sender<(SmolStr, Attempt)>,
}

impl Attempts {
    /// Makes attempts whose results go to `results`.
    pub(super) fn new(url: SmolStr, refresh: Duration, results: mpsc::Sender<(SmolStr, Attempt)>) -> Self {
        Self { url, refresh, backoff: Backoff::new(FIRST_RETRY.min(refresh), refresh), results }
    }

    /// Hands on what one attempt gave, and waits for the next: for the time of refreshing, or less after a failure. Returns whether
    /// there is to be one.
    pub(super) async fn hand_on(&mut self, attempt: Attempt) -> bool {
        let pause = self.pause_after(&attempt);
        let is_taken = self.results.send((self.url.clone(), attempt)).await.is_ok();
        if is_taken {
            sleep(pause).await;
        }
        is_taken
    }

    fn pause_after(&mut self, attempt: &Attempt) -> Duration {
        match attempt {
            Ok(_) => {
                self.backoff.reset();
                self.refresh.mul_f64(1.0 - random_unit() / 10.0)
            }
            Err(_) => self.backoff.next(random_unit()),
        }
    }
}

/// A task that ends with the value.
pub(super) struct FetchTask(AbortHandle);

impl FetchTask {
    /// Begins to fetch.
    pub(super) fn begin(fetching: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(fetching).abort_handle())
    }
}

impl Drop for FetchTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Known for KeySet {
    const KIND: Kind = Kind::KeySet;

    fn new(keys: Option<SmolStr>, trouble: Option<SmolStr>) -> Self {
        Self { keys, trouble }
    }

    fn content(&self) -> Option<SmolStr> {
        self.keys.clone()
    }

    fn into_spec(self) -> Spec {
        Spec::KeySet(Arc::new(self))
    }
}

impl Known for TrustBundle {
    const KIND: Kind = Kind::TrustBundle;

    fn new(roots: Option<SmolStr>, trouble: Option<SmolStr>) -> Self {
        Self { roots, trouble, ..Self::default() }
    }

    fn content(&self) -> Option<SmolStr> {
        self.roots.clone()
    }

    fn into_spec(self) -> Spec {
        Spec::TrustBundle(Arc::new(self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_good_last_stays_and_nothing_is_told_twice() {
        let mut known = None;
        let mut told = |attempt: Result<&str, &str>| learn::<KeySet>(&mut known, attempt.map(SmolStr::from).map_err(str::to_owned));
        let set =
            |keys: Option<&str>, trouble: Option<&str>| Some(KeySet { keys: keys.map(SmolStr::from), trouble: trouble.map(SmolStr::from) });
        assert_eq!(told(Err("away")), set(None, Some("away")));
        assert_eq!(told(Err("away")), None);
        assert_eq!(told(Ok("one")), set(Some("one"), None));
        assert_eq!(told(Ok("one")), None);
        assert_eq!(told(Err("away")), set(Some("one"), Some("away")));
        assert_eq!(told(Ok("two")), set(Some("two"), None));
    }

    #[test]
    fn a_failure_is_followed_by_another_attempt_sooner() {
        let refresh = Duration::from_secs(1000);
        let mut attempts = Attempts::new("https://a/keys".into(), refresh, mpsc::channel(1).0);
        let away = Err("away".to_owned());
        let first = attempts.pause_after(&away);
        assert!(first <= FIRST_RETRY && attempts.pause_after(&away) > first);
        assert!(attempts.pause_after(&Ok("one".into())) >= refresh * 9 / 10);
        assert!(attempts.pause_after(&away) <= FIRST_RETRY, "what failed before is forgotten");
        assert!((0..20).map(|_| attempts.pause_after(&away)).all(|pause| pause <= refresh));
    }

    #[tokio::test]
    async fn attempts_end_when_nobody_wants_them() {
        let (results, taken) = mpsc::channel(1);
        drop(taken);
        assert!(!Attempts::new("https://a/keys".into(), FIRST_RETRY, results).hand_on(Ok("one".into())).await);
    }
}

//! The budget of bytes: what all callers together may have this process hold. Whoever reads for a caller takes from it first, and
//! what is taken is given back when its [`Portion`] is dropped.
//!
//! Each [`Purpose`] has a part for callers of each [`Standing`] that nothing else can use up, so that a flood of one kind stops
//! neither the others nor those who have proven who they are. Callers who have proven nothing may use a share of each purpose only,
//! and never all: they are refused first.

mod metrics;

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Parts of the limit are counted in sixteenths.
const WHOLE: usize = 16;

/// What bytes are taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Open connections.
    Connections,
    /// Requests of gRPC until they are answered or have become a stream: their heads, and what asks for a certificate.
    Requests,
    /// Open streams of ADS: what is held for each, with the names that it subscribed to.
    Streams,
    /// gRPC messages that are being read, and debug pages that are sent as such.
    Messages,
    /// Reviews that are being read and answered.
    Reviews,
    /// The same of usual size.
    SmallReviews,
    /// Pages that were made and are not read yet.
    Pages,
}

/// What a caller has shown of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing that was checked.
    Unproven,
    /// An identity, by a token or a client certificate.
    Proven,
}

/// The bytes that callers may have this process hold. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Shared>);

/// Bytes that were taken; dropping it gives them back.
#[derive(Debug)]
#[must_use = "dropping it gives the bytes back"]
pub struct Portion {
    budget: Arc<Shared>,
    purpose: Purpose,
    standing: Standing,
    bytes: usize,
}

/// There is nothing left for such a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the control plane has no memory left for this ({0}): try again later")]
pub struct Exhausted(&'static str);

#[derive(Debug)]
struct Shared {
    limit: usize,
    taken: Mutex<[Taken; Purpose::COUNT]>,
    given_back: Notify,
}

/// Of the limit, in sixteenths.
#[derive(Clone, Copy, Debug)]
struct Share {
    /// What nobody else can use up.
    kept: usize,
    /// The most that may be taken when nobody else takes anything.
    most: usize,
}

/// What is taken for one purpose.
#[derive(Clone, Copy, Debug, Default)]
struct Taken {
    proven: usize,
    unproven: usize,
    /// How often callers of each standing were refused.
    refused_proven: u64,
    refused_unproven: u64,
}

// === impl Budget ===

impl Budget {
    /// Returns a budget of that many bytes.
    pub fn of(limit: usize) -> Self {
        Self(Arc::new(Shared { limit, taken: Mutex::default(), given_back: Notify::new() }))
    }

    /// Takes bytes.
    ///
    /// # Errors
    /// When there are none left for such a caller; it is counted.
    pub fn take(&self, purpose: Purpose, standing: Standing, bytes: usize) -> Result<Portion, Exhausted> {
        let mut portion = Portion { budget: Arc::clone(&self.0), purpose, standing, bytes: 0 };
        portion.resize(bytes)?;
        Ok(portion)
    }

    /// Takes bytes as soon as there are enough, without end: whoever waits sets the time. More than such callers may ever take is
    /// taken as if it were all of that.
    pub async fn wait_for(&self, purpose: Purpose, standing: Standing, bytes: usize) -> Portion {
        let bytes = bytes.min(self.0.most(purpose, standing));
        loop {
            let given_back = self.0.given_back.notified();
            let mut portion = Portion { budget: Arc::clone(&self.0), purpose, standing, bytes: 0 };
            if portion.try_resize(bytes) {
                return portion;
            }
            given_back.await;
        }
    }

    /// Returns one of so many equal parts of all.
    pub fn part(&self, of: usize) -> usize {
        self.0.limit / of
    }

    /// Counts a caller who waited in vain.
    pub fn count_refusal(&self, purpose: Purpose, standing: Standing) {
        self.0.count_refusal(purpose, standing);
    }
}

impl Default for Budget {
    /// Returns a budget that refuses nothing.
    fn default() -> Self {
        Self::of(usize::MAX / 16)
    }
}

// === impl Portion ===

impl Portion {
    /// Returns how many bytes it has.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes more, or gives some back.
    ///
    /// # Errors
    /// When more is wanted and there is none left; it is counted, and the portion stays as it is.
    pub fn resize(&mut self, bytes: usize) -> Result<(), Exhausted> {
        if self.try_resize(bytes) {
            return Ok(());
        }
        self.budget.count_refusal(self.purpose, self.standing);
        Err(Exhausted(self.purpose.as_str()))
    }

    /// Takes more as long as `spare` is left besides for such callers.
    ///
    /// # Errors
    /// As for [`resize`](Self::resize).
    pub fn resize_beside(&mut self, bytes: usize, spare: usize) -> Result<(), Exhausted> {
        self.resize(bytes + spare)?;
        self.resize(bytes)
    }

    /// Counts it as a proven caller's from now on.
    pub fn prove(&mut self) {
        if self.standing == Standing::Unproven {
            let mut taken = self.budget.taken.lock();
            *taken[self.purpose as usize].of_mut(Standing::Unproven) -= self.bytes;
            *taken[self.purpose as usize].of_mut(Standing::Proven) += self.bytes;
            self.standing = Standing::Proven;
        }
    }

    fn try_resize(&mut self, bytes: usize) -> bool {
        let mut taken = self.budget.taken.lock();
        let more = bytes.saturating_sub(self.bytes);
        if more > 0 && !self.budget.has(&taken, self.purpose, self.standing, more) {
            return false;
        }
        let mine = taken[self.purpose as usize].of_mut(self.standing);
        *mine = *mine - self.bytes + bytes;
        drop(taken);
        let less = bytes < self.bytes;
        self.bytes = bytes;
        if less {
            self.budget.given_back.notify_waiters();
        }
        true
    }
}

impl Drop for Portion {
    fn drop(&mut self) {
        // Less is always given.
        let _ = self.try_resize(0);
    }
}

// === impl Shared ===

impl Shared {
    /// Returns whether a caller of this standing may take that many bytes more.
    fn has(&self, taken: &[Taken; Purpose::COUNT], purpose: Purpose, standing: Standing, bytes: usize) -> bool {
        let all: usize = taken.iter().map(Taken::total).sum();
        let kept =
            |(other, of): (Purpose, Standing)| (self.limit / WHOLE * other.share(of).kept).saturating_sub(taken[other as usize].of(of));
        let kept_for_others: usize = others(purpose, standing).map(kept).sum();
        let mine = taken[purpose as usize].of(standing);
        mine + bytes <= self.most(purpose, standing) && all + kept_for_others + bytes <= self.limit
    }

    fn count_refusal(&self, purpose: Purpose, standing: Standing) {
        let mut taken = self.taken.lock();
        let taken = &mut taken[purpose as usize];
        match standing {
            Standing::Proven => taken.refused_proven += 1,
            Standing::Unproven => taken.refused_unproven += 1,
        }
    }

    /// Returns the most that such callers may take when nobody else takes anything.
    fn most(&self, purpose: Purpose, standing: Standing) -> usize {
        let kept_for_others: usize = others(purpose, standing).map(|(other, of)| other.share(of).kept).sum();
        self.limit / WHOLE * purpose.share(standing).most.min(WHOLE - kept_for_others)
    }
}

/// Returns all other purposes and standings.
fn others(purpose: Purpose, standing: Standing) -> impl Iterator<Item = (Purpose, Standing)> {
    let all = Purpose::ALL.into_iter().flat_map(|purpose| Standing::ALL.map(|standing| (purpose, standing)));
    all.filter(move |other| *other != (purpose, standing))
}

// === impl Taken ===

impl Taken {
    fn total(&self) -> usize {
        self.proven + self.unproven
    }

    fn of(&self, standing: Standing) -> usize {
        match standing {
            Standing::Proven => self.proven,
            Standing::Unproven => self.unproven,
        }
    }

    fn of_mut(&mut self, standing: Standing) -> &mut usize {
        match standing {
            Standing::Proven => &mut self.proven,
            Standing::Unproven => &mut self.unproven,
        }
    }
}

// === impl Purpose ===

impl Purpose {
    const COUNT: usize = 7;
    const ALL: [Self; Self::COUNT] =
        [Self::Connections, Self::Requests, Self::Streams, Self::Messages, Self::Reviews, Self::SmallReviews, Self::Pages];

    /// Returns its name in metrics.
    fn as_str(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Requests => "requests",
            Self::Streams => "streams",
            Self::Messages => "messages",
            Self::Reviews => "reviews",
            Self::SmallReviews => "small_reviews",
            Self::Pages => "pages",
        }
    }

    /// Returns what callers of a standing may use. The API server proves nothing of itself, and who reads a page is not told apart:
    /// of reviews and pages these are all callers.
    fn share(self, standing: Standing) -> Share {
        let (kept, most) = match (self, standing) {
            (Self::Reviews | Self::SmallReviews | Self::Pages, Standing::Proven) => (0, 0),
            (Self::Reviews, Standing::Unproven) => (2, 8),
            (Self::Pages, Standing::Unproven) => (1, 4),
            (Self::Streams, Standing::Proven) => (2, WHOLE),
            (_, Standing::Proven) => (1, WHOLE),
            (Self::Requests | Self::SmallReviews, Standing::Unproven) => (1, 2),
            (Self::Connections | Self::Streams | Self::Messages, Standing::Unproven) => (1, 4),
        };
        Share { kept, most }
    }
}

// === impl Standing ===

impl Standing {
    const ALL: [Self; 2] = [Self::Unproven, Self::Proven];
}

#[cfg(test)]
mod tests {
    use Purpose::{Connections, Messages, Pages, Requests, Reviews, Streams};
    use Standing::{Proven, Unproven};
    use proptest::{collection::vec, proptest, sample::select};

    use super::*;

    #[test]
    fn what_is_dropped_is_given_back() {
        let budget = Budget::of(1600);
        let portion = budget.take(Messages, Unproven, 400).unwrap();
        assert!(budget.take(Messages, Unproven, 1).is_err());
        drop(portion);
        let mut portion = budget.take(Messages, Unproven, 300).unwrap();
        assert_eq!(portion.resize(401), Err(Exhausted("messages")));
        assert_eq!(portion.bytes(), 300);
        portion.resize(10).unwrap();
        assert!(budget.take(Messages, Unproven, 390).is_ok());
    }

    #[test]
    fn the_unproven_leave_room_for_the_proven() {
        let budget = Budget::of(1600);
        let flood: Vec<Portion> = Purpose::ALL.into_iter().flat_map(|purpose| take_all(&budget, purpose, Unproven)).collect();
        for (purpose, kept) in [(Connections, 100), (Requests, 100), (Streams, 200), (Messages, 100)] {
            let taken: usize = take_all(&budget, purpose, Proven).iter().map(Portion::bytes).sum();
            assert!(taken >= kept, "{purpose:?}: {taken}");
        }
        drop(flood);
        assert!(budget.take(Reviews, Unproven, 400).is_ok());
    }

    /// Takes all that there is, in small pieces.
    fn take_all(budget: &Budget, purpose: Purpose, standing: Standing) -> Vec<Portion> {
        std::iter::from_fn(|| budget.take(purpose, standing, 10).ok()).collect()
    }

    proptest! {
        #[test]
        fn whatever_was_taken_each_purpose_and_standing_has_its_part(
            order in vec((select(&Purpose::ALL[..]), select(&Standing::ALL[..]), 1..400_usize, proptest::bool::ANY), 0..60),
        ) {
            let budget = Budget::of(1600);
            let mut held = Vec::new();
            for (purpose, standing, bytes, gives_back) in order {
                if gives_back {
                    held.pop();
                }
                held.extend(budget.take(purpose, standing, bytes));
            }
            // All at once, so that none lives on what is kept for another.
            for purpose in Purpose::ALL {
                for standing in Standing::ALL {
                    let taken = budget.0.taken.lock()[purpose as usize].of(standing);
                    let rest = (budget.0.limit / WHOLE * purpose.share(standing).kept).saturating_sub(taken);
                    held.push(budget.take(purpose, standing, rest).unwrap());
                }
            }
            assert!(budget.0.taken.lock().iter().map(Taken::total).sum::<usize>() <= 1600);
        }
    }

    #[test]
    fn the_parts_are_no_more_than_the_whole() {
        let shares = || Purpose::ALL.into_iter().flat_map(|purpose| Standing::ALL.map(|standing| purpose.share(standing)));
        assert!(shares().map(|share| share.kept).sum::<usize>() <= WHOLE);
        assert!(shares().all(|share| share.kept <= share.most && share.most <= WHOLE));
        assert_eq!(Pages.share(Proven).most, 0);
    }

    #[test]
    fn who_proves_itself_is_counted_among_the_proven() {
        let budget = Budget::of(1600);
        let mut portion = budget.take(Connections, Unproven, 400).unwrap();
        portion.prove();
        let again = budget.take(Connections, Unproven, 100).unwrap();
        drop((portion, again));
        assert!(budget.0.taken.lock().iter().all(|taken| taken.total() == 0));
    }

    #[tokio::test]
    async fn who_waits_is_served_when_something_is_given_back() {
        let budget = Budget::of(1600);
        let portion = budget.take(Reviews, Unproven, 300).unwrap();
        let waiting = tokio::spawn({
            let budget = budget.clone();
            // More than there ever is counts as all.
            async move { budget.wait_for(Reviews, Unproven, 10_000).await.bytes() }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(portion);
        assert_eq!(waiting.await.unwrap(), budget.0.most(Reviews, Unproven));
    }
}

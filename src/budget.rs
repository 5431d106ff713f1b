//! The budget of bytes: what all callers together may have this process hold. Whoever reads for a caller takes from it first, and
//! what is taken is given back when its [`Portion`] is dropped.
//!
//! Each [`Purpose`] has a part that no other can use up, so that a flood of one kind does not stop the others. Callers who have
//! proven nothing may use a share of each purpose only, and never all: they are refused first.

mod metrics;

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// What bytes are taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Open connections.
    Connections,
    /// Open streams of ADS: what is held for each, with the names that it subscribed to.
    Streams,
    /// gRPC messages that are being read.
    Messages,
    /// Reviews that are being read and answered.
    Reviews,
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

    /// Counts it as a proven caller's from now on.
    pub fn prove(&mut self) {
        if self.standing == Standing::Unproven {
            let mut taken = self.budget.taken.lock();
            *taken[self.purpose as usize].of(Standing::Unproven) -= self.bytes;
            *taken[self.purpose as usize].of(Standing::Proven) += self.bytes;
            self.standing = Standing::Proven;
        }
    }

    fn try_resize(&mut self, bytes: usize) -> bool {
        let mut taken = self.budget.taken.lock();
        let more = bytes.saturating_sub(self.bytes);
        if more > 0 && !self.budget.has(&taken, self.purpose, self.standing, more) {
            return false;
        }
        let mine = taken[self.purpose as usize].of(self.standing);
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
        let kept: usize = Purpose::ALL
            .iter()
            .filter(|other| **other != purpose)
            .map(|other| (self.limit / 8 * other.kept_eighths()).saturating_sub(taken[*other as usize].total()))
            .sum();
        if all + kept + bytes > self.limit {
            return false;
        }
        let unproven: usize = taken.iter().map(|taken| taken.unproven).sum();
        standing == Standing::Proven
            || (unproven + bytes <= self.limit / 4 * 3 && taken[purpose as usize].unproven + bytes <= self.most(purpose, standing))
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
        match standing {
            Standing::Unproven => self.limit / 8 * purpose.unproven_eighths(),
            Standing::Proven => {
                let others = Purpose::ALL.iter().filter(|other| **other != purpose).map(|other| other.kept_eighths());
                self.limit - self.limit / 8 * others.sum::<usize>()
            }
        }
    }
}

// === impl Taken ===

impl Taken {
    fn total(&self) -> usize {
        self.proven + self.unproven
    }

    fn of(&mut self, standing: Standing) -> &mut usize {
        match standing {
            Standing::Proven => &mut self.proven,
            Standing::Unproven => &mut self.unproven,
        }
    }
}

// === impl Purpose ===

impl Purpose {
    const COUNT: usize = 4;
    const ALL: [Self; Self::COUNT] = [Self::Connections, Self::Streams, Self::Messages, Self::Reviews];

    /// Returns its name in metrics.
    fn as_str(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Streams => "streams",
            Self::Messages => "messages",
            Self::Reviews => "reviews",
        }
    }

    /// Returns how many eighths of the limit nothing else can use up. Streams stay, and are many: what is left is theirs.
    fn kept_eighths(self) -> usize {
        match self {
            Self::Connections | Self::Messages | Self::Reviews => 1,
            Self::Streams => 0,
        }
    }

    /// Returns how many eighths of the limit callers who have proven nothing may use. Of reviews these are all callers.
    fn unproven_eighths(self) -> usize {
        match self {
            Self::Connections | Self::Streams | Self::Messages => 2,
            Self::Reviews => 4,
        }
    }
}

#[cfg(test)]
mod tests {
    use Purpose::{Connections, Messages, Reviews, Streams};
    use Standing::{Proven, Unproven};

    use super::*;

    #[test]
    fn what_is_dropped_is_given_back() {
        let budget = Budget::of(800);
        let portion = budget.take(Messages, Unproven, 200).unwrap();
        assert!(budget.take(Messages, Unproven, 1).is_err());
        drop(portion);
        let mut portion = budget.take(Messages, Unproven, 150).unwrap();
        assert_eq!(portion.resize(201), Err(Exhausted("messages")));
        assert_eq!(portion.bytes(), 150);
        portion.resize(10).unwrap();
        assert!(budget.take(Messages, Unproven, 190).is_ok());
    }

    #[test]
    fn the_unproven_leave_room_for_the_proven() {
        let budget = Budget::of(800);
        let taken =
            [(Connections, 200), (Streams, 200), (Messages, 200)].map(|(purpose, bytes)| budget.take(purpose, Unproven, bytes).unwrap());
        assert!(budget.take(Reviews, Unproven, 1).is_err(), "three quarters are all that they get");
        assert!(budget.take(Streams, Proven, 100).is_ok());
        drop(taken);
        assert!(budget.take(Reviews, Unproven, 400).is_ok());
    }

    #[test]
    fn each_purpose_has_a_part_that_no_other_uses_up() {
        let budget = Budget::of(800);
        let _streams = budget.take(Streams, Proven, 500).unwrap();
        assert!(budget.take(Streams, Proven, 1).is_err());
        for purpose in [Connections, Messages, Reviews] {
            assert!(budget.take(purpose, Unproven, 100).is_ok(), "{purpose:?}");
        }
    }

    #[test]
    fn who_proves_itself_is_counted_among_the_proven() {
        let budget = Budget::of(800);
        let mut portion = budget.take(Connections, Unproven, 200).unwrap();
        portion.prove();
        let again = budget.take(Connections, Unproven, 200).unwrap();
        drop((portion, again));
        assert!(budget.0.taken.lock().iter().all(|taken| taken.total() == 0));
    }

    #[tokio::test]
    async fn who_waits_is_served_when_something_is_given_back() {
        let budget = Budget::of(800);
        let portion = budget.take(Reviews, Unproven, 400).unwrap();
        let waiting = tokio::spawn({
            let budget = budget.clone();
            // More than there ever is counts as all.
            async move { budget.wait_for(Reviews, Unproven, 10_000).await.bytes() }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(portion);
        assert_eq!(waiting.await.unwrap(), 400);
    }
}

//! How many requests may be with signers at a time: each is an object of the API server, and a watch.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::mesh::model::SpiffeId;

/// The most requests that are with signers.
pub(super) const MOST: usize = 64;
/// How long a caller waits for its turn.
const PATIENCE: Duration = Duration::from_secs(5);

/// Hands out turns. One identity has half of them at most, so that no workload takes those of all others.
#[derive(Clone, Debug)]
pub(super) struct Turns {
    free: Arc<Semaphore>,
    taken: Arc<Mutex<HashMap<SpiffeId, usize>>>,
    most: usize,
    patience: Duration,
}

/// A turn, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    _permit: OwnedSemaphorePermit,
    _share: Share,
}

/// One of the places that an identity may have.
#[derive(Debug)]
struct Share {
    identity: SpiffeId,
    taken: Arc<Mutex<HashMap<SpiffeId, usize>>>,
}

// === impl Turns ===

impl Default for Turns {
    fn default() -> Self {
        Self::of(MOST, PATIENCE)
    }
}

impl Turns {
    fn of(most: usize, patience: Duration) -> Self {
        Self { free: Arc::new(Semaphore::new(most)), taken: Arc::default(), most, patience }
    }

    /// Takes a turn for `identity`; `None` if none becomes free soon, or it has its share.
    pub(super) async fn take(&self, identity: &SpiffeId) -> Option<Turn> {
        let share = self.share(identity)?;
        let permit = timeout(self.patience, Arc::clone(&self.free).acquire_owned()).await.ok()?.ok()?;
        Some(Turn { _permit: permit, _share: share })
    }

    fn share(&self, identity: &SpiffeId) -> Option<Share> {
        let mut taken = self.taken.lock();
        let has = taken.entry(identity.clone()).or_default();
        if *has >= self.most.div_ceil(2) {
            return None;
        }
        *has += 1;
        Some(Share { identity: identity.clone(), taken: Arc::clone(&self.taken) })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.taken.lock();
        if let Some(has) = taken.get_mut(&self.identity) {
            *has = has.saturating_sub(1);
            if *has == 0 {
                taken.remove(&self.identity);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(name: &str) -> SpiffeId {
        SpiffeId { trust_domain: "td".into(), namespace: "shop".into(), service_account: name.into() }
    }

    #[tokio::test]
    async fn one_identity_has_half_and_all_together_have_so_many() {
        let turns = Turns::of(4, Duration::from_millis(20));
        let (cart, reviews) = (identity("cart"), identity("reviews"));
        let first = turns.take(&cart).await.unwrap();
        let _second = turns.take(&cart).await.unwrap();
        assert!(turns.take(&cart).await.is_none(), "its half is taken");
        let (_third, _fourth) = (turns.take(&reviews).await.unwrap(), turns.take(&reviews).await.unwrap());
        assert!(turns.take(&identity("ratings")).await.is_none(), "none became free");
        drop(first);
        assert!(turns.take(&identity("ratings")).await.is_some());
        assert!(turns.take(&cart).await.is_some());
        drop((_second, _third, _fourth));
        assert!(turns.taken.lock().is_empty(), "nobody who has none is remembered");
    }
}

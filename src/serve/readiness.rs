//! Whether this control plane may be given proxies: sources synced and trusted, first world built, CA loaded.
//!
//! A task that must finish first holds a [`BlockReady`]; dropping it takes the block away.

use std::{collections::BTreeMap, thread};

use tokio::sync::watch;

/// Condition: the signing CA is loaded.
pub(super) const CA_LOADED: &str = "CA loaded";
/// Condition: the first world is built from everything that the sources had.
pub(super) const SOURCES_SYNCED: &str = "sources synced";
/// Condition: no source shows another mesh than before.
pub(super) const SOURCES_TRUSTED: &str = "sources trusted";

/// Ready as long as nothing blocks it. Cloning shares the state.
#[derive(Clone, Debug)]
pub struct Readiness {
    blocks: watch::Sender<Blocks>,
}

/// Blocks readiness until it is dropped. A task that panics has not finished: its block stays.
#[derive(Debug)]
#[must_use = "dropping it takes the block away"]
pub struct BlockReady {
    readiness: Readiness,
    condition: &'static str,
    id: u64,
}

/// What blocks, in the order in which `/ready` shows it.
#[derive(Debug, Default)]
struct Blocks {
    /// By condition and block: the reason, where there is one.
    held: BTreeMap<(&'static str, u64), Option<String>>,
    last_id: u64,
}

impl Default for Readiness {
    fn default() -> Self {
        Self { blocks: watch::Sender::new(Blocks::default()) }
    }
}

impl Readiness {
    /// Blocks readiness until `condition` holds.
    pub fn block(&self, condition: &'static str) -> BlockReady {
        self.insert(condition, None)
    }

    /// Blocks readiness for a reason that `/ready` shows beside the condition.
    pub fn block_because(&self, condition: &'static str, reason: String) -> BlockReady {
        self.insert(condition, Some(reason))
    }

    fn insert(&self, condition: &'static str, reason: Option<String>) -> BlockReady {
        let mut id = 0;
        self.blocks.send_modify(|blocks| {
            blocks.last_id += 1;
            id = blocks.last_id;
            blocks.held.insert((condition, id), reason);
        });
        tracing::info!(condition, holds = false, ready = false, "readiness");
        BlockReady { readiness: self.clone(), condition, id }
    }

    /// Returns whether nothing blocks.
    pub fn is_ready(&self) -> bool {
        self.blocks.borrow().held.is_empty()
    }

    /// Returns once nothing blocks.
    pub async fn ready(&self) {
        // It cannot fail: the sender is ours.
        _ = self.blocks.subscribe().wait_for(|blocks| blocks.held.is_empty()).await;
    }

    /// Returns whether `condition` does not hold.
    pub fn is_blocked_by(&self, condition: &str) -> bool {
        self.blocks.borrow().held.keys().any(|(name, _)| *name == condition)
    }

    /// Returns the conditions that do not hold, with the reason where there is one.
    pub fn pending(&self) -> Vec<String> {
        let text = |((condition, _), reason): (&(&'static str, u64), &Option<String>)| match reason {
            None => (*condition).to_owned(),
            Some(reason) => format!("{condition} ({reason})"),
        };
        self.blocks.borrow().held.iter().map(text).collect()
    }
}

impl Drop for BlockReady {
    fn drop(&mut self) {
        if thread::panicking() {
            return;
        }
        self.readiness.blocks.send_modify(|blocks| _ = blocks.held.remove(&(self.condition, self.id)));
        tracing::info!(condition = self.condition, holds = true, ready = self.readiness.is_ready(), "readiness");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_nothing_blocks() {
        let readiness = Readiness::default();
        let (world, ca) = (readiness.block("world"), readiness.block("ca"));
        assert_eq!(readiness.pending(), ["ca", "world"]);
        drop(ca);
        assert_eq!(readiness.pending(), ["world"]);
        assert!(readiness.is_blocked_by("world") && !readiness.is_blocked_by("ca") && !readiness.is_ready());
        drop(world);
        assert!(readiness.is_ready());
        let expired = readiness.block_because("ca", "expired".into());
        assert_eq!(readiness.pending(), ["ca (expired)"]);
        drop(expired);
        assert!(readiness.is_ready());
    }

    #[tokio::test]
    async fn who_waits_is_woken_by_the_last_block() {
        let readiness = Readiness::default();
        let blocks = (readiness.block("ca"), readiness.block("ca"));
        let waiting = tokio::spawn({
            let readiness = readiness.clone();
            async move { readiness.ready().await }
        });
        drop(blocks.0);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(blocks.1);
        waiting.await.unwrap();
    }

    #[test]
    fn a_task_that_panics_goes_on_blocking() {
        let readiness = Readiness::default();
        let block = readiness.block("world");
        let task = thread::spawn(move || {
            let _block = block;
            panic!("on purpose");
        });
        assert!(task.join().is_err());
        assert_eq!(readiness.pending(), ["world"]);
    }
}

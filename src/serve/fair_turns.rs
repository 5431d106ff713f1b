//! Turns at something of which only so much may go on at a time. Who waits is served by source address: one that asks often waits
//! for itself, and not the others for it.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// The turns. Cloning shares them.
#[derive(Clone, Debug)]
pub(super) struct FairTurns(Arc<Mutex<State>>);

/// A turn; dropping it passes it on.
#[derive(Debug)]
#[must_use = "dropping it ends the turn"]
pub(super) struct Turn(Option<Arc<Mutex<State>>>);

#[derive(Debug)]
struct State {
    free: usize,
    waiting: HashMap<IpAddr, VecDeque<oneshot::Sender<Turn>>>,
    /// The addresses with somebody who waits, who is next first.
    order: VecDeque<IpAddr>,
}

impl FairTurns {
    /// Returns that many turns at a time.
    pub(super) fn of(count: usize) -> Self {
        Self(Arc::new(Mutex::new(State { free: count, waiting: HashMap::new(), order: VecDeque::new() })))
    }

    /// Waits for a turn.
    pub(super) async fn next(&self, from: IpAddr) -> Turn {
        loop {
            let turn = {
                let mut state = self.0.lock();
                if state.free > 0 {
                    state.free -= 1;
                    return Turn(Some(Arc::clone(&self.0)));
                }
                state.wait(from)
            };
            if let Ok(turn) = turn.await {
                return turn;
            }
        }
    }
}

impl State {
    fn wait(&mut self, from: IpAddr) -> oneshot::Receiver<Turn> {
        let (sender, turn) = oneshot::channel();
        let waiting = self.waiting.entry(from).or_default();
        if waiting.is_empty() {
            self.order.push_back(from);
        }
        waiting.push_back(sender);
        turn
    }

    fn next(&mut self) -> Option<oneshot::Sender<Turn>> {
        let address = self.order.pop_front()?;
        let waiting = self.waiting.get_mut(&address)?;
        let next = waiting.pop_front();
        if waiting.is_empty() {
            self.waiting.remove(&address);
        } else {
            self.order.push_back(address);
        }
        next
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(turns) = self.0.take() else { return };
        loop {
            let mut state = turns.lock();
            let Some(next) = state.next() else {
                state.free += 1;
                return;
            };
            drop(state);
            match next.send(Self(Some(Arc::clone(&turns)))) {
                Ok(()) => return,
                // Who waited has gone: somebody else has it.
                Err(mut back) => back.0 = None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::poll;

    use super::*;

    fn host(number: u8) -> IpAddr {
        [10, 0, 0, number].into()
    }

    #[tokio::test]
    async fn an_address_that_asks_often_waits_for_itself() {
        let turns = FairTurns::of(1);
        let turn = turns.next(host(1)).await;
        let mut many: Vec<_> = (0..10).map(|_| Box::pin(turns.next(host(1)))).collect();
        for waiting in &mut many {
            assert!(poll!(waiting).is_pending());
        }
        let mut one = pin!(turns.next(host(2)));
        assert!(poll!(&mut one).is_pending());
        drop(turn);
        let turn = many.remove(0).await;
        assert!(poll!(&mut one).is_pending());
        drop(turn);
        let turn = one.await;
        assert!(poll!(&mut many[0]).is_pending());
        drop(turn);
        drop(many.remove(0).await);
    }

    #[tokio::test]
    async fn who_has_gone_takes_no_turn() {
        let turns = FairTurns::of(2);
        let [first, second] = [turns.next(host(1)).await, turns.next(host(1)).await];
        let (mut gone, mut given) = (Box::pin(turns.next(host(1))), Box::pin(turns.next(host(2))));
        assert!(poll!(&mut gone).is_pending() && poll!(&mut given).is_pending());
        drop(gone);
        drop(first);
        // It was given, and nobody came for it.
        drop(given);
        drop(second);
        drop((turns.next(host(3)).await, turns.next(host(3)).await));
        assert_eq!(turns.0.lock().free, 2);
    }
}

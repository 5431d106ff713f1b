//! The open connections of all ports, and who has to go when there are too many: the oldest that has proven nothing, of the
//! address that has most of them. A new connection is thus never locked out by silent ones.

mod metrics;
mod table;

use std::{
    collections::VecDeque,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

use self::table::Table;
use super::fair_turns::{FairTurns, Turn};
use crate::budget::{Budget, Exhausted, Portion, Purpose, Standing};

/// How many older connections may have to go for the memory of one: as many silent ones as one with TLS takes.
const MOST_EVICTED: usize = 12;

/// How long a connection that is served, and has shown nothing, has its place for sure when others of its address wait for one.
const SURE: Duration = Duration::from_secs(1);

/// What part of the budget is left to those that only come when others of their address are served: if it were used up, each that
/// comes would put out one that waits, which comes again.
const SPARE: usize = 48;

/// How many go at least when the system has no more files for us. A good client that is about to show who it is should not be among
/// them.
const LEAST_WITHOUT_FILES: usize = 4;

/// How many connections there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// In all. Each is an open file.
    pub total: usize,
    /// From one source address (of IPv6, from one /64 network).
    pub per_address: usize,
}

/// What a connection has shown of its peer, in the order in which connections are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Shown {
    /// No whole request.
    Nothing,
    /// A request, by whomever.
    Request,
    /// An identity.
    Identity,
}

/// The open connections. Cloning shares them.
#[derive(Clone, Debug)]
pub struct Connections(Arc<Shared>);

/// The place of one connection; dropping it makes room.
#[derive(Debug)]
pub(super) struct Place {
    connections: Arc<Shared>,
    number: u64,
    address: IpAddr,
    shown: Mutex<Shown>,
    evicted: CancellationToken,
}

#[derive(Debug)]
struct Shared {
    limits: ConnectionLimits,
    budget: Budget,
    state: Mutex<State>,
    /// Turns at computing handshakes: on half of the processors, so that others compute beside them.
    handshakes: FairTurns,
}

/// What becomes of a connection that needs more memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Grown {
    /// It has it.
    Yes,
    /// There is none now; no other has to go for it.
    NotNow,
    /// It had to go itself.
    Gone,
}

#[derive(Debug, Default)]
struct State {
    table: Table<Kept>,
    /// Those that are served and had shown nothing when they came to be, in that order, and since when. Some may have gone.
    served: VecDeque<(Instant, u64)>,
    counts: Counts,
}

/// What is kept for each connection.
#[derive(Debug)]
struct Kept {
    evicted: CancellationToken,
    portion: Portion,
}

/// How often connections had to go, or could not come.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    evicted: u64,
    refused: u64,
}

impl Connections {
    /// Returns the connections of a process; what each one costs is taken from `budget`.
    pub fn new(limits: ConnectionLimits, budget: Budget) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let handshakes = FairTurns::of(processors.div_ceil(2));
        Self(Arc::new(Shared { limits, budget, state: Mutex::default(), handshakes }))
    }

    /// Makes a place for a new connection, which costs `bytes`; `None` when all others have a better right.
    pub(super) fn admit(&self, from: IpAddr, bytes: usize) -> Option<Place> {
        let mut state = self.0.state.lock();
        let address = source(from);
        let portion = self.0.room(&mut state, address, bytes);
        let Some(portion) = portion else {
            state.counts.refused += 1;
            return None;
        };
        let evicted = CancellationToken::new();
        let number = state.table.insert(address, Kept { evicted: evicted.clone(), portion });
        Some(Place { connections: Arc::clone(&self.0), number, address, shown: Mutex::new(Shown::Nothing), evicted })
    }

    /// Makes room, since the system has no more files for us: an eighth of all, so that as many can come before it has none again.
    /// Returns whether there will be some.
    pub(super) fn evict_some(&self) -> bool {
        let mut state = self.0.state.lock();
        let before = state.table.len();
        for _ in 0..(before / 8).max(LEAST_WITHOUT_FILES) {
            let victim = state.table.oldest();
            if !state.evict(victim) {
                break;
            }
        }
        state.table.len() < before
    }
}

impl Default for Connections {
    /// Returns connections without limits.
    fn default() -> Self {
        Self::new(ConnectionLimits { total: usize::MAX, per_address: usize::MAX }, Budget::default())
    }
}

impl Place {
    /// Takes the memory for what the peer begins to say, `bytes` in all.
    pub(super) fn grow(&self, bytes: usize) -> Grown {
        self.connections.state.lock().grow(self.number, bytes, 0)
    }

    /// Takes the memory for being served, `bytes` in all.
    pub(super) fn be_served(&self, bytes: usize) -> Grown {
        let spare = self.connections.budget.part(SPARE);
        let mut state = self.connections.state.lock();
        let grown = state.grow(self.number, bytes, spare);
        if grown == Grown::Yes {
            state.served.push_back((Instant::now(), self.number));
            state.forget_those_gone();
        }
        grown
    }

    /// Waits for a turn at computing a handshake.
    pub(super) async fn turn_at_handshake(&self) -> Turn {
        self.connections.handshakes.next(self.address).await
    }

    /// Takes the memory for a request of its peer.
    ///
    /// # Errors
    /// When there is none left for such a peer.
    pub(super) fn take_for_request(&self, bytes: usize) -> Result<Portion, Exhausted> {
        let standing = if self.shown() == Shown::Identity { Standing::Proven } else { Standing::Unproven };
        self.connections.budget.take(Purpose::Requests, standing, bytes)
    }

    /// Records what the peer has shown.
    pub(super) fn show(&self, now: Shown) {
        let mut shown = self.shown.lock();
        if now <= *shown {
            return;
        }
        *shown = now;
        let mut state = self.connections.state.lock();
        if let Some(kept) = state.table.promote(self.number, now)
            && now == Shown::Identity
        {
            kept.portion.prove();
        }
    }

    /// Returns what the peer has shown.
    pub(super) fn shown(&self) -> Shown {
        *self.shown.lock()
    }

    /// Waits until the connection has to go.
    pub(super) fn evicted(&self) -> WaitForCancellationFuture<'_> {
        self.evicted.cancelled()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.state.lock().table.remove(self.number);
    }
}

impl Shared {
    /// Takes the memory for a connection from this address, after others had to go if need be.
    fn room(&self, state: &mut State, address: IpAddr, bytes: usize) -> Option<Portion> {
        if state.table.count_of(address) >= self.limits.per_address {
            let victim = state.table.oldest_of(address);
            state.evict(victim).then_some(())?;
        }
        if state.table.len() >= self.limits.total {
            let victim = state.table.oldest();
            state.evict(victim).then_some(())?;
        }
        for _ in 0..MOST_EVICTED {
            if let Ok(portion) = self.budget.take(Purpose::Connections, Standing::Unproven, bytes) {
                return Some(portion);
            }
            let victim = state.table.oldest();
            state.evict(victim).then_some(())?;
        }
        self.budget.take(Purpose::Connections, Standing::Unproven, bytes).ok()
    }
}

impl State {
    /// Takes memory for a connection, of which so much is to be left besides. If each that is served had to go for the next, none
    /// would get far, and all would come again: so only who opens many goes at once for who opens few. Others wait until those before
    /// them have had their time.
    fn grow(&mut self, number: u64, bytes: usize, mut spare: usize) -> Grown {
        for _ in 0..=MOST_EVICTED {
            let of_many = self.table.oldest_of_many(number);
            if of_many.is_some() {
                spare = 0;
            }
            let Some(kept) = self.table.get_mut(number) else { return Grown::Gone };
            if kept.portion.resize_beside(bytes, spare).is_ok() {
                return Grown::Yes;
            }
            let victim = of_many.or_else(|| self.served_for_long());
            if !self.evict(victim) {
                break;
            }
            spare = 0;
        }
        self.counts.refused += 1;
        Grown::NotNow
    }

    /// Returns the first of those that are served, show nothing, and have had their time.
    fn served_for_long(&mut self) -> Option<u64> {
        self.forget_those_gone();
        self.served.front().filter(|(since, _)| since.elapsed() >= SURE).map(|(_, number)| *number)
    }

    /// Forgets of those that are served the first that have gone, or shown something.
    fn forget_those_gone(&mut self) {
        while let Some((_, number)) = self.served.front()
            && self.table.shown_by(*number) != Some(Shown::Nothing)
        {
            self.served.pop_front();
        }
    }

    /// Ends a connection, and gives its memory back at once: its task needs a moment to end.
    fn evict(&mut self, victim: Option<u64>) -> bool {
        let Some(kept) = victim.and_then(|victim| self.table.remove(victim)) else { return false };
        kept.evicted.cancel();
        self.counts.evicted += 1;
        true
    }
}

/// Returns what counts as one source: of IPv6, a host has a network of addresses.
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) >> 64 << 64).into()),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections(total: usize, per_address: usize) -> Connections {
        Connections::new(ConnectionLimits { total, per_address }, Budget::default())
    }

    fn from(host: u8) -> IpAddr {
        [10, 0, 0, host].into()
    }

    fn is_evicted(place: &Place) -> bool {
        place.evicted.is_cancelled()
    }

    #[test]
    fn the_oldest_that_has_shown_nothing_goes_first() {
        let connections = connections(3, 10);
        let [first, second, third] = [1, 2, 3].map(|host| connections.admit(from(host), 1).unwrap());
        first.show(Shown::Request);
        let fourth = connections.admit(from(4), 1).unwrap();
        assert!(is_evicted(&second) && ![&first, &third, &fourth].into_iter().any(is_evicted));
        for place in [&third, &fourth] {
            place.show(Shown::Identity);
        }
        let fifth = connections.admit(from(5), 1).unwrap();
        assert!(is_evicted(&first), "one that asked goes when nobody is silent");
        fifth.show(Shown::Identity);
        assert!(connections.admit(from(6), 1).is_none(), "who has shown an identity is not put out by a stranger");
        drop(third);
        assert!(connections.admit(from(6), 1).is_some());
    }

    #[test]
    fn who_opens_many_puts_out_its_own() {
        let connections = connections(4, 10);
        let few = connections.admit(from(1), 1).unwrap();
        let many: Vec<Place> = (0..50).map(|_| connections.admit(from(2), 1).unwrap()).collect();
        assert!(!is_evicted(&few));
        assert_eq!(many.iter().filter(|place| !is_evicted(place)).count(), 3);
    }

    #[test]
    fn an_address_churns_its_own() {
        let connections = connections(100, 2);
        let other = connections.admit(from(1), 1).unwrap();
        let mine: Vec<Place> = (0..3).map(|_| connections.admit(from(2), 1).unwrap()).collect();
        assert!(is_evicted(&mine[0]) && !is_evicted(&mine[1]) && !is_evicted(&other));
        let v6 = |text: &str| connections.admit(text.parse().unwrap(), 1).unwrap();
        let places = ["2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8:0:1::1"].map(v6);
        assert_eq!(places.map(|place| is_evicted(&place)), [true, false, false, false]);
        drop(connections.admit("::ffff:10.0.0.2".parse().unwrap(), 1).unwrap());
        assert!(is_evicted(&mine[1]), "a mapped address is the same host");
    }

    #[test]
    fn who_begins_to_speak_has_silent_ones_of_who_opens_many_make_room() {
        let budget = Budget::of(800);
        let connections = Connections::new(ConnectionLimits { total: 100, per_address: 100 }, budget.clone());
        let silent: Vec<Place> = (0..19).map(|_| connections.admit(from(1), 10).unwrap()).collect();
        let speaking = connections.admit(from(2), 10).unwrap();
        assert_eq!(silent[18].be_served(20), Grown::NotNow, "its own have as good a right");
        assert_eq!(speaking.be_served(100), Grown::Yes);
        assert_eq!(silent.iter().filter(|place| is_evicted(place)).count(), 9);
        assert_eq!(silent[0].grow(20), Grown::Gone);
        assert_eq!(speaking.grow(1000), Grown::NotNow, "more than there is");
        drop((silent, speaking));
        assert!(budget.take(Purpose::Connections, Standing::Unproven, 200).is_ok());
    }

    #[test]
    fn who_asked_and_opens_many_goes_for_who_opens_few() {
        let connections = Connections::new(ConnectionLimits { total: 100, per_address: 100 }, Budget::of(800));
        let asked: Vec<Place> = [1, 2, 2, 2].map(|host| connections.admit(from(host), 45).unwrap()).into();
        asked.iter().for_each(|place| place.show(Shown::Request));
        let one = connections.admit(from(3), 20).unwrap();
        assert_eq!(one.be_served(60), Grown::Yes);
        assert_eq!([0, 1, 2, 3].map(|which| is_evicted(&asked[which])), [false, true, false, false]);
    }

    #[test]
    fn what_is_served_leaves_room_for_what_comes() {
        let connections = Connections::new(ConnectionLimits { total: 100, per_address: 100 }, Budget::of(800));
        let [first, second] = [1, 1].map(|host| connections.admit(from(host), 10).unwrap());
        assert_eq!(first.be_served(170), Grown::Yes);
        assert_eq!(second.be_served(20), Grown::NotNow);
        assert!(connections.admit(from(1), 16).is_some() && !is_evicted(&second));
    }

    #[test]
    fn who_is_served_and_shows_nothing_goes_after_a_time_for_others_of_its_address() {
        let connections = Connections::new(ConnectionLimits { total: 100, per_address: 100 }, Budget::of(800));
        let served: Vec<Place> = (0..3).map(|_| connections.admit(from(1), 50).unwrap()).collect();
        assert!(served.iter().all(|place| place.be_served(50) == Grown::Yes));
        served[0].show(Shown::Request);
        let waiting = connections.admit(from(1), 20).unwrap();
        assert_eq!(waiting.be_served(70), Grown::NotNow);
        for (since, _) in &mut connections.0.state.lock().served {
            *since -= SURE;
        }
        assert_eq!(waiting.be_served(70), Grown::Yes);
        assert_eq!([0, 1, 2].map(|which| is_evicted(&served[which])), [false, true, false]);
    }

    #[test]
    fn without_files_an_eighth_goes() {
        let connections = connections(1000, 1000);
        let places: Vec<Place> = (0..800).map(|_| connections.admit(from(1), 1).unwrap()).collect();
        assert!(connections.evict_some());
        assert_eq!(places.iter().filter(|place| is_evicted(place)).count(), 100);
        places.iter().for_each(|place| place.show(Shown::Identity));
        assert!(!connections.evict_some());
    }

    #[test]
    fn memory_is_made_by_the_silent_and_given_back() {
        let budget = Budget::of(800);
        let connections = Connections::new(ConnectionLimits { total: 100, per_address: 100 }, budget.clone());
        let places: Vec<Place> = (0..3).map(|host| connections.admit(from(host), 100).unwrap()).collect();
        assert!(is_evicted(&places[0]) && !is_evicted(&places[1]));
        drop(places);
        assert!(budget.take(Purpose::Connections, Standing::Unproven, 200).is_ok());
        assert_eq!(connections.0.state.lock().table.len(), 0);
    }
}

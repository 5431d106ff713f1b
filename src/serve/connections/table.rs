//! A table of connections that knows who has to go: of those who have shown nothing, the oldest of the address that has most of
//! them. One address that opens many thus puts out its own, and not the few of others.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

use super::Shown;

/// How many connections that asked something are looked at for one that may go for another.
const LOOKED_AT: usize = 64;

/// Connections by number; a higher number is younger.
#[derive(Debug)]
pub(super) struct Table<T> {
    rows: HashMap<u64, Row<T>>,
    ranks: BTreeSet<(Shown, u64)>,
    by_address: HashMap<IpAddr, OfAddress>,
    /// The addresses with silent connections: who has most last, and of those the one with the oldest.
    silent: BTreeSet<(usize, Reverse<u64>, IpAddr)>,
    last: u64,
}

/// The connections of one address.
#[derive(Debug, Default)]
struct OfAddress {
    ranks: BTreeSet<(Shown, u64)>,
    silent: usize,
}

#[derive(Debug)]
struct Row<T> {
    address: IpAddr,
    shown: Shown,
    value: T,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { rows: HashMap::new(), ranks: BTreeSet::new(), by_address: HashMap::new(), silent: BTreeSet::new(), last: 0 }
    }
}

impl<T> Table<T> {
    /// Returns how many there are.
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Returns how many there are of an address.
    pub(super) fn count_of(&self, address: IpAddr) -> usize {
        self.by_address.get(&address).map_or(0, |of| of.ranks.len())
    }

    /// Returns how many have shown what.
    pub(super) fn count_shown(&self, shown: Shown) -> usize {
        self.rows.values().filter(|row| row.shown == shown).count()
    }

    /// Returns the one that has to go first, if any may be sent away.
    pub(super) fn oldest(&self) -> Option<u64> {
        let silent = self.silent.last().and_then(|(_, _, address)| self.oldest_of(*address));
        silent.or_else(|| may_go(self.ranks.first()))
    }

    /// Returns the same among those of an address.
    pub(super) fn oldest_of(&self, address: IpAddr) -> Option<u64> {
        may_go(self.by_address.get(&address)?.ranks.first())
    }

    /// Returns the one that has to go first for this one: of an address that has twice as many, of silent connections or of those that
    /// asked something. Of the latter only the oldest few are looked at.
    pub(super) fn oldest_of_many(&self, number: u64) -> Option<u64> {
        let mine = self.rows.get(&number)?.address;
        let (all, silent) = self.by_address.get(&mine).map(|of| (of.ranks.len(), of.silent))?;
        let most = self.silent.last().filter(|(count, ..)| *count >= 2 * silent);
        let of_silent = most.and_then(|(_, _, address)| self.oldest_of(*address));
        of_silent.or_else(|| {
            let asked = self.ranks.range((Shown::Request, 0)..(Shown::Identity, 0)).take(LOOKED_AT).map(|(_, number)| *number);
            asked.into_iter().find(|other| self.rows.get(other).is_some_and(|row| self.count_of(row.address) >= 2 * all))
        })
    }

    /// Returns what one has shown.
    pub(super) fn shown_by(&self, number: u64) -> Option<Shown> {
        self.rows.get(&number).map(|row| row.shown)
    }

    /// Puts one in that has shown nothing; returns its number.
    pub(super) fn insert(&mut self, address: IpAddr, value: T) -> u64 {
        self.last += 1;
        self.put(self.last, Row { address, shown: Shown::Nothing, value });
        self.last
    }

    /// Ranks one by what it has shown now.
    pub(super) fn promote(&mut self, number: u64, shown: Shown) -> Option<&mut T> {
        let row = self.take(number)?;
        self.put(number, Row { shown, ..row });
        self.get_mut(number)
    }

    /// Returns what is kept for one.
    pub(super) fn get_mut(&mut self, number: u64) -> Option<&mut T> {
        self.rows.get_mut(&number).map(|row| &mut row.value)
    }

    /// Takes one out.
    pub(super) fn remove(&mut self, number: u64) -> Option<T> {
        self.take(number).map(|row| row.value)
    }

    fn put(&mut self, number: u64, row: Row<T>) {
        self.ranks.insert((row.shown, number));
        self.change(row.address, |of| {
            of.ranks.insert((row.shown, number));
            of.silent += usize::from(row.shown == Shown::Nothing);
        });
        self.rows.insert(number, row);
    }

    fn take(&mut self, number: u64) -> Option<Row<T>> {
        let row = self.rows.remove(&number)?;
        self.ranks.remove(&(row.shown, number));
        self.change(row.address, |of| {
            of.ranks.remove(&(row.shown, number));
            of.silent -= usize::from(row.shown == Shown::Nothing);
        });
        Some(row)
    }

    /// Changes what there is of an address, and where it stands among those with silent connections.
    fn change(&mut self, address: IpAddr, change: impl FnOnce(&mut OfAddress)) {
        let of = self.by_address.entry(address).or_default();
        let before = of.standing(address);
        change(of);
        let after = of.standing(address);
        if of.ranks.is_empty() {
            self.by_address.remove(&address);
        }
        before.map(|before| self.silent.remove(&before));
        self.silent.extend(after);
    }
}

impl OfAddress {
    fn standing(&self, address: IpAddr) -> Option<(usize, Reverse<u64>, IpAddr)> {
        let (_, oldest) = self.ranks.first().filter(|_| self.silent > 0)?;
        Some((self.silent, Reverse(*oldest), address))
    }
}

/// Leaves out who has shown an identity.
fn may_go(first: Option<&(Shown, u64)>) -> Option<u64> {
    first.filter(|(shown, _)| *shown < Shown::Identity).map(|(_, number)| *number)
}

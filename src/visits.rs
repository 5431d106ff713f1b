//! Counts what a change makes the control plane look at.
//!
//! Cost follows change (architecture, rule 4): what is translated again is counted where it is remembered, but a loop over
//! the whole mesh that finds nothing new is not seen there. Loops over a mesh's tables count their steps here, and
//! `tests/cost.rs` pins the figures, and `istiod_lite_visited` shows them of a process. Each thread counts on its own; nothing that is computed depends on the counts, so the
//! pure rooms count, too.

use std::{cell::Cell, ops::Sub};

/// What a loop looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visited {
    /// Objects as they are written, and values derived from one.
    Object,
    /// Services, with or without their endpoints.
    Service,
    /// Ports of services.
    Port,
    /// The routes of a VirtualService.
    Route,
    /// Connected proxies.
    Proxy,
    /// Names of resources in what one peer says or holds.
    Name,
    /// What stands in one object (hosts, names, ports), held against others of it.
    Written,
}

/// How many things of each sort were looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Visits {
    /// Objects as they are written, and values derived from one.
    pub objects: u64,
    /// Services.
    pub services: u64,
    /// Ports of services.
    pub ports: u64,
    /// Routes of VirtualServices.
    pub routes: u64,
    /// Connected proxies.
    pub proxies: u64,
    /// Names of resources in what one peer says or holds.
    pub names: u64,
    /// What stands in one object.
    pub written: u64,
}

thread_local! {
    static VISITS: [Cell<u64>; 7] = const { [const { Cell::new(0) }; 7] };
}

/// Counts the steps of an iterator.
pub trait Visit: Iterator + Sized {
    /// Counts each item that is looked at.
    fn visiting(self, what: Visited) -> impl Iterator<Item = Self::Item> {
        self.inspect(move |_| count(what, 1))
    }
}

impl<I: Iterator> Visit for I {}

/// Counts things that are looked at otherwise than by an iterator.
pub fn count(what: Visited, number: usize) {
    VISITS.with(|visits| {
        let visits = &visits[what as usize];
        visits.set(visits.get() + number as u64);
    });
}

impl Visits {
    /// Returns what this thread has looked at since it began.
    pub fn of_this_thread() -> Self {
        let [objects, services, ports, routes, proxies, names, written] = VISITS.with(|visits| visits.each_ref().map(Cell::get));
        Self { objects, services, ports, routes, proxies, names, written }
    }

    /// Returns each count with the word for it.
    pub fn by_sort(self) -> [(&'static str, u64); 7] {
        let Self { objects, services, ports, routes, proxies, names, written } = self;
        [
            ("objects", objects),
            ("services", services),
            ("ports", ports),
            ("routes", routes),
            ("proxies", proxies),
            ("names", names),
            ("written", written),
        ]
    }
}

impl Sub for Visits {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            objects: self.objects - before.objects,
            services: self.services - before.services,
            ports: self.ports - before.ports,
            routes: self.routes - before.routes,
            proxies: self.proxies - before.proxies,
            names: self.names - before.names,
            written: self.written - before.written,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_looked_at_is_counted_and_what_is_not_is_not() {
        let before = Visits::of_this_thread();
        let found = (0..100).visiting(Visited::Service).find(|n| *n == 9);
        count(Visited::Route, 3);
        let expected = Visits { services: 10, routes: 3, ..Visits::default() };
        assert_eq!((found, Visits::of_this_thread() - before), (Some(9), expected));
    }
}

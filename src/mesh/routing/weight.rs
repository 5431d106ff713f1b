//! How much becomes of routes, wherever a proxy has to be sent them again: for each port, for each server of a gateway.

use std::{
    collections::BTreeSet,
    fmt::{self, Debug, Write},
};

use super::model::HttpRule;
use crate::mesh::model::{Protocol, Service};

/// The most that the HTTP routes of one object may become in the configuration of a proxy, in bytes. An object of Kubernetes has at
/// most 1.5 MB.
pub(crate) const MOST_OF_ROUTES: usize = 64 << 20;

/// Returns about how long a route is that becomes of the rule: of each match one.
pub(super) fn of_route(rule: &HttpRule) -> usize {
    let matches: usize = rule.matches.iter().map(length).sum();
    length(rule).saturating_sub(matches) + matches / rule.matches.len().max(1)
}

/// Returns whether routes of this weight are too much for the tables that these services have at their ports. Services of one port
/// share its table; where HTTP is sniffed each has one of its own.
pub(crate) fn is_too_much<'a>(weight: usize, services: impl Iterator<Item = &'a Service>) -> bool {
    let most = MOST_OF_ROUTES / weight.max(1);
    let (mut ports, mut own) = (BTreeSet::new(), 0);
    // A host without a service is in one table.
    most == 0
        || services.flat_map(|service| &service.ports).any(|port| {
            own += usize::from(port.protocol == Protocol::Auto);
            ports.insert(port.number);
            ports.len() + own > most
        })
}

/// Returns how long something is when it is written out, all of its fields with it.
fn length(value: &impl Debug) -> usize {
    let mut length = Length(0);
    // Counting cannot fail.
    let _ = write!(length, "{value:?}");
    length.0
}

struct Length(usize);

impl fmt::Write for Length {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0 += text.len();
        Ok(())
    }
}

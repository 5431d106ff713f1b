//! Whether this control plane may be given proxies: sources synced and to be believed, first world built, CA loaded.

use std::collections::BTreeMap;

use parking_lot::RwLock;

/// Named conditions, all of which must hold.
#[derive(Debug)]
pub struct Readiness {
    conditions: RwLock<BTreeMap<&'static str, Holds>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Holds {
    Yes,
    No,
    Because(String),
}

impl Readiness {
    /// None of the named conditions holds yet.
    pub fn awaiting(conditions: &[&'static str]) -> Self {
        Self { conditions: RwLock::new(conditions.iter().map(|name| (*name, Holds::No)).collect()) }
    }

    /// A condition holds from now on, or no longer.
    pub fn set(&self, condition: &'static str, holds: bool) {
        self.put(condition, if holds { Holds::Yes } else { Holds::No });
    }

    /// A condition does not hold, for a reason that `/ready` shows.
    pub fn fail(&self, condition: &'static str, reason: &str) {
        self.put(condition, Holds::Because(reason.to_owned()));
    }

    fn put(&self, condition: &'static str, holds: Holds) {
        if self.conditions.write().insert(condition, holds.clone()).as_ref() != Some(&holds) {
            tracing::info!(condition, holds = holds == Holds::Yes, ready = self.is_ready(), "readiness");
        }
    }

    /// Whether all conditions hold.
    pub fn is_ready(&self) -> bool {
        self.missing().is_empty()
    }

    /// The conditions that do not hold, with the reason where there is one.
    pub fn missing(&self) -> Vec<String> {
        let told = |(name, holds): (&&'static str, &Holds)| match holds {
            Holds::Yes => None,
            Holds::No => Some((*name).to_owned()),
            Holds::Because(reason) => Some(format!("{name} ({reason})")),
        };
        self.conditions.read().iter().filter_map(told).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_all_conditions_hold() {
        let readiness = Readiness::awaiting(&["ca", "world"]);
        readiness.set("ca", true);
        assert_eq!(readiness.missing(), ["world"]);
        readiness.set("world", true);
        assert!(readiness.is_ready());
        readiness.fail("ca", "expired");
        assert_eq!(readiness.missing(), ["ca (expired)"]);
        readiness.set("ca", true);
        assert!(readiness.is_ready());
    }
}

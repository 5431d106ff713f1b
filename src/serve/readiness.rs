//! Whether this control plane may be given proxies: sources synced, first world built, CA loaded.

use std::collections::BTreeMap;

use parking_lot::RwLock;

/// Named conditions, all of which must hold.
#[derive(Debug)]
pub struct Readiness {
    conditions: RwLock<BTreeMap<&'static str, bool>>,
}

impl Readiness {
    /// None of the named conditions holds yet.
    pub fn awaiting(conditions: &[&'static str]) -> Self {
        Self { conditions: RwLock::new(conditions.iter().map(|name| (*name, false)).collect()) }
    }

    /// A condition holds from now on, or no longer.
    pub fn set(&self, condition: &'static str, holds: bool) {
        if self.conditions.write().insert(condition, holds) != Some(holds) {
            tracing::info!(condition, holds, ready = self.is_ready(), "readiness");
        }
    }

    /// Whether all conditions hold.
    pub fn is_ready(&self) -> bool {
        self.missing().is_empty()
    }

    /// The conditions that do not hold.
    pub fn missing(&self) -> Vec<&'static str> {
        self.conditions.read().iter().filter(|(_, holds)| !**holds).map(|(name, _)| *name).collect()
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
        readiness.set("ca", false);
        assert!(!readiness.is_ready());
    }
}

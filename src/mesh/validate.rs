//! Checks across objects.

use super::world::World;
use crate::api::Diagnostic;

/// x
pub fn check(_world: &World) -> Vec<Diagnostic> {
    Vec::new()
}

//! A configuration object as the mesh keeps it.

use std::sync::Arc;

use super::model::{Origin, Precedence};
use crate::api::Object;

/// What an object says, with what decides between it and others of its kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Configured<T> {
    /// What it says.
    pub spec: Arc<T>,
    /// Its age and name: the older of two goes first.
    pub precedence: Precedence,
    /// The object it came from.
    pub origin: Origin,
}

impl<T> Configured<T> {
    /// Puts what `object` says together with the object's age and origin.
    pub fn new(object: &Object, spec: Arc<T>) -> Self {
        Self { spec, precedence: Precedence::of(object), origin: Origin::of(object) }
    }
}

//! One application of patches to one message, and what came of each.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
};

use envoy_types::pb::google::protobuf::Any;
use prost::{Message, Name};

use super::merge::{merge, merge_any};
use crate::mesh::{
    by_ptr::ByPtr,
    envoy_filter::{ApplyTo, Patch},
    policy::envoy_filter::Patches,
};

/// What patches made of a message.
#[derive(Debug)]
pub struct Patched<M> {
    /// The message; `None`: it is removed.
    pub message: Option<M>,
    /// The patches that found what they are for, in order.
    pub applied: Patches,
    /// Those that found it and could not be applied.
    pub failures: Vec<Failure>,
}

/// A patch that is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The patch.
    pub patch: ByPtr<Patch>,
    /// Why.
    pub why: String,
}

/// The application of patches to a message.
pub(super) struct Run<'a> {
    patches: &'a [ByPtr<Patch>],
    applied: BTreeSet<usize>,
    failed: BTreeMap<usize, String>,
}

/// A patch within a run.
#[derive(Clone, Copy)]
pub(super) struct Step<'a> {
    at: usize,
    pub(super) patch: &'a Patch,
}

impl<M> Patched<M> {
    /// Returns whether a patch found what it is for.
    pub fn concerned(&self, patch: &Patch) -> bool {
        let failed = self.failures.iter().map(|failure| &failure.patch);
        self.applied.as_slice().iter().chain(failed).any(|of| std::ptr::eq(&*of.0, patch))
    }
}

impl<'a> Run<'a> {
    pub(super) fn of(patches: &'a Patches) -> Self {
        Self { patches: patches.as_slice(), applied: BTreeSet::new(), failed: BTreeMap::new() }
    }

    /// Iterates over the patches of one sort, in order.
    pub(super) fn steps(&self, apply_to: ApplyTo) -> impl Iterator<Item = Step<'a>> + use<'a> {
        let steps = self.patches.iter().enumerate().map(|(at, patch)| Step { at, patch });
        steps.filter(move |step| step.patch.apply_to == apply_to)
    }

    /// Returns whether there are patches of one sort.
    pub(super) fn has(&self, apply_to: ApplyTo) -> bool {
        self.steps(apply_to).next().is_some()
    }

    pub(super) fn applied(&mut self, step: Step<'_>) {
        self.applied.insert(step.at);
    }

    pub(super) fn failed(&mut self, step: Step<'_>, why: impl Into<String>) {
        self.failed.entry(step.at).or_insert_with(|| why.into());
    }

    /// Returns the message that a patch holds.
    pub(super) fn value<M: Message + Default>(&mut self, step: Step<'_>) -> Option<M> {
        let read = M::decode(&step.patch.value[..]);
        read.map_err(|error| self.failed(step, error.to_string())).ok()
    }

    /// Merges what a patch holds into a message. Returns whether it could.
    pub(super) fn merge<M: Message + Name + Default>(&mut self, step: Step<'_>, into: &mut M) -> bool {
        match merge(into, &step.patch.value) {
            Ok(merged) => {
                *into = merged;
                self.applied(step);
                true
            }
            Err(why) => {
                self.failed(step, why);
                false
            }
        }
    }

    /// Merges what a patch holds into what has a name by which others know it.
    pub(super) fn merge_named<M: Message + Name + Default + Clone>(&mut self, step: Step<'_>, into: &mut M, name: impl Fn(&M) -> &str) {
        let before = into.clone();
        if self.merge(step, into) && name(&before) != name(into) {
            let why = format!("{} cannot be renamed: others know it by this name", name(&before));
            *into = before;
            self.applied.remove(&step.at);
            self.failed(step, why);
        }
    }

    /// Merges the name and configuration that a patch holds into those of a filter.
    pub(super) fn merge_filter(&mut self, step: Step<'_>, (name, own): (&mut String, &mut Any), (renamed, other): (String, Option<Any>)) {
        match other.map(|other| merge_any(own, &other)).transpose() {
            Ok(merged) => *own = merged.unwrap_or_else(|| mem::take(own)),
            Err(why) => return self.failed(step, why),
        }
        if !renamed.is_empty() {
            *name = renamed;
        }
        self.applied(step);
    }

    pub(super) fn end<M>(self, message: Option<M>) -> Patched<M> {
        let Self { patches, applied, failed } = self;
        let failures = failed.into_iter().map(|(at, why)| Failure { patch: patches[at].clone(), why });
        Patched { message, applied: applied.into_iter().map(|at| patches[at].clone()).collect(), failures: failures.collect() }
    }
}

//! The stages of a rotation, the steps between them, and what each step waits for.

use std::fmt;

/// How far a rotation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// There is none.
    Settled,
    /// The next CA is there, and nobody has been told of it.
    Planned,
    /// Both roots are handed out, and the old CA signs.
    Distributing,
    /// Both roots are handed out, and the next CA signs.
    Switched,
}

/// What a rotation replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The intermediate: the roots stay as they are.
    Intermediate,
    /// The root as well.
    Root,
}

/// A step that somebody asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// On to the next stage.
    Next,
    /// Back to the CA before.
    Abort,
}

/// One of the two CAs of a rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The CA before the rotation.
    Old,
    /// The CA after it.
    Next,
}

/// What every connected proxy must be known to do before a step, because the step would break it otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// To trust the root of this CA, which is about to sign.
    Trust(Which),
    /// To hold no certificate under the root of this CA, which is about to be dropped.
    Leave(Which),
}

/// Where a step leads, and what it waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// The stage after it.
    pub to: Stage,
    /// The CA that signs after it.
    pub signer: Which,
    /// What it waits for; `None`: nothing.
    pub need: Option<Need>,
}

// === impl Stage ===

impl Stage {
    /// Returns where a step leads from here; `None` if there is no rotation to go on with.
    pub fn step(self, step: Step, change: Change) -> Option<Move> {
        use Which::{Next, Old};
        let (to, signer, need) = match (self, step, change) {
            (Self::Settled, _, _) => return None,
            // The same roots are trusted before and after.
            (Self::Planned | Self::Distributing | Self::Switched, Step::Next, Change::Intermediate) => (Self::Settled, Next, None),
            (Self::Planned | Self::Distributing | Self::Switched, Step::Abort, Change::Intermediate) => (Self::Settled, Old, None),
            // One root more harms nobody.
            (Self::Planned, Step::Next, Change::Root) => (Self::Distributing, Old, None),
            (Self::Distributing, Step::Next, Change::Root) => (Self::Switched, Next, Some(Need::Trust(Next))),
            (Self::Switched, Step::Next, Change::Root) => (Self::Settled, Next, Some(Need::Leave(Old))),
            (Self::Planned, Step::Abort, Change::Root) => (Self::Settled, Old, None),
            // The next CA may have signed, if the rotation was aborted once before.
            (Self::Distributing, Step::Abort, Change::Root) => (Self::Settled, Old, Some(Need::Leave(Next))),
            (Self::Switched, Step::Abort, Change::Root) => (Self::Distributing, Old, Some(Need::Trust(Old))),
        };
        Some(Move { to, signer, need })
    }

    /// Returns the word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Settled => "settled",
            Self::Planned => "planned",
            Self::Distributing => "distributing",
            Self::Switched => "switched",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Settled => "settled: one CA signs, and nothing is planned",
            Self::Planned => "planned: the next CA is there, and nobody has been told of it",
            Self::Distributing => "distributing: both roots are handed out, and the old CA signs",
            Self::Switched => "switched: both roots are handed out, and the next CA signs",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Change::*, Stage::*, Step::*, *};

    fn moved(stage: Stage, step: Step, change: Change) -> Option<(Stage, Which, Option<Need>)> {
        stage.step(step, change).map(|Move { to, signer, need }| (to, signer, need))
    }

    #[test]
    fn a_root_is_replaced_in_three_steps() {
        assert_eq!(moved(Planned, Next, Root), Some((Distributing, Which::Old, None)));
        assert_eq!(moved(Distributing, Next, Root), Some((Switched, Which::Next, Some(Need::Trust(Which::Next)))));
        assert_eq!(moved(Switched, Next, Root), Some((Settled, Which::Next, Some(Need::Leave(Which::Old)))));
    }

    #[test]
    fn each_step_can_be_taken_back() {
        assert_eq!(moved(Planned, Abort, Root), Some((Settled, Which::Old, None)));
        assert_eq!(moved(Distributing, Abort, Root), Some((Settled, Which::Old, Some(Need::Leave(Which::Next)))));
        assert_eq!(moved(Switched, Abort, Root), Some((Distributing, Which::Old, Some(Need::Trust(Which::Old)))));
    }

    #[test]
    fn an_intermediate_is_replaced_at_once() {
        for stage in [Planned, Distributing, Switched] {
            assert_eq!(moved(stage, Next, Intermediate), Some((Settled, Which::Next, None)), "{stage:?}");
            assert_eq!(moved(stage, Abort, Intermediate), Some((Settled, Which::Old, None)), "{stage:?}");
        }
    }

    #[test]
    fn without_a_plan_there_is_no_step() {
        for (step, change) in [(Next, Root), (Next, Intermediate), (Abort, Root), (Abort, Intermediate)] {
            assert_eq!(Settled.step(step, change), None);
        }
    }

    #[test]
    fn whoever_signs_next_is_trusted_and_whoever_goes_has_nobody_left() {
        for stage in [Planned, Distributing, Switched] {
            for step in [Next, Abort] {
                let Some(Move { to, signer, need }) = stage.step(step, Root) else { panic!("{stage:?}") };
                let signed = if stage == Switched { Which::Next } else { Which::Old };
                let other = if signer == Which::Next { Which::Old } else { Which::Next };
                let wanted = match (stage, to) {
                    (Planned, _) => None,
                    (_, Settled) => Some(Need::Leave(other)),
                    _ if signer != signed => Some(Need::Trust(signer)),
                    _ => None,
                };
                assert_eq!(need, wanted, "{stage:?} {step:?}");
            }
        }
    }
}

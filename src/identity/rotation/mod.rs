//! Replacing the CA while the mesh runs, its root included: everybody trusts both roots before the next CA signs, and the old root
//! goes when nobody holds a certificate under it any more.
//!
//! [`Stage`] is the state machine: what each step leads to, and what it waits for. [`Material`] is what stands in the folder or the
//! Secret; the stage is read from it, so that no restart and no change of leader can forget it. [`Record`] remembers who was told
//! to trust what, and [`judge`] names the proxies that a step would break.

mod coverage;
#[cfg(test)]
pub(crate) mod fixture;
mod judgement;
mod knowledge;
mod material;
mod parts;
mod stage;

pub use judgement::{Unjudged, judge};
use knowledge::objections;
pub use knowledge::{Connected, Holder, Objection, Record, Report, Told};
pub use material::{Material, MaterialError, NEXT_MARK};
pub use parts::{Entries, UnreadablePart};
pub use stage::{Change, Move, Need, Stage, Step, Which};

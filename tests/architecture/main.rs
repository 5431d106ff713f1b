//! Holds the structure of `src/`: the walls between its rooms, and that nothing within a room runs in a circle.
//! It reads the sources as text, so that it sees what the compiler allows.

mod circles;
mod paths;
mod sources;
mod walls;

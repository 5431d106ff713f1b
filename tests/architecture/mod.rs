//! Holds the structure of `src/`: the walls between its rooms, that nothing within a room runs in a circle, that what the
//! documents name exists, and that comments on functions begin with a verb. It reads the sources as text, so that it sees what the compiler allows.

mod circles;
mod documents;
mod paths;
mod sources;
mod walls;
mod words;

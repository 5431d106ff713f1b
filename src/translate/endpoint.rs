//! Load assignments.

//! Applies batches of changes to the tables and makes the next world.

//! The CA, and who is calling.

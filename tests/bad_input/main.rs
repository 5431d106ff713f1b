//! What users get wrong: each mistake is named with file, document and field, offline and by the running control plane,
//! and everything else is served.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]

mod cases;
mod commands;
mod extensions;
mod filters;
mod offline;
mod plane;
mod policies;
mod rate_limits;
mod served;
mod telemetries;

//! Attacks on a running control plane, each bounded to seconds: a process on a small mesh with a CA of its own, a good client
//! that is measured quietly and beside the attack, and what the process costs meanwhile. One file for each topic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]

mod blame;
mod cost;
mod crowd;
mod documents;
mod dumps;
mod fields;
mod floods;
mod frame;
mod fuzz;
mod good;
mod handshakes;
mod issuers;
mod logs;
mod memory;
mod process;
mod requests;
mod reviews;
mod shapes;
mod silence;
mod stage;
mod texts;
mod together;
mod unread;

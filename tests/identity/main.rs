//! The CA and the callers: chains held against openssl and webpki, bad CAs refused at load, forged tokens refused, and
//! the whole exchange through the TLS port; port 15017 beside it, which serves by the same certificate.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]

mod ceremony;
mod fixture;
mod issue;
mod lint;
mod load;
mod port;
mod rotate;
mod serving;
mod tokens;
mod webhooks;

//! Listeners (contract §3.3, §3.4, §3.7).

pub mod gateway;

//! The control plane on a real API server: what it reads, how fast a change is effective, and what breaks while real
//! Envoys carry traffic. Each test has an API server of its own, which it may kill.

mod canary;
mod injection;
mod objects;
mod shop;

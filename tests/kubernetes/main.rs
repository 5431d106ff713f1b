//! The control plane on a real API server: what it reads, how a change becomes effective, and what breaks while real
//! Envoys carry traffic. Each test has an API server of its own, which it may kill.

mod admission;
mod arrival;
mod callers;
mod canary;
mod controllers;
mod credentials;
mod definitions;
mod faults;
mod identity;
mod injection;
mod manifests;
mod objects;
mod outage;
mod proxy_configs;
mod refusals;
mod remote_clusters;
mod replica;
mod rotation;
mod scope;
mod shop;
mod signers;
mod small_signer;
mod storage;
mod texts;

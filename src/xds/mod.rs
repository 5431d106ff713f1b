//! Delivery: encode once, keep what each class of proxies is to have, speak ADS.

pub mod encode;
pub mod node;
pub mod render;
pub mod resource;
pub mod view;

//! Envoy's admin port: its counters and what configuration it runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::http_client::get_text;

/// The admin port of one Envoy.
#[derive(Clone, Copy, Debug)]
pub struct Admin(SocketAddr);

impl Admin {
    /// Returns the admin port at this address.
    pub fn new(address: SocketAddr) -> Self {
        Self(address)
    }

    /// Returns where it listens.
    pub fn address(&self) -> SocketAddr {
        self.0
    }

    /// Returns the counters and gauges that are not zero, by name.
    pub async fn stats(&self) -> Result<BTreeMap<String, u64>> {
        let text = get_text(self.0, "/stats?usedonly").await?;
        Ok(text
            .lines()
            .filter_map(|line| line.split_once(": "))
            .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
            .collect())
    }

    /// Returns the whole dump, endpoints included.
    pub async fn config_dump(&self) -> Result<Value> {
        serde_json::from_str(&get_text(self.0, "/config_dump?include_eds").await?).context("config dump")
    }

    /// Returns the names of the clusters that it has now.
    pub async fn clusters(&self) -> Result<BTreeSet<String>> {
        let text = get_text(self.0, "/clusters").await?;
        Ok(text.lines().filter_map(|line| line.split_once("::")).map(|(name, _)| name.to_owned()).collect())
    }

    /// Returns Envoy's state: `LIVE` when it serves.
    pub async fn state(&self) -> Result<String> {
        let info: Value = serde_json::from_str(&get_text(self.0, "/server_info").await?)?;
        Ok(info["state"].as_str().unwrap_or_default().to_owned())
    }
}

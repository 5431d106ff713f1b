//! Reads RateLimitPolicy.

use std::sync::Arc;

use super::fields::{Fields, Node, Read};
use crate::api::{
    istio::PolicyTarget,
    rate_limit_policy::{
        CountedRequests, DescriptorEntry, EntryValue, GlobalRateLimit, Per, PerKey, RateLimit, RateLimitPolicy, RequestDescriptor,
    },
};

impl Read for RateLimitPolicy {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| {
            let limits: Vec<RateLimit> = fields.get("limits");
            let global = fields.opt("global").map(Arc::new);
            Self { target: PolicyTarget::of(fields), limits: limits.into_iter().map(Arc::new).collect(), global }
        })
    }
}

impl Read for RateLimit {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| Self {
            name: fields.get("name"),
            counted: fields.get("match"),
            per: fields.opt("per").unwrap_or(Per { key: None, max_values: Per::USUAL_VALUES }),
            requests: fields.get("requests"),
            interval: fields.opt("interval").unwrap_or(Self::USUAL_INTERVAL),
            burst: fields.opt("burst"),
            shadow: fields.get("shadow"),
            headers: fields.get("headers"),
        })
    }
}

impl Read for CountedRequests {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| Self { uri: fields.opt("uri"), method: fields.opt("method"), headers: fields.entries("headers") })
    }
}

impl Read for Per {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| {
            let (header, identity) = per_key(fields);
            if header.is_some() == identity.is_some() {
                fields.error("exactly one of header and clientIdentity: true must be set");
            }
            Self { key: header.or(identity), max_values: fields.opt("maxValues").unwrap_or(Self::USUAL_VALUES) }
        })
    }
}

impl Read for GlobalRateLimit {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| Self {
            service: fields.get("service"),
            port: fields.get("port"),
            domain: fields.get("domain"),
            fail_closed: fields.get("failClosed"),
            timeout: fields.opt("timeout"),
            headers: fields.get("headers"),
            descriptors: fields.get("descriptors"),
        })
    }
}

impl Read for RequestDescriptor {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| Self { entries: fields.get("entries") })
    }
}

impl Read for DescriptorEntry {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| {
            let counted = fields.get("match");
            let text = fields.opt("value").map(|text| EntryValue::Text(text, counted));
            let (header, identity) = per_key(fields);
            let given: Vec<EntryValue> = text.into_iter().chain(header.into_iter().chain(identity).map(EntryValue::Of)).collect();
            if given.len() != 1 {
                fields.error("exactly one of value, header and clientIdentity: true must be set");
            }
            if fields.has("match") && !fields.has("value") {
                fields.refuse("match", "is possible beside value only");
            }
            Self { key: fields.get("key"), value: given.into_iter().next() }
        })
    }
}

fn per_key(fields: &Fields<'_>) -> (Option<PerKey>, Option<PerKey>) {
    (fields.opt("header").map(PerKey::Header), fields.get::<bool>("clientIdentity").then_some(PerKey::ClientIdentity))
}

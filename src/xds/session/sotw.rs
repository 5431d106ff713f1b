//! State of the world: a response has all clusters or all listeners; of endpoints and route tables those that the
//! client lacks. The version is the hash over the names and contents of all that the client is owed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

use envoy_types::pb::envoy::{config::core::v3, service::discovery::v3::DiscoveryRequest};
use smol_str::{SmolStr, ToSmolStr};
use xxhash_rust::xxh3::Xxh3;

use super::{
    Response, Session,
    channel::{Channel, Held, Reason},
    empty_load_assignment, empty_route_configuration,
    unserved::Unserved,
};
use crate::xds::{
    resource::{ContentHash, Resource},
    resource_type::ResourceType,
    rollout::{Rollout, Settings, Step, Warming},
    view::View,
};

/// A client that speaks state of the world.
#[derive(Debug)]
pub struct SotwSession {
    rollout: Rollout,
    unserved: Unserved,
}

impl SotwSession {
    /// A client that has said nothing yet and is to have `view`.
    pub fn new(settings: Settings, view: View) -> Self {
        Self { rollout: Rollout::new(settings, view), unserved: Unserved::default() }
    }

    fn open(&mut self, kind: ResourceType, names: &[String], version: &str) {
        let warming = if kind == ResourceType::Endpoint { self.rollout.take_warming() } else { Warming::default() };
        let channel = self.rollout.channel_mut(kind);
        let view = channel.view.clone();
        channel.open = true;
        channel.whole = kind.is_wildcard();
        channel.wildcard = names.iter().any(|name| name == "*") || (names.is_empty() && kind.is_wildcard());
        for name in names.iter().filter(|name| *name != "*") {
            channel.names.insert(name, &view, kind);
        }
        if !version.is_empty() && version == version_of(&owed(channel, &Step::nothing(kind))).to_smolstr() {
            for name in owed_names(channel).iter().filter(|name| warming.awaits(name)) {
                channel.request(name, Reason::Warming);
            }
            return;
        }
        channel.owes = channel.wildcard || !names.is_empty();
        let (held, reason) = if version.is_empty() { (Held::Nothing, Reason::Requested) } else { (Held::Unknown(None), Reason::Reconnect) };
        for name in owed_names(channel) {
            let present = channel.target(&name).is_some();
            if present || !kind.is_wildcard() {
                channel.assume(&name, held.clone(), if present { reason } else { Reason::Requested });
            }
        }
    }

    fn resubscribe(&mut self, kind: ResourceType, names: Vec<String>, again: bool) {
        let channel = self.rollout.channel_mut(kind);
        let view = channel.view.clone();
        channel.wildcard = names.iter().any(|name| name == "*") || (names.is_empty() && channel.wildcard);
        let asked: BTreeSet<SmolStr> = names.iter().filter(|name| *name != "*").map(SmolStr::from).collect();
        let given_up: Vec<_> = channel.names.iter(&view, kind).filter(|name| !asked.contains(*name)).cloned().collect();
        for name in &given_up {
            channel.names.remove(name, &view, kind);
            if !channel.wildcard {
                channel.forget(name);
            }
        }
        for name in &asked {
            let wanted = channel.wants(name);
            channel.names.insert(name, &view, kind);
            if !wanted {
                channel.assume(name, Held::Nothing, Reason::Requested);
            }
        }
        if again {
            channel.owes = channel.wildcard || !asked.is_empty();
            for name in owed_names(channel) {
                channel.request(&name, Reason::Requested);
            }
        }
    }
}

impl Session for SotwSession {
    type Request = DiscoveryRequest;

    fn on_request(&mut self, request: DiscoveryRequest, now: Instant) {
        let nonce = request.response_nonce;
        let Some(kind) = ResourceType::from_type_url(&request.type_url) else {
            self.unserved.on_sotw(request.type_url, request.resource_names, !nonce.is_empty());
            return;
        };
        if !self.rollout.channel(kind).open {
            self.open(kind, &request.resource_names, &request.version_info);
            return;
        }
        match &request.error_detail {
            _ if nonce.is_empty() => {}
            Some(error) => self.rollout.nack(kind, &nonce, error),
            None => self.rollout.ack(kind, &nonce, now),
        }
        // A request that answers an old response acknowledges nothing new, but its names are the client's: one that
        // it gave up and took up again in the meantime it no longer has.
        if nonce.is_empty() || self.rollout.channel(kind).is_ours(&nonce) {
            self.resubscribe(kind, request.resource_names, nonce.is_empty());
        }
    }

    fn response(&mut self, mut step: Step, now: Instant) -> Response {
        let kind = step.kind;
        let mut missing = std::mem::take(&mut step.unknown);
        if !kind.is_wildcard() {
            // There is no other way to say that something is gone.
            missing.append(&mut step.retire);
        }
        let mut contents: Vec<_> = missing.iter().map(|name| (name.clone(), empty(kind, name))).collect();
        step.advance.extend(contents.iter().filter_map(|(_, content)| content.clone()));
        let known = step.advance.iter().filter(|resource| !missing.contains(&resource.name));
        contents.extend(known.map(|resource| (resource.name.clone(), Some(resource.clone()))));
        contents.extend(step.retire.iter().map(|name| (name.clone(), None)));
        let changed = step.advance.len() as u64;
        let all = owed(self.rollout.channel(kind), &step);
        let version = version_of(&all).to_smolstr();
        let resources: Vec<_> = if kind.is_wildcard() { all.into_values().collect() } else { step.advance };
        let (nonce, mut reasons) = self.rollout.sent(kind, now, contents);
        if resources.len() as u64 > changed {
            reasons.insert(Reason::Repeated, resources.len() as u64 - changed);
        }
        let (type_url, nonce) = (kind.type_url().into(), nonce.to_smolstr());
        Response { kind: Some(kind), type_url, nonce, version, resources, blank: false, removed: Vec::new(), reasons }
    }

    fn rollout(&self) -> &Rollout {
        &self.rollout
    }

    fn rollout_mut(&mut self) -> &mut Rollout {
        &mut self.rollout
    }

    fn unserved(&mut self) -> &mut Unserved {
        &mut self.unserved
    }

    fn node(request: &mut DiscoveryRequest) -> Option<v3::Node> {
        request.node.take()
    }

    fn type_url(request: &DiscoveryRequest) -> &str {
        &request.type_url
    }

    fn names(request: &DiscoveryRequest) -> &[String] {
        &request.resource_names
    }

    fn nonce(request: &DiscoveryRequest) -> &str {
        &request.response_nonce
    }
}

impl Step {
    fn nothing(kind: ResourceType) -> Self {
        Self { kind, advance: Vec::new(), retire: Vec::new(), unknown: Vec::new() }
    }
}

fn empty(kind: ResourceType, name: &str) -> Option<Arc<Resource>> {
    match kind {
        ResourceType::Endpoint => Some(empty_load_assignment(name)),
        ResourceType::Route => Some(empty_route_configuration(name)),
        ResourceType::Cluster | ResourceType::Listener => None,
    }
}

fn owed_names(channel: &Channel) -> Vec<SmolStr> {
    let kind = channel.kind;
    let all = channel.wildcard.then(|| channel.view.iter(kind)).into_iter().flatten().map(|resource| &resource.name);
    let mut names: Vec<_> = all.chain(channel.names.iter(&channel.view, kind)).cloned().collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// What the client has once it took `step`, by name: new and still-held old together.
fn owed(channel: &Channel, step: &Step) -> BTreeMap<SmolStr, Arc<Resource>> {
    let held = channel.gone().map(|(name, _)| name.clone());
    let names = owed_names(channel).into_iter().chain(held);
    let present =
        names.filter_map(|name| channel.effective(&name).cloned().or_else(|| absent(channel, &name)).map(|resource| (name, resource)));
    let mut owed: BTreeMap<_, _> = present.collect();
    step.retire.iter().for_each(|name| drop(owed.remove(name)));
    owed.extend(step.advance.iter().map(|resource| (resource.name.clone(), resource.clone())));
    owed
}

// A name that was answered as empty counts with that answer.
fn absent(channel: &Channel, name: &str) -> Option<Arc<Resource>> {
    channel.target(name).is_none().then(|| empty(channel.kind, name)).flatten()
}

fn version_of(owed: &BTreeMap<SmolStr, Arc<Resource>>) -> ContentHash {
    let mut hash = Xxh3::new();
    for (name, resource) in owed {
        hash.update(&(name.len() as u64).to_le_bytes());
        hash.update(name.as_bytes());
        hash.update(&resource.version.0.to_le_bytes());
    }
    ContentHash(hash.digest())
}

//! State of the world: a response has all clusters or all listeners; of endpoints and route tables those that the
//! client lacks. The version is the hash over the names and contents of all that the client is owed.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::Arc,
    time::Instant,
};

use envoy_types::pb::envoy::{config::core::v3, service::discovery::v3::DiscoveryRequest};
use rustc_hash::FxHashSet;
use smol_str::{SmolStr, ToSmolStr};
use xxhash_rust::xxh3::Xxh3;

use super::{
    channel::{Channel, Subscription},
    flight::Held,
    protocol::{Protocol, Request, Told},
    response::{Reason, Response},
    rollout::{Rollout, Step},
};
use crate::{
    visits::{Visit, Visited},
    xds::{
        bounds::{Excess, Message, REQUEST},
        resource::{ContentHash, Resource},
        resource_type::ResourceType,
        stand_in::stand_in,
    },
};

/// State of the world: a response of a wildcard type has all of it.
#[derive(Debug)]
pub struct Sotw;

impl Protocol for Sotw {
    type Request = DiscoveryRequest;

    const MESSAGE: &'static Message = &REQUEST;
    const NAMES: &'static str = "resource_names";

    fn receive(rollout: &mut Rollout, kind: ResourceType, request: DiscoveryRequest, now: Instant) -> Result<(), Excess> {
        let most = rollout.most_names(kind);
        if request.resource_names.len() > most {
            return Err(Excess::names(Self::NAMES, most));
        }
        let nonce = request.response_nonce;
        if !rollout.channel(kind).is_open() {
            open(rollout, kind, &request.resource_names, &request.version_info);
            return Ok(());
        }
        match &request.error_detail {
            _ if nonce.is_empty() => {}
            Some(error) => rollout.nack(kind, &nonce, error, now),
            None => rollout.ack(kind, &nonce, now),
        }
        // A request that answers an old response acknowledges nothing new, but its names are the client's: one that
        // it gave up and took up again in the meantime it no longer has.
        if nonce.is_empty() || rollout.channel(kind).is_ours(&nonce) {
            resubscribe(rollout.channel_mut(kind), &request.resource_names, nonce.is_empty());
        }
        Ok(())
    }

    fn respond(rollout: &mut Rollout, mut step: Step, now: Instant) -> Told {
        let kind = step.kind;
        let mut missing = mem::take(&mut step.unknown);
        if !kind.is_wildcard() {
            // There is no other way to say that something is gone.
            missing.append(&mut step.retire);
        }
        let mut contents: Vec<_> = missing.iter().map(|name| (name.clone(), stand_in(kind, name))).collect();
        step.advance.extend(contents.iter().filter_map(|(_, content)| content.clone()));
        let missing: FxHashSet<SmolStr> = missing.into_iter().collect();
        let known = step.advance.iter().filter(|resource| !missing.contains(&resource.name));
        contents.extend(known.map(|resource| (resource.name.clone(), Some(resource.clone()))));
        contents.extend(step.retire.iter().map(|name| (name.clone(), None)));
        let changed = step.advance.len() as u64;
        let all = owed(rollout.channel(kind), &step);
        let version = version_of(&all).to_smolstr();
        let resources: Vec<_> = if kind.is_wildcard() { all.into_values().collect() } else { step.advance };
        let (nonce, mut reasons) = rollout.sent(kind, now, contents);
        if resources.len() as u64 > changed {
            reasons.insert(Reason::Repeated, resources.len() as u64 - changed);
        }
        let type_url = kind.type_url().into();
        let response = Response { kind: Some(kind), type_url, nonce: nonce.to_smolstr(), version, resources, removed: Vec::new() };
        Told { response, nonce, reasons }
    }

    fn wants_answer(request: &DiscoveryRequest, changed: Option<bool>) -> bool {
        request.response_nonce.is_empty() || changed == Some(true)
    }

    fn gone(_: &DiscoveryRequest) -> Vec<SmolStr> {
        Vec::new()
    }
}

impl Request for DiscoveryRequest {
    fn take_node(&mut self) -> Option<v3::Node> {
        self.node.take()
    }

    fn type_url(&self) -> &str {
        &self.type_url
    }

    fn names(&self) -> &[String] {
        &self.resource_names
    }

    fn size(&self) -> usize {
        self.resource_names.len()
    }

    fn longest_name(&self) -> usize {
        self.resource_names.iter().map(String::len).max().unwrap_or(0)
    }

    fn nonce(&self) -> &str {
        &self.response_nonce
    }
}

fn open(rollout: &mut Rollout, kind: ResourceType, names: &[String], version: &str) {
    let named = names.iter().map(String::as_str).filter(|name| *name != "*").collect();
    let wildcard = names.iter().any(|name| name == "*") || (names.is_empty() && kind.is_wildcard());
    let warming = rollout.open(kind, &Subscription { wildcard, repeats_all: kind.is_wildcard(), speaks_of_all: true, names: named });
    let channel = rollout.channel_mut(kind);
    if !version.is_empty() && version == version_of(&owed(channel, &Step::nothing(kind))).to_smolstr() {
        for name in channel.owed_names().iter().filter(|name| warming.awaits(name)) {
            channel.request(name, Reason::Warming);
        }
        return;
    }
    channel.owe_answer(wildcard || !names.is_empty());
    let (held, reason) = if version.is_empty() { (Held::Nothing, Reason::Requested) } else { (Held::Unknown(None), Reason::Reconnect) };
    for name in channel.owed_names() {
        let present = channel.target(&name).is_some();
        if present || !kind.is_wildcard() {
            channel.assume(&name, held.clone(), if present { reason } else { Reason::Requested });
        }
    }
}

/// Takes the names of a request as the client's whole subscription; `again` says that it answers no response.
fn resubscribe(channel: &mut Channel, names: &[String], again: bool) {
    // All names of a request hold at once: what the client had because it asked for all, and now names, it keeps.
    let kept: BTreeSet<&str> =
        names.iter().visiting(Visited::Name).map(String::as_str).filter(|name| channel.has_by_asking_for_all(name)).collect();
    channel.set_follows_all(names.iter().any(|name| name == "*") || (names.is_empty() && channel.follows_all()));
    let asked: BTreeSet<&str> = names.iter().visiting(Visited::Name).map(String::as_str).filter(|name| *name != "*").collect();
    let given_up: Vec<_> = channel.followed().visiting(Visited::Name).filter(|name| !asked.contains(name.as_str())).cloned().collect();
    given_up.iter().for_each(|name| channel.unfollow(name));
    for name in &asked {
        let known = channel.knows(name) || kept.contains(name);
        channel.follow(name);
        if !known {
            channel.assume(name, Held::Nothing, Reason::Requested);
        }
    }
    if again {
        channel.owe_answer(channel.follows_all() || !asked.is_empty());
        channel.ask_again();
    }
}

/// Returns what the client has once it has taken `step`, by name: what is new, and what it still holds from before.
fn owed(channel: &Channel, step: &Step) -> BTreeMap<SmolStr, Arc<Resource>> {
    let held = channel.gone().map(|(name, _)| name).chain(channel.stood_in().map(|resource| &resource.name)).cloned();
    let names = channel.owed_names().into_iter().chain(held);
    let absent = |name: &SmolStr| channel.target(name).is_none().then(|| stand_in(step.kind, name)).flatten();
    let present = names
        .visiting(Visited::Name)
        .filter_map(|name| channel.effective(&name).cloned().or_else(|| absent(&name)).map(|resource| (name, resource)));
    let mut owed: BTreeMap<_, _> = present.collect();
    step.retire.iter().for_each(|name| drop(owed.remove(name)));
    owed.extend(step.advance.iter().map(|resource| (resource.name.clone(), resource.clone())));
    owed
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

//! Incremental xDS.

use std::{
    collections::{BTreeSet, HashMap},
    time::Instant,
};

use envoy_types::pb::envoy::{config::core::v3, service::discovery::v3::DeltaDiscoveryRequest};
use smol_str::{SmolStr, ToSmolStr};

use super::{
    channel::Subscription,
    flight::Held,
    protocol::{Protocol, Request, Told},
    response::{Reason, Response},
    rollout::{Rollout, Step, Warming},
};
use crate::{
    visits::{Visit, Visited},
    xds::{
        bounds::{DELTA_REQUEST, Excess, Message},
        resource::ContentHash,
        resource_type::ResourceType,
        stand_in::stand_in,
    },
};

/// The incremental protocol: a response has what changed.
#[derive(Debug)]
pub struct Delta;

impl Protocol for Delta {
    type Request = DeltaDiscoveryRequest;

    const MESSAGE: &'static Message = &DELTA_REQUEST;
    const NAMES: &'static str = "resource_names_subscribe";

    fn receive(rollout: &mut Rollout, kind: ResourceType, request: DeltaDiscoveryRequest, now: Instant) -> Result<(), Excess> {
        let most = rollout.most_names(kind);
        let DeltaDiscoveryRequest { resource_names_subscribe, resource_names_unsubscribe, initial_resource_versions, .. } = &request;
        for (field, names) in [
            (Self::NAMES, resource_names_subscribe.len()),
            ("resource_names_unsubscribe", resource_names_unsubscribe.len()),
            ("initial_resource_versions", initial_resource_versions.len()),
        ] {
            if names > most {
                return Err(Excess::names(field, most));
            }
        }
        match (&request.response_nonce, &request.error_detail) {
            (nonce, _) if nonce.is_empty() => {}
            (nonce, Some(error)) => rollout.nack(kind, nonce, error, now),
            (nonce, None) => rollout.ack(kind, nonce, now),
        }
        if !rollout.channel(kind).is_open() {
            open(rollout, kind, &request, now);
        } else {
            // Changes of the subscription stand in every request, also in one that answers an old response.
            request.resource_names_unsubscribe.iter().visiting(Visited::Name).for_each(|name| unsubscribe(rollout, kind, name));
            request.resource_names_subscribe.iter().visiting(Visited::Name).for_each(|name| subscribe(rollout, kind, name));
        }
        if rollout.channel(kind).named() > most { Err(Excess::names(Self::NAMES, most)) } else { Ok(()) }
    }

    fn respond(rollout: &mut Rollout, step: Step, now: Instant) -> Told {
        let Step { kind, advance: mut resources, retire: mut removed, unknown } = step;
        if kind.is_removed_by_name() {
            removed.extend(unknown);
        } else {
            resources.extend(unknown.iter().filter_map(|name| stand_in(kind, name)));
        }
        let sent = resources.iter().map(|resource| (resource.name.clone(), Some(resource.clone())));
        let contents = sent.chain(removed.iter().map(|name| (name.clone(), None))).collect();
        let (nonce, reasons) = rollout.sent(kind, now, contents);
        let version = rollout.view().generation.to_smolstr();
        let response =
            Response { kind: Some(kind), type_url: kind.type_url().into(), nonce: nonce.to_smolstr(), version, resources, removed };
        Told { response, nonce, reasons }
    }

    fn wants_answer(request: &DeltaDiscoveryRequest, _: Option<bool>) -> bool {
        request.response_nonce.is_empty() || !request.resource_names_subscribe.is_empty()
    }

    fn gone(request: &DeltaDiscoveryRequest) -> Vec<SmolStr> {
        request.resource_names_subscribe.iter().filter(|name| *name != "*").map(Into::into).collect()
    }
}

impl Request for DeltaDiscoveryRequest {
    fn take_node(&mut self) -> Option<v3::Node> {
        self.node.take()
    }

    fn type_url(&self) -> &str {
        &self.type_url
    }

    fn names(&self) -> &[String] {
        &self.resource_names_subscribe
    }

    fn size(&self) -> usize {
        self.resource_names_subscribe.len() + self.resource_names_unsubscribe.len() + self.initial_resource_versions.len()
    }

    fn longest_name(&self) -> usize {
        let named = self.resource_names_subscribe.iter().chain(&self.resource_names_unsubscribe);
        named.chain(self.initial_resource_versions.keys()).map(String::len).max().unwrap_or(0)
    }

    fn nonce(&self) -> &str {
        &self.response_nonce
    }
}

fn open(rollout: &mut Rollout, kind: ResourceType, request: &DeltaDiscoveryRequest, now: Instant) {
    let held = &request.initial_resource_versions;
    let all = &request.resource_names_subscribe;
    let wildcard = all.iter().any(|name| name == "*") || (all.is_empty() && kind.is_wildcard());
    let owes = held.is_empty() && (wildcard || !all.is_empty());
    let named: Vec<&str> = all.iter().map(String::as_str).filter(|name| *name != "*").collect();
    let explicit = held.keys().map(String::as_str).filter(|_| !wildcard);
    let subscription =
        Subscription { wildcard, repeats_all: false, speaks_of_all: false, names: named.iter().copied().chain(explicit).collect() };
    let warming = rollout.open(kind, &subscription);
    rollout.channel_mut(kind).owe_answer(owes);
    let view = rollout.view().clone();
    let mut names: BTreeSet<&str> = named.into_iter().chain(held.keys().map(String::as_str)).collect();
    if wildcard {
        names.extend(view.iter(kind).map(|resource| resource.name.as_str()));
    }
    let reason = if held.is_empty() { Reason::Requested } else { Reason::Reconnect };
    for name in names.into_iter().visiting(Visited::Name) {
        match (view.get(kind, name).is_some(), held.contains_key(name)) {
            (true, _) => compare(rollout, kind, name, held, &warming, reason),
            (false, true) => gone_while_away(rollout, kind, name, now),
            (false, false) => rollout.channel_mut(kind).assume(name, Held::Nothing, Reason::Requested),
        }
    }
}

fn compare(rollout: &mut Rollout, kind: ResourceType, name: &str, held: &HashMap<String, String>, warming: &Warming, reason: Reason) {
    let channel = rollout.channel_mut(kind);
    let version = channel.target(name).map(|resource| resource.version);
    match held.get(name) {
        Some(held) if ContentHash::parse(held) == version => {
            if warming.awaits(name) {
                channel.request(name, Reason::Warming);
            }
        }
        Some(_) => channel.assume(name, Held::Unknown(None), Reason::Reconnect),
        None => channel.assume(name, Held::Nothing, reason),
    }
}

fn gone_while_away(rollout: &mut Rollout, kind: ResourceType, name: &str, now: Instant) {
    rollout.channel_mut(kind).assume(name, Held::Unknown(None), Reason::Reconnect);
    rollout.spare(kind, name, now);
}

fn subscribe(rollout: &mut Rollout, kind: ResourceType, name: &str) {
    let channel = rollout.channel_mut(kind);
    if name == "*" {
        channel.owe_answer(true);
        channel.set_follows_all(true);
        return;
    }
    let known = channel.knows(name) || channel.has_by_asking_for_all(name);
    channel.follow(name);
    if known {
        // Asked again: it may have dropped what it had.
        channel.request(name, Reason::Requested);
    } else {
        channel.assume(name, Held::Nothing, Reason::Requested);
    }
}

fn unsubscribe(rollout: &mut Rollout, kind: ResourceType, name: &str) {
    let channel = rollout.channel_mut(kind);
    if name == "*" {
        channel.set_follows_all(false);
    } else {
        channel.unfollow(name);
    }
}

//! Incremental xDS.

use std::{
    collections::{BTreeSet, HashMap},
    time::Instant,
};

use envoy_types::pb::envoy::{config::core::v3, service::discovery::v3::DeltaDiscoveryRequest};
use smol_str::ToSmolStr;

use super::{
    Response, Session,
    channel::{Held, Reason},
    empty_route_configuration,
    unserved::Unserved,
};
use crate::xds::{
    resource::ContentHash,
    resource_type::ResourceType,
    rollout::{Rollout, Settings, Step, Warming},
    view::View,
};

/// A client that speaks delta.
#[derive(Debug)]
pub struct DeltaSession {
    rollout: Rollout,
    unserved: Unserved,
}

impl DeltaSession {
    /// A client that has said nothing yet and is to have `view`.
    pub fn new(settings: Settings, view: View) -> Self {
        Self { rollout: Rollout::new(settings, view), unserved: Unserved::default() }
    }

    fn open(&mut self, kind: ResourceType, request: DeltaDiscoveryRequest, now: Instant) {
        let warming = if kind == ResourceType::Endpoint { self.rollout.take_warming() } else { Warming::default() };
        let held = request.initial_resource_versions;
        let mut named = request.resource_names_subscribe;
        let channel = self.rollout.channel_mut(kind);
        channel.open = true;
        channel.wildcard = named.iter().any(|name| name == "*") || (named.is_empty() && kind.is_wildcard());
        channel.owes = held.is_empty() && (channel.wildcard || !named.is_empty());
        named.retain(|name| name != "*");
        let view = channel.view.clone();
        let explicit = if channel.wildcard { Vec::new() } else { held.keys().cloned().collect() };
        for name in named.iter().chain(&explicit) {
            channel.names.insert(name, &view, kind);
        }
        let reason = if held.is_empty() { Reason::Requested } else { Reason::Reconnect };
        if channel.wildcard {
            for resource in view.iter(kind) {
                self.compare(kind, &resource.name, &held, &warming, reason);
            }
            for name in held.keys().filter(|name| view.get(kind, name).is_none()) {
                self.gone_while_away(kind, name, now);
            }
            for name in named.iter().filter(|name| view.get(kind, name).is_none() && !held.contains_key(*name)) {
                self.rollout.channel_mut(kind).assume(name, Held::Nothing, Reason::Requested);
            }
            return;
        }
        for name in named.iter().chain(held.keys()).collect::<BTreeSet<_>>() {
            match (view.get(kind, name).is_some(), held.contains_key(name)) {
                (true, _) => self.compare(kind, name, &held, &warming, reason),
                (false, true) => self.gone_while_away(kind, name, now),
                (false, false) => self.rollout.channel_mut(kind).assume(name, Held::Nothing, Reason::Requested),
            }
        }
    }

    fn compare(&mut self, kind: ResourceType, name: &str, held: &HashMap<String, String>, warming: &Warming, reason: Reason) {
        let channel = self.rollout.channel_mut(kind);
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

    fn gone_while_away(&mut self, kind: ResourceType, name: &str, now: Instant) {
        self.rollout.channel_mut(kind).assume(name, Held::Unknown(None), Reason::Reconnect);
        if kind == ResourceType::Cluster {
            self.rollout.spare(name, now);
        }
    }

    fn subscribe(&mut self, kind: ResourceType, name: &str) {
        let channel = self.rollout.channel_mut(kind);
        let view = channel.view.clone();
        if name == "*" {
            channel.owes = true;
            if !channel.wildcard {
                let beyond: Vec<_> = view.iter(kind).map(|resource| &resource.name).filter(|name| !channel.wants(name)).collect();
                channel.wildcard = true;
                beyond.into_iter().for_each(|name| channel.assume(name, Held::Nothing, Reason::Requested));
            }
            return;
        }
        let wanted = channel.wants(name);
        channel.names.insert(name, &view, kind);
        if wanted {
            // Asked again: it may have dropped what it had.
            channel.request(name, Reason::Requested);
        } else {
            channel.assume(name, Held::Nothing, Reason::Requested);
        }
    }

    fn unsubscribe(&mut self, kind: ResourceType, name: &str) {
        let channel = self.rollout.channel_mut(kind);
        let view = channel.view.clone();
        if name == "*" {
            channel.wildcard = false;
            let beyond: Vec<_> = channel.pending.keys().filter(|name| !channel.wants(name)).cloned().collect();
            beyond.iter().for_each(|name| channel.forget(name));
            return;
        }
        channel.names.remove(name, &view, kind);
        if !channel.wildcard {
            channel.forget(name);
        }
    }
}

impl Session for DeltaSession {
    type Request = DeltaDiscoveryRequest;

    fn on_request(&mut self, request: DeltaDiscoveryRequest, now: Instant) {
        let Some(kind) = ResourceType::from_type_url(&request.type_url) else {
            let is_answer = !request.response_nonce.is_empty();
            self.unserved.on_delta(request.type_url, request.resource_names_subscribe, is_answer);
            return;
        };
        match (&request.response_nonce, &request.error_detail) {
            (nonce, _) if nonce.is_empty() => {}
            (nonce, Some(error)) => self.rollout.nack(kind, nonce, error),
            (nonce, None) => self.rollout.ack(kind, nonce, now),
        }
        if !self.rollout.channel(kind).open {
            self.open(kind, request, now);
            return;
        }
        // Changes of the subscription stand in every request, also in one that answers an old response.
        request.resource_names_unsubscribe.iter().for_each(|name| self.unsubscribe(kind, name));
        request.resource_names_subscribe.iter().for_each(|name| self.subscribe(kind, name));
    }

    fn response(&mut self, step: Step, now: Instant) -> Response {
        let Step { kind, advance: mut resources, retire: mut removed, unknown } = step;
        match kind {
            ResourceType::Route => resources.extend(unknown.iter().map(|name| empty_route_configuration(name))),
            _ => removed.extend(unknown),
        }
        let sent = resources.iter().map(|resource| (resource.name.clone(), Some(resource.clone())));
        let contents = sent.chain(removed.iter().map(|name| (name.clone(), None))).collect();
        let (nonce, reasons) = self.rollout.sent(kind, now, contents);
        let version = self.rollout.view().generation.to_smolstr();
        Response {
            kind: Some(kind),
            type_url: kind.type_url().into(),
            nonce: nonce.to_smolstr(),
            version,
            resources,
            blank: false,
            removed,
            reasons,
        }
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

    fn node(request: &mut DeltaDiscoveryRequest) -> Option<v3::Node> {
        request.node.take()
    }

    fn type_url(request: &DeltaDiscoveryRequest) -> &str {
        &request.type_url
    }

    fn names(request: &DeltaDiscoveryRequest) -> &[String] {
        &request.resource_names_subscribe
    }

    fn nonce(request: &DeltaDiscoveryRequest) -> &str {
        &request.response_nonce
    }
}

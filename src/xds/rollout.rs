//! In which order one proxy gets its changes: make before break (architecture, rule 6).
//!
//! Clusters and endpoints go at once. A listener or route table that names a new cluster goes when the proxy has
//! ACKed that cluster; Envoy does so when the cluster is warm. Removals go last, when nothing at the proxy can name
//! the cluster any more. Every gate opens: on ACK, on NACK, or at its deadline.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use envoy_types::pb::google::rpc;
use smol_str::SmolStr;

use super::{
    per_type::PerType,
    resource::Resource,
    resource_type::ResourceType,
    session::{
        Event, Reason, TypeState,
        channel::{Channel, Held, Pending, Refusal},
    },
    view::View,
};

/// How long the order of a rollout may hold things back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Off: everything goes at once, as it comes. For experiments that show what the order is worth.
    pub ordered: bool,
    /// How long a gate waits for an ACK.
    pub gate: Duration,
    /// How long Envoy drains a listener or filter chain that was replaced (its `--drain-time-s`): so long a cluster
    /// stays that it named itself.
    pub drain: Duration,
}

/// What is to be said next of one type.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) kind: ResourceType,
    /// To be sent.
    pub(crate) advance: Vec<Arc<Resource>>,
    /// To be removed at the proxy.
    pub(crate) retire: Vec<SmolStr>,
    /// Asked for, and not there.
    pub(crate) unknown: Vec<SmolStr>,
}

/// See [`Rollout::take_warming`].
#[derive(Debug, Default)]
pub(crate) struct Warming {
    all: bool,
    sent: BTreeSet<SmolStr>,
}

/// The four types of one connection and the order between them.
#[derive(Debug)]
pub(crate) struct Rollout {
    settings: Settings,
    view: View,
    channels: PerType<Channel>,
    /// Clusters that a draining listener may still name, until when.
    draining: BTreeMap<SmolStr, Instant>,
    /// Clusters sent before the client asked for endpoints.
    warming: BTreeSet<SmolStr>,
    nonce: u64,
    wake: Option<Instant>,
    events: Vec<Event>,
}

impl Rollout {
    pub(crate) fn new(settings: Settings, view: View) -> Self {
        let channels = PerType::from_fn(|kind| Channel::new(kind, view.clone()));
        Self { settings, view, channels, draining: BTreeMap::new(), warming: BTreeSet::new(), nonce: 0, wake: None, events: Vec::new() }
    }

    pub(crate) fn channel(&self, kind: ResourceType) -> &Channel {
        &self.channels[kind]
    }

    pub(crate) fn channel_mut(&mut self, kind: ResourceType) -> &mut Channel {
        &mut self.channels[kind]
    }

    pub(crate) fn view(&self) -> &View {
        &self.view
    }

    pub(crate) fn events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// When [`step`](Self::step) may find more than it did last, without anything else happening.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.wake
    }

    /// Turns to a newer view.
    pub(crate) fn rebase(&mut self, view: View) {
        for channel in self.channels.values_mut() {
            channel.rebase(&view);
        }
        self.view = view;
    }

    /// Whether the proxy has answered for all that it is to have (removals apart).
    pub(crate) fn is_current(&self) -> bool {
        self.channels.values().all(|channel| channel.in_flight.is_empty() && channel.ready().is_empty())
    }

    /// Types of which the proxy refused something that the view still has.
    pub(crate) fn refused(&self) -> Vec<ResourceType> {
        let refused = self.channels.values().filter(|channel| channel.pending.keys().any(|name| channel.is_refused(name)));
        refused.map(|channel| channel.kind).collect()
    }

    /// A cluster that the proxy had before this connection and that is gone: what names it is not known here, so it
    /// stays as long as a listener may drain.
    pub(crate) fn spare(&mut self, cluster: &str, now: Instant) {
        self.draining.insert(cluster.into(), now + self.settings.drain);
    }

    /// Clusters for whose endpoints the client may wait when it first asks for any on this connection.
    pub(crate) fn take_warming(&mut self) -> Warming {
        // Envoy asks for clusters first, unless one is warming: it then holds back all it has to say of clusters.
        let all = !self.channel(ResourceType::Cluster).open;
        Warming { all, sent: std::mem::take(&mut self.warming) }
    }

    /// What may be said now.
    pub(crate) fn step(&mut self, now: Instant) -> Option<Step> {
        self.tick(now);
        self.clusters()
            .or_else(|| self.endpoints())
            .or_else(|| self.gated(ResourceType::Listener))
            .or_else(|| self.gated(ResourceType::Route))
            .or_else(|| self.remove_listeners())
            .or_else(|| self.remove_clusters(now))
            .or_else(|| self.empty_answers())
    }

    /// Records that a response was made for a step, with its contents; gives its nonce and how many went why.
    pub(crate) fn sent(
        &mut self,
        kind: ResourceType,
        now: Instant,
        contents: Vec<(SmolStr, Option<Arc<Resource>>)>,
    ) -> (u64, BTreeMap<Reason, u64>) {
        self.nonce += 1;
        let mut reasons = BTreeMap::new();
        let mut clusters = Vec::new();
        for item in self.channels[kind].sent(self.nonce, now, contents) {
            let Some(content) = &item.content else { continue };
            *reasons.entry(item.reason).or_insert(0) += 1;
            if content.eds {
                clusters.push(content.name.clone());
            }
        }
        self.warm(clusters);
        (self.nonce, reasons)
    }

    // Envoy warms a cluster that is new or changed, and waits for its endpoints even if it has them.
    fn warm(&mut self, clusters: Vec<SmolStr>) {
        let endpoints = self.channel_mut(ResourceType::Endpoint);
        if !endpoints.open {
            self.warming.extend(clusters);
            return;
        }
        for name in clusters {
            if endpoints.wants(&name) && endpoints.target(&name).is_some() && !endpoints.pending.contains_key(&name) {
                endpoints.request(&name, Reason::Warming);
            }
        }
    }

    /// How far the client is with each type.
    pub(crate) fn states(&self) -> PerType<TypeState> {
        PerType::from_fn(|kind| self.channel(kind).state())
    }

    pub(crate) fn ack(&mut self, kind: ResourceType, nonce: &str, now: Instant) {
        self.note_expired(kind, nonce);
        let items = self.channel_mut(kind).ack(nonce);
        if kind != ResourceType::Listener {
            return;
        }
        for item in items {
            for cluster in dropped(&item.before, item.content.as_ref()) {
                self.draining.insert(cluster.clone(), now + self.settings.drain);
            }
        }
    }

    fn note_expired(&mut self, kind: ResourceType, nonce: &str) {
        if self.channel(kind).is_expired(nonce) {
            self.events.push(Event::Expired { kind });
        }
    }

    pub(crate) fn nack(&mut self, kind: ResourceType, nonce: &str, error: &rpc::Status) {
        self.note_expired(kind, nonce);
        if let Some(Refusal { refused, suspects }) = self.channel_mut(kind).nack(nonce, &error.message) {
            self.events.push(Event::Rejected { kind, code: error.code, error: error.message.clone(), refused, suspects });
        }
    }

    fn tick(&mut self, now: Instant) {
        self.wake = None;
        self.draining.retain(|_, until| *until > now);
        let gate = self.settings.gate;
        let mut wake = None;
        for flight in self.channels.values_mut().flat_map(|channel| &mut channel.in_flight) {
            flight.overdue = flight.sent_at + gate <= now;
            if !flight.overdue {
                earlier(&mut wake, flight.sent_at + gate);
            }
        }
        self.wake = wake;
    }

    fn clusters(&mut self) -> Option<Step> {
        let channel = self.channel(ResourceType::Cluster);
        let retire = if self.settings.ordered { Vec::new() } else { held_and_gone(channel) };
        Step { kind: ResourceType::Cluster, advance: channel.ready(), retire, unknown: asked_and_gone(channel) }.some()
    }

    fn endpoints(&mut self) -> Option<Step> {
        let (clusters, channel) = (self.channel(ResourceType::Cluster), self.channel(ResourceType::Endpoint));
        let mut advance = channel.ready();
        advance.extend(held_and_asked_again(channel));
        // The endpoints of a cluster that goes stay until it is gone; Envoy then gives up the name itself.
        let needless = |name: &SmolStr, held: &Held| match held {
            Held::Nothing => false,
            Held::Unknown(_) => true,
            Held::Content(_) => clusters.target(name).is_some_and(|cluster| cluster.eds),
        };
        let gone = channel.gone().filter(|(name, pending)| pending.reason == Reason::Changed && needless(name, &pending.held));
        let retire = gone.map(|(name, _)| name.clone()).collect();
        Step { kind: ResourceType::Endpoint, advance, retire, unknown: asked_and_gone(channel) }.some()
    }

    fn gated(&mut self, kind: ResourceType) -> Option<Step> {
        let channel = self.channel(kind);
        let mut advance = channel.ready();
        let (mut retire, mut unknown) = (Vec::new(), asked_and_gone(channel));
        if self.settings.ordered {
            let awaited = self.unconfirmed_clusters();
            let all = advance.len();
            advance.retain(|resource| !resource.clusters.iter().any(|cluster| awaited.contains(cluster)));
            if channel.owes && advance.len() < all {
                // Envoy takes the first answer for all that there is.
                return None;
            }
            advance.retain(|resource| !self.stays_back(channel, resource));
        } else if kind == ResourceType::Listener {
            retire = held_and_gone(channel);
        }
        if kind == ResourceType::Route {
            advance.extend(held_and_asked_again(channel));
            let away = |pending: &Pending| pending.reason != Reason::Requested && matches!(pending.held, Held::Unknown(None));
            retire.extend(channel.gone().filter(|(_, pending)| away(pending)).map(|(name, _)| name.clone()));
            unknown.retain(|name| !retire.contains(name));
        }
        self.report_opened(&advance);
        Step { kind, advance, retire, unknown }.some()
    }

    // New clusters that the proxy has not ACKed, and whose gate is still shut.
    fn unconfirmed_clusters(&self) -> BTreeSet<&SmolStr> {
        let channel = self.channel(ResourceType::Cluster);
        let flights = channel.in_flight.iter().filter(|flight| !flight.overdue).flat_map(|flight| &flight.items);
        let sent = flights.filter(|item| item.content.is_some() && item.before.is_uncertain()).map(|item| &item.name);
        let unsent = channel
            .pending
            .iter()
            .filter(|(name, pending)| pending.held.is_uncertain() && channel.target(name).is_some() && !channel.is_refused(name));
        sent.chain(unsent.map(|(name, _)| name)).collect()
    }

    // What needs a cluster that the proxy refused stays as it was, if it was there at all.
    fn stays_back(&self, channel: &Channel, resource: &Resource) -> bool {
        let clusters = self.channel(ResourceType::Cluster);
        channel.effective(&resource.name).is_some()
            && resource.clusters.iter().any(|name| clusters.is_refused(name) && clusters.lacks(name))
    }

    fn report_opened(&mut self, advance: &[Arc<Resource>]) {
        let named: BTreeSet<_> = advance.iter().flat_map(|resource| resource.clusters.iter()).collect();
        let mut awaited = Vec::new();
        for flight in self.channels[ResourceType::Cluster].in_flight.iter_mut().filter(|flight| flight.overdue && !flight.reported) {
            let items = flight.items.iter().filter(|item| item.before.is_uncertain() && named.contains(&item.name));
            let before = awaited.len();
            awaited.extend(items.map(|item| item.name.clone()));
            flight.reported = awaited.len() > before;
        }
        if !awaited.is_empty() {
            self.events.push(Event::GateOpened { kind: ResourceType::Cluster, awaited });
        }
    }

    fn remove_listeners(&mut self) -> Option<Step> {
        let retire = held_and_gone(self.channel(ResourceType::Listener));
        if retire.is_empty() || !self.is_settled() {
            return None;
        }
        Step { kind: ResourceType::Listener, advance: Vec::new(), retire, unknown: Vec::new() }.some()
    }

    fn remove_clusters(&mut self, now: Instant) -> Option<Step> {
        let mut retire = held_and_gone(self.channel(ResourceType::Cluster));
        if retire.is_empty() || !held_and_gone(self.channel(ResourceType::Listener)).is_empty() || !self.is_settled() {
            return None;
        }
        let named = self.named_clusters();
        let until = self.draining_until();
        retire.retain(|name| !named.contains(name) && until.get(name).is_none_or(|until| *until <= now));
        for until in until.into_values().filter(|until| *until > now) {
            earlier(&mut self.wake, until);
        }
        Step { kind: ResourceType::Cluster, advance: Vec::new(), retire, unknown: Vec::new() }.some()
    }

    // Whether the proxy has answered for all listeners and route tables that it can be sent.
    fn is_settled(&mut self) -> bool {
        let gated = [ResourceType::Listener, ResourceType::Route];
        let blocked = |kind| self.channel(kind).ready().iter().any(|resource| !self.stays_back(self.channel(kind), resource));
        let waiting = |kind| self.channel(kind).in_flight.iter().any(|flight| !flight.overdue);
        if gated.into_iter().any(|kind| blocked(kind) || waiting(kind)) {
            return false;
        }
        for kind in gated {
            for flight in self.channels[kind].in_flight.iter_mut().filter(|flight| !flight.reported) {
                flight.reported = true;
                let awaited = flight.items.iter().map(|item| item.name.clone()).collect();
                self.events.push(Event::GateOpened { kind, awaited });
            }
        }
        true
    }

    // Clusters named by listeners and route tables that the proxy still has though the view has others.
    fn named_clusters(&self) -> BTreeSet<SmolStr> {
        let channels = [ResourceType::Listener, ResourceType::Route].map(|kind| self.channel(kind));
        let held = channels.into_iter().flat_map(|channel| channel.pending.values()).filter_map(|pending| pending.held.content());
        held.flat_map(|resource| resource.clusters.iter().cloned()).collect()
    }

    fn draining_until(&self) -> BTreeMap<SmolStr, Instant> {
        let mut until = self.draining.clone();
        for flight in &self.channel(ResourceType::Listener).in_flight {
            for item in &flight.items {
                for cluster in dropped(&item.before, item.content.as_ref()) {
                    until.insert(cluster.clone(), flight.sent_at + self.settings.gate + self.settings.drain);
                }
            }
        }
        until
    }

    fn empty_answers(&mut self) -> Option<Step> {
        let owing = self.channels.values().find(|channel| channel.owes && channel.ready().is_empty())?;
        Some(Step { kind: owing.kind, advance: Vec::new(), retire: Vec::new(), unknown: Vec::new() })
    }
}

impl Step {
    fn some(self) -> Option<Self> {
        (!self.advance.is_empty() || !self.retire.is_empty() || !self.unknown.is_empty()).then_some(self)
    }
}

impl Warming {
    /// Whether the client may wait for this cluster's endpoints though it has them.
    pub(crate) fn awaits(&self, cluster: &str) -> bool {
        self.all || self.sent.contains(cluster)
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self { ordered: true, gate: Duration::from_secs(5), drain: Duration::from_secs(45) }
    }
}

/// Clusters that a listener named itself and does not name any more.
fn dropped<'a>(before: &'a Held, after: Option<&'a Arc<Resource>>) -> impl Iterator<Item = &'a SmolStr> {
    let before = before.content().map_or(&[][..], |resource| &resource.clusters[..]);
    let after = after.map_or(&[][..], |resource| &resource.clusters[..]);
    before.iter().filter(move |name| after.binary_search(name).is_err())
}

fn held_and_gone(channel: &Channel) -> Vec<SmolStr> {
    channel.gone().filter(|(_, pending)| !matches!(pending.held, Held::Nothing)).map(|(name, _)| name.clone()).collect()
}

fn asked_and_gone(channel: &Channel) -> Vec<SmolStr> {
    let asked = |held: &Held, reason| is_awaited(channel, reason) && held.is_uncertain();
    channel.gone().filter(|(_, pending)| asked(&pending.held, pending.reason)).map(|(name, _)| name.clone()).collect()
}

fn held_and_asked_again(channel: &Channel) -> impl Iterator<Item = Arc<Resource>> {
    channel.gone().filter(|(_, pending)| is_awaited(channel, pending.reason)).filter_map(|(_, pending)| match &pending.held {
        Held::Content(resource) => Some(Arc::clone(resource)),
        _ => None,
    })
}

/// Whether the client waits for an answer even when there is nothing any more: of endpoints and route tables, for all
/// that it subscribed to.
fn is_awaited(channel: &Channel, reason: Reason) -> bool {
    if channel.kind.is_wildcard() { reason == Reason::Requested } else { reason != Reason::Changed }
}

fn earlier(wake: &mut Option<Instant>, at: Instant) {
    *wake = Some(wake.map_or(at, |wake| wake.min(at)));
}

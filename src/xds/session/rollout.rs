//! In which order one proxy gets its changes: make before break (architecture, rule 6).
//!
//! Clusters and endpoints go at once. A listener or route table that names a new cluster goes when the proxy has
//! ACKed that cluster; Envoy does so when the cluster is warm. Removals go last, when nothing at the proxy can name
//! the cluster any more. Every gate opens: on ACK, or at its deadline; on NACK where the proxy has something to go on with,
//! or has nothing to lose.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use envoy_types::pb::google::rpc;
use rustc_hash::FxHashSet;
use smol_str::SmolStr;

use super::{
    channel::{Channel, Nacked, Subscription},
    event::Event,
    flight::{Held, Pending, Sent},
    response::{Reason, Reasons},
    table_trial::JoinedTables,
};
use crate::{
    peer_text::PeerText,
    xds::{
        bounds::{ERROR_TEXT, shortened},
        per_type::PerType,
        resource::Resource,
        resource_type::ResourceType,
        view::View,
    },
};

/// How long the order of a rollout may hold things back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Whether there is an order. Without it everything goes at once, for experiments that show what the order is worth.
    pub ordered: bool,
    /// How long a gate waits for an ACK.
    pub gate: Duration,
    /// How long Envoy drains a listener or filter chain that was replaced (its `--drain-time-s`). A cluster that a
    /// listener named itself is kept for as long after the listener stopped naming it.
    pub drain: Duration,
}

/// What is to be said next of one type.
#[derive(Debug)]
pub(crate) struct Step {
    pub(super) kind: ResourceType,
    /// To be sent.
    pub(super) advance: Vec<Arc<Resource>>,
    /// To be removed at the proxy.
    pub(super) retire: Vec<SmolStr>,
    /// Asked for, and not there.
    pub(super) unknown: Vec<SmolStr>,
}

/// The resources whose warming a client may await when it first asks for what warms them.
#[derive(Debug, Default)]
pub(super) struct Warming {
    all: bool,
    sent: BTreeSet<SmolStr>,
}

/// The types of one connection and the order between them.
#[derive(Debug)]
pub(crate) struct Rollout {
    settings: Settings,
    /// How many names of a type the client may have beyond those of its view.
    unknown_names: usize,
    /// How many names of each type its largest view had. It may still hold them.
    known_names: PerType<usize>,
    view: View,
    channels: PerType<Channel>,
    /// Resources that a draining listener may still name, until when.
    draining: BTreeMap<(ResourceType, SmolStr), Instant>,
    /// Clusters sent before the client asked for endpoints.
    warming: BTreeSet<SmolStr>,
    nonce: u64,
    wake: Option<Instant>,
    /// The generation of the last view that the client has answered for as a whole.
    current: u64,
    /// Whether something happened after which the client may be further than was reported.
    is_unreported: bool,
    /// Whether the client answered a response since that was last worked out.
    is_answered: bool,
    events: Vec<Event>,
}

impl Rollout {
    pub(super) fn new(settings: Settings, unknown_names: usize, view: View, joined: &Arc<JoinedTables>) -> Self {
        let channels = PerType::from_fn(|kind| Channel::new(kind, view.clone(), Arc::clone(joined)));
        let events = vec![Event::Turned { view: view.clone() }];
        Self {
            settings,
            unknown_names,
            known_names: PerType::from_fn(|kind| view.len(kind)),
            view,
            channels,
            draining: BTreeMap::new(),
            warming: BTreeSet::new(),
            nonce: 0,
            wake: None,
            current: 0,
            is_unreported: true,
            is_answered: false,
            events,
        }
    }

    pub(super) fn channel(&self, kind: ResourceType) -> &Channel {
        &self.channels[kind]
    }

    pub(super) fn channel_mut(&mut self, kind: ResourceType) -> &mut Channel {
        self.is_unreported = true;
        &mut self.channels[kind]
    }

    /// Returns the view that the client is to have.
    pub(super) fn view(&self) -> &View {
        &self.view
    }

    /// Returns how many names of a type the client may have.
    pub(super) fn most_names(&self, kind: ResourceType) -> usize {
        self.known_names[kind] + self.unknown_names
    }

    /// Returns how many names have to be looked at to find what may be said, at most.
    pub(super) fn effort(&self) -> usize {
        self.draining.len() + self.channels.values().map(Channel::effort).sum::<usize>()
    }

    /// Returns how many entries the lists have that are held for this client alone.
    pub(super) fn entries(&self) -> usize {
        self.channels.values().map(Channel::entries).sum()
    }

    /// Returns how many of them are of names that the view does not have.
    pub(super) fn strangers(&self) -> usize {
        self.channels.values().map(Channel::strangers).sum()
    }

    /// Returns how many names have to be looked at when the client answers the response of that nonce or, with the first request
    /// for a type, says what it has.
    pub(super) fn effort_of_answer(&self, kind: ResourceType, nonce: &str) -> usize {
        let channel = self.channel(kind);
        if !channel.is_open() {
            return self.view.len(kind);
        }
        channel.whole() + if nonce.is_empty() { 0 } else { channel.in_flight() }
    }

    /// Returns when [`step`](Self::step) may find more than it did last, without anything else happening.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.wake
    }

    /// Turns to a newer view.
    pub(super) fn rebase(&mut self, view: View) {
        self.report_progress();
        self.is_unreported = true;
        for channel in self.channels.values_mut() {
            channel.rebase(&view);
        }
        for (kind, names) in self.known_names.iter_mut() {
            *names = view.len(kind).max(*names);
        }
        self.events.push(Event::Turned { view: view.clone() });
        self.view = view;
    }

    /// Returns whether the proxy has answered for all that it is to have (apart from removals).
    fn is_current(&self) -> bool {
        self.channels.values().all(Channel::is_current)
    }

    /// Keeps a resource that the proxy had before this connection and that is gone: what names it is not known here, so
    /// it stays as long as a listener may drain.
    pub(super) fn spare(&mut self, kind: ResourceType, name: &str, now: Instant) {
        if kind.is_awaited() {
            self.draining.insert((kind, name.into()), now + self.settings.drain);
        }
    }

    /// Records the client's first request for a type; returns the resources for whose warming it may wait.
    pub(super) fn open(&mut self, kind: ResourceType, subscription: &Subscription<'_>) -> Warming {
        let warming = self.take_warming(kind);
        self.channels[kind].open(subscription);
        self.events.push(Event::Subscribed { kind });
        warming
    }

    fn take_warming(&mut self, kind: ResourceType) -> Warming {
        let Some(warmed) = kind.warms() else { return Warming::default() };
        // Envoy asks for clusters first, unless one is warming: it then holds back all it has to say of clusters.
        let all = !self.channel(warmed).is_open();
        Warming { all, sent: mem::take(&mut self.warming) }
    }

    // === what is said ===

    /// Returns what may be said now.
    pub(super) fn step(&mut self, now: Instant) -> Option<Step> {
        self.report_progress();
        self.tick(now);
        let said = ResourceType::ALL.into_iter().find_map(|kind| self.change(kind));
        // What refers to another goes before it.
        said.or_else(|| ResourceType::ALL.into_iter().rev().find_map(|kind| self.remove(kind, now))).or_else(|| self.owed_answer())
    }

    fn tick(&mut self, now: Instant) {
        self.draining.retain(|_, until| *until > now);
        let gate = self.settings.gate;
        self.wake = self.channels.values_mut().filter_map(|channel| channel.tick(now, gate)).min();
    }

    /// Returns what is new of one type, and what can go without regard to other types.
    fn change(&mut self, kind: ResourceType) -> Option<Step> {
        let channel = self.channel(kind);
        let mut advance = self.passed(kind)?;
        let mut unknown = channel.asked_and_gone();
        let retire = match kind.is_wildcard() {
            true if self.settings.ordered => Vec::new(),
            true => channel.held_and_gone(),
            false => {
                advance.extend(channel.held_and_asked_again());
                channel.gone().filter(|(name, pending)| self.is_needless(kind, name, pending)).map(|(name, _)| name.clone()).collect()
            }
        };
        let retired: FxHashSet<&SmolStr> = retire.iter().collect();
        unknown.retain(|name| !retired.contains(name));
        self.report_opened(kind, &advance);
        Step { kind, advance, retire, unknown }.some()
    }

    /// Returns what is new of one type and need not wait for another; `None` when nothing may be said of the type now.
    fn passed(&self, kind: ResourceType) -> Option<Vec<Arc<Resource>>> {
        let channel = self.channel(kind);
        let mut ready = channel.ready();
        let Some(awaited) = kind.awaits().filter(|_| self.settings.ordered) else { return Some(ready) };
        let unconfirmed = self.channel(awaited).unconfirmed();
        let all = ready.len();
        ready.retain(|resource| !resource.references_to(awaited).any(|name| unconfirmed.contains(name)));
        if channel.owes_answer() && ready.len() < all {
            // Envoy takes the first answer for all that there is.
            return None;
        }
        ready.retain(|resource| !self.stays_back(kind, resource));
        Some(ready)
    }

    // Of a type that is asked for by name: whether to say that something is gone though the client may not have asked.
    fn is_needless(&self, kind: ResourceType, name: &SmolStr, pending: &Pending) -> bool {
        if !kind.is_removed_by_name() {
            return pending.reason != Reason::Requested && matches!(pending.held, Held::Unknown(None));
        }
        // What goes along with the resource that names it stays until that is gone; Envoy then gives up the name itself.
        let is_named = || kind.named_by().and_then(|naming| self.channel(naming).target(name)).is_some_and(|by| by.refers_to(kind, name));
        pending.reason == Reason::Changed
            && match &pending.held {
                Held::Nothing => false,
                Held::Unknown(_) => true,
                Held::Content(_) => is_named(),
            }
    }

    // What needs a resource that the proxy refused stays as it was for as long as a gate waits, if it was there at all: one
    // object that is refused must not keep back for good what others have in the same table.
    fn stays_back(&self, kind: ResourceType, resource: &Resource) -> bool {
        let Some(awaited) = kind.awaits() else { return false };
        let needed = self.channel(awaited);
        self.channel(kind).effective(&resource.name).is_some() && resource.references_to(awaited).any(|name| needed.holds_back(name))
    }

    /// Returns what is gone of a type that only the server removes: when nothing that the proxy has can name it any more.
    fn remove(&mut self, kind: ResourceType, now: Instant) -> Option<Step> {
        if !kind.is_wildcard() {
            return None;
        }
        let mut retire = self.channel(kind).held_and_gone();
        if retire.is_empty() || !self.is_settled() {
            return None;
        }
        self.report_settled();
        if kind.is_awaited() {
            let named = self.named(kind);
            let until = self.draining_until(kind);
            retire.retain(|name| !named.contains(name) && until.get(name).is_none_or(|until| *until <= now));
            self.wake = self.wake.into_iter().chain(until.into_values().filter(|until| *until > now)).min();
        }
        Step { kind, advance: Vec::new(), retire, unknown: Vec::new() }.some()
    }

    /// Returns whether the proxy has answered for everything that waits for other types, as far as it can be sent.
    fn is_settled(&self) -> bool {
        let blocked = |kind| self.channel(kind).ready().iter().any(|resource| !self.stays_back(kind, resource));
        gated().all(|kind| !blocked(kind) && !self.channel(kind).awaits_ack())
    }

    // The names of a type that listeners and route tables name which the proxy still has though the view has others.
    fn named(&self, kind: ResourceType) -> BTreeSet<SmolStr> {
        let outdated = gated().flat_map(|gated| self.channel(gated).outdated());
        outdated.flat_map(|resource| resource.references_to(kind).cloned()).collect()
    }

    fn draining_until(&self, kind: ResourceType) -> BTreeMap<SmolStr, Instant> {
        let draining = self.draining.iter().filter(|((drained, _), _)| *drained == kind);
        let mut until: BTreeMap<_, _> = draining.map(|((_, name), until)| (name.clone(), *until)).collect();
        for draining in ResourceType::ALL.into_iter().filter(|draining| draining.is_drained()) {
            for (sent_at, items) in self.channel(draining).unanswered() {
                let names = items.iter().flat_map(|item| dropped(item, kind)).cloned();
                until.extend(names.map(|name| (name, sent_at + self.settings.gate + self.settings.drain)));
            }
        }
        until
    }

    fn owed_answer(&self) -> Option<Step> {
        let owing =
            ResourceType::ALL.into_iter().find(|kind| self.channel(*kind).owes_answer() && self.channel(*kind).ready().is_empty())?;
        Some(Step::nothing(owing))
    }

    /// Records that a response was made for a step, with its contents; returns its nonce, and how many resources were
    /// sent for which reason.
    pub(super) fn sent(&mut self, kind: ResourceType, now: Instant, contents: Vec<(SmolStr, Option<Arc<Resource>>)>) -> (u64, Reasons) {
        self.nonce += 1;
        let nonce = self.nonce;
        let mut reasons = Reasons::new();
        let mut warming = Vec::new();
        for item in self.channel_mut(kind).sent(nonce, now, contents) {
            let Some(content) = &item.content else { continue };
            *reasons.entry(item.reason).or_insert(0) += 1;
            if let Some(with) = kind.warms_with() {
                warming.extend(content.references_to(with).cloned());
            }
        }
        if let Some(with) = kind.warms_with() {
            self.warm(with, warming);
        }
        (nonce, reasons)
    }

    // Envoy warms a cluster that is new or changed, and waits for its endpoints even if it has them.
    fn warm(&mut self, with: ResourceType, names: Vec<SmolStr>) {
        let channel = &mut self.channels[with];
        if channel.is_open() {
            names.iter().for_each(|name| channel.rewarm(name));
        } else {
            self.warming.extend(names);
        }
    }

    // === what the client answers ===

    /// Records that the client took a response.
    pub(super) fn ack(&mut self, kind: ResourceType, nonce: &str, now: Instant) {
        self.report_expired(kind, nonce);
        let Some(acked) = self.channel_mut(kind).ack(nonce) else { return };
        self.is_answered = true;
        if let Some(awaited) = kind.awaits().filter(|_| kind.is_drained()) {
            let until = now + self.settings.drain;
            let names = acked.items.iter().flat_map(|item| dropped(item, awaited)).cloned();
            self.draining.extend(names.map(|name| ((awaited, name), until)));
        }
        self.events.extend(acked.completes.map(|view| Event::Completed { kind, view }));
        let items = acked.items.into_iter().filter(|item| !item.is_stand_in).filter_map(|item| item.content).collect();
        self.events.push(Event::Acked { kind, nonce: acked.nonce, items });
    }

    /// Records that the client refused a response.
    pub(super) fn nack(&mut self, kind: ResourceType, nonce: &str, error: &rpc::Status, now: Instant) {
        self.report_expired(kind, nonce);
        let (message, is_cut) = shortened(&error.message, ERROR_TEXT);
        if is_cut {
            tracing::debug!(r#type = kind.as_str(), bytes = error.message.len(), kept = ERROR_TEXT, "a long error of a proxy is cut");
        }
        let (code, said) = (error.code, PeerText::new(&message));
        if let Some(Nacked { refused, suspects }) = self.channel_mut(kind).nack(nonce, &message, &said, now) {
            self.is_answered = true;
            self.events.push(Event::Rejected { kind, code, error: said, refused, suspects });
        }
    }

    // === what is reported ===

    /// Records an event.
    pub(super) fn report(&mut self, event: Event) {
        self.events.push(event);
    }

    /// Reports how far the client is, if it has answered a response. Other requests do not bring it further, and it may have any
    /// number of names outstanding.
    pub(super) fn report_answer(&mut self) {
        if mem::take(&mut self.is_answered) {
            self.report_progress();
        }
    }

    /// Returns what happened since this was last called.
    pub(super) fn take_events(&mut self) -> Vec<Event> {
        mem::take(&mut self.events)
    }

    fn report_progress(&mut self) {
        if !mem::take(&mut self.is_unreported) {
            return;
        }
        self.channels.values_mut().for_each(Channel::settle);
        for kind in ResourceType::ALL {
            let channel = &mut self.channels[kind];
            self.events.extend(channel.take_refusals().map(|items| Event::Refusing { kind, items }));
            self.events.extend(channel.take_completed().map(|view| Event::Completed { kind, view }));
        }
        let generation = self.view.generation;
        if self.current != generation && self.is_current() {
            self.current = generation;
            self.events.push(Event::Current { generation });
        }
    }

    fn report_expired(&mut self, kind: ResourceType, nonce: &str) {
        if self.channel(kind).is_expired(nonce) {
            self.events.push(Event::Expired { kind });
        }
    }

    // A gate opened that held these back.
    fn report_opened(&mut self, kind: ResourceType, advance: &[Arc<Resource>]) {
        let Some(awaited) = kind.awaits() else { return };
        let named: BTreeSet<_> = advance.iter().flat_map(|resource| resource.references_to(awaited)).collect();
        let mut names = self.channels[awaited].take_overdue(|item| item.before.is_uncertain() && named.contains(&item.name));
        names.extend(self.channels[awaited].take_given_up(|name| named.contains(name)));
        if !names.is_empty() {
            self.events.push(Event::GateOpened { kind: awaited, awaited: names });
        }
    }

    // Removals go on without the ACKs that did not come.
    fn report_settled(&mut self) {
        for kind in gated() {
            let unreported = self.channels[kind].take_unreported();
            self.events.extend(unreported.into_iter().map(|awaited| Event::GateOpened { kind, awaited }));
        }
    }
}

impl Step {
    /// Makes a step that says nothing about a type.
    pub(super) fn nothing(kind: ResourceType) -> Self {
        Self { kind, advance: Vec::new(), retire: Vec::new(), unknown: Vec::new() }
    }

    fn some(self) -> Option<Self> {
        (!self.advance.is_empty() || !self.retire.is_empty() || !self.unknown.is_empty()).then_some(self)
    }
}

impl Warming {
    /// Returns whether the client may wait for what warms the resource of that name though it has it.
    pub(super) fn awaits(&self, name: &str) -> bool {
        self.all || self.sent.contains(name)
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self { ordered: true, gate: Duration::from_secs(5), drain: Duration::from_secs(45) }
    }
}

/// Returns the types whose resources wait for those of another.
fn gated() -> impl Iterator<Item = ResourceType> {
    ResourceType::ALL.into_iter().filter(|kind| kind.awaits().is_some())
}

/// Returns the names of a type that a resource referred to before it was replaced and does not refer to any more.
fn dropped(item: &Sent, kind: ResourceType) -> impl Iterator<Item = &SmolStr> {
    let before = item.before.content().into_iter().flat_map(move |resource| resource.references_to(kind));
    before.filter(move |name| item.content.as_ref().is_none_or(|after| !after.refers_to(kind, name)))
}

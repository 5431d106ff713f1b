//! Sorts proxies into classes, and keeps up to date what each class is to have (architecture, rules 3 and 4).
//!
//! A proxy's view is put together from groups. It shares clusters, endpoints and routes with the proxies of its scope, and
//! outbound listeners with those that also have the same names for traces (in Istio's flavour); the rest is its own. A
//! change is translated once for each distinct input, however many groups contain the result. Secrets are added for callers
//! who have proven who they are: those of their namespace that some object names, with keys if their account may read them.

mod added;
mod by_place;
mod by_scope;
mod cached_units;
mod concern;
mod extending;
mod groups;
mod key;
mod memo;
mod missing;
mod patch_findings;
mod patching;
mod per_proxy;
mod resource_cache;
mod secret_access;
mod secrets;
#[cfg(test)]
mod tests;
mod trust;
mod users;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    mem,
    sync::{Arc, atomic::AtomicI64},
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use parking_lot::{Mutex, MutexGuard};
use rustc_hash::{FxHashMap, FxHashSet};
use smol_str::SmolStr;
use tokio::{
    sync::{Notify, watch},
    task, time,
};

use self::{
    concern::Concern,
    groups::{Groups, ScopedHosts, Scopes},
    key::DistinguishingLabels,
    resource_cache::TRANSLATED,
    secrets::Secrets,
    trust::TrustLayers,
    users::Keys,
};
pub use self::{groups::GroupsSize, resource_cache::Translations};
use super::{
    node::{Node, Proven},
    resource_type::ResourceType,
    secret_readers::{Account, ByNamespace, KnownReaders, SecretReaders},
    view::{Attachment, Difference, View, Views},
};
use crate::{
    api::Diagnostic,
    clock::{Clock, system_clock},
    mesh::{
        model::Proxy,
        scope::resolve_proxy,
        world::{Touched, World},
    },
    visits::{Visit, Visited},
};

/// How long groups are kept whose last proxy has gone, unless the world changes. A stream that broke is back before that.
const GRACE: Duration = Duration::from_secs(5);
/// How many proxies that are gone may have groups kept.
const KEPT: usize = 16;

/// All connected proxies, sorted into classes, and the world that they are shown.
pub struct Classes(Arc<Inner>);

struct Inner {
    clock: Clock,
    readers: Arc<dyn SecretReaders>,
    known_readers: Mutex<KnownReaders>,
    /// Tells that there are more accounts to ask about.
    to_ask: Notify,
    /// Tells that an account gained or lost its right.
    answered: Notify,
    /// When a secret begins or ceases to be valid, in seconds since 1970.
    next_validity: AtomicI64,
    state: Mutex<State>,
    /// The numbers of proxies that are detached, and still in the state: whoever detaches one does not wait for the state.
    detached: Mutex<Vec<u64>>,
    findings: watch::Sender<BTreeSet<Diagnostic>>,
    /// Tells that there are groups without proxies.
    left: Notify,
}

/// What is kept for connected proxies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassesSize {
    /// Proxies.
    pub proxies: usize,
    /// What they share.
    pub shared: GroupsSize,
}

#[derive(Default)]
struct State {
    world: Arc<World>,
    distinguishing: DistinguishingLabels,
    groups: Groups,
    secrets: Secrets,
    trust: TrustLayers,
    proxies: FxHashMap<u64, ConnectedProxy>,
    /// Of proxies that are gone, and since when: the last of some group.
    gone: VecDeque<(Instant, Keys)>,
    next: u64,
}

struct ConnectedProxy {
    node: Arc<Node>,
    proxy: Proxy,
    /// Who its caller has proven to be.
    account: Option<Account>,
    keys: Keys,
    view: View,
    sender: watch::Sender<View>,
}

/// New views that no session has seen yet.
pub struct Prepared {
    views: Vec<(SmolStr, watch::Sender<View>, View)>,
    awaited: Vec<SmolStr>,
    changed: Vec<(ResourceType, u64)>,
}

impl Default for Classes {
    fn default() -> Self {
        Self::new(Arc::new(ByNamespace), system_clock())
    }
}

impl Classes {
    /// Makes classes without proxies. `readers` says who may read Secrets, `clock` which certificates are valid.
    pub fn new(readers: Arc<dyn SecretReaders>, clock: Clock) -> Self {
        Self(Arc::new(Inner {
            state: Mutex::new(State { secrets: Secrets::new(Arc::clone(&clock)), ..State::default() }),
            clock,
            readers,
            known_readers: Mutex::default(),
            to_ask: Notify::new(),
            answered: Notify::new(),
            next_validity: AtomicI64::new(i64::MAX),
            detached: Mutex::default(),
            findings: watch::Sender::default(),
            left: Notify::new(),
        }))
    }

    /// Takes the next world and makes the views that differ from those before.
    pub fn prepare(&self, world: Arc<World>, touched: &Touched) -> Prepared {
        let mut state = self.0.lock();
        let state = &mut *state;
        state.world = world;
        // Nothing is brought up to date for nobody.
        state.let_go(|_| true);
        state.secrets.update(&state.world, touched);
        state.trust.update(&state.world);
        self.0.follow_secrets(&state.secrets);
        // Scopes come first, since a proxy's own side is made from its scope.
        let scopes = state.groups.update_scopes(&state.world, touched);
        state.sort_again(touched, &scopes);
        state.let_go(|_| true);
        state.groups.update(&state.world, &scopes, touched);
        state.groups.check_own(state.proxies.values().visiting(Visited::Proxy).map(|connected| &connected.keys));
        let (mut views, mut awaited) = (Vec::new(), Vec::new());
        for connected in state.proxies.values_mut().visiting(Visited::Proxy) {
            let of = (&state.groups, &state.secrets, &state.trust);
            let view = self.0.view(state.world.generation, of, &connected.keys, connected.account.as_ref());
            if !view.has_layers_of(&connected.view) {
                connected.view = view.clone();
                awaited.extend(connected.account.as_ref().map(|_| connected.proxy.id.clone()));
                views.push((connected.proxy.id.clone(), connected.sender.clone(), view));
            }
        }
        self.0.findings.send_if_modified(|before| replaced(before, state.findings(&self.0)));
        let changed = changes(&views);
        Prepared { views, awaited, changed }
    }

    /// Lets go of what was kept for proxies that do not come back. Never ends.
    pub async fn let_go_of_those_gone(&self) {
        loop {
            self.0.left.notified().await;
            while self.let_go_now().await {
                time::sleep(GRACE).await;
            }
        }
    }

    async fn let_go_now(&self) -> bool {
        let (inner, now) = (Arc::clone(&self.0), time::Instant::now().into_std());
        // Others may hold the state for as long as a view takes.
        task::spawn_blocking(move || inner.let_go(now)).await.unwrap_or_default()
    }

    /// Returns how much is kept.
    pub fn size(&self) -> ClassesSize {
        let state = self.0.lock();
        ClassesSize { proxies: state.proxies.len(), shared: state.groups.size() }
    }

    /// Returns the counters of all translations, including those for proxies that connect.
    pub fn translations(&self) -> Translations {
        self.0.lock().groups.translations().clone()
    }

    /// Returns how many translations were done since the start, by what was translated.
    pub fn translated(&self) -> BTreeMap<&'static str, u64> {
        let translations = self.translations();
        TRANSLATED.into_iter().map(|what| (what, translations.get_or_create(&[("type", what)]).get())).collect()
    }

    /// Returns the view of the connected proxy of that id.
    pub fn view_of(&self, id: &str) -> Option<View> {
        let state = self.0.lock();
        state.proxies.values().find(|connected| connected.proxy.id == id).map(|connected| connected.sender.borrow().clone())
    }

    /// Returns the view of a proxy that need not be connected, for tests and figures.
    pub fn view_for(&self, proxy: &Proxy) -> View {
        let mut state = self.0.lock();
        let state = &mut *state;
        let proxy = resolve_proxy(&state.world, proxy);
        let keys = state.groups.ensure(&state.world, (&proxy, false), &state.distinguishing);
        let mut layers = state.groups.layers(&keys);
        state.trust.add_to(&mut layers);
        View::new(state.world.generation, layers)
    }

    /// Returns the findings about a proxy that need not be connected: what of the objects it cannot be given.
    pub fn findings_for(&self, proxy: &Proxy) -> BTreeSet<Diagnostic> {
        let mut state = self.0.lock();
        let state = &mut *state;
        let proxy = resolve_proxy(&state.world, proxy);
        let keys = state.groups.ensure(&state.world, (&proxy, false), &state.distinguishing);
        let mut found = state.groups.findings(&state.world, [&keys]);
        found.extend(state.secret_findings(&keys, &proxy.namespace, None));
        found
    }

    /// Subscribes to the findings about the connected proxies: what of the objects they cannot be given.
    pub fn findings(&self) -> watch::Receiver<BTreeSet<Diagnostic>> {
        self.0.findings.subscribe()
    }
}

impl Views for Classes {
    fn introduce<'a>(&'a self, proven: &'a Proven) -> BoxFuture<'a, ()> {
        Box::pin(self.0.introduce(proven))
    }

    fn attach(&self, proven: &Proven) -> Attachment {
        let (node, account) = (Arc::clone(proven.node()), Account::of(proven.caller()));
        let mut state = self.0.lock();
        let state = &mut *state;
        let proxy = resolve_proxy(&state.world, &node.proxy);
        let keys = state.groups.ensure(&state.world, (&proxy, account.is_some()), &state.distinguishing);
        let of = (&state.groups, &state.secrets, &state.trust);
        let view = self.0.view(state.world.generation, of, &keys, account.as_ref());
        let (sender, receiver) = watch::channel(view.clone());
        state.groups.enter(&keys);
        let number = state.next;
        state.proxies.insert(number, ConnectedProxy { node, proxy, account, keys, view, sender });
        state.next += 1;
        self.0.findings.send_if_modified(|before| replaced(before, state.findings(&self.0)));
        let inner = Arc::clone(&self.0);
        Attachment::new(receiver, move || inner.detach(number))
    }
}

impl Inner {
    /// Puts a proxy's view together.
    fn view(&self, generation: u64, of: (&Groups, &Secrets, &TrustLayers), keys: &Keys, account: Option<&Account>) -> View {
        let (groups, secrets, trust) = of;
        let mut layers = groups.layers(keys);
        let may_read = account.is_some_and(|account| self.known_readers.lock().may_read(account));
        layers[ResourceType::Secret] = secrets.layers(account.map(|account| &account.namespace), may_read);
        trust.add_to(&mut layers);
        View::new(generation, layers)
    }

    fn detach(&self, number: u64) {
        self.detached.lock().push(number);
        self.left.notify_one();
    }

    /// Returns the state without those that are detached.
    fn lock(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock();
        let detached = mem::take(&mut *self.detached.lock());
        detached.into_iter().for_each(|number| state.remove(number));
        state
    }

    /// Lets go of groups that have had no proxy for long enough; returns whether there are others.
    fn let_go(&self, now: Instant) -> bool {
        let mut state = self.lock();
        state.let_go(|since| since + GRACE <= now);
        // What only a proxy that is gone could not be given is not found any more.
        self.findings.send_if_modified(|before| replaced(before, state.findings(self)));
        !state.gone.is_empty()
    }
}

impl State {
    fn remove(&mut self, number: u64) {
        let Some(connected) = self.proxies.remove(&number) else { return };
        if !self.groups.leave(&connected.keys) {
            return;
        }
        self.gone.push_back((time::Instant::now().into_std(), connected.keys));
        if self.gone.len() > KEPT {
            let oldest = self.gone.front().map(|(since, _)| *since);
            self.let_go(|since| Some(since) <= oldest);
        }
    }

    /// Lets go of groups that have had no proxy since a time that is long enough ago.
    fn let_go(&mut self, is_long_ago: impl Fn(Instant) -> bool) {
        let (mut let_go, count) = (Vec::new(), self.gone.len());
        while let Some((_, keys)) = self.gone.pop_front_if(|(since, _)| is_long_ago(*since)) {
            let_go.push(keys);
        }
        if count == self.gone.len() {
            return;
        }
        let_go.iter().for_each(|keys| self.groups.drop_unused(keys));
        drop(let_go);
        self.groups.drop_translations();
    }

    fn findings(&self, inner: &Inner) -> BTreeSet<Diagnostic> {
        let connected = || self.proxies.values().visiting(Visited::Proxy);
        let mut found = self.groups.findings(&self.world, connected().map(|connected| &connected.keys));
        if self.world.secret_users.is_empty() {
            return found;
        }
        for ConnectedProxy { keys, proxy, account, .. } in connected() {
            let denied = account.as_ref().filter(|account| !inner.known_readers.lock().may_read(account));
            found.extend(self.secret_findings(keys, &proxy.namespace, denied));
        }
        found
    }

    /// Resolves anew the proxies that a change may put into another class.
    fn sort_again(&mut self, touched: &Touched, before: &Scopes) {
        let distinguishing = if touched.everything || !touched.routes.is_empty() || !touched.services.is_empty() {
            DistinguishingLabels::of(&self.world)
        } else {
            self.distinguishing.clone()
        };
        let all = distinguishing != self.distinguishing;
        self.distinguishing = distinguishing;
        let imported = if touched.routes.is_empty() { ScopedHosts::default() } else { self.groups.hosts_seen_otherwise(before) };
        let concern = Concern::of(&self.world, touched, imported);
        let concerned = |ConnectedProxy { proxy, keys, .. }: &ConnectedProxy| all || concern.covers(proxy, keys);
        for connected in self.proxies.values_mut().visiting(Visited::Proxy).filter(|connected| concerned(connected)) {
            connected.proxy = resolve_proxy(&self.world, &connected.node.proxy);
            let asking = (&connected.proxy, connected.account.is_some());
            let keys = self.groups.ensure(&self.world, asking, &self.distinguishing);
            if keys != connected.keys {
                self.groups.enter(&keys);
                let before = mem::replace(&mut connected.keys, keys);
                if self.groups.leave(&before) {
                    self.gone.push_back((time::Instant::now().into_std(), before));
                }
            }
        }
    }
}

impl Prepared {
    /// Returns the ids of the proxies whose view changed.
    pub fn proxies(&self) -> Vec<SmolStr> {
        self.views.iter().map(|(id, ..)| id.clone()).collect()
    }

    /// Returns those of them whose callers have proven who they are: a change waits for nobody else.
    pub fn awaited(&self) -> &[SmolStr] {
        &self.awaited
    }

    /// Returns how many distinct resources have new content, by type.
    pub fn changed(&self) -> impl Iterator<Item = (ResourceType, u64)> {
        self.changed.iter().copied()
    }

    /// Hands the views to the sessions.
    pub fn send(self) {
        for (_, sender, view) in self.views {
            sender.send_replace(view);
        }
    }
}

/// Replaces a value; returns whether the new one differs.
fn replaced(before: &mut BTreeSet<Diagnostic>, now: BTreeSet<Diagnostic>) -> bool {
    let differs = *before != now;
    *before = now;
    differs
}

/// Counts each resource that is new to some proxy once, however many proxies it is new to.
fn changes(views: &[(SmolStr, watch::Sender<View>, View)]) -> Vec<(ResourceType, u64)> {
    let mut walked = FxHashSet::default();
    let mut counts = Vec::new();
    for kind in ResourceType::in_views() {
        let mut changed = FxHashSet::default();
        for (_, sender, view) in views {
            let before = sender.borrow();
            let layers: Vec<_> = view.layers(kind).iter().chain(before.layers(kind)).map(Arc::as_ptr).collect();
            if walked.insert((kind, layers)) {
                changed.extend(view.differences(&before, kind).into_iter().map(|difference| match difference {
                    Difference::Changed(resource) => (resource.name.clone(), Some(resource.version)),
                    Difference::Removed(name) => (name.clone(), None),
                }));
            }
        }
        counts.push((kind, changed.len() as u64));
    }
    counts
}

//! Follows one collection: lists it, watches it, and when the watch cannot go on, lists it again and compares.
//!
//! kube's own watcher was not taken: it says neither a list's resource version nor when a list is complete before it
//! tells of its objects, and both must be known before a list is believed.

use std::{
    mem::{Discriminant, discriminant},
    sync::Arc,
    time::Duration,
};

use http_body::Frame;
use http_body_util::BodyExt;
use kube::{Client, client::Body};
use smol_str::{SmolStr, format_smolstr};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::{Instant, sleep, timeout_at},
};

use super::{
    ask::{Trouble, failure, stream, whole},
    backoff::{Backoff, random},
    collection::Collection,
    decode::{self, Line},
    known::{Known, Listing},
    layers::{Layer, Layers},
    lines::Lines,
    metrics::SourceMetrics,
    selection::{Objects, Selection, is_selected},
    served::Served,
    trust::{Trust, not_below, number},
};
use crate::source::{Change, Event, Loss};

/// How long a watch lasts at least; up to a fifth more, so that they do not all end at once.
const WATCH: Duration = Duration::from_secs(290);
/// A watch in which nothing comes for so long may be dead: it is opened again. Bookmarks come every minute.
const SILENCE: Duration = Duration::from_secs(150);
/// So many new namespaces at once are listed one by one; for more, all are listed.
const SINGLY: usize = 20;
/// A watch that lasted so long went well.
const GOOD: Duration = Duration::from_secs(10);

/// What all followers share.
#[derive(Clone)]
pub(super) struct Shared {
    /// Asks.
    pub(super) client: Client,
    /// The cluster that objects belong to.
    pub(super) cluster: SmolStr,
    /// Who answers.
    pub(super) trust: Arc<Trust>,
    /// Which objects are ours.
    pub(super) selection: watch::Receiver<Arc<Selection>>,
    /// Told when a kind seems to be gone.
    pub(super) look_again: Arc<Notify>,
    /// Counts what goes wrong.
    pub(super) metrics: SourceMetrics,
    /// Where events go.
    pub(super) events: mpsc::Sender<Event>,
    /// Told once by each follower when it has said all that there is.
    pub(super) listed: mpsc::UnboundedSender<()>,
}

/// Follows one collection.
pub(super) struct Follower {
    collection: Collection,
    name: SmolStr,
    shared: Shared,
    served: watch::Receiver<Served>,
    known: Known,
    selection: Arc<Selection>,
    objects: Option<watch::Sender<Objects>>,
    layer: Option<(Layers, Layer)>,
    backoff: Backoff,
    page: u32,
    /// The highest resource version seen of the collection.
    highest: u64,
    said_listed: bool,
    /// For what sort of reason it is lost, when it is.
    lost: Option<Discriminant<Trouble>>,
}

/// Why following goes another way.
enum Turn {
    /// Something is wrong.
    Trouble(Trouble),
    /// The watch ended too soon: open it again in a while.
    Again,
    /// What was listed is not what should be: list.
    Relist,
    /// The kind is served otherwise now, or not at all.
    Served,
    /// Nobody listens any more.
    End,
}

impl From<Trouble> for Turn {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

impl Follower {
    /// Follows `collection` while it is served. `objects` is shown all its objects whenever they change.
    pub(super) fn new(
        collection: Collection,
        shared: Shared,
        served: watch::Receiver<Served>,
        objects: Option<watch::Sender<Objects>>,
    ) -> Self {
        let selection = Arc::clone(&shared.selection.borrow());
        Self {
            name: collection.name(),
            known: Known::new(collection.resource.kind, shared.cluster.clone()),
            page: collection.resource.page,
            selection,
            collection,
            shared,
            served,
            objects,
            layer: None,
            backoff: Backoff::default(),
            highest: 0,
            said_listed: false,
            lost: None,
        }
    }

    /// What it says is said together with another collection.
    pub(super) fn in_layer(self, layers: Layers, layer: Layer) -> Self {
        let name = match (layer, &self.collection.object) {
            (Layer::Shared, Some(object)) => format_smolstr!("{}/{object}", self.name),
            _ => self.name,
        };
        Self { name, layer: Some((layers, layer)), ..self }
    }

    /// Works until nobody listens any more.
    pub(super) async fn run(mut self) {
        if is_selected(self.collection.resource) && self.shared.selection.wait_for(|selection| selection.is_known()).await.is_err() {
            return;
        }
        loop {
            let served = *self.served.borrow_and_update();
            let turn = match served {
                Served::As(version) => self.follow(version).await,
                Served::Nowhere => self.withdraw().await,
                Served::Unknown => Turn::Served,
            };
            match turn {
                Turn::End => return,
                Turn::Served if *self.served.borrow() == served && self.served.changed().await.is_err() => return,
                _ => {}
            }
        }
    }

    // There is no such kind, and that is certain: its objects are gone with it.
    async fn withdraw(&mut self) -> Turn {
        let changes = self.known.retain(|_| false);
        self.highest = 0;
        if let Err(turn) = self.tell(changes).await.and(self.recovered().await) {
            return turn;
        }
        self.say_listed();
        Turn::Served
    }

    async fn follow(&mut self, version: &'static str) -> Turn {
        let mut since = None;
        loop {
            let turn = match self.go_on(version, &mut since).await {
                Ok(()) => continue,
                Err(turn) => turn,
            };
            // What is not known to follow on what was seen is listed.
            if matches!(turn, Turn::Relist | Turn::Trouble(Trouble::Expired(_) | Trouble::Absent(_))) {
                since = None;
            }
            if let Some(leave) = self.turn(turn).await {
                return leave;
            }
        }
    }

    async fn go_on(&mut self, version: &'static str, since: &mut Option<SmolStr>) -> Result<(), Turn> {
        let mut at = match since.take() {
            Some(at) => at,
            None => self.list(version).await?,
        };
        let watched = self.watch(version, &mut at).await;
        *since = Some(at);
        watched
    }

    // What to do about a turn; `Some`: this version is followed no more.
    async fn turn(&mut self, turn: Turn) -> Option<Turn> {
        let trouble = match turn {
            Turn::Relist => return None,
            Turn::Served | Turn::End => return Some(turn),
            Turn::Again => None,
            Turn::Trouble(trouble) => Some(self.weigh(trouble).await),
        };
        if let Some(trouble) = &trouble {
            self.shared.metrics.count_fault(&self.name, trouble);
        }
        match trouble {
            None => {}
            Some(Trouble::Expired(why)) => tracing::info!(source = %self.name, why, "listing again"),
            Some(trouble) => {
                if matches!(trouble, Trouble::Absent(_)) {
                    self.shared.look_again.notify_one();
                }
                if matches!(trouble, Trouble::TooLong) {
                    self.page = (self.page / 4).max(1);
                }
                if let Err(end) = self.lose(&trouble).await {
                    return Some(end);
                }
            }
        }
        let pause = self.backoff.next(random());
        tokio::select! {
            () = sleep(pause) => None,
            changed = self.served.changed() => Some(if changed.is_ok() { Turn::Served } else { Turn::End }),
            () = self.shared.events.closed() => Some(Turn::End),
        }
    }

    // A server that fails may be another one than before: that is the graver news.
    async fn weigh(&self, trouble: Trouble) -> Trouble {
        if matches!(trouble, Trouble::Forbidden(_) | Trouble::Untrusted(_)) {
            return trouble;
        }
        match self.shared.trust.confirm().await {
            Err(Trouble::Untrusted(why)) => Trouble::Untrusted(why),
            _ => trouble,
        }
    }

    // Reads the whole collection, and only when it is complete and to be believed says what differs. Gives the resource
    // version from which to watch.
    async fn list(&mut self, version: &'static str) -> Result<SmolStr, Turn> {
        self.selection = Arc::clone(&self.shared.selection.borrow_and_update());
        let (listing, at) = self.read_list(version, &self.collection.clone()).await?;
        self.note(&at);
        let changes = self.known.swap(listing);
        self.tell(changes).await?;
        self.recovered().await?;
        self.say_listed();
        Ok(at)
    }

    async fn read_list(&mut self, version: &'static str, collection: &Collection) -> Result<(Listing, SmolStr), Trouble> {
        let mut listing = Listing::default();
        let mut next = None;
        let at = loop {
            let request = collection.list(version, self.page, next.as_deref()).map_err(|error| Trouble::Away(error.to_string()))?;
            let body = whole(&self.shared.client, request).await?;
            let page = decode::page(&body).map_err(|error| Trouble::Away(format!("the list is garbled: {error}")))?;
            for item in page.items(collection.resource, version) {
                self.known.listed(&mut listing, item, |object| self.selection.reads(collection.resource, object));
            }
            if page.metadata.next.is_empty() {
                break SmolStr::new(&page.metadata.resource_version);
            }
            next = Some(page.metadata.next);
        };
        not_below(number(&at), self.highest)?;
        self.shared.trust.confirm().await?;
        Ok((listing, at))
    }

    // Says what changes after `at`, which goes along, until the watch ends.
    async fn watch(&mut self, version: &'static str, at: &mut SmolStr) -> Result<(), Turn> {
        let lasts = WATCH + WATCH.mul_f64(random() / 5.0);
        let request = self.collection.watch(version, at, lasts).map_err(|error| Trouble::Away(error.to_string()))?;
        let mut body = stream(&self.shared.client, request).await?;
        let opened = Instant::now();
        self.shared.trust.confirm().await?;
        self.recovered().await?;
        let mut lines = Lines::default();
        loop {
            let chunk = tokio::select! {
                chunk = chunk(&mut body, &self.name) => chunk,
                changed = self.served.changed() => return Err(if changed.is_ok() { Turn::Served } else { Turn::End }),
                changed = self.shared.selection.changed() => {
                    changed.map_err(|_| Turn::End)?;
                    return self.select_anew(version).await;
                }
                () = self.shared.events.closed() => return Err(Turn::End),
            };
            let Some(chunk) = chunk else { return if self.went_well(opened) { Ok(()) } else { Err(Turn::Again) } };
            lines.push(&chunk).map_err(|_| Trouble::Away("a watch event is longer than any object".to_owned()))?;
            let told = self.take_in(&mut lines, version, at);
            // What came before a bad line counts.
            self.tell(told.0).await?;
            told.1?;
            self.went_well(opened);
        }
    }

    fn went_well(&mut self, opened: Instant) -> bool {
        let well = opened.elapsed() > GOOD;
        if well {
            self.backoff.reset();
        }
        well
    }

    fn take_in(&mut self, lines: &mut Lines, version: &'static str, at: &mut SmolStr) -> (Vec<Change>, Result<(), Turn>) {
        let mut changes = Vec::new();
        let selection = Arc::clone(&self.selection);
        let resource = self.collection.resource;
        while let Some(line) = lines.next() {
            let seen = match decode::line(&line, resource, version) {
                Ok(Line::Applied(item)) => {
                    let seen = item.version.clone();
                    changes.extend(self.known.apply(item, |object| selection.reads(resource, object)));
                    seen
                }
                Ok(Line::Deleted(item)) => {
                    changes.extend(item.name.and_then(|name| self.known.remove(&name)));
                    item.version
                }
                Ok(Line::Bookmark(seen)) => seen,
                Ok(Line::Failure(status)) => return (changes, Err(failure(&status).into())),
                // What it was about is not known: only a list tells.
                Err(error) => {
                    return (changes, Err(Trouble::Expired(format!("a watch event cannot be read: {error}")).into()));
                }
            };
            if !seen.is_empty() {
                self.note(&seen);
                *at = seen;
            }
        }
        (changes, Ok(()))
    }

    // Other namespaces are read now: the objects of those that are no longer go at once, those of new ones are listed.
    async fn select_anew(&mut self, version: &'static str) -> Result<(), Turn> {
        let now = Arc::clone(&self.shared.selection.borrow_and_update());
        let new = now.new_namespaces(&self.selection).filter(|_| self.collection.namespace.is_none());
        self.selection = now;
        let changes = self.known.retain(|object| self.selection.reads(self.collection.resource, object));
        self.tell(changes).await?;
        let Some(new) = new.filter(|new| new.len() <= SINGLY) else { return Err(Turn::Relist) };
        for namespace in new {
            let within = Collection { namespace: Some(namespace), ..self.collection.clone() };
            // What is not listed now is listed with all the rest.
            let Ok((listing, _)) = self.read_list(version, &within).await else { return Err(Turn::Relist) };
            let changes = self.known.add(listing);
            self.tell(changes).await?;
        }
        Ok(())
    }

    async fn tell(&mut self, changes: Vec<Change>) -> Result<(), Turn> {
        if let Some((layers, layer)) = &self.layer {
            if let Some(together) = layers.set(*layer, self.known.document()) {
                if let Some(objects) = &self.objects {
                    objects.send_replace(Some(together.object.into_iter().collect()));
                }
                self.send(Event::Changes(vec![together.change])).await?;
            }
            return self.tell_findings().await;
        }
        if let Some(objects) = &self.objects
            && (!changes.is_empty() || objects.borrow().is_none())
        {
            objects.send_replace(Some(self.known.objects().cloned().collect()));
        }
        if !changes.is_empty() {
            self.send(Event::Changes(changes)).await?;
        }
        self.tell_findings().await
    }

    async fn tell_findings(&mut self) -> Result<(), Turn> {
        match self.known.new_findings() {
            Some(findings) => {
                self.shared.metrics.set_refused(&self.name, self.known.refused());
                self.send(Event::Diagnostics { source: self.name.clone(), findings }).await
            }
            None => Ok(()),
        }
    }

    async fn lose(&mut self, trouble: &Trouble) -> Result<(), Turn> {
        // The same trouble in other words is no news.
        if self.lost.replace(discriminant(trouble)) == Some(discriminant(trouble)) {
            return Ok(());
        }
        let reason = trouble.to_string();
        let loss = if matches!(trouble, Trouble::Untrusted(_)) { Loss::Untrusted } else { Loss::Away };
        self.send(Event::Lost { source: self.name.clone(), reason, loss }).await
    }

    async fn recovered(&mut self) -> Result<(), Turn> {
        match self.lost.take() {
            Some(_) => self.send(Event::Recovered { source: self.name.clone() }).await,
            None => Ok(()),
        }
    }

    async fn send(&self, event: Event) -> Result<(), Turn> {
        self.shared.events.send(event).await.map_err(|_| Turn::End)
    }

    fn say_listed(&mut self) {
        if !std::mem::replace(&mut self.said_listed, true) {
            // Nobody waits any more: then nobody misses it.
            let _ = self.shared.listed.send(());
        }
    }

    fn note(&mut self, version: &str) {
        self.highest = self.highest.max(number(version));
    }
}

/// The next piece of a watch; `None`: it is over. What that means shows when it is opened again.
async fn chunk(body: &mut Body, source: &SmolStr) -> Option<bytes::Bytes> {
    loop {
        let frame = match timeout_at(Instant::now() + SILENCE, body.frame()).await {
            Ok(frame) => frame?,
            Err(_) => {
                tracing::debug!(%source, "nothing came for long: opening the watch again");
                return None;
            }
        };
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) => return Some(data),
            Ok(Err(_)) => {}
            Err(error) => {
                tracing::info!(%source, %error, "the watch broke off: opening it again");
                return None;
            }
        }
    }
}

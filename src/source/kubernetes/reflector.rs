//! Keeps the objects of one collection up to date, as a reflector of client-go does: lists the collection, watches it
//! from there on, and lists it again when the watch cannot go on.
//!
//! The states have their names from kube-runtime. Its `watcher` itself is not used because it hides the resource version of a
//! list, without which an older state of the cluster would be taken for the present one (see [`ClusterIdentity`]).

use std::{
    mem::{Discriminant, discriminant},
    sync::Arc,
    time::Duration,
};

use bytes::BytesMut;
use http_body::Frame;
use http_body_util::BodyExt;
use kube::{Client, client::Body};
use smol_str::{SmolStr, format_smolstr};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::{Instant, sleep, timeout_at},
};
use tokio_util::codec::{Decoder, LinesCodec, LinesCodecError};

use super::{
    cache::{ObjectCache, ObjectListing},
    cluster_identity::{ClusterIdentity, check_not_older, parse_version},
    collection::Collection,
    decode::{self, WatchEvent},
    discovery::ServedVersion,
    filter::{ObjectFilter, Snapshot, is_limited_to_namespaces},
    mesh_config_maps::{MapRole, MeshConfigMaps},
    metrics::SourceMetrics,
    request::{RequestError, backoff, fetch, open},
};
use crate::{
    backoff::{Backoff, random_unit},
    source::{Change, Loss, SourceEvent},
};

/// The shortest time after which the server is asked to end a watch. Up to a fifth is added, so that the watches do not
/// all end at once.
const WATCH: Duration = Duration::from_secs(290);
/// A watch that brings nothing for this long may be dead and is opened again. Bookmarks come every minute.
const SILENCE: Duration = Duration::from_secs(150);
/// Up to this many newly selected namespaces are listed one by one. If there are more, the whole collection is listed.
const LISTED_SINGLY: usize = 20;
/// A watch that lasts this long counts as a success and resets the backoff.
const LASTING: Duration = Duration::from_secs(10);
/// The longest line of a watch. etcd stores objects of up to 1.5 MB.
const LONGEST_LINE: usize = 16 << 20;

/// The source of what is said of two ConfigMaps with MeshConfig together.
const BOTH_MAPS: SmolStr = SmolStr::new_static("kubernetes/mesh config");

/// What all reflectors of a cluster share.
#[derive(Clone)]
pub(super) struct ReflectorContext {
    /// Sends the requests.
    pub(super) client: Client,
    /// The cluster that the objects belong to.
    pub(super) cluster: SmolStr,
    /// Confirms that it is still the same cluster that answers.
    pub(super) identity: Arc<ClusterIdentity>,
    /// Says which objects are read.
    pub(super) filter: watch::Receiver<Arc<ObjectFilter>>,
    /// Notified when a kind seems to be gone, so that discovery looks again.
    pub(super) rediscover: Arc<Notify>,
    /// Counts faults.
    pub(super) metrics: SourceMetrics,
    /// Receives the events.
    pub(super) events: mpsc::Sender<SourceEvent>,
    /// Receives one message from each reflector when it has sent all objects of its first list.
    pub(super) listed: mpsc::UnboundedSender<()>,
}

/// Keeps one collection up to date and sends what changes.
pub(super) struct Reflector {
    collection: Collection,
    name: SmolStr,
    context: ReflectorContext,
    served: watch::Receiver<ServedVersion>,
    cache: ObjectCache,
    filter: Arc<ObjectFilter>,
    snapshots: Option<watch::Sender<Snapshot>>,
    mesh_config_maps: Option<(MeshConfigMaps, MapRole)>,
    backoff: Backoff,
    page_size: u32,
    /// The highest resource version seen of the collection.
    highest_version: u64,
    reported_listed: bool,
    /// The sort of error for which the collection was last reported as lost; `None` if it is not lost.
    lost: Option<Discriminant<RequestError>>,
}

/// How far a reflector is.
enum ReflectorState {
    /// The collection is to be listed.
    Empty,
    /// The cache holds the collection as it was at this resource version, from which a watch goes on.
    InitListed { resource_version: SmolStr },
}

/// Why listing or watching stopped.
enum Interruption {
    /// A request failed, or its answer cannot be trusted.
    Failed(RequestError),
    /// The watch ended soon after it was opened.
    ShortWatch,
    /// Other namespaces are selected than the list was made for.
    FilterChanged,
    /// The API server serves the kind in another version now, or no longer.
    ServedVersionChanged,
    /// Nobody receives the events any more.
    Closed,
}

impl From<RequestError> for Interruption {
    fn from(error: RequestError) -> Self {
        Self::Failed(error)
    }
}

impl Reflector {
    /// Makes a reflector of `collection` that works while `served` says that its kind is served. Whenever objects change,
    /// `snapshots` gets all of them.
    pub(super) fn new(
        collection: Collection,
        context: ReflectorContext,
        served: watch::Receiver<ServedVersion>,
        snapshots: Option<watch::Sender<Snapshot>>,
    ) -> Self {
        let filter = Arc::clone(&context.filter.borrow());
        Self {
            name: collection.name(),
            cache: ObjectCache::new(collection.resource.kind, context.cluster.clone()),
            page_size: collection.resource.page_size,
            filter,
            collection,
            context,
            served,
            snapshots,
            mesh_config_maps: None,
            backoff: backoff(),
            highest_version: 0,
            reported_listed: false,
            lost: None,
        }
    }

    /// Makes the collection one of the ConfigMaps that are merged into one MeshConfig.
    pub(super) fn merged_into(self, maps: MeshConfigMaps, role: MapRole) -> Self {
        let name = match (role, &self.collection.object) {
            (MapRole::Shared, Some(object)) => format_smolstr!("{}/{object}", self.name),
            _ => self.name,
        };
        Self { name, mesh_config_maps: Some((maps, role)), ..self }
    }

    /// Works until nobody receives the events any more.
    pub(super) async fn run(mut self) {
        if is_limited_to_namespaces(self.collection.resource)
            && self.context.filter.wait_for(|filter| filter.knows_namespaces()).await.is_err()
        {
            return;
        }
        loop {
            let served = *self.served.borrow_and_update();
            let interruption = match served {
                ServedVersion::Version(version) => self.reflect(version).await,
                ServedVersion::NotServed => self.withdraw().await,
                ServedVersion::Unknown => Interruption::ServedVersionChanged,
            };
            match interruption {
                Interruption::Closed => return,
                Interruption::ServedVersionChanged if *self.served.borrow() == served && self.served.changed().await.is_err() => return,
                _ => {}
            }
        }
    }

    /// Deletes all objects, since discovery is certain that there is no such kind.
    async fn withdraw(&mut self) -> Interruption {
        let changes = self.cache.retain(|_| false);
        self.highest_version = 0;
        if let Err(interruption) = self.publish(changes).await.and(self.report_recovered().await) {
            return interruption;
        }
        self.report_listed();
        Interruption::ServedVersionChanged
    }

    /// Lists and watches the kind in one version until that version is not to be used any more.
    async fn reflect(&mut self, version: &'static str) -> Interruption {
        let mut state = ReflectorState::Empty;
        loop {
            let interruption = match self.step(version, &mut state).await {
                Ok(()) => continue,
                Err(interruption) => interruption,
            };
            if must_list_again(&interruption) {
                state = ReflectorState::Empty;
            }
            if let Some(end) = self.handle(interruption).await {
                return end;
            }
        }
    }

    async fn step(&mut self, version: &'static str, state: &mut ReflectorState) -> Result<(), Interruption> {
        match state {
            ReflectorState::Empty => *state = ReflectorState::InitListed { resource_version: self.list(version).await? },
            ReflectorState::InitListed { resource_version } => self.watch(version, resource_version).await?,
        }
        Ok(())
    }

    /// Reports an interruption and waits before the next attempt. Returns `Some` if this version is not to be used any
    /// more.
    async fn handle(&mut self, interruption: Interruption) -> Option<Interruption> {
        let error = match interruption {
            Interruption::FilterChanged => return None,
            Interruption::ServedVersionChanged | Interruption::Closed => return Some(interruption),
            Interruption::ShortWatch => None,
            Interruption::Failed(error) => Some(self.check_identity_after(error).await),
        };
        if let Some(error) = &error {
            self.context.metrics.count_fault(&self.name, error);
        }
        match error {
            None => {}
            Some(RequestError::Expired(why)) => tracing::info!(source = %self.name, why, "listing again"),
            Some(error) => {
                if matches!(error, RequestError::NotFound(_)) {
                    self.context.rediscover.notify_one();
                }
                if matches!(error, RequestError::TooLong) {
                    self.page_size = (self.page_size / 4).max(1);
                }
                if let Err(end) = self.report_lost(&error).await {
                    return Some(end);
                }
            }
        }
        let pause = self.backoff.next(random_unit());
        tokio::select! {
            () = sleep(pause) => None,
            changed = self.served.changed() => Some(if changed.is_ok() { Interruption::ServedVersionChanged } else { Interruption::Closed }),
            () = self.context.events.closed() => Some(Interruption::Closed),
        }
    }

    /// Returns the error, or that another cluster answers now: a failure may be the first sign of it, and it is graver.
    async fn check_identity_after(&self, error: RequestError) -> RequestError {
        if matches!(error, RequestError::Forbidden(_) | RequestError::Untrusted(_)) {
            return error;
        }
        match self.context.identity.confirm().await {
            Err(RequestError::Untrusted(why)) => RequestError::Untrusted(why),
            _ => error,
        }
    }

    /// Lists the whole collection, and publishes the differences once the list is complete and can be trusted. Returns the
    /// resource version of the list.
    async fn list(&mut self, version: &'static str) -> Result<SmolStr, Interruption> {
        self.filter = Arc::clone(&self.context.filter.borrow_and_update());
        let (listing, resource_version) = self.fetch_list(version, &self.collection.clone()).await?;
        self.note_version(&resource_version);
        let changes = self.cache.replace(listing);
        self.publish(changes).await?;
        self.report_recovered().await?;
        self.report_listed();
        Ok(resource_version)
    }

    async fn fetch_list(&mut self, version: &'static str, collection: &Collection) -> Result<(ObjectListing, SmolStr), RequestError> {
        let mut listing = ObjectListing::default();
        let mut next = None;
        let resource_version = loop {
            let request =
                collection.list(version, self.page_size, next.as_deref()).map_err(|error| RequestError::Unavailable(error.to_string()))?;
            let body = fetch(&self.context.client, request).await?;
            let page = decode::page(&body).map_err(|error| RequestError::Unavailable(format!("the list is garbled: {error}")))?;
            for item in page.items(collection.resource, version) {
                self.cache.read_into(&mut listing, item, |object| self.filter.includes(collection.resource, object));
            }
            if page.metadata.next.is_empty() {
                break SmolStr::new(&page.metadata.resource_version);
            }
            next = Some(page.metadata.next);
        };
        check_not_older(parse_version(&resource_version), self.highest_version)?;
        self.context.identity.confirm().await?;
        Ok((listing, resource_version))
    }

    /// Watches the collection and publishes what changes until the watch ends. `resource_version` follows the events.
    async fn watch(&mut self, version: &'static str, resource_version: &mut SmolStr) -> Result<(), Interruption> {
        let lifetime = WATCH + WATCH.mul_f64(random_unit() / 5.0);
        let request =
            self.collection.watch(version, resource_version, lifetime).map_err(|error| RequestError::Unavailable(error.to_string()))?;
        let mut body = open(&self.context.client, request).await?;
        let opened = Instant::now();
        self.context.identity.confirm().await?;
        self.report_recovered().await?;
        let mut lines = Lines::default();
        loop {
            let chunk = tokio::select! {
                chunk = next_chunk(&mut body, &self.name) => chunk,
                changed = self.served.changed() => {
                    return Err(if changed.is_ok() { Interruption::ServedVersionChanged } else { Interruption::Closed });
                }
                changed = self.context.filter.changed() => {
                    changed.map_err(|_| Interruption::Closed)?;
                    return self.apply_filter(version).await;
                }
                () = self.context.events.closed() => return Err(Interruption::Closed),
            };
            let Some(chunk) = chunk else {
                return if self.reset_backoff_if_lasting(opened) { Ok(()) } else { Err(Interruption::ShortWatch) };
            };
            lines.buffer.extend_from_slice(&chunk);
            let (changes, outcome) = self.apply_lines(&mut lines, version, resource_version);
            // The events before a bad line still count.
            self.publish(changes).await?;
            outcome?;
            self.reset_backoff_if_lasting(opened);
        }
    }

    fn reset_backoff_if_lasting(&mut self, opened: Instant) -> bool {
        let lasting = opened.elapsed() > LASTING;
        if lasting {
            self.backoff.reset();
        }
        lasting
    }

    /// Applies the complete lines to the cache. Returns the changes up to the first line that cannot be used, and why.
    fn apply_lines(
        &mut self,
        lines: &mut Lines,
        version: &'static str,
        resource_version: &mut SmolStr,
    ) -> (Vec<Change>, Result<(), Interruption>) {
        let mut changes = Vec::new();
        loop {
            let line = match lines.next() {
                Ok(Some(line)) => line,
                Ok(None) => return (changes, Ok(())),
                Err(error) => return (changes, Err(error.into())),
            };
            match self.apply_line(&line, version, &mut changes) {
                Ok(seen) if seen.is_empty() => {}
                Ok(seen) => {
                    self.note_version(&seen);
                    *resource_version = seen;
                }
                Err(error) => return (changes, Err(error.into())),
            }
        }
    }

    /// Applies one event, and returns the resource version up to which the collection is known now.
    fn apply_line(&mut self, line: &str, version: &'static str, changes: &mut Vec<Change>) -> Result<SmolStr, RequestError> {
        let resource = self.collection.resource;
        match decode::watch_event(line, resource, version).map_err(unreadable)? {
            WatchEvent::Applied(item) => {
                let seen = item.version.clone();
                changes.extend(self.cache.apply(item, |object| self.filter.includes(resource, object)));
                Ok(seen)
            }
            WatchEvent::Deleted(item) => {
                changes.extend(item.name.and_then(|name| self.cache.remove(&name)));
                Ok(item.version)
            }
            WatchEvent::Bookmark(seen) => Ok(seen),
            WatchEvent::Error(status) => Err(RequestError::from_status(&status)),
        }
    }

    /// Takes over a changed selection of namespaces: deletes the objects of those that are no longer selected, and lists
    /// those that are selected now.
    async fn apply_filter(&mut self, version: &'static str) -> Result<(), Interruption> {
        let now = Arc::clone(&self.context.filter.borrow_and_update());
        let new = now.new_namespaces(&self.filter).filter(|_| self.collection.namespace.is_none());
        self.filter = now;
        let changes = self.cache.retain(|object| self.filter.includes(self.collection.resource, object));
        self.publish(changes).await?;
        let Some(new) = new.filter(|new| new.len() <= LISTED_SINGLY) else { return Err(Interruption::FilterChanged) };
        for namespace in new {
            let within = Collection { namespace: Some(namespace), ..self.collection.clone() };
            // If it cannot be listed by itself, it is listed with all others.
            let Ok((listing, _)) = self.fetch_list(version, &within).await else { return Err(Interruption::FilterChanged) };
            let changes = self.cache.merge(listing);
            self.publish(changes).await?;
        }
        Ok(())
    }

    async fn publish(&mut self, changes: Vec<Change>) -> Result<(), Interruption> {
        if let Some((maps, role)) = &self.mesh_config_maps {
            if let Some(merged) = maps.set(*role, self.cache.document()) {
                if let Some(snapshots) = &self.snapshots {
                    snapshots.send_replace(Some(merged.object.into_iter().collect()));
                }
                self.send(SourceEvent::Changes(merged.change.into_iter().collect())).await?;
                self.send(SourceEvent::Diagnostics { source: BOTH_MAPS, findings: merged.findings }).await?;
            }
            return self.publish_findings().await;
        }
        if let Some(snapshots) = &self.snapshots
            && (!changes.is_empty() || snapshots.borrow().is_none())
        {
            snapshots.send_replace(Some(self.cache.objects().cloned().collect()));
        }
        if !changes.is_empty() {
            self.send(SourceEvent::Changes(changes)).await?;
        }
        self.publish_findings().await
    }

    async fn publish_findings(&mut self) -> Result<(), Interruption> {
        match self.cache.take_changed_findings() {
            Some(findings) => {
                self.context.metrics.set_refused(&self.name, self.cache.count_refused());
                self.send(SourceEvent::Diagnostics { source: self.name.clone(), findings }).await
            }
            None => Ok(()),
        }
    }

    /// Reports the collection as lost, unless it is lost already for an error of the same sort.
    async fn report_lost(&mut self, error: &RequestError) -> Result<(), Interruption> {
        if self.lost.replace(discriminant(error)) == Some(discriminant(error)) {
            return Ok(());
        }
        let loss = if matches!(error, RequestError::Untrusted(_)) { Loss::Untrusted } else { Loss::Unavailable };
        self.send(SourceEvent::Lost { source: self.name.clone(), reason: error.to_string(), loss }).await
    }

    async fn report_recovered(&mut self) -> Result<(), Interruption> {
        match self.lost.take() {
            Some(_) => self.send(SourceEvent::Recovered { source: self.name.clone() }).await,
            None => Ok(()),
        }
    }

    async fn send(&self, event: SourceEvent) -> Result<(), Interruption> {
        self.context.events.send(event).await.map_err(|_| Interruption::Closed)
    }

    fn report_listed(&mut self) {
        if !std::mem::replace(&mut self.reported_listed, true) {
            // Without a receiver nobody waits for it.
            let _ = self.context.listed.send(());
        }
    }

    fn note_version(&mut self, version: &str) {
        self.highest_version = self.highest_version.max(parse_version(version));
    }
}

/// The lines of a watch, of which the last may still be incomplete.
struct Lines {
    codec: LinesCodec,
    buffer: BytesMut,
}

impl Default for Lines {
    fn default() -> Self {
        Self { codec: LinesCodec::new_with_max_length(LONGEST_LINE), buffer: BytesMut::new() }
    }
}

impl Lines {
    /// Returns the next complete line that is not empty.
    fn next(&mut self) -> Result<Option<String>, RequestError> {
        loop {
            match self.codec.decode(&mut self.buffer) {
                Ok(Some(line)) if line.trim_ascii().is_empty() => {}
                Ok(line) => return Ok(line),
                Err(LinesCodecError::MaxLineLengthExceeded) => {
                    return Err(RequestError::Unavailable("a watch event is longer than any object".to_owned()));
                }
                Err(LinesCodecError::Io(error)) => return Err(unreadable(error)),
            }
        }
    }
}

/// Returns the error for an event that cannot be read. Which object it was about is unknown, so only a list can tell what changed.
fn unreadable(error: impl std::fmt::Display) -> RequestError {
    RequestError::Expired(format!("a watch event cannot be read: {error}"))
}

/// Returns whether the next watch would not continue what the cache holds.
fn must_list_again(interruption: &Interruption) -> bool {
    matches!(interruption, Interruption::FilterChanged | Interruption::Failed(RequestError::Expired(_) | RequestError::NotFound(_)))
}

/// Returns the next piece of a watch, or `None` when the watch is over for whatever reason: opening it again shows what is
/// wrong, if anything is.
async fn next_chunk(body: &mut Body, source: &SmolStr) -> Option<bytes::Bytes> {
    loop {
        let frame = match timeout_at(Instant::now() + SILENCE, body.frame()).await {
            Ok(frame) => frame?,
            Err(_) => {
                tracing::debug!(%source, "the watch brought nothing for a long time; it is opened again");
                return None;
            }
        };
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) => return Some(data),
            Ok(Err(_)) => {}
            Err(error) => {
                tracing::info!(%source, %error, "the watch broke off; it is opened again");
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_however_they_arrive() {
        let mut lines = Lines::default();
        lines.buffer.extend_from_slice(b"{a}\n\n{");
        assert_eq!(lines.next(), Ok(Some("{a}".to_owned())));
        assert_eq!(lines.next(), Ok(None));
        lines.buffer.extend_from_slice(b"b}\n{c}");
        assert_eq!(lines.next(), Ok(Some("{b}".to_owned())));
        assert_eq!(lines.next(), Ok(None));
        lines.buffer.extend_from_slice(&vec![b'x'; LONGEST_LINE]);
        assert!(matches!(lines.next(), Err(RequestError::Unavailable(_))));
    }

    #[test]
    fn a_line_that_is_no_text_makes_the_reflector_list_again() {
        let mut lines = Lines::default();
        lines.buffer.extend_from_slice(b"{\"\xff\"}\n");
        let error = lines.next().unwrap_err();
        assert!(must_list_again(&error.into()));
    }
}

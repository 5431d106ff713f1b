//! Turns to fetch: so many at a time for one namespace, at one server, and in all. Who never answers holds back nobody else's for long,
//! and nobody is asked by all of us at once.

use std::{collections::BTreeMap, sync::Arc};

use smol_str::{SmolStr, StrExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// How many issuers are asked at the same time.
pub(super) const AT_ONCE: usize = 64;
/// How many of them for one namespace.
const OF_NAMESPACE: usize = 16;
/// How many of them at one server.
const AT_SERVER: usize = 8;

/// The turns of all, of those namespaces that have key sets, and of the servers that have them.
#[derive(Debug)]
pub(super) struct Turns {
    of_namespaces: BTreeMap<SmolStr, Arc<Semaphore>>,
    at_servers: BTreeMap<SmolStr, Arc<Semaphore>>,
    among_all: Arc<Semaphore>,
}

/// What a fetch waits for.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    of_namespace: Arc<Semaphore>,
    at_server: Arc<Semaphore>,
    among_all: Arc<Semaphore>,
}

impl Default for Turns {
    fn default() -> Self {
        let among_all = Arc::new(Semaphore::new(AT_ONCE));
        Self { of_namespaces: BTreeMap::new(), at_servers: BTreeMap::new(), among_all }
    }
}

impl Turns {
    /// Keeps the turns of these namespaces and of the servers of these URLs, and of no others.
    pub(super) fn keep<'a>(&mut self, namespaces: impl Iterator<Item = &'a SmolStr>, urls: impl Iterator<Item = &'a SmolStr>) {
        keep(&mut self.of_namespaces, namespaces.cloned(), OF_NAMESPACE);
        keep(&mut self.at_servers, urls.map(|url| server_of(url)), AT_SERVER);
    }

    /// Returns where to wait for a fetch of a URL for a namespace, both of which are [kept](Self::keep).
    pub(super) fn queue(&self, namespace: &SmolStr, url: &str) -> Queue {
        let of = |turns: &BTreeMap<SmolStr, Arc<Semaphore>>, name: &SmolStr| turns.get(name).unwrap_or(&self.among_all).clone();
        Queue {
            of_namespace: of(&self.of_namespaces, namespace),
            at_server: of(&self.at_servers, &server_of(url)),
            among_all: Arc::clone(&self.among_all),
        }
    }
}

impl Queue {
    async fn turn(&self) -> Option<[OwnedSemaphorePermit; 3]> {
        // Who waits for its own namespace takes nobody's place at the server, and who waits for the server nobody's among all.
        let of_namespace = Arc::clone(&self.of_namespace).acquire_owned().await.ok()?;
        let at_server = Arc::clone(&self.at_server).acquire_owned().await.ok()?;
        Some([of_namespace, at_server, Arc::clone(&self.among_all).acquire_owned().await.ok()?])
    }
}

impl PartialEq for Queue {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.of_namespace, &other.of_namespace) && Arc::ptr_eq(&self.at_server, &other.at_server)
    }
}

/// Waits for a turn, in another queue as soon as there is one; `None`: nobody wants it any more.
pub(super) async fn turn(queue: &mut watch::Receiver<Queue>) -> Option<[OwnedSemaphorePermit; 3]> {
    loop {
        let now = queue.borrow_and_update().clone();
        tokio::select! {
            turn = now.turn() => return turn,
            changed = queue.changed() => changed.ok()?,
        }
    }
}

fn keep(turns: &mut BTreeMap<SmolStr, Arc<Semaphore>>, names: impl Iterator<Item = SmolStr>, most: usize) {
    let mut before = std::mem::take(turns);
    for name in names {
        let kept = before.remove(&name);
        turns.entry(name).or_insert_with(|| kept.unwrap_or_else(|| Arc::new(Semaphore::new(most))));
    }
}

fn server_of(url: &str) -> SmolStr {
    url.parse::<http::Uri>().ok().and_then(|url| Some(url.authority()?.as_str().to_lowercase_smolstr())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn taken(queue: &Queue) -> Option<[OwnedSemaphorePermit; 3]> {
        queue.turn().now_or_never().flatten()
    }

    #[test]
    fn a_namespace_and_a_server_have_their_turns_and_no_more() {
        let mut turns = Turns::default();
        let (crowd, shop) = (SmolStr::from("crowd"), SmolStr::from("shop"));
        let urls: Vec<SmolStr> = (0..100).map(|at| format!("https://issuer-{at}.example.com/keys").into()).collect();
        turns.keep([&crowd, &shop].into_iter(), urls.iter());
        let all: Vec<_> = urls.iter().filter_map(|url| taken(&turns.queue(&crowd, url))).collect();
        assert_eq!(all.len(), OF_NAMESPACE);
        let at_server: Vec<_> = urls.iter().filter_map(|_| taken(&turns.queue(&shop, &urls[50]))).collect();
        assert_eq!(at_server.len(), AT_SERVER);
        assert!(taken(&turns.queue(&shop, "https://ISSUER-50.example.com/others")).is_none(), "the same server");
        assert!(taken(&turns.queue(&shop, &urls[51])).is_some(), "another");
        // What was taken of one that is kept stays taken.
        turns.keep([&crowd].into_iter(), urls.iter());
        assert!(taken(&turns.queue(&crowd, &urls[99])).is_none());
    }

    #[tokio::test]
    async fn who_waits_goes_where_there_is_a_turn() {
        let mut turns = Turns::default();
        let (crowd, shop, url) = (SmolStr::from("crowd"), SmolStr::from("shop"), SmolStr::from("https://a.example.com"));
        turns.keep([&crowd, &shop].into_iter(), [&url].into_iter());
        let _all: Vec<_> = (0..OF_NAMESPACE).filter_map(|_| Arc::clone(&turns.of_namespaces[&crowd]).try_acquire_owned().ok()).collect();
        let (sender, mut queue) = watch::channel(turns.queue(&crowd, &url));
        let mut waits = Box::pin(turn(&mut queue));
        assert!((&mut waits).now_or_never().is_none());
        sender.send(turns.queue(&shop, &url)).unwrap();
        assert!(waits.await.is_some());
        drop(sender);
    }
}

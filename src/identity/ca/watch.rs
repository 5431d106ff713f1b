//! Watches the CA folder and offers what it holds to the CA in use.
//!
//! It polls: a mounted Secret changes when a link above the files is swapped, which only some file systems report as an event.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::{CaHandle, OfferOutcome, load};
use crate::identity::{Clock, metrics::CaMetrics};

const POLL: Duration = Duration::from_millis(500);
/// How long the folder must be quiet: the four files are rarely written at one moment (contract §4.4).
const DEBOUNCE: Duration = Duration::from_millis(100);

/// Runs until `shutdown`: loads and checks a folder that changed, and offers the CA to `handle`. What is refused is logged and
/// changes nothing.
pub async fn watch(folder: PathBuf, handle: Arc<CaHandle>, clock: Clock, metrics: CaMetrics, shutdown: CancellationToken) {
    let mut last = None;
    loop {
        let found = settled(&folder).await;
        if last.as_ref() != Some(&found) {
            reload(&folder, &handle, &clock);
            last = Some(found);
        }
        let ca = handle.current();
        ca.record(&metrics);
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(POLL) => {}
        }
    }
}

fn reload(folder: &Path, handle: &CaHandle, clock: &Clock) {
    let offered = match load(folder, clock()) {
        Ok(offered) => offered,
        Err(error) => {
            error!(folder = %folder.display(), %error, "the CA folder changed and is refused; signing goes on with the CA in use");
            return;
        }
    };
    offered.log_passed_over();
    if let Some(error) = offered.unusable_revocation() {
        error!(folder = %folder.display(), %error, "the list of revoked certificates is refused; the one in use stays");
    }
    let (subject, serial, end) = (offered.certificate().subject.clone(), offered.certificate().serial.clone(), offered.not_after());
    match handle.offer(offered) {
        Ok(OfferOutcome::Unchanged) => {}
        Ok(OfferOutcome::Accepted) => info!(
            subject, serial, not_after = %end,
            "Istiod has detected the newly added intermediate CA and updated its key and certs accordingly"
        ),
        Err(error) => error!(folder = %folder.display(), %error, "the CA folder changed and is refused"),
    }
}

type Listing = Vec<(PathBuf, Option<SystemTime>, u64)>;

async fn settled(folder: &Path) -> Listing {
    let mut last = listing(folder);
    loop {
        tokio::time::sleep(DEBOUNCE).await;
        let next = listing(folder);
        if next == last {
            return last;
        }
        last = next;
    }
}

fn listing(folder: &Path) -> Listing {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut listing: Listing =
        entries.filter_map(|path| fs::metadata(&path).ok().map(|metadata| (path, metadata.modified().ok(), metadata.len()))).collect();
    listing.sort();
    listing
}

//! A place in the network: the node, or a pod. What runs there has that place's addresses, routes and rules.

use std::{fs::File, path::Path, thread};

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns};
use tokio::runtime::{Builder, Handle, Runtime};

/// A runtime whose threads are in a network namespace. Its tasks end when it is dropped.
#[derive(Debug)]
pub struct Place {
    runtime: Option<Runtime>,
    handle: Handle,
}

impl Place {
    /// Enters the namespace that a file (`/proc/<id>/ns/net`) stands for.
    ///
    /// # Errors
    /// When there is none, or without root.
    pub fn enter(namespace: &Path) -> Result<Self> {
        let file = File::open(namespace).with_context(|| format!("network namespace {}", namespace.display()))?;
        // A runtime's threads are where the thread was that made it; that thread cannot go back, so it is one of its own.
        let made = thread::spawn(move || -> Result<Runtime> {
            setns(file, CloneFlags::CLONE_NEWNET).context("enter the namespace")?;
            Ok(Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
        });
        let runtime = made.join().map_err(|_| anyhow!("the thread in the namespace panicked"))??;
        Ok(Self { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }

    /// Runs something there, to its end.
    ///
    /// # Errors
    /// Its own, or when it panicked.
    pub async fn run<T: Send + 'static>(&self, what: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
        self.handle.spawn(what).await?
    }

    /// Returns the runtime there.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

//! Threads of their own for what must be answered whatever else happens: a stream of ADS that computes, or many, holds up neither
//! `/ready` and `/metrics` nor the webhooks.

use tokio::{
    net::TcpListener,
    runtime::{Builder, Handle, Runtime},
};

/// The runtimes besides the one that serves proxies. Dropping it ends them without waiting.
#[derive(Debug)]
pub(super) struct Threads {
    /// `/ready`, `/metrics` and debug pages (8080, 15014).
    pages: Own,
    /// The webhooks (15017).
    webhooks: Own,
}

impl Threads {
    /// Starts them.
    ///
    /// # Errors
    /// When the system gives us no thread.
    pub(super) fn start() -> std::io::Result<Self> {
        Ok(Self { pages: Own::start("pages", 1, 2)?, webhooks: Own::start("webhooks", 2, 4)? })
    }

    /// Returns the runtime of the pages.
    pub(super) fn pages(&self) -> &Handle {
        &self.pages.handle
    }

    /// Returns the runtime of the webhooks.
    pub(super) fn webhooks(&self) -> &Handle {
        &self.webhooks.handle
    }
}

/// A runtime that is ended without waiting: waiting is not allowed where it is dropped.
#[derive(Debug)]
struct Own {
    handle: Handle,
    runtime: Option<Runtime>,
}

impl Own {
    fn start(name: &str, workers: usize, blocking: usize) -> std::io::Result<Self> {
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(workers).max_blocking_threads(blocking).thread_name(name).enable_all();
        let runtime = builder.build()?;
        Ok(Self { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Has a listener wake the tasks of another runtime.
///
/// # Errors
/// When the system refuses it.
pub(super) fn hand_over(listener: TcpListener, to: &Handle) -> std::io::Result<TcpListener> {
    let listener = listener.into_std()?;
    let _runtime = to.enter();
    TcpListener::from_std(listener)
}

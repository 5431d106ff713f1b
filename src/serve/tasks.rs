//! The tasks of a control plane, and how they end.

use std::time::Duration;

use tokio::runtime::Handle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How much longer than its grace a drain may take: tasks need a moment to end after their streams.
const MARGIN: Duration = Duration::from_secs(1);

/// Everything that is stopped on SIGTERM. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub(super) struct Tasks {
    /// Cancelled when the control plane is asked to end.
    pub(super) shutdown: CancellationToken,
    /// The tasks that a drain waits for.
    pub(super) tracker: TaskTracker,
}

impl Tasks {
    /// Starts a task that ends by itself on `shutdown`.
    pub(super) fn spawn<F>(&self, task: F)
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tracker.spawn(task);
    }

    /// Starts a task that has nothing to finish: it is dropped on `shutdown`.
    pub(super) fn spawn_until_shutdown(&self, task: impl Future<Output = ()> + Send + 'static) {
        let shutdown = self.shutdown.clone();
        self.tracker.spawn(async move {
            shutdown.run_until_cancelled(task).await;
        });
    }

    /// Starts such a task on another runtime.
    pub(super) fn spawn_on<F>(&self, task: F, runtime: &Handle)
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tracker.spawn_on(task, runtime);
    }

    /// Asks all tasks to end and waits until they have, for `grace` and a moment at most.
    pub(super) async fn drain(&self, grace: Duration) {
        tracing::info!(?grace, "draining");
        self.shutdown.cancel();
        self.tracker.close();
        if tokio::time::timeout(grace + MARGIN, self.tracker.wait()).await.is_err() {
            tracing::warn!("some tasks did not end in time");
        }
    }
}

//! Callers who are many, and come again when their connections end.

use std::{net::IpAddr, time::Duration};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{
    runtime::{Builder, Runtime},
    time::sleep,
};

use super::stage::Stage;

/// How many connections are opened to each port, as far as this process may have that many.
const MOST: usize = 10_000;
/// How many files the tests need for other things.
const OTHERS: u64 = 2_000;
/// From how many addresses they come.
const ADDRESSES: usize = 20;
/// The pause before a caller comes again. As the attack of the review: not as fast as the machine can.
const PAUSE: Duration = Duration::from_millis(500);

/// Callers on a thread of their own: the good client waits for the control plane, not for them. Dropping it sends them away.
pub(crate) struct Crowd(Option<Runtime>);

impl Crowd {
    /// Has that many callers call, each again and again; a call is told the number of its caller and from which address it comes.
    pub(crate) fn gather<F>(stage: &Stage, count: usize, call: impl Fn(usize, IpAddr) -> F + Clone + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("crowd").enable_all().build().unwrap();
        let to_each = count.div_ceil(ADDRESSES);
        for number in 0..count {
            let (call, from) = (call.clone(), stage.attacker(2 + u8::try_from(number / to_each).unwrap()));
            runtime.spawn(async move {
                loop {
                    call(number, from).await;
                    sleep(PAUSE).await;
                }
            });
        }
        Self(Some(runtime))
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        // Waiting for it is not allowed here.
        self.0.take().unwrap().shutdown_background();
    }
}

/// Raises this process's own limit of files, and returns how many connections it allows.
pub(crate) fn as_many_as_allowed() -> usize {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    usize::try_from(hard.saturating_sub(OTHERS)).unwrap().min(MOST)
}

//! Open-loop load: requests leave at fixed times, whether earlier ones were answered or not, and a request's
//! latency counts from the time it was due. A stall is thus seen by every request that it delays.

mod held;
mod outcome;
mod request;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::{runtime::Handle, task::JoinSet};

pub use self::outcome::{Answer, Connection, Failure, Outcome, Sample, Window};
use self::request::Pool;

/// A way into the mesh.
#[derive(Clone, Debug)]
pub struct Path {
    /// Its name in tables: `gateway`, `mesh`.
    pub name: &'static str,
    /// Where to connect.
    pub target: SocketAddr,
    /// The `Host` of its requests.
    pub host: String,
}

/// What to send.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The ways into the mesh, each with the whole rate.
    pub paths: Vec<Path>,
    /// Requests per second on each path.
    pub rate: u32,
    /// An answer later than this is a failure.
    pub late: Duration,
    /// Every n-th request opens a connection of its own; the others keep theirs alive.
    pub fresh_every: u32,
    /// HTTP connections on each path that are mostly idle and must stay usable.
    pub idle_connections: u32,
    /// Where long-lived TCP connections echo, and how many.
    pub tcp: Option<(SocketAddr, u32)>,
}

impl Plan {
    /// Makes the plan of the tests: a tenth on fresh connections, four idle connections a path, one second is late.
    pub fn new(paths: Vec<Path>, rate: u32) -> Self {
        Self { paths, rate, late: Duration::from_secs(1), fresh_every: 10, idle_connections: 4, tcp: None }
    }
}

/// Load that is running; it ends when stopped or dropped.
#[derive(Debug)]
pub struct Load {
    record: Record,
    tasks: JoinSet<()>,
    late: Duration,
}

type Record = Arc<Mutex<Vec<Outcome>>>;

impl Load {
    /// Starts sending.
    pub fn start(plan: &Plan) -> Self {
        let mut load = Self { record: Record::default(), tasks: JoinSet::new(), late: plan.late };
        load.send_from(plan, &Handle::current());
        load
    }

    /// Sends this as well, from another runtime: its threads may be in another network namespace.
    pub fn send_from(&mut self, plan: &Plan, runtime: &Handle) {
        let (tasks, record) = (&mut self.tasks, &self.record);
        self.late = self.late.max(plan.late);
        for path in &plan.paths {
            tasks.spawn_on(send_at_rate(path.clone(), plan.clone(), record.clone()), runtime);
            for number in 0..plan.idle_connections {
                tasks.spawn_on(held::keep_http(path.clone(), number, plan.late, record.clone()), runtime);
            }
        }
        if let Some((target, connections)) = plan.tcp {
            for number in 0..connections {
                tasks.spawn_on(held::keep_tcp(target, number, plan.late, record.clone()), runtime);
            }
        }
    }

    /// Returns what was answered (or failed) so far.
    pub fn so_far(&self) -> Window {
        Window::new(self.record.lock().clone())
    }

    /// Returns what was sent since `start` and is answered (or failed) by now.
    pub fn since(&self, start: Instant) -> Window {
        Window::new(self.record.lock().iter().filter(|outcome| outcome.sent >= start).cloned().collect())
    }

    /// Stops sending, waits for the last answers, and gives everything.
    pub async fn stop(mut self) -> Window {
        self.tasks.abort_all();
        while self.tasks.join_next().await.is_some() {}
        // Requests in flight are tasks of their own: each ends by its bound.
        let deadline = Instant::now() + self.late + Duration::from_millis(200);
        while Arc::strong_count(&self.record) > 1 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.so_far()
    }
}

async fn send_at_rate(path: Path, plan: Plan, record: Record) {
    let pool = Arc::new(Pool::default());
    let start = Instant::now();
    for number in 0_u32.. {
        let due = start + Duration::from_secs(1) * number / plan.rate;
        tokio::time::sleep_until(due.into()).await;
        let fresh = number % plan.fresh_every == 0;
        tokio::spawn(request::send(path.clone(), pool.clone(), fresh, due, plan.late, record.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{address::Loopback, workload::Workload};

    fn plan(network: &Loopback) -> Plan {
        let path = Path { name: "direct", target: network.socket(1, 9080), host: "reviews".to_owned() };
        let mut plan = Plan::new(vec![path], 200);
        plan.tcp = Some((network.socket(1, 9000), 1));
        plan
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn it_holds_its_rate_and_sees_versions() {
        let network = Loopback::free().unwrap();
        let plan = plan(&network);
        let _workload = Workload::start("v1", network.socket(1, 9080), Some(network.socket(1, 9000))).await.unwrap();
        let load = Load::start(&plan);
        tokio::time::sleep(Duration::from_millis(1000)).await;
        let window = load.stop().await;
        assert!(window.failures().is_empty(), "{:?}", window.failures());
        let sample = window.sample("direct");
        assert!((150..=230).contains(&sample.total), "{sample:?}");
        assert_eq!(sample.of("v1"), sample.total);
        assert!(window.outcomes().iter().any(|outcome| outcome.connection == Connection::Tcp));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn nobody_there_is_a_failure_of_every_request() {
        let network = Loopback::free().unwrap();
        let load = Load::start(&plan(&network));
        tokio::time::sleep(Duration::from_millis(300)).await;
        let window = load.stop().await;
        assert!(window.failures().len() > 20);
        assert_eq!(window.failures().len(), window.outcomes().len());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_answer_that_comes_late_is_a_failure() {
        let network = Loopback::free().unwrap();
        // Accepts, and never answers.
        let _silent = tokio::net::TcpListener::bind(network.socket(1, 9080)).await.unwrap();
        let mut plan = plan(&network);
        plan.late = Duration::from_millis(100);
        plan.tcp = None;
        let load = Load::start(&plan);
        tokio::time::sleep(Duration::from_millis(400)).await;
        let window = load.stop().await;
        let failures = window.failures();
        assert!(!failures.is_empty() && failures.iter().all(|failure| failure.reason.contains("late")), "{failures:?}");
    }
}

//! A random walk of weights, subsets and whole backends under load: no request may fail because of the order in
//! which a proxy is told. `WALK_STEPS` sets its length, `WALK_SEED` walks the same way again.

use std::{
    env,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use harness::{
    load::Window,
    mesh::{GATEWAY, Mesh, PUBLIC_HOST, REVIEWS_V1, REVIEWS_V2, VIRTUAL_SERVICE, VIRTUAL_SERVICE_FILE},
    random::{Random, fresh_seed},
    said::say,
};

use crate::mesh::{Measured, judge_shares, no_failures, start, turn};

/// Requests per second on each of the two paths.
const RATE: u32 = 200;
/// Every so many steps one is held and its shares are judged.
const HELD_EVERY: u32 = 50;
/// Requests on each of the two paths while a step is held.
const SAMPLE: u64 = 1000;

#[tokio::test(flavor = "multi_thread")]
async fn envoy_1_40_delta() -> Result<()> {
    walk("1.40", true).await
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_1_40_state_of_the_world() -> Result<()> {
    walk("1.40", false).await
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_1_38_delta() -> Result<()> {
    walk("1.38", true).await
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_1_38_state_of_the_world() -> Result<()> {
    walk("1.38", false).await
}

async fn walk(envoy_minor: &str, delta: bool) -> Result<()> {
    let _turn = turn().await?;
    let steps = number("WALK_STEPS")?.unwrap_or(200) as u32;
    let seed = number("WALK_SEED")?.unwrap_or_else(fresh_seed);
    let name = format!("walk Envoy {envoy_minor} {}: {steps} steps, WALK_SEED={seed}", if delta { "delta" } else { "state of the world" });
    let began = Instant::now();
    let requests = take_steps(envoy_minor, delta, steps, seed).await.with_context(|| name.clone())?;
    say(&format!("{name}: {requests} requests, none failed, {} s", began.elapsed().as_secs()));
    Ok(())
}

async fn take_steps(envoy_minor: &str, delta: bool, steps: u32, seed: u64) -> Result<usize> {
    let mut mesh = start(envoy_minor, delta).await?;
    widen_client(&mesh)?;
    let (mut random, mut place) = (Random::seeded(seed), Place::default());
    mesh.apply(VIRTUAL_SERVICE_FILE, &place.yaml(&mesh), VIRTUAL_SERVICE).await?;
    let measured = Measured::start(&mesh, RATE).await?;
    let tests = 2 * (steps / HELD_EVERY) as usize;
    let mut taken_steps = Vec::new();
    for number in 1..=steps {
        let action = place.step(&mut random);
        let began = Instant::now();
        taken_steps.push((began, format!("step {number}: {action}")));
        let taken = mesh.apply(VIRTUAL_SERVICE_FILE, &place.yaml(&mesh), VIRTUAL_SERVICE).await;
        taken.with_context(|| format!("step {number}: {action}"))?;
        if number % HELD_EVERY == 0 {
            let held = judge_shares(&measured, &mut mesh, SAMPLE, place.v2_percent, tests).await;
            held.with_context(|| format!("held at step {number}: {}", blamed(&taken_steps, &measured.load.so_far())))?;
        }
        // A late request is known to be late a second after it was sent, steps later: the step is that of its sending.
        let window = measured.load.since(began - Duration::from_secs(2));
        no_failures(&window, &mut mesh).with_context(|| blamed(&taken_steps, &window))?;
    }
    let finished = measured.finish(&mut mesh).await?;
    finished.judge(&mut mesh).with_context(|| blamed(&taken_steps, &finished.window))?;
    Ok(finished.window.outcomes().len())
}

/// Returns the step under way when the first request that failed was sent.
fn blamed(steps: &[(Instant, String)], window: &Window) -> String {
    let first = window.failures().iter().map(|failure| failure.sent).min();
    let step = first.and_then(|sent| steps.iter().rev().find(|(began, _)| *began <= sent));
    step.map_or_else(|| "no request failed".to_owned(), |(_, action)| format!("first failure sent during {action}"))
}

/// Lets the client reach every service of its namespace, since the walk makes new ones.
fn widen_client(mesh: &Mesh) -> Result<()> {
    let text = mesh.manifests().read("sidecars.yaml")?;
    mesh.manifests().write("sidecars.yaml", &text.replace("./reviews.shop.svc.cluster.local", "./*"))
}

fn number(variable: &str) -> Result<Option<u64>> {
    env::var(variable).ok().map(|text| text.parse().with_context(|| format!("{variable}={text}"))).transpose()
}

/// Where the walk is: which weights, which names of subsets, which name of the backend, which further listener of the
/// gateway.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    v2_percent: u32,
    subsets: u32,
    backend: u32,
    listener: u32,
}

impl Place {
    /// Goes somewhere else, and says how.
    fn step(&mut self, random: &mut Random) -> String {
        let kind = random.within(0..10);
        let before = *self;
        if kind < 4 || kind == 9 {
            self.v2_percent = other_weight(self.v2_percent, random);
        }
        if (4..7).contains(&kind) || kind == 9 {
            self.subsets += 1;
        }
        if kind >= 7 {
            self.backend += 1;
        }
        // Listeners come and go beside those under load.
        if random.within(0..3) == 0 {
            self.listener += 1;
        }
        format!("{before:?} to {self:?}")
    }

    /// Returns the objects of this place in one file: they change in one step, the old going as the new come. Backends
    /// are younger than `reviews`, whose sidecars name their oldest service in what they receive.
    fn yaml(&self, mesh: &Mesh) -> String {
        let Self { v2_percent, subsets, backend, listener } = self;
        let (v1, v2) = (mesh.network().address(REVIEWS_V1.host), mesh.network().address(REVIEWS_V2.host));
        format!(
            r#"apiVersion: v1
kind: Service
metadata: {{name: backend-{backend}, namespace: shop, creationTimestamp: "2026-01-01T00:00:00Z"}}
spec: {{clusterIP: 10.97.{high}.{low}, selector: {{app: reviews}}, ports: [{{name: http, port: 9080, targetPort: 9080}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: backend-{backend}, namespace: shop, labels: {{kubernetes.io/service-name: backend-{backend}}}}}
addressType: IPv4
ports: [{{name: http, port: 9080, protocol: TCP}}]
endpoints:
- {{addresses: [{v1}], conditions: {{ready: true}}, targetRef: {{kind: Pod, name: reviews-v1-1, namespace: shop}}}}
- {{addresses: [{v2}], conditions: {{ready: true}}, targetRef: {{kind: Pod, name: reviews-v2-1, namespace: shop}}}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: backend-{backend}, namespace: shop}}
spec:
  host: backend-{backend}.shop.svc.cluster.local
  subsets:
  - {{name: stable-{subsets}, labels: {{version: v1}}}}
  - {{name: canary-{subsets}, labels: {{version: v2}}}}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: further-{listener}, namespace: shop}}
spec:
  selector: {{istio: ingressgateway}}
  servers: [{{port: {{number: {further}, name: http, protocol: HTTP}}, bind: {gateway}, hosts: [further.example.com]}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: reviews, namespace: shop, annotations: {{step: "{backend}/{subsets}/{v2_percent}"}}}}
spec:
  hosts: [reviews.shop.svc.cluster.local, {PUBLIC_HOST}]
  gateways: [shop/public, mesh]
  http:
  - retries: {{attempts: 0}}
    route:
    - {{destination: {{host: backend-{backend}.shop.svc.cluster.local, subset: stable-{subsets}}}, weight: {v1_percent}}}
    - {{destination: {{host: backend-{backend}.shop.svc.cluster.local, subset: canary-{subsets}}}, weight: {v2_percent}}}
"#,
            high = backend / 250,
            low = backend % 250 + 1,
            gateway = mesh.network().address(GATEWAY.host),
            further = 20_000 + listener % 1_000,
            v1_percent = 100 - v2_percent,
        )
    }
}

fn other_weight(current: u32, random: &mut Random) -> u32 {
    const WEIGHTS: [u32; 9] = [0, 1, 10, 25, 50, 75, 90, 99, 100];
    let others = WEIGHTS.iter().filter(|weight| **weight != current).collect::<Vec<_>>();
    *others[random.within(0..others.len() as u64) as usize]
}

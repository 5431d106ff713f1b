//! Limits in real Envoys: so many requests are taken and no more, of each header's value and each client by itself, and a limit changes
//! while connections go on.

use anyhow::{Context, Result, ensure};
use harness::{
    http_client::{Connection, get_with},
    load::Path,
    mesh::{CONVERGE, Mesh},
    wait,
};
use http::StatusCode;

use crate::{
    counting::{Asked, Counting},
    mesh::{start, turn},
};

const FILE: &str = "rate-limits.yaml";
/// What an answer to a request has that met a limit: how many were possible at once.
const LIMIT: &str = "x-ratelimit-limit";
/// How many requests are sent at most until one is over the limit.
const MOST: usize = 60;
/// How many answers in a row must be refusals.
const REFUSALS: usize = 5;

/// A mesh, whose gateway and client call the first version of `reviews`.
struct Stage {
    mesh: Mesh,
}

impl Stage {
    async fn start(envoy_minor: &str, delta: bool) -> Result<Self> {
        Ok(Self { mesh: start(envoy_minor, delta).await? })
    }

    /// Writes a policy with one limit, which nothing is added to while the test runs.
    fn limit(&self, target: &str, limit: &str) -> Result<()> {
        let text = format!(
            "apiVersion: istiod-lite.io/v1alpha1\nkind: RateLimitPolicy\nmetadata: {{name: few, namespace: shop}}\n\
             spec: {{{target}, limits: [{{name: each, interval: 24h, headers: true, {limit}}}]}}\n"
        );
        self.mesh.manifests().write(FILE, &text)
    }

    /// Takes the policy away, and waits until requests meet no limit.
    async fn unlimited(&self, paths: &[&Path]) -> Result<()> {
        self.mesh.manifests().remove(FILE)?;
        for path in paths {
            wait::until("no limit", CONVERGE, || async {
                let answer = get_with(path.target, &path.host, "/", &[]).await?;
                ensure!(answer.status == StatusCode::OK && answer.header(LIMIT).is_empty(), "{} {:?}", answer.status, answer.headers);
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// Waits until requests meet a limit of that many at once. What this takes of it counts as well, and is returned: how many requests
    /// have been taken that met it.
    async fn until_limited(&self, way: &Way<'_>, at_once: u32) -> Result<usize> {
        let taken = std::cell::Cell::new(0);
        wait::until("the limit", CONVERGE, || async {
            let answer = way.ask().await?;
            ensure!(answer.limit == Some(at_once), "{:?} of {at_once}", answer.limit);
            taken.set(taken.get() + usize::from(answer.status == StatusCode::OK));
            Ok(())
        })
        .await?;
        Ok(taken.get())
    }

    /// Returns how many requests are taken until no more are.
    async fn taken(&self, way: &Way<'_>, at_once: u32) -> Result<usize> {
        let (mut taken, mut refused) = (self.until_limited(way, at_once).await?, 0);
        for _ in 0..MOST {
            match way.ask().await?.status {
                StatusCode::OK => (taken, refused) = (taken + 1, 0),
                StatusCode::TOO_MANY_REQUESTS => refused += 1,
                other => anyhow::bail!("{other}"),
            }
            if refused == REFUSALS {
                return Ok(taken);
            }
        }
        anyhow::bail!("{taken} are taken, and more")
    }

    /// Returns what a proxy has counted of the limit.
    async fn counted(&mut self, proxy: usize, what: &str) -> Result<Option<u64>> {
        let stats = self.mesh.proxies()[proxy].admin().stats().await?;
        Ok(stats.get(&format!("rate_limit.shop.few.each.http_local_rate_limit.{what}")).copied())
    }
}

/// A way to ask.
struct Way<'a> {
    path: &'a Path,
    uri: &'a str,
    headers: &'a [(&'a str, &'a str)],
}

/// What becomes of a request.
struct Answer {
    status: StatusCode,
    /// How many are possible at once, if the request met a limit.
    limit: Option<u32>,
}

impl Way<'_> {
    async fn ask(&self) -> Result<Answer> {
        let answer = get_with(self.path.target, &self.path.host, self.uri, self.headers).await?;
        Ok(Answer { status: answer.status, limit: answer.header(LIMIT).parse().ok() })
    }
}

fn way(path: &Path) -> Way<'_> {
    Way { path, uri: "/", headers: &[] }
}

/// Waits until a request is refused that comes another way: connections from before the limit do not meet it until they are drained.
async fn refused(way: &Way<'_>) -> Result<()> {
    wait::until("a refusal", CONVERGE, || async {
        let status = way.ask().await?.status;
        ensure!(status == StatusCode::TOO_MANY_REQUESTS, "{status}");
        Ok(())
    })
    .await
}

const OF_REVIEWS: &str = "selector: {matchLabels: {app: reviews}}";
const GATEWAY: usize = 0;
const CLIENT: usize = 1;
const REVIEWS: usize = 2;

#[tokio::test(flavor = "multi_thread")]
async fn so_many_requests_are_taken_and_no_more() -> Result<()> {
    let _turn = turn().await?;
    for (envoy, delta) in [("1.40", true), ("1.38", false)] {
        let mut stage = Stage::start(envoy, delta).await?;
        let paths = stage.mesh.paths();
        let [gateway, client] = [&paths[0], &paths[1]];
        // All together, whoever calls.
        stage.limit(OF_REVIEWS, "requests: 7")?;
        ensure!(stage.taken(&way(client), 7).await? == 7, "{envoy}");
        refused(&way(gateway)).await?;
        ensure!(stage.counted(REVIEWS, "ok").await? == Some(7));
        for other in [GATEWAY, CLIENT] {
            ensure!(stage.counted(other, "enabled").await?.is_none(), "{other} holds a limit that is not its own");
        }
        stage.unlimited(&[client, gateway]).await?;

        // At once no more than `burst`.
        stage.limit("targetRefs: [{kind: Service, name: reviews}]", "requests: 100, burst: 4")?;
        ensure!(stage.taken(&way(client), 4).await? == 4, "{envoy}");
        stage.unlimited(&[client, gateway]).await?;

        // At the gateway, and not behind it.
        stage.limit("targetRefs: [{group: networking.istio.io, kind: Gateway, name: public}]", "requests: 3")?;
        ensure!(stage.taken(&way(gateway), 3).await? == 3, "{envoy}");
        let inside = way(client).ask().await?;
        ensure!(inside.status == StatusCode::OK && inside.limit.is_none());
        stage.unlimited(&[gateway]).await?;
        stage.mesh.check_running()?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_value_and_each_client_has_a_count_of_its_own() -> Result<()> {
    let _turn = turn().await?;
    for (envoy, delta) in [("1.40", false), ("1.38", true)] {
        let mut stage = Stage::start(envoy, delta).await?;
        let paths = stage.mesh.paths();
        let [gateway, client] = [&paths[0], &paths[1]];
        stage.limit(OF_REVIEWS, "requests: 5, per: {header: x-user}")?;
        for headers in [&[("x-user", "alice")][..], &[("x-user", "bob")], &[]] {
            let of_one = Way { headers, ..way(client) };
            ensure!(stage.taken(&of_one, 5).await? == 5, "{envoy}: {headers:?}");
        }
        // A value is whoever says it.
        let alice = Way { headers: &[("x-user", "alice")], ..way(gateway) };
        refused(&alice).await.context(envoy)?;
        stage.unlimited(&[client]).await?;

        // The gateway and the client have proven to be somebody; whoever calls without a certificate is nobody.
        stage.mesh.manifests().write("permissive.yaml", PERMISSIVE)?;
        let nobody = Path { name: "nobody", target: stage.mesh.network().socket(4, 9080), host: client.host.clone() };
        wait::until("plain text", CONVERGE, || async {
            ensure!(way(&nobody).ask().await?.status == StatusCode::OK);
            Ok(())
        })
        .await?;
        stage.limit(OF_REVIEWS, "requests: 6, per: {clientIdentity: true}")?;
        for path in [gateway, client, &nobody] {
            ensure!(stage.taken(&way(path), 6).await? == 6, "{envoy}: {}", path.name);
        }
        stage.mesh.check_running()?;
    }
    Ok(())
}

const PERMISSIVE: &str = "
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: reviews, namespace: shop}
spec: {selector: {matchLabels: {app: reviews}}, mtls: {mode: PERMISSIVE}}
";

#[tokio::test(flavor = "multi_thread")]
async fn only_requests_that_match_count() -> Result<()> {
    let _turn = turn().await?;
    let mut stage = Stage::start("1.40", true).await?;
    let paths = stage.mesh.paths();
    let client = &paths[1];
    stage.limit(OF_REVIEWS, "requests: 4, match: {uri: {exact: /a.b}, method: {exact: GET}, headers: {x-tier: {prefix: free}}}")?;
    let free: &[(&str, &str)] = &[("x-tier", "free-1")];
    ensure!(stage.taken(&Way { uri: "/a.b?c=d", headers: free, path: client }, 4).await? == 4);
    for (uri, headers) in [("/a.b", &[][..]), ("/axb", free), ("/a.b/", free), ("/", free), ("/a.b", &[("x-tier", "paid")])] {
        let answer = Way { uri, headers, path: client }.ask().await?;
        ensure!(answer.status == StatusCode::OK && answer.limit.is_none(), "{uri} {headers:?}: {}", answer.status);
    }
    ensure!(Way { uri: "/a.b", headers: free, path: client }.ask().await?.status == StatusCode::TOO_MANY_REQUESTS);
    stage.mesh.check_running()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_changes_while_connections_go_on() -> Result<()> {
    let _turn = turn().await?;
    let mut stage = Stage::start("1.40", true).await?;
    let paths = stage.mesh.paths();
    let client = &paths[1];
    stage.limit(OF_REVIEWS, "requests: 3")?;
    ensure!(stage.taken(&way(client), 3).await? == 3);
    let before = listeners(&mut stage).await?;
    let mut long = Connection::open(client.target).await?;
    ensure!(long.get(&client.host, "/").await?.status == StatusCode::TOO_MANY_REQUESTS);
    stage.limit(OF_REVIEWS, "requests: 9")?;
    ensure!(stage.taken(&way(client), 9).await? == 9);
    ensure!(long.get(&client.host, "/").await?.status == StatusCode::TOO_MANY_REQUESTS && long.is_open());

    // What is only tried refuses nobody.
    stage.limit(OF_REVIEWS, "requests: 2, shadow: true")?;
    stage.until_limited(&way(client), 2).await?;
    for _ in 0..10 {
        ensure!(way(client).ask().await?.status == StatusCode::OK);
    }
    ensure!(long.get(&client.host, "/").await?.status == StatusCode::OK && long.is_open());
    ensure!(stage.counted(REVIEWS, "rate_limited").await? > stage.counted(REVIEWS, "enforced").await?);
    let after = listeners(&mut stage).await?;
    ensure!(after == before, "{before:?} became {after:?}");
    stage.unlimited(&[client]).await?;
    stage.mesh.check_running()
}

/// Returns how the listeners of `reviews` were changed so far.
async fn listeners(stage: &mut Stage) -> Result<Vec<(String, u64)>> {
    let stats = stage.mesh.proxies()[REVIEWS].admin().stats().await?;
    let changes = ["listener_added", "listener_modified", "listener_removed", "listener_in_place_updated"];
    let of_listeners = |name: &String| changes.iter().any(|what| name == &format!("listener_manager.{what}"));
    Ok(stats.into_iter().filter(|(name, _)| of_listeners(name)).collect())
}

/// The service that counts.
const COUNTER: u8 = 9;

/// Returns the objects of the service, and a policy that has the gateway ask it.
fn asking(mesh: &Mesh, fail_closed: bool) -> String {
    let address = mesh.network().address(COUNTER);
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: counter, namespace: shop}}
spec: {{clusterIP: 10.96.7.40, selector: {{app: counter}}, ports: [{{name: grpc, port: 8081}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: counter-a, namespace: shop, labels: {{kubernetes.io/service-name: counter}}}}
addressType: IPv4
ports: [{{name: grpc, port: 8081, protocol: TCP}}]
endpoints: [{{addresses: [{address}], conditions: {{ready: true}}}}]
---
apiVersion: istiod-lite.io/v1alpha1
kind: RateLimitPolicy
metadata: {{name: shared, namespace: shop}}
spec:
  targetRefs: [{{group: networking.istio.io, kind: Gateway, name: public}}]
  global:
    service: counter
    port: 8081
    domain: shop
    timeout: 5s
    failClosed: {fail_closed}
    descriptors:
    - entries: [{{key: part, value: cart, match: {{uri: {{prefix: /cart}}}}}}, {{key: user, header: x-user}}]
"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_counts_and_what_happens_without_it_is_as_told() -> Result<()> {
    let _turn = turn().await?;
    for (envoy, delta) in [("1.40", true), ("1.38", false)] {
        let mut stage = Stage::start(envoy, delta).await?;
        let (asked, at) = (Asked::default(), stage.mesh.network().socket(COUNTER, 8081));
        let counting = Counting::start(at, 4, &asked)?;
        let paths = stage.mesh.paths();
        let gateway = &paths[0];
        let of = |headers| Way { uri: "/cart?a=b", headers, path: gateway };
        let (alice, bob, nobody) = (of(&[("x-user", "alice")]), of(&[("x-user", "bob")]), of(&[]));
        let count = |of: &str| asked.lock().get(of).copied().unwrap_or_default();
        stage.mesh.manifests().write(FILE, &asking(&stage.mesh, true))?;
        // What passes before the filter is there is not counted.
        wait::until("the service to be asked", CONVERGE, || async {
            alice.ask().await?;
            ensure!(count("shop: part=cart,user=alice") > 0, "nobody asks");
            Ok(())
        })
        .await?;
        let mut passed = 1;
        while alice.ask().await?.status == StatusCode::OK {
            passed += 1;
            ensure!(passed <= 4, "{envoy}: {passed} pass");
        }
        ensure!(passed == 4, "{envoy}: {passed} pass");
        ensure!(get_with(gateway.target, &gateway.host, "/cart", &[("x-user", "alice")]).await?.header("x-envoy-ratelimited") == "true");
        ensure!(bob.ask().await?.status == StatusCode::OK && count("shop: part=cart,user=bob") == 1);
        // Without the header there is the rest, and of other parts nothing.
        ensure!(nobody.ask().await?.status == StatusCode::OK && count("shop: part=cart") == 1);
        ensure!(Way { uri: "/", ..of(&[("x-user", "alice")]) }.ask().await?.status == StatusCode::OK);
        ensure!(asked.lock().len() == 3, "{:?}", asked.lock());

        drop(counting);
        let until = async |what, way: &Way<'_>, status| {
            wait::until(what, CONVERGE, || async {
                let got = way.ask().await?.status;
                ensure!(got == status, "{got}");
                Ok(())
            })
            .await
        };
        until("a refusal without the service", &bob, StatusCode::INTERNAL_SERVER_ERROR).await?;
        stage.mesh.manifests().write(FILE, &asking(&stage.mesh, false))?;
        until("no refusal without the service", &alice, StatusCode::OK).await?;
        let _counting = Counting::start(at, 4, &asked)?;
        until("what was counted before", &alice, StatusCode::TOO_MANY_REQUESTS).await?;
        stage.mesh.manifests().remove(FILE)?;
        until("no limit", &alice, StatusCode::OK).await?;
        stage.mesh.check_running()?;
    }
    Ok(())
}

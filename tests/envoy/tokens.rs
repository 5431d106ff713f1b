//! Tokens as real Envoys judge them: what is no good token is refused at gateway and sidecar, routes follow claims, and an issuer's
//! keys change, and the issuer comes and goes, without a good token being refused.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Result, anyhow, ensure};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use harness::{
    address::Loopback,
    http_client::{get_text, get_with},
    issuer::Issuer,
    mesh::{CONVERGE, Mesh},
    wait,
};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::{
    issuer::{SigningKey, in_seconds, key_set},
    mesh::{options, start, turn},
};

/// The host number of the issuer in the mesh's network.
const ISSUER: u8 = 200;
/// The name of one whose keys the rules hold themselves.
const URL: &str = "https://issuer.example.com";

fn claims(issuer: &str, more: Value) -> Value {
    let mut claims = json!({"iss": issuer, "sub": "alice", "aud": "shop", "exp": in_seconds(600)});
    if let (Some(claims), Value::Object(more)) = (claims.as_object_mut(), more) {
        claims.extend(more);
    }
    claims
}

async fn status(target: SocketAddr, host: &str, token: Option<&str>) -> Result<u16> {
    let bearer = token.map(|token| format!("Bearer {token}"));
    let headers: Vec<(&str, &str)> = bearer.iter().map(|bearer| ("authorization", bearer.as_str())).collect();
    Ok(get_with(target, host, "/", &headers).await?.status.as_u16())
}

/// Returns each token with the status that it is to get, where `issuer` has this key; `None`: no token.
fn judged(issuer: &str, key: &SigningKey) -> Result<Vec<(&'static str, Option<String>, u16)>> {
    let claims = |more| claims(issuer, more);
    let good = claims(json!({}));
    let stranger = SigningKey::new("a")?;
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let unsigned = |alg: &str| format!("{}.{}.", part(json!({"alg": alg, "typ": "JWT", "kid": "a"})), part(good.clone()));
    let secret = |secret: &[u8]| {
        let header = Header { kid: Some("a".into()), ..Header::new(Algorithm::HS256) };
        encode(&header, &good, &EncodingKey::from_secret(secret))
    };
    let signed = key.sign(&good)?;
    let [header, payload, signature]: [&str; 3] = signed.split('.').collect::<Vec<_>>().try_into().map_err(|_| anyhow!("{signed}"))?;
    let admin = part(claims(json!({"sub": "root"})));
    let tampered = format!("{header}.{admin}.{signature}");
    let public = key.public().to_string();
    Ok(vec![
        ("none at all", None, 200),
        ("a good one", Some(signed.clone()), 200),
        ("one for several, us among them", Some(key.sign(&claims(json!({"aud": ["other", "shop"]})))?), 200),
        ("an expired one", Some(key.sign(&claims(json!({"exp": in_seconds(-3600)})))?), 401),
        ("one that is not yet valid", Some(key.sign(&claims(json!({"nbf": in_seconds(3600)})))?), 401),
        ("one for others", Some(key.sign(&claims(json!({"aud": "other"})))?), 403),
        ("one for nobody", Some(key.sign(&json!({"iss": issuer, "exp": in_seconds(600)}))?), 403),
        ("one of another issuer", Some(key.sign(&claims(json!({"iss": "https://evil.example.com"})))?), 401),
        ("one of nobody", Some(key.sign(&json!({"sub": "alice", "aud": "shop", "exp": in_seconds(600)}))?), 401),
        ("alg none", Some(unsigned("none")), 401),
        ("alg None", Some(unsigned("None")), 401),
        ("ES256 without a signature", Some(unsigned("ES256")), 401),
        ("the public point as a shared secret", Some(secret(key.point())?), 401),
        ("the public key's text as a shared secret", Some(secret(public.as_bytes())?), 401),
        ("the public key's PEM as a shared secret", Some(secret(key.pem().as_bytes())?), 401),
        ("an unknown key", Some(key.sign_as("b", &good)?), 401),
        ("a stranger's key under a known id", Some(stranger.sign(&good)?), 401),
        ("other claims under the same signature", Some(tampered), 401),
        ("no token", Some("nonsense".into()), 401),
        ("half a token", Some(format!("{header}.{payload}")), 401),
    ])
}

fn routes(bind: std::net::IpAddr) -> String {
    format!(
        r#"---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: claims, namespace: shop}}
spec:
  selector: {{istio: ingressgateway}}
  servers: [{{port: {{number: 80, name: http-claims, protocol: HTTP}}, bind: {bind}, hosts: [claims.example.com]}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: claims, namespace: shop}}
spec:
  hosts: [claims.example.com]
  gateways: [claims]
  http:
  - match: [{{headers: {{"@request.auth.claims[realm][roles]": {{exact: admin}}}}}}]
    directResponse: {{status: 201}}
  - match: [{{headers: {{"@request.auth.claims.group": {{prefix: staff}}}}, withoutHeaders: {{"@request.auth.claims.scope": {{exact: guest}}}}}}]
    directResponse: {{status: 202}}
  - match: [{{headers: {{"@request.auth.claims.sub": {{}}}}}}]
    directResponse: {{status: 203}}
  - directResponse: {{status: 404}}
"#
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_there_must_be_good_and_routes_follow_its_claims() -> Result<()> {
    let _turn = turn().await?;
    let mut mesh = start("1.40", true).await?;
    let key = SigningKey::new("a")?;
    let keys = key_set(&[&key]).to_string();
    let rule = format!("jwtRules: [{{issuer: '{URL}', audiences: [shop], jwks: '{keys}', forwardOriginalToken: true}}]");
    let object = |name: &str, namespace: &str, app: &str| {
        format!(
            "---\napiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
             spec: {{selector: {{matchLabels: {{app: {app}}}}}, {rule}}}\n"
        )
    };
    let objects = object("edge", "istio-system", "istio-ingressgateway") + &object("reviews", "shop", "reviews");
    let paths = mesh.paths();
    mesh.manifests().write("tokens.yaml", &(objects + &routes(paths[0].target.ip())))?;
    for path in &paths {
        wait::until("a refusal", CONVERGE, || async {
            let refused = status(path.target, &path.host, Some("nonsense")).await?;
            ensure!(refused == 401, "{}: {refused}", path.name);
            Ok(())
        })
        .await?;
        for (what, token, expected) in judged(URL, &key)? {
            // `reviews` has two pods, and one may have the rules before the other: what is asked for holds soon, and for good.
            wait::until(what, CONVERGE, || async {
                for _ in 0..4 {
                    let got = status(path.target, &path.host, token.as_deref()).await?;
                    ensure!(got == expected, "{}: {what}: {got}, not {expected}", path.name);
                }
                Ok(())
            })
            .await?;
        }
    }
    let by_claims = [
        (json!({"realm": {"roles": ["reader", "admin"]}}), 201),
        (json!({"realm": {"roles": "admin"}}), 201),
        (json!({"realm": {"roles": ["admins"]}, "group": "staff-1"}), 202),
        (json!({"group": "staff", "scope": "read guest"}), 203),
        (json!({"group": ["guests", "staff"], "scope": "read"}), 202),
        (json!({"realm": "admin"}), 203),
    ];
    for (more, expected) in by_claims {
        let token = key.sign(&claims(URL, more.clone()))?;
        wait::until("a route by claims", CONVERGE, || async {
            let got = status(paths[0].target, "claims.example.com", Some(&token)).await?;
            ensure!(got == expected, "{more}: {got}, not {expected}");
            Ok(())
        })
        .await?;
    }
    ensure!(status(paths[0].target, "claims.example.com", None).await? == 404, "a route by claims without a token");
    mesh.check_running()
}

/// Sends a token on and on, the one that is there now, and keeps what was answered but 200.
struct Traffic {
    token: Arc<Mutex<String>>,
    failures: Arc<Mutex<Vec<String>>>,
    ends: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<usize>,
}

impl Traffic {
    fn start(target: SocketAddr, host: String, token: String) -> Self {
        let (token, failures, ends) = (Arc::new(Mutex::new(token)), Arc::default(), Arc::<AtomicBool>::default());
        let task = tokio::spawn({
            let (token, failures, ends) = (Arc::clone(&token), Arc::<Mutex<Vec<String>>>::clone(&failures), Arc::clone(&ends));
            async move {
                let mut sent = 0;
                while !ends.load(Ordering::SeqCst) {
                    let now = token.lock().clone();
                    match status(target, &host, Some(&now)).await {
                        Ok(200) => {}
                        other => failures.lock().push(format!("request {sent}: {other:?}")),
                    }
                    sent += 1;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                sent
            }
        });
        Self { token, failures, ends, task }
    }

    async fn end(self) -> Result<usize> {
        self.ends.store(true, Ordering::SeqCst);
        let sent = self.task.await?;
        let failures = self.failures.lock();
        ensure!(failures.is_empty(), "{} of {sent} requests failed: {:?}", failures.len(), &failures[..failures.len().min(5)]);
        Ok(sent)
    }
}

async fn until_status(mesh: &Mesh, token: &str, expected: u16) -> Result<()> {
    let path = &mesh.paths()[0];
    wait::until(&format!("status {expected}"), CONVERGE, || async {
        let got = status(path.target, &path.host, Some(token)).await?;
        ensure!(got == expected, "{got}");
        Ok(())
    })
    .await
}

async fn until_told(mesh: &Mesh, words: &str) -> Result<()> {
    wait::until(words, CONVERGE, || async {
        let told = get_text(mesh.monitoring(), "/debug/diagnostics").await?;
        ensure!(told.contains(words), "{told}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_change_and_the_issuer_comes_and_goes_without_a_false_refusal() -> Result<()> {
    let _turn = turn().await?;
    let network = Loopback::free()?;
    let mut issuer = Issuer::new(network.socket(ISSUER, 8089))?;
    let url = issuer.url();
    let arguments = ["--jwks-refresh-interval", "1s", "--jwks-allowed-networks", &network.address(ISSUER).to_string()].map(Into::into);
    let mut mesh = Mesh::start_with(options("1.40", true)?, network, arguments.into()).await?;
    mesh.manifests().write(
        "tokens.yaml",
        &format!(
            "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: edge, namespace: istio-system}}\n\
             spec: {{selector: {{matchLabels: {{istio: ingressgateway}}}}, jwtRules: [{{issuer: '{url}', audiences: [shop]}}]}}\n"
        ),
    )?;
    let mut key = SigningKey::new("a")?;
    let good = |key: &SigningKey| key.sign(&claims(&url, json!({})));
    // The issuer is not there yet: no token is good, and it is told.
    issuer.publish(&key_set(&[&key]))?;
    until_status(&mesh, &good(&key)?, 401).await?;
    until_told(&mesh, "keys cannot be fetched, and until they are no token of this issuer is good").await?;
    issuer.start().await?;
    until_status(&mesh, &good(&key)?, 200).await?;

    // What is no good token is none by fetched keys either.
    let path = mesh.paths().remove(0);
    for (what, token, expected) in judged(&url, &key)? {
        let got = status(path.target, &path.host, token.as_deref()).await?;
        ensure!(got == expected, "by fetched keys: {what}: {got}, not {expected}");
    }
    let traffic = Traffic::start(path.target, path.host.clone(), good(&key)?);
    for turn in 1..=3 {
        let next = SigningKey::new(&turn.to_string())?;
        issuer.publish(&key_set(&[&key, &next]))?;
        until_status(&mesh, &good(&next)?, 200).await?;
        *traffic.token.lock() = good(&next)?;
        issuer.publish(&key_set(&[&next]))?;
        until_status(&mesh, &good(&key)?, 401).await?;
        key = next;
    }
    // A control plane that starts again has the keys before it has anything to say.
    let fetches = issuer.fetches();
    mesh.restart_control_plane().await?;
    wait::until("keys for the new control plane", CONVERGE, || async {
        ensure!(issuer.fetches() > fetches + 1, "{} fetches of {url}", issuer.fetches() - fetches);
        Ok(())
    })
    .await?;
    issuer.kill()?;
    until_told(&mesh, "keys cannot be fetched again, and the last ones stay").await?;
    until_status(&mesh, &good(&key)?, 200).await?;
    // It is back, and has other keys.
    let next = SigningKey::new("back")?;
    issuer.publish(&key_set(&[&key, &next]))?;
    issuer.start().await?;
    until_status(&mesh, &good(&next)?, 200).await?;
    let sent = traffic.end().await?;
    println!("{sent} requests with good tokens, none refused");
    mesh.check_running()
}

//! Who gets a certificate, and from what CA, with a real API server's tokens and Secrets.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
};

use anyhow::{Context, Result, ensure};
use harness::{
    kubernetes::{ApiServer, Object, Options},
    process::tail,
    wait,
};
use istiod_lite::identity::{
    ca::{SelfSigned, Serial},
    ceremony::{self, CaRequest, CaSubject},
    certificate::Certificate,
    key::{KeyType, PrivateKey},
};
use jiff::{SignedDuration, Timestamp};
use tonic::Code;

use crate::{replica::Installation, shop::PATIENCE};

const AUDIENCE: Option<&str> = Some("istio-ca");

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_good_while_its_pod_is() -> Result<()> {
    let plane = Installation::new(ApiServer::shared().await?, "mesh-tokens").await?;
    for pod in ["reviews-1", "reviews-2", "reviews-3"] {
        plane.pod("tokens", "reviews", pod).await?;
    }
    let wire = plane.api.relay().await?;
    let istiod = plane.start("istiod-1", 1, wire.address())?;
    istiod.wait_until_ready().await?;
    let root = plane.secret("istio-ca-secret").await?["root-cert.pem"].clone();
    let token = async |audience, pod| plane.api.token("tokens", "reviews", audience, pod).await;
    let (first, second, third) =
        (token(AUDIENCE, Some("reviews-1")).await?, token(AUDIENCE, Some("reviews-2")).await?, token(AUDIENCE, Some("reviews-3")).await?);

    let chain = istiod.certificate(&root, &first).await?;
    let identity = chain[0].spiffe_id().context("no SPIFFE id")?;
    ensure!(identity.to_string() == "spiffe://cluster.local/ns/tokens/sa/reviews", "{identity}");
    ensure!(istiod.metric(r#"istiod_lite_tokens{outcome="known_pod"}"#).await? == 1, "decided by the watched pods");

    // For somebody else, bound to no pod, and not a token at all.
    for audience in [None, Some("vault")] {
        let refused = istiod.certificate(&root, &token(audience, Some("reviews-1")).await?).await.unwrap_err();
        ensure!(refused.code() == Code::Unauthenticated, "{audience:?}: {refused}");
    }
    istiod.certificate(&root, &token(AUDIENCE, None).await?).await.context("a token bound to no pod is reviewed")?;
    ensure!(istiod.metric(r#"istiod_lite_tokens{outcome="reviewed"}"#).await? == 1);

    let pod = |name| Object { api_version: "v1", kind: "Pod", namespace: "tokens", name };
    plane.api.delete(pod("reviews-1")).await?;
    istiod.wait_for_answer(&root, &first, Code::Unauthenticated).await?;
    // The next pod of that name is another.
    plane.pod("tokens", "reviews", "reviews-1").await?;
    istiod.wait_for_answer(&root, &token(AUDIENCE, Some("reviews-1")).await?, Code::Ok).await?;
    istiod.wait_for_answer(&root, &first, Code::Unauthenticated).await?;

    // Without the API server pods that are known go on; what nobody here can decide may be asked again.
    plane.api.delete(pod("reviews-2")).await?;
    istiod.wait_for_answer(&root, &second, Code::Unauthenticated).await?;
    wire.cut();
    istiod.wait_for_answer(&root, &third, Code::Ok).await?;
    istiod.wait_for_answer(&root, &second, Code::Unavailable).await?;
    wire.mend();
    istiod.wait_for_answer(&root, &second, Code::Unauthenticated).await
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_a_new_key_of_the_cluster_are_good_at_once() -> Result<()> {
    let api = ApiServer::start(Options::default()).await?;
    let mut plane = Installation::new(Arc::new(api), "mesh-keys").await?;
    plane.pod("keys", "reviews", "reviews-1").await?;
    let istiod = plane.start("istiod-1", 1, plane.api.address())?;
    istiod.wait_until_ready().await?;
    let root = plane.secret("istio-ca-secret").await?["root-cert.pem"].clone();
    let old = plane.api.token("keys", "reviews", AUDIENCE, Some("reviews-1")).await?;
    istiod.wait_for_answer(&root, &old, Code::Ok).await?;
    Arc::get_mut(&mut plane.api).context("the API server is shared")?.rotate_token_key().await?;
    let new = plane.api.token("keys", "reviews", AUDIENCE, Some("reviews-1")).await?;
    istiod.wait_for_answer(&root, &new, Code::Ok).await?;
    istiod.wait_for_answer(&root, &old, Code::Ok).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_intermediate_in_cacerts_signs_without_a_failed_request() -> Result<()> {
    let plane = Installation::new(ApiServer::shared().await?, "mesh-cacerts").await?;
    plane.pod("cacerts", "reviews", "reviews-1").await?;
    let (company, stranger) = (Root::new()?, Root::new()?);
    let (first, second, foreign) = (company.intermediate("first")?, company.intermediate("second")?, stranger.intermediate("foreign")?);
    plane.put_secret("cacerts", &first).await?;
    let istiod = plane.start("istiod-1", 1, plane.api.address())?;
    istiod.wait_until_ready().await?;
    ensure!(plane.secret("istio-ca-secret").await.is_err(), "no root is made beside a CA that was given");
    let token = plane.api.token("cacerts", "reviews", AUDIENCE, Some("reviews-1")).await?;
    let root = company.certificate.pem();
    let signer = async || anyhow::Ok(istiod.certificate(&root, &token).await?.get(1).context("no intermediate")?.subject.clone());
    ensure!(signer().await?.contains("first"));

    let (done, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    let asking = async {
        while !done.load(SeqCst) {
            istiod.certificate(&root, &token).await.context("a request failed meanwhile")?;
            asked.fetch_add(1, SeqCst);
        }
        anyhow::Ok(())
    };
    let replacing = async {
        plane.put_secret("cacerts", &second).await?;
        let replaced = wait::until("the new intermediate to sign", PATIENCE, || async {
            let subject = signer().await?;
            ensure!(subject.contains("second"), "{subject} signs; log:\n{}", tail(&istiod.process.log(), 10));
            Ok(())
        })
        .await;
        done.store(true, SeqCst);
        replaced
    };
    tokio::try_join!(asking, replacing)?;
    ensure!(asked.load(SeqCst) > 0);
    istiod.wait_for_metric(r#"istiod_lite_ca_offers{secret="cacerts",result="accepted"} 1"#).await?;
    let log = istiod.process.log();
    ensure!(log.contains("Istiod has detected the newly added intermediate CA and updated its key and certs accordingly"), "{log}");

    // Neither one of another root, nor half of one, nor none at all, takes its place.
    plane.put_secret("cacerts", &foreign).await?;
    istiod.wait_for_metric(r#"istiod_lite_ca_offers{secret="cacerts",result="refused"} 1"#).await?;
    let mut half = second.clone();
    half.insert("ca-key.pem", foreign["ca-key.pem"].clone());
    plane.put_secret("cacerts", &half).await?;
    istiod.wait_for_metric(r#"istiod_lite_ca_offers{secret="cacerts",result="refused"} 2"#).await?;
    plane.api.delete(Object { api_version: "v1", kind: "Secret", namespace: &plane.namespace, name: "cacerts" }).await?;
    wait::until("the deletion to be named", PATIENCE, || async {
        ensure!(istiod.process.log().contains("the CA's Secret was deleted"));
        Ok(())
    })
    .await?;
    ensure!(signer().await?.contains("second"));
    let log = istiod.process.log();
    for key in [&first, &second, &foreign].map(|entries| entries["ca-key.pem"].lines().nth(1).unwrap_or_default().to_owned()) {
        ensure!(!key.is_empty() && !log.contains(&key), "a private key is in the log");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_the_ca_is_said_at_its_secret() -> Result<()> {
    let plane = Installation::new(ApiServer::shared().await?, "mesh-events").await?;
    let company = Root::new()?;
    // 49 days are left of it, and a day of its list.
    let mut entries = company.intermediate("first")?;
    let (ca, now) = (Certificate::all_from_pem(&entries["ca-cert.pem"])?.remove(0), Timestamp::now());
    let list = |ca: &Certificate, key: &str, days| {
        anyhow::Ok(ceremony::revocation_list(ca, PrivateKey::from_pem(key)?, &Default::default(), days, now)?)
    };
    let lists = list(&ca, &entries["ca-key.pem"], 1)? + &list(&company.certificate, &company.key, 90)?;
    entries.insert("ca-crl.pem", lists.clone());
    plane.put_secret("cacerts", &entries).await?;
    let istiod = plane.start("istiod-1", 1, plane.api.address())?;
    istiod.wait_until_ready().await?;
    plane.wait_for_event("cacerts", "ExpiresWithinDay", "ca-crl.pem").await?;
    wait::until("the lists in every namespace", PATIENCE, || async {
        let object = Object { api_version: "v1", kind: "ConfigMap", namespace: "default", name: &plane.revocation_list() };
        ensure!(plane.api.get(object).await?["data"]["ca-crl.pem"].as_str().is_some_and(|text| text == lists));
        Ok(())
    })
    .await?;

    entries.insert("ca-crl.pem", lists[..lists.len() / 2].to_owned());
    plane.put_secret("cacerts", &entries).await?;
    plane.wait_for_event("cacerts", "RevocationListRefused", "the one in use stays").await?;
    plane.put_secret("cacerts", &Root::new()?.intermediate("foreign")?).await?;
    plane.wait_for_event("cacerts", "Refused", "another root").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_self_signed_root_is_renewed_while_running_and_not_replaced() -> Result<()> {
    let plane = Installation::new(ApiServer::shared().await?, "mesh-renewal").await?;
    plane.pod("renewal", "reviews", "reviews-1").await?;
    let istiod = plane.start("istiod-1", 1, plane.api.address())?;
    istiod.wait_until_ready().await?;
    let secret = plane.secret("istio-ca-secret").await?;
    let old = secret["root-cert.pem"].clone();
    let token = plane.api.token("renewal", "reviews", AUDIENCE, Some("reviews-1")).await?;
    istiod.wait_for_answer(&old, &token, Code::Ok).await?;

    // As another replica does it near the root's end.
    let early = SelfSigned { grace_percent: 100, ..SelfSigned::new("cluster.local") };
    let entries = secret.into_iter().map(|(name, text)| (name, text.into_bytes())).collect();
    let renewed = early.renew(&entries, Timestamp::now())?.context("not renewed")?;
    let text = |name: &str| anyhow::Ok(String::from_utf8(renewed[name].clone())?);
    let new = text("root-cert.pem")?;
    ensure!(new != old);
    plane.put_secret("istio-ca-secret", &BTreeMap::from([("ca-cert.pem", text("ca-cert.pem")?), ("root-cert.pem", new.clone())])).await?;
    istiod.wait_for_metric(r#"istiod_lite_ca_offers{secret="istio-ca-secret",result="accepted"} 1"#).await?;
    let chain = istiod.certificate(&old, &token).await.context("who trusts the old certificate trusts the new one's leaves")?;
    ensure!(chain.last().context("no root")?.pem() == new);
    wait::until("the new root in every namespace", PATIENCE, || async {
        ensure!(plane.root_in("renewal").await?["data"]["root-cert.pem"] == new.as_str());
        Ok(())
    })
    .await?;

    plane.put_secret("cacerts", &Root::new()?.intermediate("late")?).await?;
    istiod.wait_for_metric(r#"istiod_lite_ca_offers{secret="cacerts",result="refused"} 1"#).await?;
    ensure!(istiod.process.log().contains("needs a restart"));
    ensure!(istiod.certificate(&new, &token).await?.last().context("no root")?.pem() == new);
    Ok(())
}

/// A root whose key stays here.
struct Root {
    certificate: Certificate,
    key: String,
}

impl Root {
    fn new() -> Result<Self> {
        let key = PrivateKey::generate(KeyType::P256)?;
        let subject = subject("root");
        let request = CaRequest { key: &key, subject: &subject, days: 100, now: yesterday(), serial: Serial::random()? };
        let certificate = ceremony::root_certificate(&request)?;
        Ok(Self { certificate, key: key.to_pem() })
    }

    /// Returns the entries of `cacerts` for an intermediate of this name.
    fn intermediate(&self, name: &str) -> Result<BTreeMap<&'static str, String>> {
        let (key, root_key) = (PrivateKey::generate(KeyType::P256)?, PrivateKey::from_pem(&self.key)?);
        let subject = subject(name);
        let request = CaRequest { key: &key, subject: &subject, days: 50, now: yesterday(), serial: Serial::random()? };
        let certificate = ceremony::intermediate_certificate(&request, 0, &self.certificate, root_key)?;
        let (pem, root) = (certificate.pem(), self.certificate.pem());
        Ok(BTreeMap::from([
            ("ca-cert.pem", pem.clone()),
            ("ca-key.pem", key.to_pem()),
            ("cert-chain.pem", pem + &root),
            ("root-cert.pem", root),
        ]))
    }
}

fn subject(name: &str) -> CaSubject {
    CaSubject { organization: "Company".into(), common_name: name.into() }
}

fn yesterday() -> Timestamp {
    Timestamp::now() - SignedDuration::from_hours(24)
}

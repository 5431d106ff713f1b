//! A signer of the Kubernetes API, as cert-manager is one: it signs what was approved, or does something else if it is told to.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};
use base64::{Engine, prelude::BASE64_STANDARD};
use istiod_lite::identity::certificate::Certificate;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use parking_lot::Mutex;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    SanType,
};
use serde_json::json;
use time::OffsetDateTime;
use tokio::task::JoinHandle;

use harness::kubernetes::ApiServer;

/// The name of the signer.
pub(crate) const SIGNER: &str = "example.com/mesh";
/// How often it looks for requests.
const PAUSE: Duration = Duration::from_millis(50);

/// What it does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Conduct {
    /// Signs it.
    Sign,
    /// Nothing.
    Nothing,
    /// Says that it cannot.
    Fail,
    /// Signs another identity.
    OtherIdentity,
    /// Signs another key.
    OtherKey,
    /// Signs under a root that nobody knows.
    OtherRoot,
    /// Signs for ten years.
    TooLong,
}

/// A signer that runs until it is dropped.
pub(crate) struct SmallSigner {
    conduct: Arc<Mutex<Conduct>>,
    root: String,
    api: Api<CertificateSigningRequest>,
    work: JoinHandle<()>,
}

type Authority = CertifiedIssuer<'static, KeyPair>;

struct Keys {
    intermediate: Authority,
    stranger: Authority,
}

impl SmallSigner {
    /// Starts it.
    pub(crate) async fn start(server: &ApiServer) -> Result<Self> {
        let (root, stranger) = (authority("company", None)?, authority("stranger", None)?);
        let keys = Keys { intermediate: authority("mesh", Some(&root))?, stranger };
        let client: Client = server.client().await?;
        let (api, conduct) = (Api::<CertificateSigningRequest>::all(client), Arc::new(Mutex::new(Conduct::Sign)));
        let work = tokio::spawn(work(api.clone(), keys, Arc::clone(&conduct)));
        Ok(Self { conduct, root: Certificate::all_from_pem(&root.pem())?.remove(0).pem(), api, work })
    }

    /// Does this from now on.
    pub(crate) fn conduct(&self, conduct: Conduct) {
        *self.conduct.lock() = conduct;
    }

    /// Returns the PEM of its root.
    pub(crate) fn root(&self) -> &str {
        &self.root
    }

    /// Returns the requests that are there.
    pub(crate) async fn requests(&self) -> Result<Vec<CertificateSigningRequest>> {
        Ok(self.api.list(&ListParams::default()).await?.items)
    }
}

impl Drop for SmallSigner {
    fn drop(&mut self) {
        self.work.abort();
    }
}

async fn work(api: Api<CertificateSigningRequest>, keys: Keys, conduct: Arc<Mutex<Conduct>>) {
    loop {
        // Requests may be gone before they are answered.
        let listed = api.list(&ListParams::default()).await;
        for request in listed.into_iter().flatten().filter(is_ours) {
            let how = *conduct.lock();
            if let Err(error) = answer(&api, &keys, &request, how).await {
                eprintln!("{}: {error:#}", request.name_any());
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Returns whether a request waits for us.
fn is_ours(request: &CertificateSigningRequest) -> bool {
    let status = request.status.clone().unwrap_or_default();
    let conditions = status.conditions.unwrap_or_default();
    let (approved, failed) = (conditions.iter().any(|one| one.type_ == "Approved"), conditions.iter().any(|one| one.type_ == "Failed"));
    request.spec.signer_name == SIGNER && approved && !failed && status.certificate.is_none()
}

async fn answer(api: &Api<CertificateSigningRequest>, keys: &Keys, request: &CertificateSigningRequest, how: Conduct) -> Result<()> {
    let status = match how {
        Conduct::Nothing => return Ok(()),
        Conduct::Fail => {
            let mut conditions = serde_json::to_value(request.status.clone().unwrap_or_default().conditions)?;
            let failed = json!({ "type": "Failed", "status": "True", "reason": "NoKey", "message": "the HSM is locked" });
            conditions.as_array_mut().context("no conditions")?.push(failed);
            json!({ "conditions": conditions })
        }
        _ => json!({ "certificate": BASE64_STANDARD.encode(signed(keys, request, how)?) }),
    };
    api.patch_status(&request.name_any(), &PatchParams::default(), &Patch::Merge(json!({ "status": status }))).await?;
    Ok(())
}

/// Signs a request; what is between the certificate and the root comes along.
fn signed(keys: &Keys, request: &CertificateSigningRequest, how: Conduct) -> Result<String> {
    let mut wanted = CertificateSigningRequestParams::from_pem(std::str::from_utf8(&request.spec.request.0)?)?;
    let lifetime = request.spec.expiration_seconds.map_or(3_600, i64::from);
    let lifetime = if how == Conduct::TooLong { 10 * 365 * 24 * 3_600 } else { lifetime };
    let now = OffsetDateTime::now_utc();
    (wanted.params.not_before, wanted.params.not_after) = (now - time::Duration::minutes(5), now + time::Duration::seconds(lifetime));
    wanted.params.is_ca = IsCa::ExplicitNoCa;
    wanted.params.extended_key_usages = usages(request);
    if how == Conduct::OtherIdentity {
        wanted.params.subject_alt_names = vec![SanType::URI("spiffe://cluster.local/ns/kube-system/sa/admin".try_into()?)];
    }
    let issuer = if how == Conduct::OtherRoot { &keys.stranger } else { &keys.intermediate };
    let leaf = match how {
        Conduct::OtherKey => wanted.params.signed_by(&KeyPair::generate()?, issuer)?,
        _ => wanted.signed_by(issuer)?,
    };
    Ok(leaf.pem() + &issuer.pem())
}

fn usages(request: &CertificateSigningRequest) -> Vec<ExtendedKeyUsagePurpose> {
    let wanted = request.spec.usages.clone().unwrap_or_default();
    let both = [("server auth", ExtendedKeyUsagePurpose::ServerAuth), ("client auth", ExtendedKeyUsagePurpose::ClientAuth)];
    both.into_iter().filter(|(name, _)| wanted.iter().any(|usage| usage == name)).map(|(_, usage)| usage).collect()
}

fn authority(name: &str, above: Option<&Authority>) -> Result<Authority> {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    (parameters.not_before, parameters.not_after) =
        (OffsetDateTime::now_utc() - time::Duration::days(1), OffsetDateTime::now_utc() + time::Duration::days(100));
    let key = KeyPair::generate()?;
    Ok(match above {
        Some(above) => CertifiedIssuer::signed_by(parameters, key, above)?,
        None => CertifiedIssuer::self_signed(parameters, key)?,
    })
}

//! The CertificateSigningRequest object: what we write into it, and what others have.

use k8s_openapi::{
    ByteString,
    api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestSpec},
};
use kube::api::ObjectMeta;

use super::Labels;
use crate::{
    identity::registration::{SignerError, Submission, Usage},
    peer_text::PeerText,
};

/// istiod's.
const NAME: &str = "csr-workload-";
const APPROVED: &str = "Approved";
const DENIED: &str = "Denied";
const FAILED: &str = "Failed";
const NAMESPACE_LABEL: &str = "istiod-lite.io/namespace";
const REVISION_LABEL: &str = "istio.io/rev";

// === impl Labels ===

impl Labels {
    /// Returns what selects the objects that have these labels.
    pub(super) fn selector(&self) -> String {
        format!("{NAMESPACE_LABEL}={},{REVISION_LABEL}={}", self.namespace, self.revision())
    }

    fn revision(&self) -> &str {
        if self.revision.is_empty() { "default" } else { &self.revision }
    }
}

/// Returns the object that asks for a certificate. The API server adds who we are.
pub(super) fn object(submission: &Submission, labels: &Labels) -> CertificateSigningRequest {
    let both = ["digital signature", "key encipherment", "server auth"];
    let client = (submission.usage == Usage::Workload).then_some("client auth");
    let labels = [(NAMESPACE_LABEL, labels.namespace.as_str()), (REVISION_LABEL, labels.revision())];
    CertificateSigningRequest {
        metadata: ObjectMeta {
            generate_name: Some(NAME.to_owned()),
            labels: Some(labels.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()),
            ..ObjectMeta::default()
        },
        spec: CertificateSigningRequestSpec {
            request: ByteString(submission.request.clone().into_bytes()),
            signer_name: submission.signer.to_string(),
            expiration_seconds: Some(i32::try_from(submission.lifetime.as_secs()).unwrap_or(i32::MAX)),
            usages: Some(both.into_iter().chain(client).map(ToOwned::to_owned).collect()),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    }
}

/// Returns the request with our approval.
pub(super) fn approved(mut request: CertificateSigningRequest) -> CertificateSigningRequest {
    let condition = CertificateSigningRequestCondition {
        type_: APPROVED.to_owned(),
        status: "True".to_owned(),
        reason: Some("IstiodLiteApprove".to_owned()),
        message: Some("the caller has proven the identity that the request is for".to_owned()),
        ..CertificateSigningRequestCondition::default()
    };
    request.status.get_or_insert_default().conditions.get_or_insert_default().push(condition);
    request
}

/// Returns whether somebody has approved or denied the request.
pub(super) fn is_decided(request: &CertificateSigningRequest) -> bool {
    [APPROVED, DENIED].into_iter().any(|kind| condition(request, kind).is_some())
}

/// Returns what became of the request; `None` while nothing has.
pub(super) fn answer(request: &CertificateSigningRequest) -> Option<Result<String, SignerError>> {
    let said = |condition: &CertificateSigningRequestCondition| {
        let parts = [&condition.reason, &condition.message].into_iter().flatten().filter(|part| !part.is_empty());
        let said = parts.map(String::as_str).collect::<Vec<_>>().join(": ");
        PeerText::new(if said.is_empty() { "nobody says why" } else { &said })
    };
    if let Some(denied) = condition(request, DENIED) {
        return Some(Err(SignerError::Denied(said(denied))));
    }
    if let Some(failed) = condition(request, FAILED) {
        return Some(Err(SignerError::Failed(said(failed))));
    }
    let certificate = request.status.as_ref()?.certificate.as_ref().filter(|certificate| !certificate.0.is_empty())?;
    Some(Ok(String::from_utf8_lossy(&certificate.0).into_owned()))
}

fn condition<'a>(request: &'a CertificateSigningRequest, kind: &str) -> Option<&'a CertificateSigningRequestCondition> {
    let mut conditions = request.status.iter().flat_map(|status| status.conditions.iter().flatten());
    // Kubernetes lets these three be nothing but true.
    conditions.find(|condition| condition.type_ == kind)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;
    use crate::identity::registration::SignerName;

    fn with_status(status: Value) -> CertificateSigningRequest {
        serde_json::from_value(json!({ "spec": { "request": "", "signerName": "a.b/c" }, "status": status })).unwrap()
    }

    #[test]
    fn a_request_says_who_signs_how_long_and_for_what() {
        let labels = Labels { namespace: "istio-system".into(), revision: String::new() };
        let submission = |usage| Submission {
            signer: SignerName::parse("example.com/mesh").unwrap(),
            request: "pem".into(),
            lifetime: Duration::from_secs(3_600),
            usage,
        };
        let made = serde_json::to_value(object(&submission(Usage::Workload), &labels)).unwrap();
        assert_eq!(
            made["spec"],
            json!({
                "signerName": "example.com/mesh", "request": "cGVt", "expirationSeconds": 3_600,
                "usages": ["digital signature", "key encipherment", "server auth", "client auth"],
            })
        );
        assert_eq!(made["metadata"]["labels"], json!({ "istiod-lite.io/namespace": "istio-system", "istio.io/rev": "default" }));
        assert_eq!(labels.selector(), "istiod-lite.io/namespace=istio-system,istio.io/rev=default");
        assert_eq!(object(&submission(Usage::Serving), &labels).spec.usages.unwrap().len(), 3);
    }

    #[test]
    fn what_became_of_a_request_is_told_with_its_reason() {
        let condition = |kind: &str| json!({ "type": kind, "status": "True", "reason": "Policy", "message": "not today" });
        let of = |status: Value| answer(&with_status(status));
        assert_eq!(of(json!({})), None);
        assert_eq!(of(json!({ "conditions": [condition("Approved")] })), None);
        assert_eq!(of(json!({ "conditions": [condition("Approved")], "certificate": "" })), None);
        assert_eq!(of(json!({ "conditions": [condition("Approved")], "certificate": "cGVt" })), Some(Ok("pem".into())));
        assert_eq!(of(json!({ "conditions": [condition("Denied")] })), Some(Err(SignerError::Denied("Policy: not today".into()))));
        let both = json!([condition("Approved"), condition("Failed")]);
        assert_eq!(of(json!({ "conditions": both })), Some(Err(SignerError::Failed("Policy: not today".into()))));
        let mute = json!([{ "type": "Denied", "status": "True" }]);
        assert_eq!(of(json!({ "conditions": mute })), Some(Err(SignerError::Denied("nobody says why".into()))));
    }

    #[test]
    fn who_has_decided_is_not_overruled() {
        assert!(!is_decided(&with_status(json!({}))));
        assert!(is_decided(&with_status(json!({ "conditions": [{ "type": "Denied", "status": "True" }] }))));
        assert!(is_decided(&approved(with_status(json!({})))));
    }
}

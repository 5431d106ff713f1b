//! Reads and answers AdmissionReviews, by which the API server asks a webhook. Versions `v1` and `v1beta1` have the same fields.
//!
//! The object stays a JSON document, since a typed one would lose the fields that this build does not know.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// A review as the API server sends it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Review {
    /// `admission.k8s.io/v1` or `v1beta1`. The answer has the same version.
    pub api_version: String,
    /// The request.
    pub request: AdmissionRequest,
}

/// What the API server is asked to do with an object.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AdmissionRequest {
    /// The id of the request, which the answer repeats.
    pub uid: String,
    /// The namespace of the object; empty for objects without one.
    #[serde(default)]
    pub namespace: String,
    /// The name of the object; empty if the API server is to make one.
    #[serde(default)]
    pub name: String,
    /// `CREATE`, `UPDATE`, `DELETE`, `CONNECT`
    #[serde(default)]
    pub operation: String,
    /// The new object; `null` for `DELETE`.
    #[serde(default)]
    pub object: Value,
    /// The present object; `null` for `CREATE`.
    #[serde(default)]
    pub old_object: Value,
    /// The resource that the object is of.
    #[serde(default)]
    pub resource: GroupVersionResource,
}

/// A resource of the API server (`metav1.GroupVersionResource`).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct GroupVersionResource {
    /// The API group; empty for the core group.
    pub group: String,
    /// The version.
    pub version: String,
    /// The plural of the kind.
    pub resource: String,
}

/// The answer to a review.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AdmissionResponse {
    /// The HTTP status and the message of a refusal; `None` if the object is accepted.
    pub refusal: Option<(u16, String)>,
    /// The changes to the object (RFC 6902); empty for none.
    pub patch: json_patch::Patch,
    /// Warnings, which `kubectl` shows to the user.
    pub warnings: Vec<String>,
}

// === impl Review ===

impl Review {
    /// Reads the body of a request.
    ///
    /// # Errors
    /// Says why the body is no AdmissionReview with a request.
    pub fn read(body: &[u8]) -> Result<Self, String> {
        let review: Self = serde_json::from_slice(body).map_err(|error| format!("is no AdmissionReview: {error}"))?;
        match review.api_version.strip_prefix("admission.k8s.io/") {
            Some("v1" | "v1beta1") => Ok(review),
            _ => Err(format!("apiVersion must be admission.k8s.io/v1, is {:?}", review.api_version)),
        }
    }

    /// Makes the body of the response.
    pub fn respond(&self, answer: &AdmissionResponse) -> Value {
        let mut response =
            Map::from_iter([("uid".to_owned(), json!(self.request.uid)), ("allowed".to_owned(), json!(answer.refusal.is_none()))]);
        if let Some((code, message)) = &answer.refusal {
            response.insert("status".to_owned(), json!({"code": code, "message": message}));
        }
        if !answer.patch.is_empty() {
            let patch = json!(answer.patch).to_string();
            response.insert("patchType".to_owned(), json!("JSONPatch"));
            response.insert("patch".to_owned(), json!(STANDARD.encode(patch)));
        }
        if !answer.warnings.is_empty() {
            response.insert("warnings".to_owned(), json!(answer.warnings));
        }
        json!({"apiVersion": self.api_version, "kind": "AdmissionReview", "response": response})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn review(version: &str) -> Result<Review, String> {
        let body = json!({
            "apiVersion": version, "kind": "AdmissionReview",
            "request": {"uid": "u", "namespace": "shop", "operation": "CREATE", "object": {"kind": "Pod"}, "dryRun": false},
        });
        Review::read(body.to_string().as_bytes())
    }

    #[test]
    fn both_versions_are_read_and_answered_in_kind() {
        for version in ["admission.k8s.io/v1", "admission.k8s.io/v1beta1"] {
            let response = review(version).unwrap().respond(&AdmissionResponse::default());
            assert_eq!(response["apiVersion"], version);
            assert_eq!(response["response"], json!({"uid": "u", "allowed": true}));
        }
        assert!(review("admission.k8s.io/v2").unwrap_err().contains("admission.k8s.io/v2"));
        assert!(Review::read(b"{}").is_err() && Review::read(b"[").is_err());
    }

    #[test]
    fn patches_are_encoded_and_refusals_said() {
        let patch = json_patch::diff(&json!({}), &json!({"a": 1}));
        let answer = AdmissionResponse { patch, warnings: vec!["careful".to_owned()], ..AdmissionResponse::default() };
        let response = review("admission.k8s.io/v1").unwrap().respond(&answer);
        let patch = STANDARD.decode(response["response"]["patch"].as_str().unwrap()).unwrap();
        assert_eq!(patch, br#"[{"op":"add","path":"/a","value":1}]"#);
        assert_eq!(response["response"]["warnings"], json!(["careful"]));
        let refusal = AdmissionResponse { refusal: Some((422, "no".to_owned())), ..AdmissionResponse::default() };
        let response = review("admission.k8s.io/v1").unwrap().respond(&refusal);
        assert_eq!(response["response"], json!({"uid": "u", "allowed": false, "status": {"code": 422, "message": "no"}}));
    }
}

//! AdmissionReview, version `v1` (and `v1beta1`, which has the same fields): what the API server asks a webhook, and the answer.
//!
//! The object stays a JSON document: typed, it would lose the fields that this build does not know.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// The question.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Review {
    /// `admission.k8s.io/v1`; the answer has the same.
    pub api_version: String,
    /// What is asked.
    pub request: Request,
}

/// What is asked.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// Goes back in the answer.
    pub uid: String,
    /// Namespace of the object; empty for objects without one.
    #[serde(default)]
    pub namespace: String,
    /// Name of the object; empty when the API server is to make one.
    #[serde(default)]
    pub name: String,
    /// `CREATE`, `UPDATE`, `DELETE`, `CONNECT`
    #[serde(default)]
    pub operation: String,
    /// The object as it is to be stored; `null` for `DELETE`.
    #[serde(default)]
    pub object: Value,
    /// The object as it stands; `null` for `CREATE`.
    #[serde(default)]
    pub old_object: Value,
    /// What the API server calls its kind.
    #[serde(default)]
    pub resource: Resource,
}

/// A resource of the API server.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Resource {
    /// API group; empty for the core group.
    pub group: String,
    /// Version.
    pub version: String,
    /// The plural of its kind.
    pub resource: String,
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// `Some`: the object is refused, with this HTTP status and message.
    pub refusal: Option<(u16, String)>,
    /// Changes to the object (RFC 6902); empty: none.
    pub patch: json_patch::Patch,
    /// `kubectl` shows them to the user.
    pub warnings: Vec<String>,
}

// === impl Review ===

impl Review {
    /// Reads the body of a request.
    ///
    /// # Errors
    /// When it is no AdmissionReview with a request: says what is wrong.
    pub fn read(body: &[u8]) -> Result<Self, String> {
        let review: Self = serde_json::from_slice(body).map_err(|error| format!("is no AdmissionReview: {error}"))?;
        match review.api_version.strip_prefix("admission.k8s.io/") {
            Some("v1" | "v1beta1") => Ok(review),
            _ => Err(format!("apiVersion must be admission.k8s.io/v1, is {:?}", review.api_version)),
        }
    }

    /// The body of the response.
    pub fn respond(&self, answer: &Answer) -> Value {
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
            let response = review(version).unwrap().respond(&Answer::default());
            assert_eq!(response["apiVersion"], version);
            assert_eq!(response["response"], json!({"uid": "u", "allowed": true}));
        }
        assert!(review("admission.k8s.io/v2").unwrap_err().contains("admission.k8s.io/v2"));
        assert!(Review::read(b"{}").is_err() && Review::read(b"[").is_err());
    }

    #[test]
    fn patches_are_encoded_and_refusals_said() {
        let patch = json_patch::diff(&json!({}), &json!({"a": 1}));
        let answer = Answer { patch, warnings: vec!["careful".to_owned()], ..Answer::default() };
        let response = review("admission.k8s.io/v1").unwrap().respond(&answer);
        let patch = STANDARD.decode(response["response"]["patch"].as_str().unwrap()).unwrap();
        assert_eq!(patch, br#"[{"op":"add","path":"/a","value":1}]"#);
        assert_eq!(response["response"]["warnings"], json!(["careful"]));
        let refusal = Answer { refusal: Some((422, "no".to_owned())), ..Answer::default() };
        let response = review("admission.k8s.io/v1").unwrap().respond(&refusal);
        assert_eq!(response["response"], json!({"uid": "u", "allowed": false, "status": {"code": 422, "message": "no"}}));
    }
}

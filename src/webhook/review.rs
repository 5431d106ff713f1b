//! Reads and answers AdmissionReviews, by which the API server asks a webhook. Versions `v1` and `v1beta1` have the same fields.
//!
//! Objects stay the text that came, of which each webhook reads what it needs.

use axum::{body::Bytes, extract::rejection::BytesRejection, http::StatusCode};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::{Map, Value, json, value::RawValue};

/// The most bytes that an object may have: the API server takes no larger ones, and stores half as much.
pub const MOST_OF_OBJECT: usize = 3 << 20;

/// The most bytes that a review may have: an update brings two objects.
pub const MOST_OF_REVIEW: usize = 2 * MOST_OF_OBJECT + (64 << 10);

/// The most bytes that a uid, a name or a word may have. The longest that the API server knows have 253.
const MOST_OF_TEXT: usize = 256;

/// Returns the body of a request, or with which status and words it is refused.
///
/// # Errors
/// When the body is larger than a review may be, or broke off.
pub(super) fn received(body: Result<Bytes, BytesRejection>) -> Result<Bytes, (StatusCode, String)> {
    body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            let most = MOST_OF_OBJECT >> 20;
            (StatusCode::PAYLOAD_TOO_LARGE, format!("the review is too large: an object may have {most} MB, as the API server takes"))
        }
        status => (status, rejection.body_text()),
    })
}

/// A review as the API server sends it, whose objects are borrowed from the body.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Review<'b> {
    /// `admission.k8s.io/v1` or `v1beta1`. The answer has the same version.
    pub api_version: String,
    /// The request.
    #[serde(borrow)]
    pub request: AdmissionRequest<'b>,
}

/// What the API server is asked to do with an object.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AdmissionRequest<'b> {
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
    /// The new object; `None` for `DELETE`.
    #[serde(borrow, default)]
    pub object: Option<&'b RawValue>,
    /// The present object; `None` for `CREATE`.
    #[serde(borrow, default)]
    pub old_object: Option<&'b RawValue>,
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

impl<'b> Review<'b> {
    /// Reads the body of a request.
    ///
    /// # Errors
    /// Says why the body is no AdmissionReview with a request.
    pub fn read(body: &'b [u8]) -> Result<Self, String> {
        let review: Self = serde_json::from_slice(body).map_err(|error| format!("is no AdmissionReview: {error}"))?;
        if let Some(long) = review.texts().into_iter().find(|text| text.len() > MOST_OF_TEXT) {
            return Err(format!("is no AdmissionReview: a name has {} bytes, more than {MOST_OF_TEXT}", long.len()));
        }
        match review.api_version.strip_prefix("admission.k8s.io/") {
            Some("v1" | "v1beta1") => Ok(review),
            _ => Err(format!("apiVersion must be admission.k8s.io/v1, is {:?}", review.api_version)),
        }
    }

    fn texts(&self) -> [&str; 8] {
        let AdmissionRequest { uid, namespace, name, operation, resource, .. } = &self.request;
        [&self.api_version, uid, namespace, name, operation, &resource.group, &resource.version, &resource.resource]
    }

    /// Makes the body of the response.
    pub fn respond(&self, answer: &AdmissionResponse) -> Value {
        let mut response =
            Map::from_iter([("uid".to_owned(), json!(self.request.uid)), ("allowed".to_owned(), json!(answer.refusal.is_none()))]);
        if let Some((code, message)) = &answer.refusal {
            response.insert("status".to_owned(), json!({"code": code, "message": message}));
        }
        if !answer.patch.is_empty() {
            // A patch is a list of texts and values, which always can be written.
            let patch = serde_json::to_vec(&answer.patch).unwrap_or_default();
            response.insert("patchType".to_owned(), json!("JSONPatch"));
            response.insert("patch".to_owned(), STANDARD.encode(patch).into());
        }
        if !answer.warnings.is_empty() {
            response.insert("warnings".to_owned(), json!(answer.warnings));
        }
        json!({"apiVersion": self.api_version, "kind": "AdmissionReview", "response": response})
    }
}

// === impl AdmissionRequest ===

impl<'b> AdmissionRequest<'b> {
    /// Returns the text of the new object, `null` if there is none.
    ///
    /// # Errors
    /// Says that the object is too large.
    pub fn object_text(&self) -> Result<&'b str, AdmissionResponse> {
        let text = self.object.map_or("null", RawValue::get);
        if text.len() > MOST_OF_OBJECT {
            let most = MOST_OF_OBJECT >> 20;
            let message = format!("the object has {} bytes, more than the {most} MB that the API server takes: divide it", text.len());
            return Err(AdmissionResponse::refusal(413, message));
        }
        Ok(text)
    }
}

// === impl AdmissionResponse ===

impl AdmissionResponse {
    /// Refuses with an HTTP status and a message.
    pub fn refusal(code: u16, message: String) -> Self {
        Self { refusal: Some((code, message)), ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(version: &str) -> Vec<u8> {
        let body = json!({
            "apiVersion": version, "kind": "AdmissionReview",
            "request": {"uid": "u", "namespace": "shop", "operation": "CREATE", "object": {"kind": "Pod"}, "dryRun": false},
        });
        body.to_string().into_bytes()
    }

    #[test]
    fn objects_are_borrowed_and_bounded() {
        let body = body("admission.k8s.io/v1");
        let review = Review::read(&body).unwrap();
        assert_eq!((review.request.object_text(), review.request.old_object.is_none()), (Ok("{\"kind\":\"Pod\"}"), true));
        let large = format!(r#"{{"apiVersion":"admission.k8s.io/v1","request":{{"uid":"u","object":"{}"}}}}"#, "x".repeat(MOST_OF_OBJECT));
        let refusal = Review::read(large.as_bytes()).unwrap().request.object_text().unwrap_err().refusal.unwrap();
        assert_eq!(refusal, (413, "the object has 3145730 bytes, more than the 3 MB that the API server takes: divide it".to_owned()));
        let long = format!(r#"{{"apiVersion":"admission.k8s.io/v1","request":{{"uid":"{}"}}}}"#, "u".repeat(257));
        assert_eq!(Review::read(long.as_bytes()).unwrap_err(), "is no AdmissionReview: a name has 257 bytes, more than 256");
    }

    #[test]
    fn both_versions_are_read_and_answered_in_kind() {
        for version in ["admission.k8s.io/v1", "admission.k8s.io/v1beta1"] {
            let response = Review::read(&body(version)).unwrap().respond(&AdmissionResponse::default());
            assert_eq!(response["apiVersion"], version);
            assert_eq!(response["response"], json!({"uid": "u", "allowed": true}));
        }
        assert!(Review::read(&body("admission.k8s.io/v2")).unwrap_err().contains("admission.k8s.io/v2"));
        assert!(Review::read(b"{}").is_err() && Review::read(b"[").is_err());
    }

    #[test]
    fn patches_are_encoded_and_refusals_said() {
        let patch = json_patch::diff(&json!({}), &json!({"a": 1}));
        let answer = AdmissionResponse { patch, warnings: vec!["careful".to_owned()], ..AdmissionResponse::default() };
        let body = body("admission.k8s.io/v1");
        let review = Review::read(&body).unwrap();
        let response = review.respond(&answer);
        let patch = STANDARD.decode(response["response"]["patch"].as_str().unwrap()).unwrap();
        assert_eq!(patch, br#"[{"op":"add","path":"/a","value":1}]"#);
        assert_eq!(response["response"]["warnings"], json!(["careful"]));
        let response = review.respond(&AdmissionResponse::refusal(422, "no".to_owned()));
        assert_eq!(response["response"], json!({"uid": "u", "allowed": false, "status": {"code": 422, "message": "no"}}));
    }
}

//! One collection of objects under one path of the API, and the requests about it.

use std::{fmt::Write, time::Duration};

use http::Request;
use kube::client::Body;
use smol_str::{SmolStr, format_smolstr};

use super::kinds::Resource;

/// All objects of one kind, or those of one namespace, or the one of a name.
#[derive(Clone, Debug)]
pub(super) struct Collection {
    /// The kind.
    pub(super) resource: &'static Resource,
    /// Only in this namespace.
    pub(super) namespace: Option<SmolStr>,
    /// Only the object of this name.
    pub(super) object: Option<SmolStr>,
}

impl Collection {
    /// All objects of a kind.
    pub(super) fn all(resource: &'static Resource) -> Self {
        Self { resource, namespace: None, object: None }
    }

    /// What logs and metrics call it: `kubernetes/Pod`, `kubernetes/Pod/shop`.
    pub(super) fn name(&self) -> SmolStr {
        let kind = self.resource.kind.as_str();
        match &self.namespace {
            Some(namespace) if self.object.is_none() => format_smolstr!("kubernetes/{kind}/{namespace}"),
            _ => format_smolstr!("kubernetes/{kind}"),
        }
    }

    /// Asks for a page of the collection as it is now, of at most `limit` objects.
    ///
    /// # Errors
    /// When a name makes no URI.
    pub(super) fn list(&self, version: &str, limit: u32, next: Option<&str>) -> Result<Request<Body>, http::Error> {
        let mut query = format!("limit={limit}");
        if let Some(next) = next {
            let _ = write!(query, "&continue={}", escaped(next));
        }
        self.request(version, query)
    }

    /// Asks for what changes after `since`; the server ends the answer after `timeout`.
    ///
    /// # Errors
    /// When a name makes no URI.
    pub(super) fn watch(&self, version: &str, since: &str, timeout: Duration) -> Result<Request<Body>, http::Error> {
        let seconds = timeout.as_secs();
        let since = escaped(since);
        self.request(version, format!("watch=true&allowWatchBookmarks=true&resourceVersion={since}&timeoutSeconds={seconds}"))
    }

    fn request(&self, version: &str, mut query: String) -> Result<Request<Body>, http::Error> {
        if let Some(object) = &self.object {
            let _ = write!(query, "&fieldSelector=metadata.name%3D{}", escaped(object));
        }
        let Resource { group, plural, .. } = self.resource;
        let root = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
        let within = self.namespace.as_ref().map(|namespace| format!("/namespaces/{}", escaped(namespace))).unwrap_or_default();
        get(&format!("{root}{within}/{plural}?{query}"))
    }
}

/// A GET of a path of the API server.
///
/// # Errors
/// When it is no URI.
pub(super) fn get(path_and_query: &str) -> Result<Request<Body>, http::Error> {
    Request::get(path_and_query).body(Body::empty())
}

// Percent-encodes all but the unreserved characters of RFC 3986.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::kubernetes::kinds::{MESH_CONFIG, RESOURCES};

    fn uri(request: Result<Request<Body>, http::Error>) -> String {
        request.unwrap().uri().to_string()
    }

    #[test]
    fn requests_name_group_version_and_namespace() {
        let of = |plural| Collection::all(RESOURCES.iter().find(|resource| resource.plural == plural).unwrap());
        assert_eq!(uri(of("pods").list("v1", 200, None)), "/api/v1/pods?limit=200");
        let shop = Collection { namespace: Some("shop".into()), ..of("virtualservices") };
        assert_eq!(
            uri(shop.list("v1beta1", 5, Some("a/b="))),
            "/apis/networking.istio.io/v1beta1/namespaces/shop/virtualservices?limit=5&continue=a%2Fb%3D"
        );
        assert_eq!(shop.name(), "kubernetes/VirtualService/shop");
        let mesh = Collection { resource: &MESH_CONFIG, namespace: Some("istio-system".into()), object: Some("istio-a".into()) };
        let expected = "/api/v1/namespaces/istio-system/configmaps?watch=true&allowWatchBookmarks=true\
                        &resourceVersion=7&timeoutSeconds=300&fieldSelector=metadata.name%3Distio-a";
        assert_eq!(uri(mesh.watch("v1", "7", Duration::from_secs(300))), expected);
        assert_eq!(mesh.name(), "kubernetes/MeshConfig");
    }
}

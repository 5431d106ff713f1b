//! A collection of objects under one path of the API, and the requests to list and watch it.

use std::{fmt::Write, time::Duration};

use http::Request;
use kube::client::Body;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use smol_str::{SmolStr, format_smolstr};

use super::kinds::WatchedResource;

/// All characters but the unreserved ones of RFC 3986.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// All objects of a kind, those of one namespace, or the one that has a name.
#[derive(Clone, Debug)]
pub(super) struct Collection {
    /// The kind.
    pub(super) resource: &'static WatchedResource,
    /// The only namespace; `None` for all.
    pub(super) namespace: Option<SmolStr>,
    /// The name of the only object; `None` for all.
    pub(super) object: Option<SmolStr>,
}

impl Collection {
    /// Makes the collection of all objects of a kind.
    pub(super) fn all(resource: &'static WatchedResource) -> Self {
        Self { resource, namespace: None, object: None }
    }

    /// Returns the name that logs and metrics use: `kubernetes/Pod`, `kubernetes/Pod/shop`.
    pub(super) fn name(&self) -> SmolStr {
        let kind = self.resource.kind;
        match &self.namespace {
            Some(namespace) if self.object.is_none() => format_smolstr!("kubernetes/{kind}/{namespace}"),
            _ => format_smolstr!("kubernetes/{kind}"),
        }
    }

    /// Makes the request for one page of the collection as it is now, of at most `limit` objects.
    ///
    /// # Errors
    /// When a name cannot be part of a URI.
    pub(super) fn list(&self, version: &str, limit: u32, next: Option<&str>) -> Result<Request<Body>, http::Error> {
        let mut query = format!("limit={limit}");
        if let Some(next) = next {
            let _ = write!(query, "&continue={}", escaped(next));
        }
        self.request(version, query)
    }

    /// Makes the request for what changes after a resource version. The server ends the answer after `timeout`.
    ///
    /// # Errors
    /// When a name cannot be part of a URI.
    pub(super) fn watch(&self, version: &str, resource_version: &str, timeout: Duration) -> Result<Request<Body>, http::Error> {
        let (from, seconds) = (escaped(resource_version), timeout.as_secs());
        self.request(version, format!("watch=true&allowWatchBookmarks=true&resourceVersion={from}&timeoutSeconds={seconds}"))
    }

    fn request(&self, version: &str, mut query: String) -> Result<Request<Body>, http::Error> {
        let selector = self.resource.selector;
        match &self.object {
            Some(object) => _ = write!(query, "&fieldSelector=metadata.name%3D{}", escaped(object)),
            None if selector.is_empty() => {}
            None => _ = write!(query, "&fieldSelector={}", escaped(selector)),
        }
        let WatchedResource { group, plural, .. } = self.resource;
        let root = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
        let within = self.namespace.as_ref().map(|namespace| format!("/namespaces/{}", escaped(namespace))).unwrap_or_default();
        get(&format!("{root}{within}/{plural}?{query}"))
    }
}

/// Makes a GET request for a path of the API server.
///
/// # Errors
/// When the path is no URI.
pub(super) fn get(path_and_query: &str) -> Result<Request<Body>, http::Error> {
    Request::get(path_and_query).body(Body::empty())
}

fn escaped(text: &str) -> impl std::fmt::Display {
    utf8_percent_encode(text, RESERVED)
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
        let secrets = uri(of("secrets").list("v1", 100, None));
        assert!(secrets.starts_with("/api/v1/secrets?limit=100&fieldSelector=type%21%3Dhelm.sh%2Frelease.v1%2Ctype%21%3D"), "{secrets}");
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

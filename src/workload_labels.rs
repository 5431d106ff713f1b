//! What Istio's metrics say of a workload, as one text: in the metadata of endpoints, where Istio's proxy reads it too, and in the
//! header by which a client's proxy names its workload. A stock Envoy counts by the text; agents take it apart when they are scraped.

use std::fmt;

/// The key of the text in a node's metadata; proxies tell others what it says.
pub(crate) const OF_NODE: &str = "PEER_LABELS";

/// The labels of a workload; empty where it is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct WorkloadLabels<'a> {
    /// The name of its Deployment or the like.
    pub workload: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// Label `service.istio.io/canonical-name`, or what stands in for it.
    pub canonical_service: &'a str,
    /// Label `service.istio.io/canonical-revision`, or what stands in for it.
    pub canonical_revision: &'a str,
    /// The cluster that it runs in.
    pub cluster: &'a str,
    /// Label `app`.
    pub app: &'a str,
    /// Label `version`.
    pub version: &'a str,
}

impl<'a> WorkloadLabels<'a> {
    /// Reads the text; `None` when it is none of these.
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split(';');
        let mut next = || parts.next();
        let (workload, namespace, canonical_service, canonical_revision, cluster) = (next()?, next()?, next()?, next()?, next()?);
        let (app, version) = match (next(), next(), next()) {
            (None, ..) => (canonical_service, canonical_revision),
            (Some(app), Some(version), None) => (app, version),
            _ => return None,
        };
        Some(Self { workload, namespace, canonical_service, canonical_revision, cluster, app, version })
    }
}

impl fmt::Display for WorkloadLabels<'_> {
    /// Writes `workload;namespace;canonical service;canonical revision;cluster`, and `;app;version` where these are others.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { workload, namespace, canonical_service, canonical_revision, cluster, app, version } = self;
        write!(f, "{workload};{namespace};{canonical_service};{canonical_revision};{cluster}")?;
        if (app, version) == (canonical_service, canonical_revision) { Ok(()) } else { write!(f, ";{app};{version}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REVIEWS: WorkloadLabels<'_> = WorkloadLabels {
        workload: "reviews-v1",
        namespace: "shop",
        canonical_service: "reviews",
        canonical_revision: "v1",
        cluster: "Kubernetes",
        app: "reviews",
        version: "v1",
    };

    #[test]
    fn what_is_written_is_read() {
        for labels in [REVIEWS, WorkloadLabels { app: "", ..REVIEWS }, WorkloadLabels { version: "v1.1", ..REVIEWS }] {
            assert_eq!(WorkloadLabels::parse(&labels.to_string()), Some(labels));
        }
        assert_eq!(REVIEWS.to_string(), "reviews-v1;shop;reviews;v1;Kubernetes");
    }

    #[test]
    fn other_texts_say_nothing() {
        for text in ["", "a", "a;b;c;d", "a;b;c;d;e;f", "a;b;c;d;e;f;g;h"] {
            assert_eq!(WorkloadLabels::parse(text), None, "{text}");
        }
    }
}

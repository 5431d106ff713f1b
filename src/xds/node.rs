//! Who a proxy says it is.

use std::sync::Arc;

use crate::mesh::model::Proxy;

/// What a proxy said about itself in its first request, reduced to what is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The proxy by its own account; its labels and locality give way to those of its pod once that is known.
    pub proxy: Arc<Proxy>,
}

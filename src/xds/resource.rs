//! A resource as it is stored and sent: encoded once, named, hashed, with its origins.

use std::{fmt, ops::Deref, sync::Arc};

use bytes::Bytes;
use smol_str::{SmolStr, format_smolstr};

use super::resource_type::ResourceType;
use crate::mesh::model::Origin;

/// The hash of a resource's canonical content: equal on every replica and after every restart (rule 2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentHash(pub u64);

/// The canonical encoding of a message. It may hold secrets, so it is never printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Body(Bytes);

/// A virtual host, encoded once for all route tables that hold it: the unit of routes (architecture, rule 4).
#[derive(Clone, Debug)]
pub struct EncodedVirtualHost {
    /// Key, length and canonical bytes, as they stand in a RouteConfiguration.
    pub field: Body,
    /// The hash over `field`.
    pub version: ContentHash,
    /// Clusters that its routes name.
    pub clusters: Vec<SmolStr>,
    /// The objects it came from.
    pub origins: Vec<Origin>,
}

/// One encoded resource. Shared by all proxies that are sent it.
#[derive(Clone, Debug)]
pub struct Resource {
    /// Its type.
    pub kind: ResourceType,
    /// Its name.
    pub name: SmolStr,
    /// The hash over `body`.
    pub version: ContentHash,
    /// The message (the `value` of the `Any`).
    pub body: Body,
    /// The resources that the proxy must have to use this one, by type and name, sorted: of a cluster its endpoints when
    /// they come by EDS; of a listener the route tables and extension configurations that it subscribes to, and the clusters
    /// that its TCP chains and inline routes name; of a route table the clusters that its routes name, of an extension
    /// configuration those that the filter calls.
    pub references: Arc<[(ResourceType, SmolStr)]>,
    /// The objects that it was made from, sorted.
    pub origins: Arc<[Origin]>,
    /// Of a route table its virtual hosts, with which `body` ends.
    pub virtual_hosts: Arc<[Arc<EncodedVirtualHost>]>,
}

impl EncodedVirtualHost {
    /// Returns the encoded message without its key and length.
    pub fn message(&self) -> &[u8] {
        let mut rest = &self.field[..];
        // Both are variable integers.
        let skipped = prost::encoding::decode_varint(&mut rest).and_then(|_| prost::encoding::decode_varint(&mut rest));
        skipped.map_or(&[], |_| rest)
    }
}

impl Resource {
    /// Returns what comes before the virtual hosts.
    pub fn header(&self) -> &[u8] {
        let hosts: usize = self.virtual_hosts.iter().map(|host| host.field.len()).sum();
        &self.body[..self.body.len().saturating_sub(hosts)]
    }

    /// Returns the names of the resources of one type that it refers to, sorted.
    pub fn references_to(&self, kind: ResourceType) -> impl Iterator<Item = &SmolStr> {
        let start = self.references.partition_point(|(other, _)| *other < kind);
        self.references[start..].iter().take_while(move |(other, _)| *other == kind).map(|(_, name)| name)
    }

    /// Returns whether it refers to the resource of that type and name.
    pub fn refers_to(&self, kind: ResourceType, name: &str) -> bool {
        self.references.binary_search_by(|(other, named)| (*other, named.as_str()).cmp(&(kind, name))).is_ok()
    }
}

// Equal content has equal hashes: the bytes need not be compared.
impl PartialEq for Resource {
    fn eq(&self, other: &Self) -> bool {
        (self.version, self.kind, &self.name, &self.origins) == (other.version, other.kind, &other.name, &other.origins)
    }
}

// === impl Body ===

impl Body {
    /// Returns the bytes, shared.
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self(bytes)
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

impl Deref for Body {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{} bytes>", self.0.len())
    }
}

// === impl ContentHash ===

// Sixteen hex digits: the form in which versions travel.
impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl ContentHash {
    /// Stands where there is no content to hash.
    pub const NONE: Self = Self(0);

    /// Returns the version as it travels: empty when there is none.
    pub fn on_wire(self) -> SmolStr {
        if self == Self::NONE { SmolStr::default() } else { format_smolstr!("{self}") }
    }

    /// Reads what [`Display`](fmt::Display) wrote; `None` for anything else (another control plane's version).
    pub fn parse(text: &str) -> Option<Self> {
        (text.len() == 16).then(|| u64::from_str_radix(text, 16).ok().map(Self)).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_never_printed() {
        let secret = Resource {
            kind: ResourceType::Cluster,
            name: "a".into(),
            version: ContentHash(1),
            body: b"a private key".to_vec().into(),
            references: Arc::default(),
            origins: Arc::default(),
            virtual_hosts: Arc::default(),
        };
        let shown = format!("{secret:?} {:?}", secret.body);
        assert!(shown.contains("<13 bytes>") && !shown.contains("private") && !shown.contains("97, 32"), "{shown}");
    }

    #[test]
    fn references_are_told_apart_by_type() {
        let references = [(ResourceType::Cluster, "a"), (ResourceType::Cluster, "b"), (ResourceType::Route, "a")];
        let resource = Resource {
            kind: ResourceType::Listener,
            name: "l".into(),
            version: ContentHash(1),
            body: Body::default(),
            references: references.iter().map(|(kind, name)| (*kind, SmolStr::new(name))).collect(),
            origins: Arc::default(),
            virtual_hosts: Arc::default(),
        };
        let named = |kind| resource.references_to(kind).map(SmolStr::as_str).collect::<Vec<_>>();
        assert_eq!((named(ResourceType::Cluster), named(ResourceType::Endpoint)), (vec!["a", "b"], vec![]));
        assert_eq!(named(ResourceType::Route), ["a"]);
        assert!(resource.refers_to(ResourceType::Cluster, "b") && !resource.refers_to(ResourceType::Route, "b"));
    }
}

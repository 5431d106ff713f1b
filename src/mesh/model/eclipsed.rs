//! A definition of a service of which something has no effect, because another goes first.

use super::{Hostname, ObjectKey};

/// What of a Service or ServiceEntry has no effect for a host that another one defines too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eclipsed {
    /// The host.
    pub hostname: Hostname,
    /// The object.
    pub object: ObjectKey,
    /// The object that goes first.
    pub by: ObjectKey,
    /// Why its ports could not be added.
    pub obstacle: Option<Obstacle>,
    /// Its ports that lead nowhere.
    pub ports: Vec<u16>,
    /// Its ports that have the protocol of the other.
    pub protocols: Vec<u16>,
    /// Fields whose value has no effect.
    pub fields: Vec<&'static str>,
}

/// What keeps ports of two definitions from being put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// They are of different namespaces.
    Namespace,
    /// The one that goes first is a Service of Kubernetes.
    KubernetesService,
    /// They differ in `exportTo`.
    ExportTo,
    /// They differ in `resolution`.
    Resolution,
    /// They differ in `metadata.labels`.
    Labels,
    /// They differ in `workloadSelector`.
    WorkloadSelector,
}

impl Eclipsed {
    /// Returns whether all of it has effect.
    pub fn is_nothing(&self) -> bool {
        self.ports.is_empty() && self.protocols.is_empty() && self.fields.is_empty()
    }
}

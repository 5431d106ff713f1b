//! Sidecars: what their selector attaches them to (contract §6.5).

use super::{Attachment, Policy};
use crate::mesh::sidecar::Sidecar;

impl Policy for Sidecar {
    fn attachment(&self) -> Attachment<'_> {
        Attachment::of_selector(self.workload_selector.as_ref())
    }
}

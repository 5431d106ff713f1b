//! Sidecars: what their selector attaches them to (contract §6.5).

use crate::mesh::{
    policy_table::{Attachment, Policy},
    sidecar::Sidecar,
};

impl Policy for Sidecar {
    fn attachment(&self) -> Attachment<'_> {
        Attachment::of_selector(self.workload_selector.as_ref())
    }
}

//! AuthorizationPolicies: what they are attached to (contract §6.7).

use crate::mesh::{
    authorization::AuthorizationPolicy,
    policy_table::{Attachment, Policy},
};

impl Policy for AuthorizationPolicy {
    fn attachment(&self) -> Attachment<'_> {
        Attachment::of_target(&self.target)
    }
}

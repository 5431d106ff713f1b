//! Flags of `discovery` and `translate` for what MeshConfig has no field for.

use clap::{ArgAction, Args, builder::BoolishValueParser};

use crate::api::mesh_config::Features;

#[derive(Args)]
pub(super) struct FeatureArguments {
    /// Whether proxies know of endpoints that are not ready: they give them traffic when none is. `false` leaves them out, as
    /// istiod does up to 1.30.
    #[arg(
        long = "sendUnhealthyEndpoints", env = "PILOT_AUTO_SEND_UNHEALTHY_ENDPOINTS", value_name = "BOOL",
        value_parser = BoolishValueParser::new(), action = ArgAction::Set, default_value = "true"
    )]
    send_unready_endpoints: bool,

    /// Whether AuthorizationPolicies of action CUSTOM may have several providers asked for one workload: each is asked about what its
    /// own policies hold for, and all must allow it. `false`, istiod's default, denies what they hold for.
    #[arg(
        long = "multipleCustomAuthzProviders", env = "PILOT_ENABLE_MULTIPLE_CUSTOM_AUTHZ_PROVIDERS", value_name = "BOOL",
        value_parser = BoolishValueParser::new(), action = ArgAction::Set, default_value = "false"
    )]
    several_ext_authz: bool,
}

impl FeatureArguments {
    pub(super) fn features(&self) -> Features {
        Features { send_unready_endpoints: self.send_unready_endpoints, several_ext_authz: self.several_ext_authz }
    }
}

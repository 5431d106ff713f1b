//! `networking.istio.io Gateway`

use smol_str::SmolStr;

use super::Port;
use crate::api::Labels;

/// `spec` of a Gateway.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Gateway {
    /// `selector`: labels of the gateway's pods.
    pub selector: Labels,
    /// `servers`
    pub servers: Vec<Server>,
}

/// `servers[]`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Server {
    /// `port`
    pub port: Port,
    /// `bind`; empty: all addresses.
    pub bind: SmolStr,
    /// `hosts`, each perhaps with a namespace before a slash.
    pub hosts: Vec<SmolStr>,
    /// `tls`
    pub tls: Option<ServerTls>,
    /// `name`
    pub name: SmolStr,
}

/// `servers[].tls`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerTls {
    /// `httpsRedirect`
    pub https_redirect: bool,
    /// `mode`, as written (`SIMPLE`, `MUTUAL`, …); empty: PASSTHROUGH.
    pub mode: SmolStr,
    /// `credentialName`
    pub credential_name: SmolStr,
}

//! An endpoint that somebody wrote and no proxy is sent.

use smol_str::SmolStr;

use super::{Hostname, ObjectKey};

/// An endpoint of a service that proxies are not sent, or of which they take only a part.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnusedEndpoint {
    /// The object that names it.
    pub object: ObjectKey,
    /// Where it does (`spec.endpoints[0].address`).
    pub field: SmolStr,
    /// The service.
    pub host: Hostname,
    /// Why it is not used.
    pub reason: Unusable,
}

/// Why an endpoint is not used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unusable {
    /// It is at this name or socket, and the service has endpoints by IP address.
    Address(SmolStr),
    /// The service's port is at a port of this name, and it has none.
    Port(SmolStr),
    /// The definition that shapes the service finds none by DNS, this one all of its.
    FoundByDns(ObjectKey),
    /// With `DNS_ROUND_ROBIN` proxies take one of this many for the port.
    OneOf(usize, u16),
}

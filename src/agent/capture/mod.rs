//! Transparent capture: the rules that send a pod's TCP through its sidecar, and how iptables applies them.
//!
//! [`rules`] computes the rules, [`table`] the transaction that leads to them from what is there, [`tools`] runs iptables, and
//! [`ipv6`] does what IPv6 needs besides rules. Applying twice changes nothing: whole chains are replaced, in one transaction for
//! each family, and no connection sees half of them.

pub(crate) mod ipv6;
pub(crate) mod rules;
pub(crate) mod table;
pub(crate) mod tools;

use std::io;

use self::{
    ipv6::Ipv6,
    rules::{Family, Rules},
    tools::Tools,
};

/// What was done, in lines for a person.
pub(crate) type Summary = Vec<String>;

/// Why traffic is not captured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// iptables is missing, or fails.
    #[error("{0}")]
    Tools(#[from] tools::Error),
    /// The loopback interface lacks the address from which the proxy calls the workload.
    #[error("address {address} on the loopback interface: {source}", address = rules::PROXY_SOURCE_V6)]
    Loopback {
        /// Why it cannot be added.
        source: io::Error,
    },
}

/// Sets the rules, for IPv4 and, if the pod has IPv6, for IPv6.
pub(crate) fn apply(rules: &Rules) -> Result<Summary, Error> {
    let mut report = vec![replace(rules, Family::V4)?];
    let lacking = match Ipv6::of_this_namespace() {
        Ipv6::Absent(reason) => Some(reason.to_owned()),
        Ipv6::Present { routable } => match replace(rules, Family::V6) {
            Ok(line) => {
                ipv6::add_proxy_source().map_err(|source| Error::Loopback { source })?;
                report.push(line);
                None
            }
            // Traffic must not leave the pod around its sidecar; addresses that are valid on the link only do not matter.
            Err(error) if routable => return Err(error),
            Err(error) => Some(error.to_string()),
        },
    };
    report.extend(lacking.map(|reason| format!("IPv6: left alone, {reason}")));
    Ok(report)
}

/// Removes the rules, and nothing else.
pub(crate) fn remove() -> Result<Summary, Error> {
    let mut report = Summary::new();
    for family in [Family::V4, Family::V6] {
        if family == Family::V6 && matches!(Ipv6::of_this_namespace(), Ipv6::Absent(_)) {
            continue;
        }
        let tools = Tools::find(family)?;
        tools.restore(&table::removal(&tools.saved()?))?;
        report.push(format!("{family}: rules removed with {}", tools.name()));
    }
    Ok(report)
}

/// Returns the transaction for a pod without any rules, for a person to read.
pub(crate) fn preview(rules: &Rules) -> String {
    [Family::V4, Family::V6].map(|family| format!("# {family}\n{}", table::replacement(rules, family, ""))).concat()
}

fn replace(rules: &Rules, family: Family) -> Result<String, Error> {
    let tools = Tools::find(family)?;
    tools.restore(&table::replacement(rules, family, &tools.saved()?))?;
    Ok(format!("{family}: rules set with {}", tools.name()))
}

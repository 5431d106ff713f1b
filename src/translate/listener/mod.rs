//! Listeners (contract §3.3, §3.4, §3.7).

pub mod gateway;
pub mod inbound;
pub mod outbound;

mod chain;
mod held;
mod inspector;
mod l4;
mod refused;
#[cfg(test)]
mod tests;

use envoy_types::pb::envoy::config::{
    core::v3::{Address, Pipe, SocketAddress, address, socket_address::PortSpecifier},
    listener::v3::{
        Listener,
        listener::{
            ConnectionBalanceConfig,
            connection_balance_config::{BalanceType, ExactBalance},
        },
    },
};

pub use self::{
    chain::closed,
    held::{Holder, holds_own_addresses},
    refused::{Onward, Reason, Refused},
};
use super::{
    filter::{access_log, tracing},
    input::{Built, ListenerClass},
};

/// Notes whom the filters of a listener report to, and which objects have them do so; names each cluster and object once.
pub(crate) fn note_reports(built: &mut Built<Listener>, class: &ListenerClass) {
    let reports = &class.own.reports;
    built.clusters.extend(access_log::clusters(reports).chain(tracing::cluster(reports)));
    built.clusters.sort_unstable();
    built.clusters.dedup();
    built.origins.extend(reports.origins.iter().cloned());
    built.origins.sort_unstable();
    built.origins.dedup();
}

/// Returns how a listener shares connections out among threads; `None`: to whichever accepts them.
pub(crate) fn balance(exact: bool) -> Option<ConnectionBalanceConfig> {
    exact.then_some(ConnectionBalanceConfig { balance_type: Some(BalanceType::ExactBalance(ExactBalance {})) })
}

/// Returns an address and port, or a Unix domain socket for `unix://…`.
pub(crate) fn address(bind: &str, port: u16) -> Address {
    let address = match bind.strip_prefix("unix://") {
        Some(path) => address::Address::Pipe(Pipe { path: path.into(), ..Default::default() }),
        None => address::Address::SocketAddress(SocketAddress {
            address: bind.into(),
            port_specifier: Some(PortSpecifier::PortValue(port.into())),
            ..Default::default()
        }),
    };
    Address { address: Some(address) }
}

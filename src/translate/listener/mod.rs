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
    listener::v3::listener::{
        ConnectionBalanceConfig,
        connection_balance_config::{BalanceType, ExactBalance},
    },
};

pub use self::{
    chain::closed,
    held::{Holder, holds_own_addresses},
    refused::{Onward, Reason, Refused},
};

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

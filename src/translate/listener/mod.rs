//! Listeners: outbound, inbound, gateway.

//! Listener, network and HTTP filters, in both flavours.

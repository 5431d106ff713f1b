//! Route configurations and virtual hosts.

//! How long connections live, and what callers may cost.

use std::time::Duration;

use crate::{
    cli::values::{bytes, duration, request_size},
    serve::{connection::ConnectionOptions, memory, settings::LimitSettings},
    xds::bounds::Bounds,
};

/// The bounds of callers.
#[derive(clap::Args)]
#[command(next_help_heading = "Connections and limits")]
pub(super) struct LimitArguments {
    /// How long streams under way may go on after SIGTERM.
    #[arg(long = "shutdownDuration", value_parser = duration, default_value = "10s")]
    shutdown: Duration,

    /// A gRPC connection older than this is asked to reconnect.
    #[arg(long = "keepaliveMaxServerConnectionAge", value_parser = duration, default_value = "30m")]
    max_connection_age: Duration,

    /// How long a gRPC connection may be quiet before it is pinged.
    #[arg(long = "keepaliveInterval", env = "GRPC_KEEPALIVE_INTERVAL", value_parser = duration, default_value = "30s")]
    keepalive_interval: Duration,

    /// How long the answer to such a ping may take before the connection is closed.
    #[arg(long = "keepaliveTimeout", env = "GRPC_KEEPALIVE_TIMEOUT", value_parser = duration, default_value = "10s")]
    keepalive_timeout: Duration,

    /// Memory that this process may take, in bytes (512Mi, 2Gi). Callers together may have it hold three eighths of that; over it,
    /// those who have proven nothing are refused first [default: the limit of the control group, else 1Gi].
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    memory_limit: Option<usize>,

    /// Connections that one source address may have open on all ports together (of IPv6, one /64 network); above it, its oldest
    /// that has shown nothing is closed. Proxies behind one NAT share an address, so that it is generous [default: half of the
    /// files that may be open].
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    connections_per_address: Option<u32>,

    /// The largest request, in bytes, of a proxy that is not served yet or has not proven who it is; istiod's limit for all. Most
    /// of a first request names what the proxy holds already: there is room for about 40,000 clusters.
    #[arg(long, env = "ISTIO_GPRC_MAXRECVMSGSIZE", value_name = "BYTES", value_parser = request_size, default_value = "4194304")]
    max_first_request: usize,

    /// The largest request, in bytes, of a proxy that is served and has proven who it is. What it names takes memory here for as long
    /// as it is connected.
    #[arg(long, value_name = "BYTES", value_parser = request_size, default_value = "16777216")]
    max_request: usize,

    /// How many names of each type (clusters, endpoints, listeners, route tables) a proxy may ask for beyond those of its
    /// configuration: a number of names. One that comes back asks for all that it holds, also for what is gone meanwhile; more
    /// would let callers fill the memory with names of their own.
    #[arg(long, value_name = "NUMBER", default_value_t = Bounds::default().unknown_names)]
    max_unknown_names: usize,
}

impl LimitArguments {
    /// Returns how connections are kept.
    pub(super) fn connections(&self) -> ConnectionOptions {
        ConnectionOptions {
            keepalive_interval: self.keepalive_interval,
            keepalive_timeout: self.keepalive_timeout,
            max_age: self.max_connection_age,
            grace: self.shutdown,
            ..ConnectionOptions::default()
        }
    }

    /// Returns what all callers together, and those of one address, may take.
    pub(super) fn limits(&self) -> LimitSettings {
        LimitSettings {
            memory: self.memory_limit.unwrap_or_else(memory::limit),
            connections_per_address: self.connections_per_address.map(|number| number as usize),
        }
    }

    /// Returns what one proxy may ask for.
    pub(super) fn bounds(&self) -> Bounds {
        Bounds {
            first_request: self.max_first_request,
            request: self.max_request.max(self.max_first_request),
            unknown_names: self.max_unknown_names,
        }
    }
}

//! The protocol of a service's port.

/// The protocol of a port (contract §6.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// Not declared: the proxy detects it.
    Auto,
    /// HTTP/1.1
    Http,
    /// HTTP/2 without TLS
    Http2,
    /// gRPC
    Grpc,
    /// gRPC-Web
    GrpcWeb,
    /// HTTP inside TLS that the proxy does not terminate
    Https,
    /// TLS that the proxy does not terminate
    Tls,
    /// Any bytes
    Tcp,
    /// MongoDB's wire protocol
    Mongo,
    /// MySQL's wire protocol
    Mysql,
    /// Redis' wire protocol
    Redis,
    /// UDP, which proxies do not carry
    Udp,
}

impl Protocol {
    /// Returns whether the port gets HTTP treatment without sniffing.
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Http2 | Self::Grpc | Self::GrpcWeb)
    }

    /// Returns whether upstream connections speak HTTP/2.
    pub fn is_http2(self) -> bool {
        matches!(self, Self::Http2 | Self::Grpc | Self::GrpcWeb)
    }

    /// Returns whether clients send TLS that the proxy does not open.
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::Tls)
    }
}

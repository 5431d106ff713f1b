//! Gateways and their listeners.

use std::sync::Arc;

use smol_str::SmolStr;

use super::{
    host::ListenerHost,
    tls::{ListenerTls, ServerCertificate, TlsTermination},
};
use crate::mesh::{
    credential::SecretName,
    model::{Labels, Protocol},
};

/// What one Gateway asks of the proxies that it selects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gateway {
    /// Labels of the proxies' pods; empty: every gateway proxy.
    pub selector: Labels,
    /// Its listeners, in the order written.
    pub listeners: Vec<Listener>,
}

/// A port on which a gateway serves hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Where the object says so (`spec.servers[0]`).
    pub field: SmolStr,
    /// The port that clients know.
    pub port: u16,
    /// Its name, which is part of route configurations' names.
    pub port_name: SmolStr,
    /// What is spoken on it.
    pub protocol: Protocol,
    /// The address to bind; empty: all.
    pub bind: SmolStr,
    /// What it serves.
    pub hosts: Vec<ListenerHost>,
    /// What it does about TLS; `None`: nothing is said.
    pub tls: Option<ListenerTls>,
    /// Plaintext requests are answered with a redirect to HTTPS.
    pub https_redirect: bool,
}

/// What a listener does with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handling<'a> {
    /// Routes HTTP requests.
    Http,
    /// Ends TLS and routes the HTTP requests inside.
    Https(&'a Arc<TlsTermination>),
    /// Passes bytes on, from inside of TLS where it ends that.
    Tcp(Option<&'a Arc<TlsTermination>>),
    /// Passes TLS on by its SNI, as routes say.
    Passthrough,
    /// Passes the mesh's mTLS on to the service that its SNI names.
    AutoPassthrough,
}

impl Listener {
    /// Returns what follows from protocol and TLS together.
    pub fn handling(&self) -> Handling<'_> {
        let termination = match &self.tls {
            Some(ListenerTls::Terminate(termination)) => Some(termination),
            None | Some(ListenerTls::Passthrough | ListenerTls::AutoPassthrough) => None,
        };
        match (self.protocol, &self.tls) {
            (protocol, _) if protocol.is_http() => Handling::Http,
            (protocol, Some(ListenerTls::AutoPassthrough)) if protocol.is_tls() => Handling::AutoPassthrough,
            (protocol, None | Some(ListenerTls::Passthrough)) if protocol.is_tls() => Handling::Passthrough,
            (Protocol::Https, Some(ListenerTls::Terminate(termination))) => Handling::Https(termination),
            _ => Handling::Tcp(termination),
        }
    }

    /// Returns the secrets that proxies ask for to end TLS.
    pub fn secrets(&self) -> impl Iterator<Item = &SecretName> {
        let certificate = match &self.tls {
            Some(ListenerTls::Terminate(termination)) => Some(&termination.certificate),
            None | Some(ListenerTls::Passthrough | ListenerTls::AutoPassthrough) => None,
        };
        let (certificates, trusted) = match certificate {
            Some(ServerCertificate::Secrets { certificates, trusted }) => (certificates.as_slice(), trusted.as_ref()),
            _ => (&[][..], None),
        };
        certificates.iter().chain(trusted)
    }

    /// Returns whether it passes the mesh's mTLS on, which takes clusters of its own.
    pub fn is_auto_passthrough(&self) -> bool {
        self.tls == Some(ListenerTls::AutoPassthrough)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::gateway::tls::{ClientCertificates, ServerCertificate};

    fn listener(protocol: Protocol, tls: Option<ListenerTls>) -> Listener {
        Listener {
            field: "spec.servers[0]".into(),
            port: 443,
            port_name: "tls".into(),
            protocol,
            bind: SmolStr::default(),
            hosts: Vec::new(),
            tls,
            https_redirect: false,
        }
    }

    #[test]
    fn what_is_done_follows_from_protocol_and_tls() {
        let termination = Arc::new(TlsTermination {
            certificate: ServerCertificate::Workload,
            clients: ClientCertificates::Required,
            subject_alt_names: Vec::new(),
            verify_certificate_spki: Vec::new(),
            verify_certificate_hash: Vec::new(),
            crl: SmolStr::default(),
            min_version: None,
            max_version: None,
            cipher_suites: Vec::new(),
        });
        let ended = Some(ListenerTls::Terminate(Arc::clone(&termination)));
        let cases = [
            (Protocol::Http2, ended.clone(), Handling::Http),
            (Protocol::Https, ended.clone(), Handling::Https(&termination)),
            (Protocol::Tls, ended.clone(), Handling::Tcp(Some(&termination))),
            (Protocol::Tcp, ended, Handling::Tcp(Some(&termination))),
            (Protocol::Tcp, Some(ListenerTls::Passthrough), Handling::Tcp(None)),
            (Protocol::Tls, None, Handling::Passthrough),
            (Protocol::Https, Some(ListenerTls::Passthrough), Handling::Passthrough),
            (Protocol::Tls, Some(ListenerTls::AutoPassthrough), Handling::AutoPassthrough),
        ];
        for (protocol, tls, expected) in cases {
            assert_eq!(listener(protocol, tls.clone()).handling(), expected, "{protocol:?} {tls:?}");
        }
    }
}

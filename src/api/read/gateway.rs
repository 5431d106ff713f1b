//! Reads Gateway and Sidecar (contract §6.5), and the ports and TLS settings that they share.

use super::fields::{Node, Read};
use crate::api::{
    Labels,
    istio::{
        CaptureMode, Destination, EgressListener, Gateway, IngressListener, OutboundTrafficPolicy, Port, Server, ServerTls, ServerTlsMode,
        Sidecar, TlsCertificate, TlsProtocol,
    },
};

impl Read for Gateway {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| Self { selector: fields.get("selector"), servers: fields.get("servers") })
    }
}

impl Read for Server {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| {
            if !fields.has("port") {
                fields.error("port is missing");
            }
            if fields.has("defaultEndpoint") {
                fields.warn("defaultEndpoint", "has no effect (nor has it in Istio)");
            }
            Self {
                port: fields.get("port"),
                bind: fields.get("bind"),
                hosts: fields.get("hosts"),
                tls: fields.opt("tls"),
                name: fields.get("name"),
                default_endpoint: fields.get("defaultEndpoint"),
            }
        })
    }
}

impl Read for Port {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| Self {
            number: fields.get("number"),
            protocol: fields.get("protocol"),
            name: fields.get("name"),
            target_port: fields.get("targetPort"),
        })
    }
}

impl Read for ServerTls {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| {
            if fields.has("insecureSkipVerify") {
                fields.pass("insecureSkipVerify");
                fields.warn("insecureSkipVerify", "has no effect (nor has it in Istio): what clients present is verified as mode says");
            }
            Self {
                https_redirect: fields.get("httpsRedirect"),
                mode: fields.with("mode", mode).unwrap_or_default(),
                server_certificate: fields.get("serverCertificate"),
                private_key: fields.get("privateKey"),
                tls_certificates: fields.get("tlsCertificates"),
                ca_certificates: fields.get("caCertificates"),
                ca_crl: fields.get("caCrl"),
                credential_name: fields.get("credentialName"),
                credential_names: fields.get("credentialNames"),
                ca_cert_credential_name: fields.get("caCertCredentialName"),
                subject_alt_names: fields.get("subjectAltNames"),
                verify_certificate_spki: fields.get("verifyCertificateSpki"),
                verify_certificate_hash: fields.get("verifyCertificateHash"),
                min_protocol_version: fields.with("minProtocolVersion", version).unwrap_or_default(),
                max_protocol_version: fields.with("maxProtocolVersion", version).unwrap_or_default(),
                cipher_suites: fields.get("cipherSuites"),
            }
        })
    }
}

impl Read for TlsCertificate {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| {
            if fields.has("caCertificates") {
                fields.pass("caCertificates");
                fields.warn("caCertificates", "has no effect (nor has it in Istio): clients are held against those of the server");
            }
            Self { server_certificate: fields.get("serverCertificate"), private_key: fields.get("privateKey") }
        })
    }
}

fn mode(node: Node<'_>) -> Option<ServerTlsMode> {
    node.one_of(&[
        ("PASSTHROUGH", ServerTlsMode::Passthrough),
        ("SIMPLE", ServerTlsMode::Simple),
        ("MUTUAL", ServerTlsMode::Mutual),
        ("AUTO_PASSTHROUGH", ServerTlsMode::AutoPassthrough),
        ("ISTIO_MUTUAL", ServerTlsMode::IstioMutual),
        ("OPTIONAL_MUTUAL", ServerTlsMode::OptionalMutual),
    ])
}

fn version(node: Node<'_>) -> Option<TlsProtocol> {
    node.one_of(&[
        ("TLS_AUTO", TlsProtocol::Auto),
        ("TLSV1_0", TlsProtocol::V1_0),
        ("TLSV1_1", TlsProtocol::V1_1),
        ("TLSV1_2", TlsProtocol::V1_2),
        ("TLSV1_3", TlsProtocol::V1_3),
    ])
}

impl Read for Sidecar {
    fn read(node: Node<'_>) -> Option<Self> {
        let fields = node.fields()?;
        let (outbound_traffic_policy, egress_proxy) = fields.with("outboundTrafficPolicy", outbound_policy).unzip();
        let sidecar = Self {
            workload_selector: fields.with("workloadSelector", selector_labels),
            ingress: fields.get("ingress"),
            egress: fields.get("egress"),
            outbound_traffic_policy,
            egress_proxy: egress_proxy.flatten(),
            inbound_connection_pool: fields.opt("inboundConnectionPool"),
        };
        fields.finish();
        Some(sidecar)
    }
}

/// Reads `outboundTrafficPolicy` of a Sidecar: its mode, and the proxy that unknown destinations are reached by.
pub(super) fn outbound_policy(node: Node<'_>) -> Option<(OutboundTrafficPolicy, Option<Destination>)> {
    let fields = node.fields()?;
    let proxy = fields.opt("egressProxy");
    let mode = fields.with("mode", outbound_mode);
    fields.finish();
    // A policy without a mode has mode 0.
    Some((mode.unwrap_or(OutboundTrafficPolicy::RegistryOnly), proxy))
}

/// Reads `outboundTrafficPolicy.mode` of a Sidecar or of the mesh.
pub(super) fn outbound_mode(node: Node<'_>) -> Option<OutboundTrafficPolicy> {
    node.one_of(&[("REGISTRY_ONLY", OutboundTrafficPolicy::RegistryOnly), ("ALLOW_ANY", OutboundTrafficPolicy::AllowAny)])
}

/// Reads `{labels: …}`.
pub(super) fn selector_labels(node: Node<'_>) -> Option<Labels> {
    let fields = node.fields()?;
    let labels = fields.get("labels");
    fields.finish();
    Some(labels)
}

impl Read for IngressListener {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| {
            if !fields.has("port") {
                fields.error("port is missing");
            }
            if fields.has("tls") {
                fields.warn("tls", "field tls is not supported yet and has no effect");
            }
            Self {
                port: fields.get("port"),
                bind: fields.get("bind"),
                capture_mode: fields.with("captureMode", capture_mode).unwrap_or_default(),
                default_endpoint: fields.get("defaultEndpoint"),
                connection_pool: fields.opt("connectionPool"),
                tls: fields.opt("tls"),
            }
        })
    }
}

impl Read for EgressListener {
    fn read(node: Node<'_>) -> Option<Self> {
        node.message(|fields| Self {
            port: fields.opt("port"),
            bind: fields.get("bind"),
            capture_mode: fields.with("captureMode", capture_mode).unwrap_or_default(),
            hosts: fields.get("hosts"),
        })
    }
}

fn capture_mode(node: Node<'_>) -> Option<CaptureMode> {
    node.one_of(&[("DEFAULT", CaptureMode::Default), ("IPTABLES", CaptureMode::Iptables), ("NONE", CaptureMode::None)])
}

//! `proxyHeaders`: which headers of its own a proxy puts into requests and answers.

use serde_json::{Map, Value, json};
use smol_str::SmolStr;

use super::ForwardedCertificate;

/// What is said of a proxy's headers. `None` stands for what is usual.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ProxyHeaders {
    /// `forwardedClientCert`: what becomes of `x-forwarded-client-cert` at a sidecar; it is appended to if nothing is said.
    pub forwarded_certificate: Option<ForwardedCertificate>,
    /// `setCurrentClientCertDetails`: what a sidecar says there of the certificate that its client had.
    pub certificate_details: Option<CertificateDetails>,
    /// `requestId`: whether requests without an id are given one.
    pub request_id: Option<Disabled>,
    /// `server`: what the header of that name says.
    pub server: Option<ServerHeader>,
    /// `attemptCount`: whether `x-envoy-attempt-count` is sent.
    pub attempt_count: Option<Disabled>,
    /// `envoyDebugHeaders`: whether headers `x-envoy-…` are sent.
    pub envoy_debug_headers: Option<Disabled>,
    /// `metadataExchangeHeaders.mode: IN_MESH`: whether Istio's proxy tells of itself in the mesh only.
    pub exchange_in_mesh: Option<bool>,
    /// `preserveHttp1HeaderCase`
    pub preserve_case: Option<bool>,
    /// `xForwardedHost.enabled`: whether a host that is rewritten is kept in that header.
    pub forwarded_host: Option<bool>,
    /// `xForwardedPort.enabled`
    pub forwarded_port: Option<bool>,
}

/// `setCurrentClientCertDetails`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct CertificateDetails {
    /// `subject`; yes if nothing is said.
    pub subject: Option<bool>,
    /// `cert`; no if nothing is said.
    pub cert: Option<bool>,
    /// `chain`; no if nothing is said.
    pub chain: Option<bool>,
    /// `dns`; yes if nothing is said.
    pub dns: Option<bool>,
    /// `uri`; yes if nothing is said.
    pub uri: Option<bool>,
}

/// A message that may say that something is left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Disabled(pub bool);

/// `server`
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ServerHeader {
    /// `disabled`: what the application says stays.
    pub disabled: bool,
    /// `value`; empty for the usual one.
    pub value: SmolStr,
}

// === impl ProxyHeaders ===

impl ProxyHeaders {
    /// Returns what `above` says. Only these five come from below where it does not say them.
    pub(super) fn with(&self, above: &Self) -> Self {
        let above = above.clone();
        Self {
            forwarded_certificate: above.forwarded_certificate.or(self.forwarded_certificate),
            request_id: above.request_id.or(self.request_id),
            server: above.server.or_else(|| self.server.clone()),
            attempt_count: above.attempt_count.or(self.attempt_count),
            envoy_debug_headers: above.envoy_debug_headers.or(self.envoy_debug_headers),
            ..above
        }
    }

    /// Returns what is said, as ProxyConfig has it.
    pub(super) fn to_json(&self) -> Value {
        let disabled = |said: Option<Disabled>| said.map(|Disabled(disabled)| json!({ "disabled": disabled }));
        let enabled = |said: Option<bool>| said.map(|enabled| json!({ "enabled": enabled }));
        object([
            ("forwardedClientCert", self.forwarded_certificate.map(|forwarded| json!(forwarded.as_str()))),
            ("setCurrentClientCertDetails", self.certificate_details.map(CertificateDetails::to_json)),
            ("requestId", disabled(self.request_id)),
            ("server", self.server.as_ref().map(ServerHeader::to_json)),
            ("attemptCount", disabled(self.attempt_count)),
            ("envoyDebugHeaders", disabled(self.envoy_debug_headers)),
            ("metadataExchangeHeaders", self.exchange_in_mesh.map(|only| json!({ "mode": if only { "IN_MESH" } else { "UNDEFINED" } }))),
            ("preserveHttp1HeaderCase", self.preserve_case.map(|preserved| json!(preserved))),
            ("xForwardedHost", enabled(self.forwarded_host)),
            ("xForwardedPort", enabled(self.forwarded_port)),
        ])
    }
}

// === impl CertificateDetails ===

impl CertificateDetails {
    fn to_json(self) -> Value {
        let said = [("subject", self.subject), ("cert", self.cert), ("chain", self.chain), ("dns", self.dns), ("uri", self.uri)];
        object(said.map(|(name, said)| (name, said.map(|said| json!(said)))))
    }
}

// === impl ServerHeader ===

impl ServerHeader {
    fn to_json(&self) -> Value {
        object([("disabled", self.disabled.then_some(json!(true))), ("value", (!self.value.is_empty()).then(|| json!(self.value)))])
    }
}

fn object<const N: usize>(fields: [(&str, Option<Value>); N]) -> Value {
    Value::Object(fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_come_from_below_and_others_do_not() {
        let below = ProxyHeaders {
            request_id: Some(Disabled(true)),
            server: Some(ServerHeader { disabled: false, value: "mesh".into() }),
            forwarded_port: Some(true),
            ..ProxyHeaders::default()
        };
        let above = ProxyHeaders { attempt_count: Some(Disabled(true)), forwarded_host: Some(true), ..ProxyHeaders::default() };
        let expected = json!({
            "requestId": { "disabled": true }, "server": { "value": "mesh" }, "attemptCount": { "disabled": true },
            "xForwardedHost": { "enabled": true },
        });
        assert_eq!(below.with(&above).to_json(), expected);
    }
}

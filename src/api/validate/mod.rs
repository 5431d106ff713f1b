//! Istio's rules for its kinds (contract §5.6), and those of the API server that a folder of YAML goes without, on objects
//! that could be read. An error keeps the object from being
//! applied: Envoy, or a person, would misunderstand it.

mod authorization_policy;
mod cel;
mod destination_rule;
mod dry_run;
mod envoy_filter;
mod gateway;
mod header_value;
mod host;
mod http_route;
mod kubernetes;
mod locality_lb;
mod proxy_config;
mod rate_limit_policy;
mod regex;
mod repeated;
mod repeated_matches;
mod request_authentication;
mod service_entry;
mod sidecar;
mod target;
mod telemetry;
mod text;
mod traffic_distribution;
mod traffic_extension;
mod unread_metadata;
mod virtual_service;

use super::{
    Object, ObjectKey, Spec,
    findings::{Findings, Path},
    istio::{LocalityLb, PeerAuthentication},
    kinds::kinds,
};

macro_rules! define_object {
    ($(
        $(#[$doc:meta])*
        $kind:ident $(($content:ty))? { facts: $facts:expr, $(read: $read:ident,)? $(check: $check:ident,)? }
    )*) => {
        /// Checks one object. Kinds without a check are checked as they are read.
        pub(super) fn object(object: &Object, findings: &Findings) {
            let check = Check { object: &object.key, findings };
            let at = Path::Root.field("spec");
            traffic_distribution::check(object, findings);
            unread_metadata::check(object, findings);
            dry_run::check(object, findings);
            match &object.spec {
                $($(Spec::$kind(content) => check.$check(content, &at),)?)*
                _ => {}
            }
        }
    };
}

kinds!(define_object);

/// Checks that Envoy can compile a regular expression; the error says what it does not understand.
pub fn re2(expression: &str) -> Result<(), String> {
    regex::check(expression)
}

/// Checks the commands (`%…%`) in the value of a header that Envoy adds; the error says which it does not understand.
pub fn header_format(value: &str) -> Result<(), String> {
    header_value::check(value)
}

/// Checks the commands (`%…%`) in the format of an access log; the error says which Envoy does not understand.
pub(super) fn log_format(value: &str) -> Result<(), String> {
    header_value::check_log(value)
}

/// Returns whether a text is the name of a header.
pub(super) fn is_header_name(name: &str) -> bool {
    text::is_header_name(name)
}

/// Checks a `localityLbSetting` that stands at this path.
pub(super) fn locality_setting(setting: &LocalityLb, at: &Path<'_>, findings: &Findings) {
    locality_lb::check(setting, at, findings);
}

/// Checks a header that Envoy adds; the error says what is wrong with its name or its value.
pub(super) fn added_header(name: &str, value: &str) -> Result<(), String> {
    if !text::is_header_name(name) {
        return Err(format!("{name:?} is no name of a header"));
    }
    if value.chars().any(char::is_control) {
        return Err("has control characters".to_owned());
    }
    if name.len().max(value.len()) > text::LONGEST_HEADER {
        return Err(format!("is longer than the {} bytes that are possible", text::LONGEST_HEADER));
    }
    header_format(value)
}

/// The check of one object; the rules are spread over the files of this folder, by kind.
#[derive(Clone, Copy)]
struct Check<'a> {
    object: &'a ObjectKey,
    findings: &'a Findings,
}

impl Check<'_> {
    fn error(self, at: &Path<'_>, message: impl Into<String>) {
        self.findings.error(at, message);
    }

    fn warning(self, at: &Path<'_>, message: impl Into<String>) {
        self.findings.warning(at, message);
    }

    fn peer_authentication(self, authentication: &PeerAuthentication, at: &Path<'_>) {
        if let Some(selector) = &authentication.selector {
            self.selector(selector, &at.field("selector").field("matchLabels"));
        }
        let selects = authentication.selector.as_ref().is_some_and(|labels| !labels.is_empty());
        if !authentication.port_level.is_empty() && !selects {
            self.error(&at.field("portLevelMtls"), "needs a selector: ports are those of one workload");
        }
    }
}

#[cfg(test)]
mod tests;

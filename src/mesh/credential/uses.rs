//! Which secrets an object names, and where.

use smol_str::{SmolStr, format_smolstr};

use super::name::{Part, SecretName, Unnamed};
use crate::api::{
    Object, Spec,
    istio::{ClientTls, ClientTlsMode, ServerTls, ServerTlsMode, TrafficPolicy},
};

/// A secret that an object names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SecretUse {
    /// Which one.
    pub name: SecretName,
    /// The path of the field.
    pub field: SmolStr,
}

/// What a server's TLS takes from Secrets: certificates, and what clients are verified with.
#[derive(Debug, Default)]
pub(in crate::mesh) struct ServerSecrets {
    /// With the fields that name them.
    pub(in crate::mesh) certificates: Vec<(SmolStr, Result<SecretName, Unnamed>)>,
    /// With the field that names it.
    pub(in crate::mesh) trusted: Option<(SmolStr, Result<SecretName, Unnamed>)>,
}

/// Returns the secrets that an object names, sorted.
pub(in crate::mesh) fn of(object: &Object) -> Vec<SecretUse> {
    let mut uses = match &object.spec {
        Spec::Gateway(gateway) => {
            let servers = gateway.servers.iter().enumerate();
            let secrets = servers.filter_map(|(at, server)| Some((at, server_tls(server.tls.as_ref()?))));
            secrets.flat_map(|(at, secrets)| named(secrets.all(), &format!("spec.servers[{at}].tls"))).collect()
        }
        Spec::DestinationRule(rule) => {
            let subsets = rule.subsets.iter().enumerate();
            let subsets = subsets.map(|(at, subset)| (format!("spec.subsets[{at}].trafficPolicy"), subset.traffic_policy.as_deref()));
            let policies = std::iter::once(("spec.trafficPolicy".to_owned(), rule.traffic_policy.as_deref())).chain(subsets);
            policies.flat_map(|(at, policy)| of_policy(policy, &at)).collect()
        }
        _ => Vec::new(),
    };
    uses.sort_unstable();
    uses.dedup();
    uses
}

/// Returns what a server's TLS takes from Secrets.
pub(in crate::mesh) fn server_tls(tls: &ServerTls) -> ServerSecrets {
    let verifies = match tls.mode {
        ServerTlsMode::Simple => false,
        ServerTlsMode::Mutual | ServerTlsMode::OptionalMutual => true,
        ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough | ServerTlsMode::IstioMutual => return ServerSecrets::default(),
    };
    let key_pair = |(field, written): (SmolStr, &SmolStr)| (field, SecretName::parse(written, Part::KeyPair));
    let several = tls.credential_names.iter().enumerate().map(|(at, name)| (format_smolstr!("credentialNames[{at}]"), name));
    let one = (several.len() == 0 && !tls.credential_name.is_empty()).then(|| ("credentialName".into(), &tls.credential_name));
    let certificates: Vec<_> = several.chain(one).map(key_pair).collect();
    let trusted = match (&*tls.ca_cert_credential_name, certificates.first()) {
        ("", Some((field, name))) => Some((field.clone(), name.clone().map(|name| name.roots()))),
        ("", None) => None,
        (written, _) => Some(("caCertCredentialName".into(), SecretName::parse(written, Part::Roots))),
    };
    ServerSecrets { certificates, trusted: trusted.filter(|_| verifies) }
}

/// Returns what a client's TLS takes from a Secret or a ConfigMap.
pub(in crate::mesh) fn client_tls(tls: &ClientTls) -> Option<Result<SecretName, Unnamed>> {
    let of_users = matches!(tls.mode, ClientTlsMode::Simple | ClientTlsMode::Mutual);
    let mutual = tls.mode == ClientTlsMode::Mutual;
    (of_users && !tls.credential_name.is_empty()).then(|| SecretName::of_client(&tls.credential_name, mutual))
}

impl ServerSecrets {
    /// Returns all of them, with the fields that name them.
    pub(in crate::mesh) fn all(self) -> impl Iterator<Item = (SmolStr, Result<SecretName, Unnamed>)> {
        self.certificates.into_iter().chain(self.trusted)
    }
}

fn named(secrets: impl Iterator<Item = (SmolStr, Result<SecretName, Unnamed>)>, at: &str) -> Vec<SecretUse> {
    secrets.filter_map(|(field, name)| Some(SecretUse { name: name.ok()?, field: format_smolstr!("{at}.{field}") })).collect()
}

fn of_policy(policy: Option<&TrafficPolicy>, at: &str) -> Vec<SecretUse> {
    let ports = policy.into_iter().flat_map(|policy| policy.port_level_settings.iter().enumerate());
    let ports = ports.map(|(index, port)| (format!("{at}.portLevelSettings[{index}].tls"), port.tls.as_ref()));
    let settings = std::iter::once((format!("{at}.tls"), policy.and_then(|policy| policy.tls.as_ref()))).chain(ports);
    let secrets = settings.filter_map(|(at, tls)| Some((at, tls?))).flat_map(|(at, tls)| {
        let pair = client_tls(tls).and_then(Result::ok);
        let roots = pair.as_ref().filter(|_| !tls.insecure_skip_verify).map(SecretName::roots);
        let pair = pair.filter(|_| tls.mode == ClientTlsMode::Mutual);
        pair.into_iter().chain(roots).map(move |name| SecretUse { name, field: format_smolstr!("{at}.credentialName") })
    });
    secrets.collect()
}

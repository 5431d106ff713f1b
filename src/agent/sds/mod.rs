//! Secrets for the Envoy beside this agent, over a Unix socket: `default`, `ROOTCA`, and those whose names are files. They are sent
//! again on each rotation.
//!
//! Envoy keeps its connections when a secret changes; only new handshakes use the new one.

mod files;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    pin::Pin,
    time::Duration,
};

use envoy_types::pb::{
    envoy::{
        config::core::v3::{DataSource, data_source::Specifier},
        extensions::transport_sockets::tls::v3::{CertificateValidationContext, Secret, TlsCertificate, secret},
        service::{
            discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource},
            secret::v3::secret_discovery_service_server::SecretDiscoveryService,
        },
    },
    google::{protobuf::Any, rpc},
};
use futures::{Stream, StreamExt};
use prost::{Message, Name};
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming};
use tracing::warn;

use self::files::FileSecrets;
use super::certificate::{CurrentCertificate, WorkloadCertificate};

/// How often files are read while a stream wants them.
const FILES_POLL: Duration = Duration::from_secs(2);

/// The name of the workload's key and chain.
pub(crate) const DEFAULT: &str = "default";
/// The name of the roots to which peers must chain.
pub(crate) const ROOT_CA: &str = "ROOTCA";

/// The secret discovery service of one agent.
#[derive(Clone)]
pub(crate) struct SecretService {
    current: CurrentCertificate,
}

/// What one stream asked for and has: the protocol, without sockets.
#[derive(Debug, Default)]
struct SecretSubscription {
    wanted: BTreeSet<String>,
    /// The version that was sent last, by name.
    sent: BTreeMap<String, String>,
    nonce: u64,
    files: FileSecrets,
}

/// An encoded secret. `Debug` does not show it.
#[derive(Clone)]
struct Encoded {
    version: String,
    any: Any,
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl SecretService {
    /// Returns a service of what `current` holds. Names that are asked for before the first certificate are answered when it comes.
    pub(crate) fn new(current: CurrentCertificate) -> Self {
        Self { current }
    }
}

#[tonic::async_trait]
impl SecretDiscoveryService for SecretService {
    type DeltaSecretsStream = Responses<DeltaDiscoveryResponse>;
    type StreamSecretsStream = Responses<DiscoveryResponse>;

    async fn delta_secrets(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        Ok(Response::new(serve(
            request.into_inner(),
            self.current.clone(),
            SecretSubscription::accept_delta,
            SecretSubscription::answer_delta,
        )))
    }

    async fn stream_secrets(&self, request: Request<Streaming<DiscoveryRequest>>) -> Result<Response<Self::StreamSecretsStream>, Status> {
        Ok(Response::new(serve(request.into_inner(), self.current.clone(), SecretSubscription::accept, SecretSubscription::answer)))
    }

    async fn fetch_secrets(&self, _request: Request<DiscoveryRequest>) -> Result<Response<DiscoveryResponse>, Status> {
        Err(Status::unimplemented("secrets are streamed"))
    }
}

/// Answers requests, and sends more when the certificate changes.
fn serve<Q: Send + 'static, A: Send + 'static>(
    mut requests: Streaming<Q>,
    mut current: CurrentCertificate,
    accept: fn(&mut SecretSubscription, Q),
    answer: fn(&mut SecretSubscription, Option<&WorkloadCertificate>) -> Option<A>,
) -> Responses<A> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut subscription = SecretSubscription::default();
        loop {
            tokio::select! {
                request = requests.next() => match request {
                    Some(Ok(request)) => accept(&mut subscription, request),
                    _ => return,
                },
                changed = current.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(FILES_POLL), if subscription.wants_files() => {}
            }
            subscription.files.refresh(&subscription.wanted).await;
            let certificate = current.borrow_and_update().clone();
            let Some(response) = answer(&mut subscription, certificate.as_deref()) else { continue };
            if sender.send(Ok(response)).await.is_err() {
                return;
            }
        }
    });
    Box::pin(tokio_stream::wrappers::ReceiverStream::new(receiver))
}

// === impl SecretSubscription ===

impl SecretSubscription {
    fn accept(&mut self, request: DiscoveryRequest) {
        log_refusal(&request.resource_names, request.error_detail.as_ref());
        self.wanted = request.resource_names.into_iter().collect();
        self.sent.retain(|name, _| self.wanted.contains(name));
    }

    fn accept_delta(&mut self, request: DeltaDiscoveryRequest) {
        log_refusal(&[], request.error_detail.as_ref());
        for name in request.resource_names_unsubscribe {
            self.wanted.remove(&name);
            self.sent.remove(&name);
        }
        for name in request.resource_names_subscribe {
            // A name that is subscribed again must be answered, even if nothing changed.
            self.sent.remove(&name);
            self.wanted.insert(name);
        }
        for (name, version) in request.initial_resource_versions {
            self.sent.insert(name, version);
        }
    }

    fn wants_files(&self) -> bool {
        self.wanted.iter().any(|name| files::is_file(name))
    }

    fn answer(&mut self, certificate: Option<&WorkloadCertificate>) -> Option<DiscoveryResponse> {
        let owed: BTreeMap<String, Encoded> = self.known(certificate);
        let current = owed.iter().all(|(name, secret)| self.sent.get(name) == Some(&secret.version));
        if current {
            return None;
        }
        self.sent = owed.iter().map(|(name, secret)| (name.clone(), secret.version.clone())).collect();
        let versions: Vec<&str> = owed.values().map(|secret| secret.version.as_str()).collect();
        Some(DiscoveryResponse {
            version_info: versions.join("-"),
            nonce: self.next_nonce(),
            type_url: Secret::type_url(),
            resources: owed.into_values().map(|secret| secret.any).collect(),
            ..Default::default()
        })
    }

    fn answer_delta(&mut self, certificate: Option<&WorkloadCertificate>) -> Option<DeltaDiscoveryResponse> {
        let owed = self.known(certificate).into_iter().filter(|(name, secret)| self.sent.get(name) != Some(&secret.version));
        let resources: Vec<Resource> = owed
            .map(|(name, secret)| Resource { name, version: secret.version, resource: Some(secret.any), ..Default::default() })
            .collect();
        if resources.is_empty() {
            return None;
        }
        self.sent.extend(resources.iter().map(|resource| (resource.name.clone(), resource.version.clone())));
        Some(DeltaDiscoveryResponse { resources, nonce: self.next_nonce(), type_url: Secret::type_url(), ..Default::default() })
    }

    fn known(&self, certificate: Option<&WorkloadCertificate>) -> BTreeMap<String, Encoded> {
        let of_workload = |name: &str| certificate.and_then(|certificate| of_workload(name, certificate));
        let known = |name: &String| self.files.get(name).cloned().or_else(|| of_workload(name));
        self.wanted.iter().filter_map(|name| Some((name.clone(), known(name)?))).collect()
    }

    fn next_nonce(&mut self) -> String {
        self.nonce += 1;
        self.nonce.to_string()
    }
}

fn log_refusal(names: &[String], error: Option<&rpc::Status>) {
    if let Some(error) = error {
        warn!(?names, "Envoy refused a secret: {}", error.message);
    }
}

/// Encodes the workload's own secret of that name; `None` for any other name.
fn of_workload(name: &str, certificate: &WorkloadCertificate) -> Option<Encoded> {
    let kind = match name {
        DEFAULT => secret::Type::TlsCertificate(TlsCertificate {
            certificate_chain: Some(inline(certificate.chain_pem().as_bytes())),
            private_key: Some(inline(certificate.key_pem().as_bytes())),
            ..Default::default()
        }),
        ROOT_CA => secret::Type::ValidationContext(CertificateValidationContext {
            trusted_ca: Some(inline(certificate.root_pem().as_bytes())),
            crl: certificate.revocation_pem().map(|lists| inline(lists.as_bytes())),
            ..Default::default()
        }),
        _ => return None,
    };
    Some(encode(name, kind))
}

fn encode(name: &str, kind: secret::Type) -> Encoded {
    let value = Secret { name: name.to_owned(), r#type: Some(kind) }.encode_to_vec();
    let version = format!("{:016x}", xxhash_rust::xxh3::xxh3_64(&value));
    Encoded { version, any: Any { type_url: Secret::type_url(), value } }
}

fn inline(pem: &[u8]) -> DataSource {
    DataSource { specifier: Some(Specifier::InlineBytes(pem.to_vec())), ..Default::default() }
}

impl fmt::Debug for Encoded {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Encoded").field("version", &self.version).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn certificate(root: &str) -> WorkloadCertificate {
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::default().self_signed(&key).unwrap().pem();
        WorkloadCertificate::from_answer(&key, &[leaf, root.to_owned()]).unwrap()
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn subscribe(names_wanted: &[&str]) -> DeltaDiscoveryRequest {
        DeltaDiscoveryRequest { resource_names_subscribe: names(names_wanted), ..Default::default() }
    }

    #[test]
    fn delta_sends_what_changed_and_answers_a_second_subscription() {
        let (first, second) = (certificate("root"), certificate("root"));
        let mut stream = SecretSubscription::default();
        assert!(stream.answer_delta(Some(&first)).is_none(), "nothing was asked for");
        stream.accept_delta(subscribe(&[DEFAULT, ROOT_CA, "unknown"]));
        assert_eq!(stream.answer_delta(Some(&first)).unwrap().resources.len(), 2);
        stream.accept_delta(DeltaDiscoveryRequest { response_nonce: "1".to_owned(), ..Default::default() });
        assert!(stream.answer_delta(Some(&first)).is_none(), "an ACK is not answered");
        let rotated = stream.answer_delta(Some(&second)).unwrap();
        assert_eq!(rotated.resources.iter().map(|resource| resource.name.as_str()).collect::<Vec<_>>(), [DEFAULT], "the root is the same");
        assert_eq!(rotated.nonce, "2");
        stream.accept_delta(subscribe(&[DEFAULT]));
        assert_eq!(stream.answer_delta(Some(&second)).unwrap().resources.len(), 1);
        stream.accept_delta(DeltaDiscoveryRequest { resource_names_unsubscribe: names(&[DEFAULT]), ..Default::default() });
        assert!(stream.answer_delta(Some(&first)).is_none());
    }

    #[test]
    fn delta_reconnect_with_the_current_version_costs_nothing() {
        let held = certificate("root");
        let version = of_workload(DEFAULT, &held).unwrap().version;
        let mut stream = SecretSubscription::default();
        let mut request = subscribe(&[DEFAULT]);
        request.initial_resource_versions.insert(DEFAULT.to_owned(), version);
        stream.accept_delta(request);
        assert!(stream.answer_delta(Some(&held)).is_none());
        assert!(stream.answer_delta(Some(&certificate("root"))).is_some());
    }

    #[test]
    fn state_of_the_world_sends_all_that_is_wanted() {
        let (first, second) = (certificate("root"), certificate("root"));
        let mut stream = SecretSubscription::default();
        let request = |wanted: &[&str]| DiscoveryRequest { resource_names: names(wanted), ..Default::default() };
        stream.accept(request(&[DEFAULT]));
        let answer = stream.answer(Some(&first)).unwrap();
        assert_eq!((answer.resources.len(), answer.type_url.as_str()), (1, Secret::type_url().as_str()));
        stream.accept(request(&[DEFAULT]));
        assert!(stream.answer(Some(&first)).is_none(), "an ACK is not answered");
        stream.accept(request(&[DEFAULT, ROOT_CA]));
        assert_eq!(stream.answer(Some(&first)).unwrap().resources.len(), 2);
        assert_eq!(stream.answer(Some(&second)).unwrap().resources.len(), 2);
    }

    #[test]
    fn secrets_carry_key_chain_and_root() {
        let held = certificate("root");
        let decode = |name| Secret::decode(of_workload(name, &held).unwrap().any.value.as_slice()).unwrap().r#type.unwrap();
        let secret::Type::TlsCertificate(tls) = decode(DEFAULT) else { panic!("not a certificate") };
        assert_eq!(tls.private_key, Some(inline(held.key_pem().as_bytes())));
        assert_eq!(tls.certificate_chain, Some(inline(held.chain_pem().as_bytes())));
        let secret::Type::ValidationContext(context) = decode(ROOT_CA) else { panic!("not a validation context") };
        assert_eq!(context.trusted_ca, Some(inline(b"root\n")));
    }
}

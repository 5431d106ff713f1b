//! Requests for certificates at random, most of them with a signature that is right: whatever one asks for, the certificate says who
//! the caller is, and nothing else.

use std::{sync::Arc, time::Duration};

use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind};
use futures::executor::block_on;
use istiod_lite::{
    identity::{
        ca::{self, CaHandle, IssuePolicy, SelfSigned},
        certificate::Certificate,
        metrics::CaMetrics,
        proof::{Proof, Proven},
        service::CertificateService,
        system_clock,
    },
    mesh::model::{Caller, SpiffeId},
    peer_text::escaped,
    proto::auth::{IstioCertificateRequest, istio_certificate_service_server::IstioCertificateService},
};
use jiff::Timestamp;
use prost::Message;
use rcgen::{CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, SanType, SigningKey};
use tonic::{Code, Request, Status};
use x509_parser::{certification_request::X509CertificationRequest, parse_x509_certificate, prelude::FromDer};

use super::random_texts::Texts;

const CALLER: &str = "spiffe://cluster.local/ns/shop/sa/client";
/// `ecdsa-with-SHA256`
const ALGORITHM: [u8; 12] = [0x30, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
/// What may be added to a certificate, by the last arcs of its name: who signed it, what it is for, that it is no CA, whose it is.
const EXTENSIONS: [&str; 6] = ["2.5.29.35", "2.5.29.14", "2.5.29.15", "2.5.29.37", "2.5.29.19", "2.5.29.17"];

#[test]
fn certificate_requests_at_random() {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let good = [greedy(&key), CertificateParams::default(), nameless()].map(|parameters| request(&parameters, &key));
    let service = service();
    let mut informations = Texts::of("certificate requests", good.iter().map(|der| information(der)).chain([long_algorithm()]).collect());
    let mut messages = Texts::of("CreateCertificate", good.iter().map(|der| message(der, 3600, Vec::new()).encode_to_vec()).collect());
    let mut issued = 0;
    while let Some(bytes) = informations.next() {
        // Most would be refused for a signature that is not right, before anything else of them counts.
        let der = if informations.below(8) == 0 { bytes } else { signed(&bytes, &key) };
        let asked = message(&der, validity(&mut informations), metadata(&mut informations));
        issued += usize::from(is_harmless(&service, asked));
        let Some(bytes) = messages.next() else { break };
        if let Ok(asked) = IstioCertificateRequest::decode(&*bytes) {
            issued += usize::from(is_harmless(&service, asked));
        }
    }
    println!("{issued} certificates issued");
    assert!(issued > 0);
    informations.end();
    messages.end();
}

/// Asks for a certificate, and asserts that it is the caller's or that the refusal is short; returns whether there is one.
fn is_harmless(service: &CertificateService, asked: IstioCertificateRequest) -> bool {
    let anonymous = block_on(service.create_certificate(Request::new(asked.clone()))).unwrap_err();
    assert_eq!(anonymous.code(), Code::Unauthenticated);
    let mut call = Request::new(asked.clone());
    let identity = SpiffeId::parse(CALLER).unwrap();
    call.extensions_mut().insert(Caller::Workload(identity.clone()));
    call.extensions_mut().insert(Proven::new(identity, Proof::LocalToken));
    match block_on(service.create_certificate(call)) {
        Ok(answer) => {
            assert!(!impersonates(&asked), "{asked:?}");
            is_the_callers(&answer.into_inner().cert_chain[0]);
            true
        }
        Err(status) => {
            refusal_is_harmless(&status);
            false
        }
    }
}

fn is_the_callers(pem: &str) {
    let leaf = Certificate::all_from_pem(pem).unwrap().remove(0);
    assert_eq!(leaf.uris, [CALLER]);
    assert!(leaf.dns_names.is_empty() && leaf.addresses.is_empty() && !leaf.is_ca && !leaf.signs_certificates, "{leaf:?}");
    assert!(leaf.subject.is_empty() || leaf.subject == format!("CN={CALLER}"), "{}", leaf.subject);
    let longest = Timestamp::now() + IssuePolicy::default().max_ttl + Duration::from_secs(5);
    assert!(leaf.not_after <= longest, "{leaf:?}");
    let (_, parsed) = parse_x509_certificate(leaf.der()).unwrap();
    assert_eq!(parsed.subject_alternative_name().unwrap().unwrap().value.general_names.len(), 1);
    for extension in parsed.extensions() {
        let name = extension.oid.to_id_string();
        assert!(EXTENSIONS.contains(&name.as_str()), "{name}");
    }
}

fn refusal_is_harmless(status: &Status) {
    assert_eq!(escaped(status.message()), status.message(), "shown as it is");
    assert!(status.message().len() < 1_200, "{status:?}");
    assert!(matches!(status.code(), Code::InvalidArgument | Code::Unauthenticated), "{status:?}");
}

fn impersonates(asked: &IstioCertificateRequest) -> bool {
    let named = asked.metadata.as_ref().and_then(|metadata| metadata.fields.get("ImpersonatedIdentity")?.kind.as_ref());
    !matches!(named, None | Some(Kind::NullValue(_))) && named != Some(&Kind::StringValue(String::new()))
}

fn service() -> CertificateService {
    let now = Timestamp::now();
    let made = SelfSigned::new("cluster.local").generate(now).unwrap();
    let ca = CaHandle::new(ca::load_self_signed("the test", &made, now).unwrap());
    CertificateService::new(ca, IssuePolicy::default(), system_clock(), CaMetrics::default(), Arc::default())
}

fn message(der: &[u8], validity_duration: i64, fields: Vec<(&str, Kind)>) -> IstioCertificateRequest {
    let fields = fields.into_iter().map(|(name, kind)| (name.to_owned(), Value { kind: Some(kind) }));
    IstioCertificateRequest {
        csr: pem::encode(&pem::Pem::new("CERTIFICATE REQUEST", der)),
        validity_duration,
        metadata: Some(Struct { fields: fields.collect() }),
    }
}

fn validity(texts: &mut Texts) -> i64 {
    [3600, 0, -1, 1, 86_400, i64::MAX, i64::MIN, 7_776_001][texts.below(8)]
}

fn metadata(texts: &mut Texts) -> Vec<(&'static str, Kind)> {
    let other = || Kind::StringValue("spiffe://cluster.local/ns/istio-system/sa/istiod".to_owned());
    match texts.below(16) {
        0 => vec![("ImpersonatedIdentity", other())],
        1 => vec![("ImpersonatedIdentity", Kind::BoolValue(true))],
        2 => vec![("CertSigner", other()), ("ClusterID", other())],
        _ => Vec::new(),
    }
}

/// Returns a request for all that nobody is given.
fn greedy(key: &KeyPair) -> CertificateParams {
    let mut parameters = nameless();
    let text = |text: &str| text.try_into().unwrap();
    parameters.subject_alt_names = vec![
        SanType::URI(text("spiffe://cluster.local/ns/istio-system/sa/istiod")),
        SanType::DnsName(text("istiod.istio-system.svc")),
        SanType::Rfc822Name(text("root@example.com")),
        SanType::IpAddress([10, 96, 0, 1].into()),
    ];
    for kind in [DnType::CommonName, DnType::OrganizationName, DnType::OrganizationalUnitName] {
        parameters.distinguished_name.push(kind, "system:masters");
    }
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any, ExtendedKeyUsagePurpose::OcspSigning];
    // cA TRUE, and an extension of nobody's.
    let is_ca = CustomExtension::from_oid_content(&[2, 5, 29, 19], vec![0x30, 3, 1, 1, 0xff]);
    let odd = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99_999], key.public_key_raw().to_vec());
    parameters.custom_extensions = vec![is_ca, odd];
    parameters
}

fn nameless() -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters
}

fn request(parameters: &CertificateParams, key: &KeyPair) -> Vec<u8> {
    parameters.serialize_request(key).unwrap().der().to_vec()
}

/// Returns what is signed of a request.
fn information(der: &[u8]) -> Vec<u8> {
    X509CertificationRequest::from_der(der).unwrap().1.certification_request_info.raw.to_vec()
}

/// Returns what is signed, with the signature of the key.
fn signed(information: &[u8], key: &KeyPair) -> Vec<u8> {
    let signature = element(3, &[&[0], &*key.sign(information).unwrap()].concat());
    element(0x30, &[information, &ALGORITHM, &signature].concat())
}

/// Returns a request for a key of an algorithm with a very long name.
pub(crate) fn long_algorithm() -> Vec<u8> {
    let algorithm = element(0x30, &element(6, &[0x2a].repeat(7_000)));
    let key = element(0x30, &[algorithm, element(3, &[0, 1, 2])].concat());
    element(0x30, &[element(2, &[0]), element(0x30, &[]), key, element(0xa0, &[])].concat())
}

fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let [.., high, low] = content.len().to_be_bytes();
    let mut element = vec![tag];
    match content.len() {
        0..=0x7f => element.push(low),
        _ => element.extend([0x82, high, low]),
    }
    element.extend_from_slice(content);
    element
}

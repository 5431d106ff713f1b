//! Hostile text in what proves who somebody is: TLS handshakes, tokens and requests for certificates.

use std::{sync::Arc, time::Duration};

use envoy_types::pb::google::protobuf::{Struct, Value as ProtobufValue, value::Kind};
use istiod_lite::{
    identity::local_issuer::{DEFAULT_AUDIENCE, DEFAULT_ISSUER, LocalIssuer},
    proto::auth::{IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient},
};
use jiff::Timestamp;
use rcgen::{CertificateParams, CustomExtension, DnType, KeyPair, SanType};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tonic::{Request, Status};

use super::{HOSTILE, is_harmless};
use crate::{
    fuzz::{certificates::long_algorithm, tokens::sign},
    stage::Stage,
};

/// Says hostile things of itself in every way in which a caller of port 15012 can: fewer than of which lines are left out of the log.
pub(super) async fn write_identities(stage: &Stage) {
    write_handshakes(stage).await;
    for token in tokens(stage) {
        let refused = certificate(stage, &token, request("CERTIFICATE REQUEST", b"x")).await.unwrap_err();
        is_harmless("a refusal of a token", refused.message());
    }
    for csr in requests() {
        let answer = certificate(stage, &stage.token(), csr).await;
        match answer {
            Err(refused) => is_harmless("a refusal of a request", refused.message()),
            Ok(chain) => {
                let leaf = pem::parse(&chain[0]).unwrap();
                assert!(!String::from_utf8_lossy(leaf.contents()).contains("FORGED"), "it says what was asked for");
            }
        }
    }
    write_path(stage).await;
}

/// Begins handshakes with hostile server names, protocols and certificates.
async fn write_handshakes(stage: &Stage) {
    for address in [stage.secure_grpc(), stage.webhooks()] {
        let mut hello = Vec::new();
        let name = format!("{}.{}", "n".repeat(60), "n".repeat(60));
        let mut config = client(stage, None);
        config.alpn_protocols = vec![HOSTILE.as_bytes().to_vec(), b"h2".to_vec()];
        let mut connection = ClientConnection::new(Arc::new(config), name.clone().try_into().unwrap()).unwrap();
        connection.write_tls(&mut hello).unwrap();
        let at = hello.windows(name.len()).position(|text| text == name.as_bytes()).unwrap();
        hello[at..at + name.len()].copy_from_slice(&HOSTILE.as_bytes()[..name.len()]);
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(&hello).await.unwrap();
        let _ = timeout(Duration::from_millis(500), stream.read(&mut [0; 4096])).await;
    }
    // Of a stranger, who calls himself ours.
    let key = KeyPair::generate().unwrap();
    let stranger = greedy().self_signed(&key).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = client(stage, Some((stranger.der().clone(), key)));
    let stream = TcpStream::connect(stage.secure_grpc()).await.unwrap();
    if let Ok(mut stream) = TlsConnector::from(Arc::new(config)).connect("istiod.istio-system.svc".try_into().unwrap(), stream).await {
        let _ = timeout(Duration::from_millis(500), stream.read(&mut [0; 64])).await;
    }
}

fn client(stage: &Stage, certificate: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(stage.root().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let builder = builder.with_root_certificates(roots);
    match certificate {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => builder.with_client_auth_cert(vec![certificate], key).unwrap(),
    }
}

/// Returns tokens with hostile headers and claims, most of them signed by the issuer: then they are read to the end.
fn tokens(stage: &Stage) -> Vec<String> {
    let issuer = LocalIssuer::open(&stage.issuer(), DEFAULT_ISSUER).unwrap();
    let text = format!("{HOSTILE}{}", "L".repeat(5_000));
    let signed = |header: Value, claims: Value| sign(&issuer, header.to_string().as_bytes(), claims.to_string().as_bytes());
    let good = || json!({"iss": DEFAULT_ISSUER, "aud": DEFAULT_AUDIENCE, "exp": Timestamp::now().as_second() + 600});
    let claims = |more: Value| {
        let (Value::Object(mut claims), Value::Object(more)) = (good(), more) else { panic!("no claims") };
        claims.extend(more);
        Value::Object(claims)
    };
    let header = json!({"alg": "ES256"});
    vec![
        signed(json!({"alg": text}), good()),
        signed(json!({"alg": "ES256", "kid": text, "typ": text, "crit": [text]}), good()),
        signed(header.clone(), claims(json!({"iss": text}))),
        signed(header.clone(), claims(json!({"aud": [text, text]}))),
        signed(header.clone(), claims(json!({"sub": text}))),
        signed(header.clone(), claims(json!({"sub": format!("system:serviceaccount:{text}:a")}))),
        signed(header, claims(json!({"exp": text, (text.clone()): text}))),
        "L".repeat(8_000),
    ]
}

fn requests() -> Vec<String> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let greedy = greedy().serialize_request(&key).unwrap().der().to_vec();
    vec![
        request("CERTIFICATE REQUEST", &greedy),
        request("CERTIFICATE REQUEST", &long_algorithm()),
        request("CERTIFICATE REQUEST", &[&greedy, HOSTILE.as_bytes()].concat()),
        request(&HOSTILE.replace(['\n', '\r', '-'], " "), &greedy),
        HOSTILE.to_owned(),
        format!("{HOSTILE}{}", "L".repeat(4_000)),
    ]
}

fn request(tag: &str, der: &[u8]) -> String {
    pem::encode(&pem::Pem::new(tag, der))
}

/// Returns a certificate or request whose every name is hostile.
fn greedy() -> CertificateParams {
    let mut parameters = CertificateParams::default();
    for kind in [DnType::CommonName, DnType::OrganizationName, DnType::StateOrProvinceName, DnType::CustomDnType(vec![2, 5, 4, 12])] {
        parameters.distinguished_name.push(kind, HOSTILE);
    }
    let ascii: String = HOSTILE.chars().filter(char::is_ascii).collect();
    parameters.subject_alt_names = vec![
        SanType::URI(ascii.as_str().try_into().unwrap()),
        SanType::DnsName(ascii.as_str().try_into().unwrap()),
        SanType::Rfc822Name(ascii.as_str().try_into().unwrap()),
    ];
    parameters.custom_extensions = vec![CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99_999], HOSTILE.into())];
    parameters
}

async fn certificate(stage: &Stage, token: &str, csr: String) -> Result<Vec<String>, Status> {
    let value = || ProtobufValue { kind: Some(Kind::StringValue(format!("{HOSTILE}{}", "L".repeat(5_000)))) };
    let fields = [HOSTILE, "ClusterID", "CertSigner"].map(|name| (name.to_owned(), value()));
    let metadata = Some(Struct { fields: fields.into() });
    let mut call = Request::new(IstioCertificateRequest { csr, validity_duration: 600, metadata });
    call.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    let channel = stage.good().secure_channel().await.unwrap();
    Ok(IstioCertificateServiceClient::new(channel).create_certificate(call).await?.into_inner().cert_chain)
}

/// Asks for a service with a long name, without proof.
async fn write_path(stage: &Stage) {
    let mut client = tonic::client::Grpc::new(stage.good().secure_channel().await.unwrap());
    client.ready().await.unwrap();
    let path = format!("/{}/%1b%0a%22", "L".repeat(6_000));
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let refused = client.unary(Request::new(()), path.parse().unwrap(), codec).await.unwrap_err();
    is_harmless("a refusal of a path", refused.message());
}

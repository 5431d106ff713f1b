//! An issuer of tokens: a web server with its public keys, and what signs.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, anyhow};
use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};

/// A key of an issuer.
pub(crate) struct SigningKey {
    id: String,
    der: Vec<u8>,
    /// The public point: `04`, then both coordinates.
    point: Vec<u8>,
}

/// Where an issuer's keys are served; it goes away when it is dropped.
pub(crate) struct Issuer {
    address: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    keys: Mutex<Value>,
    fetches: AtomicUsize,
}

impl SigningKey {
    /// Makes a key of that id.
    pub(crate) fn new(id: &str) -> Result<Self> {
        let broken = |error: aws_lc_rs::error::Unspecified| anyhow!("no key: {error}");
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).map_err(broken)?;
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref()).map_err(|error| anyhow!("{error}"))?;
        Ok(Self { id: id.to_owned(), der: pkcs8.as_ref().to_vec(), point: pair.public_key().as_ref().to_vec() })
    }

    /// Returns its public part as an entry of a key set.
    pub(crate) fn public(&self) -> Value {
        let (x, y) = self.point[1..].split_at(32);
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        json!({"kty": "EC", "crv": "P-256", "alg": "ES256", "kid": self.id, "x": text(x), "y": text(y)})
    }

    /// Returns the public point.
    pub(crate) fn point(&self) -> &[u8] {
        &self.point
    }

    /// Signs claims.
    pub(crate) fn sign(&self, claims: &Value) -> Result<String> {
        self.sign_as(&self.id, claims)
    }

    /// Signs claims under another id.
    pub(crate) fn sign_as(&self, id: &str, claims: &Value) -> Result<String> {
        let header = Header { kid: Some(id.to_owned()), ..Header::new(Algorithm::ES256) };
        encode(&header, claims, &EncodingKey::from_ec_der(&self.der)).context("no token")
    }
}

impl Issuer {
    /// Serves keys at `address`.
    pub(crate) async fn start(address: SocketAddr, keys: &[&SigningKey]) -> Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let state = Arc::new(State::default());
        let issuer = Self { address, task: tokio::spawn(serve(listener, Arc::clone(&state))), state };
        issuer.publish(keys);
        Ok(issuer)
    }

    /// Publishes these keys from now on, and no others.
    pub(crate) fn publish(&self, keys: &[&SigningKey]) {
        *self.state.keys.lock() = key_set(keys);
    }

    /// Returns how often the keys were fetched.
    pub(crate) fn fetches(&self) -> usize {
        self.state.fetches.load(Ordering::SeqCst)
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Returns a key set.
pub(crate) fn key_set(keys: &[&SigningKey]) -> Value {
    json!({"keys": keys.iter().map(|key| key.public()).collect::<Vec<_>>()})
}

/// Returns a time in so many seconds, as tokens say it.
pub(crate) fn in_seconds(seconds: i64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map(|since| since.as_secs()).unwrap_or_default();
    now.cast_signed() + seconds
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    while let Ok((stream, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        let service = service_fn(move |request: Request<Incoming>| {
            let answer = answer(&state, request.uri().path());
            async move { Ok::<_, Infallible>(answer) }
        });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

fn answer(state: &State, path: &str) -> Response<Full<Bytes>> {
    let text = match path {
        "/keys" => {
            state.fetches.fetch_add(1, Ordering::SeqCst);
            state.keys.lock().to_string()
        }
        _ => String::new(),
    };
    let status = if text.is_empty() { StatusCode::NOT_FOUND } else { StatusCode::OK };
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response
}

impl Issuer {
    /// Returns where its keys are.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/keys", self.address)
    }
}

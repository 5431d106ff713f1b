//! A client of Envoy's admin interface, and of the agent's own port, which answers in the same way.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::system_error::explain;

/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Client of one admin interface.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Admin {
    address: SocketAddr,
    timeout: Duration,
}

/// Why a request was not answered with 200.
#[derive(Debug, thiserror::Error)]
#[error("{address}: {reason}")]
pub(crate) struct Error {
    address: SocketAddr,
    reason: String,
}

impl Admin {
    /// Returns a client of the interface at `address`.
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address, timeout: TIMEOUT }
    }

    /// Waits for each answer as long as it takes.
    pub(crate) fn without_timeout(self) -> Self {
        Self { timeout: Duration::MAX, ..self }
    }

    /// Sends a GET, and returns the body if the status is 200.
    pub(crate) async fn get(&self, path: &str) -> Result<Bytes, Error> {
        self.request(Method::GET, path).await
    }

    /// Sends a POST, and returns the body if the status is 200.
    pub(crate) async fn post(&self, path: &str) -> Result<Bytes, Error> {
        self.request(Method::POST, path).await
    }

    async fn request(&self, method: Method, path: &str) -> Result<Bytes, Error> {
        match tokio::time::timeout(self.timeout, self.exchange(method, path)).await {
            Ok(Ok((StatusCode::OK, body))) => Ok(body),
            Ok(Ok((status, _))) => Err(self.error(format!("{path}: {status}"))),
            Ok(Err(error)) => Err(self.error(error)),
            Err(_) => Err(self.error(format!("{path}: no answer within {:?}", self.timeout))),
        }
    }

    async fn exchange(&self, method: Method, path: &str) -> Result<(StatusCode, Bytes), String> {
        let stream = TcpStream::connect(self.address).await.map_err(|error| explain(&error))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        let driver = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", self.address.to_string())
            .body(Empty::<Bytes>::new())
            .map_err(|error| error.to_string())?;
        let answer = async {
            let response = sender.send_request(request).await?;
            let status = response.status();
            Ok::<_, hyper::Error>((status, response.into_body().collect().await?.to_bytes()))
        };
        let result = answer.await.map_err(|error| error.to_string());
        driver.abort();
        result
    }

    fn error(&self, reason: String) -> Error {
        Error { address: self.address, reason }
    }
}

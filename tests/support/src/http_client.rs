//! A plain HTTP/1.1 client: one connection, nothing retried, nothing hidden.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, anyhow, ensure};
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header::HOST};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

/// The bound of requests that judge nothing (admin pages, readiness).
const PATIENCE: Duration = Duration::from_secs(5);

/// A whole answer.
#[derive(Debug)]
pub struct Response {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Response {
    /// Returns a header's text; empty when it is absent or no text.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// Returns the body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// One connection, used for one request at a time.
#[derive(Debug)]
pub struct Connection {
    sender: SendRequest<Empty<Bytes>>,
}

impl Connection {
    /// Opens a connection; its task ends with the connection.
    pub async fn open(target: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(target).await.with_context(|| format!("connect to {target}"))?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self { sender })
    }

    /// Returns whether it can carry another request.
    pub fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    /// Sends GET and reads the whole answer.
    pub async fn get(&mut self, host: &str, path: &str) -> Result<Response> {
        self.get_with(host, path, &[]).await
    }

    /// Sends GET with more headers and reads the whole answer.
    pub async fn get_with(&mut self, host: &str, path: &str, headers: &[(&str, &str)]) -> Result<Response> {
        self.sender.ready().await.context("the connection was closed")?;
        let request = Request::get(path).header(HOST, host);
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)).body(Empty::new())?;
        let (parts, body) = self.sender.send_request(request).await?.into_parts();
        let body = body.collect().await.context("the answer's body")?.to_bytes();
        Ok(Response { status: parts.status, headers: parts.headers, body })
    }
}

/// Sends a GET on a connection of its own.
pub async fn get(target: SocketAddr, host: &str, path: &str) -> Result<Response> {
    get_with(target, host, path, &[]).await
}

/// Sends a GET with more headers on a connection of its own.
pub async fn get_with(target: SocketAddr, host: &str, path: &str, headers: &[(&str, &str)]) -> Result<Response> {
    let asked = async { Connection::open(target).await?.get_with(host, path, headers).await };
    timeout(PATIENCE, asked).await.map_err(|_| anyhow!("{target}{path}: no answer within {PATIENCE:?}"))?
}

/// Sends a GET that must be answered with 200; returns the body's text.
pub async fn get_text(target: SocketAddr, path: &str) -> Result<String> {
    let response = get(target, &target.to_string(), path).await?;
    ensure!(response.status == StatusCode::OK, "{target}{path}: {} {}", response.status, response.text());
    Ok(response.text())
}

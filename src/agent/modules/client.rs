//! Requests for modules: bounded in size and number, and only to where they may go.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri,
    header::{AUTHORIZATION, HOST, LOCATION, USER_AGENT},
};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{
    body::Incoming,
    client::conn::http1,
    rt::{Read, Write},
};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::{
    net::{TcpStream, lookup_host},
    time,
};
use tokio_rustls::TlsConnector;

use crate::{
    backoff::{Backoff, random_unit},
    system_error::explain,
};

/// The largest module, in bytes, packed and unpacked.
pub(super) const LARGEST: usize = 64 << 20;
/// The largest other document: a manifest, or a token.
const LARGEST_DOCUMENT: usize = 1 << 20;
/// How many redirects are followed.
const MOST_REDIRECTS: usize = 5;
/// How often it is tried to get a module that may be there later.
const ATTEMPTS: usize = 5;

/// Sends requests.
#[derive(Clone, Debug)]
pub(super) struct Client {
    tls: Arc<ClientConfig>,
    /// Hosts, with their ports if they have any, that are spoken to without TLS; `*`: all.
    plain: Arc<[String]>,
}

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// Why nothing came back.
#[derive(Debug)]
struct Failure {
    why: String,
    /// Whether it may be otherwise the next time.
    is_passing: bool,
}

impl Client {
    /// Makes a client that trusts the system's roots.
    pub(super) fn new(plain: Vec<String>) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let tls = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        Self { tls: Arc::new(tls), plain: plain.into() }
    }

    /// Returns the scheme by which a registry is spoken to.
    pub(super) fn scheme(&self, registry: &str) -> &'static str {
        if self.plain.iter().any(|plain| plain == "*" || plain == registry) { "http" } else { "https" }
    }

    /// Gets a module. It is tried a few times.
    ///
    /// # Errors
    /// When there is none to be had: why.
    pub(super) async fn module(&self, url: &str) -> Result<Vec<u8>, String> {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(8));
        let mut attempt = 1;
        loop {
            let failure = match self.follow(url, &HeaderMap::new(), LARGEST).await {
                Ok(answer) if answer.status == StatusCode::OK => return Ok(answer.body.to_vec()),
                Ok(answer) => Failure { why: format!("answers {}", answer.status), is_passing: answer.status.is_server_error() },
                Err(failure) => failure,
            };
            if !failure.is_passing || attempt == ATTEMPTS {
                return Err(failure.why);
            }
            attempt += 1;
            time::sleep(backoff.next(random_unit())).await;
        }
    }

    /// Gets a part of an image.
    ///
    /// # Errors
    /// When there is no answer: why.
    pub(super) async fn part(&self, url: &str, headers: &HeaderMap) -> Result<Answer, String> {
        self.follow(url, headers, LARGEST).await.map_err(|failure| failure.why)
    }

    /// Gets a document.
    ///
    /// # Errors
    /// When there is no answer: why.
    pub(super) async fn document(&self, url: &str, headers: &HeaderMap) -> Result<Answer, String> {
        self.follow(url, headers, LARGEST_DOCUMENT).await.map_err(|failure| failure.why)
    }

    async fn follow(&self, url: &str, headers: &HeaderMap, largest: usize) -> Result<Answer, Failure> {
        let mut at: Uri = url.parse().map_err(|_| Failure::lasting(format!("{url:?} is no URL")))?;
        let mut headers = headers.clone();
        for _ in 0..=MOST_REDIRECTS {
            let answer = self.get(&at, &headers, largest).await?;
            let location = answer.headers.get(LOCATION).filter(|_| answer.status.is_redirection());
            let Some(location) = location.and_then(|location| location.to_str().ok()) else { return Ok(answer) };
            let next = redirected(&at, location).ok_or_else(|| Failure::lasting(format!("is redirected to {location:?}")))?;
            if next.authority() != at.authority() {
                // What one host asks for is none of another's business.
                headers.remove(AUTHORIZATION);
            }
            at = next;
        }
        Err(Failure::lasting(format!("is redirected more than {MOST_REDIRECTS} times")))
    }

    async fn get(&self, uri: &Uri, headers: &HeaderMap, largest: usize) -> Result<Answer, Failure> {
        let host = uri.host().ok_or_else(|| Failure::lasting("names no host".to_owned()))?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let secure = uri.scheme_str() == Some("https");
        let stream = connect(host, uri.port_u16().unwrap_or(if secure { 443 } else { 80 })).await?;
        if !secure {
            return exchange(TokioIo::new(stream), uri, headers, largest).await;
        }
        let name = ServerName::try_from(host.to_owned()).map_err(|_| Failure::lasting(format!("no certificate can name {host}")))?;
        let stream = TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream).await;
        let stream = stream.map_err(|error| Failure::passing(format!("TLS with {host}: {error}")))?;
        exchange(TokioIo::new(stream), uri, headers, largest).await
    }
}

impl Failure {
    fn passing(why: String) -> Self {
        Self { why, is_passing: true }
    }

    fn lasting(why: String) -> Self {
        Self { why, is_passing: false }
    }
}

/// Connects to an address of the host that may be called. What is judged is what is connected to.
async fn connect(host: &str, port: u16) -> Result<TcpStream, Failure> {
    let found = lookup_host((host, port)).await.map_err(|error| Failure::passing(format!("{host} is not found: {}", explain(&error))))?;
    let mut failure = Failure::passing(format!("{host} has no address"));
    for address in found {
        if !may_be_called(address.ip()) {
            failure = Failure::lasting(format!("{host} is {}, where no module may be fetched from", address.ip()));
            continue;
        }
        match TcpStream::connect(SocketAddr::new(address.ip(), port)).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = Failure::passing(format!("{address}: {}", explain(&error))),
        }
    }
    Err(failure)
}

/// Returns whether modules may come from an address: not from the pod itself, whose ports trust it, and not from what a cloud tells its
/// machines.
fn may_be_called(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4 != std::net::Ipv4Addr::LOCALHOST && !v4.is_link_local() && !v4.is_unspecified() && !v4.is_multicast(),
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => may_be_called(IpAddr::V4(v4)),
            None => !v6.is_loopback() && !v6.is_unicast_link_local() && !v6.is_unspecified() && !v6.is_multicast(),
        },
    }
}

fn redirected(from: &Uri, location: &str) -> Option<Uri> {
    let to: Uri = match location.starts_with('/') && !location.starts_with("//") {
        true => format!("{}://{}{location}", from.scheme_str()?, from.authority()?).parse().ok()?,
        false => location.parse().ok()?,
    };
    let is_http = matches!(to.scheme_str(), Some("http" | "https"));
    let is_downgrade = from.scheme_str() == Some("https") && to.scheme_str() == Some("http");
    (is_http && to.authority().is_some() && !is_downgrade).then_some(to)
}

async fn exchange<S>(stream: TokioIo<S>, uri: &Uri, headers: &HeaderMap, largest: usize) -> Result<Answer, Failure>
where
    TokioIo<S>: Read + Write + Send + Unpin + 'static,
{
    let broken = |error: hyper::Error| Failure::passing(format!("broken off: {error}"));
    let (mut sender, connection) = http1::handshake(stream).await.map_err(broken)?;
    let running = tokio::spawn(connection);
    let answer = async {
        let request = request(uri, headers).map_err(|error| Failure::lasting(error.to_string()))?;
        let response = sender.send_request(request).await.map_err(broken)?;
        read(response, largest).await
    };
    let answer = answer.await;
    running.abort();
    answer
}

fn request(uri: &Uri, headers: &HeaderMap) -> Result<Request<Empty<Bytes>>, http::Error> {
    let mut request = Request::builder().method(Method::GET).uri(uri.path_and_query().map_or("/", |path| path.as_str()));
    if let Some(authority) = uri.authority() {
        request = request.header(HOST, authority.as_str());
    }
    request = request.header(USER_AGENT, HeaderValue::from_static(concat!("istiod-lite-agent/", env!("CARGO_PKG_VERSION"))));
    if let Some(all) = request.headers_mut() {
        all.extend(headers.clone());
    }
    request.body(Empty::new())
}

async fn read(response: Response<Incoming>, largest: usize) -> Result<Answer, Failure> {
    let (parts, body) = response.into_parts();
    let body = Limited::new(body, largest).collect().await;
    let body = body.map_err(|error| match error.downcast_ref::<http_body_util::LengthLimitError>() {
        Some(_) => Failure::lasting(format!("is larger than {largest} bytes")),
        None => Failure::passing(format!("broken off: {error}")),
    })?;
    Ok(Answer { status: parts.status, headers: parts.headers, body: body.to_bytes() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pod_itself_and_the_cloud_are_not_called() {
        for address in ["127.0.0.1", "::1", "::ffff:127.0.0.1", "169.254.169.254", "fe80::1", "0.0.0.0", "224.0.0.1"] {
            assert!(!may_be_called(address.parse().unwrap()), "{address}");
        }
        for address in ["10.0.0.1", "93.184.216.34", "2001:db8::1", "127.9.0.7"] {
            assert!(may_be_called(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn a_redirect_leads_to_no_weaker_place() {
        let from: Uri = "https://a/b".parse().unwrap();
        let to = |location: &str| redirected(&from, location).map(|uri| uri.to_string());
        assert_eq!(to("/c").as_deref(), Some("https://a/c"));
        assert_eq!(to("https://d/e").as_deref(), Some("https://d/e"));
        for refused in ["http://a/b", "file:///etc/passwd", "//d/e", "c"] {
            assert_eq!(to(refused), None, "{refused}");
        }
    }
}

//! Fetches documents from issuers: a client that is bounded in time and size, and calls only where it may.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use http::{
    HeaderValue, Method, Request, StatusCode, Uri,
    header::{ACCEPT, HOST, LOCATION, USER_AGENT},
};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{
    body::Bytes,
    client::conn::http1,
    rt::{Read, Write},
};
use hyper_util::rt::TokioIo;
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use smol_str::SmolStr;
use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, RootCertStore},
};

use super::networks::Networks;
use crate::{api::key_set, system_error::explain};

/// The largest document that is read, in bytes.
const LARGEST: usize = 256 << 10;
/// How many redirects are followed.
const MOST_REDIRECTS: usize = 5;

/// A client, and whom it trusts.
#[derive(Clone, Debug)]
pub(in crate::source) struct Client {
    /// Where it may call; `None`: anywhere.
    networks: Option<Arc<Networks>>,
    /// Names or addresses of the API server.
    api_server: Arc<[String]>,
    tls: Arc<ClientConfig>,
}

impl Client {
    /// Makes a client that trusts the system's root certificates and those of a file, if it is there.
    pub(in crate::source) fn new(networks: Option<Networks>, api_server: Vec<String>, roots: Option<PathBuf>) -> Self {
        let found = rustls_native_certs::load_native_certs();
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(found.certs);
        if let Some(text) = roots.as_ref().and_then(|path| std::fs::read(path).ok()) {
            store.add_parsable_certificates(CertificateDer::pem_slice_iter(&text).flatten());
        }
        if store.is_empty() {
            tracing::warn!("no root certificates: keys of issuers cannot be fetched by https");
        }
        let tls = ClientConfig::builder().with_root_certificates(store).with_no_client_auth();
        Self { networks: networks.map(Arc::new), api_server: api_server.into(), tls: Arc::new(tls) }
    }

    /// Fetches the key set at a URL, or the one that the OpenID configuration there names. Each of the two may take `patience`.
    ///
    /// # Errors
    /// When there is none to be had: why.
    pub(super) async fn key_set(&self, url: &str, patience: Duration) -> Result<SmolStr, String> {
        let document = self.document(url, patience).await?;
        match key_set::named_elsewhere(&document) {
            None => key_set::public(&document).map_err(|why| format!("{url}: {why}")),
            Some(named) => {
                key_set::check_url(&named).map_err(|why| format!("{url}: jwks_uri {why}"))?;
                let document = self.document(&named, patience).await?;
                key_set::public(&document).map_err(|why| format!("{named}: {why}"))
            }
        }
    }

    /// Fetches a document within `patience`.
    ///
    /// # Errors
    /// When there is none to be had: why.
    pub(in crate::source) async fn document(&self, url: &str, patience: Duration) -> Result<String, String> {
        let fetched = timeout(patience, self.follow(url)).await;
        fetched.unwrap_or_else(|_| Err(format!("no answer within {} ms", patience.as_millis()))).map_err(|why| format!("{url}: {why}"))
    }

    async fn follow(&self, url: &str) -> Result<String, String> {
        let mut at: Uri = url.parse().map_err(|_| "is no URL".to_owned())?;
        for _ in 0..=MOST_REDIRECTS {
            match self.get(&at).await? {
                Answer::Document(text) => return Ok(text),
                Answer::Elsewhere(location) => at = redirected(&at, &location)?,
            }
        }
        Err(format!("is redirected more than {MOST_REDIRECTS} times"))
    }

    async fn get(&self, uri: &Uri) -> Result<Answer, String> {
        let host = uri.host().ok_or("names no host")?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let secure = uri.scheme_str() == Some("https");
        let stream = self.connect(host, uri.port_u16().unwrap_or(if secure { 443 } else { 80 })).await?;
        if !secure {
            return exchange(TokioIo::new(stream), uri).await;
        }
        let name = ServerName::try_from(host.to_owned()).map_err(|_| format!("{host} is no name that a certificate can have"))?;
        let stream = TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream).await.map_err(|error| format!("TLS: {error}"))?;
        exchange(TokioIo::new(stream), uri).await
    }

    /// Connects to an address of the host that may be called. What is judged is what is connected to: a name that means something else
    /// a moment later changes nothing.
    async fn connect(&self, host: &str, port: u16) -> Result<TcpStream, String> {
        let mut why = format!("{host} has no address");
        let api_server = self.addresses_of_api_server().await;
        for address in resolve(host, port).await? {
            let judged = self.networks.as_ref().map(|networks| networks.check(address.ip(), &api_server));
            if let Some(Err(forbidden)) = judged {
                why = forbidden;
                continue;
            }
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => why = format!("{address}: {}", explain(&error)),
            }
        }
        Err(why)
    }

    async fn addresses_of_api_server(&self) -> Vec<IpAddr> {
        let mut addresses = Vec::new();
        for host in &*self.api_server {
            addresses.extend(resolve(host, 443).await.into_iter().flatten().map(|address| address.ip()));
        }
        addresses
    }
}

enum Answer {
    Document(String),
    Elsewhere(String),
}

async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    let found = lookup_host((host, port)).await.map_err(|error| format!("{host} is not found: {}", explain(&error)))?;
    Ok(found.collect())
}

async fn exchange<S: Read + Write + Unpin + Send + 'static>(stream: S, uri: &Uri) -> Result<Answer, String> {
    let failed = |error: hyper::Error| format!("no HTTP: {error}");
    let (mut sender, connection) = http1::handshake(stream).await.map_err(failed)?;
    let _connection = Aborted(tokio::spawn(connection));
    let response = sender.send_request(request(uri)?).await.map_err(failed)?;
    let (status, location) = (response.status(), response.headers().get(LOCATION).cloned());
    if let Some(location) = location.filter(|_| is_redirect(status)) {
        return location.to_str().map(|location| Answer::Elsewhere(location.to_owned())).map_err(|_| "is redirected to no URL".to_owned());
    }
    if !status.is_success() {
        return Err(format!("answers with status {}", status.as_u16()));
    }
    let body = Limited::new(response.into_body(), LARGEST).collect().await;
    let body = body.map_err(|error| match error.downcast_ref::<http_body_util::LengthLimitError>() {
        Some(_) => format!("has more than {LARGEST} bytes"),
        None => format!("ends early: {error}"),
    })?;
    String::from_utf8(body.to_bytes().into()).map(Answer::Document).map_err(|_| "is no text".to_owned())
}

/// A task that ends with the value.
struct Aborted<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for Aborted<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn request(uri: &Uri) -> Result<Request<Empty<Bytes>>, String> {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let authority = uri.authority().map(|authority| authority.as_str()).unwrap_or_default();
    let request = Request::builder().method(Method::GET).uri(path).header(HOST, authority);
    let request = request.header(ACCEPT, HeaderValue::from_static("application/json"));
    let agent = HeaderValue::from_static(concat!("istiod-lite/", env!("CARGO_PKG_VERSION")));
    request.header(USER_AGENT, agent).body(Empty::new()).map_err(|error| error.to_string())
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Returns where a redirect leads: to another URL, or to another path of the same server. What came by TLS stays with it.
fn redirected(from: &Uri, location: &str) -> Result<Uri, String> {
    let location = location.split('#').next().unwrap_or_default();
    let to = match location.strip_prefix('/').filter(|rest| !rest.starts_with('/')) {
        Some(_) => format!("{}://{}{location}", from.scheme_str().unwrap_or("https"), from.authority().map_or("", |at| at.as_str())),
        None => location.to_owned(),
    };
    key_set::check_url(&to).map_err(|why| format!("is redirected, and {why}"))?;
    if from.scheme_str() == Some("https") && !to.starts_with("https://") {
        return Err("is redirected from https to http".to_owned());
    }
    to.parse().map_err(|_| "is redirected to no URL".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_lead_to_urls_and_paths_and_never_out_of_tls() {
        let to = |from: &str, location: &str| redirected(&from.parse().unwrap(), location).map(|to| to.to_string());
        assert_eq!(to("https://a:8443/x?y", "/keys?z#f").unwrap(), "https://a:8443/keys?z");
        assert_eq!(to("http://a/x", "https://b/keys").unwrap(), "https://b/keys");
        for location in ["http://a/keys", "//b/keys", "file:///etc/passwd", "", "keys", "https://user@b/"] {
            assert!(to("https://a/x", location).is_err(), "{location}");
        }
    }
}

//! Probes and lifecycle hooks that the injector redirected to the agent (contract §5.5), run as the kubelet would run them.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri,
    header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, LOCATION, TRANSFER_ENCODING, UPGRADE},
};
use http_body_util::Empty;
use serde::{Deserialize, Deserializer};

use super::{connection, health};

/// Kubernetes' default for `timeoutSeconds`.
const TIMEOUT: Duration = Duration::from_secs(1);
/// The limit for hooks, which have none of their own: the kubelet ends them, and the connection, with the pod's grace period.
const LONGEST_HOOK: Duration = Duration::from_secs(3600);
/// The path under which hooks are.
const HOOKS: &str = "/app-lifecycle/";
/// How many bytes of an answer the kubelet reads.
const LONGEST_BODY: usize = 10 << 10;
/// How many redirects the kubelet follows.
const MOST_REDIRECTS: usize = 10;
/// Headers that concern one connection only, and the one that names the agent.
const NOT_PASSED_ON: [HeaderName; 5] = [CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING, UPGRADE];

/// A probe or hook as the user wrote it; the first action that is set counts.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Prober {
    /// An HTTP GET.
    pub http_get: Option<HttpGet>,
    /// A TCP connection.
    pub tcp_socket: Option<TcpSocket>,
    /// `grpc.health.v1.Health/Check`
    pub grpc: Option<Grpc>,
    /// How long it may take.
    pub timeout_seconds: Option<u64>,
}

/// `httpGet`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct HttpGet {
    /// Path and query.
    pub path: String,
    /// Port.
    #[serde(deserialize_with = "port")]
    pub port: u16,
    /// `HTTP` or `HTTPS`; empty: `HTTP`.
    pub scheme: String,
    /// Headers that override the kubelet's.
    pub http_headers: Option<Vec<Header>>,
}

/// One of `httpHeaders`.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Header {
    /// Name.
    pub name: String,
    /// Value.
    #[serde(default)]
    pub value: String,
}

/// `tcpSocket`
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct TcpSocket {
    /// Port.
    #[serde(deserialize_with = "port")]
    pub port: u16,
}

/// `grpc`
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Grpc {
    /// Port.
    #[serde(deserialize_with = "port")]
    pub port: u16,
    /// Service to ask about; empty: the server as a whole.
    #[serde(default)]
    pub service: Option<String>,
}

/// The application's answer, as far as the kubelet reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProbeAnswer {
    /// Status.
    pub status: StatusCode,
    /// The content type.
    pub content_type: Option<HeaderValue>,
    /// The beginning of the body.
    pub body: Bytes,
}

impl Prober {
    /// Probes the application at `address`, the pod's own; `path` and `headers` are those of the kubelet's request. The error says
    /// why there is no answer.
    pub(crate) async fn run(&self, path: &str, address: IpAddr, headers: &HeaderMap) -> Result<ProbeAnswer, String> {
        let limit = self.limit(path);
        let answer = async {
            match self {
                Self { http_get: Some(get), .. } => get.run(address, headers).await,
                Self { tcp_socket: Some(socket), .. } => {
                    let to = SocketAddr::new(address, socket.port);
                    connection::dial(to).await.map(|_| ProbeAnswer::ok()).map_err(|error| format!("{to}: {error}"))
                }
                Self { grpc: Some(grpc), .. } => {
                    let to = SocketAddr::new(address, grpc.port);
                    health::check(to, grpc.service.as_deref().unwrap_or_default()).await.map(|()| ProbeAnswer::ok())
                }
                _ => Err("neither httpGet, tcpSocket nor grpc".to_owned()),
            }
        };
        tokio::time::timeout(limit, answer).await.unwrap_or_else(|_| Err(format!("no answer within {limit:?}")))
    }

    fn limit(&self, path: &str) -> Duration {
        match self.timeout_seconds.filter(|seconds| *seconds > 0) {
            Some(seconds) => Duration::from_secs(seconds),
            None if path.starts_with(HOOKS) => LONGEST_HOOK,
            None => TIMEOUT,
        }
    }
}

impl ProbeAnswer {
    fn ok() -> Self {
        Self { status: StatusCode::OK, content_type: None, body: Bytes::new() }
    }
}

// === impl HttpGet ===

impl HttpGet {
    async fn run(&self, address: IpAddr, headers: &HeaderMap) -> Result<ProbeAnswer, String> {
        let to = SocketAddr::new(address, self.port);
        let tls = match self.scheme.to_ascii_uppercase().as_str() {
            "" | "HTTP" => false,
            "HTTPS" => true,
            other => return Err(format!("scheme {other:?} is neither HTTP nor HTTPS")),
        };
        let headers = self.headers(to, headers)?;
        let mut path = format!("/{}", self.path.trim_start_matches('/'));
        for _ in 0..=MOST_REDIRECTS {
            let mut request = Request::get(&path).body(Empty::new()).map_err(|error| format!("path {path:?}: {error}"))?;
            *request.headers_mut() = headers.clone();
            let (parts, body) = connection::exchange(to, tls, request, LONGEST_BODY).await?;
            match next_path(to, tls, parts.status, &parts.headers) {
                Some(next) => path = next,
                None => {
                    return Ok(ProbeAnswer { status: parts.status, content_type: parts.headers.get(CONTENT_TYPE).cloned(), body });
                }
            }
        }
        Err(format!("more than {MOST_REDIRECTS} redirects"))
    }

    fn headers(&self, to: SocketAddr, received: &HeaderMap) -> Result<HeaderMap, String> {
        let mut headers = received.clone();
        for name in NOT_PASSED_ON {
            headers.remove(name);
        }
        headers.insert(HOST, HeaderValue::try_from(to.to_string()).map_err(|error| error.to_string())?);
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        for header in self.http_headers.iter().flatten() {
            let wrong = || format!("header {:?} is no HTTP header", header.name);
            let name = HeaderName::try_from(&header.name).map_err(|_| wrong())?;
            headers.insert(name, HeaderValue::try_from(&header.value).map_err(|_| wrong())?);
        }
        Ok(headers)
    }
}

/// Returns where a redirect leads, if it stays with the application. One that leads elsewhere is an answer like any other, as for
/// the kubelet.
fn next_path(to: SocketAddr, tls: bool, status: StatusCode, headers: &HeaderMap) -> Option<String> {
    const FOLLOWED: [StatusCode; 5] = [
        StatusCode::MOVED_PERMANENTLY,
        StatusCode::FOUND,
        StatusCode::SEE_OTHER,
        StatusCode::TEMPORARY_REDIRECT,
        StatusCode::PERMANENT_REDIRECT,
    ];
    let location: Uri = headers.get(LOCATION).filter(|_| FOLLOWED.contains(&status))?.to_str().ok()?.parse().ok()?;
    let same_scheme = location.scheme_str().is_none_or(|scheme| scheme.eq_ignore_ascii_case(if tls { "https" } else { "http" }));
    let same_place = location.authority().is_none_or(|authority| authority.as_str() == to.to_string());
    let path = location.path_and_query()?.as_str();
    (same_scheme && same_place && path.starts_with('/')).then(|| path.to_owned())
}

/// Reads a port number, perhaps as text; the injector has replaced names.
fn port<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Port {
        Number(u16),
        Text(String),
    }
    let port = match Port::deserialize(deserializer)? {
        Port::Number(port) => Some(port),
        Port::Text(text) => text.parse().ok(),
    };
    port.filter(|port| *port > 0).ok_or_else(|| serde::de::Error::custom("is no port"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prober(json: &str) -> Prober {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_prober_is_read() {
        let prober = prober(
            r#"{"httpGet":{"path":"a?b=c","port":"8080","scheme":"HTTPS","httpHeaders":[{"name":"x","value":"y"}]},"timeoutSeconds":3}"#,
        );
        let get = prober.http_get.as_ref().unwrap();
        assert_eq!((get.port, get.path.as_str()), (8080, "a?b=c"));
        assert_eq!(prober.limit("/app-health/app/livez"), Duration::from_secs(3));
        assert_eq!(Prober::default().limit("/app-health/app/livez"), TIMEOUT);
        assert_eq!(Prober::default().limit("/app-lifecycle/app/prestopz"), LONGEST_HOOK);
        assert!(serde_json::from_str::<Prober>(r#"{"tcpSocket":{"port":"web"}}"#).unwrap_err().to_string().contains("no port"));
    }

    #[test]
    fn headers_of_the_kubelet_pass_but_for_those_of_its_connection() {
        let received = HeaderMap::from_iter([
            (HOST, HeaderValue::from_static("agent:15020")),
            (http::header::USER_AGENT, HeaderValue::from_static("kube-probe/1.34")),
            (http::header::ACCEPT, HeaderValue::from_static("*/*")),
        ]);
        let get = prober(
            r#"{"httpGet":{"port":80,"httpHeaders":[{"name":"Accept","value":"text/html"},{"name":"Host","value":"shop.example"}]}}"#,
        );
        let headers = get.http_get.unwrap().headers(([10, 0, 0, 7], 80).into(), &received).unwrap();
        assert_eq!(
            (&headers["user-agent"], &headers["accept"], &headers["host"]),
            (
                &HeaderValue::from_static("kube-probe/1.34"),
                &HeaderValue::from_static("text/html"),
                &HeaderValue::from_static("shop.example"),
            )
        );
        let wrong = prober(r#"{"httpGet":{"port":80,"httpHeaders":[{"name":"a b"}]}}"#);
        assert!(wrong.http_get.unwrap().headers(([10, 0, 0, 7], 80).into(), &HeaderMap::new()).unwrap_err().contains("\"a b\""));
    }

    #[test]
    fn redirects_are_followed_within_the_application() {
        let to = SocketAddr::from(([10, 0, 0, 7], 80));
        let next = |location: &'static str| {
            let headers = HeaderMap::from_iter([(LOCATION, HeaderValue::from_static(location))]);
            next_path(to, false, StatusCode::FOUND, &headers)
        };
        assert_eq!(next("/ok?x=1").as_deref(), Some("/ok?x=1"));
        assert_eq!(next("http://10.0.0.7:80/ok").as_deref(), Some("/ok"));
        assert_eq!(next("https://10.0.0.7:80/ok"), None);
        assert_eq!(next("http://elsewhere/ok"), None);
        assert_eq!(next_path(to, false, StatusCode::OK, &HeaderMap::new()), None);
    }
}

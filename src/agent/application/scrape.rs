//! The application's metrics, which the agent serves together with Envoy's (contract §5.5): one scrape gets both.

use std::{net::IpAddr, time::Duration};

use bytes::Bytes;
use http::{
    Request, StatusCode,
    header::{ACCEPT, CONNECTION, HOST},
};
use http_body_util::Empty;
use serde::Deserialize;

use super::connection::{exchange, loopback_beside};

/// How long the application may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The most bytes of an application's metrics.
const LONGEST_BODY: usize = 16 << 20;
/// The format that Envoy serves: two formats cannot be served as one.
const TEXT_FORMAT: &str = "text/plain;version=0.0.4";

/// Where an application's metrics are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scrape {
    /// The port on the loopback interface.
    pub port: u16,
    /// The path.
    pub path: String,
}

/// The annotations `prometheus.io/*`, as the pod's owner wrote them.
#[derive(Deserialize)]
#[serde(default)]
struct Annotations {
    scrape: String,
    path: String,
    port: String,
}

impl Default for Annotations {
    fn default() -> Self {
        Self { scrape: String::new(), path: "/metrics".to_owned(), port: "80".to_owned() }
    }
}

impl Scrape {
    /// Reads `ISTIO_PROMETHEUS_ANNOTATIONS`; `None` if the application is not to be scraped.
    pub(crate) fn parse(text: &str) -> Result<Option<Self>, String> {
        let written: Annotations = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if written.scrape != "true" {
            return Ok(None);
        }
        let port = written.port.parse().ok().filter(|port| *port > 0).ok_or_else(|| format!("{:?} is no port", written.port))?;
        Ok(Some(Self { port, path: format!("/{}", written.path.trim_start_matches('/')) }))
    }

    /// Gets the metrics; `beside` is an address of the pod: its family decides which loopback address is asked.
    pub(crate) async fn metrics(&self, beside: IpAddr) -> Result<Bytes, String> {
        let to = (loopback_beside(beside), self.port).into();
        let request = Request::get(&self.path)
            .header(HOST, format!("localhost:{}", self.port))
            .header(ACCEPT, TEXT_FORMAT)
            .header(CONNECTION, "close")
            .body(Empty::new())
            .map_err(|error| error.to_string())?;
        let answer = tokio::time::timeout(TIMEOUT, exchange(to, false, request, LONGEST_BODY)).await;
        match answer.map_err(|_| format!("no answer within {TIMEOUT:?}"))?? {
            (parts, _) if parts.status != StatusCode::OK => Err(parts.status.to_string()),
            (_, body) if body.len() >= LONGEST_BODY => Err(format!("more than {LONGEST_BODY} bytes")),
            (_, body) => Ok(body),
        }
    }
}

/// Joins texts of metrics into one, without the end marks of OpenMetrics, and with a newline after each.
pub(crate) fn joined<'a>(texts: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut joined = Vec::new();
    for text in texts {
        let text = text.trim_ascii_end();
        let text = text.strip_suffix(b"# EOF").unwrap_or(text).trim_ascii_end();
        if !text.is_empty() {
            joined.extend_from_slice(text);
            joined.push(b'\n');
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_are_read() {
        let parse = |text| Scrape::parse(text);
        assert_eq!(parse(r#"{"scrape":"true","path":"m","port":"9"}"#), Ok(Some(Scrape { port: 9, path: "/m".to_owned() })));
        assert_eq!(parse(r#"{"scrape":"true"}"#), Ok(Some(Scrape { port: 80, path: "/metrics".to_owned() })));
        assert_eq!(parse(r#"{"scrape":"false","port":"x"}"#), Ok(None));
        assert!(parse(r#"{"scrape":"true","port":"http"}"#).unwrap_err().contains("\"http\""));
        assert!(parse("scrape").is_err());
    }

    #[test]
    fn texts_are_joined_into_one() {
        let joined = joined([b"a 1\n".as_slice(), b"b 2\n# EOF\n", b"", b"c 3"]);
        assert_eq!(String::from_utf8(joined).unwrap(), "a 1\nb 2\nc 3\n");
    }
}

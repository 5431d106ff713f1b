//! Takes what Envoys report: OpenTelemetry's logs and spans over gRPC, and Zipkin's spans over HTTP.

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use anyhow::{Context, Result};
use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{body::Incoming, server::conn::http1, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use prost::Message;
use serde_json::Value;
use tokio::{net::TcpListener, task::JoinHandle};

/// What was reported so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Reported {
    /// Bodies of log records, each with its attributes.
    pub(super) logs: Vec<(String, Vec<(String, String)>)>,
    /// Spans.
    pub(super) spans: Vec<Span>,
}

/// A span, whoever sent it.
#[derive(Clone, Debug)]
pub(super) struct Span {
    pub(super) trace: String,
    pub(super) id: String,
    pub(super) parent: String,
    pub(super) is_server: bool,
    /// The service that the proxy stands for, as it says.
    pub(super) service: String,
    pub(super) tags: Vec<(String, String)>,
}

impl Span {
    /// Returns a tag; empty if there is none.
    pub(super) fn tag(&self, name: &str) -> &str {
        self.tags.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }
}

pub(super) struct Collector {
    reported: Arc<Mutex<Reported>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Collector {
    pub(super) async fn start(grpc: SocketAddr, http: SocketAddr) -> Result<Self> {
        let reported = Arc::<Mutex<Reported>>::default();
        let grpc_listener = TcpListener::bind(grpc).await.with_context(|| format!("collector on {grpc}"))?;
        let http_listener = TcpListener::bind(http).await.with_context(|| format!("collector on {http}"))?;
        let tasks = vec![
            tokio::spawn(serve(grpc_listener, Arc::clone(&reported), true)),
            tokio::spawn(serve(http_listener, Arc::clone(&reported), false)),
        ];
        Ok(Self { reported, tasks })
    }

    /// Returns what was reported since the last time.
    pub(super) fn take(&self) -> Reported {
        std::mem::take(&mut *self.reported.lock())
    }

    /// Returns what was reported, and keeps it.
    pub(super) fn so_far(&self) -> Reported {
        self.reported.lock().clone()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn serve(listener: TcpListener, reported: Arc<Mutex<Reported>>, grpc: bool) {
    while let Ok((stream, _)) = listener.accept().await {
        let reported = Arc::clone(&reported);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let reported = Arc::clone(&reported);
                async move { Ok::<_, Infallible>(take(request, &reported).await) }
            });
            match grpc {
                true => drop(http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await),
                false => drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await),
            }
        });
    }
}

async fn take(request: Request<Incoming>, reported: &Mutex<Reported>) -> Response<BoxBody<Bytes, Infallible>> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    match path.as_str() {
        "/api/v2/spans" => {
            reported.lock().spans.extend(zipkin(&body));
            Response::builder().status(202).body(Full::default().boxed()).unwrap_or_default()
        }
        _ => {
            for message in frames(body) {
                let mut reported = reported.lock();
                match path.as_str() {
                    "/opentelemetry.proto.collector.logs.v1.LogsService/Export" => reported.logs.extend(logs(&message)),
                    _ => reported.spans.extend(spans(&message)),
                }
            }
            let trailers = HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]);
            let empty = Full::new(Bytes::from_static(&[0; 5])).with_trailers(async move { Some(Ok(trailers)) });
            Response::builder().header("content-type", "application/grpc").body(empty.boxed()).unwrap_or_default()
        }
    }
}

/// Returns the messages of a gRPC stream.
fn frames(mut body: Bytes) -> Vec<Bytes> {
    let mut messages = Vec::new();
    while body.len() >= 5 {
        body.advance(1);
        let length = body.get_u32() as usize;
        messages.push(body.split_to(length.min(body.len())));
    }
    messages
}

fn zipkin(body: &[u8]) -> Vec<Span> {
    let spans: Vec<Value> = serde_json::from_slice(body).unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let span = |span: Value| Span {
        trace: text(&span["traceId"]),
        id: text(&span["id"]),
        parent: text(&span["parentId"]),
        is_server: span["kind"] == "SERVER",
        service: text(&span["localEndpoint"]["serviceName"]),
        tags: span["tags"].as_object().into_iter().flatten().map(|(name, value)| (name.clone(), text(value))).collect(),
    };
    spans.into_iter().map(span).collect()
}

fn logs(message: &[u8]) -> Vec<(String, Vec<(String, String)>)> {
    let Ok(request) = LogsRequest::decode(message) else { return Vec::new() };
    let records = request.resources.into_iter().flat_map(|resource| resource.scopes).flat_map(|scope| scope.records);
    records.map(|record| (record.body.map(|body| body.text).unwrap_or_default(), texts(record.attributes))).collect()
}

fn spans(message: &[u8]) -> Vec<Span> {
    let Ok(request) = SpansRequest::decode(message) else { return Vec::new() };
    let mut found = Vec::new();
    for resource in request.resources {
        let attributes = texts(resource.resource.unwrap_or_default().attributes);
        let service = attributes.into_iter().find(|(name, _)| name == "service.name").map(|(_, value)| value).unwrap_or_default();
        let spans = resource.scopes.into_iter().flat_map(|scope| scope.spans);
        found.extend(spans.map(|span| Span {
            trace: hex(&span.trace_id),
            id: hex(&span.span_id),
            parent: hex(&span.parent_span_id),
            is_server: span.kind == 2,
            service: service.clone(),
            tags: texts(span.attributes),
        }));
    }
    found
}

fn texts(attributes: Vec<KeyValue>) -> Vec<(String, String)> {
    attributes.into_iter().map(|of| (of.key, of.value.map(|value| value.text).unwrap_or_default())).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

// OpenTelemetry's messages, as far as they are read.

#[derive(Clone, PartialEq, Message)]
struct LogsRequest {
    #[prost(message, repeated, tag = "1")]
    resources: Vec<ResourceLogs>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceLogs {
    #[prost(message, repeated, tag = "2")]
    scopes: Vec<ScopeLogs>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeLogs {
    #[prost(message, repeated, tag = "2")]
    records: Vec<LogRecord>,
}

#[derive(Clone, PartialEq, Message)]
struct LogRecord {
    #[prost(message, optional, tag = "5")]
    body: Option<AnyText>,
    #[prost(message, repeated, tag = "6")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyText>,
}

/// A value of which only texts are read.
#[derive(Clone, PartialEq, Message)]
struct AnyText {
    #[prost(string, tag = "1")]
    text: String,
}

#[derive(Clone, PartialEq, Message)]
struct SpansRequest {
    #[prost(message, repeated, tag = "1")]
    resources: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scopes: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, repeated, tag = "2")]
    spans: Vec<OtelSpan>,
}

#[derive(Clone, PartialEq, Message)]
struct OtelSpan {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
}

//! Responses on the wire: gRPC frames made of references to shared bytes, as the connection takes them.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::{BufMut, Bytes, BytesMut};
use http::HeaderMap;
use http_body::Frame;
use prometheus_client::metrics::histogram::Histogram;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};
use tokio::sync::mpsc;
use tonic::Status;

use super::{resource::Resource, session::Response};
use crate::budget::Portion;

/// The size in bytes above which a body is sent from where it is; smaller ones are copied together.
const REFERRED: usize = 2048;
/// The size in bytes up to which smaller pieces are gathered.
const CHUNK: usize = 16 * 1024;

/// The form of a response in one of the two protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// `envoy.service.discovery.v3.DiscoveryResponse`
    Sotw,
    /// `envoy.service.discovery.v3.DeltaDiscoveryResponse`
    Delta,
}

/// What goes out on a stream.
#[derive(Debug)]
pub(super) enum Outgoing {
    /// References to shared resources.
    Resources(Response),
    /// A message that is encoded already, and what pays for it until it is gone.
    Message(Bytes, Portion),
}

/// The body of a stream of responses. It takes a response only when the one before it is gone.
#[derive(Debug)]
pub(super) struct Responses {
    form: Form,
    incoming: mpsc::Receiver<Result<Outgoing, Status>>,
    frame: Option<(GrpcFrame, Instant)>,
    finished: bool,
    send_time: Histogram,
}

/// One response on its way out.
#[derive(Debug)]
struct GrpcFrame {
    form: Form,
    response: Response,
    next: usize,
    ready: VecDeque<Bytes>,
    buffer: BytesMut,
    /// What is left of a message that was encoded already.
    message: Bytes,
    ended: bool,
    _portion: Option<Portion>,
}

impl Responses {
    /// Makes a body of what comes in. `send_time` observes the seconds that the connection took for each response.
    pub(super) fn new(form: Form, incoming: mpsc::Receiver<Result<Outgoing, Status>>, send_time: Histogram) -> Self {
        Self { form, incoming, frame: None, finished: false, send_time }
    }
}

impl http_body::Body for Responses {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        loop {
            if let Some(chunk) = self.frame.as_mut().and_then(|(frame, _)| frame.next_chunk()) {
                return Poll::Ready(Some(Ok(Frame::data(chunk))));
            }
            if let Some((_, began)) = self.frame.take() {
                self.send_time.observe(began.elapsed().as_secs_f64());
            }
            if self.finished {
                return Poll::Ready(None);
            }
            match ready!(self.incoming.poll_recv(context)) {
                Some(Ok(outgoing)) => {
                    let frame = match outgoing {
                        Outgoing::Resources(response) => GrpcFrame::new(self.form, response),
                        Outgoing::Message(message, portion) => GrpcFrame::of_message(self.form, message, portion),
                    };
                    self.frame = Some((frame, Instant::now()));
                }
                Some(Err(status)) => return Poll::Ready(Some(Ok(self.finish(&status)))),
                None => return Poll::Ready(Some(Ok(self.finish(&Status::ok(""))))),
            }
        }
    }
}

impl Responses {
    fn finish(&mut self, status: &Status) -> Frame<Bytes> {
        self.finished = true;
        let mut trailers = HeaderMap::new();
        if status.add_header(&mut trailers).is_err() {
            trailers.insert(Status::GRPC_STATUS, http::HeaderValue::from_static("13"));
        }
        Frame::trailers(trailers)
    }
}

impl GrpcFrame {
    fn new(form: Form, mut response: Response) -> Self {
        if form == Form::Sotw {
            // State of the world removes by leaving out.
            response.removed.clear();
        }
        let (ready, buffer, message) = (VecDeque::new(), BytesMut::new(), Bytes::new());
        let mut frame = Self { form, response, next: 0, ready, buffer, message, ended: false, _portion: None };
        let length = frame.length();
        frame.buffer.put_u8(0);
        frame.buffer.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
        put_string(1, &frame.response.version, &mut frame.buffer);
        frame
    }

    fn of_message(form: Form, message: Bytes, portion: Portion) -> Self {
        let mut header = BytesMut::with_capacity(5);
        header.put_u8(0);
        header.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
        let (response, ready, buffer) = (Response::default(), VecDeque::from([header.freeze()]), BytesMut::new());
        Self { form, response, next: 0, ready, buffer, message, ended: true, _portion: Some(portion) }
    }

    fn next_chunk(&mut self) -> Option<Bytes> {
        while self.ready.is_empty() && !self.ended {
            match self.response.resources.get(self.next).cloned() {
                Some(resource) => self.put(&resource),
                None => self.end(),
            }
            self.next += 1;
        }
        if self.ready.is_empty() && !self.message.is_empty() {
            let length = self.message.len().min(CHUNK);
            // A copy: a part of the whole would keep all of it.
            return Some(Bytes::copy_from_slice(&self.message.split_to(length)));
        }
        self.ready.pop_front()
    }

    fn put(&mut self, resource: &Resource) {
        put_header(2, self.resource_length(resource), &mut self.buffer);
        if self.form == Form::Delta {
            put_string(3, &resource.name, &mut self.buffer);
            put_string(1, &resource.version.on_wire(), &mut self.buffer);
            put_header(2, any_length(resource), &mut self.buffer);
        }
        put_string(1, resource.kind.type_url(), &mut self.buffer);
        if !resource.body.is_empty() {
            put_header(2, resource.body.len(), &mut self.buffer);
        }
        if resource.body.len() > REFERRED {
            self.flush();
            self.ready.push_back(resource.body.bytes().clone());
        } else {
            self.buffer.put_slice(&resource.body);
        }
        if self.buffer.len() >= CHUNK {
            self.flush();
        }
    }

    fn end(&mut self) {
        put_string(4, &self.response.type_url, &mut self.buffer);
        put_string(5, &self.response.nonce, &mut self.buffer);
        for name in &self.response.removed {
            put_header(6, name.len(), &mut self.buffer);
            self.buffer.put_slice(name.as_bytes());
        }
        self.ended = true;
        self.flush();
    }

    fn flush(&mut self) {
        if !self.buffer.is_empty() {
            self.ready.push_back(self.buffer.split().freeze());
        }
    }

    fn length(&self) -> usize {
        let Response { type_url, nonce, version, resources, removed, .. } = &self.response;
        let resources: usize = resources.iter().map(|resource| field_length(self.resource_length(resource))).sum();
        let removed: usize = removed.iter().map(|name| field_length(name.len())).sum();
        string_length(version) + resources + string_length(type_url) + string_length(nonce) + removed
    }

    fn resource_length(&self, resource: &Resource) -> usize {
        match self.form {
            Form::Sotw => any_length(resource),
            Form::Delta => string_length(&resource.name) + string_length(&resource.version.on_wire()) + field_length(any_length(resource)),
        }
    }
}

fn any_length(resource: &Resource) -> usize {
    let body = if resource.body.is_empty() { 0 } else { field_length(resource.body.len()) };
    string_length(resource.kind.type_url()) + body
}

fn string_length(text: &str) -> usize {
    if text.is_empty() { 0 } else { field_length(text.len()) }
}

// All field numbers here are below 16, so their keys take one byte.
fn field_length(length: usize) -> usize {
    1 + encoded_len_varint(length as u64) + length
}

fn put_header(field: u32, length: usize, buffer: &mut BytesMut) {
    encode_key(field, WireType::LengthDelimited, buffer);
    encode_varint(length as u64, buffer);
}

fn put_string(field: u32, text: &str, buffer: &mut BytesMut) {
    if !text.is_empty() {
        put_header(field, text.len(), buffer);
        buffer.put_slice(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse};
    use prost::Message;

    use super::*;
    use crate::xds::{resource::ContentHash, resource_type::ResourceType, session::tests::resource, stand_in::stand_in};

    fn response() -> Response {
        let sized = |name: &str, size: usize| {
            let body = vec![7; size].into();
            Arc::new(Resource { body, version: ContentHash(size as u64 + 1), ..resource(ResourceType::Cluster, name, 1) })
        };
        Response {
            kind: Some(ResourceType::Cluster),
            type_url: ResourceType::Cluster.type_url().into(),
            nonce: "7".into(),
            version: "v".into(),
            resources: vec![sized("empty", 0), sized("small", 300), sized("large", 300_000), sized("last", 5)],
            removed: vec!["gone".into(), "away".into()],
        }
    }

    fn wire(form: Form) -> Vec<Bytes> {
        let mut frame = GrpcFrame::new(form, response());
        std::iter::from_fn(|| frame.next_chunk()).collect()
    }

    fn message<M: Message + Default>(form: Form) -> M {
        let wire = wire(form).concat();
        assert_eq!((wire[0], u32::from_be_bytes(wire[1..5].try_into().unwrap()) as usize), (0, wire.len() - 5));
        M::decode(&wire[5..]).unwrap()
    }

    #[test]
    fn both_forms_decode_to_what_was_meant() {
        let expected = response();
        let delta: DeltaDiscoveryResponse = message(Form::Delta);
        assert_eq!((delta.system_version_info.as_str(), delta.nonce.as_str()), ("v", "7"));
        assert_eq!(delta.removed_resources, ["gone", "away"]);
        for (got, want) in delta.resources.iter().zip(&expected.resources) {
            assert_eq!((got.name.as_str(), got.version.clone()), (want.name.as_str(), want.version.to_string()));
            assert_eq!(got.resource.as_ref().unwrap().value[..], want.body[..]);
        }
        let sotw: DiscoveryResponse = message(Form::Sotw);
        assert_eq!((sotw.version_info.as_str(), sotw.type_url.as_str()), ("v", ResourceType::Cluster.type_url()));
        assert_eq!(sotw.resources.iter().map(|any| any.value.len()).collect::<Vec<_>>(), [0, 300, 300_000, 5]);
    }

    #[test]
    fn a_blank_resource_has_its_type() {
        let kind = ResourceType::NameTable;
        let response = Response {
            kind: Some(kind),
            type_url: kind.type_url().into(),
            resources: stand_in(kind, "").into_iter().collect(),
            ..Response::default()
        };
        let wire = |form| {
            let mut frame = GrpcFrame::new(form, response.clone());
            std::iter::from_fn(|| frame.next_chunk()).collect::<Vec<_>>().concat()
        };
        let sotw = DiscoveryResponse::decode(&wire(Form::Sotw)[5..]).unwrap();
        assert_eq!((sotw.resources.len(), sotw.resources[0].type_url.as_str()), (1, kind.type_url()));
        let delta = DeltaDiscoveryResponse::decode(&wire(Form::Delta)[5..]).unwrap();
        assert_eq!(delta.resources[0].resource.as_ref().unwrap().type_url, kind.type_url());
        assert_eq!((delta.resources[0].version.as_str(), delta.resources[0].name.as_str()), ("", ""));
    }

    #[test]
    fn a_large_body_is_not_copied() {
        let mut frame = GrpcFrame::new(Form::Delta, response());
        let shared = frame.response.resources[2].body.as_ptr();
        let chunks: Vec<_> = std::iter::from_fn(|| frame.next_chunk()).collect();
        assert!(chunks.iter().any(|chunk| chunk.as_ptr() == shared));
    }
}

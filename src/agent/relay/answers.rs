//! Answers of the control plane, as Envoy gets them: filters that run modules wait for these, and nothing waits for the filters.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use envoy_types::pb::{
    envoy::{
        config::core::v3::TypedExtensionConfig,
        service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse},
    },
    google::protobuf::Any,
};
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderValue};
use http_body::{Body, Frame};
use prost::{Message, Name};
use tokio::time::{Instant, Sleep, sleep_until};

use super::{
    UNAVAILABLE,
    messages::{Messages, Part, framed},
};
use crate::agent::modules::{
    Modules,
    rewrite::{Rewritten, rewrite},
};

/// Stands before the version of what stands in for a module: the control plane sends it anew when Envoy next says what it has.
const STANDS_IN: &str = "stands-in:";

/// The body of a stream of answers.
pub(super) struct Answers<B> {
    upstream: B,
    modules: Arc<Modules>,
    delta: bool,
    messages: Messages,
    /// Answers whose modules are on their way. They are handed on in their order.
    held: VecDeque<Holding>,
    /// When the stream is ended, as some module could not be fetched: the next stream tries again.
    again: Option<Pin<Box<Sleep>>>,
    is_over: bool,
}

enum Holding {
    Waiting(BoxFuture<'static, Answered>),
    Ready(Answered),
}

/// An answer with its modules.
struct Answered {
    bytes: Bytes,
    /// Whether something stands in for a module.
    is_wanting: bool,
}

impl<B> Answers<B> {
    pub(super) fn new(upstream: B, modules: Arc<Modules>, delta: bool) -> Self {
        let is_wanted = if delta { is_extensions_of_delta } else { is_extensions };
        Self { upstream, modules, delta, messages: Messages::new(is_wanted), held: VecDeque::new(), again: None, is_over: false }
    }

    fn hold(&mut self, message: Bytes) {
        let (modules, delta) = (Arc::clone(&self.modules), self.delta);
        let answer = async move {
            let answered = if delta { of_delta(&message, &modules).await } else { of_all(&message, &modules).await };
            // What does not decode is Envoy's to refuse.
            answered.unwrap_or_else(|| Answered { bytes: framed(&message), is_wanting: false })
        };
        self.held.push_back(Holding::Waiting(Box::pin(answer)));
    }

    /// Returns the oldest of the answers that are held, if it is ready. All are driven on.
    fn poll_held(&mut self, context: &mut Context<'_>) -> Option<Bytes> {
        for holding in &mut self.held {
            if let Holding::Waiting(answer) = holding
                && let Poll::Ready(answered) = answer.as_mut().poll(context)
            {
                *holding = Holding::Ready(answered);
            }
        }
        if !self.messages.is_between() || !matches!(self.held.front(), Some(Holding::Ready(_))) {
            return None;
        }
        let Some(Holding::Ready(Answered { bytes, is_wanting })) = self.held.pop_front() else { return None };
        if is_wanting {
            self.again = Some(Box::pin(sleep_until(Instant::now() + self.modules.pause())));
        } else if self.again.is_none() {
            self.modules.all_are_there();
        }
        Some(bytes)
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Answers<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = &mut *self;
        if this.is_over {
            return Poll::Ready(None);
        }
        loop {
            match this.messages.next() {
                Some(Part::Passed(bytes)) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                Some(Part::Held(message)) => {
                    this.hold(message);
                    continue;
                }
                None => {}
            }
            if let Some(bytes) = this.poll_held(context) {
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            if let Some(again) = &mut this.again
                && again.as_mut().poll(context).is_ready()
            {
                this.is_over = true;
                return Poll::Ready(Some(Ok(Frame::trailers(tried_again()))));
            }
            let frame = match ready!(Pin::new(&mut this.upstream).poll_frame(context)) {
                Some(frame) => frame?,
                None => {
                    this.is_over = true;
                    return Poll::Ready(None);
                }
            };
            match frame.into_data() {
                Ok(bytes) => this.messages.add(&bytes),
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
    }
}

fn tried_again() -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(UNAVAILABLE));
    trailers.insert("grpc-message", HeaderValue::from_static("modules that could not be fetched are tried again"));
    trailers
}

async fn of_delta(message: &[u8], modules: &Modules) -> Option<Answered> {
    let mut response = DeltaDiscoveryResponse::decode(message).ok()?;
    let all = response.resources.iter_mut().map(async |resource| {
        let Some(any) = &mut resource.resource else { return false };
        let is_wanting = of_resource(any, modules).await;
        if is_wanting {
            resource.version.insert_str(0, STANDS_IN);
        }
        is_wanting
    });
    let is_wanting = futures::future::join_all(all).await.contains(&true);
    Some(Answered { bytes: framed(&response.encode_to_vec()), is_wanting })
}

async fn of_all(message: &[u8], modules: &Modules) -> Option<Answered> {
    let mut response = DiscoveryResponse::decode(message).ok()?;
    let all = response.resources.iter_mut().map(|any| of_resource(any, modules));
    let is_wanting = futures::future::join_all(all).await.contains(&true);
    if is_wanting {
        response.version_info.insert_str(0, STANDS_IN);
    }
    Some(Answered { bytes: framed(&response.encode_to_vec()), is_wanting })
}

/// Rewrites a resource; returns whether something stands in for its module.
async fn of_resource(resource: &mut Any, modules: &Modules) -> bool {
    let (value, is_wanting) = match rewrite(&resource.value, modules).await {
        Rewritten::Same => return false,
        Rewritten::To(value) => (value, false),
        Rewritten::StandsIn(value) => (value, true),
    };
    resource.value = value;
    is_wanting
}

// === what is looked at ===

/// Field numbers of `DiscoveryResponse` and `DeltaDiscoveryResponse` alike.
const RESOURCES: u64 = 2;
const TYPE_URL: u64 = 4;
/// Of `Resource`.
const RESOURCE: u64 = 2;
/// Of `Any`.
const OF_ANY: u64 = 1;

fn is_extensions(message: &[u8], is_whole: bool) -> Option<bool> {
    judge(message, is_whole, &[OF_ANY])
}

fn is_extensions_of_delta(message: &[u8], is_whole: bool) -> Option<bool> {
    judge(message, is_whole, &[RESOURCE, OF_ANY])
}

/// Judges by the type of the response, or that of its first resource, which stands before it. `path` leads from a resource to its type.
fn judge(message: &[u8], is_whole: bool, path: &[u64]) -> Option<bool> {
    let mut rest = message;
    loop {
        match field(&mut rest) {
            Some((TYPE_URL, url)) => return url.map(is_extension),
            Some((RESOURCES, _)) => {
                let mut resource = rest;
                return type_of(&mut resource, path).map(is_extension).or(if is_whole { Some(false) } else { None });
            }
            Some((_, Some(_))) => {}
            Some((_, None)) | None => return is_whole.then_some(false),
        }
    }
}

fn is_extension(url: &[u8]) -> bool {
    url == TypedExtensionConfig::type_url().as_bytes()
}

/// Returns the type of a resource, as soon as it is there.
fn type_of<'a>(message: &mut &'a [u8], path: &[u64]) -> Option<&'a [u8]> {
    let (first, within) = path.split_first()?;
    // The length of the resource itself is not known yet to be there as a whole.
    varint(message)?;
    loop {
        let mut next = *message;
        let (number, wire) = key(&mut next)?;
        if number == *first && wire == DELIMITED {
            if !within.is_empty() {
                *message = next;
                return type_of(message, within);
            }
            return delimited(&mut next);
        }
        skip(&mut next, wire)?;
        *message = next;
    }
}

const DELIMITED: u64 = 2;

/// Returns the next field: its number, and its content if it has a length and is there as a whole. Of resources the content is not
/// taken.
fn field<'a>(message: &mut &'a [u8]) -> Option<(u64, Option<&'a [u8]>)> {
    let mut next = *message;
    let (number, wire) = key(&mut next)?;
    if number == RESOURCES && wire == DELIMITED {
        *message = next;
        return Some((number, None));
    }
    let content = if wire == DELIMITED { Some(delimited(&mut next)?) } else { skip(&mut next, wire).map(|()| &b""[..]) };
    *message = next;
    Some((number, content))
}

fn key(message: &mut &[u8]) -> Option<(u64, u64)> {
    varint(message).map(|key| (key >> 3, key & 7))
}

fn skip(message: &mut &[u8], wire: u64) -> Option<()> {
    match wire {
        0 => varint(message).map(drop),
        DELIMITED => delimited(message).map(drop),
        1 => message.split_off(..8).map(drop),
        5 => message.split_off(..4).map(drop),
        // No such message has any other.
        _ => None,
    }
}

fn delimited<'a>(message: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(varint(message)?).ok()?;
    message.split_off(..length)
}

fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = *message.split_off_first()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests;

//! The messages of a stream, read within bounds: a size, a time to end, and the [`Budget`] of the process.
//!
//! Not tonic's `Streaming`: it keeps the room of the largest message for as long as the stream lives, takes it before a byte has
//! come, and decodes whatever that may cost.

mod weigh;

use std::{pin::Pin, time::Duration};

use bytes::{Buf, Bytes, BytesMut};
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout_at};
use tonic::{Code, Status, body::Body};

pub(super) use self::weigh::decoded_size;
use super::bounds::Excess;
use crate::budget::{Budget, Exhausted, Portion, Purpose, Standing};

/// The bytes in front of each message: whether it is compressed, and its length.
const HEADER: usize = 5;

/// What of a message needs no budget: a usual first request, which a stream is charged for anyway. Small requests are thus read
/// also when large ones have used up the budget.
const FREE: usize = 16 << 10;

/// How much larger than its content a buffer may be that grows.
const GROWTH: usize = 2;

/// What a stream may ask of us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// The largest message, in bytes.
    pub(super) size: usize,
    /// How long the first message may take, and each one from its first byte to its last.
    pub(super) time: Duration,
}

/// Reads the messages of one stream.
#[derive(Debug)]
pub(super) struct Messages {
    body: Pin<Box<Body>>,
    buffer: BytesMut,
    limits: Limits,
    /// What the message under way, or the one that was just given out, is charged for.
    portion: Portion,
    /// When the message under way must have ended.
    deadline: Option<Instant>,
}

/// Why there is no next message.
#[derive(Debug)]
pub(super) enum Unread {
    /// It is too large.
    Excess(Excess),
    /// The stream broke, is not gRPC, takes too long, or there is no budget for it.
    Broken(Status),
}

impl Messages {
    /// Reads `body` for a caller of this standing.
    ///
    /// # Errors
    /// When the budget has nothing left.
    pub(super) fn new(body: Body, limits: Limits, budget: &Budget, standing: Standing) -> Result<Self, Exhausted> {
        let portion = budget.take(Purpose::Messages, standing, 0)?;
        let deadline = Some(Instant::now() + limits.time);
        Ok(Self { body: Box::pin(body), buffer: BytesMut::new(), limits, portion, deadline })
    }

    /// Allows larger messages from now on.
    pub(super) fn allow(&mut self, size: usize) {
        self.limits.size = size;
    }

    /// Returns the next message; `None` when the client has ended the stream. May be dropped and called again. What the message
    /// before it cost is given back. Before it is decoded, that [must be paid for](Self::pay_for).
    ///
    /// # Errors
    /// When a message is too large, takes too long, is none, or there is no budget for it.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Unread> {
        loop {
            if let Some(message) = self.whole_message()? {
                return Ok(Some(message));
            }
            self.charge(GROWTH * self.buffer.len())?;
            let Some(data) = self.read().await.map_err(Unread::Broken)? else { return Ok(None) };
            self.charge(GROWTH * (self.buffer.len() + data.len()))?;
            if self.deadline.is_none() {
                self.deadline = Some(Instant::now() + self.limits.time);
            }
            self.buffer.extend_from_slice(&data);
        }
    }

    /// Takes from the budget what the message that was just given out takes [decoded](decoded_size).
    ///
    /// # Errors
    /// When there is no budget for it.
    pub(super) fn pay_for(&mut self, message: &Bytes, decoded: usize) -> Result<(), Unread> {
        self.charge(GROWTH * (self.buffer.len() + message.len()) + decoded)
    }

    async fn read(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            let frame = match self.deadline {
                Some(deadline) => timeout_at(deadline, self.body.frame()).await.map_err(|_| self.too_slow())?,
                None => self.body.frame().await,
            };
            match frame {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => return Ok(Some(data)),
                    // Trailers: what follows is the end.
                    Err(_) => continue,
                },
                Some(Err(status)) if status.code() == Code::Cancelled => return Ok(None),
                Some(Err(status)) => return Err(status),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(Status::invalid_argument("the stream ended within a message")),
            }
        }
    }

    /// Takes a message out of the buffer, if it has a whole one.
    fn whole_message(&mut self) -> Result<Option<Bytes>, Unread> {
        let Some(header) = self.buffer.first_chunk::<HEADER>() else { return Ok(None) };
        let [compressed, length @ ..] = *header;
        if compressed != 0 {
            return Err(Unread::Broken(Status::unimplemented("compressed messages are not read")));
        }
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        let most = self.limits.size;
        if length > most {
            return Err(Unread::Excess(Excess::size(most)));
        }
        if self.buffer.len() - HEADER < length {
            return Ok(None);
        }
        self.buffer.advance(HEADER);
        let bytes = self.buffer.split_to(length).freeze();
        if self.buffer.is_empty() {
            // What is split off keeps the allocation alive; nothing of it must stay with an idle stream.
            self.buffer = BytesMut::new();
        }
        self.charge(GROWTH * (self.buffer.len() + length))?;
        self.deadline = (!self.buffer.is_empty()).then(|| Instant::now() + self.limits.time);
        Ok(Some(bytes))
    }

    fn charge(&mut self, bytes: usize) -> Result<(), Unread> {
        let charged = if bytes <= FREE { 0 } else { bytes };
        self.portion.resize(charged).map_err(|error| Unread::Broken(Status::resource_exhausted(error.to_string())))
    }

    fn too_slow(&self) -> Status {
        Status::deadline_exceeded(format!("no whole message came within {:?}", self.limits.time))
    }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::service::discovery::v3::DiscoveryRequest;
    use futures::{StreamExt, stream};
    use http_body::Frame;
    use http_body_util::StreamBody;
    use prost::Message;

    use super::*;

    const LIMITS: Limits = Limits { size: 4 << 20, time: Duration::from_secs(10) };

    fn names(count: usize) -> DiscoveryRequest {
        let resource_names = (0..count).map(|number| format!("name-{number}")).collect();
        DiscoveryRequest { resource_names, ..DiscoveryRequest::default() }
    }

    fn framed(message: &DiscoveryRequest) -> Vec<u8> {
        let body = message.encode_to_vec();
        [&[0], &u32::try_from(body.len()).unwrap().to_be_bytes()[..], &body].concat()
    }

    fn code(unread: Unread) -> Option<Code> {
        match unread {
            Unread::Excess(_) => None,
            Unread::Broken(status) => Some(status.code()),
        }
    }

    /// Sends the pieces, and then ends, or never does.
    fn messages(pieces: Vec<Vec<u8>>, ends: bool, budget: &Budget) -> Messages {
        let pieces = stream::iter(pieces.into_iter().map(|piece| Ok::<_, Status>(Frame::data(Bytes::from(piece)))));
        let rest = if ends { stream::empty().boxed() } else { stream::pending().boxed() };
        Messages::new(Body::new(StreamBody::new(pieces.chain(rest))), LIMITS, budget, Standing::Unproven).unwrap()
    }

    #[tokio::test]
    async fn messages_come_however_they_are_cut() {
        let sent = [names(1), names(0), names(5_000)];
        let bytes = sent.iter().flat_map(framed).collect::<Vec<u8>>();
        for piece in [1, 7, 16 << 10, bytes.len()] {
            let budget = Budget::of(64 << 20);
            let mut messages = messages(bytes.chunks(piece).map(<[u8]>::to_vec).collect(), true, &budget);
            for expected in &sent {
                assert_eq!(messages.next().await.unwrap().unwrap(), expected.encode_to_vec());
            }
            assert_eq!(messages.next().await.unwrap(), None);
            assert_eq!(messages.portion.bytes(), 0, "all is given back");
        }
    }

    #[tokio::test]
    async fn a_message_that_does_not_end_is_given_up() {
        let budget = Budget::default();
        let mut half = framed(&names(5_000));
        half.pop();
        let soon = |pieces| {
            let mut messages = messages(pieces, false, &budget);
            messages.limits.time = Duration::from_millis(20);
            messages.deadline = Some(Instant::now() + messages.limits.time);
            messages
        };
        for pieces in [vec![], vec![vec![0]], vec![half.clone()], vec![framed(&names(1)), half]] {
            let mut messages = soon(pieces);
            let ended = loop {
                if let Err(unread) = messages.next().await {
                    break code(unread);
                }
            };
            assert_eq!(ended, Some(Code::DeadlineExceeded));
        }
        // Between messages a stream may be quiet.
        let mut quiet = soon(vec![framed(&names(1))]);
        quiet.next().await.unwrap();
        assert!(timeout_at(Instant::now() + Duration::from_millis(100), quiet.next()).await.is_err());
    }

    #[tokio::test]
    async fn what_is_too_large_or_cannot_be_paid_is_refused() {
        let budget = Budget::of(8 << 20);
        let huge = [&[0][..], &u32::MAX.to_be_bytes()].concat();
        assert_eq!(messages(vec![huge], false, &budget).next().await.map_err(code), Err(None));
        let compressed = [&[1][..], &1_u32.to_be_bytes(), &[0]].concat();
        assert_eq!(messages(vec![compressed], false, &budget).next().await.map_err(code), Err(Some(Code::Unimplemented)));

        // 1 MB on the wire is 48 MB decoded, as far as its bytes tell.
        let expensive = framed(&DiscoveryRequest { resource_names: vec![String::new(); 500_000], ..DiscoveryRequest::default() });
        let mut reading = messages(vec![expensive], false, &budget);
        let message = reading.next().await.unwrap().unwrap();
        assert_eq!(reading.pay_for(&message, decoded_size(&message)).map_err(code), Err(Some(Code::ResourceExhausted)));
        drop((reading, message));
        let [first, second] = [(); 2].map(|()| vec![framed(&names(100_000))[..1 << 20].to_vec()]);
        let mut first = messages(first, false, &budget);
        assert!(futures::poll!(std::pin::pin!(first.next())).is_pending(), "it is under way");
        assert_eq!(messages(second, false, &budget).next().await.map_err(code), Err(Some(Code::ResourceExhausted)));
        // A usual request is read all the same.
        assert!(messages(vec![framed(&names(100))], false, &budget).next().await.is_ok());
        drop(first);
    }
}

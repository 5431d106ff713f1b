//! The messages in a gRPC stream, told apart as their bytes come: those that are to be rewritten are held whole, of all others no more
//! than the first bytes.

use std::mem;

use bytes::{Buf, Bytes, BytesMut};

/// The bytes in front of each message: whether it is compressed, and its length.
const HEADER: usize = 5;
/// How much of a message is looked at to find out what it is.
const LOOKED_AT: usize = 64 << 10;
/// The largest message that is held.
const LARGEST: usize = 16 << 20;

/// Tells the messages of one stream apart.
#[derive(Debug)]
pub(super) struct Messages {
    is_wanted: fn(&[u8], bool) -> Option<bool>,
    state: State,
    buffer: BytesMut,
}

/// What is next in the stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Bytes to be handed on.
    Passed(Bytes),
    /// A whole message, without its header.
    Held(Bytes),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The next bytes are a header.
    Header,
    /// They are a message of this length, of which it is not known what it is.
    Looking(usize),
    /// They are the rest, of this length, of a message that is handed on.
    Passing(usize),
    /// They are a message of this length that is held.
    Holding(usize),
}

impl Messages {
    /// Holds the messages that are wanted. `is_wanted` judges by the first bytes of a message, and whether they are all of it; `None`: it
    /// needs more.
    pub(super) fn new(is_wanted: fn(&[u8], bool) -> Option<bool>) -> Self {
        Self { is_wanted, state: State::Header, buffer: BytesMut::new() }
    }

    /// Adds bytes of the stream.
    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Returns whether nothing is on its way of a message that is handed on: another one may stand here.
    pub(super) fn is_between(&self) -> bool {
        !matches!(self.state, State::Passing(_))
    }

    /// Returns what is next; `None`: more bytes are needed.
    pub(super) fn next(&mut self) -> Option<Part> {
        loop {
            match self.state {
                State::Header => self.read_header()?,
                State::Looking(length) => self.look(length)?,
                State::Passing(0) => self.state = State::Header,
                State::Passing(rest) => return self.pass(rest),
                State::Holding(length) => return self.hold(length),
            }
        }
    }

    // The header stays in the buffer: what is handed on is handed on with it.
    fn read_header(&mut self) -> Option<()> {
        let (compressed, length) = header(self.buffer.get(..HEADER)?)?;
        let all = HEADER + length;
        self.state = if compressed { State::Passing(all) } else { State::Looking(all) };
        Some(())
    }

    fn look(&mut self, all: usize) -> Option<()> {
        let there = self.buffer.len().min(all);
        let is_whole = there == all;
        let is_wanted = match (self.is_wanted)(&self.buffer[HEADER..there], is_whole) {
            None if !is_whole && there < HEADER + LOOKED_AT => return None,
            known => known.unwrap_or_default() && all <= HEADER + LARGEST,
        };
        self.state = if is_wanted { State::Holding(all) } else { State::Passing(all) };
        Some(())
    }

    fn pass(&mut self, rest: usize) -> Option<Part> {
        let there = self.buffer.len().min(rest);
        if there == 0 {
            return None;
        }
        self.state = State::Passing(rest - there);
        Some(Part::Passed(self.buffer.split_to(there).freeze()))
    }

    fn hold(&mut self, all: usize) -> Option<Part> {
        if self.buffer.len() < all {
            return None;
        }
        self.state = State::Header;
        let mut message = self.buffer.split_to(all).freeze();
        message.advance(HEADER);
        // What held a large message is not kept for small ones.
        if self.buffer.is_empty() {
            drop(mem::take(&mut self.buffer));
        }
        Some(Part::Held(message))
    }
}

/// Returns a message with its header.
pub(super) fn framed(message: &[u8]) -> Bytes {
    let mut framed = Vec::with_capacity(HEADER + message.len());
    framed.push(0);
    framed.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    framed.extend_from_slice(message);
    framed.into()
}

fn header(bytes: &[u8]) -> Option<(bool, usize)> {
    let length = u32::from_be_bytes(bytes.get(1..HEADER)?.try_into().ok()?);
    Some((bytes[0] != 0, length.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    // Wants messages whose first byte is `w`.
    fn wants(bytes: &[u8], _: bool) -> Option<bool> {
        bytes.first().map(|first| *first == b'w')
    }

    /// Returns what is passed and what is held of a stream that comes in pieces of a size.
    fn told(stream: &[u8], size: usize) -> (Vec<u8>, Vec<Bytes>) {
        let mut messages = Messages::new(wants);
        let (mut passed, mut held) = (Vec::new(), Vec::new());
        for piece in stream.chunks(size) {
            messages.add(piece);
            while let Some(part) = messages.next() {
                match part {
                    Part::Passed(bytes) => passed.extend_from_slice(&bytes),
                    Part::Held(message) => held.push(message),
                }
            }
        }
        assert!(messages.is_between() || messages.next().is_none());
        (passed, held)
    }

    #[test]
    fn messages_are_told_apart_however_their_bytes_come() {
        let long = vec![b'p'; 1000];
        let parts: [&[u8]; 6] = [b"pass", b"want", b"", b"w", &long, b"want too"];
        let stream: Vec<u8> = parts.iter().flat_map(|part| framed(part)).collect();
        let passed: Vec<u8> = [parts[0], parts[2], parts[4]].iter().flat_map(|part| framed(part)).collect();
        for size in [1, 2, 3, 7, 64, stream.len()] {
            assert_eq!(told(&stream, size), (passed.clone(), vec![Bytes::from("want"), "w".into(), "want too".into()]), "{size}");
        }
    }

    #[test]
    fn a_compressed_or_very_large_message_is_passed_on() {
        let mut compressed = framed(b"want").to_vec();
        compressed[0] = 1;
        assert_eq!(told(&compressed, 3), (compressed.clone(), vec![]));
        let huge = framed(&vec![b'w'; LARGEST + 1]);
        assert_eq!(told(&huge, 4096).0.len(), huge.len());
    }

    #[test]
    fn of_what_is_passed_on_nothing_is_kept_back() {
        let mut messages = Messages::new(wants);
        messages.add(&framed(b"passed on")[..8]);
        assert_eq!(messages.next(), Some(Part::Passed(Bytes::from_static(b"\0\0\0\0\x09pas"))));
        assert!(!messages.is_between() && messages.next().is_none());
    }
}

//! What a peer begins a connection with, and when it is whole.
//!
//! Until then nothing is made for it that is made for a connection which is served: a handshake that is begun and never goes on
//! costs hardly more than silence. What is not as it must be counts as whole, so that who answers it says so.

/// What a connection begins with, by its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beginning {
    /// The first message of a TLS handshake.
    ClientHello,
    /// The first bytes of HTTP/2, and the settings that follow them.
    Preface,
    /// The head of a request of HTTP/1.1.
    Head,
}

/// What HTTP/2 begins with (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The head of a frame, which begins with the length of the rest in three bytes (RFC 9113 §4.1).
const FRAME: usize = 9;
/// The head of a TLS record, which ends with the length of the rest in two bytes (RFC 8446 §5.1).
const RECORD: usize = 5;
/// The type of records that belong to a handshake.
const HANDSHAKE: u8 = 22;
/// The head of a handshake message, which ends with the length of the rest in three bytes (RFC 8446 §4).
const MESSAGE: usize = 4;

impl Beginning {
    /// Returns whether all of it was said. Of `said`, all but the last `new` bytes were not enough.
    pub(super) fn is_whole(self, said: &[u8], new: usize) -> bool {
        match self {
            Self::ClientHello => is_message(said),
            Self::Preface => is_preface(said),
            Self::Head => is_head(said, new),
        }
    }
}

/// Returns whether a handshake message is whole, in however many records it comes.
fn is_message(mut said: &[u8]) -> bool {
    let (mut head, mut length) = ([0; MESSAGE], 0);
    while let Some((&[kind, _, _, high, low], rest)) = said.split_first_chunk::<RECORD>() {
        if kind != HANDSHAKE {
            return true;
        }
        let whole = usize::from(u16::from_be_bytes([high, low]));
        let part = &rest[..whole.min(rest.len())];
        for (to, byte) in head.iter_mut().skip(length).zip(part) {
            *to = *byte;
        }
        length += part.len();
        if length >= MESSAGE {
            let [_, high, middle, low] = head;
            if length - MESSAGE >= usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low) {
                return true;
            }
        }
        said = &rest[part.len()..];
    }
    said.first().is_some_and(|kind| *kind != HANDSHAKE)
}

fn is_preface(said: &[u8]) -> bool {
    let Some(frame) = said.strip_prefix(PREFACE) else { return !PREFACE.starts_with(said) };
    let Some(&[high, middle, low]) = frame.first_chunk() else { return false };
    frame.len() >= FRAME + (usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low))
}

/// Returns whether an empty line ends the head. Lines may end without a carriage return (RFC 9112 §2.2).
fn is_head(said: &[u8], new: usize) -> bool {
    // What is not text is no request: a TLS handshake, mostly.
    let is_text = said.first().is_none_or(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace());
    let recent = &said[said.len().saturating_sub(new + 2)..];
    !is_text || recent.windows(2).any(|pair| pair == b"\n\n") || recent.windows(3).any(|three| three == b"\n\r\n")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::{Beginning::*, *};

    /// Checks that this is whole with its last byte, and not before; however it comes.
    #[track_caller]
    fn assert_whole_at_the_end(beginning: Beginning, said: &[u8]) {
        for end in 1..=said.len() {
            let is_whole = end == said.len();
            assert_eq!(beginning.is_whole(&said[..end], 1), is_whole, "byte by byte: {}", said[..end].escape_ascii());
            assert_eq!(beginning.is_whole(&said[..end], end), is_whole, "at once: {}", said[..end].escape_ascii());
        }
    }

    /// Returns what rustls begins a handshake with: one record.
    fn client_hello() -> Vec<u8> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
        let mut client = ClientConnection::new(Arc::new(config), "istiod".try_into().unwrap()).unwrap();
        let mut said = Vec::new();
        client.write_tls(&mut said).unwrap();
        said
    }

    #[test]
    fn a_client_hello_is_whole_with_its_last_byte_in_however_many_records() {
        let hello = client_hello();
        assert_whole_at_the_end(ClientHello, &hello);
        for length in [1, 3, 4, 100] {
            let record = |part: &[u8]| [&[HANDSHAKE, 3, 1, 0, u8::try_from(part.len()).unwrap()], part].concat();
            let records: Vec<u8> = hello[RECORD..].chunks(length).flat_map(record).collect();
            assert_whole_at_the_end(ClientHello, &records);
        }
    }

    #[test]
    fn a_preface_is_whole_with_its_settings() {
        assert_whole_at_the_end(Preface, &[PREFACE, &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat());
        assert_whole_at_the_end(Preface, &[PREFACE, &[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0]].concat());
    }

    #[test]
    fn a_head_is_whole_with_an_empty_line() {
        for head in ["GET /ready HTTP/1.1\r\nhost: a\r\n\r\n", "GET / HTTP/1.0\n\n", "\r\nGET / HTTP/1.1\nhost: a\n\r\n"] {
            assert_whole_at_the_end(Head, head.as_bytes());
        }
    }

    #[test]
    fn who_speaks_something_else_is_told_so() {
        for (beginning, said) in [
            (ClientHello, &b"G"[..]),
            (ClientHello, &[HANDSHAKE, 3, 1, 0, 1, 1, 21]),
            (Preface, b"GET"),
            (Preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r!"),
            (Head, &[HANDSHAKE, 3, 1]),
        ] {
            assert!(beginning.is_whole(said, said.len()), "{beginning:?}: {}", said.escape_ascii());
            assert!(beginning.is_whole(said, 1), "{beginning:?}: {}", said.escape_ascii());
        }
        assert!(Head.is_whole(PREFACE, PREFACE.len()));
    }
}

//! Cuts what comes of an answer into lines.

use bytes::{Buf, Bytes, BytesMut};

/// A line is not longer; etcd takes objects of 1.5 MB.
const LONGEST: usize = 16 << 20;

/// What came and is no whole line yet.
#[derive(Debug, Default)]
pub(super) struct Lines {
    pending: BytesMut,
}

/// More came without an end of line than an object has.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong;

impl Lines {
    /// Takes more of the answer.
    ///
    /// # Errors
    /// When what waits for its end is too long.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), TooLong> {
        if self.pending.len() + bytes.len() > LONGEST {
            return Err(TooLong);
        }
        self.pending.extend_from_slice(bytes);
        Ok(())
    }

    /// The next whole line, without its end; empty ones are left out.
    pub(super) fn next(&mut self) -> Option<Bytes> {
        loop {
            let end = self.pending.iter().position(|byte| *byte == b'\n')?;
            let line = self.pending.split_to(end).freeze();
            self.pending.advance(1);
            if !line.trim_ascii().is_empty() {
                return Some(line);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_however_they_arrive() {
        let mut lines = Lines::default();
        lines.push(b"{a}\n\n{").unwrap();
        assert_eq!(lines.next().as_deref(), Some(&b"{a}"[..]));
        assert_eq!(lines.next(), None);
        lines.push(b"b}\n{c}").unwrap();
        assert_eq!(lines.next().as_deref(), Some(&b"{b}"[..]));
        assert_eq!(lines.next(), None);
        assert_eq!(lines.push(&vec![b'x'; LONGEST]), Err(TooLong));
    }
}

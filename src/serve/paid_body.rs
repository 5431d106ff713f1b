//! Answers that were made as a whole and lie here until they are read: in pieces, and paid for until the last is taken. Where there is
//! no room for another, the oldest is given up.
//!
//! What is given to a connection in one piece lies there until the peer reads it, whatever that takes. Of pieces few lie there.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;

use crate::budget::Portion;

/// The bytes of a piece.
const PIECE: usize = 16 << 10;

/// The answers of one sort that are not read yet. Cloning shares them.
#[derive(Clone, Debug, Default)]
pub(super) struct Unread(Arc<Mutex<Shelf>>);

#[derive(Debug, Default)]
struct Shelf {
    /// What is left of each, the oldest first, and what pays for it.
    answers: BTreeMap<u64, (Bytes, Portion)>,
    last: u64,
}

/// The body of an answer.
#[derive(Debug)]
pub(super) struct PaidBody {
    unread: Unread,
    number: u64,
    left: usize,
}

/// The answer was given up since its reader took too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer was not read in time, and had to make room for others")]
pub(super) struct GivenUp;

impl Unread {
    /// Makes a body that `portion` pays for.
    pub(super) fn body(&self, content: impl Into<Bytes>, portion: Portion) -> PaidBody {
        let content = content.into();
        let left = content.len();
        let mut shelf = self.0.lock();
        shelf.last += 1;
        let number = shelf.last;
        shelf.answers.insert(number, (content, portion));
        PaidBody { unread: self.clone(), number, left }
    }

    /// Gives up the oldest answer; returns whether there was one.
    pub(super) fn give_up_oldest(&self) -> bool {
        let oldest = self.0.lock().answers.pop_first();
        oldest.is_some()
    }

    fn remove(&self, number: u64) {
        let removed = self.0.lock().answers.remove(&number);
        drop(removed);
    }
}

impl Body for PaidBody {
    type Data = Bytes;
    type Error = GivenUp;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, GivenUp>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let piece = self.unread.0.lock().answers.get_mut(&self.number).map(|(rest, _)| {
            let length = rest.len().min(PIECE);
            // A copy: a part of the whole would keep all of it.
            Bytes::copy_from_slice(&rest.split_to(length))
        });
        let Some(piece) = piece else { return Poll::Ready(Some(Err(GivenUp))) };
        self.left -= piece.len();
        if self.left == 0 {
            self.unread.remove(self.number);
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left as u64)
    }
}

impl Drop for PaidBody {
    fn drop(&mut self) {
        self.unread.remove(self.number);
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;
    use crate::budget::{Budget, Purpose, Standing};

    #[tokio::test]
    async fn a_body_is_paid_for_until_it_is_read() {
        let (budget, unread) = (Budget::of(1600), Unread::default());
        let take = || budget.take(Purpose::Pages, Standing::Unproven, 300);
        let content = (0..100_000_u32).flat_map(u32::to_be_bytes).collect::<Vec<u8>>();
        let mut body = unread.body(content.clone(), take().unwrap());
        assert_eq!(body.size_hint().exact(), Some(400_000));
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(first.len() == PIECE && take().is_err());
        let rest = body.collect().await.unwrap().to_bytes();
        assert_eq!([first, rest].concat(), content);
        drop(unread.body("not read", take().unwrap()));
        assert!(take().is_ok());
    }

    #[tokio::test]
    async fn the_oldest_is_given_up_and_its_reader_told() {
        let (budget, unread) = (Budget::of(1600), Unread::default());
        let take = || budget.take(Purpose::Pages, Standing::Unproven, 150);
        let [old, new] = ["old", "new"].map(|content| unread.body(content, take().unwrap()));
        assert!(take().is_err() && unread.give_up_oldest() && take().is_ok());
        assert_eq!(old.collect().await.unwrap_err(), GivenUp);
        assert_eq!(new.collect().await.unwrap().to_bytes(), "new");
        assert!(!unread.give_up_oldest());
    }
}

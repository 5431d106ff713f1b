//! Entries of a protobuf map on the wire, and their one order.

use std::mem;

use super::field_at::FieldAt;

/// Entries of one map that follow each other.
#[derive(Default)]
pub(super) struct Entries(Vec<FieldAt>);

/// Entries of one map that do not stand in canonical order. Its places are those in the outermost message.
pub(super) struct Unordered(Vec<FieldAt>);

impl Entries {
    /// Adds the next entry. Returns those before it where they are another map's and not in order. `message` stands at `place` in the
    /// outermost one.
    pub(super) fn add(&mut self, entry: FieldAt, message: &[u8], place: usize) -> Option<Unordered> {
        let goes_on = self.0.last().is_none_or(|last| last.number == entry.number && last.end == entry.start);
        let before = if goes_on { None } else { self.end(message, place) };
        self.0.push(entry);
        before
    }

    /// Returns the entries where they are not in order, and goes on with none.
    // The key is an entry's first field, so entries in byte order are in the order of (length of key, key): any fixed order will
    // do, and what is in the values does not count.
    pub(super) fn end(&mut self, message: &[u8], place: usize) -> Option<Unordered> {
        let content = |entry: &FieldAt| &message[entry.content..entry.end];
        if self.0.is_sorted_by(|a, b| content(a) <= content(b)) {
            self.0.clear();
            return None;
        }
        let moved =
            |entry: FieldAt| FieldAt { start: entry.start + place, content: entry.content + place, end: entry.end + place, ..entry };
        Some(Unordered(mem::take(&mut self.0).into_iter().map(moved).collect()))
    }
}

impl Unordered {
    /// Puts the entries in order. That changes no length, so all else stays in its place; entries within entries go first.
    pub(super) fn order(mut self, bytes: &mut [u8]) {
        let [first, .., last] = self.0[..] else { return };
        let content = |entry: &FieldAt| &bytes[entry.content..entry.end];
        self.0.sort_unstable_by(|a, b| content(a).cmp(content(b)));
        let ordered = self.0.iter().fold(Vec::with_capacity(last.end - first.start), |mut ordered, entry| {
            ordered.extend_from_slice(&bytes[entry.start..entry.end]);
            ordered
        });
        bytes[first.start..last.end].copy_from_slice(&ordered);
    }
}

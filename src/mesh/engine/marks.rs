//! What has to be derived again.

/// Marked things. Marking is cheap, and one thing may be marked often; they come out once each, sorted.
#[derive(Debug)]
pub(super) struct Marks<T>(Vec<T>);

impl<T> Default for Marks<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Ord> Marks<T> {
    pub(super) fn insert(&mut self, thing: T) {
        // What comes in order, as pods do, marks one service again and again.
        if self.0.last() != Some(&thing) {
            self.0.push(thing);
        }
    }

    /// Takes all that is marked: each thing once, in order. Nothing is marked then.
    pub(super) fn take(&mut self) -> Vec<T> {
        let mut marked = std::mem::take(&mut self.0);
        marked.sort_unstable();
        marked.dedup();
        marked
    }
}

impl<T: Ord> Extend<T> for Marks<T> {
    fn extend<I: IntoIterator<Item = T>>(&mut self, things: I) {
        things.into_iter().for_each(|thing| self.insert(thing));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mark_comes_out_once_and_in_order() {
        let mut marks = Marks::default();
        marks.extend([3, 1]);
        marks.insert(3);
        assert_eq!(marks.take(), [1, 3]);
        assert!(marks.take().is_empty());
    }
}

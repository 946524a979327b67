//! Puts events that come in the order of their answers into the order of their arrival (`seq`).
//!
//! An event is let through when all numbers before it were seen. An operation that blocks for an hour
//! (a lock, say) would hold back that hour, so what is held is bounded: beyond the bound the missing
//! numbers are passed over, and what comes with one of them later is *late*.

use std::collections::BTreeMap;

/// Items in the order of their numbers.
#[derive(Debug)]
pub(super) struct Timeline<T> {
    next: u64,
    held: BTreeMap<u64, T>,
    held_max: usize,
}

/// Where an item went.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place<T> {
    /// It is held, or next.
    InOrder,
    /// Its number was passed over (or comes a second time).
    Late(T),
}

impl<T> Timeline<T> {
    pub(super) fn new(held_max: usize) -> Timeline<T> {
        Timeline {
            next: 1,
            held: BTreeMap::new(),
            held_max,
        }
    }

    pub(super) fn push(&mut self, number: u64, item: T) -> Place<T> {
        if number < self.next {
            return Place::Late(item);
        }
        match self.held.insert(number, item) {
            Some(earlier) => Place::Late(earlier),
            None => Place::InOrder,
        }
    }

    /// The next item in order, if all before it were seen or too many are held.
    pub(super) fn pop(&mut self) -> Option<T> {
        let first = self.held.first_entry()?;
        (*first.key() == self.next || self.held.len() > self.held_max).then(|| self.take())?
    }

    /// The next item in order, whatever is missing before it: for the end of the trace.
    pub(super) fn drain(&mut self) -> Option<T> {
        self.take()
    }

    fn take(&mut self) -> Option<T> {
        let (number, item) = self.held.pop_first()?;
        self.next = number.saturating_add(1);
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_come_in_the_order_of_their_numbers() {
        let mut line = Timeline::new(10);
        assert_eq!(line.push(2, 'b'), Place::InOrder);
        assert_eq!(line.pop(), None);
        assert_eq!(line.push(1, 'a'), Place::InOrder);
        assert_eq!(
            (line.pop(), line.pop(), line.pop()),
            (Some('a'), Some('b'), None)
        );
        assert_eq!(line.push(4, 'd'), Place::InOrder);
        assert_eq!(line.pop(), None);
        assert_eq!(line.drain(), Some('d'));
        assert_eq!(line.push(3, 'c'), Place::Late('c'));
    }

    #[test]
    fn what_is_held_is_bounded() {
        let mut line = Timeline::new(3);
        for number in 2..=4 {
            line.push(number, number);
            assert_eq!(line.pop(), None);
        }
        line.push(5, 5);
        assert_eq!(line.pop(), Some(2));
        assert_eq!(line.pop(), Some(3));
        assert_eq!(line.push(1, 1), Place::Late(1));
    }
}

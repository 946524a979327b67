//! The order of the tables.

use std::cmp::Reverse;

use super::{Figures, Report};

/// What the largest of a table are largest by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// Bytes read and written.
    #[default]
    Bytes,
    /// Calls that read and write.
    Calls,
    /// Time in operations.
    Time,
    /// Failed operations.
    Errors,
    /// Opens.
    Opens,
    /// Bytes that were never synced.
    Unsynced,
}

impl Order {
    fn of(self, figures: &Figures) -> u64 {
        match self {
            Order::Bytes => figures.bytes(),
            Order::Calls => figures.reads.calls + figures.writes.calls,
            Order::Time => figures.time.sum().0,
            Order::Errors => figures.errors.values().sum(),
            Order::Opens => figures.opens,
            Order::Unsynced => figures.unsynced_bytes,
        }
    }
}

impl Report {
    /// Puts the tables into another order, largest first; what is equal stays as it was.
    pub fn sort(&mut self, order: Order) {
        let by = |figures: &Figures| Reverse(order.of(figures));
        self.files.sort_by_key(|file| by(&file.figures));
        self.processes.sort_by_key(|process| by(&process.figures));
        match order {
            Order::Unsynced => self.opens.sort_by_key(|open| Reverse(open.unsynced_bytes)),
            _ => self.opens.sort_by_key(|open| by(&open.figures)),
        }
    }
}

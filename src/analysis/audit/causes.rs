//! Law 7: which numbers were operations.

/// How far back a cause is looked up exactly: whether that `seq` was an operation.
const CAUSE_WINDOW: usize = 1 << 20;

/// Which of the last [`CAUSE_WINDOW`] numbers were operations. One that was passed over counts as an
/// operation: it is one that takes long.
pub(super) struct CauseWindow {
    other: Vec<bool>,
    next: u64,
}

impl CauseWindow {
    pub(super) fn new() -> CauseWindow {
        CauseWindow {
            other: vec![false; CAUSE_WINDOW],
            next: 1,
        }
    }

    fn slot(seq: u64) -> usize {
        usize::try_from(seq).unwrap_or(0) % CAUSE_WINDOW
    }

    pub(super) fn note(&mut self, seq: u64, is_op: bool) {
        let size = u64::try_from(CAUSE_WINDOW).unwrap_or(u64::MAX);
        if seq.saturating_sub(self.next) >= size {
            self.other.fill(false);
        } else {
            (self.next..seq).for_each(|passed| self.other[Self::slot(passed)] = false);
        }
        self.other[Self::slot(seq)] = !is_op;
        self.next = seq.saturating_add(1);
    }

    pub(super) fn note_late(&mut self, seq: u64, is_op: bool) {
        if self.next.saturating_sub(seq) < u64::try_from(CAUSE_WINDOW).unwrap_or(u64::MAX) {
            self.other[Self::slot(seq)] = !is_op;
        }
    }

    /// Whether `cause` was an operation, seen from the later `seq`.
    pub(super) fn is_op(&self, cause: u64, seq: u64) -> bool {
        let size = u64::try_from(CAUSE_WINDOW).unwrap_or(u64::MAX);
        cause > 0 && (seq - cause >= size || !self.other[Self::slot(cause)])
    }
}

//! A short account of a run: per file how often and how much, and all in all.

use std::cmp::Ordering;
use std::collections::HashMap;

use crate::event::{ByteText, Event, Op, OpKind};
use crate::types::Nanos;

/// What was done to one file, or to all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Operations of every kind.
    pub ops: u64,
    /// Successful `open` and `create`.
    pub opens: u64,
    /// `read` requests.
    pub reads: u64,
    /// Bytes that they returned.
    pub read_bytes: u64,
    /// `write` requests.
    pub writes: u64,
    /// Bytes that they took.
    pub write_bytes: u64,
    /// `fsync` and `fdatasync`.
    pub fsyncs: u64,
    /// Failed operations. A lookup or attribute that is not there is how programs ask, and no error.
    pub errors: u64,
    /// Time until the answers, added up.
    pub time: Nanos,
}

/// Files kept at a time, some 300 bytes each. Past it the half with the fewest bytes is let go of, so that a tree
/// of any size can be recorded in bounded memory.
const FILES_MAX: usize = 8192;

/// Files and totals of one trace. The totals are exact. So are the files, unless there were more than can be
/// kept: then a file that was let go of begins anew when it is used again.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// By the path at the time.
    files: HashMap<ByteText, Tally>,
    /// Whether files had to be let go of.
    pub crowded: bool,
    /// All operations, also those without a path.
    pub total: Tally,
    /// Events that the trace lost.
    pub lost: u64,
    /// Whether the footer was seen.
    pub complete: bool,
}

impl Summary {
    /// Takes one event in.
    pub fn push(&mut self, event: &Event) {
        match event {
            Event::Op(op) => self.op(op),
            Event::Lost(lost) => super::add(&mut self.lost, lost.count),
            Event::Footer(footer) => {
                self.lost = self.lost.max(footer.lost);
                self.complete = true;
            }
            _ => {}
        }
    }

    fn op(&mut self, op: &Op) {
        self.total.add(op);
        if !is_about_a_file(op.op) {
            return;
        }
        if let Some(path) = &op.path {
            let name = ByteText {
                path: Some(path.clone()),
                path_b64: op.path_b64.clone(),
            };
            self.files.entry(name).or_default().add(op);
            if self.files.len() > FILES_MAX {
                self.let_go();
            }
        }
    }

    fn let_go(&mut self) {
        let mut ranks: Vec<_> = self.files.values().map(Tally::rank).collect();
        let (_, median, larger) = ranks.select_nth_unstable(FILES_MAX / 2);
        let median = *median;
        // Of those that are as large as the median, as many as there is room for.
        let mut room = FILES_MAX / 2 - larger.iter().filter(|rank| **rank > median).count();
        self.files
            .retain(|_, tally| match tally.rank().cmp(&median) {
                Ordering::Greater => true,
                Ordering::Equal if room > 0 => {
                    room -= 1;
                    true
                }
                Ordering::Equal | Ordering::Less => false,
            });
        self.crowded = true;
    }

    /// Files whose data was used, most bytes first, then the longest time.
    #[must_use]
    pub fn files(&self) -> Vec<(&ByteText, &Tally)> {
        let used = |tally: &Tally| tally.opens + tally.reads + tally.writes + tally.errors > 0;
        let mut files: Vec<_> = self.files.iter().filter(|(_, tally)| used(tally)).collect();
        files.sort_by(|(a_path, a), (b_path, b)| {
            b.rank()
                .cmp(&a.rank())
                .then_with(|| a_path.path.cmp(&b_path.path))
        });
        files
    }
}

impl Tally {
    /// Most bytes first, then the longest time.
    fn rank(&self) -> (u64, Nanos) {
        let bytes = self.read_bytes.saturating_add(self.write_bytes);
        (bytes, self.time)
    }

    fn add(&mut self, op: &Op) {
        let bytes = op.ret.unwrap_or_default();
        self.ops += 1;
        self.time = Nanos(self.time.0.saturating_add(op.dur_ns.0));
        match op.op {
            OpKind::Open | OpKind::Create if op.errno.is_none() => self.opens += 1,
            OpKind::Read => {
                self.reads += 1;
                super::add(&mut self.read_bytes, bytes);
            }
            OpKind::Write => {
                self.writes += 1;
                super::add(&mut self.write_bytes, bytes);
            }
            OpKind::Fsync => self.fsyncs += 1,
            _ => {}
        }
        if op.errno.is_some() && !op.is_question() {
            self.errors += 1;
        }
    }
}

fn is_about_a_file(kind: OpKind) -> bool {
    !matches!(
        kind,
        OpKind::Opendir | OpKind::Readdir | OpKind::Releasedir | OpKind::Fsyncdir | OpKind::Statfs
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Seq;

    fn op(kind: OpKind, path: &str, ret: Option<u64>) -> Event {
        let mut op = Op::new(kind, Seq(1), Nanos(0));
        op.dur_ns = Nanos(10);
        op.path = Some(path.into());
        op.ret = ret;
        op.errno = ret.is_none().then_some("EIO".into());
        Event::Op(Box::new(op))
    }

    #[test]
    fn files_are_ranked_by_bytes_and_counted() {
        let mut summary = Summary::default();
        for event in [
            op(OpKind::Open, "small", Some(0)),
            op(OpKind::Read, "small", Some(5)),
            op(OpKind::Create, "big", Some(0)),
            op(OpKind::Write, "big", Some(100)),
            op(OpKind::Write, "big", None),
            op(OpKind::Fsync, "big", Some(0)),
            op(OpKind::Lookup, "absent", None),
            op(OpKind::Readdir, ".", Some(0)),
        ] {
            summary.push(&event);
        }
        let files = summary.files();
        let names: Vec<_> = files
            .iter()
            .map(|(name, _)| name.path.as_deref().unwrap())
            .collect();
        assert_eq!(names, ["big", "small"]);
        let big = files[0].1;
        assert_eq!(
            (
                big.opens,
                big.writes,
                big.write_bytes,
                big.fsyncs,
                big.errors
            ),
            (1, 2, 100, 1, 1)
        );
        assert_eq!(big.time, Nanos(40));
        assert_eq!((summary.total.ops, summary.total.errors), (8, 1));
    }

    #[test]
    fn of_very_many_files_the_largest_are_kept_and_the_totals_are_exact() {
        let mut summary = Summary::default();
        let count = 10 * FILES_MAX as u64;
        for n in 0..count {
            // The largest come in the middle.
            let bytes = if n.abs_diff(count / 2) < 5 {
                1 << 20
            } else {
                n % 100
            };
            summary.push(&op(OpKind::Write, &format!("f{n}"), Some(bytes)));
            assert!(summary.files.len() <= FILES_MAX);
        }
        assert!(summary.crowded);
        assert_eq!(summary.total.writes, count);
        let files = summary.files();
        let largest = files
            .iter()
            .filter(|(_, tally)| tally.write_bytes == 1 << 20);
        assert_eq!(largest.count(), 9);
    }
}

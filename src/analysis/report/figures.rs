//! The figures of one group of operations: a file, an open, a process, or all.

use std::collections::BTreeMap;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::latency::Latency;
use crate::analysis::add;
use crate::event::{CacheDid, Op, OpKind, Writeback};

/// Classes of sizes by their lower ends, bytes, with Darshan's names (POSIX_SIZE_READ_0_100 and so on).
pub const SIZE_CLASSES: [(u64, &str); 10] = [
    (0, "0_100"),
    (101, "100_1K"),
    (1 << 10, "1K_10K"),
    (10 << 10, "10K_100K"),
    (100 << 10, "100K_1M"),
    (1 << 20, "1M_4M"),
    (4 << 20, "4M_10M"),
    (10 << 20, "10M_100M"),
    (100 << 20, "100M_1G"),
    (1 << 30, "1G_PLUS"),
];

/// How many calls had a size in each class.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sizes(pub [u64; SIZE_CLASSES.len()]);

impl Sizes {
    fn add(&mut self, size: u64) {
        let class = SIZE_CLASSES.partition_point(|(low, _)| *low <= size) - 1;
        self.0[class] += 1;
    }

    /// Classes that have calls, by their names.
    pub fn some(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let all = SIZE_CLASSES.iter().zip(self.0);
        all.filter(|(_, count)| *count > 0)
            .map(|((_, name), count)| (*name, count))
    }
}

impl Serialize for Sizes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut classes = serializer.serialize_map(Some(SIZE_CLASSES.len()))?;
        for ((_, name), count) in SIZE_CLASSES.iter().zip(self.0) {
            classes.serialize_entry(name, &count)?;
        }
        classes.end()
    }
}

/// Calls that move data in one direction. A call is what the application made, however many requests the
/// kernel split it into.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Flow {
    /// Calls.
    pub calls: u64,
    /// Bytes transferred.
    pub bytes: u64,
    /// Calls by size.
    pub sizes: Sizes,
    /// Calls that began where the last one of the same open ended.
    pub consec: u64,
    /// Calls that began at or behind the end of the last one of the same open.
    pub seq: u64,
    /// Calls that began at a multiple of 4096.
    pub aligned: u64,
    /// Calls by system call; `unknown` where it could not be told.
    pub by_syscall: BTreeMap<String, u64>,
}

impl Flow {
    /// Bytes a call, on average.
    #[must_use]
    pub fn mean(&self) -> u64 {
        self.bytes.checked_div(self.calls).unwrap_or(0)
    }

    /// Whether nine calls of ten began where the last one had ended; the first has none before it.
    #[must_use]
    pub fn is_in_a_row(&self) -> bool {
        (self.consec + 1) * 10 >= self.calls * 9
    }

    pub(super) fn call(&mut self, op: &Op, size: u64, before: Option<u64>) {
        let offset = op.offset.unwrap_or(0);
        self.calls += 1;
        self.sizes.add(size);
        self.consec += u64::from(before == Some(offset));
        self.seq += u64::from(before.is_some_and(|end| offset >= end));
        self.aligned += u64::from(offset.is_multiple_of(4096));
        let name = op.syscall.as_deref().unwrap_or("unknown");
        match self.by_syscall.get_mut(name) {
            Some(count) => *count += 1,
            None => {
                self.by_syscall.insert(name.to_owned(), 1);
            }
        }
    }
}

/// What the buffer did, bytes where nothing else is said.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Cache {
    /// Writes that went into the buffer.
    pub buffered: u64,
    /// Of these, bytes that replaced dirty ones.
    pub overwrote: u64,
    /// Writes that went to SOURCE at once.
    pub write_through: u64,
    /// Read from the buffer.
    pub hit: u64,
    /// Of these, not yet written back.
    pub hit_dirty: u64,
    /// Of these, fetched by read-ahead.
    pub hit_readahead: u64,
    /// Read from SOURCE into the buffer.
    pub miss: u64,
    /// Read from SOURCE past the buffer.
    pub bypass: u64,
    /// Fetched ahead of the reader.
    pub readahead: u64,
    /// Of these, never read by anybody; of files and all.
    pub readahead_wasted: u64,
    /// Written back.
    pub written_back: u64,
    /// Writes to SOURCE that this took.
    pub writebacks: u64,
    /// Application writes merged into them; one that two writebacks share counts twice.
    pub merged: u64,
    /// Dirty bytes that died unwritten.
    pub discarded: u64,
    /// Nanoseconds that writers were held back.
    pub waited_ns: u64,
    /// Bytes that reached SOURCE for each that the application wrote; absent where it wrote none. Of files and all.
    pub write_amplification: Option<f64>,
    /// From the write of the oldest byte to its writeback, one for each writeback; of files and all.
    pub to_writeback: Latency,
    /// From the oldest write that it syncs to the end of an fsync(2), one for each; of files and all.
    pub to_sync: Latency,
    /// Most dirty bytes at one time.
    pub peak_dirty: u64,
}

impl Cache {
    pub(super) fn did(&mut self, did: &CacheDid) {
        match *did {
            CacheDid::Buffered {
                size, overwrote, ..
            } => {
                add(&mut self.buffered, size);
                add(&mut self.overwrote, overwrote);
            }
            CacheDid::WriteThrough { size, .. } => add(&mut self.write_through, size),
            CacheDid::Hit {
                size,
                dirty,
                readahead,
            } => {
                add(&mut self.hit, size);
                add(&mut self.hit_dirty, dirty);
                add(&mut self.hit_readahead, readahead);
            }
            CacheDid::Miss { size } => add(&mut self.miss, size),
            CacheDid::Bypass { size, .. } => add(&mut self.bypass, size),
            CacheDid::Readahead { size } => add(&mut self.readahead, size),
            CacheDid::Wait { ns, .. } => add(&mut self.waited_ns, ns),
            // These have lines of their own.
            CacheDid::Writeback { .. } | CacheDid::Discard { .. } => {}
            CacheDid::Hole { .. } | CacheDid::Invalidate { .. } => {}
        }
    }

    pub(super) fn wrote_back(&mut self, done: &Writeback) {
        if let Some(bytes) = done.ret {
            add(&mut self.written_back, bytes);
            self.writebacks += 1;
            add(&mut self.merged, done.writes);
            self.to_writeback.add(done.age_ns);
        }
    }

    /// What follows from other figures, once these are complete.
    fn conclude(&mut self, written: u64) {
        self.readahead_wasted = self.readahead.saturating_sub(self.hit_readahead);
        // Far from the 53 bits that a float is exact for, and a ratio.
        #[allow(clippy::cast_precision_loss)]
        let ratio = |part: u64, whole: u64| part as f64 / whole as f64;
        let reached = self.written_back.saturating_add(self.write_through);
        self.write_amplification = (written > 0).then(|| ratio(reached, written));
    }
}

/// All figures of a group.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Figures {
    /// Operations of every kind.
    pub ops: u64,
    /// Successful opens.
    pub opens: u64,
    /// Reads by the application; what the kernel read for its page cache is in `mapped_reads`.
    pub reads: Flow,
    /// Writes by the application.
    pub writes: Flow,
    /// Page faults and other reads for the page cache.
    pub mapped_reads: u64,
    /// Pages of mappings written.
    pub mapped_writes: u64,
    #[serde(skip)]
    mapped_bytes: u64,
    /// Times that the position was moved unseen (lseek(2)).
    pub seeks: u64,
    /// Changes between reading and writing the same open.
    pub rw_switches: u64,
    /// fsync(2) and fdatasync(2).
    pub fsyncs: u64,
    /// Truncations.
    pub truncations: u64,
    /// Bytes written and not synced since, of files that still have a name; of files and all.
    pub unsynced_bytes: u64,
    /// Failed operations by error, but for questions that have no for an answer.
    pub errors: BTreeMap<String, u64>,
    /// Time until the answers.
    pub time: Latency,
    /// What the buffer did.
    pub cache: Cache,
}

impl Figures {
    /// Bytes read and written.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.reads.bytes.saturating_add(self.writes.bytes)
    }

    /// Adds what is true of any operation.
    pub(super) fn op(&mut self, op: &Op) {
        self.ops += 1;
        self.time.add(op.dur_ns);
        op.cache.iter().for_each(|did| self.cache.did(did));
        match (op.op, &op.errno) {
            (OpKind::Open | OpKind::Create, None) => self.opens += 1,
            (OpKind::Fsync, None) => self.fsyncs += 1,
            (OpKind::Setattr, None) => {
                let cut = op.set.as_ref().is_some_and(|set| set.size.is_some());
                self.truncations += u64::from(cut);
            }
            (_, Some(errno)) if !op.is_question() => {
                *self.errors.entry(errno.to_string()).or_default() += 1;
            }
            _ => {}
        }
        self.cache.peak_dirty = self.cache.peak_dirty.max(op.dirty.unwrap_or(0));
        self.seeks += u64::from(op.seek_from.is_some());
        match op.op {
            OpKind::Read if op.mapped || op.page_cache => self.mapped_reads += 1,
            OpKind::Read => add(&mut self.reads.bytes, op.ret.unwrap_or(0)),
            OpKind::Write if op.mapped => {
                self.mapped_writes += 1;
                add(&mut self.mapped_bytes, op.ret.unwrap_or(0));
            }
            OpKind::Write => add(&mut self.writes.bytes, op.ret.unwrap_or(0)),
            _ => {}
        }
    }

    /// What follows from other figures, once these are complete.
    pub(super) fn conclude(&mut self) {
        self.cache
            .conclude(self.writes.bytes.saturating_add(self.mapped_bytes));
    }

    /// The flow that a call of the application belongs to.
    pub(super) fn flow(&mut self, kind: OpKind) -> &mut Flow {
        match kind {
            OpKind::Read => &mut self.reads,
            _ => &mut self.writes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_fall_into_darshans_classes() {
        let mut sizes = Sizes::default();
        for size in [0, 100, 101, 1023, 1024, 4 << 20, 1 << 30, u64::MAX] {
            sizes.add(size);
        }
        assert_eq!(sizes.0, [2, 2, 1, 0, 0, 0, 1, 0, 0, 2]);
    }
}

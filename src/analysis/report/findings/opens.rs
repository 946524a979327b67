//! Rules over one open file description, once it is over.

use std::collections::HashMap;

use super::{Evidence, Finding};
use crate::analysis::report::figures::Flow;
use crate::analysis::report::open::Open;
use crate::types::Pid;

/// So many calls are many: below, even a careless program costs next to nothing.
const MANY_CALLS: u64 = 100;
/// Below so many bytes on average a call costs more than the bytes it moves (a call takes as long as copying some
/// kilobytes).
const TINY_BYTES: u64 = 512;
/// fsync(2) so often is a habit.
const MANY_SYNCS: u64 = 10;
/// Fewer bytes than this between two fsync(2) could have waited for more.
const SMALL_SYNC_BYTES: u64 = 64 << 10;
/// Read again just after it was written, written again before it left, or read: below it is noise.
const NOTABLE_BYTES: u64 = 64 << 10;
/// So much in a few reads takes as much memory.
const LARGE_READ: u64 = 64 << 20;
/// A file read in so few calls is read as a whole: read(2) for all, and one that finds the end.
const FEW_CALLS: u64 = 4;
/// While a process opens so many other files, it has left the one behind.
const LEFT_BEHIND_OPENS: u64 = 20;
/// Idle so many times longer than it was in use, a file was closed by chance rather than by plan.
const LEFT_BEHIND_TIMES: u64 = 3;
/// So many files that only exit closes were not kept on purpose: a process may have 1024 (RLIMIT_NOFILE).
const MANY_LEFT: u64 = 16;

pub(super) fn findings(open: &Open) -> impl Iterator<Item = Finding> {
    const RULES: [fn(&Open) -> Option<Finding>; 10] = [
        tiny_writes,
        tiny_reads,
        sync_after_little,
        read_what_it_wrote,
        overwritten_at_once,
        read_at_once,
        left_open,
        closed_late,
        append_and_seek,
        short_ignored,
    ];
    RULES.into_iter().filter_map(move |rule| rule(open))
}

pub(super) fn notes(open: &Open) -> impl Iterator<Item = Finding> {
    [writes_through_a_buffer(open), read_in_chunks(open)]
        .into_iter()
        .flatten()
}

fn tiny_writes(open: &Open) -> Option<Finding> {
    let remedy = "collect them in a buffer and write some kilobytes at a time (open() without buffering=0, stdio, \
                  BufWriter)";
    let flow = &open.figures.writes;
    tiny(open, "tiny_writes", (flow, "writes"), remedy)
}

fn tiny_reads(open: &Open) -> Option<Finding> {
    let remedy = "read some kilobytes at a time through a buffer";
    let flow = &open.figures.reads;
    tiny(open, "tiny_reads", (flow, "reads"), remedy)
}

fn tiny(
    open: &Open,
    rule: &'static str,
    (flow, name): (&Flow, &str),
    remedy: &str,
) -> Option<Finding> {
    if flow.calls < MANY_CALLS || flow.mean() >= TINY_BYTES || !flow.is_in_a_row() {
        return None;
    }
    let (calls, mean) = (flow.calls, flow.mean());
    let what = format!("{calls} {name} of {mean} bytes on average, one behind the other");
    let why = "each is a system call, which costs more than the bytes it moves";
    let evidence = Evidence::open(open, calls, open.figures.time.sum());
    Some(evidence.finding(rule, what, why, remedy))
}

fn sync_after_little(open: &Open) -> Option<Finding> {
    let figures = &open.figures;
    let mean = figures.writes.bytes.checked_div(figures.fsyncs)?;
    if figures.fsyncs < MANY_SYNCS || mean >= SMALL_SYNC_BYTES {
        return None;
    }
    let what = format!(
        "{} fsyncs, one for each {mean} bytes written",
        figures.fsyncs
    );
    let why = "each waits until the disk has the bytes";
    let remedy = "sync once for a group of changes";
    let evidence = Evidence::open(open, figures.fsyncs, figures.time.sum());
    Some(evidence.finding("sync_after_little", what, why, remedy))
}

fn read_what_it_wrote(open: &Open) -> Option<Finding> {
    let (again, written) = (open.figures.cache.hit_dirty, open.figures.writes.bytes);
    if again < NOTABLE_BYTES || written == 0 || again < written / 2 {
        return None;
    }
    let what = format!("{again} of the bytes it read it had just written itself");
    let why = "the program has them already";
    let remedy = "keep what was written, or read it only when somebody else may have changed it";
    let evidence = Evidence::open(open, open.figures.reads.calls, open.figures.time.sum());
    Some(evidence.finding("read_what_it_wrote", what, why, remedy))
}

fn overwritten_at_once(open: &Open) -> Option<Finding> {
    let cache = &open.figures.cache;
    if cache.overwrote < NOTABLE_BYTES || cache.overwrote < cache.buffered / 2 {
        return None;
    }
    let (again, all) = (cache.overwrote, cache.buffered);
    let what = format!("{again} of {all} bytes were written again before they left the buffer");
    let why = "only the last version of them matters";
    let remedy = "write each part once, when it is complete";
    let evidence = Evidence::open(open, open.figures.writes.calls, open.figures.time.sum());
    Some(evidence.finding("overwritten_at_once", what, why, remedy))
}

fn read_at_once(open: &Open) -> Option<Finding> {
    let reads = &open.figures.reads;
    if reads.bytes < LARGE_READ || reads.calls > FEW_CALLS {
        return None;
    }
    let what = format!("{} bytes were read in {} calls", reads.bytes, reads.calls);
    let why = "all of it is in the program's memory at one time";
    let remedy =
        "read and work in chunks, or iterate over lines, where the whole is not needed at once";
    let evidence = Evidence::open(open, reads.calls, open.figures.time.sum());
    Some(evidence.finding("read_at_once", what, why, remedy))
}

fn left_open(open: &Open) -> Option<Finding> {
    if !open.is_left() || open.figures.writes.bytes == 0 {
        return None;
    }
    let what = "it was written to and never closed: the end of the process closed it".to_owned();
    let why = "an error that only close(2) tells is lost, and what a buffer of the program still held was never written";
    let remedy = "close it (with, RAII, fclose), and check the result";
    let evidence = Evidence::open(open, 1, Default::default());
    Some(evidence.finding("left_open", what, why, remedy))
}

fn closed_late(open: &Open) -> Option<Finding> {
    let (used, closed) = (open.traits.used, open.traits.closed);
    let others = closed.opens.saturating_sub(used.opens);
    let (idle, busy) = open.idle_and_busy();
    let late = closed.ops.saturating_sub(used.ops) >= MANY_CALLS
        && others >= LEFT_BEHIND_OPENS
        && idle.0 >= busy.0.saturating_mul(LEFT_BEHIND_TIMES);
    if !late || open.is_left() || open.figures.writes.bytes == 0 {
        return None;
    }
    let what = format!("it was closed only after its process had opened {others} other files");
    let why = "until then the program's own buffer may have held the last bytes; a garbage collector closes files \
               when it likes, or never";
    let remedy = "close it as soon as it is complete (with, try-with-resources, defer)";
    let evidence = Evidence::open(open, 1, Default::default());
    Some(evidence.finding("closed_late", what, why, remedy))
}

fn append_and_seek(open: &Open) -> Option<Finding> {
    let jumps = open.traits.append_jumps;
    if jumps == 0 {
        return None;
    }
    let what = format!(
        "it is open with O_APPEND, and {} went to its end although the program was, or meant, elsewhere",
        many(jumps, "write")
    );
    let why = "with O_APPEND each write goes to the end, wherever a seek, a read or pwrite(2) says";
    let remedy = "open it with r+ (without O_APPEND) to write in the middle, or leave the seek before a write out";
    let evidence = Evidence::open(open, jumps, Default::default());
    Some(evidence.finding("append_and_seek", what, why, remedy))
}

fn short_ignored(open: &Open) -> Option<Finding> {
    let [reads, writes] = open.traits.ignored;
    let (count, kind) = match writes {
        0 => (reads, "read"),
        _ => (writes, "write"),
    };
    if count == 0 {
        return None;
    }
    let what = format!(
        "{count} {kind} did less than they were asked for, and the program did not go on where they stopped"
    );
    let why =
        "read(2) and write(2) may do less than they are asked for: what is missing was never moved";
    let remedy = "go on until all is done (write_all, a loop), and check each result";
    let evidence = Evidence::open(open, count, Default::default());
    Some(evidence.finding("short_ignored", what, why, remedy))
}

/// The last bytes were not synced, although the program cared before. Gives the inode's number, too.
pub(super) fn unsynced_tail(open: &Open) -> Option<(u64, Finding)> {
    let bytes = open.unsynced_bytes;
    if open.figures.fsyncs == 0 || bytes == 0 {
        return None;
    }
    let what = format!("{bytes} bytes were written after its last fsync, and it was closed");
    let why =
        "close(2) does not sync: a power cut may take them, although the program has synced others";
    let remedy = "fsync after the last write, before close";
    let evidence = Evidence::open(open, 1, Default::default());
    let finding = evidence.finding("closed_unsynced", what, why, remedy);
    Some((open.traits.ino?.0, finding))
}

fn many(count: u64, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    }
}

fn writes_through_a_buffer(open: &Open) -> Option<Finding> {
    let comm = open.comm.as_deref().unwrap_or_default();
    let [reads, writes] = &open.traits.sizes;
    let (buffer, flow, verb, when) = match (writes.buffer(comm), reads.buffer(comm)) {
        (Some(buffer), _) => {
            let when = "emptied when it was full and at the end";
            (buffer, &open.figures.writes, "written", when)
        }
        (None, Some(buffer)) => {
            let when = "filled again when it was empty";
            (buffer, &open.figures.reads, "read", when)
        }
        (None, None) => return None,
    };
    if !flow.is_in_a_row() && flow.calls > FEW_CALLS {
        return None;
    }
    let (calls, size) = (many(flow.calls, "call"), buffer.size);
    let what = format!("{verb} in {calls} through a buffer of {size} bytes in the program, {when}");
    let why = format!("{} have buffers of that size", buffer.owner);
    let evidence = Evidence::open(open, flow.calls, open.figures.time.sum());
    Some(evidence.finding("own_buffer", what, &why, ""))
}

fn read_in_chunks(open: &Open) -> Option<Finding> {
    let reads = &open.figures.reads;
    let whole = open.traits.file_size >= NOTABLE_BYTES && reads.bytes >= open.traits.file_size;
    if !whole || !reads.is_in_a_row() && reads.calls > FEW_CALLS || reads.bytes >= LARGE_READ {
        return None;
    }
    let (bytes, calls) = (reads.bytes, reads.calls);
    let (what, why) = match calls <= FEW_CALLS {
        true => (
            format!("read as a whole: {bytes} bytes in {}", many(calls, "call")),
            "all of it is in the program's memory at one time",
        ),
        false => (
            format!(
                "read in chunks: {bytes} bytes in {calls} calls of {} bytes",
                reads.mean()
            ),
            "no more of it than a chunk need be in the program's memory",
        ),
    };
    let evidence = Evidence::open(open, calls, open.figures.time.sum());
    Some(evidence.finding("whole_or_chunks", what, why, ""))
}

/// Files that only the end of their process closed.
#[derive(Debug, Default)]
pub(super) struct Leaks {
    left: HashMap<Pid, Evidence>,
}

impl Leaks {
    pub(super) fn closed(&mut self, open: &Open) {
        let Some(pid) = open.pid.map(Pid).filter(|_| open.is_left()) else {
            return;
        };
        match self.left.get_mut(&pid) {
            None => drop(
                self.left
                    .insert(pid, Evidence::open(open, 1, Default::default())),
            ),
            Some(evidence) => {
                evidence.calls += 1;
                let [first, last] = evidence.seq;
                evidence.seq = [first.min(open.seq[0]), last.max(open.seq[1])];
            }
        }
    }

    pub(super) fn finish(self) -> impl Iterator<Item = Finding> {
        let many = self.left.into_values().filter(|e| e.calls >= MANY_LEFT);
        many.map(|evidence| {
            let what = format!(
                "{} files, this one among them, were still open at the end of the process",
                evidence.calls
            );
            let why = "each keeps a descriptor, and a process may have only so many (RLIMIT_NOFILE, often 1024): EMFILE";
            let remedy = "close each file when it is done with";
            evidence.finding("descriptors_left", what, why, remedy)
        })
    }
}

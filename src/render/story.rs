//! A story in plain words: a sentence for each beat, with the number of its event.

use super::escape::{escape_text, escaped, push};
use super::table::{bytes, time};
use crate::analysis::story::{Beat, Story};
use crate::event::{CacheDid, Caller, Cause, Discard, Event, Evict, Op, OpKind, Reason, Writeback};
use crate::types::Seq;

/// The story as text, a line for each sentence.
#[must_use]
pub fn render(story: &Story) -> String {
    let mut out = String::new();
    let mut who = String::new();
    for beat in &story.beats {
        sentence(beat, &mut who, &mut out);
    }
    if story.beats.is_empty() {
        out.push_str("nothing of it is in the trace\n");
    }
    if story.left_out > 0 {
        push(
            &mut out,
            format_args!("and {} more events, which are not told\n", story.left_out),
        );
    }
    out
}

fn sentence(beat: &Beat, who: &mut String, out: &mut String) {
    let (seq, text) = match &beat.event {
        Event::Op(op) => (op.seq, operation(op, who)),
        Event::Writeback(done) => (done.seq, writeback(done)),
        Event::Discard(gone) => (gone.seq, discard(gone)),
        Event::Evict(gone) => (gone.seq, evict(gone)),
        Event::Header(_) | Event::Footer(_) | Event::Lost(_) | Event::Resume(_) => return,
    };
    push(out, format_args!("{} {text}.", number(seq)));
    if beat.more > 0 {
        let times = match beat.more {
            1 => "once more".to_owned(),
            more => format!("{more} times more"),
        };
        let on = match &beat.event {
            Event::Op(op) if matches!(op.op, OpKind::Read | OpKind::Write) => {
                ", each where the last one ended"
            }
            _ => "",
        };
        push(
            out,
            format_args!(" Then {times}{on} (until #{}).", beat.last),
        );
    }
    out.push('\n');
}

fn number(seq: Seq) -> String {
    format!("{:>8}", format!("#{seq}"))
}

/// `python3[7805] wrote ..`; the name only when it is another one than before.
fn operation(op: &Op, who: &mut String) -> String {
    let mut name = String::new();
    match (op.caller, op.pid) {
        (Caller::Request, Some(pid)) => {
            escape_text(op.comm.as_deref().unwrap_or("?"), &mut name);
            push(&mut name, format_args!("[{pid}]"));
        }
        _ => name.push_str("the kernel"),
    }
    let subject = match name == *who {
        true => "it".to_owned(),
        false => name.clone(),
    };
    *who = name;
    let mut text = format!("{subject} {}", deed(op));
    match &op.errno {
        Some(errno) => push(
            &mut text,
            format_args!(", which failed with {}", escaped(errno)),
        ),
        None => effects(op, &mut text),
    }
    text
}

fn deed(op: &Op) -> String {
    let through = match (op.fd, op.syscall.as_deref().map(escaped)) {
        (Some(fd), Some(call)) => format!(" through descriptor {fd} ({call})"),
        (Some(fd), None) => format!(" through descriptor {fd}"),
        (None, Some(call)) => format!(" ({call})"),
        (None, None) => String::new(),
    };
    let path = named(op.path.as_deref());
    let flags = op.flags.join("|");
    let fh = op.fh.map_or_else(String::new, |fh| format!(" as fh {fh}"));
    let amount = bytes_of(op.ret.or(op.size).unwrap_or(0));
    let at = op.offset.unwrap_or(0);
    match op.op {
        OpKind::Lookup => format!("looked {path} up{through}"),
        OpKind::Getattr => format!("asked for its attributes{through}"),
        OpKind::Open => format!("opened {path} with {flags}{through}{fh}"),
        OpKind::Create => format!("made and opened {path} with {flags}{through}{fh}"),
        OpKind::Read if op.mapped => {
            format!("touched a page of a mapping: {amount} at {at} were read for it")
        }
        OpKind::Read if op.page_cache => {
            format!("had {amount} at {at} brought into the page cache{through}")
        }
        OpKind::Read if op.ret == Some(0) => format!("read at {at}{through}, where the file ends"),
        OpKind::Read => format!("read {amount} at {at}{through}"),
        OpKind::Write if op.mapped => format!("wrote {amount} at {at} that a mapping had changed"),
        OpKind::Write => format!("wrote {amount} at {at}{through}"),
        OpKind::Fsync => format!("asked for it to be durable{through}"),
        OpKind::Flush => match op.fd {
            Some(fd) => format!(
                "closed descriptor {fd} ({})",
                op.syscall.as_deref().map_or("close".into(), escaped)
            ),
            None => format!("closed a descriptor{through}"),
        },
        OpKind::Release => "let go of the open file: its last descriptor is gone".to_owned(),
        OpKind::Rename => format!("renamed {path} to {}{through}", named(op.to.as_deref())),
        OpKind::Link => format!("gave it the name {} too{through}", named(op.to.as_deref())),
        OpKind::Unlink => format!("removed the name {path}{through}"),
        OpKind::Setattr => set(op, &through),
        other => format!("did {} on {path}{through}", other.name()),
    }
}

fn set(op: &Op, through: &str) -> String {
    let Some(set) = &op.set else {
        return format!("changed its attributes{through}");
    };
    let mut what = Vec::new();
    if let Some(size) = set.size {
        what.push(format!("its size to {size}"));
    }
    if let Some(mode) = set.mode {
        what.push(format!("its mode to {mode:04o}"));
    }
    if set.uid.is_some() || set.gid.is_some() {
        what.push("its owner".to_owned());
    }
    if set.atime.is_some() || set.mtime.is_some() {
        what.push("its times".to_owned());
    }
    format!("set {}{through}", what.join(" and "))
}

/// What the call did to the position, and what the buffer made of it.
fn effects(op: &Op, text: &mut String) {
    if let (Some(before), Some(at)) = (op.seek_from, op.offset) {
        push(
            text,
            format_args!(", having moved the position from {before} to {at}"),
        );
    }
    let did: Vec<String> = op.cache.iter().filter_map(decision).collect();
    if !did.is_empty() {
        push(text, format_args!(": {}", did.join(", ")));
    }
    if op.op == OpKind::Fsync {
        text.push_str("; what was written before survives a power cut now");
    } else if let (OpKind::Write | OpKind::Flush, Some(dirty @ 1..)) = (op.op, op.dirty) {
        push(
            text,
            format_args!("; so much of the file waits there: {}", bytes_of(dirty)),
        );
    }
}

fn decision(did: &CacheDid) -> Option<String> {
    Some(match *did {
        CacheDid::Buffered {
            size, overwrote: 0, ..
        } => format!("{} went into the buffer", bytes_of(size)),
        CacheDid::Buffered {
            size, overwrote, ..
        } => {
            format!(
                "{} went into the buffer, over {} that had not left it",
                bytes_of(size),
                bytes_of(overwrote)
            )
        }
        CacheDid::WriteThrough { size, reason } => {
            format!(
                "{} went to the directory at once, {}",
                bytes_of(size),
                why(reason)
            )
        }
        CacheDid::Hit { size, dirty, .. } if dirty == size => {
            format!(
                "{} came from the buffer, where they still wait",
                bytes_of(size)
            )
        }
        CacheDid::Hit { size, .. } => format!("{} came from the buffer", bytes_of(size)),
        CacheDid::Miss { size } => format!("{} came from the directory", bytes_of(size)),
        CacheDid::Hole { size } => format!("{} were a hole", bytes_of(size)),
        CacheDid::Bypass { size, reason } => {
            format!("{} came past the buffer, {}", bytes_of(size), why(reason))
        }
        CacheDid::Readahead { size } => format!("{} more were fetched ahead", bytes_of(size)),
        CacheDid::Wait { ns, reason } => format!("the answer waited {}, {}", time(ns), why(reason)),
        CacheDid::Invalidate { size, .. } => {
            format!(
                "{} in the buffer were no longer true and were dropped",
                bytes_of(size)
            )
        }
        // These have sentences of their own.
        CacheDid::Writeback { .. } | CacheDid::Discard { .. } => return None,
    })
}

fn writeback(done: &Writeback) -> String {
    let (amount, at) = (bytes_of(done.size), done.offset);
    let writes = match done.writes {
        1 => "one write of the program's".to_owned(),
        writes => format!("{writes} writes of the program's, left together"),
    };
    let cause = match done.cause {
        Cause::Op(seq) => format!("{} #{seq}", why(done.reason)),
        Cause::Own(_) => why(done.reason).to_owned(),
    };
    match &done.errno {
        Some(errno) => format!(
            "iolens could not write {amount} at {at} to the directory ({}); they stay in the buffer",
            escaped(errno)
        ),
        None => format!("iolens wrote {amount} at {at} to the directory, {cause}: {writes}"),
    }
}

fn discard(gone: &Discard) -> String {
    format!(
        "{} at {} died in the buffer, {}",
        bytes_of(gone.size),
        gone.offset,
        why(gone.reason)
    )
}

fn evict(gone: &Evict) -> String {
    let blocks = match gone.blocks {
        1 => "1 clean block was".to_owned(),
        blocks => format!("{blocks} clean blocks were"),
    };
    format!("{blocks} dropped from the buffer, {}", why(gone.reason))
}

fn why(reason: Reason) -> &'static str {
    match reason {
        Reason::Policy => "as the policy says",
        Reason::OSync => "for O_SYNC",
        Reason::ODirect => "for O_DIRECT",
        Reason::Fsync => "for the fsync",
        Reason::Close => "for the close",
        Reason::Age => "because it had grown old",
        Reason::DirtyLimit => "because much was dirty",
        Reason::Truncate => "because the file was cut off",
        Reason::Unlink => "because the file's last name is gone",
        Reason::Rename => "for the rename",
        Reason::Unmount => "because the view ended",
        Reason::Memory => "because memory was needed",
        Reason::ChangedBelow => "because somebody changed the directory past the view",
        Reason::Superseded => "because newer bytes had taken their place",
        Reason::Forget => "because the kernel forgot the file",
        Reason::NearlyFull => "because the disk is nearly full",
        Reason::SetId => "so that the set-id bits go",
        Reason::SizeLimit => "because it lies so far out",
        _ => "for another operation",
    }
}

fn bytes_of(count: u64) -> String {
    match count {
        0 => "nothing".to_owned(),
        1 => "1 byte".to_owned(),
        2..=9999 => format!("{count} bytes"),
        _ => bytes(count),
    }
}

fn named(path: Option<&str>) -> String {
    let mut name = String::new();
    escape_text(path.unwrap_or("it"), &mut name);
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::story::{About, Teller};
    use crate::types::{Fh, Nanos, Pid};

    #[test]
    fn a_life_from_its_open_to_its_release() {
        let mut teller = Teller::new(About::Open(Fh(1)), Vec::new());
        let mut seq = 0;
        let mut op = |kind: OpKind, set: &dyn Fn(&mut Op)| {
            seq += 1;
            let mut op = Op::new(kind, Seq(seq), Nanos(seq));
            op.path = Some("a\u{1b}".into());
            op.fh = Some(Fh(1));
            op.caller = Caller::Request;
            op.pid = Some(Pid(7));
            op.comm = Some("py".into());
            op.ret = Some(0);
            set(&mut op);
            teller.push(Event::Op(Box::new(op)));
        };
        op(OpKind::Open, &|op| {
            op.flags = vec!["O_RDWR".into(), "O_CREAT".into()];
            op.syscall = Some("openat".into());
        });
        for n in 0..3 {
            op(OpKind::Write, &|op| {
                (op.offset, op.size, op.ret) = (Some(n * 10), Some(10), Some(10));
                (op.fd, op.syscall) = (Some(3), Some("write".into()));
                let (offset, size) = (n * 10, 10);
                op.cache = vec![CacheDid::Buffered {
                    offset,
                    size,
                    overwrote: 0,
                }];
                op.dirty = Some(10 + n * 10);
            });
        }
        op(OpKind::Read, &|op| {
            (op.offset, op.size, op.ret) = (Some(5), Some(100), Some(25));
            op.seek_from = Some(30);
            op.cache = vec![CacheDid::Hit {
                size: 25,
                dirty: 25,
                readahead: 0,
            }];
        });
        op(OpKind::Write, &|op| {
            (op.size, op.ret, op.offset) = (Some(10), None, Some(30));
            op.errno = Some("ENOSPC".into());
        });
        op(OpKind::Release, &|op| op.caller = Caller::Opener);
        let text = render(&teller.finish());
        assert_eq!(
            text,
            r"      #1 py[7] opened a\x1b with O_RDWR|O_CREAT (openat) as fh 1.
      #2 it wrote 10 bytes at 0 through descriptor 3 (write): 10 bytes went into the buffer; so much of the file waits there: 10 bytes. Then 2 times more, each where the last one ended (until #4).
      #5 it read 25 bytes at 5, having moved the position from 30 to 5: 25 bytes came from the buffer, where they still wait.
      #6 it wrote 10 bytes at 30, which failed with ENOSPC.
      #7 the kernel let go of the open file: its last descriptor is gone.
"
        );
        let nothing = Teller::new(About::Open(Fh(9)), Vec::new()).finish();
        assert_eq!(render(&nothing), "nothing of it is in the trace\n");
    }
}

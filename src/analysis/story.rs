//! The life of a file, or of one open of it: its events in the order in which they began, repeated ones folded.

use crate::event::{Event, Op, OpKind};
use crate::types::{Fh, Seq};

/// Events of one story at most (about 100 MiB); what comes later is only counted.
const EVENTS_MAX: usize = 1 << 18;

/// Whose story.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum About {
    /// Of the file that has this path below SOURCE, under whatever name it goes on.
    Path(String),
    /// Of one open file description.
    Open(Fh),
}

/// A story in the making.
#[derive(Debug)]
pub struct Teller {
    about: About,
    pids: Vec<u32>,
    /// Names that the file went by.
    names: Vec<String>,
    beats: Vec<(Seq, Event)>,
    left_out: u64,
}

/// An event, and how often the like of it followed at once.
#[derive(Clone, Debug, PartialEq)]
pub struct Beat {
    /// The first of them.
    pub event: Event,
    /// How many followed that differ only in where they go on.
    pub more: u64,
    /// The last of them.
    pub last: Seq,
}

/// A story.
#[derive(Clone, Debug, PartialEq)]
pub struct Story {
    /// What happened, in order.
    pub beats: Vec<Beat>,
    /// Events beyond those that are told.
    pub left_out: u64,
}

impl Teller {
    /// The story of `about`; with `pids` only what these processes did, and what the buffer did.
    #[must_use]
    pub fn new(about: About, pids: Vec<u32>) -> Teller {
        let names = match &about {
            About::Path(path) => vec![path.clone()],
            About::Open(_) => Vec::new(),
        };
        Teller {
            about,
            pids,
            names,
            beats: Vec::new(),
            left_out: 0,
        }
    }

    /// Takes one event in, in the order of the lines.
    pub fn push(&mut self, event: Event) {
        let (seq, belongs) = match &event {
            Event::Op(op) => (op.seq, self.is_about(op)),
            Event::Writeback(done) => (done.seq, self.is_name(done.path.path.as_deref())),
            Event::Discard(gone) => (gone.seq, self.is_name(gone.path.path.as_deref())),
            Event::Evict(gone) => (gone.seq, self.is_name(gone.path.path.as_deref())),
            Event::Header(_) | Event::Footer(_) | Event::Lost(_) | Event::Resume(_) => return,
        };
        if !belongs {
            return;
        }
        if self.beats.len() == EVENTS_MAX {
            self.left_out += 1;
            return;
        }
        self.beats.push((seq, event));
    }

    fn is_name(&self, path: Option<&str>) -> bool {
        path.is_some_and(|path| self.names.iter().any(|name| name == path))
    }

    fn is_about(&mut self, op: &Op) -> bool {
        let path = op.path.as_deref();
        let about = match &self.about {
            About::Open(fh) => op.fh == Some(*fh) || op.fh_out == Some(*fh),
            About::Path(_) => {
                let names = [path, op.to.as_deref(), op.path_out.as_deref()];
                names.iter().any(|name| self.is_name(*name))
            }
        };
        if !about {
            return false;
        }
        // What the buffer does later goes by this name.
        if let Some(name) =
            path.filter(|_| matches!(self.about, About::Open(_)) && !self.is_name(path))
        {
            self.names.push(name.to_owned());
        }
        if let (OpKind::Rename, Some(_), Some(to)) = (op.op, op.ret, op.to.as_deref())
            && self.is_name(path)
            && !self.is_name(Some(to))
        {
            self.names.push(to.to_owned());
        }
        self.pids.is_empty() || op.pid.is_none_or(|pid| self.pids.contains(&pid.0))
    }

    /// The story.
    #[must_use]
    pub fn finish(mut self) -> Story {
        self.beats.sort_by_key(|(seq, _)| *seq);
        let mut beats: Vec<Beat> = Vec::new();
        let mut before: Option<Event> = None;
        for (seq, event) in self.beats {
            let goes_on = before
                .as_ref()
                .is_some_and(|before| follows(before, &event));
            match beats.last_mut().filter(|_| goes_on) {
                Some(beat) => {
                    beat.more += 1;
                    beat.last = seq;
                }
                None => beats.push(Beat {
                    event: event.clone(),
                    more: 0,
                    last: seq,
                }),
            }
            before = Some(event);
        }
        Story {
            beats,
            left_out: self.left_out,
        }
    }
}

/// Whether an event is the like of the one before, one step on.
fn follows(before: &Event, event: &Event) -> bool {
    match (before, event) {
        (Event::Op(a), Event::Op(b)) => {
            let same = (a.op, a.fh, a.pid, a.fd, &a.syscall, a.size, &a.errno)
                == (b.op, b.fh, b.pid, b.fd, &b.syscall, b.size, &b.errno);
            let data = matches!(a.op, OpKind::Read | OpKind::Write);
            let on = a
                .offset
                .zip(a.ret)
                .map(|(offset, ret)| offset.saturating_add(ret))
                == b.offset;
            same && a.ret == b.ret && (on || !data) && b.seek_from.is_none()
        }
        (Event::Writeback(a), Event::Writeback(b)) => {
            (a.reason, a.cause, a.size, &a.errno) == (b.reason, b.cause, b.size, &b.errno)
        }
        (Event::Evict(a), Event::Evict(b)) => a.reason == b.reason,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Writeback;
    use crate::types::{Nanos, Pid};

    fn op(kind: OpKind, seq: u64, path: &str, set: impl FnOnce(&mut Op)) -> Event {
        let mut op = Op::new(kind, Seq(seq), Nanos(seq));
        op.path = Some(path.into());
        op.pid = Some(Pid(7));
        op.ret = Some(0);
        set(&mut op);
        Event::Op(Box::new(op))
    }

    fn write(seq: u64, offset: u64, size: u64) -> Event {
        op(OpKind::Write, seq, "a", |op| {
            op.fh = Some(Fh(1));
            (op.offset, op.size, op.ret) = (Some(offset), Some(size), Some(size));
        })
    }

    fn told(about: About, pids: Vec<u32>, events: Vec<Event>) -> Vec<(u64, u64, u64)> {
        let mut teller = Teller::new(about, pids);
        events.into_iter().for_each(|event| teller.push(event));
        let seq = |event: &Event| match event {
            Event::Op(op) => op.seq.0,
            Event::Writeback(done) => done.seq.0,
            _ => 0,
        };
        let beats = teller.finish().beats;
        let beats = beats
            .iter()
            .map(|beat| (seq(&beat.event), beat.more, beat.last.0));
        beats.collect()
    }

    fn a() -> About {
        About::Path("a".to_owned())
    }

    #[test]
    fn calls_that_go_on_are_one_beat_and_others_are_not() {
        let events = vec![
            write(1, 0, 8),
            write(2, 8, 8),
            write(3, 16, 8),
            write(4, 30, 8),
            write(5, 38, 9),
        ];
        assert_eq!(told(a(), vec![], events), [(1, 2, 3), (4, 0, 4), (5, 0, 5)]);
    }

    #[test]
    fn events_are_told_in_the_order_in_which_they_began() {
        let events = vec![
            write(3, 8, 8),
            write(2, 0, 8),
            op(OpKind::Open, 1, "a", |_| {}),
        ];
        assert_eq!(told(a(), vec![], events), [(1, 0, 1), (2, 1, 3)]);
    }

    #[test]
    fn a_file_is_followed_through_a_rename_and_others_are_left_out() {
        let writeback = Writeback {
            seq: Seq(4),
            path: crate::event::ByteText::new("b".as_ref()),
            ..Writeback::default()
        };
        let events = vec![
            write(1, 0, 8),
            op(OpKind::Open, 2, "other", |_| {}),
            op(OpKind::Rename, 3, "a", |op| op.to = Some("b".into())),
            Event::Writeback(Box::new(writeback)),
            op(OpKind::Open, 5, "b", |op| op.pid = Some(Pid(8))),
        ];
        let all = [(1, 0, 1), (3, 0, 3), (4, 0, 4), (5, 0, 5)];
        assert_eq!(told(a(), vec![], events.clone()), all);
        assert_eq!(told(a(), vec![7], events.clone()), all[..3]);
        assert_eq!(told(About::Open(Fh(1)), vec![], events), [(1, 0, 1)]);
    }
}

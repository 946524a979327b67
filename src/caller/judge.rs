//! Whether a system call and a request belong together, and what the one tells of the other. What does not
//! agree is not told.

use super::syscall::{At, Doing, SystemCall, Transfer};
use super::{Caller, Part, Ring, Seen, Thread, lock};
use crate::types::{Fh, Pid, Seq};

/// What a request asked, as far as a system call can be compared with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// To read file data.
    Read {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
        /// Who wants it.
        from: From,
    },
    /// To write file data.
    Write {
        /// First byte; with O_APPEND where the kernel took the end to be.
        offset: u64,
        /// Bytes.
        len: u64,
        /// Who wants it.
        from: From,
        /// Wherever the file ends, not where the call says (O_APPEND).
        appends: bool,
        /// Through the kernel's page cache, which ends a request where a page ends.
        by_pages: bool,
    },
    /// To copy from this open file to another.
    Copy,
    /// One descriptor is being closed.
    Flush,
    /// Something about an open file.
    Descriptor,
    /// Something about a name, or about a file that need not be open.
    Path,
}

/// Who wants file data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// The application, which is blocked until it is there.
    Call,
    /// The application, which may have gone on (io_submit(2), io_uring).
    MaybeLater,
    /// The kernel, for its page cache.
    PageCache,
}

/// Whether the call moves the file position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Moves {
    /// It does.
    Yes,
    /// To the end of what it appended.
    ToEnd,
    /// It does not.
    No,
    /// That could not be found out.
    #[default]
    Unknown,
}

/// What is known of the system call behind a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Its name, or `page_fault`.
    pub syscall: Option<&'static str>,
    /// The descriptor it was given.
    pub fd: Option<i32>,
    /// The first request of the call.
    pub call: Option<Seq>,
    /// With the first request: what the application asked for.
    pub call_size: Option<u64>,
    /// Whether it moves the file position.
    pub moves: Moves,
    /// If it copies: whether it moves that of the file that is written to.
    pub moves_target: Moves,
}

/// What most of io_uring's workers do was asked for by this call.
const IO_URING: &str = "io_uring_enter";

/// The open file that a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    /// The open file description.
    pub fh: Fh,
    /// The inode number that the application sees.
    pub ino: u64,
}

/// The kernel splits a call where a request would touch more pages than one may (256, the sysctl
/// fs.fuse.max_pages_limit), each for one byte at least: a request of fewer bytes was the call's last, also if the
/// application asked for more (`EFAULT` further on).
const PART_MIN: u64 = 256;
/// A page of the page cache: the smallest that there are.
const PAGE: u64 = 4096;

impl Caller {
    /// What the thread was seen doing tells of the request `seq`, which asked for `asked` and of which
    /// `done` bytes were done.
    #[must_use]
    pub fn judge(
        &self,
        thread: &Thread,
        seen: Option<Seen>,
        (asked, open): (Asked, Option<Open>),
        (seq, done): (Seq, Option<u64>),
    ) -> Found {
        let pid = thread.pid;
        let (seen, call) = match (thread.works_for, seen) {
            (Some(Ring::Entered), _) => return named(IO_URING),
            (Some(Ring::Polled), _) | (None, None) => return Found::default(),
            (None, Some(seen)) => match seen.doing {
                Doing::Call(call) => (seen, call),
                Doing::Fault => return fault(asked),
            },
        };
        if let Some(step) = open.and_then(|open| Step::of(asked, open, (seq, done), pid)) {
            let transfer = match asked {
                Asked::Write { .. } => call.writes(),
                _ => call.reads(),
            };
            return self.transfer(call, transfer, seen.amount, step);
        }
        match asked {
            Asked::Flush if call.may_close() => Found {
                fd: call.closes(),
                ..named(call.name())
            },
            Asked::Flush => Found::default(),
            Asked::Copy => copy(call),
            Asked::Descriptor => Found {
                // A write through O_SYNC is one more request, to sync.
                fd: call.about().or_else(|| call.writes().map(|write| write.fd)),
                ..named(call.name())
            },
            Asked::Path | Asked::Read { .. } | Asked::Write { .. } => named(call.name()),
        }
    }

    fn transfer(
        &self,
        call: SystemCall,
        transfer: Option<Transfer>,
        amount: Option<u64>,
        step: Step,
    ) -> Found {
        match step.from {
            From::PageCache => return self.page_cache(call, transfer, step.open),
            From::MaybeLater | From::Call => {}
        }
        let agreed = transfer.filter(|transfer| step.is_within(*transfer, amount));
        let Some(transfer) = agreed else {
            if matches!(call.name(), "execve" | "execveat") {
                // They read the program.
                return named(call.name());
            }
            // It has gone on: it does not wait for what it asked for.
            self.shared.note_asynchronous(step.pid);
            return match call.is_asynchronous() {
                true => named(call.name()),
                false => Found::default(),
            };
        };
        if step.from == From::MaybeLater && self.inode_of(transfer.fd) != Some(step.open.ino) {
            return Found::default();
        }
        let (first, call_size) = self.part(call, amount, step);
        Found {
            fd: Some(transfer.fd),
            call: first,
            call_size,
            moves: transfer.moves(),
            ..named(call.name())
        }
    }

    /// Read-ahead goes on when the call that began it is over, so only calls that are known to fill the page
    /// cache from this very file are named.
    fn page_cache(&self, call: SystemCall, transfer: Option<Transfer>, open: Open) -> Found {
        if !call.fills_page_cache() {
            return Found::default();
        }
        let fd = transfer
            .map(|transfer| transfer.fd)
            .or_else(|| call.about());
        match fd {
            None => named(call.name()),
            Some(fd) if self.inode_of(fd) == Some(open.ino) => Found {
                fd: Some(fd),
                ..named(call.name())
            },
            Some(_) => Found::default(),
        }
    }

    /// The first request of the system call that this one is part of, and with the first one the whole size.
    fn part(
        &self,
        doing: SystemCall,
        amount: Option<u64>,
        step: Step,
    ) -> (Option<Seq>, Option<u64>) {
        let mut state = lock(&self.state);
        let goes_on = state
            .last
            .take()
            .filter(|last| (last.doing, last.fh, last.next) == (doing, step.open.fh, step.offset));
        let (call, whole, left) = match (goes_on, amount) {
            (Some(last), _) => (last.call, None, last.left),
            (None, Some(amount)) => (step.seq, Some(amount), amount),
            (None, None) => return (Some(step.seq), None),
        };
        let done = step.done.unwrap_or(0);
        let left = left.saturating_sub(done);
        if left > 0 && step.is_followed_by_more(doing) {
            state.last = Some(Part {
                call,
                doing,
                fh: step.open.fh,
                next: step.offset + done,
                left,
            });
        }
        (Some(call), whole)
    }
}

/// A request that transfers data.
#[derive(Clone, Copy)]
struct Step {
    open: Open,
    offset: u64,
    len: u64,
    from: From,
    appends: bool,
    by_pages: bool,
    writes: bool,
    seq: Seq,
    done: Option<u64>,
    pid: Pid,
}

impl Step {
    /// What was asked for, if that transfers data.
    fn of(asked: Asked, open: Open, (seq, done): (Seq, Option<u64>), pid: Pid) -> Option<Step> {
        let (offset, len, from, appends, by_pages) = match asked {
            Asked::Read { offset, len, from } => (offset, len, from, false, false),
            Asked::Write {
                offset,
                len,
                from,
                appends,
                by_pages,
            } => (offset, len, from, appends, by_pages),
            Asked::Copy | Asked::Descriptor | Asked::Flush | Asked::Path => return None,
        };
        Some(Step {
            open,
            offset,
            len,
            from,
            appends,
            by_pages,
            writes: matches!(asked, Asked::Write { .. }),
            seq,
            done,
            pid,
        })
    }

    /// Whether the call, of which this is not all, may ask for more.
    fn is_followed_by_more(&self, call: SystemCall) -> bool {
        let done = self.done.unwrap_or(0);
        let all = done == self.len;
        // Round by round: each writes what the pipe holds, all of it or in further rounds, until one fails. sendfile(2)
        // fills the pipe again, splice(2) leaves that to others (fs/splice.c iter_file_splice_write(),
        // splice_direct_to_actor()).
        if call.is_sendfile() {
            return done > 0;
        }
        if call.is_splice() {
            return self.writes && done > 0 && !all;
        }
        all && self.is_split_here()
    }

    /// Whether the kernel may have split a call here.
    fn is_split_here(&self) -> bool {
        let end = self.offset.saturating_add(self.len);
        self.len >= PART_MIN || (self.by_pages && end.is_multiple_of(PAGE))
    }

    /// Whether it may be a part of the call.
    fn is_within(&self, transfer: Transfer, amount: Option<u64>) -> bool {
        let Some(amount) = amount else {
            return self.from == From::Call;
        };
        let start = match transfer.at {
            // pwrite(2) too appends where the file is open for that (BUGS in its manual page).
            At::Offset(start) if !self.appends => start,
            _ => return self.len <= amount,
        };
        let end = start.saturating_add(amount);
        start <= self.offset && self.offset.saturating_add(self.len) <= end
    }
}

impl Transfer {
    fn moves(self) -> Moves {
        match self.at {
            At::Position => Moves::Yes,
            At::End => Moves::ToEnd,
            At::Offset(_) | At::Indirect => Moves::No,
        }
    }
}

fn copy(call: SystemCall) -> Found {
    match (call.name(), call.reads(), call.writes()) {
        ("copy_file_range", Some(from), Some(to)) => Found {
            fd: Some(from.fd),
            moves: from.moves(),
            moves_target: to.moves(),
            ..named(call.name())
        },
        _ => Found::default(),
    }
}

fn named(name: &'static str) -> Found {
    Found {
        syscall: Some(name),
        moves: if name.starts_with("exec") {
            Moves::No
        } else {
            Moves::Unknown
        },
        ..Found::default()
    }
}

fn fault(asked: Asked) -> Found {
    match asked {
        Asked::Read {
            from: From::PageCache,
            ..
        } => Found {
            syscall: Some("page_fault"),
            moves: Moves::No,
            ..Found::default()
        },
        _ => Found::default(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::Callers;
    use super::*;
    use crate::types::{Nanos, Tid};
    use syscalls::Sysno;

    fn doing(number: Sysno, args: [u64; 6]) -> Doing {
        let args = args.map(|arg| format!("{arg:#x}")).join(" ");
        let text = format!("{} {args} 0x7ffd53150000 0x7f2e0b0f1a5d\n", number.id());
        Doing::parse(&text).unwrap()
    }

    /// A thread that is seen in a call for `amount` bytes.
    fn seen(doing: Doing, amount: u64) -> (Arc<Caller>, Thread, Seen) {
        let callers = Callers::new(1);
        let thread = Thread {
            pid: Pid(7),
            comm: "t".into(),
            works_for: None,
        };
        let seen = Seen {
            doing,
            amount: Some(amount),
        };
        (callers.caller(Tid(7), Nanos(1)).unwrap(), thread, seen)
    }

    /// What is found of a request of a thread that is seen in a call for `amount` bytes.
    fn judged(asked: Asked, doing: Doing, amount: u64) -> (Found, bool) {
        let (caller, thread, seen) = seen(doing, amount);
        let open = Open { fh: Fh(1), ino: 1 };
        let found = caller.judge(&thread, Some(seen), (asked, Some(open)), (Seq(1), Some(4)));
        (found, caller.is_asynchronous(&thread))
    }

    fn write(appends: bool) -> Asked {
        Asked::Write {
            offset: 500,
            len: 4,
            from: From::Call,
            appends,
            by_pages: false,
        }
    }

    #[test]
    fn what_is_appended_need_not_be_where_pwrite_says() {
        let pwrite = doing(Sysno::pwrite64, [3, 0, 4, 10, 0, 0]);
        let (found, asynchronous) = judged(write(true), pwrite, 4);
        assert_eq!((found.syscall, found.fd), (Some("pwrite64"), Some(3)));
        assert_eq!((found.moves, asynchronous), (Moves::No, false));
        // Elsewhere than the call says: another call than the one that asked.
        let (found, asynchronous) = judged(write(false), pwrite, 4);
        assert_eq!((found, asynchronous), (Found::default(), true));
    }

    #[test]
    fn an_append_by_flag_moves_the_position_where_the_call_has_no_offset() {
        const RWF_APPEND: u64 = 0x10;
        for (offset, moves) in [(u64::MAX, Moves::ToEnd), (10, Moves::No)] {
            let append = doing(Sysno::pwritev2, [3, 0, 1, offset, 0, RWF_APPEND]);
            let (found, asynchronous) = judged(write(false), append, 4);
            assert_eq!((found.fd, found.moves), (Some(3), moves));
            assert!(!asynchronous);
        }
    }

    #[test]
    fn a_copy_moves_the_positions_that_it_was_given_no_offsets_for() {
        let copy = |from, to| {
            let call = doing(Sysno::copy_file_range, [3, from, 4, to, 9, 0]);
            let (found, _) = judged(Asked::Copy, call, 9);
            assert_eq!(
                (found.syscall, found.fd),
                (Some("copy_file_range"), Some(3))
            );
            (found.moves, found.moves_target)
        };
        assert_eq!(copy(0, 0x7f00), (Moves::Yes, Moves::No));
        assert_eq!(copy(0x7f00, 0), (Moves::No, Moves::Yes));
        let other = doing(Sysno::close, [3, 0, 0, 0, 0, 0]);
        assert_eq!(judged(Asked::Copy, other, 9).0, Found::default());
    }

    /// To which calls requests that follow each other belong, each of `len` bytes of which `done` are done, of a thread
    /// that is in the same call, as far as its registers tell.
    fn calls(doing: Doing, amount: u64, requests: &[(u64, u64)], writes: bool) -> Vec<u64> {
        let (caller, thread, seen) = seen(doing, amount);
        let mut offset = 0;
        let mut call = |(seq, (len, done)): (u64, &(u64, u64))| {
            let from = From::Call;
            let asked = match writes {
                true => Asked::Write {
                    offset,
                    len: *len,
                    from,
                    appends: false,
                    by_pages: false,
                },
                false => Asked::Read {
                    offset,
                    len: *len,
                    from,
                },
            };
            offset += done;
            let open = Open { fh: Fh(1), ino: 1 };
            let found = caller.judge(
                &thread,
                Some(seen),
                (asked, Some(open)),
                (Seq(seq), Some(*done)),
            );
            found.call.unwrap().0
        };
        (0..).zip(requests).map(&mut call).collect()
    }

    #[test]
    fn what_follows_a_short_write_is_of_the_same_call_if_that_goes_round_by_round() {
        let write = doing(Sysno::write, [3, 0, 9000, 0, 0, 0]);
        let splice = doing(Sysno::splice, [3, 0, 4, 0, 9000, 0]);
        let sendfile = doing(Sysno::sendfile, [4, 3, 0, 9000, 0, 0]);
        let short = [(4000, 3000), (1000, 500), (500, 0), (500, 500)];
        assert_eq!(calls(write, 9000, &short, true), [0, 1, 2, 3]);
        assert_eq!(calls(splice, 9000, &short, true), [0, 0, 0, 3]);
        assert_eq!(calls(splice, 9000, &short, false), [0, 1, 2, 3]);
        assert_eq!(calls(sendfile, 9000, &short, true), [0, 0, 0, 3]);
    }

    #[test]
    fn what_follows_a_whole_write_is_of_the_same_call_unless_that_waits_for_another_to_fill_a_pipe()
    {
        let write = doing(Sysno::write, [3, 0, 9000, 0, 0, 0]);
        let splice = doing(Sysno::splice, [3, 0, 4, 0, 9000, 0]);
        let sendfile = doing(Sysno::sendfile, [4, 3, 0, 9000, 0, 0]);
        let whole = [(4000, 4000), (200, 200), (4800, 4800), (1000, 1000)];
        assert_eq!(calls(write, 9000, &whole, true), [0, 0, 2, 2]);
        assert_eq!(calls(splice, 9000, &whole, true), [0, 1, 2, 3]);
        assert_eq!(calls(splice, 9000, &whole, false), [0, 1, 2, 3]);
        assert_eq!(calls(sendfile, 9000, &whole, true), [0, 0, 0, 3]);
    }
}

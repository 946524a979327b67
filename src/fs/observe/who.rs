//! Who is behind a request: the thread, and what its system call tells.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Attributed, On};
use crate::caller;
use crate::caller::{
    Answer, Asked, Caller, Callers, Doing, Found, From, Look, Moves, Open, Patience, Seen, Thread,
    Unseen, What,
};
use crate::event::{Op, OpKind};
use crate::fs::Call;
use crate::fs::handle::{Handle, POSITION_UNKNOWN};
use crate::types::{Nanos, Tid};

/// What is found out about each caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attribution {
    /// Process, thread, system call and descriptor.
    Full,
    /// Process and thread.
    Process,
    /// Nothing but the thread's number.
    Nothing,
}

impl Attribution {
    /// As much of it as can be had here, and how the trace's header says it.
    #[must_use]
    pub fn possible(self) -> (Attribution, String) {
        if let Some(why) = caller::obstacle_to_threads() {
            return (Attribution::Nothing, format!("off: {why}"));
        }
        match (self, caller::obstacle_to_system_calls()) {
            (Attribution::Full, None) => (Attribution::Full, "full".to_owned()),
            (Attribution::Full, Some(why)) => (Attribution::Process, format!("pid: {why}")),
            (Attribution::Process, _) => (Attribution::Process, "pid".to_owned()),
            (Attribution::Nothing, _) => (Attribution::Nothing, "off: not asked for".to_owned()),
        }
    }
}

/// How a caller's system call can be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    /// By the thread that serves the request: the caller is blocked until the answer comes.
    Here,
    /// By another thread: the caller may be in execve(2), or may have gone on.
    Aside,
    /// By another thread, which does not wait until the caller waits: as a rule it does not, or not for this.
    InPassing,
}

impl Watch {
    /// How to look at whoever asks for this, unless more is known.
    pub(super) fn of(kind: OpKind) -> Watch {
        match kind {
            OpKind::Flush => Watch::Aside,
            _ => Watch::Here,
        }
    }
}

/// Who is behind a request.
pub(super) struct Who {
    pub(super) thread: Option<Thread>,
    arrived: Nanos,
    moves_data: bool,
    asleep: bool,
    caller: Option<Arc<Caller>>,
    attribution: Attribution,
    seeing: Seeing,
    asked: Asked,
    handle: Option<Arc<Handle>>,
    /// What is copied to.
    target: Option<Arc<Handle>>,
}

enum Seeing {
    Nothing,
    /// When the answer is about to be given. By then the caller is asleep, as a rule: the kernel makes whoever reads
    /// `/proc/TID/syscall` before wait for that (kernel/sched/core.c wait_task_inactive()).
    AtTheEnd,
    /// By the kernel, as the request was sent.
    Told(Seen),
    Seen(Seen),
    Coming(Answer),
}

/// Whoever has worked on data for longer lets another thread look: the caller, if it did not wait, may be in execve(2)
/// by now.
const HERE_WITHIN: Nanos = Nanos(50_000);

/// So many bytes may take that long: who sleeps already is looked at before.
const LONG: u64 = 64 << 10;

impl Who {
    /// Nobody is known, or worth to be.
    pub(super) fn unknown() -> Who {
        Who {
            thread: None,
            arrived: Nanos(0),
            moves_data: false,
            asleep: false,
            caller: None,
            attribution: Attribution::Process,
            seeing: Seeing::Nothing,
            asked: Asked::Path,
            handle: None,
            target: None,
        }
    }

    /// Process and thread alone.
    pub(super) fn look_up(callers: &Callers, tid: Tid, now: Nanos, kind: OpKind) -> Who {
        let look = match kind {
            OpKind::Open | OpKind::Create | OpKind::Opendir => Look::Again,
            _ => Look::Recent,
        };
        let caller = callers.caller(tid, now);
        Who {
            thread: caller.as_ref().and_then(|caller| caller.thread(now, look)),
            arrived: now,
            caller,
            ..Who::unknown()
        }
    }

    /// Looks what the thread is doing, for a request that is recorded.
    pub(super) fn watch(
        &mut self,
        (attributed, watch): (&Attributed, Watch),
        (kind, on): (OpKind, On<'_>),
        (call, now): (&Call, Nanos),
    ) {
        let attribution = attributed.attribution;
        self.attribution = attribution;
        self.asleep = attributed.asleep;
        if let On::Handle(handle) = on {
            self.handle = Some(Arc::clone(handle));
            self.asked = Asked::Descriptor;
        }
        if kind == OpKind::Flush {
            self.asked = Asked::Flush;
        }
        let Some(caller) = &self.caller else { return };
        self.moves_data = matches!(kind, OpKind::Read | OpKind::Write);
        let told = attributed.told.as_deref();
        if let Some(seen) = told.and_then(|told| told.seen(call.unique, call.tid)) {
            self.seeing = Seeing::Told(seen);
            return;
        }
        if self
            .thread
            .as_ref()
            .is_some_and(|thread| thread.works_for.is_some())
        {
            // It is in no call.
            return;
        }
        let asynchronous = self.moves_data
            && self
                .thread
                .as_ref()
                .is_some_and(|thread| caller.is_asynchronous(thread));
        let watch = match (kind, attribution) {
            (OpKind::Flush, Attribution::Full) if !caller.may_be_in_exec() => Watch::Here,
            _ => watch,
        };
        self.seeing = match (attribution, watch) {
            (Attribution::Full, Watch::Here) if !asynchronous => Seeing::AtTheEnd,
            (Attribution::Process | Attribution::Nothing, Watch::Here) => Seeing::Nothing,
            // Whether a read for the page cache is a page fault is always told.
            _ if attribution == Attribution::Full || kind == OpKind::Read => {
                let patience = match kind {
                    OpKind::Flush | OpKind::Setattr => Patience::Short,
                    _ => Patience::Long,
                };
                let coming = match watch {
                    Watch::InPassing => caller.glance(now, patience),
                    _ => caller.ask(now, What::Call, patience),
                };
                coming.map_or(Seeing::Nothing, Seeing::Coming)
            }
            _ => Seeing::Nothing,
        };
    }

    pub(super) fn asks(&mut self, asked: Asked) {
        self.asked = asked;
        // As it was looked at.
        if let (Asked::Read { from, .. } | Asked::Write { from, .. }, Seeing::Coming(_)) =
            (&mut self.asked, &self.seeing)
            && *from == From::Call
        {
            *from = From::MaybeLater;
        }
        if let Asked::Read { len, .. } | Asked::Write { len, .. } = asked
            && len >= LONG
            && self.asleep
            && let (Seeing::AtTheEnd, Some(caller)) = (&self.seeing, &self.caller)
            && let Some(seen) = caller.look().ok().filter(|seen| !seen.lacks_vector())
        {
            self.seeing = Seeing::Seen(seen);
        }
    }

    pub(super) fn copies_to(&mut self, target: &Arc<Handle>) {
        self.asked = Asked::Copy;
        self.target = Some(Arc::clone(target));
    }

    /// What the thread was seen doing, as well as can be told `now`.
    fn seen(&mut self, now: impl Fn() -> Nanos) -> Option<Seen> {
        let seen = match (&self.seeing, &self.caller) {
            (Seeing::Seen(seen), _) => return Some(*seen),
            (Seeing::Told(seen), _) => Some(*seen),
            (Seeing::AtTheEnd, Some(caller)) => self.look(caller, now()),
            (Seeing::Coming(answer), _) => answer.wait(now()),
            (Seeing::AtTheEnd, None) | (Seeing::Nothing, _) => None,
        };
        let seen = match (seen, &self.caller) {
            (Some(seen), Some(caller)) if seen.lacks_vector() => {
                let now = now();
                let asked = caller.ask(now, What::Memory, Patience::Long);
                let closer = asked.and_then(|answer| answer.wait(now));
                closer
                    .filter(|closer| closer.doing == seen.doing)
                    .or(Some(seen))
            }
            _ => seen,
        };
        // Who was asked aside and said nothing is not looked at from here.
        self.seeing = seen.map_or(Seeing::Nothing, Seeing::Seen);
        seen
    }

    /// Looks at a thread that waits for an answer which is as good as given.
    fn look(&self, caller: &Arc<Caller>, now: Nanos) -> Option<Seen> {
        if self.moves_data && now.since(self.arrived) > HERE_WITHIN {
            return caller.ask(now, What::Call, Patience::Long)?.wait(now);
        }
        match caller.look() {
            // It has no processor to get as far as waiting for us.
            Err(Unseen::Runs) => caller.ask(now, What::Call, Patience::Long)?.wait(now),
            seen => seen.ok(),
        }
    }

    /// Whether the thread is in a page fault, as far as that can be told.
    pub(super) fn is_in_page_fault(&mut self, now: Nanos) -> bool {
        self.seen(|| now)
            .is_some_and(|seen| seen.doing == Doing::Fault)
    }

    /// Tells the event what the system call says. The answer has not been given yet: the thread is where it was.
    pub(super) fn tell(&mut self, op: &mut Op, now: impl Fn() -> Nanos) {
        let seen = self.seen(now);
        let (Attribution::Full, Some(caller), Some(thread)) =
            (self.attribution, &self.caller, &self.thread)
        else {
            return;
        };
        let open = self.handle.as_ref().map(|handle| Open {
            fh: handle.fh,
            ino: handle.inode.ino().0,
        });
        let found = caller.judge(thread, seen, (self.asked, open), (op.seq, op.ret));
        op.syscall = found.syscall.map(Cow::Borrowed);
        op.fd = found.fd.filter(|fd| *fd >= 0);
        op.call = found.call.map(|call| call.0);
        op.call_size = found.call_size;
        if let Some(handle) = &self.handle {
            follow(handle, self.asked, found, op);
        }
        if let Some(target) = &self.target {
            follow_target(target, found, op);
        }
    }
}

/// Follows the file position, which all descriptors of an open file description share.
fn follow(handle: &Handle, asked: Asked, found: Found, op: &mut Op) {
    let (Some(offset), Some(done)) = (op.offset, op.ret) else {
        return;
    };
    match (asked, op.op) {
        // Where an append lands is told; where the position goes from, the kernel says.
        (Asked::Write { offset, from, .. }, _) => move_by(handle, (offset, done), from, found, op),
        (Asked::Read { from, .. }, _) => move_by(handle, (offset, done), from, found, op),
        (Asked::Copy, _) => move_by(handle, (offset, done), From::Call, found, op),
        (Asked::Descriptor, OpKind::Lseek) if found.syscall == Some("lseek") => {
            handle.position.store(done, Ordering::Relaxed);
            op.pos = Some(done);
        }
        _ => {}
    }
}

/// It transferred so many bytes from there on.
fn move_by(handle: &Handle, (offset, done): (u64, u64), from: From, found: Found, op: &mut Op) {
    match found.moves {
        Moves::No => {}
        Moves::Unknown if from == From::PageCache && found.syscall.is_none() => {}
        Moves::Unknown => handle.position.store(POSITION_UNKNOWN, Ordering::Relaxed),
        Moves::Yes | Moves::ToEnd => {
            let end = offset + done;
            let before = handle.position.swap(end, Ordering::Relaxed);
            let appends = found.moves == Moves::ToEnd
                || op.op == OpKind::Write && op.flags.iter().any(|flag| flag == "O_APPEND");
            if before != offset && before != POSITION_UNKNOWN && !appends {
                op.seek_from = Some(before);
            }
            op.pos = Some(end);
        }
    }
}

/// Follows the position of a file that was copied to.
fn follow_target(target: &Handle, found: Found, op: &Op) {
    let (Some(offset), Some(done)) = (op.offset_out, op.ret) else {
        return;
    };
    let position = match found.moves_target {
        Moves::No => return,
        Moves::Unknown => POSITION_UNKNOWN,
        Moves::Yes | Moves::ToEnd => offset + done,
    };
    target.position.store(position, Ordering::Relaxed);
}

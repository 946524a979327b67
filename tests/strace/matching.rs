//! Each call that strace saw against what the trace has of that thread, one by one and in order; then the file
//! positions of each open file description.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use iolens::event::{Caller, Op, OpKind};
use iolens::types::Fh;

use super::calls::{Call, Returned, Seen};
use super::model::{Expected, Model, Moved, PAGES_NOT_WRITTEN, Want};

/// What was compared, for the summary.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// By name of the call.
    pub(crate) matched: BTreeMap<String, u64>,
    pub(crate) requests: u64,
    pub(crate) split: u64,
    pub(crate) positions: u64,
    /// Offsets that strace does not tell: writes to an end that moves at the same time.
    pub(crate) offsets_unknown: u64,
    /// Closes whose descriptor was not told.
    pub(crate) closes_untold: BTreeMap<String, u64>,
    pub(crate) alone: BTreeMap<&'static str, u64>,
    /// Calls on files of the view, variants told apart.
    pub(crate) kinds: BTreeSet<String>,
}

impl Counts {
    pub(crate) fn add(&mut self, other: &Counts) {
        for (name, count) in &other.matched {
            *self.matched.entry(name.clone()).or_default() += count;
        }
        for (why, count) in &other.alone {
            *self.alone.entry(why).or_default() += count;
        }
        self.kinds.extend(other.kinds.iter().cloned());
        self.requests += other.requests;
        self.split += other.split;
        self.positions += other.positions;
        self.offsets_unknown += other.offsets_unknown;
        for (name, count) in &other.closes_untold {
            *self.closes_untold.entry(name.clone()).or_default() += count;
        }
    }
}

/// One call as it was recorded: the requests that it was split into.
#[derive(Debug)]
struct Recorded {
    parts: Vec<Op>,
}

impl Recorded {
    fn first(&self) -> &Op {
        &self.parts[0]
    }

    fn last(&self) -> &Op {
        &self.parts[self.parts.len() - 1]
    }

    fn done(&self) -> u64 {
        self.parts.iter().filter_map(|op| op.ret).sum()
    }

    fn shown(&self) -> String {
        let lines = self
            .parts
            .iter()
            .map(|op| serde_json::to_string(op).unwrap());
        lines.collect::<Vec<_>>().join("\n    ")
    }
}

/// What is compared: operations by which calls on open files arrive.
fn is_compared(op: &Op) -> bool {
    // The kernel opens and reads a program itself.
    if op.syscall.as_deref() == Some("execve") && op.op != OpKind::Flush {
        return false;
    }
    match op.op {
        OpKind::Read | OpKind::Write => !op.mapped && !op.page_cache,
        OpKind::Setattr => op.set.as_ref().is_some_and(|set| set.size.is_some()),
        OpKind::Open
        | OpKind::Create
        | OpKind::Flush
        | OpKind::Fsync
        | OpKind::Fallocate
        | OpKind::Lseek
        | OpKind::CopyFileRange => true,
        _ => false,
    }
}

/// The calls of each thread, in order.
fn by_thread(ops: &[Op]) -> Result<BTreeMap<u32, Vec<Recorded>>, String> {
    let mut threads: BTreeMap<u32, Vec<Recorded>> = BTreeMap::new();
    for op in ops
        .iter()
        .filter(|op| is_compared(op) && op.caller == Caller::Request)
    {
        let list = threads.entry(op.tid.unwrap().0).or_default();
        match list.last_mut() {
            Some(last) if op.call.is_some() && last.first().call == op.call => {
                let (first, before) = (last.first(), last.last());
                let same = (first.op, first.fh, first.fd, &first.syscall)
                    == (op.op, op.fh, op.fd, &op.syscall);
                let goes_on =
                    op.offset == before.offset.zip(before.ret).map(|(at, done)| at + done);
                let rounds = matches!(first.syscall.as_deref(), Some("sendfile" | "splice"));
                let whole = before.ret == before.size || (rounds && before.ret > Some(0));
                if !same || !goes_on || op.call_size.is_some() || !whole {
                    return Err(format!(
                        "not parts of one call:\n    {}\n    {}",
                        last.shown(),
                        serde_json::to_string(op).unwrap()
                    ));
                }
                last.parts.push(op.clone());
            }
            _ => list.push(Recorded {
                parts: vec![op.clone()],
            }),
        }
    }
    Ok(threads)
}

/// What fills the page cache, and what execve(2) asks for, is of a call that the thread has made.
fn aside(seen: &Seen, ops: &[Op]) -> Result<(), String> {
    let mut made: HashMap<(u32, &str), Vec<&Call>> = HashMap::new();
    for call in &seen.calls {
        made.entry((call.tid, &call.name)).or_default().push(call);
    }
    for op in ops.iter().filter(|op| op.caller == Caller::Request) {
        let named = op
            .syscall
            .as_deref()
            .filter(|name| *name == "execve" || op.page_cache);
        let Some(name) = named else { continue };
        let calls = made
            .get(&(op.tid.unwrap().0, name))
            .map_or(&[][..], Vec::as_slice);
        let is_of = |call: &&Call| match op.fd {
            None => true,
            Some(fd) => (0..3).any(|arg| call.fd(arg) == fd && call.path_of(arg).is_some()),
        };
        if !calls.iter().any(is_of) {
            let shown = serde_json::to_string(op).unwrap();
            return Err(format!("the thread has made no such call:\n    {shown}"));
        }
    }
    Ok(())
}

struct Match<'a> {
    expected: &'a Expected,
    recorded: Recorded,
}

/// Compares everything.
pub(crate) fn compare(seen: &Seen, model: &Model, ops: &[Op]) -> Result<Counts, String> {
    let mut recorded = by_thread(ops)?;
    aside(seen, ops)?;
    let mut counts = Counts {
        alone: model.alone.clone(),
        kinds: model.kinds.clone(),
        ..Counts::default()
    };
    let mut matches: HashMap<(u32, usize), Match<'_>> = HashMap::new();
    let mut flushes: BTreeMap<u32, Vec<Op>> = BTreeMap::new();
    for (tid, expected) in &model.expected {
        let list = recorded.remove(tid).unwrap_or_default();
        let process = model.process_of[tid];
        let left = thread(
            seen,
            (*tid, process, expected),
            list,
            &mut matches,
            &mut counts,
        )?;
        flushes.entry(process).or_default().extend(left);
    }
    for (tid, list) in recorded {
        let Some(process) = model.process_of.get(&tid) else {
            return Err(format!(
                "recorded of thread {tid}, which strace does not know:\n    {}",
                list[0].shown()
            ));
        };
        for one in list {
            let at_exit = is_exit(seen, one.first());
            if !at_exit {
                return Err(format!(
                    "nothing that strace saw of thread {tid} is this:\n    {}",
                    one.shown()
                ));
            }
            flushes.entry(*process).or_default().extend(one.parts);
        }
    }
    let not_written = |op: &Op| op.mapped && op.op == OpKind::Write && op.errno.is_some();
    if counts.alone.contains_key(PAGES_NOT_WRITTEN) && !ops.iter().any(not_written) {
        return Err("a sync failed for pages that were all written".to_owned());
    }
    let fhs = handles(seen, &matches)?;
    at_exit(model, &fhs, flushes, &mut counts)?;
    positions(seen, model, &matches, ops, &fhs, &mut counts)?;
    Ok(counts)
}

/// A close by the end of a process, which may come in the middle of execve(2).
fn is_exit(seen: &Seen, op: &Op) -> bool {
    let killed_in_exec = || {
        let killed = |call: &Call| call.name == "execve" && call.returned == Returned::Never;
        let mut calls = seen.calls.iter();
        calls.any(|call| op.tid.is_some_and(|tid| tid.0 == call.tid) && killed(call))
    };
    op.op == OpKind::Flush
        && op.fd.is_none()
        && match op.syscall.as_deref() {
            None | Some("exit_group" | "exit") => true,
            Some("execve") => killed_in_exec(),
            Some(_) => false,
        }
}

/// Pairs what is expected of one thread with what was recorded of it. Gives what its end has closed.
fn thread<'a>(
    seen: &Seen,
    (tid, process, expected): (u32, u32, &'a [Expected]),
    recorded: Vec<Recorded>,
    matches: &mut HashMap<(u32, usize), Match<'a>>,
    counts: &mut Counts,
) -> Result<Vec<Op>, String> {
    let mut recorded = recorded.into_iter().peekable();
    let about = (seen, Some(process));
    for (place, one) in expected.iter().enumerate() {
        let call = &seen.calls[one.call];
        let several = match &one.want {
            Want::Closes(files) => files.len(),
            _ => 1,
        };
        let mut parts = Vec::new();
        for _ in 0..several {
            let differs = match recorded.peek() {
                Some(next) => differs(about, one, next),
                None => Some("nothing more was recorded of this thread".to_owned()),
            };
            match differs {
                None => parts.extend(recorded.next().unwrap().parts),
                Some(_) if one.maybe.is_some() => break,
                Some(how) => {
                    let before = place
                        .checked_sub(1)
                        .map(|before| &seen.calls[expected[before].call].text);
                    return Err(format!(
                        "thread {tid}: {how}\n  strace (line {}):\n    {}\n  recorded:\n    {}\n  before it, both had:\n    {}",
                        call.entered + 1,
                        call.text,
                        recorded.peek().map_or("-".to_owned(), Recorded::shown),
                        before.map_or("-", |text| text),
                    ));
                }
            }
        }
        if parts.is_empty() {
            if let Some(why) = one.maybe {
                *counts.alone.entry(why).or_default() += 1;
            }
            continue;
        }
        // What follows, too, could not be read.
        while call.returned == Returned::Never
            && let Some(next) = recorded.next_if(|next| differs(about, one, next).is_none())
        {
            parts.extend(next.parts);
        }
        // The kernel empties the file in a request of its own.
        while recorded.peek().is_some_and(|next| {
            one.is_open()
                && next.first().op == OpKind::Setattr
                && next.first().syscall.as_deref() == Some(&call.name)
        }) {
            recorded.next();
        }
        counts.requests += parts.len() as u64;
        counts.split += u64::from(parts.len() > 1 && several == 1);
        let untold = |op: &&Op| op.op == OpKind::Flush && op.syscall.is_none();
        match parts.iter().filter(untold).count() as u64 {
            0 => {}
            count => *counts.closes_untold.entry(call.name.clone()).or_default() += count,
        }
        *counts.matched.entry(call.name.clone()).or_default() += 1;
        let recorded = Recorded { parts };
        matches.insert(
            (tid, place),
            Match {
                expected: one,
                recorded,
            },
        );
    }
    let mut flushes = Vec::new();
    for one in recorded {
        if !is_exit(seen, one.first()) {
            return Err(format!(
                "thread {tid}: strace saw nothing more of it, recorded:\n    {}",
                one.shown()
            ));
        }
        flushes.extend(one.parts);
    }
    Ok(flushes)
}

impl Expected {
    fn is_open(&self) -> bool {
        matches!(self.want, Want::Open { .. })
    }
}

const FLAGS: [(u64, &str); 6] = [
    (0x400, "O_APPEND"),
    (0x4000, "O_DIRECT"),
    (0x200, "O_TRUNC"),
    (0x4_0000, "O_NOATIME"),
    (1, "O_WRONLY"),
    (2, "O_RDWR"),
];
const O_DSYNC: u64 = 0x1000;
const O_SYNC: u64 = 0x10_1000;
const WRITE_FLAGS: u64 = 0x4400 | O_SYNC;

/// The names of flags, of those that are compared.
fn names(flags: u64) -> String {
    let mut names: Vec<&str> = FLAGS
        .iter()
        .filter(|one| flags & one.0 != 0)
        .map(|one| one.1)
        .collect();
    match flags & O_SYNC {
        O_SYNC => names.push("O_SYNC"),
        O_DSYNC => names.push("O_DSYNC"),
        _ => {}
    }
    names.sort_unstable();
    names.join("|")
}

fn named(flags: &[std::borrow::Cow<'static, str>]) -> String {
    let compared = |name: &str| FLAGS.iter().any(|one| one.1 == name) || name.ends_with("SYNC");
    let mut names: Vec<&str> = flags
        .iter()
        .map(AsRef::as_ref)
        .filter(|name| compared(name))
        .collect();
    names.sort_unstable();
    names.join("|")
}

/// How the two differ, if they do.
fn differs(
    (seen, process): (&Seen, Option<u32>),
    expected: &Expected,
    recorded: &Recorded,
) -> Option<String> {
    let call = &seen.calls[expected.call];
    let op = recorded.first();
    let mut found = Vec::new();
    let mut is = |what: &str, told: Option<String>, wanted: Option<String>| {
        if told != wanted {
            found.push(format!(
                "{what} is {}, not {}",
                told.as_deref().unwrap_or("absent"),
                wanted.as_deref().unwrap_or("absent")
            ));
        }
    };
    let text = |value: u64| Some(value.to_string());
    let shown = |value: Option<u64>| value.map(|value| value.to_string());
    let kinds: &[OpKind] = match &expected.want {
        Want::Open { .. } | Want::Refused => &[OpKind::Open, OpKind::Create],
        Want::Data { writes: true, .. } => &[OpKind::Write],
        Want::Data { writes: false, .. } => &[OpKind::Read],
        Want::Sync { .. } | Want::MappingSync => &[OpKind::Fsync],
        Want::Truncate { .. } => &[OpKind::Setattr],
        Want::Fallocate { .. } => &[OpKind::Fallocate],
        Want::Copy { .. } => &[OpKind::CopyFileRange],
        Want::Seek { .. } => &[OpKind::Lseek],
        Want::Close | Want::Closes(_) => &[OpKind::Flush],
    };
    if !kinds.contains(&op.op) {
        return Some(format!("the operation is {}", op.op.name()));
    }
    is(
        "pid",
        op.pid.map(|pid| pid.to_string()),
        process.map(|pid| pid.to_string()),
    );
    // A close may not know what closes, and of a thread that has been killed nothing can be read.
    let may_be_untold = op.op == OpKind::Flush || call.returned == Returned::Never;
    let untold = may_be_untold && op.syscall.is_none() && op.fd.is_none();
    if !untold {
        is(
            "syscall",
            op.syscall.as_deref().map(str::to_owned),
            Some(call.name.clone()),
        );
        is(
            "fd",
            op.fd.map(|fd| fd.to_string()),
            expected.fd.map(|fd| fd.to_string()),
        );
    }
    let returned = match &call.returned {
        // What was done before an error counts; the kernel tells the error only where that is nothing.
        Returned::Value(_) if recorded.done() > 0 => None,
        // Found after the first request, which found the end of the file.
        Returned::Error(name) if name == "EFAULT" && recorded.done() == 0 => Some(None),
        Returned::Value(_) => Some(None),
        Returned::Error(name) => Some(Some(name.clone())),
        Returned::Never | Returned::Again => None,
    };
    if let Some(errno) = returned {
        is("errno", op.errno.as_deref().map(str::to_owned), errno);
    }
    match &expected.want {
        // Its arguments and result may be unknown.
        _ if call.returned == Returned::Never => {}
        Want::Open { flags } => {
            // What is new need not be emptied (fs/namei.c open_last_lookups()).
            let emptied = if flags & 0xc0 == 0xc0 { 0x200 } else { 0 };
            is(
                "flags",
                Some(named(&op.flags)),
                Some(names(flags & !emptied)),
            );
        }
        Want::Data {
            size,
            at,
            appends,
            end,
            writes,
            flags,
        } => {
            if *writes {
                // RWF_APPEND is not passed on.
                is(
                    "flags",
                    Some(named(&op.flags)),
                    Some(names(flags & WRITE_FLAGS)),
                );
            }
            if let Some(end) = end {
                is(
                    "end",
                    op.offset.map(|at| (at + recorded.done()).to_string()),
                    text(*end),
                );
            }
            is("call_size", shown(op.call_size), size.and_then(text));
            if let (Some(at), false) = (at, appends) {
                is("offset", shown(op.offset), text(*at));
            }
            if let Some(done) = call.ok() {
                is("bytes", text(recorded.done()), text(done));
            }
            if at.is_some() {
                is("pos", shown(recorded.last().pos), None);
                is("seek_from", shown(op.seek_from), None);
            }
        }
        Want::Sync { data } => is(
            "datasync",
            Some(op.datasync.to_string()),
            Some(data.to_string()),
        ),
        Want::Truncate { size } => is(
            "size",
            shown(op.set.as_ref().and_then(|set| set.size)),
            text(*size),
        ),
        Want::Fallocate { mode, offset, size } => {
            is("mode", op.mode.map(|mode| mode.to_string()), text(*mode));
            is("offset", shown(op.offset), text(*offset));
            is("size", shown(op.size), text(*size));
        }
        Want::Copy {
            at, to_at, size, ..
        } => {
            let asked = op.size.unwrap_or(0);
            // The kernel asks for no more than there is.
            let all =
                asked == *size || (asked < *size && call.ok().is_none_or(|done| done <= asked));
            if !all {
                is("size", shown(op.size), text(*size));
            }
            if let Some(at) = at {
                is("offset", shown(op.offset), text(*at));
            }
            if let Some(at) = to_at {
                is("offset_out", shown(op.offset_out), text(*at));
            }
            if let Some(done) = call.ok() {
                is("bytes", shown(op.ret), text(done));
            }
        }
        Want::Seek { offset, hole } => {
            let name = if *hole { "SEEK_HOLE" } else { "SEEK_DATA" };
            is(
                "name",
                op.name.as_deref().map(str::to_owned),
                Some(name.to_owned()),
            );
            is("offset", shown(op.offset), text(*offset));
            is("ret", shown(op.ret), call.ok().and_then(text));
            is("pos", shown(op.pos), call.ok().and_then(text));
        }
        Want::Refused | Want::MappingSync | Want::Close | Want::Closes(_) => {}
    }
    (!found.is_empty()).then(|| found.join("; "))
}

/// Which open file description is which `fh`, and whether every operation has the right one.
fn handles(
    seen: &Seen,
    matches: &HashMap<(u32, usize), Match<'_>>,
) -> Result<HashMap<usize, Fh>, String> {
    let mut fhs = HashMap::new();
    for one in matches.values().filter(|one| one.expected.is_open()) {
        fhs.insert(one.expected.file.unwrap(), one.recorded.first().fh.unwrap());
    }
    let wrong = |one: &Match<'_>, what: &str| {
        let call = &seen.calls[one.expected.call];
        format!(
            "{what}\n  strace:\n    {}\n  recorded:\n    {}",
            call.text,
            one.recorded.shown()
        )
    };
    for one in matches.values() {
        let op = one.recorded.first();
        if let (Want::Closes(files), Some(_)) = (&one.expected.want, op.fh) {
            let mut wanted: Vec<Fh> = files.iter().map(|file| fhs[file]).collect();
            let mut told: Vec<Fh> = one.recorded.parts.iter().filter_map(|op| op.fh).collect();
            wanted.sort();
            told.sort();
            if wanted != told {
                return Err(wrong(one, "it closes other files"));
            }
        } else if let Some(file) = one.expected.file
            && op.fh != Some(fhs[&file])
        {
            return Err(wrong(
                one,
                &format!("it is of another open file: {:?}", fhs[&file]),
            ));
        }
        if let Want::Copy { to, .. } = one.expected.want
            && op.fh_out != Some(fhs[&to])
        {
            return Err(wrong(one, "it writes to another open file"));
        }
    }
    Ok(fhs)
}

/// What the ends of processes close.
fn at_exit(
    model: &Model,
    fhs: &HashMap<usize, Fh>,
    mut flushes: BTreeMap<u32, Vec<Op>>,
    counts: &mut Counts,
) -> Result<(), String> {
    for (process, files) in &model.at_exit {
        let told = flushes.remove(process).unwrap_or_default();
        let mut wanted: Vec<Option<Fh>> = files.iter().map(|file| fhs.get(file).copied()).collect();
        let mut found: Vec<Option<Fh>> = told.iter().map(|op| op.fh).collect();
        let is_maybe = |fh: &Option<Fh>| {
            let mut maybe = model.maybe_at_exit.iter().filter(|one| one.0 == *process);
            maybe.any(|(_, file)| fhs.get(file).copied() == *fh)
        };
        let mut more = found.clone();
        for fh in &wanted {
            if let Some(at) = more.iter().position(|other| other == fh) {
                more.swap_remove(at);
            }
        }
        wanted.sort();
        found.sort();
        if found.len() != wanted.len() + more.len() || !more.iter().all(is_maybe) {
            return Err(format!(
                "the end of process {process} closes {wanted:?}, recorded were {found:?}"
            ));
        }
        counts.requests += found.len() as u64;
        let untold = told.iter().filter(|op| op.syscall.is_none()).count() as u64;
        *counts.closes_untold.entry("exit".to_owned()).or_default() += untold;
        *counts.matched.entry("exit".to_owned()).or_default() += found.len() as u64;
    }
    match flushes.values().flatten().next() {
        None => Ok(()),
        Some(op) => Err(format!(
            "no end of a process closes this:\n    {}",
            serde_json::to_string(op).unwrap()
        )),
    }
}

/// What moves one position, in the order in which it did.
struct Moving<'a> {
    entered: usize,
    left: usize,
    moved: Moved,
    call: usize,
    by: Option<&'a Match<'a>>,
}

fn positions(
    seen: &Seen,
    model: &Model,
    matches: &HashMap<(u32, usize), Match<'_>>,
    ops: &[Op],
    fhs: &HashMap<usize, Fh>,
    counts: &mut Counts,
) -> Result<(), String> {
    // After what fills the page cache, the recorder cannot tell where the position is.
    let mut hidden: HashMap<Fh, Vec<u64>> = HashMap::new();
    for op in ops.iter().filter(|op| op.page_cache) {
        let name = op.syscall.as_deref();
        if name.is_some_and(|name| !name.starts_with("exec")) {
            hidden.entry(op.fh.unwrap()).or_default().push(op.seq.0);
        }
    }
    let seqs: HashMap<usize, u64> = matches
        .values()
        .map(|one| (one.expected.call, one.recorded.last().seq.0))
        .collect();
    for (number, file) in model.files.iter().enumerate() {
        let Some(fh) = fhs.get(&number) else { continue };
        let moving: Vec<Moving<'_>> = file
            .moves
            .iter()
            .map(|(call, moved)| Moving {
                entered: seen.calls[*call].entered,
                left: seen.calls[*call].left,
                moved: *moved,
                call: *call,
                by: match moved {
                    Moved::By(tid, place) | Moved::ByCopyTo(tid, place) => {
                        matches.get(&(*tid, *place))
                    }
                    Moved::To(_) | Moved::On(_) => None,
                },
            })
            // Killed before it asked for anything.
            .filter(|one| one.by.is_some() || matches!(one.moved, Moved::To(_) | Moved::On(_)))
            .collect();
        let moving = in_order(moving).map_err(|how| format!("{}: {how}", file.path))?;
        let hidden = hidden.get(fh).map_or(&[][..], Vec::as_slice);
        follow(seen, &moving, (hidden, &seqs), counts)?;
    }
    Ok(())
}

/// By time; of those that overlap, as they were recorded, which is the order of the lock that they take.
fn in_order(moving: Vec<Moving<'_>>) -> Result<Vec<Moving<'_>>, String> {
    let (mut told, mut untold): (Vec<_>, Vec<_>) =
        moving.into_iter().partition(|one| one.by.is_some());
    told.sort_by_key(|one| one.by.unwrap().recorded.first().seq);
    untold.sort_by_key(|one| one.entered);
    for (at, one) in told.iter().enumerate() {
        if let Some(later) = told[at + 1..].iter().find(|later| later.left < one.entered) {
            return Err(format!(
                "recorded in another order than lines {} and {} of strace",
                later.left, one.entered
            ));
        }
    }
    let mut all: Vec<Moving<'_>> = Vec::new();
    let mut told = told.into_iter().peekable();
    for one in untold {
        while let Some(before) = told.next_if(|before| before.left < one.entered) {
            all.push(before);
        }
        if let Some(next) = told.peek()
            && next.entered < one.left
        {
            return Err(format!(
                "the program moves a position at the same time twice: lines {} and {}",
                next.entered, one.entered
            ));
        }
        all.push(one);
    }
    all.extend(told);
    Ok(all)
}

/// lseek(fd, 0, SEEK_CUR).
fn asks_position(call: &Call) -> bool {
    call.name == "lseek" && (call.bits(1), call.bits(2)) == (0, 1)
}

fn follow(
    seen: &Seen,
    moving: &[Moving<'_>],
    (hidden, seqs): (&[u64], &HashMap<usize, u64>),
    counts: &mut Counts,
) -> Result<(), String> {
    // Where it is, and where the recorder takes it to be.
    let (mut real, mut tracked) = (Some(0), Some(0));
    let mut tracked_at = 0;
    for (at, one) in moving.iter().enumerate() {
        let Some(by) = one.by else {
            real = match one.moved {
                Moved::To(to) => Some(to),
                Moved::On(by) => real.map(|real| real + by),
                Moved::By(..) | Moved::ByCopyTo(..) => real,
            };
            // A seek to data or a hole is recorded, and followed.
            if let Some(seq) = seqs.get(&one.call) {
                (tracked, tracked_at) = (real, *seq);
            }
            continue;
        };
        let (first, last) = (by.recorded.first(), by.recorded.last());
        let done = by.recorded.done();
        let appends = matches!(by.expected.want, Want::Data { appends: true, .. });
        if hidden
            .iter()
            .any(|seq| (tracked_at..first.seq.0).contains(seq))
        {
            tracked = None;
        }
        if appends {
            // The call itself does not say; the program asks right after.
            let end = moving.get(at + 1).and_then(|next| match next.moved {
                Moved::To(to) if asks_position(&seen.calls[next.call]) => Some(to),
                _ => None,
            });
            real = end.and_then(|end| end.checked_sub(done));
            if real.is_none() && done > 0 {
                counts.offsets_unknown += 1;
                real = first.offset;
            }
        }
        let wrong = |what: &str, told: Option<u64>, wanted: Option<u64>| {
            let call = &seen.calls[one.call];
            Err(format!(
                "{what} is {told:?}, not {wanted:?}\n  strace (line {}):\n    {}\n  recorded:\n    {}",
                call.entered + 1,
                call.text,
                by.recorded.shown()
            ))
        };
        let failed = first.ret.is_none();
        if let Moved::ByCopyTo(..) = one.moved {
            if first.offset_out != real {
                return wrong("offset_out", first.offset_out, real);
            }
            if !failed {
                real = real.map(|real| real + done);
                (tracked, tracked_at) = (real, last.seq.0);
            }
            continue;
        }
        if !(failed && appends) && first.offset != real {
            return wrong("offset", first.offset, real);
        }
        if failed {
            if first.pos.is_some() || first.seek_from.is_some() {
                return wrong("pos, of a call that failed,", first.pos, None);
            }
            continue;
        }
        let end = real.map(|real| real + done);
        let pos = by
            .recorded
            .parts
            .iter()
            .rev()
            .find(|op| op.ret.is_some())
            .unwrap()
            .pos;
        if pos != end {
            return wrong("pos", pos, end);
        }
        let moved = tracked.filter(|tracked| !appends && Some(*tracked) != real);
        if first.seek_from != moved {
            return wrong("seek_from", first.seek_from, moved);
        }
        counts.positions += 1;
        (real, tracked, tracked_at) = (end, end, last.seq.0);
    }
    Ok(())
}

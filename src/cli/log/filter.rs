//! Which events `iolens log` shows.

use std::collections::HashMap;
use std::time::Duration;

use jiff::civil::Time;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan};

use super::Args;
use crate::cli::units::parse_duration;
use crate::error::Errno;
use crate::event::{ByteText, CacheDid, Event, Op, OpKind, Writeback};
use crate::trace::PathGlobs;
use crate::types::{Fh, Nanos};

/// Kinds of events beside operations that `--op` can name.
const OTHER_KINDS: [&str; 5] = ["writeback", "evict", "discard", "lost", "resume"];

/// The names of [`CacheDid`].
const DECISIONS: [&str; 11] = [
    "buffered",
    "write_through",
    "hit",
    "miss",
    "hole",
    "bypass",
    "readahead",
    "writeback",
    "discard",
    "invalidate",
    "wait",
];

pub(super) struct Filter {
    any: bool,
    kinds: Vec<String>,
    paths: PathGlobs,
    pids: Vec<u32>,
    comms: Vec<String>,
    fds: Vec<i32>,
    fhs: Vec<u64>,
    errnos: Vec<String>,
    failed: bool,
    min_dur: Option<Duration>,
    decisions: Vec<String>,
    since: Option<Bound>,
    until: Option<Bound>,
    /// The bounds as points in time, once the header was seen.
    span: (Nanos, Nanos),
    /// With `--fd`: opens of which no operation has told the descriptor yet.
    opens: HashMap<Fh, Box<Op>>,
}

/// Opens that are remembered for `--fd` at most: who has more files open without using one is not followed.
const OPENS_MAX: usize = 1 << 16;

impl Filter {
    /// # Errors
    /// A sentence naming the argument that is wrong.
    pub(super) fn new(args: &Args) -> Result<Filter, String> {
        let errnos: Vec<String> = args
            .errno
            .iter()
            .map(|name| name.to_ascii_uppercase())
            .collect();
        if let Some(name) = errnos.iter().find(|name| Errno::from_name(name).is_none()) {
            return Err(format!("--errno {name}: no such error; see errno(3)"));
        }
        let kinds: Vec<&str> = OpKind::ALL
            .iter()
            .map(|op| op.name())
            .chain(OTHER_KINDS)
            .collect();
        known("--op", &args.op, &kinds)?;
        known("--cache", &args.cache, &DECISIONS)?;
        let bound = |name: &str, text: &Option<String>| {
            let parsed = text.as_deref().map(Bound::parse).transpose();
            parsed.map_err(|error| format!("{name} {error}"))
        };
        Ok(Filter {
            any: is_any(args),
            kinds: args.op.clone(),
            paths: PathGlobs::new(&args.path).map_err(|error| format!("--path {error}"))?,
            pids: args.pid.clone(),
            comms: args.comm.clone(),
            fds: args.fd.clone(),
            fhs: args.fh.clone(),
            errnos,
            failed: args.failed,
            min_dur: args.min_dur,
            decisions: args.cache.clone(),
            since: bound("--since", &args.since)?,
            until: bound("--until", &args.until)?,
            span: (Nanos(0), Nanos(u64::MAX)),
            opens: HashMap::new(),
        })
    }

    /// With `--fd`: the open to be shown before this event, the first one that tells its descriptor. The kernel
    /// gives a descriptor only after an open was answered.
    pub(super) fn joined(&mut self, event: &Event) -> Option<Event> {
        let Event::Op(op) = event else { return None };
        let fh = op.fh.filter(|_| !self.fds.is_empty())?;
        match op.op {
            OpKind::Open | OpKind::Create => {
                if self.opens.len() < OPENS_MAX && self.kind(op.op.name()) && self.time(op.ts_ns) {
                    self.opens.insert(fh, op.clone());
                }
                None
            }
            OpKind::Release => {
                self.opens.remove(&fh);
                None
            }
            _ => {
                // Who opened it may be another process, as after fork(2).
                let open = self.passes(event).then(|| self.opens.remove(&fh));
                open.flatten().map(Event::Op)
            }
        }
    }

    /// Whether to show it; takes note of the header, from which relative times count.
    pub(super) fn passes(&mut self, event: &Event) -> bool {
        match event {
            Event::Header(header) => {
                let at = |bound: &Option<Bound>| bound.as_ref().map(|b| b.resolve(header.start_ns));
                self.span.0 = at(&self.since).unwrap_or(self.span.0);
                self.span.1 = at(&self.until).unwrap_or(self.span.1);
                !self.any
            }
            Event::Footer(_) => !self.any,
            Event::Op(op) => self.kind(op.op.name()) && self.time(op.ts_ns) && self.op(op),
            Event::Writeback(done) => {
                self.kind("writeback") && self.time(done.ts_ns) && self.writeback(done)
            }
            Event::Evict(done) => {
                self.kind("evict") && self.time(done.ts_ns) && self.plain(&done.path)
            }
            Event::Discard(done) => {
                self.kind("discard") && self.time(done.ts_ns) && self.plain(&done.path)
            }
            Event::Lost(lost) => self.kind("lost") && self.time(lost.ts_ns) && self.plain_kind(),
            Event::Resume(resume) => {
                self.kind("resume") && self.time(resume.ts_ns) && self.plain_kind()
            }
        }
    }

    fn kind(&self, name: &str) -> bool {
        self.kinds.is_empty() || self.kinds.iter().any(|kind| kind == name)
    }

    fn time(&self, at: Nanos) -> bool {
        self.span.0 <= at && at <= self.span.1
    }

    fn op(&self, op: &Op) -> bool {
        let path = ByteText {
            path: op.path.clone(),
            path_b64: op.path_b64.clone(),
        };
        let to = ByteText {
            path: op.to.clone(),
            path_b64: op.to_b64.clone(),
        };
        let out = ByteText {
            path: op.path_out.clone(),
            path_b64: None,
        };
        let pid = |wanted: &u32| {
            op.pid.is_some_and(|pid| pid.0 == *wanted) || op.tid.is_some_and(|tid| tid.0 == *wanted)
        };
        let fh = |wanted: &u64| {
            op.fh.is_some_and(|fh| fh.0 == *wanted) || op.fh_out.is_some_and(|fh| fh.0 == *wanted)
        };
        (self.pids.is_empty() || self.pids.iter().any(pid))
            && (self.comms.is_empty() || has(&self.comms, op.comm.as_deref()))
            && (self.fds.is_empty() || op.fd.is_some_and(|fd| self.fds.contains(&fd)))
            && (self.fhs.is_empty() || self.fhs.iter().any(fh))
            && self.outcome(op.errno.as_deref(), op.dur_ns)
            && (self.decisions.is_empty()
                || op
                    .cache
                    .iter()
                    .any(|did| has(&self.decisions, Some(decision(did)))))
            && (self.paths.is_empty() || [path, to, out].iter().any(|path| self.path(path)))
    }

    fn writeback(&self, done: &Writeback) -> bool {
        self.of_no_caller()
            && self.outcome(done.errno.as_deref(), done.dur_ns)
            && (self.paths.is_empty() || self.path(&done.path))
    }

    /// An event with nothing but a path.
    fn plain(&self, path: &ByteText) -> bool {
        self.of_no_caller()
            && self.outcome(None, Nanos(0))
            && (self.paths.is_empty() || self.path(path))
    }

    /// An event without even that.
    fn plain_kind(&self) -> bool {
        self.of_no_caller() && self.outcome(None, Nanos(0)) && self.paths.is_empty()
    }

    /// Whether no filter asks for what only operations have.
    fn of_no_caller(&self) -> bool {
        self.pids.is_empty()
            && self.comms.is_empty()
            && self.fds.is_empty()
            && self.fhs.is_empty()
            && self.decisions.is_empty()
    }

    fn outcome(&self, errno: Option<&str>, dur: Nanos) -> bool {
        (!self.failed || errno.is_some())
            && (self.errnos.is_empty() || has(&self.errnos, errno))
            && self
                .min_dur
                .is_none_or(|min| Duration::from_nanos(dur.0) >= min)
    }

    fn path(&self, path: &ByteText) -> bool {
        path.bytes().is_some_and(|bytes| self.paths.matches(&bytes))
    }
}

fn is_any(args: &Args) -> bool {
    let lists = [&args.op, &args.path, &args.comm, &args.errno, &args.cache];
    lists.iter().any(|list| !list.is_empty())
        || !args.pid.is_empty()
        || !args.fd.is_empty()
        || !args.fh.is_empty()
        || args.failed
        || args.min_dur.is_some()
        || args.since.is_some()
        || args.until.is_some()
}

fn known(option: &str, typed: &[String], names: &[&str]) -> Result<(), String> {
    match typed.iter().find(|name| !names.contains(&name.as_str())) {
        Some(name) => Err(format!("{option} {name:?} is none of: {}", names.join(" "))),
        None => Ok(()),
    }
}

fn has(list: &[String], wanted: Option<&str>) -> bool {
    wanted.is_some_and(|wanted| list.iter().any(|one| one == wanted))
}

fn decision(did: &CacheDid) -> &'static str {
    match did {
        CacheDid::Buffered { .. } => "buffered",
        CacheDid::WriteThrough { .. } => "write_through",
        CacheDid::Hit { .. } => "hit",
        CacheDid::Miss { .. } => "miss",
        CacheDid::Hole { .. } => "hole",
        CacheDid::Bypass { .. } => "bypass",
        CacheDid::Readahead { .. } => "readahead",
        CacheDid::Writeback { .. } => "writeback",
        CacheDid::Discard { .. } => "discard",
        CacheDid::Invalidate { .. } => "invalidate",
        CacheDid::Wait { .. } => "wait",
    }
}

/// A time as typed.
enum Bound {
    At(Timestamp),
    /// Of the local day on which the trace began, or the one after.
    OfDay(Time),
    AfterStart(Duration),
}

impl Bound {
    fn parse(text: &str) -> Result<Bound, String> {
        if let Some(span) = text.strip_prefix('+') {
            return parse_duration(span).map(Bound::AfterStart);
        }
        if let Ok(stamp) = text.parse::<Timestamp>() {
            return Ok(Bound::At(stamp));
        }
        text.parse::<Time>().map(Bound::OfDay).map_err(|_| {
            format!("{text:?} is not a time: give 23:35:56, 2026-11-23T23:35:56Z or +5s (after the start)")
        })
    }

    fn resolve(&self, start: Nanos) -> Nanos {
        let begin = Timestamp::from_nanosecond(i128::from(start.0)).unwrap_or_default();
        let stamp = match self {
            Bound::At(stamp) => *stamp,
            Bound::AfterStart(span) => {
                let span = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
                return Nanos(start.0.saturating_add(span));
            }
            Bound::OfDay(time) => of_day(begin, *time).unwrap_or(begin),
        };
        Nanos(u64::try_from(stamp.as_nanosecond()).unwrap_or_default())
    }
}

/// The time of day nearest to a trace that begins at `begin`: more than half a day before it is meant
/// as of the next day.
fn of_day(begin: Timestamp, time: Time) -> Result<Timestamp, jiff::Error> {
    const HALF_A_DAY: SignedDuration = SignedDuration::from_hours(12);
    let zone = TimeZone::system();
    let day = begin.to_zoned(zone.clone()).date();
    let same = day.to_datetime(time).to_zoned(zone.clone())?.timestamp();
    if begin.duration_since(same) <= HALF_A_DAY {
        return Ok(same);
    }
    Ok(day
        .checked_add(1.day())?
        .to_datetime(time)
        .to_zoned(zone)?
        .timestamp())
}

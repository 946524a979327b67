//! The recorder: what request threads call.

use std::cell::RefCell;
use std::ffi::OsString;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use super::buffer::{Buffer, Level};
use super::writer::Writer;
use super::{CaptureFilter, Clock, Formatter, Sink, jsonl};
use crate::event::{Event, Header, OpKind};
use crate::types::{Nanos, Pid, Seq, Tid};

/// How long a recorder waits for a trace that makes no progress before it counts events as lost. The
/// contract's second: longer stalls the recorded program, shorter loses on a busy disk.
pub const STALL: Duration = Duration::from_secs(1);

/// How promptly lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Every 20 ms: few and large writes.
    Batched,
    /// Every 2 ms: somebody is watching.
    Prompt,
}

impl Pace {
    pub(super) fn interval(self) -> Duration {
        match self {
            Pace::Batched => Duration::from_millis(20),
            Pace::Prompt => Duration::from_millis(2),
        }
    }
}

/// What to record, and to where.
pub struct Config {
    /// The first line; the recorder fills in `start_ns` and `filters`.
    pub header: Header,
    /// Where lines go.
    pub sink: Box<dyn Sink>,
    /// How an event becomes a line.
    pub format: Formatter,
    /// `--live`: where each operation goes as well, and its form. Live lines are dropped rather than
    /// waited for.
    pub live: Option<(Box<dyn Sink>, Formatter)>,
    /// How promptly.
    pub pace: Pace,
    /// Which operations.
    pub filter: CaptureFilter,
    /// `--trace-limit`: bytes at which recording stops. The header and the footer are always written.
    pub limit: Option<u64>,
    /// What the writer does first, in its thread.
    pub at_start: fn(),
}

impl Config {
    /// JSON Lines of everything, batched, without limit.
    #[must_use]
    pub fn new(header: Header, sink: Box<dyn Sink>) -> Config {
        Config {
            header,
            sink,
            format: jsonl(),
            live: None,
            pace: Pace::Batched,
            filter: CaptureFilter::default(),
            limit: None,
            at_start: || (),
        }
    }
}

/// What the footer says beside the recorder's own counts; see [`crate::event::Footer`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FooterFacts {
    /// Dirty bytes that never reached SOURCE.
    pub dirty_bytes: u64,
    /// Writebacks that failed.
    pub write_errors: u64,
    /// The user gave up before all was written.
    pub abandoned: bool,
    /// iolens's own exit status.
    pub exit: i32,
    /// The program's exit status (`run` only).
    pub cmd_exit: Option<i32>,
}

/// How recording went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// `op` lines written.
    pub ops: u64,
    /// Lines written between header and footer.
    pub events: u64,
    /// Events lost.
    pub lost: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Whether the footer was written, so that the trace is complete.
    pub footer: bool,
}

/// What request threads and the writer share.
pub(super) struct Shared {
    id: u64,
    clock: Clock,
    next_seq: AtomicU64,
    /// Events that will never be a line.
    pub(super) lost: AtomicU64,
    /// The writer sleeps without a timeout and wants to be woken by the next event.
    pub(super) asleep: AtomicBool,
    /// The sink has stalled for [`STALL`]: full buffers lose at once instead of waiting.
    losing: AtomicBool,
    /// Nothing more is recorded: the limit is reached, or the recorder is closed.
    pub(super) stopped: AtomicBool,
    pub(super) closing: AtomicBool,
    pub(super) facts: Mutex<Option<FooterFacts>>,
    /// When the writer last came further.
    progress: AtomicU64,
    pub(super) buffers: Mutex<Vec<Arc<Buffer>>>,
}

impl Shared {
    pub(super) fn now(&self) -> Nanos {
        self.clock.now()
    }

    pub(super) fn next_seq(&self) -> Seq {
        Seq(self.next_seq.fetch_add(1, Ordering::Relaxed))
    }

    /// The writer came further: waiting is worth it again.
    pub(super) fn touch(&self) {
        self.progress.store(self.now().0, Ordering::Relaxed);
        self.losing.store(false, Ordering::Relaxed);
    }

    /// How long the writer has come no further, for somebody who waits since `since`.
    pub(super) fn stalled_for(&self, since: Nanos) -> Duration {
        let progress = Nanos(self.progress.load(Ordering::Relaxed));
        Duration::from_nanos(self.now().since(progress.max(since)).0)
    }

    pub(super) fn all_empty(&self) -> bool {
        let buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        buffers.iter().all(|buffer| buffer.is_empty())
    }

    fn register(&self) -> Arc<Buffer> {
        let buffer = Arc::new(Buffer::default());
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        buffers.push(Arc::clone(&buffer));
        buffer
    }
}

thread_local! {
    /// This thread's buffer at each living recorder (one, but for tests).
    static MINE: RefCell<Vec<(u64, Arc<Buffer>)>> = const { RefCell::new(Vec::new()) };
}

/// Takes events from any thread and has them written by a thread of its own.
///
/// The server blocks the signals it handles before it starts any thread, so the writer inherits that
/// mask and no signal is ever delivered to it.
pub struct Recorder {
    shared: Arc<Shared>,
    filter: CaptureFilter,
    writer: Thread,
    done: Mutex<Receiver<Summary>>,
}

impl Recorder {
    /// Starts recording: the header is written at once.
    ///
    /// # Errors
    /// The errno of a thread that cannot be started.
    pub fn start(mut config: Config) -> io::Result<Arc<Recorder>> {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        let clock = Clock::start();
        config.header.start_ns = clock.started();
        config.header.filters = config.filter.described();
        let shared = Arc::new(Shared {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            clock,
            next_seq: AtomicU64::new(1),
            lost: AtomicU64::new(0),
            asleep: AtomicBool::new(false),
            losing: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            facts: Mutex::new(None),
            progress: AtomicU64::new(clock.started().0),
            buffers: Mutex::new(Vec::new()),
        });
        let (filter, at_start) = (config.filter.clone(), config.at_start);
        let writer = Writer::new(Arc::clone(&shared), config);
        let (tell, done) = channel();
        let handle = thread::Builder::new()
            .name("iolens-trace".to_owned())
            // Nobody listens any more when finish() has given up.
            .spawn(move || {
                at_start();
                tell.send(writer.run()).unwrap_or_default();
            })?;
        Ok(Arc::new(Recorder {
            shared,
            filter,
            writer: handle.thread().clone(),
            done: Mutex::new(done),
        }))
    }

    /// The trace's clock.
    #[must_use]
    pub fn now(&self) -> Nanos {
        self.shared.now()
    }

    /// Whether this operation is to be recorded; see [`CaptureFilter::wants`].
    pub fn wants(
        &self,
        kind: OpKind,
        pid: Option<Pid>,
        tid: Tid,
        path: impl FnOnce() -> Option<OsString>,
    ) -> bool {
        self.filter.wants(kind, pid, tid, path)
    }

    /// Whether what no operation asked for is to be recorded; see [`CaptureFilter::wants_unasked`].
    pub fn wants_unasked(&self, path: impl FnOnce() -> Option<Vec<u8>>) -> bool {
        self.filter.wants_unasked(path)
    }

    /// The number of an event that will be recorded. Taken when the request arrives, and only when it
    /// is wanted, so that filters leave no gaps. Who takes one must [`record`](Self::record) or
    /// [`forfeit`](Self::forfeit) it.
    pub fn next_seq(&self) -> Seq {
        self.shared.next_seq()
    }

    /// Counts an event as lost whose number was taken but of which nothing can be told, for instance
    /// because its request panicked.
    pub fn forfeit(&self, _seq: Seq) {
        self.lose();
    }

    /// Records an event. Waits for the writer when this thread's buffer is full, but never longer than
    /// [`STALL`] for one that makes no progress: then the event is counted as lost.
    pub fn record(&self, event: Event) {
        if self.shared.stopped.load(Ordering::Relaxed) {
            self.lose();
            return;
        }
        let mine = MINE.try_with(|mine| self.mine(&mut mine.borrow_mut()));
        match mine {
            Ok(buffer) => self.push(&buffer, event),
            // A thread in its last moments, its thread-locals gone.
            Err(_) => self.push(&self.shared.register(), event),
        }
    }

    fn mine(&self, mine: &mut Vec<(u64, Arc<Buffer>)>) -> Arc<Buffer> {
        if let Some((_, buffer)) = mine.iter().find(|(id, _)| *id == self.shared.id) {
            return Arc::clone(buffer);
        }
        // Only recorders that are gone have let go of their buffers.
        mine.retain(|(_, buffer)| Arc::strong_count(buffer) > 1);
        let buffer = self.shared.register();
        mine.push((self.shared.id, Arc::clone(&buffer)));
        buffer
    }

    fn push(&self, buffer: &Buffer, event: Event) {
        let mut held = buffer.lock();
        if held.is_full() {
            let since = self.now();
            while held.is_full() {
                let stalled = self.shared.stalled_for(since);
                if stalled >= STALL || self.shared.losing.load(Ordering::Relaxed) {
                    self.shared.losing.store(true, Ordering::Relaxed);
                    drop(held);
                    self.lose();
                    return;
                }
                self.writer.unpark();
                held = buffer.wait(held, STALL.saturating_sub(stalled));
            }
        }
        let level = held.push(event);
        drop(held);
        if level == Level::Half || self.shared.asleep.load(Ordering::Relaxed) {
            self.wake();
        }
    }

    // Kept out of `push`, whose fast path ends before it.
    #[cold]
    fn wake(&self) {
        self.shared.asleep.store(false, Ordering::Relaxed);
        self.writer.unpark();
    }

    #[cold]
    fn lose(&self) {
        self.shared.lost.fetch_add(1, Ordering::Relaxed);
    }

    /// Events lost so far.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }

    /// Writes what is buffered and the footer, and closes the trace. Gives up when the trace makes no
    /// progress for [`STALL`]. Events that come later are counted nowhere; a second call tells nothing.
    pub fn finish(&self, facts: FooterFacts) -> Summary {
        self.close(Some(facts))
    }

    fn close(&self, facts: Option<FooterFacts>) -> Summary {
        *self
            .shared
            .facts
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = facts;
        let since = self.now();
        self.shared.closing.store(true, Ordering::Release);
        self.wake();
        let done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = Instant::now();
        loop {
            match done.recv_timeout(Duration::from_millis(100)) {
                Ok(summary) => return summary,
                Err(RecvTimeoutError::Disconnected) => break,
                // The writer itself gives up on a pipe after STALL; this is for one stuck in a disk's write(2).
                Err(RecvTimeoutError::Timeout) => {
                    if asked.elapsed() > STALL && self.shared.stalled_for(since) > 2 * STALL {
                        log::error!("the trace is not closed: its disk does not answer");
                        break;
                    }
                }
            }
        }
        Summary {
            lost: self.lost(),
            ..Summary::default()
        }
    }
}

impl Drop for Recorder {
    /// Without [`finish`](Recorder::finish): what is buffered is written, no footer.
    fn drop(&mut self) {
        if !self.shared.closing.load(Ordering::Relaxed) {
            self.close(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs::File;
    use std::io::{Read, Write};

    use super::*;
    use crate::event::Op;
    use crate::trace::{BUFFER_EVENTS, MemorySink, StreamSink, create_file, for_file};

    fn op(recorder: &Recorder) -> Event {
        let mut op = Op::new(OpKind::Write, recorder.next_seq(), recorder.now());
        op.path = Some("out.txt".into());
        Event::Op(Box::new(op))
    }

    fn start(sink: impl Sink + 'static) -> Arc<Recorder> {
        Recorder::start(Config::new(Header::default(), Box::new(sink))).unwrap()
    }

    fn events(bytes: &[u8]) -> Vec<Event> {
        let text = std::str::from_utf8(bytes).unwrap();
        assert!(text.ends_with('\n'), "the last line is torn");
        text.lines()
            .map(|line| serde_json::from_str(line).expect(line))
            .collect()
    }

    /// The laws that a recorder answers for: every seq is there or counted, and the footer counts right.
    fn check_account(events: &[Event], summary: Summary) {
        let mut seqs = BTreeSet::new();
        let (mut ops, mut lost) = (0, 0);
        for event in &events[1..events.len() - 1] {
            let seq = match event {
                Event::Op(op) => {
                    ops += 1;
                    op.seq
                }
                Event::Lost(line) => {
                    lost += line.count;
                    line.seq
                }
                other => panic!("{other:?}"),
            };
            assert!(seqs.insert(seq.0), "{seq} twice");
        }
        let Some(Event::Footer(footer)) = events.last() else {
            panic!("no footer")
        };
        assert!(matches!(events[0], Event::Header(_)));
        assert_eq!(footer.ops, ops);
        assert_eq!(footer.events, ops + events.len() as u64 - 2 - ops);
        assert_eq!(footer.lost, lost);
        let top = seqs.last().copied().unwrap_or(0);
        assert!(top - seqs.len() as u64 <= lost, "gaps that nothing counts");
        assert_eq!(
            (summary.ops, summary.lost, summary.footer),
            (ops, lost, true)
        );
    }

    /// A sink that does what the test says.
    struct Scripted<F>(F);

    impl<F: FnMut(&[u8]) -> io::Result<usize> + Send> Sink for Scripted<F> {
        fn write(&mut self, bytes: &[u8], _patience: Duration) -> io::Result<usize> {
            (self.0)(bytes)
        }
        fn take_back(&mut self, _torn: u64) -> bool {
            false
        }
    }

    #[test]
    fn every_event_of_many_threads_is_one_whole_line() {
        let sink = MemorySink::default();
        let recorder = start(sink.clone());
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..5_000).for_each(|_| recorder.record(op(&recorder))));
            }
        });
        let summary = recorder.finish(FooterFacts {
            exit: 3,
            ..FooterFacts::default()
        });
        assert_eq!((summary.ops, summary.lost), (40_000, 0));
        let events = events(&sink.contents());
        assert_eq!(events.len(), 40_002);
        assert_eq!(summary.bytes, sink.contents().len() as u64);
        check_account(&events, summary);
    }

    #[test]
    fn an_idle_recorder_wakes_for_a_single_event() {
        let sink = MemorySink::default();
        let recorder = start(sink.clone());
        for n in 1..=3 {
            recorder.record(op(&recorder));
            let deadline = Instant::now() + Duration::from_secs(10);
            while sink.contents().split(|&b| b == b'\n').count() < n + 2 {
                assert!(Instant::now() < deadline, "the writer sleeps on");
                thread::yield_now();
            }
        }
        recorder.finish(FooterFacts::default());
    }

    #[test]
    fn a_full_disk_loses_with_a_count_and_never_stalls() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let recorder = Recorder::start(Config::new(Header::default(), for_file(full))).unwrap();
        let begin = Instant::now();
        for _ in 0..3 * BUFFER_EVENTS {
            recorder.record(op(&recorder));
        }
        let summary = recorder.finish(FooterFacts::default());
        assert!(begin.elapsed() < Duration::from_secs(5));
        assert!(!summary.footer);
        assert!(summary.lost >= 3 * BUFFER_EVENTS as u64);
    }

    #[test]
    fn a_disk_that_works_again_gets_whole_lines_and_the_count() {
        let sink = MemorySink::default();
        let mut room = 20_000;
        let mut inner = sink.clone();
        let until = Instant::now() + Duration::from_millis(300);
        let recorder = start(Scripted(move |bytes: &[u8]| {
            if Instant::now() < until {
                let n = bytes.len().min(room);
                room -= n;
                if n == 0 {
                    return Err(io::Error::from_raw_os_error(libc::ENOSPC));
                }
                return inner.write(&bytes[..n], Duration::ZERO);
            }
            inner.write(bytes, Duration::ZERO)
        }));
        for _ in 0..1000 {
            recorder.record(op(&recorder));
        }
        while Instant::now() < until + Duration::from_millis(1100) {
            recorder.record(op(&recorder));
            thread::sleep(Duration::from_millis(5));
        }
        let summary = recorder.finish(FooterFacts::default());
        assert!(summary.lost > 100);
        let events = events(&sink.contents());
        assert!(events.iter().any(|event| matches!(event, Event::Lost(_))));
        check_account(&events, summary);
    }

    #[test]
    fn a_regular_file_never_keeps_half_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.jsonl");
        // A file sink whose disk is full after 5000 bytes, half way through some line.
        struct Quota(crate::trace::FileSink, usize);
        impl Sink for Quota {
            fn write(&mut self, bytes: &[u8], patience: Duration) -> io::Result<usize> {
                let n = bytes.len().min(self.1);
                if n == 0 {
                    return Err(io::Error::from_raw_os_error(libc::ENOSPC));
                }
                self.1 -= n;
                self.0.write(&bytes[..n], patience)
            }
            fn take_back(&mut self, torn: u64) -> bool {
                self.0.take_back(torn)
            }
        }
        let file = crate::trace::FileSink::new(create_file(&path).unwrap());
        let recorder = start(Quota(file, 5000));
        for _ in 0..1000 {
            recorder.record(op(&recorder));
        }
        let summary = recorder.finish(FooterFacts::default());
        let bytes = std::fs::read(&path).unwrap();
        assert!(bytes.len() <= 5000 && bytes.len() > 4000);
        let events = events(&bytes);
        assert_eq!(events.len() as u64 - 1, summary.ops);
        assert_eq!(
            summary.ops + summary.lost,
            1000 + summary.lost - (1000 - summary.ops)
        );
        assert!(!summary.footer);
    }

    #[test]
    fn a_reader_that_stalls_blocks_nobody_for_long() {
        let (reader, writer) = std::io::pipe().unwrap();
        let sink = StreamSink::new(File::from(std::os::fd::OwnedFd::from(writer)));
        let recorder = start(sink);
        let begin = Instant::now();
        // Far more than pipe, formatted text and buffer hold, and longer than the bound.
        let mut slowest = Duration::ZERO;
        while begin.elapsed() < Duration::from_millis(2500) {
            let one = Instant::now();
            recorder.record(op(&recorder));
            slowest = slowest.max(one.elapsed());
        }
        assert!(slowest < STALL + Duration::from_secs(1), "{slowest:?}");
        assert!(recorder.lost() > 0);
        // Somebody reads again: the lines go on where they stopped, and tell what is missing.
        let read = thread::spawn(move || {
            let mut bytes = Vec::new();
            let mut reader = reader;
            reader.read_to_end(&mut bytes).unwrap();
            bytes
        });
        let deadline = Instant::now() + Duration::from_secs(20);
        let before = loop {
            let lost = recorder.lost();
            recorder.record(op(&recorder));
            thread::sleep(Duration::from_millis(30));
            if recorder.lost() == lost {
                break lost;
            }
            assert!(Instant::now() < deadline, "still losing though read");
        };
        let summary = recorder.finish(FooterFacts::default());
        drop(recorder);
        assert!(summary.lost >= before);
        check_account(&events(&read.join().unwrap()), summary);
    }

    #[test]
    fn a_reader_that_stalls_to_the_end_does_not_hold_up_the_end() {
        let (reader, writer) = std::io::pipe().unwrap();
        let recorder = start(StreamSink::new(File::from(std::os::fd::OwnedFd::from(
            writer,
        ))));
        for _ in 0..BUFFER_EVENTS {
            recorder.record(op(&recorder));
        }
        let begin = Instant::now();
        let summary = recorder.finish(FooterFacts::default());
        assert!(begin.elapsed() < 4 * STALL);
        assert!(!summary.footer && summary.lost > 0);
        drop(recorder);
        drop(reader);
    }

    #[test]
    fn a_disk_that_hangs_in_write_blocks_neither_requests_nor_the_end() {
        let (hold, held) = channel::<()>();
        let held = Mutex::new(held);
        let recorder = start(Scripted(move |_: &[u8]| {
            held.lock().unwrap().recv().unwrap_or_default();
            Err(io::Error::from_raw_os_error(libc::EIO))
        }));
        let begin = Instant::now();
        for _ in 0..2 * BUFFER_EVENTS {
            recorder.record(op(&recorder));
        }
        assert!(begin.elapsed() < 3 * STALL);
        assert!(!recorder.finish(FooterFacts::default()).footer);
        assert!(begin.elapsed() < 8 * STALL);
        drop(hold);
    }

    #[test]
    fn a_limit_stops_recording_counts_the_rest_and_leaves_room_for_the_footer() {
        let sink = MemorySink::default();
        let mut config = Config::new(Header::default(), Box::new(sink.clone()));
        config.limit = Some(10_000);
        let recorder = Recorder::start(config).unwrap();
        for _ in 0..1000 {
            recorder.record(op(&recorder));
        }
        let summary = recorder.finish(FooterFacts::default());
        assert!(sink.contents().len() <= 10_000);
        assert!(summary.ops > 10 && summary.lost == 1000 - summary.ops);
        check_account(&events(&sink.contents()), summary);
    }

    #[test]
    fn the_header_names_the_filters_and_the_start() {
        let sink = MemorySink::default();
        let mut config = Config::new(Header::default(), Box::new(sink.clone()));
        config.filter.ops = vec![OpKind::Read];
        let recorder = Recorder::start(config).unwrap();
        assert!(!recorder.wants(OpKind::Write, None, Tid(1), || None));
        recorder.finish(FooterFacts::default());
        let lines = events(&sink.contents());
        let Event::Header(header) = &lines[0] else {
            panic!("no header")
        };
        assert_eq!(header.filters, ["--only-op=read"]);
        assert!(header.start_ns > Nanos(0));
    }

    #[test]
    fn live_lines_go_out_beside_the_trace() {
        let (sink, eyes) = (MemorySink::default(), MemorySink::default());
        let mut config = Config::new(Header::default(), Box::new(sink.clone()));
        let words: Formatter = Box::new(|event, out| {
            let Event::Op(op) = event else { return };
            writeln!(out, "saw {}", op.seq).unwrap();
        });
        config.live = Some((Box::new(eyes.clone()), words));
        config.pace = Pace::Prompt;
        let recorder = Recorder::start(config).unwrap();
        recorder.record(op(&recorder));
        recorder.finish(FooterFacts::default());
        assert_eq!(eyes.contents(), b"saw 1\n");
    }

    #[test]
    fn a_dropped_recorder_leaves_its_lines_and_no_footer() {
        let sink = MemorySink::default();
        let recorder = start(sink.clone());
        recorder.record(op(&recorder));
        drop(recorder);
        assert_eq!(events(&sink.contents()).len(), 2);
    }

    #[test]
    fn a_forfeited_number_is_counted() {
        let sink = MemorySink::default();
        let recorder = start(sink.clone());
        recorder.forfeit(recorder.next_seq());
        recorder.record(op(&recorder));
        let summary = recorder.finish(FooterFacts::default());
        assert_eq!(summary.lost, 1);
        check_account(&events(&sink.contents()), summary);
    }
}

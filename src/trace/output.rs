//! Formatted lines on their way into the sink: whole or not at all, and each accounted for.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Sink;
use super::recorder::{STALL, Shared};
use crate::error::Errno;

/// Formatted bytes that are gathered before they are written: one large write(2) each.
pub const TEXT_BYTES: usize = 256 << 10;

/// How long one wait for room in a pipe lasts, before the writer looks whether it is to end.
const PATIENCE: Duration = Duration::from_millis(200);

/// How long a sink that failed is left alone. Meanwhile events are counted as lost without a system
/// call each.
const RETRY: Duration = Duration::from_secs(1);

/// What a line is, for the counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LineKind {
    Op,
    Other,
    /// A `lost` line with its count.
    Lost(u64),
    Footer,
}

struct Line {
    end: usize,
    kind: LineKind,
}

pub(super) struct Output {
    sink: Box<dyn Sink>,
    shared: Arc<Shared>,
    /// Written before anything else, and never given up: the header, or the rest of a line that a
    /// pipe took half of.
    prefix: Vec<u8>,
    text: Vec<u8>,
    lines: Vec<Line>,
    bytes: u64,
    ops: u64,
    events: u64,
    /// Counts of `lost` lines that were lost themselves.
    untold: u64,
    retry_at: Option<Instant>,
    /// The recorder ends, and the sink takes nothing any more.
    gone: bool,
    said: bool,
}

/// How far a write got.
enum Progress {
    Done,
    Failed(usize),
}

impl Output {
    pub(super) fn new(sink: Box<dyn Sink>, header: Vec<u8>, shared: Arc<Shared>) -> Output {
        Output {
            sink,
            shared,
            prefix: header,
            text: Vec::with_capacity(TEXT_BYTES),
            lines: Vec::new(),
            bytes: 0,
            ops: 0,
            events: 0,
            untold: 0,
            retry_at: None,
            gone: false,
            said: false,
        }
    }

    /// Bytes written or gathered.
    pub(super) fn bytes(&self) -> u64 {
        let gathered = self.prefix.len() + self.text.len();
        self.bytes + u64::try_from(gathered).unwrap_or(u64::MAX)
    }

    /// `op` lines and all lines written between header and footer.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.ops, self.events)
    }

    pub(super) fn all_written(&self) -> bool {
        self.prefix.is_empty() && self.text.is_empty() && self.retry_at.is_none() && !self.gone
    }

    /// Whether the sink is worth a try now.
    pub(super) fn may_write(&self) -> bool {
        !self.gone && self.retry_at.is_none_or(|at| Instant::now() >= at)
    }

    /// The end: a sink that failed is tried once more, now.
    pub(super) fn last_chance(&mut self) {
        if let Some(at) = &mut self.retry_at {
            *at = Instant::now();
        }
    }

    /// Counts of `lost` lines that never reached the trace: they have to be told again.
    pub(super) fn take_untold(&mut self) -> u64 {
        std::mem::take(&mut self.untold)
    }

    pub(super) fn lose(&self, count: u64) {
        self.shared.lost.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn add(&mut self, line: &[u8], kind: LineKind) {
        if line.is_empty() {
            self.lose(1);
            return;
        }
        self.text.extend_from_slice(line);
        self.lines.push(Line {
            end: self.text.len(),
            kind,
        });
        if self.text.len() >= TEXT_BYTES {
            self.flush();
        }
    }

    /// Writes all that is gathered; what cannot be written is counted as lost.
    pub(super) fn flush(&mut self) {
        if self.text.is_empty() && self.prefix.is_empty() {
            return;
        }
        if !self.may_write() {
            self.account(0);
            return;
        }
        if !self.flush_prefix() {
            self.account(0);
            return;
        }
        let text = std::mem::take(&mut self.text);
        let written = match self.write_all(&text) {
            Progress::Done => {
                self.retry_at = None;
                text.len()
            }
            Progress::Failed(written) => self.settle(&text, written),
        };
        self.text = text;
        self.account(written);
    }

    fn flush_prefix(&mut self) -> bool {
        let prefix = std::mem::take(&mut self.prefix);
        match self.write_all(&prefix) {
            Progress::Done => true,
            Progress::Failed(written) => {
                let torn = u64::try_from(written).unwrap_or(u64::MAX);
                let whole = written == 0 || self.sink.take_back(torn);
                self.bytes -= if whole { torn } else { 0 };
                self.prefix = prefix[if whole { 0 } else { written }..].to_vec();
                false
            }
        }
    }

    /// After a failed write: takes the torn line back, or keeps its rest to be written first. Returns
    /// the bytes that count as written.
    fn settle(&mut self, text: &[u8], written: usize) -> usize {
        let whole = self.whole_lines(written).map_or(0, |line| line.end);
        if whole == written {
            return written;
        }
        let torn = u64::try_from(written - whole).unwrap_or(u64::MAX);
        if self.sink.take_back(torn) {
            self.bytes -= torn;
            return whole;
        }
        let end = self
            .lines
            .iter()
            .map(|line| line.end)
            .find(|&end| end > written);
        let end = end.unwrap_or(text.len());
        self.prefix = text[written..end].to_vec();
        end
    }

    /// The last line that ends within the first `written` bytes.
    fn whole_lines(&self, written: usize) -> Option<&Line> {
        self.lines
            .iter()
            .take_while(|line| line.end <= written)
            .last()
    }

    fn write_all(&mut self, bytes: &[u8]) -> Progress {
        let mut written = 0;
        let since = self.shared.now();
        while written < bytes.len() {
            match self.sink.write(&bytes[written..], PATIENCE) {
                Ok(0) => {
                    let stalled = self.shared.stalled_for(since);
                    if stalled >= STALL && self.stalled() {
                        return Progress::Failed(written);
                    }
                }
                Ok(n) => {
                    written += n;
                    self.bytes += u64::try_from(n).unwrap_or(u64::MAX);
                    self.shared.touch();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.failed(&error);
                    return Progress::Failed(written);
                }
            }
        }
        Progress::Done
    }

    /// Nobody reads. The lines wait here, so that they are not lost if somebody does again; request
    /// threads see no progress and stop waiting. Says whether to give up.
    fn stalled(&mut self) -> bool {
        if !self.said {
            self.said = true;
            log::error!(
                "nobody reads the trace: going on, events that find no room are counted as lost"
            );
        }
        self.gone = self.shared.closing.load(Ordering::Acquire);
        self.gone
    }

    fn failed(&mut self, error: &io::Error) {
        self.retry_at = Some(Instant::now() + RETRY);
        if !self.said {
            self.said = true;
            let errno = error.raw_os_error().map(Errno::from_raw);
            let why = errno.map_or_else(|| error.to_string(), |errno| errno.to_string());
            log::error!("cannot write the trace: {why}; going on, lost events are counted");
        }
    }

    /// Counts what was written of the gathered lines, and the rest as lost.
    fn account(&mut self, written: usize) {
        for line in self.lines.drain(..) {
            match (line.kind, line.end <= written) {
                (LineKind::Footer, _) => {}
                (LineKind::Op, true) => {
                    self.ops += 1;
                    self.events += 1;
                }
                (LineKind::Other | LineKind::Lost(_), true) => self.events += 1,
                (kind, false) => {
                    if let LineKind::Lost(count) = kind {
                        self.untold += count;
                    }
                    self.shared.lost.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        self.text.clear();
    }
}

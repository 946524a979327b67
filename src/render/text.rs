//! The text form: one line an event, in the manner of strace(1), made for grep(1).
//!
//! ```text
//! 23:35:56.123456 python3[7805] write(3</out.txt>, size=8188, offset=0) = 8188 <0.000005> fh=7 buffered 8188 (2 blocks), dirty 8188
//! ```
//!
//! Times are local times of day. Paths are below SOURCE and begin with `/`. A field that the event
//! does not have is left out.

mod op;

use std::fmt::Arguments;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::escape::{escape_bytes, escape_text, push};
use crate::error::Errno;
use crate::event::{ByteText, Cause, Discard, Event, Evict, Footer, Header, Writeback};
use crate::types::Nanos;

/// The block size where no header told one.
const BLOCK_SIZE: u64 = 4096;

/// Turns an event into one line, as a recorder takes it (`trace::Formatter`, which this layer does not know).
pub type LineFormat = Box<dyn FnMut(&Event, &mut Vec<u8>) + Send>;

/// Writes events as lines. Remembers the header's block size.
#[derive(Clone, Debug)]
pub struct Text {
    zone: TimeZone,
    block_size: u64,
    line: String,
}

impl Text {
    /// Times as the user's clock shows them (`TZ`, else the system's zone, else UTC).
    #[must_use]
    pub fn local() -> Text {
        Text::in_zone(TimeZone::system())
    }

    /// Times of UTC.
    #[must_use]
    pub fn utc() -> Text {
        Text::in_zone(TimeZone::UTC)
    }

    fn in_zone(zone: TimeZone) -> Text {
        Text {
            zone,
            block_size: BLOCK_SIZE,
            line: String::new(),
        }
    }

    /// Appends the event as one line, newline included.
    pub fn write(&mut self, event: &Event, out: &mut Vec<u8>) {
        self.line.clear();
        match event {
            Event::Header(header) => self.header(header),
            Event::Op(op) => self.op(op),
            Event::Writeback(done) => self.writeback(done),
            Event::Evict(done) => self.evict(done),
            Event::Discard(done) => self.discard(done),
            Event::Lost(lost) => {
                self.begin(lost.ts_ns, "lost");
                self.add(format_args!("{} events could not be recorded", lost.count));
            }
            Event::Resume(resume) => {
                self.begin(resume.ts_ns, "resume");
                escape_text(&resume.reason, &mut self.line);
            }
            Event::Footer(footer) => self.footer(footer),
        }
        self.line.push('\n');
        out.extend_from_slice(self.line.as_bytes());
    }

    /// As a recorder takes it.
    #[must_use]
    pub fn into_formatter(mut self) -> LineFormat {
        Box::new(move |event, out| self.write(event, out))
    }

    fn add(&mut self, text: Arguments<'_>) {
        push(&mut self.line, text);
    }

    /// `23:35:56.123456 `
    fn time(&mut self, time: Nanos) {
        let stamp = Timestamp::from_nanosecond(i128::from(time.0)).unwrap_or_default();
        let local = self.zone.to_offset(stamp).to_datetime(stamp);
        let micros = local.subsec_nanosecond() / 1000;
        self.add(format_args!(
            "{:02}:{:02}:{:02}.{micros:06} ",
            local.hour(),
            local.minute(),
            local.second()
        ));
    }

    /// `</path>`
    fn path(&mut self, path: &ByteText) {
        self.line.push_str("</");
        let bytes = path.bytes().unwrap_or_default();
        if bytes != b"." {
            escape_bytes(&bytes, &mut self.line);
        }
        self.line.push('>');
    }

    fn quoted(&mut self, bytes: &[u8]) {
        self.line.push('"');
        escape_bytes(bytes, &mut self.line);
        self.line.push('"');
    }

    /// The beginning of a line about something that iolens did itself.
    fn begin(&mut self, time: Nanos, what: &str) {
        self.time(time);
        self.add(format_args!("iolens {what} "));
    }

    fn header(&mut self, header: &Header) {
        self.block_size = header.block_size.max(1);
        self.line.push_str("# iolens ");
        escape_text(&header.version, &mut self.line);
        let facts = [
            (" records ", &header.source),
            (" at ", &header.mountpoint),
            (", policy ", &header.policy),
            (", kernel cache ", &header.kernel_cache),
            (", kernel ", &header.kernel),
        ];
        for (label, value) in facts {
            self.line.push_str(label);
            escape_text(value, &mut self.line);
        }
        for (index, word) in header.cmd.iter().flatten().enumerate() {
            self.line.push_str(if index == 0 { ": " } else { " " });
            escape_text(word, &mut self.line);
        }
        for filter in &header.filters {
            self.line.push(' ');
            escape_text(filter, &mut self.line);
        }
    }

    fn footer(&mut self, footer: &Footer) {
        self.time(footer.end_ns);
        self.add(format_args!(
            "# end: {} operations, {} lost",
            footer.ops, footer.lost
        ));
        if footer.dirty_bytes > 0 || footer.write_errors > 0 {
            let (bytes, errors) = (footer.dirty_bytes, footer.write_errors);
            self.add(format_args!(
                ", {bytes} bytes not written back, {errors} write errors"
            ));
        }
        if footer.abandoned {
            self.line.push_str(", abandoned");
        }
        self.add(format_args!(", exit {}", footer.exit));
        if let Some(status) = footer.cmd_exit {
            self.add(format_args!(", command's exit {status}"));
        }
    }

    fn writeback(&mut self, done: &Writeback) {
        self.begin_range(done.ts_ns, "writeback", &done.path, done.size, done.offset);
        self.result(done.ret, done.errno.as_deref());
        self.duration(done.dur_ns);
        self.because(done.reason.name(), done.cause);
        self.add(format_args!(
            ", {}, {} (#{}..#{}), age ",
            counted(done.blocks, "block"),
            counted(done.writes, "write"),
            done.first_seq,
            done.last_seq
        ));
        self.seconds(done.age_ns.0);
        if done.conflict {
            self.line.push_str(", conflict");
        }
    }

    fn evict(&mut self, done: &Evict) {
        self.time(done.ts_ns);
        self.line.push_str("iolens evict(");
        self.path(&done.path);
        self.add(format_args!(
            ", blocks={}) {}",
            done.blocks,
            done.reason.name()
        ));
    }

    fn discard(&mut self, done: &Discard) {
        self.begin_range(done.ts_ns, "discard", &done.path, done.size, done.offset);
        self.because(done.reason.name(), done.cause);
    }

    fn begin_range(&mut self, time: Nanos, what: &str, path: &ByteText, size: u64, offset: u64) {
        self.time(time);
        self.add(format_args!("iolens {what}("));
        self.path(path);
        self.add(format_args!(", size={size}, offset={offset})"));
    }

    fn because(&mut self, reason: &str, cause: Cause) {
        match cause {
            Cause::Op(seq) => self.add(format_args!(" {reason} for #{seq}")),
            Cause::Own(own) => self.add(format_args!(" {reason} by {}", own.name())),
        }
    }

    /// ` = 8188` or ` = -1 ENOSPC (No space left on device)`
    fn result(&mut self, ret: Option<u64>, errno: Option<&str>) {
        match (errno, ret) {
            (Some(name), _) => match Errno::from_name(name) {
                Some(errno) => self.add(format_args!(" = -1 {errno}")),
                None => {
                    self.line.push_str(" = -1 ");
                    escape_text(name, &mut self.line);
                }
            },
            (None, Some(ret)) => self.add(format_args!(" = {ret}")),
            (None, None) => self.line.push_str(" = ?"),
        }
    }

    /// ` <0.000005>`
    fn duration(&mut self, span: Nanos) {
        self.line.push_str(" <");
        self.seconds(span.0);
        self.line.push('>');
    }

    fn seconds(&mut self, nanos: u64) {
        self.add(format_args!(
            "{}.{:06}",
            nanos / 1_000_000_000,
            nanos / 1000 % 1_000_000
        ));
    }
}

/// `1 block`, `2 blocks`.
pub(super) fn counted(count: u64, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

#[cfg(test)]
mod tests;

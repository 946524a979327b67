//! The text form: one line an event, in the manner of strace(1), made for grep(1).
//!
//! ```text
//! 23:35:56.123456 python3[7805] write(3</out.txt>, size=8188, offset=0) = 8188 <0.000005> fh=7 buffered 8188 (2 blocks), dirty 8188
//! ```
//!
//! Times are local times of day. Paths are below SOURCE and begin with `/`. A field that the event
//! does not have is left out.

use std::fmt::Arguments;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::escape::{escape_bytes, escape_text, push};
use crate::error::Errno;
use crate::event::{
    ByteText, CacheDid, Caller, Cause, Discard, Event, Evict, Footer, Header, Op, OpKind, SetAttrs,
    Writeback,
};
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
            ", {} blocks, {} writes (#{}..#{}), age ",
            done.blocks, done.writes, done.first_seq, done.last_seq
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

    fn op(&mut self, op: &Op) {
        self.time(op.ts_ns);
        self.who(op);
        self.line.push_str(op.op.name());
        self.line.push('(');
        self.args(op);
        self.line.push(')');
        self.result(op.ret, op.errno.as_deref());
        if op.op == OpKind::Readlink && op.target.is_some() {
            self.line.push(' ');
            self.target(op);
        }
        self.duration(op.dur_ns);
        self.notes(op);
        self.cache(op);
    }

    /// `python3[7805] `, or `python3[7805:7810] ` for a thread other than the first.
    fn who(&mut self, op: &Op) {
        escape_text(op.comm.as_deref().unwrap_or("?"), &mut self.line);
        match (op.pid, op.tid) {
            (Some(pid), Some(tid)) if pid.0 != tid.0 => self.add(format_args!("[{pid}:{tid}] ")),
            (Some(pid), _) => self.add(format_args!("[{pid}] ")),
            (None, Some(tid)) => self.add(format_args!("[?:{tid}] ")),
            (None, None) => self.line.push_str("[?] "),
        }
    }

    fn args(&mut self, op: &Op) {
        self.object(op);
        if let Some(to) = bytes_of(op.to.as_ref(), op.to_b64.as_ref()) {
            self.line.push_str(" -> ");
            self.path(&to);
        }
        if op.op == OpKind::Symlink && op.target.is_some() {
            self.line.push_str(" -> ");
            self.target(op);
        }
        if let Some(name) = &op.name {
            self.line.push_str(", ");
            escape_text(name, &mut self.line);
        }
        for (index, flag) in op.flags.iter().enumerate() {
            self.line.push_str(if index == 0 { ", " } else { "|" });
            escape_text(flag, &mut self.line);
        }
        if let Some(mode) = op.mode {
            self.mode(op.op, mode);
        }
        if let Some(set) = &op.set {
            self.set(set);
        }
        if let Some(size) = op.size {
            self.add(format_args!(", size={size}"));
        }
        if let Some(offset) = op.offset {
            self.add(format_args!(", offset={offset}"));
        }
        self.other_end(op);
        if op.datasync {
            self.line.push_str(", datasync");
        }
    }

    /// `3</out.txt>`; without a path the inode number, `<#17>`.
    fn object(&mut self, op: &Op) {
        if let Some(fd) = op.fd {
            self.add(format_args!("{fd}"));
        }
        match (bytes_of(op.path.as_ref(), op.path_b64.as_ref()), op.ino) {
            (Some(path), _) => self.path(&path),
            (None, Some(ino)) => self.add(format_args!("<#{ino}>")),
            (None, None) => self.line.push_str("<?>"),
        }
    }

    fn target(&mut self, op: &Op) {
        if let Some(target) = bytes_of(op.target.as_ref(), op.target_b64.as_ref()) {
            self.quoted(&target.bytes().unwrap_or_default());
        }
    }

    fn mode(&mut self, kind: OpKind, mode: u32) {
        let names: &[(u32, &str)] = match kind {
            OpKind::Access => &[(4, "R_OK"), (2, "W_OK"), (1, "X_OK")],
            OpKind::Fallocate => FALLOCATE_MODES,
            _ => {
                self.add(format_args!(", {mode:04o}"));
                return;
            }
        };
        let mut left = mode;
        let mut separator = ", ";
        for &(bit, name) in names.iter().filter(|(bit, _)| mode & bit != 0) {
            self.add(format_args!("{separator}{name}"));
            separator = "|";
            left &= !bit;
        }
        match (kind, mode) {
            (OpKind::Access, 0) => self.line.push_str(", F_OK"),
            (OpKind::Fallocate, 0) => self.line.push_str(", 0"),
            _ if left != 0 => self.add(format_args!("{separator}{left:#x}")),
            _ => {}
        }
    }

    /// `, {size=0, mode=0644}`
    fn set(&mut self, set: &SetAttrs) {
        let mut separator = "";
        let mut field = |line: &mut String, text: Arguments<'_>| {
            push(line, format_args!("{separator}{text}"));
            separator = ", ";
        };
        self.line.push_str(", {");
        if let Some(size) = set.size {
            field(&mut self.line, format_args!("size={size}"));
        }
        if let Some(mode) = set.mode {
            field(&mut self.line, format_args!("mode={mode:04o}"));
        }
        if let Some(uid) = set.uid {
            field(&mut self.line, format_args!("uid={uid}"));
        }
        if let Some(gid) = set.gid {
            field(&mut self.line, format_args!("gid={gid}"));
        }
        for (name, time) in [("atime", set.atime), ("mtime", set.mtime)] {
            let stamp = time.map(|time| Timestamp::from_nanosecond(i128::from(time)));
            if let Some(Ok(stamp)) = stamp {
                field(&mut self.line, format_args!("{name}={stamp}"));
            }
        }
        self.line.push('}');
    }

    /// copy_file_range: where the bytes go.
    fn other_end(&mut self, op: &Op) {
        if let Some(path) = &op.path_out {
            self.line.push_str(" -> ");
            self.path(&ByteText {
                path: Some(path.clone()),
                path_b64: None,
            });
        }
        if let Some(offset) = op.offset_out {
            self.add(format_args!(", offset={offset}"));
        }
        if let Some(fh) = op.fh_out {
            self.add(format_args!(", fh={fh}"));
        }
    }

    fn notes(&mut self, op: &Op) {
        if let Some(fh) = op.fh {
            self.add(format_args!(" fh={fh}"));
        }
        if let Some(syscall) = op.syscall.as_deref().filter(|name| *name != op.op.name()) {
            self.line.push_str(" via ");
            escape_text(syscall, &mut self.line);
        }
        let numbers = [
            (" call=", op.call),
            (" call_size=", op.call_size),
            (" pos=", op.pos),
            (" seek_from=", op.seek_from),
            (" file_size=", op.file_size.filter(|_| changes_size(op))),
            (" entries=", op.entries),
        ];
        for (label, value) in numbers {
            if let Some(value) = value {
                self.add(format_args!("{label}{value}"));
            }
        }
        let marks = [
            (" unlinked", op.unlinked),
            (" mapped", op.mapped),
            (" page_cache", op.page_cache),
            (" by its opener", op.caller == Caller::Opener),
        ];
        for (mark, _) in marks.iter().filter(|(_, set)| *set) {
            self.line.push_str(mark);
        }
    }

    fn cache(&mut self, op: &Op) {
        let mut separator = " ";
        for did in &op.cache {
            self.line.push_str(separator);
            self.did(did);
            separator = ", ";
        }
        if let Some(dirty) = op.dirty {
            self.add(format_args!("{separator}dirty {dirty}"));
        }
    }

    fn did(&mut self, did: &CacheDid) {
        match did {
            CacheDid::Buffered {
                offset,
                size,
                overwrote,
            } => {
                let blocks = blocks(*offset, *size, self.block_size);
                let word = if blocks == 1 { "block" } else { "blocks" };
                self.add(format_args!("buffered {size} ({blocks} {word})"));
                self.extra("overwrote", *overwrote);
            }
            CacheDid::WriteThrough { size, reason } => {
                self.add(format_args!("write_through {size} ({})", reason.name()));
            }
            CacheDid::Hit {
                size,
                dirty,
                readahead,
            } => {
                self.add(format_args!("hit {size}"));
                self.extra("dirty", *dirty);
                self.extra("readahead", *readahead);
            }
            CacheDid::Miss { size } => self.add(format_args!("miss {size}")),
            CacheDid::Hole { size } => self.add(format_args!("hole {size}")),
            CacheDid::Bypass { size, reason } => {
                self.add(format_args!("bypass {size} ({})", reason.name()));
            }
            CacheDid::Readahead { size } => self.add(format_args!("readahead {size}")),
            CacheDid::Writeback { size, runs, reason } => {
                let word = if *runs == 1 { "run" } else { "runs" };
                self.add(format_args!(
                    "writeback {size} in {runs} {word} ({})",
                    reason.name()
                ));
            }
            CacheDid::Discard { size, reason } => {
                self.add(format_args!("discard {size} ({})", reason.name()));
            }
            CacheDid::Invalidate { size, reason } => {
                self.add(format_args!("invalidate {size} ({})", reason.name()));
            }
            CacheDid::Wait { ns, reason } => {
                self.line.push_str("wait ");
                self.seconds(*ns);
                self.add(format_args!(" ({})", reason.name()));
            }
        }
    }

    fn extra(&mut self, what: &str, bytes: u64) {
        if bytes > 0 {
            self.add(format_args!(" ({what} {bytes})"));
        }
    }
}

/// The bits of fallocate(2).
const FALLOCATE_MODES: &[(u32, &str)] = &[
    (0x01, "FALLOC_FL_KEEP_SIZE"),
    (0x02, "FALLOC_FL_PUNCH_HOLE"),
    (0x08, "FALLOC_FL_COLLAPSE_RANGE"),
    (0x10, "FALLOC_FL_ZERO_RANGE"),
    (0x20, "FALLOC_FL_INSERT_RANGE"),
    (0x40, "FALLOC_FL_UNSHARE_RANGE"),
];

/// Whether the size afterwards is news: of a read or write it follows from the rest of the line.
fn changes_size(op: &Op) -> bool {
    !matches!(op.op, OpKind::Read | OpKind::Write)
}

fn bytes_of(
    text: Option<&std::sync::Arc<str>>,
    b64: Option<&std::sync::Arc<str>>,
) -> Option<ByteText> {
    text.map(|text| ByteText {
        path: Some(text.clone()),
        path_b64: b64.cloned(),
    })
}

/// Blocks that a range touches.
fn blocks(offset: u64, size: u64, block_size: u64) -> u64 {
    match size.checked_sub(1) {
        None => 0,
        Some(last) => offset.saturating_add(last) / block_size - offset / block_size + 1,
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;
    use crate::event::{Lost, OwnCause, Reason, Resume, open_flag_names};
    use crate::types::{Fh, Ino, Pid, Seq, Tid};

    fn line(event: Event) -> String {
        let mut out = Vec::new();
        Text::utc().write(&event, &mut out);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.matches('\n').count(), 1);
        text.trim_end_matches('\n').to_owned()
    }

    /// An operation of python3[7805] on /out.txt that took 5 us.
    fn op(kind: OpKind, set: impl FnOnce(&mut Op)) -> String {
        let time = (23 * 3600 + 35 * 60 + 56) * 1_000_000_000 + 123_456_789;
        let mut op = Op::new(kind, Seq(1), Nanos(time));
        op.dur_ns = Nanos(5_999);
        op.path = Some("out.txt".into());
        op.comm = Some("python3".into());
        op.pid = Some(Pid(7805));
        op.tid = Some(Tid(7805));
        op.ret = Some(0);
        set(&mut op);
        line(Event::Op(Box::new(op)))
    }

    /// What follows time and process.
    fn call(kind: OpKind, set: impl FnOnce(&mut Op)) -> String {
        let text = op(kind, set);
        text.strip_prefix("23:35:56.123456 python3[7805] ")
            .expect(&text)
            .to_owned()
    }

    fn fail(op: &mut Op, errno: &'static str) {
        op.ret = None;
        op.errno = Some(errno.into());
    }

    #[test]
    fn a_buffered_write_reads_as_the_contract_shows_it() {
        let text = op(OpKind::Write, |op| {
            op.fd = Some(3);
            op.fh = Some(Fh(7));
            (op.size, op.offset, op.ret) = (Some(8188), Some(0), Some(8188));
            op.cache = vec![CacheDid::Buffered {
                offset: 0,
                size: 8188,
                overwrote: 0,
            }];
            op.dirty = Some(8188);
        });
        assert_eq!(
            text,
            "23:35:56.123456 python3[7805] write(3</out.txt>, size=8188, offset=0) = 8188 \
             <0.000005> fh=7 buffered 8188 (2 blocks), dirty 8188"
        );
    }

    #[test]
    fn failures_name_the_error_and_threads_their_process() {
        let text = op(OpKind::Write, |op| {
            op.tid = Some(Tid(7810));
            (op.size, op.offset) = (Some(1), Some(0));
            fail(op, "ENOSPC");
        });
        let expected = "python3[7805:7810] write(</out.txt>, size=1, offset=0) = -1 ENOSPC \
                        (No space left on device) <0.000005>";
        assert_eq!(text, format!("23:35:56.123456 {expected}"));
        let nobody = op(OpKind::Release, |op| {
            (op.comm, op.pid, op.tid) = (None, None, None);
            op.caller = Caller::Opener;
        });
        assert!(nobody.ends_with("?[?] release(</out.txt>) = 0 <0.000005> by its opener"));
    }

    #[test]
    fn operations_show_their_own_arguments() {
        let cases = [
            (
                call(OpKind::Create, |op| {
                    op.flags = open_flag_names(libc::O_RDWR | libc::O_CREAT);
                    (op.mode, op.fh, op.file_size) = (Some(0o644), Some(Fh(7)), Some(0));
                }),
                "create(</out.txt>, O_RDWR|O_CREAT, 0644) = 0 <0.000005> fh=7 file_size=0",
            ),
            (
                call(OpKind::Rename, |op| op.to = Some("b.txt".into())),
                "rename(</out.txt> -> </b.txt>) = 0 <0.000005>",
            ),
            (
                call(OpKind::Symlink, |op| op.set_target(OsStr::new("../x"))),
                "symlink(</out.txt> -> \"../x\") = 0 <0.000005>",
            ),
            (
                call(OpKind::Readlink, |op| {
                    op.set_target(OsStr::new("../x"));
                    op.ret = Some(4);
                }),
                "readlink(</out.txt>) = 4 \"../x\" <0.000005>",
            ),
            (
                call(OpKind::Setattr, |op| {
                    op.set = Some(Box::new(SetAttrs {
                        size: Some(0),
                        mode: Some(0o600),
                        uid: Some(1),
                        gid: Some(2),
                        atime: Some(-1_000_000_000),
                        mtime: Some(1_500_000_000),
                    }));
                }),
                "setattr(</out.txt>, {size=0, mode=0600, uid=1, gid=2, \
                 atime=1969-12-31T23:59:59Z, mtime=1970-01-01T00:00:01.5Z}) = 0 <0.000005>",
            ),
            (
                call(OpKind::Getxattr, |op| {
                    op.name = Some("user.tag".into());
                    (op.size, op.ret) = (Some(64), Some(5));
                }),
                "getxattr(</out.txt>, user.tag, size=64) = 5 <0.000005>",
            ),
            (
                call(OpKind::Lseek, |op| {
                    (op.fd, op.offset, op.ret) = (Some(3), Some(0), Some(4096));
                    op.name = Some("SEEK_DATA".into());
                }),
                "lseek(3</out.txt>, SEEK_DATA, offset=0) = 4096 <0.000005>",
            ),
            (
                call(OpKind::CopyFileRange, |op| {
                    (op.size, op.offset, op.ret) = (Some(9), Some(1), Some(9));
                    (op.path_out, op.offset_out, op.fh_out) =
                        (Some("copy".into()), Some(2), Some(Fh(8)));
                }),
                "copy_file_range(</out.txt>, size=9, offset=1 -> </copy>, offset=2, fh=8) = 9 \
                 <0.000005>",
            ),
            (
                call(OpKind::Fallocate, |op| {
                    (op.mode, op.offset, op.size) = (Some(0x83), Some(0), Some(10));
                }),
                "fallocate(</out.txt>, FALLOC_FL_KEEP_SIZE|FALLOC_FL_PUNCH_HOLE|0x80, size=10, \
                 offset=0) = 0 <0.000005>",
            ),
            (
                call(OpKind::Access, |op| op.mode = Some(6)),
                "access(</out.txt>, R_OK|W_OK) = 0 <0.000005>",
            ),
            (
                call(OpKind::Fsync, |op| op.datasync = true),
                "fsync(</out.txt>, datasync) = 0 <0.000005>",
            ),
            (
                call(OpKind::Readdir, |op| {
                    op.path = Some(".".into());
                    (op.fh, op.entries) = (Some(Fh(2)), Some(12));
                }),
                "readdir(</>) = 0 <0.000005> fh=2 entries=12",
            ),
            (
                call(OpKind::Getattr, |op| {
                    op.path = None;
                    op.ino = Some(Ino(17));
                }),
                "getattr(<#17>) = 0 <0.000005>",
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(text, expected);
        }
    }

    #[test]
    fn every_kind_of_operation_shows_its_name() {
        for &kind in OpKind::ALL {
            let text = call(kind, |_| {});
            assert_eq!(text, format!("{}(</out.txt>) = 0 <0.000005>", kind.name()));
        }
    }

    #[test]
    fn what_the_caller_and_the_buffer_did_is_noted() {
        let text = call(OpKind::Read, |op| {
            op.syscall = Some("readv".into());
            (op.call, op.call_size, op.pos, op.seek_from) = (Some(4), Some(99), Some(5), Some(6));
            (op.unlinked, op.mapped, op.page_cache) = (true, true, true);
            op.file_size = Some(100);
            op.cache = vec![
                CacheDid::Wait {
                    ns: 1_200_000,
                    reason: Reason::DirtyLimit,
                },
                CacheDid::Hit {
                    size: 5,
                    dirty: 2,
                    readahead: 0,
                },
                CacheDid::Miss { size: 6 },
                CacheDid::Hole { size: 7 },
                CacheDid::Bypass {
                    size: 8,
                    reason: Reason::Policy,
                },
                CacheDid::Readahead { size: 9 },
                CacheDid::WriteThrough {
                    size: 1,
                    reason: Reason::OSync,
                },
                CacheDid::Writeback {
                    size: 2,
                    runs: 1,
                    reason: Reason::Fsync,
                },
                CacheDid::Discard {
                    size: 3,
                    reason: Reason::Truncate,
                },
                CacheDid::Invalidate {
                    size: 4,
                    reason: Reason::ChangedBelow,
                },
                CacheDid::Buffered {
                    offset: 4095,
                    size: 2,
                    overwrote: 1,
                },
            ];
        });
        assert_eq!(
            text,
            "read(</out.txt>) = 0 <0.000005> via readv call=4 call_size=99 pos=5 seek_from=6 unlinked \
             mapped page_cache wait 0.001200 (dirty_limit), hit 5 (dirty 2), miss 6, hole 7, \
             bypass 8 (policy), readahead 9, write_through 1 (o_sync), writeback 2 in 1 run (fsync), \
             discard 3 (truncate), invalidate 4 (changed_below), buffered 2 (2 blocks) (overwrote 1)"
        );
    }

    #[test]
    fn hostile_names_stay_on_their_line() {
        let name = OsStr::from_bytes(b"a\nb\x1b[31m\"'<\xff>\\ \xe2\x80\xae");
        let text = call(OpKind::Rename, |op| {
            op.set_path(ByteText::new(name));
            op.set_to(ByteText::new(name));
            op.comm = Some("python3".into());
        });
        let escaped = r#"</a\nb\x1b[31m\"'\x3c\xff\x3e\\ \u{202e}>"#;
        assert_eq!(
            text,
            format!("rename({escaped} -> {escaped}) = 0 <0.000005>")
        );
        let comm = op(OpKind::Read, |op| op.comm = Some("\x1b]0;x\x07\n".into()));
        assert!(comm.contains(r"\x1b]0;x\x07\n[7805] read("), "{comm}");
    }

    #[test]
    fn what_iolens_does_itself_has_lines_too() {
        let path = ByteText::new(OsStr::new("out.txt"));
        let done = Writeback {
            ts_ns: Nanos(1_000_000_000),
            dur_ns: Nanos(2000),
            path: path.clone(),
            size: 8192,
            ret: Some(8192),
            blocks: 2,
            reason: Reason::Fsync,
            cause: Cause::Op(Seq(9)),
            writes: 3,
            first_seq: Seq(4),
            last_seq: Seq(8),
            age_ns: Nanos(1_500_000_000),
            conflict: true,
            ..Writeback::default()
        };
        let failed = Writeback {
            ret: None,
            errno: Some("EIO".into()),
            cause: Cause::Own(OwnCause::Unmount),
            conflict: false,
            ..done.clone()
        };
        let ts_ns = Nanos(2_000_000_000);
        let evict = Evict {
            ts_ns,
            path: path.clone(),
            blocks: 4,
            reason: Reason::Memory,
            ..Evict::default()
        };
        let discard = Discard {
            ts_ns,
            path,
            offset: 1,
            size: 2,
            reason: Reason::Unlink,
            ..Discard::default()
        };
        let resume = Resume {
            seq: Seq(1),
            ts_ns,
            reason: "killed\n".into(),
        };
        let cases = [
            (
                Event::Writeback(Box::new(done)),
                "00:00:01.000000 iolens writeback(</out.txt>, size=8192, offset=0) = 8192 <0.000002> \
                 fsync for #9, 2 blocks, 3 writes (#4..#8), age 1.500000, conflict",
            ),
            (
                Event::Writeback(Box::new(failed)),
                "00:00:01.000000 iolens writeback(</out.txt>, size=8192, offset=0) = -1 EIO \
                 (Input/output error) <0.000002> fsync by unmount, 2 blocks, 3 writes (#4..#8), \
                 age 1.500000",
            ),
            (
                Event::Evict(Box::new(evict)),
                "00:00:02.000000 iolens evict(</out.txt>, blocks=4) memory",
            ),
            (
                Event::Discard(Box::new(discard)),
                "00:00:02.000000 iolens discard(</out.txt>, size=2, offset=1) unlink by timer",
            ),
            (
                Event::Lost(Lost {
                    seq: Seq(1),
                    ts_ns,
                    count: 5,
                }),
                "00:00:02.000000 iolens lost 5 events could not be recorded",
            ),
            (
                Event::Resume(resume),
                r"00:00:02.000000 iolens resume killed\n",
            ),
            (
                Event::Footer(Box::new(Footer {
                    ops: 3,
                    lost: 1,
                    dirty_bytes: 7,
                    write_errors: 2,
                    abandoned: true,
                    exit: 3,
                    cmd_exit: Some(1),
                    ..Footer::default()
                })),
                "00:00:00.000000 # end: 3 operations, 1 lost, 7 bytes not written back, \
                 2 write errors, abandoned, exit 3, command's exit 1",
            ),
        ];
        for (event, expected) in cases {
            assert_eq!(line(event), expected);
        }
    }

    #[test]
    fn the_header_is_one_short_line_and_tells_the_block_size() {
        let header = Header {
            version: "0.1.0".into(),
            source: "/src".into(),
            mountpoint: "/m\n".into(),
            kernel: "6.12".into(),
            kernel_cache: "off".into(),
            policy: "write-back".into(),
            block_size: 1 << 16,
            cmd: Some(vec!["sh".into(), "-c".into(), "\x1b".into()]),
            ..Header::default()
        };
        let mut text = Text::utc();
        let mut out = Vec::new();
        text.write(&Event::Header(Box::new(header)), &mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "# iolens 0.1.0 records /src at /m\\n, policy write-back, kernel cache off, kernel 6.12: \
             sh -c \\x1b\n"
        );
        assert_eq!(text.block_size, 1 << 16);
        assert_eq!(blocks(0, 1 << 17, text.block_size), 2);
        assert_eq!(blocks(5, 0, 4096), 0);
    }
}

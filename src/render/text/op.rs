//! The line of an operation.

use std::fmt::Arguments;
use std::sync::Arc;

use jiff::Timestamp;

use super::{Text, counted};
use crate::event::{ByteText, CacheDid, Caller, Op, OpKind, SetAttrs};
use crate::render::escape::{escape_text, push};

impl Text {
    pub(super) fn op(&mut self, op: &Op) {
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
        // Most calls are one request.
        let whole =
            op.call == Some(op.seq.0) && op.call_size.is_none_or(|size| op.size == Some(size));
        let numbers = [
            (" call=", op.call.filter(|_| !whole)),
            (" call_size=", op.call_size.filter(|_| !whole)),
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
        // None is news only where some were there.
        let news = |did: &CacheDid| {
            use CacheDid::{Buffered, Discard, Writeback};
            matches!(did, Buffered { .. } | Discard { .. } | Writeback { .. })
        };
        if let Some(dirty) = op.dirty.filter(|n| *n > 0 || op.cache.iter().any(news)) {
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
                let blocks = counted(blocks, "block");
                self.add(format_args!("buffered {size} ({blocks})"));
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
                let runs = counted(*runs, "run");
                self.add(format_args!(
                    "writeback {size} in {runs} ({})",
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

fn bytes_of(text: Option<&Arc<str>>, b64: Option<&Arc<str>>) -> Option<ByteText> {
    text.map(|text| ByteText {
        path: Some(text.clone()),
        path_b64: b64.cloned(),
    })
}

/// Blocks that a range touches.
pub(super) fn blocks(offset: u64, size: u64, block_size: u64) -> u64 {
    match size.checked_sub(1) {
        None => 0,
        Some(last) => offset.saturating_add(last) / block_size - offset / block_size + 1,
    }
}

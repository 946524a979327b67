//! The files, and what answers about them say (include/uapi/linux/fuse.h).

use std::collections::HashMap;
use std::sync::Mutex;

/// Opcodes.
mod op {
    pub(super) const LOOKUP: u32 = 1;
    pub(super) const FORGET: u32 = 2;
    pub(super) const GETATTR: u32 = 3;
    pub(super) const SETATTR: u32 = 4;
    pub(super) const OPEN: u32 = 14;
    pub(super) const READ: u32 = 15;
    pub(super) const WRITE: u32 = 16;
    pub(super) const RELEASE: u32 = 18;
    pub(super) const FLUSH: u32 = 25;
    pub(super) const INTERRUPT: u32 = 36;
    pub(super) const CREATE: u32 = 35;
    pub(super) const BATCH_FORGET: u32 = 42;
}

const ROOT: u64 = 1;
/// `FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES`: each call asks.
const OPENED: u32 = 1 | 1 << 6;

/// A request: its first argument, and what comes behind it.
pub(crate) struct Asked<'a> {
    pub(crate) opcode: u32,
    pub(crate) node: u64,
    pub(crate) argument: &'a [u8],
    pub(crate) rest: &'a [u8],
}

/// An answer: so many bytes are said, or an errno, or nobody waits for one.
pub(crate) enum Answer {
    Said(usize),
    Failed(i32),
    None,
}

/// Names in the root directory, and sizes by number.
#[derive(Default)]
pub(crate) struct Files(Mutex<State>);

#[derive(Default)]
struct State {
    names: HashMap<Vec<u8>, u64>,
    /// The first has number 2.
    sizes: Vec<u64>,
}

/// Bytes of the operation's first argument where it comes in front of names and data.
pub(crate) fn argument_bytes(opcode: u32) -> usize {
    match opcode {
        op::LOOKUP => 0,
        op::CREATE | op::GETATTR => 16,
        op::OPEN => 8,
        op::SETATTR => 88,
        op::READ | op::WRITE => 40,
        op::RELEASE | op::FLUSH => 24,
        _ => 0,
    }
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let field = bytes
        .get(at..at + 4)
        .map_or([0; 4], |b| b.try_into().expect("four bytes"));
    u32::from_ne_bytes(field)
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let field = bytes
        .get(at..at + 8)
        .map_or([0; 8], |b| b.try_into().expect("eight bytes"));
    u64::from_ne_bytes(field)
}

struct Out<'a> {
    bytes: &'a mut [u8],
    len: usize,
}

impl Out<'_> {
    fn put(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    fn u32(&mut self, number: u32) {
        self.put(&number.to_ne_bytes());
    }

    fn u64(&mut self, number: u64) {
        self.put(&number.to_ne_bytes());
    }

    /// `struct fuse_attr`.
    fn attr(&mut self, node: u64, size: u64) {
        self.u64(node);
        self.u64(size);
        for _ in 0..4 {
            self.u64(0);
        }
        for _ in 0..3 {
            self.u32(0);
        }
        self.u32(if node == ROOT { 0o40755 } else { 0o100_644 });
        self.u32(1);
        for _ in 0..5 {
            self.u32(0);
        }
    }

    /// `struct fuse_attr_out`, asked for each time.
    fn attr_out(&mut self, node: u64, size: u64) {
        self.u64(0);
        self.u64(0);
        self.attr(node, size);
    }

    /// `struct fuse_entry_out`, asked for each time.
    fn entry(&mut self, node: u64, size: u64) {
        self.u64(node);
        for _ in 0..4 {
            self.u64(0);
        }
        self.attr(node, size);
    }

    /// `struct fuse_open_out`.
    fn opened(&mut self) {
        self.u64(1);
        self.u32(OPENED);
        self.u32(0);
    }
}

fn name(bytes: &[u8]) -> Vec<u8> {
    bytes
        .iter()
        .copied()
        .take_while(|byte| *byte != 0)
        .collect()
}

impl Files {
    /// Answers a request into `out`.
    pub(crate) fn answer(&self, asked: &Asked<'_>, out: &mut [u8]) -> Answer {
        let mut out = Out { bytes: out, len: 0 };
        match asked.opcode {
            op::WRITE => {
                // fh, offset, size
                let size = u32_at(asked.argument, 16);
                let mut state = self.lock();
                let end = u64_at(asked.argument, 8) + u64::from(size);
                if let Some(known) = state.size(asked.node) {
                    *known = (*known).max(end);
                }
                out.u32(size);
                out.u32(0);
            }
            op::READ => {
                let offset = u64_at(asked.argument, 8);
                let size = u64::from(u32_at(asked.argument, 16));
                let end = self.lock().size(asked.node).map_or(0, |size| *size);
                let there = size.min(end.saturating_sub(offset));
                // Zeros, or whatever is there.
                out.len = usize::try_from(there).unwrap_or(0);
            }
            op::GETATTR | op::SETATTR => {
                let size = self.lock().size(asked.node).map_or(0, |size| *size);
                out.attr_out(asked.node, size);
            }
            op::LOOKUP => {
                let mut state = self.lock();
                let Some(&node) = state.names.get(&name(asked.rest)) else {
                    return Answer::Failed(libc::ENOENT);
                };
                let size = state.size(node).map_or(0, |size| *size);
                out.entry(node, size);
            }
            op::CREATE => {
                let node = self.lock().make(name(asked.rest));
                out.entry(node, 0);
                out.opened();
            }
            op::OPEN => out.opened(),
            op::FLUSH | op::RELEASE => {}
            op::FORGET | op::BATCH_FORGET | op::INTERRUPT => return Answer::None,
            _ => return Answer::Failed(libc::ENOSYS),
        }
        Answer::Said(out.len)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().expect("no thread panics")
    }
}

impl State {
    fn size(&mut self, node: u64) -> Option<&mut u64> {
        let index = usize::try_from(node.checked_sub(2)?).ok()?;
        self.sizes.get_mut(index)
    }

    fn make(&mut self, name: Vec<u8>) -> u64 {
        self.sizes.push(0);
        let node = self.sizes.len() as u64 + 1;
        self.names.insert(name, node);
        node
    }
}

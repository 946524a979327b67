//! Reading: what is there, what must be fetched, and putting in what was fetched.

use super::file::{FileCache, Part, parts};
use super::record::Block;
use super::walk::Walk;
use super::{Memory, Storage};
use crate::types::{ByteRange, Slot};

/// What a read found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadPlan {
    /// Bytes that the read has: fewer than asked for only at the logical end of the file.
    pub len: usize,
    /// Bytes that were in the buffer and are in the output now.
    pub hit: u64,
    /// Of these, bytes that SOURCE does not have yet.
    pub dirty: u64,
    /// Of these, bytes that read-ahead had fetched.
    pub ahead: u64,
    /// Bytes between SOURCE's end and the logical one that nobody wrote: zeros, in the output now.
    pub hole: u64,
    /// What is to be fetched from SOURCE, in order, not touching each other.
    pub missing: Vec<ByteRange>,
    /// The blocks that were hit.
    pub touched: Vec<Slot>,
    /// The file's epoch when this was found.
    pub epoch: u64,
}

/// What became of a fetched block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filled {
    /// It is the file's now, and clean.
    Kept,
    /// The slot is free again: its bytes went to a block that was there already, or are no longer true.
    Returned,
}

impl FileCache {
    /// Reads `range` into `out` (as long as the range), as far as the buffer has it.
    pub fn read<M: Memory>(
        &self,
        storage: Storage<'_, M>,
        range: ByteRange,
        out: &mut [u8],
    ) -> ReadPlan {
        let range = range.intersect(ByteRange {
            start: 0,
            end: self.size,
        });
        let mut plan = ReadPlan {
            epoch: self.epoch,
            len: usize::try_from(range.len()).expect("no longer than the output"),
            ..ReadPlan::default()
        };
        let mut reader = Reader {
            file: self,
            walk: Walk::over(&self.blocks),
            storage,
            plan: &mut plan,
            start: range.start,
            out: &mut out[..usize::try_from(range.len()).expect("as above")],
        };
        for part in parts(range, storage.memory.block_size()) {
            reader.part(part);
        }
        plan
    }

    /// Puts in a block that was fetched into `slot`, whose first `got` bytes are SOURCE's. `epoch` is that
    /// of the plan that asked for it. Bytes that the block has already are newer and stay.
    pub fn fill<M: Memory>(
        &mut self,
        storage: Storage<'_, M>,
        (index, slot, got): (u64, Slot, usize),
        epoch: u64,
        ahead: bool,
    ) -> Filled {
        let start = index * storage.memory.block_size() as u64;
        let inside = usize::try_from(self.size.saturating_sub(start)).unwrap_or(usize::MAX);
        let got = got.min(inside);
        if epoch != self.epoch || got == 0 {
            return Filled::Returned;
        }
        let Some(&present) = self.blocks.get(&index) else {
            let mut block = Block {
                owner: self.id,
                index,
                ahead,
                ..Block::default()
            };
            block.know(0, got);
            storage.records.store(slot, &block);
            self.blocks.insert(index, slot);
            return Filled::Kept;
        };
        let mut block = storage.records.load(present);
        if !block.writing {
            let mut newer = self.bits_in(storage, index, present, &block);
            newer.set(got, super::BLOCK_MAX);
            copy_gaps(storage.memory, slot, present, &newer, got);
            let known_end = usize::from(block.known.1);
            let touches = usize::from(block.known.0) <= got && !block.knows_nothing();
            block.know(0, if touches { got.max(known_end) } else { got });
            storage.records.store(present, &block);
        }
        Filled::Returned
    }

    /// The bytes of a block that are true.
    fn bits_in<M: Memory>(
        &self,
        storage: Storage<'_, M>,
        index: u64,
        slot: Slot,
        block: &Block,
    ) -> super::Bits {
        let mut bits = block.dirty.bits(storage.memory, slot);
        bits.set(block.known.0.into(), block.known.1.into());
        if let Some((old, marks)) = self.written_out(storage, index) {
            bits.unite(&marks.bits(storage.memory, old));
        }
        bits
    }
}

/// Copies what `newer` has not, of the first `got` bytes.
fn copy_gaps<M: Memory>(memory: &M, from: Slot, to: Slot, newer: &super::Bits, got: usize) {
    let mut gaps = super::Bits::default();
    gaps.set(0, got);
    newer.ranges(0, got).for_each(|(lo, hi)| gaps.clear(lo, hi));
    let mut buffer = [0; super::BLOCK_MAX];
    for (lo, hi) in gaps.ranges(0, got) {
        let bytes = &mut buffer[..hi - lo];
        memory.read(from, lo, bytes);
        memory.write(to, lo, bytes);
    }
}

struct Reader<'a, M> {
    file: &'a FileCache,
    walk: Walk<'a>,
    storage: Storage<'a, M>,
    plan: &'a mut ReadPlan,
    start: u64,
    out: &'a mut [u8],
}

impl<M: Memory> Reader<'_, M> {
    fn part(&mut self, part: Part) {
        let Some(slot) = self.walk.find(part.index) else {
            self.absent(part);
            return;
        };
        let mut block = self.storage.records.load(slot);
        let before = self.plan.hit;
        if usize::from(block.known.0) <= part.lo && part.hi <= usize::from(block.known.1) {
            self.hit(part, slot);
        } else {
            let bits = self.file.bits_in(self.storage, part.index, slot, &block);
            let mut at = part.lo;
            for (lo, hi) in bits.ranges(part.lo, part.hi) {
                self.absent(Part {
                    lo: at,
                    hi: lo,
                    ..part
                });
                self.hit(Part { lo, hi, ..part }, slot);
                at = hi;
            }
            self.absent(Part { lo: at, ..part });
        }
        self.count_dirty(part, slot, &block);
        if self.plan.hit > before {
            self.plan.touched.push(slot);
            if block.ahead {
                self.plan.ahead += self.plan.hit - before;
                block.ahead = part.hi < usize::from(block.known.1);
                self.storage.records.store(slot, &block);
            }
        }
    }

    /// Dirty bytes of a part, each once: a byte may be dirty again while it is under writeback.
    fn count_dirty(&mut self, part: Part, slot: Slot, block: &Block) {
        let memory = self.storage.memory;
        let old = match block.writing {
            true => None,
            false => self.file.written_out(self.storage, part.index),
        };
        let count = match old {
            None => block.dirty.count(part.lo, part.hi, memory, slot),
            Some((old, marks)) => {
                let mut bits = block.dirty.bits(memory, slot);
                bits.unite(&marks.bits(memory, old));
                bits.count(part.lo, part.hi)
            }
        };
        self.plan.dirty += count as u64;
    }

    fn hit(&mut self, part: Part, slot: Slot) {
        let out = Self::output(self.start, self.out, part, self.storage.memory.block_size());
        self.plan.hit += out.len() as u64;
        self.storage.memory.read(slot, part.lo, out);
    }

    /// Bytes that no block has: SOURCE has them, or nobody.
    fn absent(&mut self, part: Part) {
        let size = self.storage.memory.block_size();
        let out = Self::output(self.start, self.out, part, size);
        let start = part.index * size as u64 + part.lo as u64;
        let range = ByteRange::at(start, out.len() as u64);
        let below = range.intersect(ByteRange {
            start: 0,
            end: self.file.source_size,
        });
        let beyond = range.len() - below.len();
        let fetched = usize::try_from(below.len()).expect("within a block");
        out[fetched..].fill(0);
        self.plan.hole += beyond;
        match self.plan.missing.last_mut() {
            _ if below.is_empty() => {}
            Some(last) if last.end == below.start => last.end = below.end,
            _ => self.plan.missing.push(below),
        }
    }

    fn output(start: u64, out: &mut [u8], part: Part, block_size: usize) -> &mut [u8] {
        let at = part.index * block_size as u64 + part.lo as u64 - start;
        let at = usize::try_from(at).expect("within the output");
        &mut out[at..at + (part.hi - part.lo)]
    }
}

//! The cache's memory on arenas: one for the blocks, one for their bits.

use std::ops::Range;

use crate::cache::{Bits, Memory};
use crate::sys::{Arena, ArenaEdit, ArenaView, SysResult};
use crate::types::Slot;

use super::BLOCK_SIZE;

/// Blocks of [`BLOCK_SIZE`] bytes in anonymous memory, which is touched only as it is used.
#[derive(Debug)]
pub(super) struct ArenaMemory {
    blocks: Arena,
    bits: Arena,
}

impl ArenaMemory {
    pub(super) fn new(slots: u32) -> SysResult<ArenaMemory> {
        Ok(ArenaMemory {
            blocks: Arena::new(slots, BLOCK_SIZE)?,
            bits: Arena::new(slots, BLOCK_SIZE / 8)?,
        })
    }

    /// Has the system provide the memory of so many blocks, from this one on, without a change of what is in it.
    ///
    /// # Errors
    /// Those of [`Arena::provide`].
    pub(super) fn provide(&self, first: Slot, count: u32) -> SysResult<()> {
        self.blocks.provide(first, count)
    }

    /// A block's bytes, for as long as nobody changes them.
    pub(super) fn view(&self, slot: Slot) -> ArenaView<'_> {
        self.blocks.view(slot)
    }

    /// A block's bytes, for whoever has it alone.
    pub(super) fn edit(&self, slot: Slot) -> ArenaEdit<'_> {
        self.blocks.edit(slot)
    }
}

impl Memory for ArenaMemory {
    fn block_size(&self) -> usize {
        BLOCK_SIZE
    }

    fn read(&self, slot: Slot, at: usize, out: &mut [u8]) {
        let range: Range<usize> = at..at + out.len();
        out.copy_from_slice(&self.blocks.view(slot)[range]);
    }

    fn write(&self, slot: Slot, at: usize, data: &[u8]) {
        self.blocks.edit(slot)[at..at + data.len()].copy_from_slice(data);
    }

    fn copy(&self, from: Slot, to: Slot) {
        let from = self.blocks.view(from);
        self.blocks.edit(to).copy_from_slice(&from);
    }

    fn bits(&self, slot: Slot) -> Bits {
        let mut bits = Bits::default();
        let bytes = self.bits.view(slot);
        for (word, bytes) in bits.0.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_ne_bytes(bytes.try_into().unwrap_or_default());
        }
        bits
    }

    fn store_bits(&self, slot: Slot, bits: &Bits) {
        let mut bytes = self.bits.edit(slot);
        for (word, bytes) in bits.0.iter().zip(bytes.chunks_exact_mut(8)) {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
    }
}

//! What is dirty, told from the memory and the records alone: for whoever finds them after the process that
//! kept them was killed, and with it all its indexes.
//!
//! Layer: pure. What makes it exact: the state of a record is one word, a write that was not over is taken
//! back first ([`Undo::roll_back`](super::Undo::roll_back)), a slot with dirty bytes is cleared before it is
//! let go of, and of a block in state *rewritten* the bytes under writeback are older than the others.

use super::record::Block;
use super::writeback::{Run, add_runs};
use super::{Memory, Storage};
use crate::types::{FileId, OwnFd, Slot};

/// The dirty bytes of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survivors {
    /// Whose they are.
    pub file: FileId,
    /// How they reach SOURCE.
    pub via: Option<OwnFd>,
    /// In the order in which they have to be written: those that were under writeback, then the others, each in file
    /// order.
    pub runs: Vec<Run>,
}

/// Everything that is dirty, by file.
pub fn survey<M: Memory>(storage: Storage<'_, M>) -> Vec<Survivors> {
    let mut found: Vec<(Slot, Block)> = (0..u32::MAX)
        .map(Slot)
        .take(storage.records.slots())
        .filter(|slot| storage.records.is_dirty(*slot))
        .map(|slot| (slot, storage.records.load(slot)))
        .collect();
    found.sort_by_key(|(_, block)| (block.owner, !block.writing, block.index));
    let mut files: Vec<Survivors> = Vec::new();
    for of_file in found.chunk_by(|(_, one), (_, next)| one.owner == next.owner) {
        let (_, first) = of_file[0];
        let mut runs = Vec::new();
        for part in of_file.chunk_by(|(_, one), (_, next)| one.writing == next.writing) {
            let mut these = Vec::new();
            for (slot, block) in part {
                add_runs(&mut these, storage.memory, *slot, block);
            }
            runs.append(&mut these);
        }
        files.push(Survivors {
            file: first.owner,
            via: of_file.iter().find_map(|(_, block)| block.via),
            runs,
        });
    }
    files
}

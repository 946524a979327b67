//! The dirty bytes of one file as a trace tells them: which operation buffered each, and when.

use std::collections::BTreeMap;

/// Who buffered a byte. Of writes that overlap in time nobody knows whose byte it is; then this is the
/// earlier number and the later answer, which errs towards no breach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) seq: u64,
    pub(super) start: u64,
    pub(super) end: u64,
}

impl Origin {
    /// Whose byte it is after `newer` was written over it.
    fn overwritten(self, newer: Origin) -> Origin {
        if newer.start >= self.end {
            newer
        } else if self.start >= newer.end {
            self
        } else {
            Origin {
                seq: self.seq.min(newer.seq),
                start: self.start.min(newer.start),
                end: self.end.max(newer.end),
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    end: u64,
    origin: Origin,
}

/// Disjoint ranges of bytes.
#[derive(Clone, Debug, Default)]
pub(super) struct DirtyMap {
    pieces: BTreeMap<u64, Piece>,
}

impl DirtyMap {
    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Bytes were buffered.
    pub(super) fn insert(&mut self, offset: u64, size: u64, origin: Origin) {
        let end = offset.saturating_add(size);
        let mut at = offset;
        for (start, piece) in self.cut(offset, end) {
            if at < start {
                self.put(at, start, origin);
            }
            self.put(start, piece.end, piece.origin.overwritten(origin));
            at = piece.end;
        }
        if at < end {
            self.put(at, end, origin);
        }
    }

    /// Bytes are no longer dirty, as far as they were buffered by operations up to `last_seq`.
    pub(super) fn remove(&mut self, offset: u64, size: u64, last_seq: u64) {
        for (start, piece) in self.cut(offset, offset.saturating_add(size)) {
            if piece.origin.seq > last_seq {
                self.put(start, piece.end, piece.origin);
            }
        }
    }

    /// Bytes whose buffering was answered before `time`: how many, and the first of them.
    pub(super) fn older_than(&self, time: u64) -> Option<(u64, u64, Origin)> {
        let mut old = self
            .pieces
            .iter()
            .filter(|(_, piece)| piece.origin.end < time);
        let (&offset, first) = old.next()?;
        // Pieces do not overlap: all together are no more than a u64 counts.
        let more: u64 = old.map(|(start, piece)| piece.end - start).sum();
        Some((first.end - offset + more, offset, first.origin))
    }

    /// Takes out what lies in `start..end`, cutting pieces that reach beyond.
    fn cut(&mut self, start: u64, end: u64) -> Vec<(u64, Piece)> {
        if start >= end {
            return Vec::new();
        }
        self.split_at(start);
        self.split_at(end);
        let keys: Vec<u64> = self.pieces.range(start..end).map(|(&key, _)| key).collect();
        keys.iter()
            .filter_map(|key| self.pieces.remove_entry(key))
            .collect()
    }

    fn split_at(&mut self, at: u64) {
        let Some((_, piece)) = self.pieces.range_mut(..at).next_back() else {
            return;
        };
        if piece.end > at {
            let tail = *piece;
            piece.end = at;
            self.pieces.insert(at, tail);
        }
    }

    /// Puts a piece, joined with its left neighbour where both are of one origin.
    fn put(&mut self, start: u64, end: u64, origin: Origin) {
        if let Some((_, left)) = self.pieces.range_mut(..start).next_back()
            && left.end == start
            && left.origin == origin
        {
            left.end = end;
            return;
        }
        self.pieces.insert(start, Piece { end, origin });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seq: u64) -> Origin {
        Origin {
            seq,
            start: 10 * seq,
            end: 10 * seq + 5,
        }
    }

    #[test]
    fn of_overlapping_writes_the_earlier_number_stays() {
        let mut map = DirtyMap::default();
        map.insert(
            0,
            10,
            Origin {
                seq: 1,
                start: 0,
                end: 100,
            },
        );
        map.insert(
            0,
            10,
            Origin {
                seq: 2,
                start: 50,
                end: 60,
            },
        );
        map.remove(0, 10, 1);
        assert!(map.is_empty());
    }

    proptest! {
        #[test]
        fn it_is_an_array_of_bytes(
            steps in proptest::collection::vec((any::<bool>(), 0u8..40, 0u8..20, 0u64..9), 1..60)
        ) {
            let mut map = DirtyMap::default();
            let mut model = [None::<Origin>; 64];
            for (index, (insert, offset, size, back)) in steps.into_iter().enumerate() {
                let seq = index as u64 + 1;
                let range = usize::from(offset)..usize::from(offset + size);
                let (offset, size) = (u64::from(offset), u64::from(size));
                if insert {
                    map.insert(offset, size, at(seq));
                    model[range].fill(Some(at(seq)));
                } else {
                    let last = seq.saturating_sub(back);
                    map.remove(offset, size, last);
                    for byte in &mut model[range] {
                        *byte = byte.filter(|origin| origin.seq > last);
                    }
                }
                prop_assert_eq!(map.is_empty(), model.iter().all(Option::is_none));
                let limit = 10 * seq;
                let old: Vec<usize> =
                    (0..64).filter(|&n| model[n].is_some_and(|origin| origin.end < limit)).collect();
                let told = map.older_than(limit).map(|(count, first, _)| (count, first));
                prop_assert_eq!(told, old.first().map(|&first| (old.len() as u64, first as u64)));
            }
        }
    }
}

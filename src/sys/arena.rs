//! Memory for the blocks of the buffer cache: one anonymous mapping, cut into equally large pieces,
//! each lent out for reading or for writing. A process forked after it was made shares it (`MAP_SHARED`), and
//! so what is in it outlives the one that put it there; the leases do not.
//!
//! Layer: vocabulary. It knows nothing of files, blocks or eviction: which piece holds what is for
//! its user to say. It only makes sure that no piece is read while it is written, by a lease per
//! piece, so that the memory is safe to use from any number of threads whatever its user does.
//!
//! A lease never waits. Two leases that exclude each other mean that the user lost track of who has
//! a piece, and that is a bug: the second one panics.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::{AtomicU32, Ordering};

use super::SysResult;
use crate::error::Errno;
use crate::types::Slot;

/// The lease of a piece that nobody has.
const FREE: u32 = 0;
/// The lease of a piece that is being edited; every number between counts its viewers.
const EDITED: u32 = u32::MAX;

/// Memory for equally large pieces, each addressed by its [`Slot`]. The system provides a page of it
/// when it is first written to; until then its bytes are zero.
pub struct Arena {
    base: NonNull<u8>,
    piece: usize,
    /// One per piece: [`FREE`], the number of viewers, or [`EDITED`].
    leases: Box<[AtomicU32]>,
}

// SAFETY: the mapping belongs to the arena alone and is not bound to a thread; its bytes are only
// reached through leases, which give out either one exclusive or only shared references.
unsafe impl Send for Arena {}
// SAFETY: as above; the leases are atomic.
unsafe impl Sync for Arena {}

impl Arena {
    /// Address space for `slots` pieces of `piece` bytes. No memory is set aside for it
    /// (`MAP_NORESERVE`, man 2 mmap), except four bytes for the lease of each piece.
    ///
    /// # Errors
    /// `EINVAL` for no slots or empty pieces; `ENOMEM` where the address space has no room.
    pub fn new(slots: u32, piece: usize) -> SysResult<Arena> {
        if slots == 0 || piece == 0 {
            return Err(Errno::EINVAL);
        }
        let count = usize::try_from(slots).map_err(|_| Errno::ENOMEM)?;
        // No object may be larger than isize::MAX bytes: offsets into it would overflow.
        let bytes = count
            .checked_mul(piece)
            .filter(|bytes| isize::try_from(*bytes).is_ok())
            .ok_or(Errno::ENOMEM)?;
        let mut leases = Vec::new();
        leases.try_reserve_exact(count).map_err(|_| Errno::ENOMEM)?;
        let base = map(bytes)?;
        leases.resize_with(count, || AtomicU32::new(FREE));
        Ok(Arena {
            base,
            piece,
            leases: leases.into_boxed_slice(),
        })
    }

    /// Number of pieces, at least one.
    #[must_use]
    pub fn slots(&self) -> u32 {
        u32::try_from(self.leases.len()).expect("an arena is made with a u32 of slots")
    }

    /// Bytes in each piece, at least one.
    #[must_use]
    pub fn piece(&self) -> usize {
        self.piece
    }

    /// Lends a piece for reading, to as many as ask.
    ///
    /// # Panics
    /// Where the piece is being edited, or there is no such slot: both are bugs of the caller.
    #[must_use]
    pub fn view(&self, slot: Slot) -> View<'_> {
        let index = self.index(slot);
        let lease = &self.leases[index];
        let mut seen = lease.load(Ordering::Relaxed);
        loop {
            assert!(
                seen != EDITED,
                "slot {slot} is being edited and cannot be viewed"
            );
            assert!(seen != EDITED - 1, "slot {slot} has too many viewers");
            // Acquire: what the last editor wrote is seen. An increment without the comparison would
            // for a moment turn an editor's mark into FREE.
            let taken =
                lease.compare_exchange_weak(seen, seen + 1, Ordering::Acquire, Ordering::Relaxed);
            match taken {
                Ok(_) => return View { arena: self, index },
                Err(now) => seen = now,
            }
        }
    }

    /// Lends a piece for reading and writing, to one alone.
    ///
    /// # Panics
    /// Where the piece is being viewed or edited, or there is no such slot: all are bugs of the
    /// caller.
    #[must_use]
    pub fn edit(&self, slot: Slot) -> Edit<'_> {
        let index = self.index(slot);
        // Acquire: every viewer is done reading, the last editor is done writing.
        let taken =
            self.leases[index].compare_exchange(FREE, EDITED, Ordering::Acquire, Ordering::Relaxed);
        match taken {
            Ok(_) => Edit { arena: self, index },
            Err(EDITED) => panic!("slot {slot} is being edited already and cannot be edited"),
            Err(viewers) => panic!("slot {slot} has viewers ({viewers}) and cannot be edited"),
        }
    }

    /// Has the system provide the memory of so many pieces, from this one on (`MADV_POPULATE_WRITE`, man 2 madvise). What
    /// is in them does not change, whoever has them.
    ///
    /// # Errors
    /// `EINVAL` where the kernel cannot (before Linux 5.14) or the first piece does not begin with a page; `ENOMEM`.
    ///
    /// # Panics
    /// Where there are no such pieces.
    pub fn provide(&self, first: Slot, count: u32) -> SysResult<()> {
        let start = self.start(self.index(first));
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        assert!(
            count <= self.leases.len() - self.index(first),
            "too many pieces"
        );
        let bytes = count * self.piece;
        // SAFETY: the range lies within the mapping; to populate it writes nothing.
        let ret = unsafe { libc::madvise(start.as_ptr().cast(), bytes, libc::MADV_POPULATE_WRITE) };
        super::check(ret).map(drop)
    }

    fn index(&self, slot: Slot) -> usize {
        let index = usize::try_from(slot.0).unwrap_or(usize::MAX);
        let slots = self.leases.len();
        assert!(
            index < slots,
            "slot {slot} is not one of the arena's {slots}"
        );
        index
    }

    /// Where a piece begins. `index` is below the number of slots.
    fn start(&self, index: usize) -> NonNull<u8> {
        debug_assert!(index < self.leases.len(), "leases are of slots that exist");
        // SAFETY: the index is one of a lease, so below the number of slots: the offset lies within
        // the mapping, whose size was checked not to overflow an isize.
        unsafe { self.base.add(index * self.piece) }
    }
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slots = self.leases.len();
        write!(f, "Arena({slots} x {} bytes)", self.piece)
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        unmap(self.base, self.leases.len() * self.piece);
    }
}

/// A shared lease of a piece, given back when dropped.
#[derive(Debug)]
pub struct View<'a> {
    arena: &'a Arena,
    index: usize,
}

impl Deref for View<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the piece lies in the mapping, which the arena (borrowed) keeps; all its bytes are
        // initialized, as the system's zeros or since written. The lease keeps editors away for as
        // long as the view, so the reference, lives.
        unsafe { slice::from_raw_parts(self.arena.start(self.index).as_ptr(), self.arena.piece) }
    }
}

impl Drop for View<'_> {
    fn drop(&mut self) {
        // Release: the reading is done before an editor may start.
        self.arena.leases[self.index].fetch_sub(1, Ordering::Release);
    }
}

/// The exclusive lease of a piece, given back when dropped.
#[derive(Debug)]
pub struct Edit<'a> {
    arena: &'a Arena,
    index: usize,
}

impl Deref for Edit<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: as for a view; this lease is the only one, and `&self` keeps `deref_mut` away.
        unsafe { slice::from_raw_parts(self.arena.start(self.index).as_ptr(), self.arena.piece) }
    }
}

impl DerefMut for Edit<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        let start = self.arena.start(self.index).as_ptr();
        // SAFETY: as for a view; this lease is the only one, and `&mut self` makes this the only
        // reference made through it. Pieces do not overlap.
        unsafe { slice::from_raw_parts_mut(start, self.arena.piece) }
    }
}

impl Drop for Edit<'_> {
    fn drop(&mut self) {
        // Release: what was written is seen by the next to take a lease. Nobody else changes the
        // lease of a piece that is being edited.
        self.arena.leases[self.index].store(FREE, Ordering::Release);
    }
}

pub(super) fn map(bytes: usize) -> SysResult<NonNull<u8>> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping at an address of the kernel's choice touches no memory in use.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
    if at == libc::MAP_FAILED {
        return Err(Errno::last());
    }
    // A core dump is for whoever looks for a bug, and what is buffered is none of that one's business.
    // SAFETY: the mapping was just made; the advice changes nothing of what is in it.
    if unsafe { libc::madvise(at, bytes, libc::MADV_DONTDUMP) } != 0 {
        log::info!(
            "what is buffered may be part of a core dump: {}",
            Errno::last()
        );
    }
    NonNull::new(at.cast()).ok_or(Errno::ENOMEM)
}

pub(super) fn unmap(base: NonNull<u8>, bytes: usize) {
    // SAFETY: `base` and `bytes` are those of a mapping made by `map`; its owner is going away, and
    // no lease can outlive it.
    let ret = unsafe { libc::munmap(base.as_ptr().cast(), bytes) };
    debug_assert_eq!(ret, 0, "a mapping of our own can be taken away");
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::AtomicU64;
    use std::thread;

    use super::*;

    /// What the panic of `work` says.
    fn complaint<T>(work: impl FnOnce() -> T) -> String {
        let payload = catch_unwind(AssertUnwindSafe(work)).err().unwrap();
        payload.downcast::<String>().map(|text| *text).unwrap()
    }

    #[test]
    fn untouched_memory_is_zero() {
        let arena = Arena::new(3, 10_000).unwrap();
        assert_eq!((arena.slots(), arena.piece()), (3, 10_000));
        for slot in 0..3 {
            assert!(arena.view(Slot(slot)).iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn each_piece_keeps_its_own_bytes() {
        let arena = Arena::new(5, 7).unwrap();
        for slot in 0..5u8 {
            arena.edit(Slot(slot.into())).fill(slot + 1);
        }
        for slot in 0..5u8 {
            assert_eq!(*arena.view(Slot(slot.into())), [slot + 1; 7]);
        }
    }

    #[test]
    fn a_viewed_piece_has_more_viewers_but_no_editor() {
        let arena = Arena::new(2, 1).unwrap();
        let (one, two) = (arena.view(Slot(0)), arena.view(Slot(0)));
        assert!(complaint(|| arena.edit(Slot(0))).contains("has viewers (2)"));
        drop(one);
        assert!(complaint(|| arena.edit(Slot(0))).contains("has viewers (1)"));
        drop(arena.edit(Slot(1)));
        drop(two);
        drop(arena.edit(Slot(0)));
    }

    #[test]
    fn an_edited_piece_has_no_viewer_and_no_second_editor() {
        let arena = Arena::new(1, 1).unwrap();
        let edit = arena.edit(Slot(0));
        assert!(complaint(|| arena.view(Slot(0))).contains("is being edited"));
        assert!(complaint(|| arena.edit(Slot(0))).contains("is being edited already"));
        drop(edit);
        drop(arena.view(Slot(0)));
    }

    #[test]
    fn a_lease_is_given_back_when_a_panic_unwinds() {
        let arena = Arena::new(1, 1).unwrap();
        let edited = catch_unwind(AssertUnwindSafe(|| {
            arena.edit(Slot(0))[0] = 1;
            let _edit = arena.edit(Slot(0));
            panic!("in the middle of an edit");
        }));
        assert!(edited.is_err());
        let viewed = catch_unwind(AssertUnwindSafe(|| {
            let _view = arena.view(Slot(0));
            panic!("in the middle of a view");
        }));
        assert!(viewed.is_err());
        assert_eq!(arena.edit(Slot(0))[0], 1);
    }

    #[test]
    fn a_slot_that_is_not_there_is_named() {
        let arena = Arena::new(2, 1).unwrap();
        assert!(complaint(|| arena.view(Slot(2))).contains("slot 2 is not one of the arena's 2"));
        assert!(complaint(|| arena.edit(Slot(u32::MAX))).contains("not one of"));
    }

    #[test]
    fn memory_that_is_provided_keeps_what_is_in_it() {
        let arena = Arena::new(8, 4096).unwrap();
        arena.edit(Slot(3)).fill(7);
        let viewed = arena.view(Slot(3));
        arena.provide(Slot(2), 6).unwrap();
        assert!(viewed.iter().all(|byte| *byte == 7));
        assert!(arena.view(Slot(7)).iter().all(|byte| *byte == 0));
    }

    #[test]
    fn an_arena_that_cannot_be_is_an_error() {
        assert_eq!(Arena::new(0, 1).err(), Some(Errno::EINVAL));
        assert_eq!(Arena::new(1, 0).err(), Some(Errno::EINVAL));
        assert_eq!(Arena::new(2, usize::MAX / 2).err(), Some(Errno::ENOMEM));
        let beyond_all_address_space = usize::MAX / 4;
        assert_eq!(
            Arena::new(1, beyond_all_address_space).err(),
            Some(Errno::ENOMEM)
        );
    }

    #[test]
    fn a_large_arena_takes_no_memory_before_it_is_used() {
        let terabyte = Arena::new(1 << 20, 1 << 20).unwrap();
        terabyte.edit(Slot((1 << 20) - 1)).fill(9);
        assert_eq!(terabyte.view(Slot((1 << 20) - 1))[(1 << 20) - 1], 9);
    }

    /// Threads that take leases without any agreement: whoever gets one finds the piece whole.
    #[test]
    fn no_thread_sees_a_piece_half_written() {
        let arena = Arena::new(2, 512).unwrap();
        let (edits, views, torn) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        thread::scope(|scope| {
            for thread in 0..4u8 {
                let (arena, edits, views, torn) = (&arena, &edits, &views, &torn);
                scope.spawn(move || {
                    for round in 0..1_000u32 {
                        let slot = Slot(round % 2);
                        // A refused lease panics, which is right, and of no matter here.
                        let _ = catch_unwind(AssertUnwindSafe(|| {
                            if round % 4 == u32::from(thread) {
                                arena.edit(slot).fill(thread);
                                edits.fetch_add(1, Ordering::Relaxed);
                            } else {
                                let view = arena.view(slot);
                                let whole = view.iter().all(|byte| *byte == view[0]);
                                views.fetch_add(1, Ordering::Relaxed);
                                torn.fetch_add((!whole).into(), Ordering::Relaxed);
                            }
                        }));
                    }
                });
            }
        });
        assert_eq!(torn.into_inner(), 0);
        assert!(edits.into_inner() > 0 && views.into_inner() > 0);
        for slot in 0..2 {
            drop(arena.edit(Slot(slot)));
        }
    }
}

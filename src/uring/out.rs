//! What answers say, in the layout of include/uapi/linux/fuse.h.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use nix::sys::statvfs::Statvfs;

use crate::fs::{Attr, DirSlot, Lifetimes, Listing};
use crate::sys::Stat;

/// Bytes of `struct fuse_entry_out`.
const ENTRY: usize = 128;

/// Fields, one after the other, into memory that the kernel takes them from.
pub(super) struct Out<'a> {
    into: &'a mut [u8],
    at: usize,
}

impl<'a> Out<'a> {
    pub(super) fn new(into: &'a mut [u8]) -> Out<'a> {
        Out { into, at: 0 }
    }

    /// Bytes so far.
    pub(super) fn len(&self) -> usize {
        self.at
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.into[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
        self
    }

    pub(super) fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_ne_bytes())
    }

    pub(super) fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_ne_bytes())
    }

    pub(super) fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_ne_bytes())
    }

    fn zeros(&mut self, count: usize) -> &mut Self {
        self.into[self.at..self.at + count].fill(0);
        self.at += count;
        self
    }

    /// `struct fuse_attr`.
    fn attr(&mut self, ino: u64, stat: &Stat) -> &mut Self {
        let times = [stat.atime, stat.mtime, stat.ctime];
        self.u64(ino).u64(stat.size).u64(stat.blocks);
        for (seconds, _) in times {
            self.u64(seconds.cast_unsigned());
        }
        for (_, nanos) in times {
            self.u32(nanos);
        }
        self.u32(stat.mode).u32(stat.nlink);
        self.u32(stat.uid).u32(stat.gid);
        self.u32(rdev(stat)).u32(stat.blksize);
        // No flags.
        self.u32(0)
    }

    /// `struct fuse_attr_out`, to be kept for so long.
    pub(super) fn attr_out(&mut self, attr: &Attr, lifetime: Duration) -> &mut Self {
        self.u64(lifetime.as_secs())
            .u32(lifetime.subsec_nanos())
            .u32(0);
        self.attr(attr.ino.0, &attr.stat)
    }

    /// `struct fuse_entry_out`.
    pub(super) fn entry_out(&mut self, attr: &Attr, lifetimes: Lifetimes) -> &mut Self {
        let Lifetimes { name, attr: kept } = lifetimes;
        self.u64(attr.node.0).u64(attr.generation);
        self.u64(name.as_secs()).u64(kept.as_secs());
        self.u32(name.subsec_nanos()).u32(kept.subsec_nanos());
        self.attr(attr.ino.0, &attr.stat)
    }

    /// `struct fuse_statx_out`: the attributes with the time of birth.
    pub(super) fn statx_out(&mut self, attr: &Attr) -> &mut Self {
        let stat = &attr.stat;
        let birth = if stat.btime.is_some() {
            libc::STATX_BTIME
        } else {
            0
        };
        self.u64(0).u32(0).u32(0).u64(0).u64(0);
        self.u32(libc::STATX_BASIC_STATS | birth).u32(stat.blksize);
        self.u64(0).u32(stat.nlink).u32(stat.uid).u32(stat.gid);
        self.u16(u16::try_from(stat.mode).unwrap_or(0)).u16(0);
        self.u64(attr.ino.0).u64(stat.size).u64(stat.blocks).u64(0);
        let birth = stat.btime.unwrap_or_default();
        for (seconds, nanos) in [stat.atime, birth, stat.ctime, stat.mtime] {
            self.u64(seconds.cast_unsigned()).u32(nanos).u32(0);
        }
        self.u32(libc::major(stat.rdev)).u32(libc::minor(stat.rdev));
        // The device is the view's own, which the kernel knows; then what is spare.
        self.u32(0).u32(0).zeros(14 * 8)
    }

    /// `struct fuse_kstatfs`.
    pub(super) fn statfs(&mut self, s: &Statvfs) -> &mut Self {
        let short = |value: u64, otherwise| u32::try_from(value).unwrap_or(otherwise);
        self.u64(s.blocks()).u64(s.blocks_free());
        self.u64(s.blocks_available())
            .u64(s.files())
            .u64(s.files_free());
        self.u32(short(s.block_size(), 4096));
        self.u32(short(s.name_max(), 255));
        self.u32(short(s.fragment_size(), 4096)).u32(0);
        self.zeros(6 * 4)
    }

    /// `struct fuse_dirent` or `struct fuse_direntplus`; false where it does not fit into `room` bytes.
    pub(super) fn entry(
        &mut self,
        slot: &DirSlot<'_>,
        listing: Listing,
        lifetimes: Lifetimes,
        room: usize,
    ) -> bool {
        let plus = if listing == Listing::Attributes {
            ENTRY
        } else {
            0
        };
        let name = slot.name.as_bytes();
        let size = (plus + 24 + name.len()).next_multiple_of(8);
        if self.at + size > room.min(self.into.len()) {
            return false;
        }
        let end = self.at + size;
        match &slot.attr {
            Some(attr) if plus > 0 => {
                self.entry_out(attr, lifetimes);
            }
            // Node 0: only the name is known (fs/fuse/readdir.c fuse_direntplus_link()).
            _ => {
                self.zeros(plus);
            }
        }
        self.u64(slot.ino).u64(slot.next);
        self.u32(u32::try_from(name.len()).unwrap_or(0))
            .u32(slot.kind.into());
        self.bytes(name);
        self.zeros(end - self.at);
        true
    }
}

/// The kernel's 32-bit form and makedev(3) agree for all device numbers that exist.
fn rdev(stat: &Stat) -> u32 {
    u32::try_from(stat.rdev).unwrap_or(0)
}

/// A name out of a request.
pub(super) fn name(bytes: &[u8]) -> &OsStr {
    OsStr::from_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Ino, NodeId};

    fn attr() -> Attr {
        Attr {
            node: NodeId(3),
            generation: 1,
            ino: Ino(4),
            stat: Stat {
                ino: 9,
                dev: 8,
                mode: libc::S_IFREG | 0o644,
                nlink: 2,
                uid: 5,
                gid: 6,
                rdev: 0,
                size: 7,
                blocks: 8,
                blksize: 4096,
                atime: (-1, 5),
                mtime: (1, 6),
                ctime: (2, 7),
                btime: Some((3, 8)),
            },
            is_kept: false,
        }
    }

    #[test]
    fn records_have_the_sizes_that_the_kernel_knows() {
        let mut memory = vec![0xff; 1000];
        let size = |write: &dyn Fn(&mut Out<'_>), memory: &mut [u8]| {
            let mut out = Out::new(memory);
            write(&mut out);
            out.len()
        };
        let attr = attr();
        assert_eq!(
            size(
                &|out| {
                    out.attr_out(&attr, Duration::ZERO);
                },
                &mut memory
            ),
            104
        );
        assert_eq!(
            size(
                &|out| {
                    out.entry_out(&attr, Lifetimes::default());
                },
                &mut memory
            ),
            ENTRY
        );
        assert_eq!(
            size(
                &|out| {
                    out.statx_out(&attr);
                },
                &mut memory
            ),
            288
        );
        // Seconds before 1970.
        let mut out = Out::new(&mut memory);
        out.attr_out(&attr, Duration::ZERO);
        assert_eq!(memory[16 + 24..16 + 32], (-1i64).to_ne_bytes());
    }

    #[test]
    fn entries_are_aligned_and_end_where_there_is_no_room() {
        let mut memory = vec![0xff; 1000];
        let mut out = Out::new(&mut memory);
        let mut slot = DirSlot {
            next: 2,
            ino: 4,
            kind: 8,
            name: OsStr::new("abc"),
            attr: None,
        };
        let kept = Lifetimes::default();
        assert!(out.entry(&slot, Listing::Names, kept, 64));
        assert_eq!(out.len(), 32);
        slot.attr = Some(attr());
        assert!(!out.entry(&slot, Listing::Attributes, kept, 64));
        assert!(out.entry(&slot, Listing::Attributes, kept, 1000));
        assert_eq!(out.len(), 32 + ENTRY + 32);
        assert_eq!(memory[24..27], *b"abc");
        assert_eq!(memory[27..32], [0; 5]);
    }
}

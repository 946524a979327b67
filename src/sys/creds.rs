//! Acting as the caller, on this thread alone: raw system calls, because glibc's wrappers change
//! every thread of the process.

use super::{SysResult, check_len};
use crate::error::Errno;

/// The ids to act with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AsCaller {
    /// Filesystem uid.
    pub uid: u32,
    /// Filesystem gid.
    pub gid: u32,
}

/// While this lives, what this thread makes in SOURCE belongs to the caller. The right to do so was
/// checked by the kernel before (`default_permissions`), so the capabilities that a change of the
/// filesystem uid takes away are put back; dropping it restores the server's own ids.
#[derive(Debug)]
pub struct Switch {
    back: Option<AsCaller>,
}

impl Switch {
    /// Switches to `caller`; does nothing where that is the server itself.
    ///
    /// # Errors
    /// `EPERM` where the server may not.
    pub fn to(caller: AsCaller) -> SysResult<Switch> {
        let own = server_ids();
        if caller == own {
            return Ok(Switch { back: None });
        }
        let before = Capabilities::get()?;
        set_fs_ids(caller);
        let switch = Switch { back: Some(own) };
        // The calls do not say whether they worked; asking for an impossible id tells the present one.
        if fs_uid() != caller.uid {
            return Err(Errno::EPERM);
        }
        // A change of fsuid from 0 clears the filesystem capabilities of the effective set
        // (man 7 capabilities, "Effect of user ID changes").
        before.set()?;
        Ok(switch)
    }

    /// Gives up `CAP_FSETID` and `CAP_SYS_RESOURCE` and takes the caller's ids for the time being, so that
    /// SOURCE treats a write as it does the caller's: it clears set-id bits (fs/inode.c
    /// setattr_should_drop_sgid() asks for capability and group), keeps what it has in reserve for root
    /// (fs/ext4/balloc.c ext4_has_free_clusters() asks for both, too), and applies quotas (fs/quota/dquot.c
    /// ignore_hardlimit()). Supplementary groups are not known here: a member by one of those loses a
    /// set-gid bit without group execution that it could natively keep.
    ///
    /// # Errors
    /// Those of capset(2).
    pub fn as_ordinary<T>(caller: AsCaller, work: impl FnOnce() -> T) -> SysResult<T> {
        let before = Capabilities::get()?;
        // Also when `work` panics: the thread goes on to serve others.
        let _back = Restore {
            capabilities: before,
            ids: server_ids(),
        };
        set_fs_ids(caller);
        // All others stay, also those that a change of the filesystem uid takes away.
        let less = before.without(CAP_FSETID).without(CAP_SYS_RESOURCE);
        less.set()?;
        Ok(work())
    }
}

/// Puts this thread's capabilities and filesystem ids back when dropped.
struct Restore {
    capabilities: Capabilities,
    ids: AsCaller,
}

impl Drop for Restore {
    fn drop(&mut self) {
        set_fs_ids(self.ids);
        if let Err(errno) = self.capabilities.set() {
            // They were this thread's a moment ago, so this cannot fail.
            log::error!("a request thread could not take its capabilities back: {errno}");
        }
    }
}

/// Leaves all supplementary groups, so that membership in them says nothing about callers. For a
/// server that runs as root, before it starts threads.
///
/// # Errors
/// `EPERM` without `CAP_SETGID`.
pub fn leave_groups() -> SysResult<()> {
    nix::unistd::setgroups(&[]).map_err(Into::into)
}

impl Drop for Switch {
    fn drop(&mut self) {
        if let Some(own) = self.back {
            set_fs_ids(own);
        }
    }
}

/// Gives up, for good, the capabilities that a server never uses, in this thread and what it starts. For a
/// process with one thread. A process without capabilities is left as it is.
///
/// # Errors
/// Those of capset(2).
pub fn keep_needed_capabilities() -> SysResult<()> {
    let held = Capabilities::get()?;
    if held.is_empty() {
        return Ok(());
    }
    // What a program run by this process could get back: as well as can be, for it takes CAP_SETPCAP.
    for number in (0..CAP_NUMBERS).filter(|number| !NEEDED.contains(number)) {
        // SAFETY: plain numbers; a capability that the kernel does not know is EINVAL.
        unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) };
    }
    held.kept(&NEEDED).set()
}

fn server_ids() -> AsCaller {
    AsCaller {
        uid: nix::unistd::geteuid().as_raw(),
        gid: nix::unistd::getegid().as_raw(),
    }
}

fn set_fs_ids(ids: AsCaller) {
    // Group first: without uid 0 the group could not be changed any more.
    set_fs_gid(ids.gid);
    // SAFETY: a plain number; changes this thread only and cannot fail harmfully.
    unsafe { libc::syscall(libc::SYS_setfsuid, ids.uid) };
}

fn fs_uid() -> u32 {
    // SAFETY: a plain number; -1 is no uid, so nothing changes.
    let uid = unsafe { libc::syscall(libc::SYS_setfsuid, u32::MAX) };
    u32::try_from(uid).unwrap_or(u32::MAX)
}

fn set_fs_gid(gid: u32) {
    // SAFETY: a plain number; changes this thread only and cannot fail harmfully.
    unsafe { libc::syscall(libc::SYS_setfsgid, gid) };
}

/// include/uapi/linux/capability.h.
const CAP_CHOWN: u32 = 0;
const CAP_DAC_OVERRIDE: u32 = 1;
const CAP_DAC_READ_SEARCH: u32 = 2;
const CAP_FOWNER: u32 = 3;
const CAP_FSETID: u32 = 4;
const CAP_SETGID: u32 = 6;
const CAP_SETUID: u32 = 7;
const CAP_LINUX_IMMUTABLE: u32 = 9;
const CAP_SYS_PTRACE: u32 = 19;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_SYS_RESOURCE: u32 = 24;
const CAP_MKNOD: u32 = 27;
const CAP_SETFCAP: u32 = 31;
/// Twice the words of a set, in bits.
const CAP_NUMBERS: u32 = 64;

/// What a server of root works with, and what for.
const NEEDED: [u32; 13] = [
    // To make and change files for whoever the kernel has let through.
    CAP_CHOWN,
    CAP_DAC_OVERRIDE,
    CAP_DAC_READ_SEARCH,
    CAP_FOWNER,
    CAP_FSETID,
    CAP_LINUX_IMMUTABLE,
    CAP_MKNOD,
    CAP_SETFCAP,
    // setfsuid(2), setfsgid(2), and leaving the supplementary groups.
    CAP_SETUID,
    CAP_SETGID,
    // `/proc/TID/syscall` of programs of other users.
    CAP_SYS_PTRACE,
    // umount(2), and `trusted.*`.
    CAP_SYS_ADMIN,
    // Limits, `oom_score_adj`, and what a filesystem keeps in reserve.
    CAP_SYS_RESOURCE,
];
/// `_LINUX_CAPABILITY_VERSION_3`.
const CAP_VERSION: u32 = 0x2008_0522;

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

/// effective, permitted, inheritable: low words, then high words.
#[repr(C)]
#[derive(Clone, Copy)]
struct Capabilities([[u32; 3]; 2]);

impl Capabilities {
    fn get() -> SysResult<Capabilities> {
        let mut header = CapHeader {
            version: CAP_VERSION,
            pid: 0,
        };
        let mut caps = Capabilities([[0; 3]; 2]);
        // SAFETY: both records have the layout of version 3 and are valid for writes.
        let ret = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, &raw mut caps) };
        check_len(libc::ssize_t::try_from(ret).unwrap_or(-1)).map(|_| caps)
    }

    fn without(mut self, capability: u32) -> Capabilities {
        self.0[0][0] &= !(1 << capability);
        self
    }

    fn is_empty(self) -> bool {
        self.0
            .iter()
            .all(|[effective, permitted, _]| (effective | permitted) == 0)
    }

    /// Of these only those, and none to inherit (which empties the ambient set as well).
    fn kept(mut self, numbers: &[u32]) -> Capabilities {
        for (word, sets) in self.0.iter_mut().enumerate() {
            let mask = numbers
                .iter()
                .filter(|number| usize::try_from(**number / u32::BITS) == Ok(word))
                .fold(0, |mask, number| mask | 1 << (number % u32::BITS));
            let [effective, permitted, inheritable] = sets;
            *effective &= mask;
            *permitted &= mask;
            *inheritable = 0;
        }
        self
    }

    fn set(self) -> SysResult<()> {
        let mut header = CapHeader {
            version: CAP_VERSION,
            pid: 0,
        };
        // SAFETY: both records have the layout of version 3; the second is only read.
        let ret = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, &raw const self) };
        check_len(libc::ssize_t::try_from(ret).unwrap_or(-1)).map(drop)
    }
}

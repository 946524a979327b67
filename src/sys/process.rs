//! Processes and descriptors at the system's edge: fork, signal dispositions, descriptors that arrive
//! over a socket.
//!
//! Layer: vocabulary (`sys`). Does not decide anything; `cli`, `server` and `run` do.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::sys::signal::{SigHandler, Signal};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::unistd::{ForkResult, Pid};

use super::{SysResult, check};
use crate::error::Errno;
use crate::types::OwnFd;

/// Which side of a fork this is.
#[derive(Debug, PartialEq, Eq)]
pub enum Forked {
    /// The process that called; the child's id.
    Parent(Pid),
    /// The new process.
    Child,
}

/// Forks this process, which must have one thread only.
///
/// # Errors
/// fork(2)'s, and `EDEADLK` when other threads run: a child would inherit their locks, held for ever.
pub fn fork() -> io::Result<Forked> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::from_raw_os_error(libc::EDEADLK));
    }
    // SAFETY: there is no other thread (checked above; only this one could start any), so the child
    // finds every lock and the allocator in a consistent state.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(Forked::Parent(child)),
        ForkResult::Child => Ok(Forked::Child),
    }
}

/// The same, but both processes have one table of descriptors from here on: what either opens or closes is
/// open or closed in both. It outlives the parent (`CLONE_FILES`, man 2 clone).
///
/// # Errors
/// As for [`fork`].
pub fn fork_sharing_descriptors() -> io::Result<Forked> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::from_raw_os_error(libc::EDEADLK));
    }
    let flags = libc::c_long::from(libc::CLONE_FILES | libc::SIGCHLD);
    // SAFETY: without CLONE_VM this is fork(2): the child has a copy of all memory and goes on with the same
    // stack (0). All other arguments are 0 and unused with these flags, in whatever order the architecture has
    // them. There is no other thread (checked above), so the child finds every lock and the allocator in a
    // consistent state.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    match libc::pid_t::try_from(pid) {
        Ok(0) => Ok(Forked::Child),
        Ok(pid) if pid > 0 => Ok(Forked::Parent(Pid::from_raw(pid))),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A descriptor that is readable when this process, all its threads and their system calls, has ended (man 2
/// pidfd_open).
///
/// # Errors
/// `ENOSYS` before Linux 5.3, and `EMFILE`.
pub fn own_pidfd() -> io::Result<OwnedFd> {
    let pid = libc::c_long::from(std::process::id());
    // SAFETY: the call takes two numbers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = std::os::fd::RawFd::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor, and nothing else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Lends a descriptor that is known by its number.
///
/// # Errors
/// `EBADF` where it is not open.
pub fn with_own_fd<T>(fd: OwnFd, work: impl FnOnce(BorrowedFd<'_>) -> T) -> SysResult<T> {
    let raw = std::os::fd::RawFd::try_from(fd.0).map_err(|_| Errno::EBADF)?;
    // SAFETY: fcntl(2) takes any number.
    check(unsafe { libc::fcntl(raw, libc::F_GETFD) })?;
    // SAFETY: it is open (just seen). Who knows it by its number sees to it that it stays so.
    Ok(work(unsafe { BorrowedFd::borrow_raw(raw) }))
}

/// Ends the process without running destructors or exit handlers: for a forked child that failed to
/// exec, and for a server whose threads wait for requests of a mount that it has given up.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit(2) takes any number and has no precondition.
    unsafe { libc::_exit(code) }
}

/// What happens to a signal that is not blocked, in the two forms that survive execve(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// `SIG_DFL`.
    Default,
    /// `SIG_IGN`.
    Ignore,
}

/// Sets the disposition of a signal and returns the one it had (a handler counts as `Default`, which
/// is what execve makes of it).
///
/// # Errors
/// `EINVAL` for a signal that cannot be changed.
pub fn set_disposition(signal: Signal, to: Disposition) -> io::Result<Disposition> {
    let handler = match to {
        Disposition::Default => SigHandler::SigDfl,
        Disposition::Ignore => SigHandler::SigIgn,
    };
    // SAFETY: no handler function is installed, so no code can run in a signal's context.
    let before = unsafe { nix::sys::signal::signal(signal, handler) }?;
    Ok(match before {
        SigHandler::SigIgn => Disposition::Ignore,
        _ => Disposition::Default,
    })
}

/// Receives one message and the descriptor that may come with it (`SCM_RIGHTS`), close-on-exec.
/// No bytes and no descriptor mean that the other side is gone.
///
/// # Errors
/// recvmsg(2)'s.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut control = nix::cmsg_space!([std::os::fd::RawFd; 4]);
    let mut slices = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = loop {
        match recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut control), flags) {
            Err(nix::errno::Errno::EINTR) => {}
            other => break other?,
        }
    };
    let mut received = None;
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = part {
            for raw in descriptors {
                // SAFETY: the kernel has just installed this descriptor for us in recvmsg(2), and
                // nothing else knows its number. One beyond the first is closed by this drop.
                let owned = unsafe { OwnedFd::from_raw_fd(raw) };
                received.get_or_insert(owned);
            }
        }
    }
    Ok((message.bytes, received))
}

#[cfg(test)]
mod tests {
    use std::io::{IoSlice, Read};

    use nix::sys::socket::{
        AddressFamily, ControlMessage, SockFlag, SockType, sendmsg, socketpair,
    };
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_descriptor_arrives_with_its_message() {
        let (a, b) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .unwrap();
        let file = std::fs::File::open("/proc/self/comm").unwrap();
        let rights = [file.as_raw_fd()];
        sendmsg::<()>(
            a.as_raw_fd(),
            &[IoSlice::new(b"hello")],
            &[ControlMessage::ScmRights(&rights)],
            MsgFlags::empty(),
            None,
        )
        .unwrap();
        let mut buffer = [0; 16];
        let (bytes, received) = receive(b.as_fd(), &mut buffer).unwrap();
        assert_eq!(&buffer[..bytes], b"hello");
        let mut text = String::new();
        std::fs::File::from(received.unwrap())
            .read_to_string(&mut text)
            .unwrap();
        assert!(!text.is_empty());
        drop(a);
        assert_eq!(receive(b.as_fd(), &mut buffer).unwrap().0, 0);
    }
}

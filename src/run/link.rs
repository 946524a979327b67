//! What M and S tell each other: one JSON message a datagram, and once a descriptor.
//!
//! Layer: edge (`run`).

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::Errno;
use crate::mount::Problem;
use crate::mount::mountinfo::DevNo;
use crate::server::Report;
use crate::sys::process::receive;

/// Bytes of one message; below the default socket buffer (net.core.wmem_default, 208 KiB).
const MESSAGE_BYTES_MAX: usize = 128 << 10;

/// From M to S.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToServer {
    /// The view is mounted, under this device number; its descriptor comes along.
    Mounted(DevNo),
    /// CMD has ended with this status.
    ProgramEnded(i32),
    /// Finish now, whoever still uses the view.
    EndNow,
    /// Give up writing back.
    Abandon,
}

/// From S to M.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToMain {
    /// The view answers.
    Ready,
    /// It does not; the sentence says why.
    Failed(String),
    /// The kernel has let go of the view; S writes back what is left.
    Draining,
    /// All is done.
    Finished(Report),
    /// S died, and its supervisor has done what was left to do.
    Died(Report),
}

/// One end.
#[derive(Debug)]
pub(super) struct Link(OwnedFd);

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Link {
    /// Two connected ends, close-on-exec.
    pub(super) fn pair() -> Result<(Link, Link), Problem> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let pair = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags);
        let (a, b) = pair.map_err(|errno| {
            Problem::new(format!("cannot make a socket pair: {}", Errno::from(errno)))
        })?;
        Ok((Link(a), Link(b)))
    }

    /// Sends a message, never with SIGPIPE.
    pub(super) fn send<T: Serialize>(
        &self,
        message: &T,
        descriptor: Option<BorrowedFd<'_>>,
    ) -> io::Result<()> {
        let text = serde_json::to_vec(message)?;
        let raw: Vec<_> = descriptor.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let control = if raw.is_empty() {
            &rights[..0]
        } else {
            &rights[..]
        };
        let slices = [IoSlice::new(&text)];
        sendmsg::<()>(
            self.0.as_raw_fd(),
            &slices,
            control,
            MsgFlags::MSG_NOSIGNAL,
            None,
        )?;
        Ok(())
    }

    /// The next message; `None` when the other side is gone.
    pub(super) fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Option<OwnedFd>)>> {
        let mut buffer = vec![0; MESSAGE_BYTES_MAX];
        let (length, descriptor) = match receive(self.as_fd(), &mut buffer) {
            Err(error) if error.raw_os_error() == Some(libc::ECONNRESET) => return Ok(None),
            other => other?,
        };
        if length == 0 {
            return Ok(None);
        }
        Ok(Some((
            serde_json::from_slice(&buffer[..length])?,
            descriptor,
        )))
    }
}

//! How `iolens unmount` waits for a server: an abstract Unix socket named after the mount's device.
//!
//! Layer: edge (`server`). Protocol: the client connects, the server greets, the client unmounts, and
//! the server's last word is its [`Report`] as one line of JSON. Both look at each other's uid
//! (`SO_PEERCRED`): the name is open to everybody, so anybody may have taken it.

use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::socket::{
    Shutdown, UnixAddr, getpeername, getsockname, getsockopt, shutdown, sockopt::PeerCredentials,
};

use super::{Report, spawn};
use crate::mount::Problem;
use crate::mount::mountinfo::DevNo;
use crate::sys::process::with_own_fd;
use crate::types::OwnFd;

const GREETING: &str = "iolens 1\n";
/// How long a client waits for the greeting of whoever holds the name.
const GREETING_WAIT: Duration = Duration::from_secs(5);
/// How long the server waits for a client that does not read its last word.
const FAREWELL_WAIT: Duration = Duration::from_secs(1);

fn address(dev: DevNo) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(name(dev))
}

fn name(dev: DevNo) -> String {
    format!("iolens/{dev}")
}

fn peer_uid(stream: &UnixStream) -> io::Result<u32> {
    Ok(getsockopt(stream, PeerCredentials)?.uid())
}

enum State {
    Serving(Vec<UnixStream>),
    Ended(Report),
}

/// The server's side.
pub struct Control {
    state: Arc<Mutex<State>>,
    listener: Mutex<Option<UnixListener>>,
    closed: Arc<AtomicBool>,
}

/// Pause after a client that could not be welcomed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long to try for a name that is taken: the kernel gives the device number of a view that is gone to the
/// next one, while the server of the old one still lets go of the name.
const NAME_WAIT: Duration = Duration::from_secs(2);

fn bind(dev: DevNo) -> io::Result<UnixListener> {
    let address = address(dev)?;
    let deadline = Instant::now() + NAME_WAIT;
    loop {
        match UnixListener::bind_addr(&address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                std::thread::sleep(ACCEPT_PAUSE);
            }
            other => return other,
        }
    }
}

impl Control {
    /// Takes the name and waits for clients.
    ///
    /// # Errors
    /// One sentence, when the name is taken.
    pub fn listen(dev: DevNo) -> Result<Control, Problem> {
        let bound = bind(dev).and_then(|listener| Ok((listener.try_clone()?, listener)));
        let (ours, listener) = bound.map_err(|error| {
            Problem::new(format!(
                "`iolens unmount` will not be able to wait for this server: {error}"
            ))
        })?;
        let state = Arc::new(Mutex::new(State::Serving(Vec::new())));
        let closed = Arc::new(AtomicBool::new(false));
        let (clients, over) = (Arc::clone(&state), Arc::clone(&closed));
        spawn("iolens-control", move || {
            for stream in listener.incoming() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                if let Err(error) = stream.and_then(|stream| welcome(stream, &clients)) {
                    log::debug!("a client of the control socket left: {error}");
                    // Where descriptors have run out, asking again at once would only burn the CPU.
                    std::thread::sleep(ACCEPT_PAUSE);
                }
            }
        })?;
        Ok(Control {
            state,
            listener: Mutex::new(Some(ours)),
            closed,
        })
    }

    /// The view is gone: lets go of the name, which the next one may need. Clients that are here wait on.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        let mut listener = self.listener.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(listener) = listener.take() {
            // Wakes the thread that waits for clients, which closes its own.
            let _ = shutdown(listener.as_raw_fd(), Shutdown::Both);
        }
    }

    /// Tells all clients.
    pub fn conclude(&self, report: &Report) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let State::Serving(clients) =
            std::mem::replace(&mut *state, State::Ended(report.clone()))
        {
            for mut client in clients {
                // One that has gone away does not want to know.
                let _ = farewell(&mut client, report);
            }
        }
    }
}

fn welcome(mut stream: UnixStream, state: &Mutex<State>) -> io::Result<()> {
    let uid = peer_uid(&stream)?;
    if uid != 0 && uid != nix::unistd::geteuid().as_raw() {
        return Ok(());
    }
    stream.set_write_timeout(Some(FAREWELL_WAIT))?;
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    stream.write_all(GREETING.as_bytes())?;
    match &mut *state {
        State::Serving(clients) => clients.push(stream),
        State::Ended(report) => farewell(&mut stream, report)?,
    }
    Ok(())
}

fn farewell(stream: &mut UnixStream, report: &Report) -> io::Result<()> {
    let mut line = serde_json::to_string(report)?;
    line.push('\n');
    stream.write_all(line.as_bytes())
}

/// Tells all clients of a server that has died, for who has its descriptors.
pub fn conclude_for_the_dead(dev: DevNo, report: &Report) {
    let Ok(ours) = UnixAddr::new_abstract(name(dev).as_bytes()) else {
        return;
    };
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else {
        return;
    };
    let numbers = entries.flatten().filter_map(|entry| {
        let name = entry.file_name();
        name.to_str()?.parse().ok()
    });
    for number in numbers.collect::<Vec<u32>>() {
        let told = with_own_fd(OwnFd(number), |fd| {
            let raw = fd.as_raw_fd();
            if getsockname::<UnixAddr>(raw) != Ok(ours) {
                return Ok(());
            }
            let fd = fd.try_clone_to_owned()?;
            // The one that listens has no peer.
            match getpeername::<UnixAddr>(raw) {
                Ok(_) => farewell(&mut UnixStream::from(fd), report),
                Err(_) => greet_who_waits(&UnixListener::from(fd), report),
            }
        });
        log::debug!("clients of the dead server were told: {told:?}");
    }
}

/// Whoever has connected and was not welcomed yet.
fn greet_who_waits(listener: &UnixListener, report: &Report) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let ended = Mutex::new(State::Ended(report.clone()));
    while let Ok((stream, _)) = listener.accept() {
        welcome(stream, &ended)?;
    }
    Ok(())
}

/// The side of `iolens unmount`: connected to the server of a mount.
pub struct Waiting {
    stream: BufReader<UnixStream>,
}

impl Waiting {
    /// Connects to the server of the mount `dev`, which `owner` has mounted. `None` when there is none.
    ///
    /// # Errors
    /// When somebody else answers under its name.
    pub fn connect(dev: DevNo, owner: u32) -> Result<Option<Waiting>, Problem> {
        let connected = address(dev).and_then(|address| UnixStream::connect_addr(&address));
        let Ok(stream) = connected else {
            return Ok(None);
        };
        match peer_uid(&stream) {
            Ok(uid) if uid == 0 || uid == owner => {}
            _ => {
                return Err(Problem::new(format!(
                    "somebody who is neither root nor the mount's owner answers for the server of \
                     {dev} (EPERM): unmount with umount instead"
                )));
            }
        }
        let mut waiting = Waiting {
            stream: BufReader::new(stream),
        };
        // A server of another user hangs up without a greeting; so does one that has just died.
        let timed = waiting
            .stream
            .get_ref()
            .set_read_timeout(Some(GREETING_WAIT));
        let mut greeting = String::new();
        let greeted = timed.and_then(|()| waiting.stream.read_line(&mut greeting));
        if greeted.is_err() || greeting != GREETING {
            return Ok(None);
        }
        let _ = waiting.stream.get_ref().set_read_timeout(None);
        Ok(Some(waiting))
    }

    /// Waits for the end. `None` when the server died without a word.
    #[must_use]
    pub fn report(mut self) -> Option<Report> {
        let mut line = String::new();
        self.stream.read_line(&mut line).ok()?;
        serde_json::from_str(&line).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_gets_the_report_whether_it_comes_before_or_after_the_end() {
        // No block device has this major number, so no mount has this name.
        let dev = DevNo {
            major: 4095,
            minor: std::process::id(),
        };
        let uid = nix::unistd::geteuid().as_raw();
        assert!(Waiting::connect(dev, uid).unwrap().is_none());
        let control = Control::listen(dev).unwrap();
        let early = Waiting::connect(dev, uid).unwrap().unwrap();
        let report = Report {
            exit: 3,
            text: "lost\n".to_owned(),
        };
        control.conclude(&report);
        assert_eq!(early.report().as_ref(), Some(&report));
        let late = Waiting::connect(dev, uid).unwrap().unwrap();
        assert_eq!(late.report(), Some(report));
    }

    #[test]
    fn a_server_whose_view_is_gone_leaves_its_name_to_the_next_one() {
        let dev = DevNo {
            major: 4094,
            minor: std::process::id(),
        };
        let uid = nix::unistd::geteuid().as_raw();
        let old = Control::listen(dev).unwrap();
        let waits = Waiting::connect(dev, uid).unwrap().unwrap();
        old.close();
        let new = Control::listen(dev).unwrap();
        let of_new = Waiting::connect(dev, uid).unwrap().unwrap();
        let report = |exit| Report {
            exit,
            text: String::new(),
        };
        new.conclude(&report(0));
        old.conclude(&report(3));
        assert_eq!(waits.report(), Some(report(3)));
        assert_eq!(of_new.report(), Some(report(0)));
    }
}

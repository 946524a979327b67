//! What M waits for: signals, CMD, and the server.
//!
//! Layer: edge (`run`). One thread, poll(2). M only wakes for an event, except while it tries to take
//! the view away, which the kernel does not announce.

use std::cell::RefCell;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::signalfd::siginfo;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpgrp, getpid, tcgetpgrp};

use super::link::{Link, ToMain, ToServer};
use super::out_of_turn;
use super::program::{Ended, Terminal};
use super::view::Mounted;
use crate::mount::{Problem, holders};
use crate::server::{Report, say};

/// When to say who keeps the view busy.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two attempts to unmount: a file that was just closed is let go of within microseconds.
const RETRY_MIN_MS: u16 = 1;
/// The longest pause, which is how much later than possible `run` may return.
const RETRY_MAX_MS: u16 = 50;

/// Why M woke.
enum Woken {
    Signal(siginfo),
    /// `None`: the server is gone.
    Server(Option<ToMain>),
    Time,
}

/// M's eyes and ears.
pub(super) struct Waiting {
    link: Link,
    terminal: Terminal,
    server: Pid,
    /// What its supervisor said when it died.
    died: RefCell<Option<Report>>,
}

/// What the server has become, while CMD runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Server {
    Serving,
    Dead,
}

impl Waiting {
    pub(super) fn new(link: Link, terminal: Terminal, server: Pid) -> Waiting {
        Waiting {
            link,
            terminal,
            server,
            died: RefCell::new(None),
        }
    }

    /// What was left to do when the server died, if somebody did it.
    pub(super) fn died(&self) -> Option<Report> {
        self.died.take()
    }

    pub(super) fn terminal(&self) -> &Terminal {
        &self.terminal
    }

    /// Gives the server the connection and waits until it answers on it.
    pub(super) fn hand_over(&self, mounted: &Mounted) -> Result<(), Problem> {
        let device = mounted.take_device();
        let device = device.as_ref().map(AsFd::as_fd);
        // The answer, or the end of the link, says whether it arrived.
        let _ = self.link.send(&ToServer::Mounted(mounted.dev), device);
        match self.next_message() {
            Some(ToMain::Ready) => Ok(()),
            other => Err(out_of_turn(other)),
        }
    }

    fn next_message(&self) -> Option<ToMain> {
        let received = self.link.receive().unwrap_or_else(|error| {
            log::warn!("cannot understand the server: {error}");
            None
        });
        received.map(|(message, _)| message)
    }

    /// Waits for a signal or the server, at most `milliseconds`. A signal goes first. A dead server is
    /// not listened to: its link would wake us for ever.
    fn wake(&self, server: Server, timeout: PollTimeout) -> Woken {
        loop {
            if let Ok(Some(info)) = self.terminal.signals.read_signal() {
                return Woken::Signal(info);
            }
            let mut polled = vec![PollFd::new(
                self.terminal.signals.as_fd(),
                PollFlags::POLLIN,
            )];
            if server == Server::Serving {
                polled.push(PollFd::new(self.link.as_fd(), PollFlags::POLLIN));
            }
            match poll(&mut polled, timeout) {
                Ok(0) => return Woken::Time,
                Ok(_) if polled.get(1).and_then(PollFd::any) == Some(true) => {
                    return Woken::Server(self.next_message());
                }
                // EINTR or a signal to read.
                _ => {}
            }
        }
    }

    /// Stays with CMD until it ends.
    pub(super) fn program(&self, pid: Pid) -> Ended {
        let mut server = Server::Serving;
        loop {
            // Before sleeping: CMD may have ended before SIGCHLD could be told from an earlier one.
            if let Some(ended) = reap(pid) {
                return ended;
            }
            match self.wake(server, PollTimeout::NONE) {
                Woken::Signal(info) => pass_on(&info, pid),
                Woken::Server(Some(ToMain::Died(report))) => drop(self.died.replace(Some(report))),
                Woken::Server(Some(message)) => log::debug!("the server says early: {message:?}"),
                Woken::Server(None) => {
                    server = Server::Dead;
                    say("from now on every use of SOURCE fails in this program (ENOTCONN)");
                }
                Woken::Time => {}
            }
        }
    }

    pub(super) fn program_ended(&self, status: u8) {
        // A server that is gone is noticed when its report does not come.
        let _ = self
            .link
            .send(&ToServer::ProgramEnded(i32::from(status)), None);
    }

    /// Takes the view away as soon as nobody uses it, and waits for the server's last word. `None`
    /// when it died without one.
    pub(super) fn finish(&self, mounted: &Mounted) -> Option<Report> {
        let began = Instant::now();
        let mut ending = Ending {
            mounted: true,
            told: false,
            draining: false,
            interrupts: 0,
        };
        let mut pause = RETRY_MIN_MS;
        loop {
            ending.mounted = ending.mounted && !mounted.try_unmount();
            let patient = began.elapsed() < PATIENCE;
            if !ending.told && !ending.draining && !patient {
                ending.told = true;
                ending.tell_who(mounted);
            }
            let busy = ending.mounted || !ending.told;
            let timeout = if busy {
                PollTimeout::from(pause)
            } else {
                PollTimeout::NONE
            };
            pause = (pause * 2).min(RETRY_MAX_MS);
            match self.wake(Server::Serving, timeout) {
                Woken::Signal(info) if is_ending(&info) => self.interrupt(&mut ending, mounted),
                Woken::Signal(_) | Woken::Time => {}
                Woken::Server(Some(ToMain::Finished(report))) => {
                    let _ = waitpid(self.server, None);
                    return Some(report);
                }
                Woken::Server(Some(ToMain::Draining)) => ending.draining = true,
                Woken::Server(Some(ToMain::Died(report))) => drop(self.died.replace(Some(report))),
                Woken::Server(Some(other)) => log::warn!("the server says {other:?} at the end"),
                Woken::Server(None) => return None,
            }
        }
    }

    /// ^C: the first no longer waits for others, the second gives up writing back.
    fn interrupt(&self, ending: &mut Ending, mounted: &Mounted) {
        ending.interrupts += 1;
        let message = if ending.interrupts == 1 && !ending.draining {
            mounted.detach();
            ending.mounted = false;
            ToServer::EndNow
        } else {
            ToServer::Abandon
        };
        let _ = self.link.send(&message, None);
    }
}

struct Ending {
    mounted: bool,
    told: bool,
    draining: bool,
    interrupts: u32,
}

impl Ending {
    /// Names who keeps the view busy; where nobody does but a mount on top of it, takes it away.
    fn tell_who(&mut self, mounted: &Mounted) {
        let holders = holders::find(mounted.dev);
        if holders.is_empty() {
            if self.mounted && mounted.covered() {
                mounted.detach();
                self.mounted = false;
            }
            return;
        }
        say(&format!(
            "still waiting, because the view is in use by {}; ^C ends the waiting",
            holders::list(&holders)
        ));
    }
}

fn is_ending(info: &siginfo) -> bool {
    let number = i32::try_from(info.ssi_signo).ok();
    let signal = number.and_then(|number| Signal::try_from(number).ok());
    matches!(
        signal,
        Some(Signal::SIGINT | Signal::SIGTERM | Signal::SIGHUP)
    )
}

/// CMD's end, if it has ended. When it was stopped, this process stops as well, for the shell to see.
fn reap(pid: Pid) -> Option<Ended> {
    loop {
        match waitpid(pid, Some(WaitPidFlag::WNOHANG | WaitPidFlag::WUNTRACED)) {
            Ok(WaitStatus::Exited(_, code)) => return Some(Ended::Exit(code)),
            Ok(WaitStatus::Signaled(_, signal, _)) => return Some(Ended::Signal(signal as i32)),
            Ok(WaitStatus::Stopped(_, signal)) => stop_too(pid, signal),
            Ok(_) | Err(nix::errno::Errno::EINTR) => return None,
            // No such child: a bug, but waiting for ever would be a worse one.
            Err(errno) => {
                log::error!("cannot wait for the program: {errno}");
                return Some(Ended::Exit(i32::from(super::EXIT_FAILED)));
            }
        }
    }
}

fn stop_too(pid: Pid, signal: Signal) {
    // SIGSTOP may come from a debugger or a script that continues CMD alone; only where a terminal's
    // shell waits for us does it have to see that we stopped.
    if signal == Signal::SIGSTOP && !in_foreground() {
        return;
    }
    if kill(getpid(), Signal::SIGSTOP).is_ok() {
        // Here somebody has continued us; CMD may be in a process group of its own.
        let _ = kill(pid, Signal::SIGCONT);
    }
}

fn in_foreground() -> bool {
    let terminal = std::fs::File::open("/dev/tty");
    terminal.is_ok_and(|terminal| tcgetpgrp(terminal).is_ok_and(|group| group == getpgrp()))
}

/// SIGTERM, SIGHUP and SIGTSTP that a process sent to us are meant for CMD. What the terminal sends,
/// CMD has already got itself, and SIGINT and SIGQUIT are the terminal's.
fn pass_on(info: &siginfo, pid: Pid) {
    let number = i32::try_from(info.ssi_signo).ok();
    let Some(signal) = number.and_then(|number| Signal::try_from(number).ok()) else {
        return;
    };
    let from_process = info.ssi_code <= libc::SI_USER;
    if from_process && matches!(signal, Signal::SIGTERM | Signal::SIGHUP | Signal::SIGTSTP) {
        // CMD may have ended in between; its status is waited for anyway.
        let _ = kill(pid, signal);
    }
}

//! S: the server of a run, in a session of its own and in the original namespaces.
//!
//! Layer: edge (`run`). Lives on when M is killed: the view dies with its last user, and the trace gets
//! its end then.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;

use nix::unistd::Pid;

use super::Plan;
use super::link::{Link, ToMain, ToServer};
use crate::buffer::Shared;
use crate::mount::check::Source;
use crate::mount::options::Access;
use crate::mount::userns::{Privilege, privilege};
use crate::mount::{Problem, detached};
use crate::server::supervisor::{self, Charge, Supervisor};
use crate::server::view::{self, ViewConfig};
use crate::server::{Happening, Server, signals, spawn};
use crate::sys::process::exit_now;
use crate::types::Tid;

/// Serves until the view is gone, then ends this process.
pub(super) fn serve(link: Link, plan: Plan, source: Source, main: Pid) -> ! {
    let link = Arc::new(link);
    let exit = match start(&link, plan, source, main) {
        Ok(Some((server, supervisor))) => {
            let exit = conduct(server, &link);
            drop(supervisor);
            exit
        }
        // M gave up before there was a view.
        Ok(None) => 0,
        Err(problem) => {
            // M may be gone, and then nobody asks.
            let _ = link.send(&ToMain::Failed(problem.to_string()), None);
            1
        }
    };
    // Threads may be blocked in a view that was given up; they must not be waited for.
    exit_now(exit)
}

fn start(
    link: &Arc<Link>,
    plan: Plan,
    source: Source,
    main: Pid,
) -> Result<Option<(Server, Supervisor)>, Problem> {
    // The trace's name is absolute already; stderr is kept for --live and -v.
    detached::from_terminal(plan.serving.transport.session())?;
    detached::silence_stdin_and_stdout()?;
    signals::block()?;
    let Some((ToServer::Mounted(dev), Some(device))) = link.receive().ok().flatten() else {
        return Ok(None);
    };
    let told = view::told(plan.recording.attribution, dev);
    let shared = supervisor::memory(plan.buffer.as_ref())?;
    let supervisor = supervise(link, shared.clone(), &source)?;
    let mountpoint = source.path.clone();
    let root = privilege() == Privilege::Root;
    let ids = (
        nix::unistd::geteuid().as_raw(),
        nix::unistd::getegid().as_raw(),
    );
    let config = ViewConfig {
        source: OwnedFd::from(source.dir),
        source_path: source.path,
        mountpoint,
        serving: plan.serving,
        access: if root {
            Access::Everybody
        } else {
            Access::Owner
        },
        kernel_permissions: root,
        only_ids: (!root).then_some(ids),
        quiet: vec![Tid(u32::try_from(main.as_raw()).unwrap_or(0))],
        attribution: plan.recording.attribution,
        told,
        buffer: plan.buffer,
        shared,
    };
    let server = Server::start(device, config, plan.recording)?;
    detached::let_go_of_inherited();
    signals::listen(server.sender(), server.abandon())?;
    listen(Arc::clone(link), server.sender(), server.abandon())?;
    link.send(&ToMain::Ready, None)
        .map_err(|error| Problem::new(format!("cannot answer: {error}")))?;
    Ok(Some((server, supervisor)))
}

/// Who completes the work of a server that dies. The mount is in M's namespace, and M's to take away.
fn supervise(
    link: &Arc<Link>,
    shared: Option<Arc<Shared>>,
    source: &Source,
) -> Result<Supervisor, Problem> {
    let link = Arc::clone(link);
    Supervisor::start(Charge {
        shared,
        source: source.path.clone(),
        last: Box::new(move |report| {
            // M may have died too.
            let _ = link.send(&ToMain::Died(report.clone()), None);
        }),
    })
}

/// Turns M's messages into happenings.
fn listen(
    link: Arc<Link>,
    sender: Sender<Happening>,
    abandon: Arc<AtomicBool>,
) -> Result<(), Problem> {
    spawn("iolens-link", move || {
        while let Ok(Some((message, _))) = link.receive() {
            let happening = match message {
                ToServer::ProgramEnded(status) => Happening::ProgramEnded(status),
                ToServer::EndNow => Happening::EndNow,
                ToServer::Abandon => {
                    abandon.store(true, Ordering::SeqCst);
                    Happening::EndNow
                }
                ToServer::Mounted(_) => continue,
            };
            if sender.send(happening).is_err() {
                return;
            }
        }
        // Serving goes on until the view is gone. The server may be so already.
        let _ = sender.send(Happening::MainGone);
    })
}

fn conduct(server: Server, link: &Link) -> i32 {
    let cmd_exit = wait_for_end(&server);
    let _ = link.send(&ToMain::Draining, None);
    let mut report = server.finish(cmd_exit);
    truncate(&mut report.text);
    let exit = report.exit;
    let _ = link.send(&ToMain::Finished(report), None);
    exit
}

/// Returns CMD's status when it is over: the view is gone and CMD has ended, or M is gone, or the user
/// gave up waiting.
fn wait_for_end(server: &Server) -> Option<i32> {
    let mut cmd_exit = None;
    let mut view_gone = false;
    let mut main_gone = false;
    while !(view_gone && (main_gone || cmd_exit.is_some())) {
        match server.next() {
            Happening::ProgramEnded(status) => cmd_exit = Some(status),
            Happening::MainGone => main_gone = true,
            // The view is in M's namespace, and only M can take it away: one signal (of a machine that
            // shuts down, say) is no reason to leave CMD without its files. A second is.
            Happening::Signal(signal) => {
                log::info!("{signal} reached the server");
                if server.abandon().load(Ordering::SeqCst) {
                    break;
                }
            }
            Happening::EndNow => break,
            Happening::Ended(result) => {
                if let Err(error) = result {
                    log::warn!("serving ended early: {error}");
                }
                view_gone = true;
                // CMD may go on for long without the view; what is dirty is not to wait for that.
                server.drain();
            }
        }
    }
    cmd_exit
}

/// A report must fit into one message.
fn truncate(text: &mut String) {
    const BYTES_MAX: usize = 32 << 10;
    if text.len() > BYTES_MAX {
        let cut = (0..=BYTES_MAX)
            .rev()
            .find(|at| text.is_char_boundary(*at))
            .unwrap_or(0);
        text.truncate(cut);
    }
}

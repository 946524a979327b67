//! `iolens mount`: checks, goes into the background, mounts and serves.
//!
//! Layer: edge (`cli`).

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::sys::signal::{Signal, kill};

use super::recording::{Meant, RecordArgs, Table};
use super::{EXIT_FAILED, usage};
use crate::buffer::Shared;
use crate::mount::check::{self, Source};
use crate::mount::mountinfo::{self, DevNo};
use crate::mount::options::MountOptions;
use crate::mount::unmount::{Outcome, unmount, unmount_idle};
use crate::mount::{Detach, Problem, detached, direct, fusermount, holders};
use crate::server::control::{self, Control};
use crate::server::record::{Recording, Target};
use crate::server::supervisor::{self, Charge, Supervisor};
use crate::server::view::{self, Serving, ViewConfig};
use crate::server::{Happening, Report, Server, print, say, signals};
use crate::sys::process::{Forked, exit_now, fork};
use crate::types::Tid;

const EXAMPLES: &str = "\
Examples:
  iolens mount ./data /mnt/view                      serve in the background
  iolens mount -f -t - ./data /mnt/view | jq .       stay in front, trace to stdout
  sudo iolens mount -o allow_other,suid,dev /srv /mnt/view

End it with `iolens unmount MOUNTPOINT`, which waits until all is in SOURCE.";

/// Show SOURCE at MOUNTPOINT, recorded
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// What `mount` and `run` share.
    #[command(flatten)]
    pub record: RecordArgs,
    /// Stay in front [default: return when the mount is usable]
    #[arg(short, long)]
    foreground: bool,
    /// The directory to view
    source: PathBuf,
    /// An empty directory outside SOURCE
    mountpoint: PathBuf,
}

/// What is to be mounted; all of it checked.
struct Plan {
    source: Source,
    point: PathBuf,
    options: MountOptions,
    recording: Recording,
    serving: Serving,
    buffer: Option<crate::buffer::Options>,
}

/// Runs the command; returns its exit status.
#[must_use]
pub fn run(args: Args) -> u8 {
    let foreground = args.foreground;
    // stderr may lead somewhere that its reader waits for the end of; who asks for messages keeps it.
    let wants_stderr = args.record.verbose > 0 || std::env::var_os("IOLENS_LOG").is_some();
    let meant = match args.record.meant(if foreground {
        Table::Printed
    } else {
        Table::None
    }) {
        Ok(meant) => meant,
        Err(sentence) => return usage(&sentence),
    };
    if meant.recording.live {
        return usage("--live is an option of run: with mount, use -f --format text -t -");
    }
    if meant.recording.target == Target::Stdout && !foreground {
        return usage("-t - needs -f: a server in the background has no stdout");
    }
    let outcome = prepare(&args.source, &args.mountpoint, meant).and_then(|plan| {
        if foreground {
            in_front(plan)
        } else {
            in_background(plan, wants_stderr)
        }
    });
    outcome.unwrap_or_else(|problem| {
        say(&problem.to_string());
        EXIT_FAILED
    })
}

fn prepare(source: &Path, mountpoint: &Path, meant: Meant) -> Result<Plan, Problem> {
    let source = check::source(source)?;
    let point = check::mountpoint(mountpoint, &source, meant.options.nonempty)?;
    if let Target::File(trace) = &meant.recording.target {
        check::trace_outside(trace, &point)?;
    }
    // A plain user's device is opened by fusermount3, which may do what the user may not.
    check::device(nix::unistd::geteuid().is_root())?;
    Ok(Plan {
        source,
        point,
        options: meant.options,
        recording: meant.recording,
        serving: meant.serving,
        buffer: meant.buffer,
    })
}

fn in_front(plan: Plan) -> Result<u8, Problem> {
    signals::block()?;
    let served = Served::start(plan, std::process::id())?;
    let report = served.until_the_end();
    print(&report.text);
    // Request threads of a view that was given up never end.
    exit_now(report.exit)
}

/// The parent waits for one message: nothing but "ready", or why not.
fn in_background(plan: Plan, wants_stderr: bool) -> Result<u8, Problem> {
    let failed =
        |error: std::io::Error| Problem::new(format!("cannot go into the background: {error}"));
    let (mut ours, mut theirs) = UnixStream::pair().map_err(failed)?;
    let prober = std::process::id();
    let point = plan.point.clone();
    let server = match fork().map_err(failed)? {
        Forked::Child => {
            drop(ours);
            exit_now(background(plan, wants_stderr, prober, &mut theirs));
        }
        Forked::Parent(server) => server,
    };
    drop(theirs);
    drop(plan);
    let mut message = String::new();
    // A server that dies closes its end, and the message is empty.
    let _ = ours.read_to_string(&mut message);
    match message.as_str() {
        READY => match std::fs::metadata(&point) {
            Ok(_) => Ok(0),
            Err(error) => {
                // It unmounts then. Gone already is as good.
                let _ = kill(server, Signal::SIGTERM);
                Err(Problem::at("the mount does not answer on", &point, error))
            }
        },
        "" => Err(Problem::new("the server died before the mount was usable")),
        _ => Err(Problem::new(message)),
    }
}

const READY: &str = "\0ready";

fn background(plan: Plan, wants_stderr: bool, prober: u32, parent: &mut UnixStream) -> i32 {
    let started = detached::from_terminal(plan.serving.transport.session())
        .and_then(|()| detached::silence_stdin_and_stdout())
        .and_then(|()| signals::block())
        .and_then(|()| Served::start(plan, prober))
        .and_then(|served| {
            detached::let_go_of_inherited();
            if !wants_stderr {
                detached::silence_stderr()?;
            }
            Ok(served)
        });
    let message = match &started {
        Ok(_) => READY.to_owned(),
        Err(problem) => problem.to_string(),
    };
    // A parent that was killed does not want to know.
    let _ = parent.write_all(message.as_bytes());
    let _ = parent.shutdown(std::net::Shutdown::Both);
    match started {
        Ok(served) => served.until_the_end().exit,
        Err(_) => i32::from(EXIT_FAILED),
    }
}

/// A mount of ours: taken away when it is dropped, so that a server that fails to start leaves none.
struct Mounted {
    point: PathBuf,
    dev: DevNo,
    armed: bool,
}

impl Mounted {
    fn detach(&self) -> Result<Outcome, Problem> {
        unmount(&self.point, self.dev, Detach::Lazily)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.armed
            && let Err(problem) = self.detach()
        {
            say(&problem.to_string());
        }
    }
}

fn mount(plan: &Plan) -> Result<(OwnedFd, Mounted), Problem> {
    let device = if nix::unistd::geteuid().is_root() {
        let device = direct::open_device()?;
        let borrowed = std::os::fd::AsFd::as_fd(&device);
        direct::mount_device(borrowed, &plan.source.path, &plan.point, &plan.options)?;
        device
    } else {
        fusermount::mount(&plan.source.path, &plan.point, &plan.options)?
    };
    let entries = mountinfo::read_own().unwrap_or_default();
    let entry = mountinfo::topmost_at(&entries, &plan.point).filter(|entry| entry.is_ours());
    let Some(entry) = entry else {
        return Err(Problem::new(format!(
            "{} was mounted and is no longer: somebody unmounted it",
            plan.point.display()
        )));
    };
    Ok((
        device,
        Mounted {
            point: plan.point.clone(),
            dev: entry.dev,
            armed: true,
        },
    ))
}

/// A mount that is being served.
struct Served {
    server: Server,
    mounted: Mounted,
    control: Option<Control>,
    /// Ends with it.
    _supervisor: Supervisor,
}

/// Who completes the work of a server that dies, and takes its mount away.
fn supervise(
    shared: Option<Arc<Shared>>,
    source: &Path,
    mounted: &Mounted,
) -> Result<Supervisor, Problem> {
    let (point, dev) = (mounted.point.clone(), mounted.dev);
    Supervisor::start(Charge {
        shared,
        source: source.to_owned(),
        last: Box::new(move |report| {
            if let Err(problem) = unmount(&point, dev, Detach::Lazily) {
                say(&problem.to_string());
            }
            control::conclude_for_the_dead(dev, report);
        }),
    })
}

impl Served {
    /// Mounts and serves; signals must be blocked. What `prober` asks of the view is not recorded. It is
    /// not this process: killed while it waits for an answer of its own, a server could never die.
    fn start(plan: Plan, prober: u32) -> Result<Served, Problem> {
        let (device, mut mounted) = mount(&plan)?;
        let told = view::told(plan.recording.attribution, mounted.dev);
        let shared = supervisor::memory(plan.buffer.as_ref())?;
        let supervisor = supervise(shared.clone(), &plan.source.path, &mounted)?;
        let config = ViewConfig {
            source: OwnedFd::from(plan.source.dir),
            source_path: plan.source.path,
            mountpoint: plan.point,
            serving: plan.serving,
            access: plan.options.access,
            kernel_permissions: plan.options.default_permissions,
            only_ids: None,
            quiet: vec![Tid(prober)],
            attribution: plan.recording.attribution,
            told,
            buffer: plan.buffer,
            shared,
        };
        // Before anybody can use the view, and so before anybody can ask to have it unmounted. Only a client that
        // wants to wait needs it; a name that is taken is no reason to fail.
        let control = Control::listen(mounted.dev);
        let control = control.map_err(|problem| log::warn!("{problem}")).ok();
        let server = Server::start(device, config, plan.recording)?;
        signals::listen(server.sender(), server.abandon())?;
        // From here on it goes when somebody says so.
        mounted.armed = false;
        Ok(Served {
            server,
            mounted,
            control,
            _supervisor: supervisor,
        })
    }

    /// Serves until the mount is gone or given up, and finishes.
    fn until_the_end(self) -> Report {
        let mut asked = false;
        loop {
            match self.server.next() {
                Happening::Ended(result) => {
                    if let Err(error) = result {
                        log::warn!("serving ended early: {error}");
                    }
                    break;
                }
                Happening::Signal(signal) if asked => {
                    if signal != Signal::SIGHUP {
                        say("given up: programs that still use the mount get errors now");
                        self.detach();
                        break;
                    }
                }
                Happening::Signal(signal) => {
                    log::info!("{signal}: unmounting");
                    asked = true;
                    self.unmount_on_request();
                }
                Happening::ProgramEnded(_) | Happening::EndNow | Happening::MainGone => {}
            }
        }
        // An aborted connection (fusectl) ends the serving and leaves a dead mount behind.
        self.detach();
        if let Some(control) = &self.control {
            control.close();
        }
        let report = self.server.finish(None);
        if let Some(control) = &self.control {
            control.conclude(&report);
        }
        report
    }

    fn detach(&self) {
        if let Err(problem) = self.mounted.detach() {
            log::info!("{problem}");
        }
    }

    fn unmount_on_request(&self) {
        match unmount_idle(&self.mounted.point, self.mounted.dev) {
            Ok(Outcome::Gone) => {}
            Ok(Outcome::Busy) => {
                let who = holders::list(&holders::find(self.mounted.dev));
                say(&format!(
                    "{} is in use by {}: detached from the tree, and served until the last of them \
                     closes it; the same signal again gives up",
                    self.mounted.point.display(),
                    if who.is_empty() { "somebody" } else { &who }
                ));
                self.detach();
            }
            Err(problem) => say(&problem.to_string()),
        }
    }
}

//! What the mount tests share: a scratch directory and a mount that cleans up after itself.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The binary under test.
pub(crate) const IOLENS: &str = env!("CARGO_BIN_EXE_iolens");

/// Longest wait for anything; what takes so long hangs (the audit of a long trace takes seconds).
const PATIENCE: Duration = Duration::from_secs(60);

/// A directory that other users may walk through, removed at the end.
pub(crate) fn scratch() -> tempfile::TempDir {
    let dir = tempfile::Builder::new()
        .prefix("iolens-test")
        .tempdir()
        .unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

/// Asks `ready` again and again until it says yes; fails with `what` when it never does.
pub(crate) fn wait_until(what: &str, mut ready: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !ready() {
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} for: {what}");
        std::thread::yield_now();
    }
}

/// A mounted view and its server.
pub(crate) struct Mounted {
    server: Option<Child>,
    view: PathBuf,
    trace: PathBuf,
}

impl Mounted {
    /// Mounts `scratch/NAME.source` at `scratch/NAME.view`, traced in `scratch/NAME.jsonl`, with more
    /// arguments of `iolens mount`. The directories are made where they are missing.
    pub(crate) fn new(scratch: &Path, name: &str, args: &[&str]) -> Mounted {
        Mounted::by(Command::new(IOLENS), scratch, name, args)
    }

    /// As `new`; `command` is what starts the binary under test.
    pub(crate) fn by(mut command: Command, scratch: &Path, name: &str, args: &[&str]) -> Mounted {
        assert!(
            Path::new("/dev/fuse").exists(),
            "no /dev/fuse: mount tests cannot run here"
        );
        let path = |end: &str| scratch.join(format!("{name}.{end}"));
        let (source, view, trace) = (path("source"), path("view"), path("jsonl"));
        fs::create_dir_all(&source).unwrap();
        fs::create_dir_all(&view).unwrap();
        let server = command
            .args(["mount", "-f", "-t"])
            .arg(&trace)
            .args(args)
            .args([&source, &view])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut mounted = Mounted {
            server: Some(server),
            view,
            trace,
        };
        wait_until("the mount to answer", || {
            let ended = mounted.server.as_mut().unwrap().try_wait().unwrap();
            assert!(
                ended.is_none(),
                "iolens mount ended before it mounted: {ended:?}"
            );
            is_mounted(&mounted.view) && fs::metadata(&mounted.view).is_ok()
        });
        mounted
    }

    /// Where the view is.
    pub(crate) fn view(&self) -> &Path {
        &self.view
    }

    /// Unmounts as a user does, and proves that all went well: exit codes 0, no mount left, and a trace
    /// that obeys its laws. Gives the trace.
    pub(crate) fn finish(mut self) -> PathBuf {
        let unmounted = wait_for(run("unmount", &self.view));
        assert!(unmounted.success(), "iolens unmount: {unmounted}");
        let served = wait_for(self.server.take().unwrap());
        assert!(served.success(), "iolens mount: {served}");
        assert!(
            !is_mounted(&self.view),
            "still mounted after iolens unmount"
        );
        let audited = wait_for(run("audit", &self.trace));
        assert!(audited.success(), "iolens audit: {audited}");
        self.trace.clone()
    }
}

impl Drop for Mounted {
    /// After a failed test: no mount and no server may stay.
    fn drop(&mut self) {
        let Some(mut server) = self.server.take() else {
            return;
        };
        if is_mounted(&self.view) {
            let _ = umount2(&self.view, MntFlags::MNT_DETACH);
            let _ = Command::new("fusermount3")
                .arg("-uzq")
                .arg(&self.view)
                .status();
        }
        if let Ok(pid) = i32::try_from(server.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let _ = server.wait();
    }
}

fn run(command: &str, argument: impl AsRef<OsStr>) -> Child {
    let mut iolens = Command::new(IOLENS);
    iolens
        .arg(command)
        .arg(argument)
        .stdin(Stdio::null())
        .spawn()
        .unwrap()
}

fn wait_for(mut child: Child) -> ExitStatus {
    let mut ended = None;
    wait_until("a process to end", || {
        ended = child.try_wait().unwrap();
        ended.is_some()
    });
    ended.unwrap()
}

/// Whether something is mounted at `path` (which must not need escapes in mountinfo).
pub(crate) fn is_mounted(path: &Path) -> bool {
    let wanted = path.to_str().unwrap();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts
        .lines()
        .any(|line| line.split(' ').nth(4) == Some(wanted))
}

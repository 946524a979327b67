//! What the process tests share: a scratch directory, commands with a deadline, an ordinary user.
#![allow(dead_code, clippy::unwrap_used)]

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

pub(crate) const IOLENS: &str = env!("CARGO_BIN_EXE_iolens");
/// Longer than anything takes on a busy machine; what takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(30);
/// The ordinary user of the tests.
pub(crate) const USER: u32 = 1234;

/// Asks until the answer is yes.
pub(crate) fn eventually(what: &str, mut ready: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !ready() {
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} for: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// As a shell gives it: 128+N for signal N.
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A started command; killed and detached from its pipes when it outlives the test's patience.
pub(crate) struct Running {
    child: Option<Child>,
    readers: Vec<std::thread::JoinHandle<String>>,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Running {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap();
        let stderr = child.stderr.take().unwrap();
        let readers = vec![
            std::thread::spawn(move || read_all(stdout)),
            std::thread::spawn(move || read_all(stderr)),
        ];
        Running {
            child: Some(child),
            readers,
        }
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.as_ref().unwrap().id()).unwrap())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    pub(crate) fn input(&mut self, text: &str) {
        let stdin = self.child.as_mut().unwrap().stdin.as_mut().unwrap();
        stdin.write_all(text.as_bytes()).unwrap();
    }

    pub(crate) fn end_input(&mut self) {
        drop(self.child.as_mut().unwrap().stdin.take());
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.as_mut().unwrap().try_wait().unwrap().is_none()
    }

    pub(crate) fn finish(mut self) -> Outcome {
        self.end_input();
        eventually("the command to end", || !self.is_running());
        let status = self.child.take().unwrap().wait().unwrap();
        let code = status
            .code()
            .unwrap_or_else(|| 128 + status.signal().unwrap());
        let mut texts = self.readers.drain(..).map(|reader| reader.join().unwrap());
        let (stdout, stderr) = (texts.next().unwrap(), texts.next().unwrap());
        Outcome {
            code,
            stdout,
            stderr,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn read_all(mut from: impl Read) -> String {
    let mut bytes = Vec::new();
    let _ = from.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A directory with `source`, `view` and `state`, walkable by everybody. On drop it must hold no mount.
pub(crate) struct Scratch {
    dir: tempfile::TempDir,
    pub(crate) source: PathBuf,
    pub(crate) view: PathBuf,
}

impl Scratch {
    pub(crate) fn new() -> Scratch {
        let device = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/fuse");
        assert!(
            device.is_ok(),
            "these tests need root and /dev/fuse: {device:?}"
        );
        let dir = tempfile::Builder::new()
            .prefix("iolens-process")
            .tempdir()
            .unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let (source, view) = (dir.path().join("source"), dir.path().join("view"));
        for path in [&source, &view] {
            fs::create_dir(path).unwrap();
        }
        fs::write(source.join("a"), "hello\n").unwrap();
        let state = dir.path().join("state");
        fs::create_dir(&state).unwrap();
        fs::set_permissions(&state, fs::Permissions::from_mode(0o777)).unwrap();
        Scratch { dir, source, view }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `iolens`, with its kept traces in the scratch directory, started in SOURCE.
    pub(crate) fn iolens<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut command = Command::new(IOLENS);
        command.args(args).current_dir(&self.source);
        self.environment(&mut command);
        command
    }

    fn environment(&self, command: &mut Command) {
        command
            .env("XDG_STATE_HOME", self.path("state"))
            .env_remove("IOLENS_LOG");
    }

    /// Runs `iolens ARGS` to its end.
    pub(crate) fn run<S: AsRef<OsStr>>(&self, args: &[S]) -> Outcome {
        Running::start(&mut self.iolens(args)).finish()
    }

    /// Runs a shell script as an ordinary user, with `$IOLENS` and a /dev/fuse for everybody: in a
    /// mount namespace of its own, so that nothing is changed on the machine.
    pub(crate) fn as_user(&self, credentials: &[&str], script: &str) -> Outcome {
        const SETUP: &str = r#"
            set -e
            mount --make-rprivate /
            mount -t tmpfs none "$TOOLS"
            mknod -m 666 "$TOOLS/fuse" c 10 229
            mount --bind "$TOOLS/fuse" /dev/fuse
            cp "$IOLENS_BUILT" "$TOOLS/iolens"
            chmod 755 "$TOOLS" "$TOOLS/iolens"
            export IOLENS="$TOOLS/iolens"
            exec setpriv "$@"
        "#;
        let tools = self.path("tools");
        fs::create_dir_all(&tools).unwrap();
        let mut command = Command::new("unshare");
        command
            .args(["-m", "sh", "-c", SETUP, "setup"])
            .args(credentials);
        command.args(["sh", "-c", script]).current_dir(&self.source);
        command
            .env("TOOLS", &tools)
            .env("IOLENS_BUILT", IOLENS)
            .env("HOME", self.path("state"));
        self.environment(&mut command);
        Running::start(&mut command).finish()
    }

    /// Mounts SOURCE in the background, untraced by name.
    pub(crate) fn mount(&self, options: &[&str]) -> Outcome {
        let mut args = vec!["mount"];
        args.extend(options);
        let (source, view) = (self.source.to_str().unwrap(), self.view.to_str().unwrap());
        args.extend([source, view]);
        self.run(&args)
    }

    pub(crate) fn unmount(&self) -> Outcome {
        self.run(&["unmount", self.view.to_str().unwrap()])
    }

    /// Unmounts, and proves that all went well: the newest kept trace obeys its laws.
    pub(crate) fn unmount_and_audit(&self) {
        let outcome = self.unmount();
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        let audit = self.run(&["audit"]);
        assert_eq!(audit.code, 0, "{}", audit.stdout);
    }

    /// Whether anything is mounted below the scratch directory.
    pub(crate) fn is_mounted(&self) -> bool {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        mounts.contains(self.dir.path().to_str().unwrap())
    }

    /// The newest kept trace.
    pub(crate) fn trace(&self) -> String {
        fs::read_to_string(self.path("state/iolens/latest")).unwrap()
    }

    /// Processes of the server: those whose command line names the scratch directory's view.
    pub(crate) fn servers(&self) -> Vec<Pid> {
        let view = self.view.to_str().unwrap().to_owned();
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let is_server = |pid: &i32| {
            let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.contains("iolens") && line.contains("mount") && line.contains(&view)
        };
        pids.filter(is_server).map(Pid::from_raw).collect()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let mounted = self.is_mounted();
        while self.is_mounted() {
            if umount2(&self.view, MntFlags::MNT_DETACH).is_err() {
                break;
            }
        }
        for pid in self.servers() {
            let _ = kill(pid, Signal::SIGKILL);
        }
        if !std::thread::panicking() {
            assert!(!mounted, "the test left a mount behind");
        }
    }
}

/// The last line of a trace says that it is complete.
pub(crate) fn has_footer(trace: &Path) -> bool {
    let text = fs::read_to_string(trace).unwrap_or_default();
    text.lines()
        .last()
        .is_some_and(|line| line.contains(r#""kind":"footer""#))
}

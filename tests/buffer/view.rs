//! A view with certain options, the matrix of them, and what a test asks of both sides.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use libc::{O_CREAT, O_RDWR, O_TRUNC};
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;

use crate::record::Trace;
use crate::support::{Mounted, scratch, wait_until};
use crate::tree::tree;

/// What the cases run with.
pub(crate) const MATRIX: &[&[&str]] = &[
    &["--policy", "off"],
    &["--policy", "write-through"],
    &["--policy", "write-back"],
    KEEP,
    &[
        "--policy",
        "write-back",
        "--cache-size",
        "1MiB",
        "--dirty-age",
        "1ms",
    ],
];

/// Nothing is written back but where a call asks for it; closing does not.
pub(crate) const KEEP: &[&str] = &[
    "--policy",
    "write-back",
    "--dirty-age",
    "never",
    "--on-close",
    "keep",
];

/// Nothing is written back but where a call asks for it; closing does.
pub(crate) const NEVER: &[&str] = &["--policy", "write-back", "--dirty-age", "never"];

/// Longest life of one view, ten times what the slowest takes; then its connection is cut and every
/// call in it fails.
const LONGEST: Duration = Duration::from_secs(100);

/// Options of a mount, and what they mean for a test.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting<'a>(&'a [&'a str]);

impl Setting<'_> {
    fn has(self, option: &str, value: &str) -> bool {
        self.0.windows(2).any(|pair| pair == [option, value])
    }

    /// Writes go into a buffer.
    pub(crate) fn buffers(self) -> bool {
        self.has("--policy", "write-back")
    }

    /// close(2) leaves dirty data dirty.
    pub(crate) fn keeps(self) -> bool {
        self.has("--on-close", "keep")
    }

    /// Dirty data stays until a call asks for it.
    pub(crate) fn never_ages(self) -> bool {
        self.buffers() && self.has("--dirty-age", "never")
    }

    /// Dirty data is written back within a moment.
    pub(crate) fn ages_at_once(self) -> bool {
        self.has("--dirty-age", "1ms")
    }
}

/// A mounted view and SOURCE below it.
pub(crate) struct View<'a> {
    pub(crate) setting: Setting<'a>,
    top: &'a Path,
    root: PathBuf,
}

impl View<'_> {
    /// A name in the view.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The same name in SOURCE.
    pub(crate) fn below(&self, name: &str) -> PathBuf {
        self.top.join("v.source").join(name)
    }

    /// A name in a bare directory of the same filesystem.
    pub(crate) fn bare(&self, name: &str) -> PathBuf {
        let dir = self.top.join("bare");
        fs::create_dir_all(&dir).unwrap();
        dir.join(name)
    }

    /// Opens a name in the view.
    pub(crate) fn open(&self, name: &str, flags: i32) -> File {
        open_at(&self.path(name), flags)
    }

    /// An empty file in the view, open for reading and writing.
    pub(crate) fn create(&self, name: &str) -> File {
        self.open(name, O_RDWR | O_CREAT | O_TRUNC)
    }

    /// A file that lies in SOURCE and was never seen by the view.
    pub(crate) fn given(&self, name: &str, data: &[u8]) {
        fs::write(self.below(name), data).unwrap();
    }

    /// What a fresh open of the name reads.
    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    pub(crate) fn stat(&self, name: &str) -> fs::Metadata {
        fs::metadata(self.path(name)).unwrap()
    }

    /// Through the view: exactly these bytes, by stat(2), by a fresh open, and to its end.
    pub(crate) fn shows(&self, name: &str, data: &[u8]) {
        assert_eq!(
            self.stat(name).size(),
            data.len() as u64,
            "size of {name} in the view"
        );
        same(&format!("{name} in the view"), &self.read(name), data);
    }

    /// SOURCE has exactly these bytes now.
    pub(crate) fn holds(&self, name: &str, data: &[u8]) {
        same(
            &format!("{name} in SOURCE"),
            &fs::read(self.below(name)).unwrap(),
            data,
        );
    }

    /// SOURCE has these bytes now, if closing a writable descriptor puts them there.
    pub(crate) fn holds_as_closed(&self, name: &str, data: &[u8]) {
        if !self.setting.keeps() {
            self.holds(name, data);
        }
    }

    /// SOURCE gets exactly these bytes, before long.
    pub(crate) fn comes_to_hold(&self, name: &str, data: &[u8]) {
        let what = format!("{name} to be written to SOURCE");
        wait_until(&what, || fs::read(self.below(name)).unwrap() == data);
    }

    /// SOURCE has these bytes now, if no write is buffered.
    pub(crate) fn holds_unless_buffered(&self, name: &str, data: &[u8]) {
        if !self.setting.buffers() {
            self.holds(name, data);
        }
    }

    /// SOURCE has nothing of the file but zeros yet, if dirty data stays dirty.
    pub(crate) fn still_lacks(&self, name: &str) {
        if self.setting.never_ages() {
            let data = fs::read(self.below(name)).unwrap();
            assert!(data.iter().all(|&byte| byte == 0), "{name} is in SOURCE");
        }
    }
}

pub(crate) fn open_at(path: &Path, flags: i32) -> File {
    let flags = OFlag::from_bits_retain(flags | libc::O_CLOEXEC);
    let fd = open(path, flags, Mode::from_bits_retain(0o644));
    File::from(fd.unwrap_or_else(|errno| panic!("open {}: {errno}", path.display())))
}

/// Reads a description from its beginning to its end without moving it.
pub(crate) fn all_of(file: &File) -> Vec<u8> {
    let (mut data, mut piece) = (Vec::new(), vec![0; 1 << 20]);
    loop {
        let got = file.read_at(&mut piece, data.len() as u64).unwrap();
        if got == 0 {
            return data;
        }
        data.extend_from_slice(&piece[..got]);
    }
}

/// Fails with the place of the first difference.
pub(crate) fn same(what: &str, got: &[u8], wanted: &[u8]) {
    if got == wanted {
        return;
    }
    let pairs = got.iter().zip(wanted);
    let at = pairs.take_while(|(a, b)| a == b).count();
    let piece = |data: &[u8]| data[at..data.len().min(at + 24)].escape_ascii().to_string();
    panic!(
        "{what}: {} bytes, expected {}; at {at} \"{}\", expected \"{}\"",
        got.len(),
        wanted.len(),
        piece(got),
        piece(wanted)
    );
}

/// Bytes that are different everywhere, none of them 0.
pub(crate) fn pattern(size: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[5] | 1
    };
    (0..size).map(|_| next()).collect()
}

/// The rows of the matrix that shall run.
pub(crate) fn rows() -> impl Iterator<Item = &'static [&'static str]> {
    let only = std::env::var("IOLENS_BUFFER").unwrap_or_default();
    let rows = MATRIX.iter().copied();
    rows.filter(move |row| row.join(" ").contains(&only))
}

/// Runs `body` on a view with each row of the matrix. Afterwards SOURCE is what the view showed.
pub(crate) fn each(body: impl Fn(&View) + Sync) {
    each_then(&[], body, |_, _| {});
}

/// As `each`, with more options on each row; then looks at each trace.
pub(crate) fn each_then(
    more: &[&str],
    body: impl Fn(&View) + Sync,
    check: impl Fn(Setting, &Trace),
) {
    for row in rows() {
        let args = [row, more].concat();
        let trace = with_view(
            &args,
            |_| {},
            |mounted, v| finish_compared(mounted, v, &body),
        );
        check(Setting(&args), &trace);
    }
}

/// As `each`; each SOURCE is a tmpfs of its own with these mount options.
pub(crate) fn each_on_tmpfs(options: &str, body: impl Fn(&View) + Sync) {
    for row in rows() {
        let prepare = |top: &Path| {
            let source = top.join("v.source");
            fs::create_dir(&source).unwrap();
            let (kind, none, flags) = (Some("tmpfs"), None::<&str>, MsFlags::empty());
            mount(none, &source, kind, flags, Some(options)).unwrap();
        };
        with_view(row, prepare, |mounted, v| {
            finish_compared(mounted, v, &body)
        });
    }
}

/// As `each`, but the server is killed then; `check` looks at what SOURCE has.
pub(crate) fn each_killed(body: impl Fn(&View) + Sync, check: impl Fn(&View) + Sync) {
    for row in rows() {
        with_view(
            row,
            |_| {},
            |mounted, v| {
                body(v);
                // Detaches the view and kills its server.
                drop(mounted);
                check(v);
            },
        );
    }
}

/// Runs `body` on one view, and gives what it recorded: nothing but `body`'s own calls.
pub(crate) fn on(args: &[&str], body: impl FnOnce(&View) + Send) -> Trace {
    with_view(
        args,
        |_| {},
        |mounted, v| {
            body(v);
            Trace::read(&mounted.finish())
        },
    )
}

/// As `on`, after `prepare` has seen to what is to be SOURCE, `v.source` in the directory that it gets.
pub(crate) fn on_prepared(
    args: &[&str],
    prepare: impl FnOnce(&Path) + Send,
    body: impl FnOnce(&View) + Send,
) -> Trace {
    with_view(args, prepare, |mounted, v| {
        body(v);
        Trace::read(&mounted.finish())
    })
}

fn finish_compared(mounted: Mounted, v: &View, body: impl FnOnce(&View)) -> Trace {
    body(v);
    let seen = tree(&v.path(""), Path::new(""));
    let trace = mounted.finish();
    let below = tree(&v.below(""), Path::new(""));
    assert_eq!(below, seen, "SOURCE afterwards, and what the view showed");
    Trace::read(&trace)
}

fn with_view<T: Send>(
    args: &[&str],
    prepare: impl FnOnce(&Path) + Send,
    body: impl FnOnce(Mounted, &View) -> T + Send,
) -> T {
    let _alone = alone();
    // Shown where the test fails.
    eprintln!("with {}", args.join(" "));
    let scratch = scratch();
    let _unmounting = Unmounting(scratch.path());
    with_deadline(scratch.path(), || {
        prepare(scratch.path());
        let mounted = Mounted::new(scratch.path(), "v", args);
        let view = View {
            setting: Setting(args),
            top: scratch.path(),
            root: mounted.view().to_owned(),
        };
        body(mounted, &view)
    })
}

/// Until the result is dropped, no other test has a view. A process that one test starts would inherit the
/// descriptors of all others for a moment, and closing them at its exec is a FUSE flush; a private mount
/// namespace would keep their mounts.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes away what is mounted below a directory, whatever happens.
struct Unmounting<'a>(&'a Path);

impl Drop for Unmounting<'_> {
    fn drop(&mut self) {
        for point in mounted_below(self.0) {
            let _ = umount2(&point, MntFlags::MNT_DETACH);
        }
    }
}

fn mounted_below(top: &Path) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    points
        .map(PathBuf::from)
        .filter(|point| point.starts_with(top))
        .collect()
}

/// Runs `body` in a thread of its own; cuts the views below `top` off when it takes too long.
fn with_deadline<T: Send>(top: &Path, body: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let (running, ended) = channel::<()>();
        let thread = scope.spawn(move || {
            let _running = running;
            body()
        });
        if ended.recv_timeout(LONGEST) == Err(RecvTimeoutError::Timeout) {
            eprintln!("no end after {LONGEST:?}: the view is cut off");
            for point in mounted_below(top) {
                let _ = umount2(&point, MntFlags::MNT_FORCE);
            }
        }
        thread.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}

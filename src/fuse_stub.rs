//! PLACEHOLDER until `fs` and `fuse` are merged: a small passthrough by path names, enough to run
//! programs on. Delete this file together with its uses in `src/server/view.rs`.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, OpenFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, Session, SessionACL, TimeOrNow,
    WriteFlags,
};

use crate::event::{Event, Op, OpKind};
use crate::trace::Recorder;
use crate::types::{Ino, Nanos, Pid, Tid};

const TTL: Duration = Duration::ZERO;

/// The view.
pub struct Fs {
    source: OwnedFd,
    recorder: Arc<Recorder>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    paths: HashMap<u64, PathBuf>,
    files: HashMap<u64, Arc<File>>,
    next: u64,
}

impl Fs {
    /// A view of the directory behind `source`.
    #[must_use]
    pub fn new(source: OwnedFd, recorder: Arc<Recorder>) -> Fs {
        let state = State {
            paths: HashMap::from([(1, PathBuf::new())]),
            next: 1,
            ..State::default()
        };
        Fs {
            source,
            recorder,
            state: Mutex::new(state),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, ino: INodeNo) -> PathBuf {
        let below = self.state().paths.get(&ino.0).cloned().unwrap_or_default();
        PathBuf::from(format!("/proc/self/fd/{}/", self.source.as_raw_fd())).join(below)
    }

    fn child(&self, parent: INodeNo, name: &OsStr) -> PathBuf {
        self.path(parent).join(name)
    }

    fn entry(&self, parent: INodeNo, name: &OsStr) -> io::Result<FileAttr> {
        let metadata = fs::symlink_metadata(self.child(parent, name))?;
        let mut state = self.state();
        let below = state
            .paths
            .get(&parent.0)
            .cloned()
            .unwrap_or_default()
            .join(name);
        state.paths.insert(metadata.ino(), below);
        Ok(attributes(metadata.ino(), &metadata))
    }

    fn note(&self, request: &Request, op: OpKind, ino: u64) {
        let mut event = Op::new(op, self.recorder.next_seq(), self.recorder.now());
        event.ino = Some(Ino(ino));
        event.tid = Some(Tid(request.pid()));
        event.pid = Some(Pid(request.pid()));
        event.dur_ns = Nanos(0);
        self.recorder.record(Event::Op(Box::new(event)));
    }

    fn add(&self, file: File) -> FileHandle {
        let mut state = self.state();
        state.next += 1;
        let number = state.next;
        state.files.insert(number, Arc::new(file));
        FileHandle(number)
    }

    fn file(&self, fh: FileHandle) -> Result<Arc<File>, Errno> {
        self.state().files.get(&fh.0).cloned().ok_or(Errno::EBADF)
    }
}

fn options(flags: i32) -> OpenOptions {
    let mut options = OpenOptions::new();
    let access = flags & libc::O_ACCMODE;
    options
        .read(access != libc::O_WRONLY)
        .write(access != libc::O_RDONLY);
    options.truncate(flags & libc::O_TRUNC != 0 && access != libc::O_RDONLY);
    options
}

fn attributes(ino: u64, metadata: &fs::Metadata) -> FileAttr {
    let kind = metadata.file_type();
    let time = metadata.modified().unwrap_or(UNIX_EPOCH);
    FileAttr {
        ino: INodeNo(ino),
        size: metadata.size(),
        blocks: metadata.blocks(),
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind: if kind.is_dir() {
            FileType::Directory
        } else if kind.is_symlink() {
            FileType::Symlink
        } else {
            FileType::RegularFile
        },
        perm: u16::try_from(metadata.mode() & 0o7777).unwrap_or(0o600),
        nlink: u32::try_from(metadata.nlink()).unwrap_or(1),
        uid: metadata.uid(),
        gid: metadata.gid(),
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl Filesystem for Fs {
    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.entry(parent, name) {
            Ok(attr) => {
                self.note(request, OpKind::Lookup, attr.ino.0);
                reply.entry(&TTL, &attr, Generation(0));
            }
            Err(error) => reply.error(error.into()),
        }
    }

    fn getattr(&self, request: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.note(request, OpKind::Getattr, ino.0);
        match fs::symlink_metadata(self.path(ino)) {
            Ok(metadata) => reply.attr(&TTL, &attributes(ino.0, &metadata)),
            Err(error) => reply.error(error.into()),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<std::time::SystemTime>,
        _: Option<FileHandle>,
        _: Option<std::time::SystemTime>,
        _: Option<std::time::SystemTime>,
        _: Option<std::time::SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let path = self.path(ino);
        let work = || -> io::Result<fs::Metadata> {
            if let Some(mode) = mode {
                fs::set_permissions(&path, fs::Permissions::from_mode(mode & 0o7777))?;
            }
            if let Some(size) = size {
                OpenOptions::new().write(true).open(&path)?.set_len(size)?;
            }
            fs::symlink_metadata(&path)
        };
        match work() {
            Ok(metadata) => reply.attr(&TTL, &attributes(ino.0, &metadata)),
            Err(error) => reply.error(error.into()),
        }
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        use std::os::unix::ffi::OsStrExt;
        match fs::read_link(self.path(ino)) {
            Ok(target) => reply.data(target.as_os_str().as_bytes()),
            Err(error) => reply.error(error.into()),
        }
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        match fs::create_dir(self.child(parent, name)).and_then(|()| self.entry(parent, name)) {
            Ok(attr) => reply.entry(&TTL, &attr, Generation(0)),
            Err(error) => reply.error(error.into()),
        }
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        match fs::remove_file(self.child(parent, name)) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error.into()),
        }
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.note(request, OpKind::Open, ino.0);
        match options(flags.0).open(self.path(ino)) {
            Ok(file) => reply.opened(self.add(file), FopenFlags::FOPEN_DIRECT_IO),
            Err(error) => reply.error(error.into()),
        }
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let mut options = options(flags);
        let opened = options
            .create(true)
            .mode(mode)
            .open(self.child(parent, name));
        match opened.and_then(|file| Ok((file, self.entry(parent, name)?))) {
            Ok((file, attr)) => {
                self.note(request, OpKind::Create, attr.ino.0);
                let fh = self.add(file);
                reply.created(&TTL, &attr, Generation(0), fh, FopenFlags::FOPEN_DIRECT_IO);
            }
            Err(error) => reply.error(error.into()),
        }
    }

    fn read(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.note(request, OpKind::Read, ino.0);
        let mut buffer = vec![0; usize::try_from(size).unwrap_or(0)];
        let read = |file: Arc<File>| file.read_at(&mut buffer, offset).map_err(Errno::from);
        match self.file(fh).and_then(read) {
            Ok(length) => reply.data(&buffer[..length]),
            Err(errno) => reply.error(errno),
        }
    }

    fn write(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.note(request, OpKind::Write, ino.0);
        let write = |file: Arc<File>| file.write_all_at(data, offset).map_err(Errno::from);
        match self.file(fh).and_then(write) {
            Ok(()) => reply.written(u32::try_from(data.len()).unwrap_or(0)),
            Err(errno) => reply.error(errno),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.state().files.remove(&fh.0);
        reply.ok();
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let Ok(entries) = fs::read_dir(self.path(ino)) else {
            return reply.error(Errno::EIO);
        };
        let from = usize::try_from(offset).unwrap_or(0);
        for (at, entry) in entries.flatten().enumerate().skip(from) {
            let next = u64::try_from(at + 1).unwrap_or(0);
            let ino = entry.metadata().map_or(1, |metadata| metadata.ino());
            if reply.add(INodeNo(ino), next, FileType::RegularFile, entry.file_name()) {
                break;
            }
        }
        reply.ok();
    }
}

/// A view that is being served.
pub struct Served(JoinHandle<io::Result<()>>);

impl Served {
    /// Waits until the kernel has let go of the view.
    ///
    /// # Errors
    /// What ended the serving, if it was not the unmount.
    pub fn join(self) -> io::Result<()> {
        self.0
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("a request thread panicked")))
    }
}

/// Answers the handshake and serves.
///
/// # Errors
/// Those of the handshake.
pub fn serve(device: OwnedFd, fs: Fs, threads: usize) -> io::Result<Served> {
    let mut config = Config::default();
    config.n_threads = Some(threads);
    let session = Session::from_fd(fs, device, SessionACL::All, config)?;
    Ok(Served(
        std::thread::Builder::new().spawn(move || session.run())?,
    ))
}

//! The `op` event: one answered request.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::cache::CacheDid;
use super::text::{ByteText, split};
use crate::types::{Fh, Ino, Nanos, Pid, Seq, Tid};

/// One request and its answer. Every field but the first four is absent where it does not apply.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Op {
    /// Order of arrival; unique in the trace.
    pub seq: Seq,
    /// When the request arrived.
    pub ts_ns: Nanos,
    /// How long until it was answered.
    pub dur_ns: Nanos,
    /// What was asked.
    pub op: OpKind,
    /// The inode number the application sees; of the new object where one was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ino: Option<Ino>,
    /// Path below SOURCE of the object; for an open file the name it was opened by, followed through
    /// renames. The root is `.`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<Arc<str>>,
    /// The exact bytes of `path` in base64, where it is not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_b64: Option<Arc<str>>,
    /// The object has no name any more; `path` is the last one it had.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unlinked: bool,
    /// The open file description.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fh: Option<Fh>,
    /// The application's descriptor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fd: Option<i32>,
    /// The application's system call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub syscall: Option<Cow<'static, str>>,
    /// The same for all requests that one system call was split into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<u64>,
    /// On the first of them: the bytes the application asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call_size: Option<u64>,
    /// The process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<Pid>,
    /// The thread.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tid: Option<Tid>,
    /// The thread's name (`/proc/TID/comm`), as last read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comm: Option<Arc<str>>,
    /// The caller's filesystem uid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// The caller's filesystem gid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// Where the caller is known from.
    pub caller: Caller,
    /// First byte.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// Bytes asked for in this request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Bytes transferred, or 0; absent on failure. For `lseek` the resulting offset, for the xattr
    /// reads the bytes of the value or list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ret: Option<u64>,
    /// Name of the error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno: Option<Cow<'static, str>>,
    /// open, create: all flags; write: those of `O_APPEND O_SYNC O_DSYNC O_DIRECT` that are set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<Cow<'static, str>>,
    /// fsync: fdatasync(2) was called.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub datasync: bool,
    /// create, mkdir, mknod: mode; fallocate: mode bits; access: the mask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
    /// rename, link: the new path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Arc<str>>,
    /// The exact bytes of `to` in base64, where it is not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_b64: Option<Arc<str>>,
    /// xattr calls: the attribute; ioctl: the command; lseek: `SEEK_DATA` or `SEEK_HOLE`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Arc<str>>,
    /// symlink, readlink: what the link says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Arc<str>>,
    /// The exact bytes of `target` in base64, where it is not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_b64: Option<Arc<str>>,
    /// copy_file_range: the description written to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fh_out: Option<Fh>,
    /// copy_file_range: the file written to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_out: Option<Arc<str>>,
    /// copy_file_range: first byte written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset_out: Option<u64>,
    /// setattr: what was set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set: Option<Box<SetAttrs>>,
    /// Size of the file after the operation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_size: Option<u64>,
    /// readdir: entries returned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entries: Option<u64>,
    /// The request serves a memory mapping: a page fault, or the write-back of a stored-to page.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub mapped: bool,
    /// The request fills the kernel's page cache: repeated calls on the same bytes will not be seen.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub page_cache: bool,
    /// File position after the call, where the call moves it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pos: Option<u64>,
    /// Where the position was before the application moved it unseen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seek_from: Option<u64>,
    /// What the buffer did, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cache: Vec<CacheDid>,
    /// Dirty bytes of the file after the operation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dirty: Option<u64>,
}

impl Op {
    /// A request of which nothing but its arrival is known yet.
    #[must_use]
    pub fn new(op: OpKind, seq: Seq, ts_ns: Nanos) -> Op {
        Op {
            seq,
            ts_ns,
            dur_ns: Nanos(0),
            op,
            ino: None,
            path: None,
            path_b64: None,
            unlinked: false,
            fh: None,
            fd: None,
            syscall: None,
            call: None,
            call_size: None,
            pid: None,
            tid: None,
            comm: None,
            uid: None,
            gid: None,
            caller: Caller::Unknown,
            offset: None,
            size: None,
            ret: None,
            errno: None,
            flags: Vec::new(),
            datasync: false,
            mode: None,
            to: None,
            to_b64: None,
            name: None,
            target: None,
            target_b64: None,
            fh_out: None,
            path_out: None,
            offset_out: None,
            set: None,
            file_size: None,
            entries: None,
            mapped: false,
            page_cache: false,
            pos: None,
            seek_from: None,
            cache: Vec::new(),
            dirty: None,
        }
    }

    /// Whether an error is an answer like any other: this is how programs ask for a name, an attribute, or whether a file
    /// is a terminal.
    #[must_use]
    pub fn is_question(&self) -> bool {
        match self.op {
            OpKind::Lookup | OpKind::Getattr | OpKind::Getxattr => true,
            OpKind::Ioctl => self.errno.as_deref() == Some("ENOTTY"),
            _ => false,
        }
    }

    /// Sets `path` (and `path_b64` where needed).
    pub fn set_path(&mut self, path: ByteText) {
        self.path = path.path;
        self.path_b64 = path.path_b64;
    }

    /// Sets `to` (and `to_b64` where needed).
    pub fn set_to(&mut self, to: ByteText) {
        self.to = to.path;
        self.to_b64 = to.path_b64;
    }

    /// Sets `target` (and `target_b64` where needed).
    pub fn set_target(&mut self, target: &OsStr) {
        let (text, b64) = split(target);
        self.target = Some(text);
        self.target_b64 = b64;
    }
}

macro_rules! op_kinds {
    ($($variant:ident $name:literal,)*) => {
        /// What a request asks for; the names are FUSE's, in lower case.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum OpKind {
            $(
                #[doc = concat!("`", $name, "`")]
                #[serde(rename = $name)]
                $variant,
            )*
        }

        impl OpKind {
            /// All of them, in the order of the documentation.
            pub const ALL: &'static [OpKind] = &[$(OpKind::$variant,)*];

            /// The name in the trace.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(OpKind::$variant => $name,)*
                }
            }
        }
    };
}

op_kinds! {
    Lookup "lookup",
    Getattr "getattr",
    Setattr "setattr",
    Open "open",
    Create "create",
    Read "read",
    Write "write",
    Flush "flush",
    Fsync "fsync",
    Release "release",
    Opendir "opendir",
    Readdir "readdir",
    Releasedir "releasedir",
    Fsyncdir "fsyncdir",
    Mkdir "mkdir",
    Unlink "unlink",
    Rmdir "rmdir",
    Rename "rename",
    Link "link",
    Symlink "symlink",
    Readlink "readlink",
    Mknod "mknod",
    Access "access",
    Statfs "statfs",
    Fallocate "fallocate",
    Lseek "lseek",
    CopyFileRange "copy_file_range",
    Getxattr "getxattr",
    Setxattr "setxattr",
    Listxattr "listxattr",
    Removexattr "removexattr",
    Getlk "getlk",
    Setlk "setlk",
    Ioctl "ioctl",
    Poll "poll",
    Tmpfile "tmpfile",
    Statx "statx",
    Syncfs "syncfs",
}

/// Where the caller of an operation is known from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Caller {
    /// From the thread that waits for the answer.
    Request,
    /// The kernel names nobody: whoever opened the file.
    Opener,
    /// Neither.
    Unknown,
}

impl Caller {
    /// The name in the trace.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Caller::Request => "request",
            Caller::Opener => "opener",
            Caller::Unknown => "unknown",
        }
    }
}

/// What a setattr set: the values asked for; times "now" as the time they became.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetAttrs {
    /// New size, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// New mode bits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
    /// New owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// New group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// New access time, nanoseconds since the epoch (negative before 1970).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub atime: Option<i64>,
    /// New modification time, nanoseconds since the epoch (negative before 1970).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtime: Option<i64>,
}

//! What requests ask for, by FUSE's names.

use serde::{Deserialize, Serialize};

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

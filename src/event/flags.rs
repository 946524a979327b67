//! Names of open(2) flags.

use std::borrow::Cow;

/// The names of open(2) flags, access mode first.
#[must_use]
pub fn open_flag_names(flags: i32) -> Vec<Cow<'static, str>> {
    let access = match flags & libc::O_ACCMODE {
        libc::O_RDONLY => "O_RDONLY",
        libc::O_WRONLY => "O_WRONLY",
        libc::O_RDWR => "O_RDWR",
        _ => "O_ACCMODE",
    };
    let mut names = vec![Cow::Borrowed(access)];
    names.extend(set_flags(flags, OPEN_FLAGS));
    names
}

/// The names of those flags that a write carries (`O_APPEND O_SYNC O_DSYNC O_DIRECT`).
#[must_use]
pub fn write_flag_names(flags: i32) -> Vec<Cow<'static, str>> {
    set_flags(flags, WRITE_FLAGS).collect()
}

fn set_flags(flags: i32, table: &[(i32, &'static str)]) -> impl Iterator<Item = Cow<'static, str>> {
    let mut left = flags;
    let mut take = move |bits: i32| {
        let set = left & bits == bits;
        if set {
            left &= !bits;
        }
        set
    };
    table
        .iter()
        .filter(move |(bits, _)| take(*bits))
        .map(|&(_, name)| Cow::Borrowed(name))
}

/// `__FMODE_EXEC` of include/linux/fs.h: the kernel opens the file to execute it.
const FMODE_EXEC: i32 = 0x20;

// A flag that contains another one (O_SYNC contains O_DSYNC, O_TMPFILE O_DIRECTORY) stands before it.
const WRITE_FLAGS: &[(i32, &str)] = &[
    (libc::O_APPEND, "O_APPEND"),
    (libc::O_SYNC, "O_SYNC"),
    (libc::O_DSYNC, "O_DSYNC"),
    (libc::O_DIRECT, "O_DIRECT"),
];

const OPEN_FLAGS: &[(i32, &str)] = &[
    (libc::O_CREAT, "O_CREAT"),
    (libc::O_EXCL, "O_EXCL"),
    (libc::O_TRUNC, "O_TRUNC"),
    (libc::O_APPEND, "O_APPEND"),
    (libc::O_NONBLOCK, "O_NONBLOCK"),
    (libc::O_SYNC, "O_SYNC"),
    (libc::O_DSYNC, "O_DSYNC"),
    (libc::O_DIRECT, "O_DIRECT"),
    (libc::O_TMPFILE, "O_TMPFILE"),
    (libc::O_DIRECTORY, "O_DIRECTORY"),
    (libc::O_NOFOLLOW, "O_NOFOLLOW"),
    (libc::O_NOATIME, "O_NOATIME"),
    (libc::O_NOCTTY, "O_NOCTTY"),
    (libc::O_CLOEXEC, "O_CLOEXEC"),
    (FMODE_EXEC, "FMODE_EXEC"),
];

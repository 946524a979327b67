//! System calls: what `/proc/TID/syscall` says (man 5 proc_pid_syscall), and what the arguments of the
//! calls mean that concern a file by its descriptor. Pure.

use std::sync::LazyLock;

use syscalls::Sysno;

/// Programs with 32-bit addresses have system calls of other numbers, which `/proc/TID/syscall` does not
/// tell apart; but their stack lies below this.
const LOWEST_STACK: u64 = 1 << 32;

/// What a thread was doing when it was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// It was in a system call.
    Call(SystemCall),
    /// It was blocked outside of one: in a page fault.
    Fault,
}

/// A system call under way: which one, and its arguments as they are in the registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SystemCall {
    name: &'static str,
    data: Data,
    args: [u64; 6],
}

/// The calls that move file data, told apart once and not for each request: a name takes as long as all the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Data {
    Read,
    Pread,
    Readv,
    Preadv,
    Preadv2,
    Write,
    Pwrite,
    Writev,
    Pwritev,
    Pwritev2,
    Sendfile,
    Splice,
    CopyRange,
    /// Another call.
    None,
}

/// What this machine's calls are, by their numbers.
static CALLS: LazyLock<Vec<Option<(&'static str, Data)>>> = LazyLock::new(|| {
    let name = |number| Sysno::new(number).map(|call| call.name());
    (0..=Sysno::last().id().unsigned_abs() as usize)
        .map(|number| name(number).map(|name| (name, Data::of(name))))
        .collect()
});

impl Data {
    fn of(name: &str) -> Data {
        match name {
            "read" => Data::Read,
            "pread64" => Data::Pread,
            "readv" => Data::Readv,
            "preadv" => Data::Preadv,
            "preadv2" => Data::Preadv2,
            "write" => Data::Write,
            "pwrite64" => Data::Pwrite,
            "writev" => Data::Writev,
            "pwritev" => Data::Pwritev,
            "pwritev2" => Data::Pwritev2,
            "sendfile" => Data::Sendfile,
            "splice" => Data::Splice,
            "copy_file_range" => Data::CopyRange,
            _ => Data::None,
        }
    }
}

/// How a call on file data says where the data is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// At the file position, which the call moves.
    Position,
    /// At the end of the file, from where the call moves the file position on.
    End,
    /// At this offset.
    Offset(u64),
    /// As another argument says, which is an address.
    Indirect,
}

/// How a call on file data says how much it wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// So many bytes.
    Bytes(u64),
    /// As many as this vector of that many elements has room for.
    Vector(u64, u64),
}

/// A call that moves data from or to a file, as its arguments say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// The descriptor.
    pub fd: i32,
    /// Where.
    pub at: At,
    /// How much.
    pub amount: Amount,
}

/// The kernel caps what one call may transfer (fs/read_write.c MAX_RW_COUNT with pages of 4 KiB).
const TRANSFER_MAX: u64 = 0x7fff_f000;

/// The path may be empty, and the descriptor is the file (`AT_EMPTY_PATH`, man 2 openat).
const EMPTY_PATH: u64 = 0x1000;

/// pwritev2(2) writes to the end, whatever it says (include/uapi/linux/fs.h).
const RWF_APPEND: u64 = 0x10;

impl Doing {
    /// `None` for a thread that was not blocked (`running`), for a call without a name, and for a 32-bit
    /// program.
    #[must_use]
    pub fn parse(text: &str) -> Option<Doing> {
        let mut words = text.split_ascii_whitespace();
        let number: i64 = words.next()?.parse().ok()?;
        let mut hex = || {
            let word = words.next()?.strip_prefix("0x")?;
            u64::from_str_radix(word, 16).ok()
        };
        if number < 0 {
            return Some(Doing::Fault);
        }
        let mut args = [0; 6];
        for arg in &mut args {
            *arg = hex()?;
        }
        Doing::of(number, args, hex()?)
    }

    /// The same from numbers.
    #[must_use]
    pub fn of(number: i64, args: [u64; 6], stack: u64) -> Option<Doing> {
        if number < 0 {
            return Some(Doing::Fault);
        }
        let (name, data) = (*CALLS.get(usize::try_from(number).ok()?)?)?;
        (stack >= LOWEST_STACK).then_some(Doing::Call(SystemCall { name, data, args }))
    }
}

impl Doing {
    /// How much the call says to transfer, if it does.
    pub(super) fn amount(&self) -> Option<Amount> {
        let Doing::Call(call) = self else { return None };
        let transfer = call.reads().or_else(|| call.writes());
        transfer.map(|transfer| transfer.amount)
    }
}

/// A descriptor in a register: the kernel looks at the lower half alone.
fn descriptor(arg: u64) -> i32 {
    let [a, b, c, d, ..] = arg.to_le_bytes();
    i32::from_le_bytes([a, b, c, d])
}

impl SystemCall {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    fn fd(&self, arg: usize) -> i32 {
        descriptor(self.args[arg])
    }

    fn transfer(&self, at: At) -> Transfer {
        Transfer {
            fd: self.fd(0),
            at,
            amount: Amount::Bytes(self.args[2].min(TRANSFER_MAX)),
        }
    }

    fn vectors(&self, at: At) -> Transfer {
        Transfer {
            amount: Amount::Vector(self.args[1], self.args[2]),
            ..self.transfer(at)
        }
    }

    /// preadv2 and pwritev2 take -1 for the file position.
    fn at(&self) -> At {
        match self.args[3] {
            u64::MAX => At::Position,
            offset => At::Offset(offset),
        }
    }

    fn indirect(&self, fd: usize, pointer: usize, len: usize) -> Transfer {
        let at = match self.args[pointer] {
            0 => At::Position,
            _ => At::Indirect,
        };
        Transfer {
            fd: self.fd(fd),
            at,
            amount: Amount::Bytes(self.args[len].min(TRANSFER_MAX)),
        }
    }

    /// What it reads from a file, if it does.
    #[must_use]
    pub fn reads(&self) -> Option<Transfer> {
        Some(match self.data {
            Data::Read => self.transfer(At::Position),
            Data::Pread => self.transfer(At::Offset(self.args[3])),
            Data::Readv => self.vectors(At::Position),
            Data::Preadv => self.vectors(At::Offset(self.args[3])),
            Data::Preadv2 => self.vectors(self.at()),
            Data::Sendfile => self.indirect(1, 2, 3),
            Data::Splice | Data::CopyRange => self.indirect(0, 1, 4),
            _ => return None,
        })
    }

    /// What it writes to a file, if it does.
    #[must_use]
    pub fn writes(&self) -> Option<Transfer> {
        Some(match self.data {
            Data::Write => self.transfer(At::Position),
            Data::Pwrite => self.transfer(At::Offset(self.args[3])),
            Data::Writev => self.vectors(At::Position),
            Data::Pwritev => self.vectors(At::Offset(self.args[3])),
            Data::Pwritev2 if self.args[5] & RWF_APPEND != 0 => self.vectors(match self.at() {
                At::Position => At::End,
                _ => At::Indirect,
            }),
            Data::Pwritev2 => self.vectors(self.at()),
            Data::Sendfile => Transfer {
                fd: self.fd(0),
                at: At::Position,
                amount: Amount::Bytes(self.args[3].min(TRANSFER_MAX)),
            },
            Data::Splice | Data::CopyRange => self.indirect(2, 3, 4),
            _ => return None,
        })
    }

    /// The descriptor that it closes: that of close(2), the one that dup2(2) and dup3(2) replace.
    #[must_use]
    pub fn closes(&self) -> Option<i32> {
        match self.name {
            "close" => Some(self.fd(0)),
            "dup2" | "dup3" => Some(self.fd(1)),
            "close_range" if self.args[0] == self.args[1] => Some(self.fd(0)),
            _ => None,
        }
    }

    /// Whether it can close a descriptor at all.
    #[must_use]
    pub fn may_close(&self) -> bool {
        matches!(
            self.name,
            "close"
                | "dup2"
                | "dup3"
                | "close_range"
                | "exit"
                | "exit_group"
                | "execve"
                | "execveat"
        )
    }

    /// The descriptor that it is about, for calls that are about one and transfer nothing.
    #[must_use]
    pub fn about(&self) -> Option<i32> {
        match self.name {
            "fsync" | "fdatasync" | "ftruncate" | "fallocate" | "lseek" | "copy_file_range"
            | "ioctl" | "getdents" | "getdents64" | "fchmod" | "fchown" | "fcntl" | "flock"
            | "sync_file_range" | "readahead" | "fadvise64" => Some(self.fd(0)),
            // futimens(3) is utimensat(2) without a path.
            "utimensat" if self.args[1] == 0 => Some(self.fd(0)),
            _ => None,
        }
    }

    /// Whether it is about a path, which it walks again where it meets `ESTALE` (include/linux/namei.h retry_estale()).
    #[must_use]
    pub fn takes_path(&self) -> bool {
        let names_a_file = |flags: usize| self.args[flags] & EMPTY_PATH == 0;
        match self.name {
            "open" | "openat" | "openat2" | "creat" | "stat" | "lstat" | "access" | "faccessat"
            | "chmod" | "fchmodat" | "chown" | "lchown" | "utime" | "utimes" | "chdir"
            | "chroot" | "statfs" | "truncate" | "mkdir" | "mkdirat" | "mknod" | "mknodat"
            | "rmdir" | "unlink" | "unlinkat" | "rename" | "renameat" | "renameat2" | "link"
            | "linkat" | "symlink" | "symlinkat" | "readlink" | "readlinkat" | "getxattr"
            | "lgetxattr" | "setxattr" | "lsetxattr" | "listxattr" | "llistxattr"
            | "removexattr" | "lremovexattr" | "execve" => true,
            "statx" | "setxattrat" | "getxattrat" | "listxattrat" | "removexattrat" => {
                names_a_file(2)
            }
            "newfstatat" | "faccessat2" | "fchmodat2" => names_a_file(3),
            "fchownat" | "execveat" => names_a_file(4),
            "utimensat" | "futimesat" => self.args[1] != 0,
            _ => false,
        }
    }

    /// Whether it is about a path and does nothing with what is there.
    #[must_use]
    pub fn only_looks(&self) -> bool {
        let by_name = [
            "stat",
            "lstat",
            "newfstatat",
            "statx",
            "access",
            "faccessat",
        ];
        by_name.contains(&self.name) || matches!(self.name, "faccessat2" | "chdir" | "chroot")
    }

    /// Whether it makes something of the name at the end of its path, other than a file with open(2).
    #[must_use]
    pub fn makes(&self) -> bool {
        let makes = [
            "mkdir",
            "mkdirat",
            "mknod",
            "mknodat",
            "symlink",
            "symlinkat",
        ];
        makes.contains(&self.name) || self.links()
    }

    /// Whether it gives a file a further name.
    #[must_use]
    pub fn links(&self) -> bool {
        matches!(self.name, "link" | "linkat")
    }

    /// Whether it moves data through a pipe of its own, round by round (fs/splice.c splice_direct_to_actor()).
    #[must_use]
    pub fn is_sendfile(&self) -> bool {
        self.data == Data::Sendfile
    }

    /// Whether it moves data from or to a pipe.
    #[must_use]
    pub fn is_splice(&self) -> bool {
        self.data == Data::Splice
    }

    /// Whether it asks the kernel to do input and output in its own time.
    #[must_use]
    pub fn is_asynchronous(&self) -> bool {
        matches!(self.name, "io_submit" | "io_uring_enter")
    }

    /// Whether it fills the kernel's page cache from the file that it is about.
    #[must_use]
    pub fn fills_page_cache(&self) -> bool {
        matches!(
            self.name,
            "sendfile"
                | "splice"
                | "copy_file_range"
                | "execve"
                | "execveat"
                | "mmap"
                | "madvise"
                | "mlock"
                | "mlock2"
                | "mlockall"
                | "readahead"
                | "fadvise64"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(number: Sysno, args: [u64; 6]) -> SystemCall {
        let args = args.map(|arg| format!("{arg:#x}")).join(" ");
        let text = format!("{} {args} 0x7ffd53150000 0x7f2e0b0f1a5d\n", number.id());
        match Doing::parse(&text) {
            Some(Doing::Call(call)) => call,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_file_of_the_kernel_is_read() {
        let read = call(Sysno::read, [3, 0x7f00, 100, 0, 0, 0]);
        assert_eq!(read.name(), "read");
        let transfer = Transfer {
            fd: 3,
            at: At::Position,
            amount: Amount::Bytes(100),
        };
        assert_eq!(read.reads(), Some(transfer));
        assert_eq!(read.writes(), None);
        let fault = "-1 0x7ffd53150000 0x7f2e0b0f1a5d\n";
        assert_eq!(Doing::parse(fault), Some(Doing::Fault));
        assert_eq!(Doing::parse("running\n"), None);
    }

    #[test]
    fn what_is_cut_off_or_unknown_is_nothing() {
        for text in [
            "",
            "\n",
            "0",
            "0 0x1",
            "0 1 2 3 4 5 6 7 8",
            "x y",
            "99999 0x0 0x0 0x0 0x0 0x0 0x0 0x7ffd53150000 0x1",
        ] {
            assert_eq!(Doing::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_32_bit_program_is_not_taken_for_one_of_64() {
        // 3 is read(2) there, and close(2) on x86-64.
        let text = "3 0x3 0xffb0 0x64 0x0 0x0 0x0 0xff9d4c10 0xf7f2b549\n";
        assert_eq!(Doing::parse(text), None);
    }

    #[test]
    fn each_variant_says_where_and_how_much() {
        let at = |number, args| call(number, args).writes().map(|write| write.at);
        assert_eq!(
            at(Sysno::pwrite64, [1, 0, 9, 70, 0, 0]),
            Some(At::Offset(70))
        );
        assert_eq!(
            at(Sysno::pwritev2, [1, 0, 1, u64::MAX, 0, 0]),
            Some(At::Position)
        );
        assert_eq!(at(Sysno::pwritev2, [1, 0, 1, 5, 0, 0]), Some(At::Offset(5)));
        let append = |offset| at(Sysno::pwritev2, [1, 0, 1, offset, 0, RWF_APPEND]);
        assert_eq!(append(u64::MAX), Some(At::End));
        assert_eq!(append(5), Some(At::Indirect), "not at 5");
        let vector = call(Sysno::writev, [1, 0xabc, 4, 0, 0, 0])
            .writes()
            .unwrap();
        assert_eq!(vector.amount, Amount::Vector(0xabc, 4));
        let send = call(Sysno::sendfile, [5, 6, 0, 1000, 0, 0]);
        assert_eq!(
            (send.reads().unwrap().fd, send.writes().unwrap().fd),
            (6, 5)
        );
        let copy = call(Sysno::copy_file_range, [5, 0x7f00, 6, 0, 10, 0]);
        assert_eq!(copy.reads().unwrap().at, At::Indirect);
        assert_eq!(
            (copy.writes().unwrap().fd, copy.writes().unwrap().at),
            (6, At::Position)
        );
        let huge = call(Sysno::read, [3, 0, u64::MAX, 0, 0, 0])
            .reads()
            .unwrap();
        assert_eq!(huge.amount, Amount::Bytes(TRANSFER_MAX));
    }

    #[test]
    fn the_descriptor_that_is_closed_is_told_where_the_call_names_it() {
        assert_eq!(call(Sysno::close, [7, 0, 0, 0, 0, 0]).closes(), Some(7));
        assert_eq!(call(Sysno::dup3, [7, 8, 0, 0, 0, 0]).closes(), Some(8));
        assert_eq!(call(Sysno::close_range, [3, 9, 0, 0, 0, 0]).closes(), None);
        let exit = call(Sysno::exit_group, [0; 6]);
        assert_eq!((exit.closes(), exit.may_close()), (None, true));
        assert!(!call(Sysno::read, [0; 6]).may_close());
        // The kernel takes the lower half of the register.
        assert_eq!(
            call(Sysno::close, [0xffff_ffff_ffff_ffff, 0, 0, 0, 0, 0]).closes(),
            Some(-1)
        );
    }
}

//! The program that strace watches: random steps from a seed, each a raw system call, so that what is called
//! is what is written here. Deterministic for each thread of each process, but for when it is killed.

use std::cell::Cell;
use std::ffi::CString;
use std::rc::Rc;

use super::steps::{ALONE, SAFE, Step};

/// Bytes of memory of each thread; what follows them cannot be touched.
pub(crate) const MEMORY: u64 = 4 << 20;
const PAGE: u64 = 4096;
/// Descriptor numbers that are one thread's own.
pub(crate) const OWN_NUMBERS: u64 = 100;

/// A system call: its result, or the number of the error.
pub(crate) fn call(number: libc::c_long, args: &[u64]) -> Result<u64, i32> {
    let arg = |at: usize| args.get(at).copied().unwrap_or(0);
    // SAFETY: addresses among the arguments are of this thread's memory, that is not used otherwise, or are
    // wrong on purpose, which the kernel finds.
    let result = unsafe { libc::syscall(number, arg(0), arg(1), arg(2), arg(3), arg(4), arg(5)) };
    match u64::try_from(result) {
        Ok(value) => Ok(value),
        Err(_) => Err(nix::errno::Errno::last_raw()),
    }
}

/// splitmix64.
#[derive(Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64, stream: &str) -> Random {
        let mix = |state: u64, byte: u8| (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        let mut random = Random(stream.bytes().fold(seed ^ 0xcbf2_9ce4_8422_2325, mix));
        random.next();
        random
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    pub(crate) fn one_of<T: Copy>(&mut self, list: &[T]) -> T {
        list[usize::try_from(self.below(list.len() as u64)).unwrap()]
    }

    pub(crate) fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }
}

/// A descriptor that nobody else uses.
#[derive(Clone)]
pub(crate) struct Own {
    pub(crate) fd: u64,
    /// Of its open file description: writes go to the end.
    pub(crate) appends: Rc<Cell<bool>>,
}

/// What one thread works with.
pub(crate) struct Worker {
    pub(crate) seed: u64,
    pub(crate) random: Random,
    /// Tells threads and processes apart; its files begin with it.
    pub(crate) name: String,
    pub(crate) open: Vec<Own>,
    /// Descriptors that others use at the same moment: by position, and never sought.
    pub(crate) shared: Vec<u64>,
    /// The address of its memory.
    pub(crate) memory: u64,
    pub(crate) vector: Vec<[u64; 2]>,
    /// The first of the descriptor numbers that it may choose.
    pub(crate) own_numbers: u64,
    /// How deep in children of children.
    pub(crate) depth: u32,
    names: u64,
}

impl Worker {
    pub(crate) fn new(seed: u64, name: &str, number: u64, shared: &[u64]) -> Worker {
        let protection = (libc::PROT_READ | libc::PROT_WRITE).unsigned_abs();
        let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS).unsigned_abs();
        let (protection, flags) = (u64::from(protection), u64::from(flags));
        let map = [0, MEMORY + PAGE, protection, flags, u64::MAX, 0];
        let memory = call(libc::SYS_mmap, &map).unwrap();
        call(libc::SYS_mprotect, &[memory + MEMORY, PAGE, 0]).unwrap();
        Worker {
            seed,
            random: Random::new(seed, name),
            name: name.to_owned(),
            open: Vec::new(),
            shared: shared.to_vec(),
            memory,
            vector: Vec::new(),
            own_numbers: 1000 + number * OWN_NUMBERS,
            depth: 0,
            names: 0,
        }
    }

    /// A name that nobody else takes.
    pub(crate) fn new_name(&mut self) -> CString {
        self.names += 1;
        CString::new(format!("{}.new{}", self.name, self.names)).unwrap()
    }

    /// One of its own names in use.
    pub(crate) fn own_name(&mut self) -> CString {
        let number = self.random.below(3);
        CString::new(format!("{}.{number}", self.name)).unwrap()
    }

    /// One of the names in use: its own or everybody's.
    pub(crate) fn name(&mut self) -> CString {
        let number = self.random.below(3);
        let own = format!("{}.{number}", self.name);
        let name = if self.random.chance(3) {
            format!("common.{number}")
        } else {
            own
        };
        CString::new(name).unwrap()
    }

    /// How much a call is to transfer; seldom so much that it is split.
    pub(crate) fn size(&mut self) -> u64 {
        let most = match self.random.below(40) {
            0 => return 0,
            1 => MEMORY - 5000,
            2 | 3 => 1 << 20,
            4..14 => 70_000,
            14..26 => 5000,
            _ => 60,
        };
        1 + self.random.below(most)
    }

    /// Room for `size` bytes at an odd place.
    pub(crate) fn place(&mut self, size: u64) -> u64 {
        self.memory + self.random.below((MEMORY - size).min(9000))
    }

    /// Where a call with an offset of its own begins.
    pub(crate) fn offset(&mut self) -> u64 {
        let most = self.random.one_of(&[1, 5000, 5000, 300_000, 5 << 20]);
        self.random.below(most)
    }

    /// Fills `vector`, and gives its address and length.
    pub(crate) fn make_vector(&mut self) -> (u64, u64) {
        let count = match self.random.below(12) {
            0 => 0,
            1 => 1000 + self.random.below(25),
            _ => 1 + self.random.below(9),
        };
        let most = match count {
            500.. => self.random.one_of(&[17, 600]),
            _ => self.random.one_of(&[1, 30, 5000, 300_000]),
        };
        self.vector.clear();
        for _ in 0..count {
            let size = match self.random.below(5) {
                0 => 0,
                _ => self.random.below(most),
            };
            let place = self.place(size);
            self.vector.push([place, size]);
        }
        (self.vector.as_ptr().addr() as u64, count)
    }

    /// Forgets the descriptor at `at` of its own.
    pub(crate) fn forget(&mut self, fd: u64) {
        self.open.retain(|own| own.fd != fd);
    }

    /// One of its own descriptors; one is opened where there are few.
    pub(crate) fn own(&mut self) -> Own {
        if self.open.len() < 3 {
            let name = self.name();
            let flags = self.random_flags();
            self.open(&name, flags | libc::O_CREAT);
        }
        match self.open.len() {
            0 => Own {
                fd: u64::from(u32::MAX),
                appends: Rc::default(),
            },
            many => {
                let at = usize::try_from(self.random.below(many as u64)).unwrap();
                self.open[at].clone()
            }
        }
    }

    pub(crate) fn random_flags(&mut self) -> i32 {
        let way = self.random.one_of(&[
            libc::O_RDWR,
            libc::O_RDWR,
            libc::O_RDWR,
            libc::O_RDONLY,
            libc::O_WRONLY,
        ]);
        let more = self.random.one_of(&[
            0,
            0,
            0,
            libc::O_APPEND,
            libc::O_DIRECT,
            libc::O_SYNC,
            libc::O_DSYNC,
            libc::O_TRUNC,
            libc::O_NOATIME,
        ]);
        let closes = self.random.one_of(&[0, libc::O_CLOEXEC]);
        way | more | closes
    }

    /// Opens a file in one of the ways that there are.
    pub(crate) fn open(&mut self, name: &CString, mut flags: i32) {
        // The kernel forgets that a file has grown again when another thread empties it by its open at the same moment
        // (fs/fuse/file.c fuse_finish_open()), and appends move the position to the wrong place.
        if name.to_bytes().starts_with(b"common") {
            flags &= !libc::O_TRUNC;
        }
        let path = name.as_ptr().addr() as u64;
        let bits = u64::from(flags.unsigned_abs());
        let here = i64::from(libc::AT_FDCWD).cast_unsigned();
        let opened = match self.random.below(4) {
            0 => call(libc::SYS_open, &[path, bits, 0o644]),
            1 => {
                let mode = if flags & libc::O_CREAT != 0 { 0o600 } else { 0 };
                let how = [bits, mode, 0];
                let address = how.as_ptr().addr() as u64;
                call(libc::SYS_openat2, &[here, path, address, 24])
            }
            _ => call(libc::SYS_openat, &[here, path, bits, 0o644]),
        };
        if let Ok(fd) = opened {
            let appends = Rc::new(Cell::new(flags & libc::O_APPEND != 0));
            self.open.push(Own { fd, appends });
        }
    }

    /// After a write to the end: asks where that was.
    pub(crate) fn tell_position(&mut self, own: &Own) {
        if own.appends.get() {
            let _ = call(libc::SYS_lseek, &[own.fd, 0, 1]);
        }
    }

    /// After a write to the end by a call that names an offset: asks where the end is.
    pub(crate) fn tell_end(&mut self, own: &Own) {
        if own.appends.get() {
            let _ = call(libc::SYS_lseek, &[own.fd, 0, 2]);
        }
    }

    fn steps(&mut self, kinds: &[&[Step]], count: u64) {
        let all: Vec<Step> = kinds.iter().flat_map(|kind| kind.iter().copied()).collect();
        for _ in 0..count {
            self.random.one_of(&all)(self);
        }
    }

    /// What a process does that is not asked for anything else.
    pub(crate) fn work(&mut self, count: u64) {
        self.steps(&[SAFE, ALONE], count);
    }
}

/// Ends the process, with whatever is open.
pub(crate) fn exit(code: u64) -> ! {
    let _ = call(libc::SYS_exit_group, &[code]);
    unreachable!()
}

pub(crate) fn fork() -> Option<u64> {
    match call(libc::SYS_fork, &[]).unwrap() {
        0 => None,
        child => Some(child),
    }
}

pub(crate) fn wait(child: u64) {
    call(libc::SYS_wait4, &[child, 0, 0, 0]).unwrap();
}

/// One process: alone, then with threads, then alone again.
fn process(seed: u64, name: &str, number: u64, shared: &[u64], steps: u64) {
    let mut alone = Worker::new(seed, name, number, shared);
    alone.work(steps);
    std::thread::scope(|scope| {
        for thread in 1..=2 {
            let (name, number) = (format!("{name}t{thread}"), number + thread);
            scope.spawn(move || {
                Worker::new(seed, &name, number, shared).steps(&[SAFE], steps);
            });
        }
        if seed.is_multiple_of(2) {
            alone.steps(&[SAFE], steps);
        }
    });
    alone.work(steps / 2);
}

/// What was asked for: `SEED`, or after execve(2) `SEED exec NAME DESCRIPTOR...`.
pub(crate) fn run(what: &str) -> ! {
    let mut words = what.split(' ');
    let seed = words.next().unwrap().parse().unwrap();
    if let Some("exec") = words.next() {
        let mut worker = Worker::new(seed, words.next().unwrap(), 90, &[]);
        worker.depth = 2;
        for fd in words {
            // What it is sought to is asked for after each write.
            let appends = Rc::new(Cell::new(true));
            worker.open.push(Own {
                fd: fd.parse().unwrap(),
                appends,
            });
        }
        worker.work(6);
        exit(0);
    }
    let limit = [65_536_u64, 65_536];
    let address = limit.as_ptr().addr() as u64;
    let _ = call(
        libc::SYS_prlimit64,
        &[0, libc::RLIMIT_NOFILE.into(), address, 0],
    );
    let shared: Vec<u64> = ["shared.a", "shared.b"]
        .map(|name| {
            let name = CString::new(name).unwrap();
            let flags = (libc::O_RDWR | libc::O_CREAT).unsigned_abs();
            let path = name.as_ptr().addr() as u64;
            call(libc::SYS_open, &[path, flags.into(), 0o644]).unwrap()
        })
        .to_vec();
    // Before others can do the same: of two first copies at the same moment, one has the kernel take it that this
    // filesystem cannot copy (fs/fuse/file.c __fuse_copy_file_range(), where FUSE_COPY_FILE_RANGE_64 is not known).
    let one = [shared[0], 0, shared[1], 0, 10, 0];
    let _ = call(
        libc::SYS_write,
        &[shared[0], c"first copy".as_ptr().addr() as u64, 10],
    );
    let _ = call(libc::SYS_lseek, &[shared[0], 0, 0]);
    let _ = call(libc::SYS_copy_file_range, &one);
    let children: Vec<u64> = (1..=2)
        .filter_map(|number| {
            let child = fork();
            if child.is_none() {
                process(seed, &format!("p{number}"), number * 10, &shared, 25);
                exit(0);
            }
            child
        })
        .collect();
    process(seed, "p0", 0, &shared, 30);
    for child in children {
        wait(child);
    }
    for fd in shared {
        let _ = call(libc::SYS_lseek, &[fd, 0, 1]);
    }
    super::scripts::run(seed);
    exit(0)
}

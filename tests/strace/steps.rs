//! What a random program does: each step is one system call, or a few that belong together.

use std::ffi::CString;
use std::rc::Rc;

use super::program::{MEMORY, OWN_NUMBERS, Own, Worker, call, exit, fork, wait};

/// A step.
pub(crate) type Step = fn(&mut Worker);

/// What a thread may do beside others.
pub(crate) const SAFE: &[Step] = &[
    read,
    read,
    pread,
    pread,
    readv,
    readv,
    preadv,
    preadv2,
    preadv2,
    write,
    write,
    write,
    pwrite,
    pwrite,
    writev,
    writev,
    pwritev,
    pwritev2,
    pwritev2,
    shared_read,
    shared_write,
    shared_vector,
    fsync,
    fdatasync,
    ftruncate,
    truncate,
    fallocate,
    seek_set,
    seek_cur,
    seek_end,
    seek_data,
    seek_hole,
    copy_file_range,
    sendfile_out,
    sendfile_in,
    splice_out,
    splice_in,
    dup,
    dup2,
    dup3,
    dup_fd,
    set_append,
    open,
    open,
    creat,
    close,
    close,
    close_range_of_one,
    map,
    write_from_mapping,
    rename,
    unlink,
    advise,
    bad_descriptor,
    bad_address,
    bad_argument,
    bad_offset,
    bad_open,
    read_directory,
    path_only,
    huge_read,
    stat,
];

/// What a process may do while it has one thread.
pub(crate) const ALONE: &[Step] = &[
    close_own_numbers,
    mark_own_numbers,
    forked,
    forked,
    executed,
    spawned,
    killed,
    limited,
    exit_of_another_thread,
    stranger,
    executed_from_the_view,
    open_for_exec,
];

const NULL: u64 = 0;

fn minus(value: i64) -> u64 {
    (-value).cast_unsigned()
}

fn address<T>(of: &T) -> u64 {
    std::ptr::from_ref(of).addr() as u64
}

/// Of what the kernel writes to.
fn changed<T>(of: &mut T) -> u64 {
    std::ptr::from_mut(of).expose_provenance() as u64
}

impl Worker {
    /// A pointer to an offset, or none.
    fn maybe(&mut self, offset: &mut u64) -> u64 {
        if self.random.chance(2) {
            changed(offset)
        } else {
            NULL
        }
    }
}

fn read(it: &mut Worker) {
    let (own, size) = (it.own(), it.size());
    let _ = call(libc::SYS_read, &[own.fd, it.place(size), size]);
}

fn pread(it: &mut Worker) {
    let (own, size, offset) = (it.own(), it.size(), it.offset());
    let _ = call(libc::SYS_pread64, &[own.fd, it.place(size), size, offset]);
}

fn readv(it: &mut Worker) {
    let (own, (vector, count)) = (it.own(), it.make_vector());
    let _ = call(libc::SYS_readv, &[own.fd, vector, count]);
}

fn preadv(it: &mut Worker) {
    let (own, (vector, count), offset) = (it.own(), it.make_vector(), it.offset());
    let _ = call(libc::SYS_preadv, &[own.fd, vector, count, offset]);
}

fn preadv2(it: &mut Worker) {
    let (own, (vector, count)) = (it.own(), it.make_vector());
    let offset = if it.random.chance(2) {
        u64::MAX
    } else {
        it.offset()
    };
    // RWF_HIPRI, and RWF_NOWAIT, which is not known here.
    let flags = it.random.one_of(&[0, 0, 0, 1, 8]);
    let _ = call(
        libc::SYS_preadv2,
        &[own.fd, vector, count, offset, NULL, flags],
    );
}

fn write(it: &mut Worker) {
    let (own, size) = (it.own(), it.size());
    let _ = call(libc::SYS_write, &[own.fd, it.place(size), size]);
    it.tell_position(&own);
}

fn pwrite(it: &mut Worker) {
    let (own, size, offset) = (it.own(), it.size(), it.offset());
    let _ = call(libc::SYS_pwrite64, &[own.fd, it.place(size), size, offset]);
    it.tell_end(&own);
}

fn writev(it: &mut Worker) {
    let (own, (vector, count)) = (it.own(), it.make_vector());
    let _ = call(libc::SYS_writev, &[own.fd, vector, count]);
    it.tell_position(&own);
}

fn pwritev(it: &mut Worker) {
    let (own, (vector, count), offset) = (it.own(), it.make_vector(), it.offset());
    let _ = call(libc::SYS_pwritev, &[own.fd, vector, count, offset]);
    it.tell_end(&own);
}

fn pwritev2(it: &mut Worker) {
    let (own, (vector, count)) = (it.own(), it.make_vector());
    let offset = if it.random.chance(2) {
        u64::MAX
    } else {
        it.offset()
    };
    // None, RWF_DSYNC, RWF_SYNC, RWF_APPEND, RWF_NOWAIT.
    let flags = it.random.one_of(&[0, 0, 2, 4, 0x10, 8]);
    let _ = call(
        libc::SYS_pwritev2,
        &[own.fd, vector, count, offset, NULL, flags],
    );
    if flags == 0x10 && offset != u64::MAX {
        let _ = call(libc::SYS_lseek, &[own.fd, 0, 2]);
    }
    // Where the end was, nobody else says.
    let _ = call(libc::SYS_lseek, &[own.fd, 0, 1]);
}

fn shared_read(it: &mut Worker) {
    if let Some(fd) = it.shared.first().copied() {
        let size = it.random.below(300);
        let _ = call(libc::SYS_read, &[fd, it.place(size), size]);
    }
}

fn shared_write(it: &mut Worker) {
    if let Some(fd) = it.shared.last().copied() {
        let size = 1 + it.random.below(5000);
        let _ = call(libc::SYS_write, &[fd, it.place(size), size]);
    }
}

fn shared_vector(it: &mut Worker) {
    if it.shared.is_empty() {
        return;
    }
    let (fd, (vector, count)) = (it.random.one_of(&it.shared.clone()), it.make_vector());
    let number = it.random.one_of(&[libc::SYS_readv, libc::SYS_writev]);
    let _ = call(number, &[fd, vector, count]);
}

fn fsync(it: &mut Worker) {
    let _ = call(libc::SYS_fsync, &[it.own().fd]);
}

fn fdatasync(it: &mut Worker) {
    let _ = call(libc::SYS_fdatasync, &[it.own().fd]);
}

/// An offset where no file can have bytes, but on the filesystem that is small: it takes any.
fn far(it: &Worker, offset: u64) -> u64 {
    if super::is_small(it.seed) {
        minus(7)
    } else {
        offset
    }
}

fn ftruncate(it: &mut Worker) {
    let (own, size) = (it.own(), it.offset());
    let far = far(it, 1 << 61);
    let size = it.random.one_of(&[size, size, size, minus(1), far]);
    let _ = call(libc::SYS_ftruncate, &[own.fd, size]);
}

fn truncate(it: &mut Worker) {
    let (name, size) = (it.name(), it.offset());
    let _ = call(libc::SYS_truncate, &[name.as_ptr().addr() as u64, size]);
}

fn fallocate(it: &mut Worker) {
    let (own, offset, size) = (it.own(), it.offset(), it.size());
    // None, KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE, COLLAPSE_RANGE, and one that nobody knows.
    let mode = it.random.one_of(&[0, 0, 1, 3, 0x10, 8, 0x4000]);
    let far = far(it, 1 << 60);
    let offset = it.random.one_of(&[offset, offset, offset, minus(3), far]);
    let _ = call(libc::SYS_fallocate, &[own.fd, mode, offset, size]);
}

fn seek(it: &mut Worker, offset: u64, whence: i32) {
    let _ = call(
        libc::SYS_lseek,
        &[it.own().fd, offset, u64::from(whence.unsigned_abs())],
    );
}

fn seek_set(it: &mut Worker) {
    let offset = it.offset();
    seek(it, offset, libc::SEEK_SET);
}

fn seek_cur(it: &mut Worker) {
    let offset = it.random.one_of(&[0, 7, 5000, minus(3), minus(4000)]);
    seek(it, offset, libc::SEEK_CUR);
}

fn seek_end(it: &mut Worker) {
    let offset = it.random.one_of(&[0, 7, minus(3), minus(4000)]);
    seek(it, offset, libc::SEEK_END);
}

fn seek_data(it: &mut Worker) {
    let offset = it.offset();
    seek(it, offset, libc::SEEK_DATA);
}

fn seek_hole(it: &mut Worker) {
    let offset = it.offset();
    seek(it, offset, libc::SEEK_HOLE);
}

fn copy_file_range(it: &mut Worker) {
    let (from, to, size) = (it.own(), it.own(), it.size());
    let (mut from_at, mut to_at) = (it.offset(), it.offset());
    let from_pointer = it.maybe(&mut from_at);
    let to_pointer = it.maybe(&mut to_at);
    let args = [from.fd, from_pointer, to.fd, to_pointer, size, 0];
    let _ = call(libc::SYS_copy_file_range, &args);
}

fn outside() -> u64 {
    call(
        libc::SYS_memfd_create,
        &[c"outside".as_ptr().addr() as u64, 0],
    )
    .unwrap()
}

fn shut(fd: u64) {
    let _ = call(libc::SYS_close, &[fd]);
}

fn sendfile_out(it: &mut Worker) {
    let (own, size, to) = (it.own(), it.size(), outside());
    let mut offset = it.offset();
    let given = it.maybe(&mut offset);
    let _ = call(libc::SYS_sendfile, &[to, own.fd, given, size]);
    shut(to);
}

fn sendfile_in(it: &mut Worker) {
    let (own, size, from) = (it.own(), it.size(), outside());
    let have = it.random.below(size + 1);
    let _ = call(libc::SYS_ftruncate, &[from, have]);
    let _ = call(libc::SYS_sendfile, &[own.fd, from, NULL, size]);
    it.tell_position(&own);
    shut(from);
}

fn pipe() -> [i32; 2] {
    let mut ends = [0_i32; 2];
    let _ = call(libc::SYS_pipe2, &[changed(&mut ends), 0o4000]);
    ends
}

fn splice_out(it: &mut Worker) {
    let (own, size) = (it.own(), it.size());
    let mut offset = it.offset();
    let ends = pipe().map(|fd| u64::from(fd.unsigned_abs()));
    let given = it.maybe(&mut offset);
    let _ = call(libc::SYS_splice, &[own.fd, given, ends[1], NULL, size, 0]);
    ends.into_iter().for_each(shut);
}

fn splice_in(it: &mut Worker) {
    let (own, size) = (it.own(), it.size());
    let mut offset = it.offset();
    let ends = pipe().map(|fd| u64::from(fd.unsigned_abs()));
    let given = it.maybe(&mut offset);
    // The second call has nothing but its time that tells it from the first.
    for _ in 0..2 {
        let some = 1 + it.random.below(60_000);
        let _ = call(libc::SYS_write, &[ends[1], it.memory, some]);
        let _ = call(libc::SYS_splice, &[ends[0], NULL, own.fd, given, size, 2]);
    }
    it.tell_position(&own);
    ends.into_iter().for_each(shut);
}

fn copied(it: &mut Worker, own: &Own, result: Result<u64, i32>) {
    if let Ok(fd) = result {
        it.forget(fd);
        let appends = Rc::clone(&own.appends);
        it.open.push(Own { fd, appends });
    }
}

fn dup(it: &mut Worker) {
    let own = it.own();
    let result = call(libc::SYS_dup, &[own.fd]);
    copied(it, &own, result);
}

fn target(it: &mut Worker) -> u64 {
    let far = it.own_numbers + it.random.below(OWN_NUMBERS);
    let near = it.own().fd;
    it.random.one_of(&[far, near])
}

fn dup2(it: &mut Worker) {
    let (own, to) = (it.own(), target(it));
    let result = call(libc::SYS_dup2, &[own.fd, to]);
    copied(it, &own, result);
}

fn dup3(it: &mut Worker) {
    let (own, to) = (it.own(), target(it));
    let flags = it.random.one_of(&[0, 0o2_000_000]);
    let result = call(libc::SYS_dup3, &[own.fd, to, flags]);
    copied(it, &own, result);
}

fn dup_fd(it: &mut Worker) {
    let own = it.own();
    let command = it.random.one_of(&[libc::F_DUPFD, libc::F_DUPFD_CLOEXEC]);
    let from = it.own_numbers + it.random.below(50);
    let result = call(
        libc::SYS_fcntl,
        &[own.fd, u64::from(command.unsigned_abs()), from],
    );
    copied(it, &own, result);
}

fn set_append(it: &mut Worker) {
    if it.depth > 0 {
        // The parent would not know.
        return;
    }
    let own = it.own();
    let flags = it
        .random
        .one_of(&[0, libc::O_APPEND, libc::O_APPEND, libc::O_DIRECT]);
    let args = [
        own.fd,
        u64::from(libc::F_SETFL.unsigned_abs()),
        u64::from(flags.unsigned_abs()),
    ];
    if call(libc::SYS_fcntl, &args).is_ok() {
        own.appends.set(flags & libc::O_APPEND != 0);
    }
}

fn open(it: &mut Worker) {
    let name = if it.random.chance(3) {
        it.new_name()
    } else {
        it.name()
    };
    let flags = it.random_flags();
    let creates = it
        .random
        .one_of(&[libc::O_CREAT, libc::O_CREAT | libc::O_EXCL, 0]);
    it.open(&name, flags | creates);
}

fn creat(it: &mut Worker) {
    let name = it.own_name();
    if let Ok(fd) = call(libc::SYS_creat, &[name.as_ptr().addr() as u64, 0o644]) {
        it.open.push(Own {
            fd,
            appends: Rc::default(),
        });
    }
}

fn close(it: &mut Worker) {
    if it.open.len() > 4 {
        let own = it.own();
        it.forget(own.fd);
        shut(own.fd);
    }
}

fn close_range_of_one(it: &mut Worker) {
    if it.open.len() > 6 {
        let own = it.own();
        it.forget(own.fd);
        let _ = call(libc::SYS_close_range, &[own.fd, own.fd, 0]);
    }
}

/// The shared mapping of an own file's beginning, or nothing.
fn mapped(it: &mut Worker, size: u64) -> Option<u64> {
    let own = it.own();
    let (protection, shared) = (
        u64::from((libc::PROT_READ | libc::PROT_WRITE).unsigned_abs()),
        1,
    );
    let _ = call(libc::SYS_pwrite64, &[own.fd, it.memory, size, 0]);
    let file_size = call(libc::SYS_lseek, &[own.fd, 0, 2]).unwrap_or(0);
    let map = [0, size, protection, shared, own.fd, 0];
    // Beyond the end of the file, touching it kills.
    call(libc::SYS_mmap, &map)
        .ok()
        .filter(|_| file_size >= size && !own.appends.get())
}

fn map(it: &mut Worker) {
    let size = 1 + it.random.below(20_000);
    if let Some(at) = mapped(it, size) {
        // Who else truncates the file would have the touch kill us: the kernel touches it.
        let ends = pipe().map(|fd| u64::from(fd.unsigned_abs()));
        let _ = call(libc::SYS_write, &[ends[1], it.memory, 100]);
        let _ = call(libc::SYS_read, &[ends[0], at, 100.min(size)]);
        ends.into_iter().for_each(shut);
        let _ = call(libc::SYS_msync, &[at, size, 4]);
        if it.random.chance(2) {
            let _ = call(libc::SYS_munmap, &[at, size]);
        }
    }
}

fn write_from_mapping(it: &mut Worker) {
    let size = 1 + it.random.below(20_000);
    if let Some(at) = mapped(it, size) {
        let own = it.own();
        let _ = call(libc::SYS_write, &[own.fd, at, size]);
        it.tell_position(&own);
        let _ = call(libc::SYS_munmap, &[at, size]);
    }
}

fn rename(it: &mut Worker) {
    let (from, to) = (it.name(), it.name());
    let _ = call(
        libc::SYS_rename,
        &[from.as_ptr().addr() as u64, to.as_ptr().addr() as u64],
    );
}

fn unlink(it: &mut Worker) {
    let name = it.name();
    let _ = call(libc::SYS_unlink, &[name.as_ptr().addr() as u64]);
}

fn advise(it: &mut Worker) {
    let own = it.own();
    // POSIX_FADV_DONTNEED, then a sync of pages alone.
    let _ = call(libc::SYS_fadvise64, &[own.fd, 0, 0, 4]);
    let _ = call(libc::SYS_sync_file_range, &[own.fd, 0, 0, 7]);
}

fn stat(it: &mut Worker) {
    let own = it.own();
    let _ = call(libc::SYS_fstat, &[own.fd, it.memory]);
}

fn bad_descriptor(it: &mut Worker) {
    let fd = it.random.one_of(&[minus(1), 60_000, 1 << 33 | 59_999]);
    let number = it.random.one_of(&[
        libc::SYS_read,
        libc::SYS_write,
        libc::SYS_pread64,
        libc::SYS_pwrite64,
        libc::SYS_fsync,
        libc::SYS_close,
        libc::SYS_ftruncate,
        libc::SYS_dup,
    ]);
    let _ = call(number, &[fd, it.memory, 10, 0]);
}

/// Memory that is not there, at once or after a while.
fn bad_address(it: &mut Worker) {
    let own = it.own();
    let good = it.random.one_of(&[0, 100, 5000, 70_000, 2 << 20]);
    let (start, size) = (it.memory + MEMORY - good, good + 10);
    let reads = it.random.chance(2);
    let number = if reads {
        libc::SYS_pread64
    } else {
        libc::SYS_pwrite64
    };
    let _ = call(number, &[own.fd, start, size, 0]);
    it.vector.clear();
    it.vector.push([it.memory, 50]);
    it.vector.push([it.memory + MEMORY, 50]);
    let number = if reads {
        libc::SYS_preadv
    } else {
        libc::SYS_pwritev
    };
    let _ = call(number, &[own.fd, it.vector.as_ptr().addr() as u64, 2, 0]);
    let _ = call(number, &[own.fd, it.memory + MEMORY, 2, 0]);
}

fn bad_argument(it: &mut Worker) {
    let own = it.own();
    it.vector.clear();
    it.vector.push([it.memory, minus(5)]);
    let vector = it.vector.as_ptr().addr() as u64;
    let _ = match it.random.below(7) {
        0 => call(libc::SYS_readv, &[own.fd, vector, 1]),
        1 => call(libc::SYS_writev, &[own.fd, vector, 2000]),
        2 => call(libc::SYS_pread64, &[own.fd, it.memory, 10, minus(5)]),
        3 => call(libc::SYS_pwrite64, &[own.fd, it.memory, 10, minus(5)]),
        4 => call(libc::SYS_lseek, &[own.fd, 0, 77]),
        5 => call(libc::SYS_fallocate, &[own.fd, 0, 0, 0]),
        _ => call(
            libc::SYS_copy_file_range,
            &[own.fd, NULL, own.fd, NULL, 10, 9],
        ),
    };
}

/// Where no file can have bytes: SOURCE or the kernel says so.
fn bad_offset(it: &mut Worker) {
    let (own, size) = (it.own(), 1 + it.random.below(100));
    let far = [1 << 60, (1 << 63) - 10, (1 << 63) - 200].map(|offset| far(it, offset));
    let offset = it.random.one_of(&far);
    let _ = call(libc::SYS_pwrite64, &[own.fd, it.memory, size, offset]);
    let _ = call(libc::SYS_pread64, &[own.fd, it.memory, size, offset]);
}

fn bad_open(it: &mut Worker) {
    let path = it
        .random
        .one_of(&[c"none", c"none/none", c".", c"shared.a/x", c"", c"loop"]);
    let flags = it
        .random
        .one_of(&[libc::O_RDONLY, libc::O_WRONLY, libc::O_RDWR]);
    let _ = call(
        libc::SYS_symlink,
        &[
            c"loop".as_ptr().addr() as u64,
            c"loop".as_ptr().addr() as u64,
        ],
    );
    if let Ok(fd) = call(
        libc::SYS_open,
        &[path.as_ptr().addr() as u64, flags.unsigned_abs().into()],
    ) {
        shut(fd);
    }
}

fn read_directory(it: &mut Worker) {
    let flags = u64::from(libc::O_DIRECTORY.unsigned_abs());
    if let Ok(fd) = call(libc::SYS_open, &[c".".as_ptr().addr() as u64, flags]) {
        let _ = call(libc::SYS_read, &[fd, it.memory, 10]);
        let _ = call(libc::SYS_getdents64, &[fd, it.memory, 1000]);
        let _ = call(libc::SYS_fsync, &[fd]);
        shut(fd);
    }
}

fn path_only(it: &mut Worker) {
    let flags = u64::from(libc::O_PATH.unsigned_abs());
    let name = it.name();
    if let Ok(fd) = call(libc::SYS_open, &[name.as_ptr().addr() as u64, flags]) {
        let _ = call(libc::SYS_read, &[fd, it.memory, 10]);
        shut(fd);
    }
}

/// More than the kernel takes in one call; the file ends long before.
fn huge_read(it: &mut Worker) {
    let own = it.own();
    let _ = call(libc::SYS_read, &[own.fd, it.memory, 0xffff_ffff]);
}

fn close_own_numbers(it: &mut Worker) {
    let (first, last) = (it.own_numbers, it.own_numbers + OWN_NUMBERS - 1);
    it.open.retain(|own| !(first..=last).contains(&own.fd));
    let _ = call(libc::SYS_close_range, &[first, last, 0]);
}

fn mark_own_numbers(it: &mut Worker) {
    let (first, last) = (it.own_numbers, it.own_numbers + OWN_NUMBERS - 1);
    let _ = call(libc::SYS_close_range, &[first, last, 4]);
}

/// A child shares all positions; nobody else uses them until it ends.
fn forked(it: &mut Worker) {
    if it.depth >= 2 {
        return;
    }
    match fork() {
        Some(child) => wait(child),
        None => {
            it.depth += 1;
            it.name.push('c');
            it.work(6);
            exit(it.random.below(3));
        }
    }
}

fn open_for_exec(it: &mut Worker) {
    let name = it.new_name();
    it.open(&name, libc::O_RDWR | libc::O_CREAT | libc::O_CLOEXEC);
}

/// A child goes on as another program, with what is not closed on the way.
fn executed(it: &mut Worker) {
    if it.depth >= 2 {
        return;
    }
    if let Some(child) = fork() {
        return wait(child);
    }
    let mut what = format!("{}={} exec {}x", super::PROGRAM, it.seed, it.name);
    for own in &it.open {
        let flags = call(
            libc::SYS_fcntl,
            &[own.fd, u64::from(libc::F_GETFD.unsigned_abs())],
        );
        if flags == Ok(0) {
            what.push_str(&format!(" {}", own.fd));
        }
    }
    let program = std::env::current_exe().unwrap();
    let program = CString::new(program.to_str().unwrap()).unwrap();
    let mut words = vec![program.clone()];
    words.extend(super::ARGUMENTS.map(|word| CString::new(word).unwrap()));
    let environment = [CString::new(what).unwrap()];
    let pointers = |list: &[CString]| -> Vec<u64> {
        let addresses = list.iter().map(|word| word.as_ptr().addr() as u64);
        addresses.chain([NULL]).collect()
    };
    let (words, environment) = (pointers(&words), pointers(&environment));
    let lists = [
        words.as_ptr().addr() as u64,
        environment.as_ptr().addr() as u64,
    ];
    let _ = call(
        libc::SYS_execve,
        &[program.as_ptr().addr() as u64, lists[0], lists[1]],
    );
    exit(9);
}

/// A child of vfork(2) or its like, which starts a program with a file of the view as its input.
fn spawned(it: &mut Worker) {
    let name = it.new_name();
    let path = std::path::Path::new(name.to_str().unwrap());
    let mut options = std::fs::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true);
    if let Ok(file) = options.open(path) {
        let program = it.random.one_of(&["true", "cat"]);
        let output = file.try_clone().unwrap();
        let mut command = std::process::Command::new(program);
        let _ = command.stdin(file).stdout(output).status();
    }
}

fn killed(it: &mut Worker) {
    match fork() {
        Some(child) => {
            let nap = [0, 1_000_000 + it.random.below(8_000_000)];
            let _ = call(libc::SYS_nanosleep, &[address(&nap), 0]);
            let _ = call(libc::SYS_kill, &[child, 9]);
            wait(child);
        }
        None => {
            it.open.clear();
            it.name.push('k');
            let name = it.new_name();
            it.open(&name, libc::O_RDWR | libc::O_CREAT);
            loop {
                write(it);
                pwrite(it);
            }
        }
    }
}

/// A child that may write no further than to some offset.
fn limited(it: &mut Worker) {
    if let Some(child) = fork() {
        return wait(child);
    }
    it.name.push('l');
    let limit = [it.random.below(9000); 2];
    // SIGXFSZ would kill.
    let ignore = [1_u64, 0, 0, 0];
    let _ = call(libc::SYS_rt_sigaction, &[25, address(&ignore), 0, 8]);
    let _ = call(
        libc::SYS_prlimit64,
        &[0, libc::RLIMIT_FSIZE.into(), address(&limit), 0],
    );
    for step in [
        write,
        pwrite,
        writev,
        pwritev,
        ftruncate,
        fallocate,
        copy_file_range,
        write,
    ] {
        step(it);
    }
    exit(0);
}

/// A child with threads, one of which ends them all while the others are in calls.
fn exit_of_another_thread(it: &mut Worker) {
    if let Some(child) = fork() {
        return wait(child);
    }
    let (seed, name, number) = (it.seed, it.name.clone(), it.own_numbers / OWN_NUMBERS);
    for thread in 0..2 {
        let name = format!("{name}e{thread}");
        std::thread::spawn(move || {
            let mut other = Worker::new(seed, &name, number, &[]);
            loop {
                write(&mut other);
                pread(&mut other);
            }
        });
    }
    let nap = [0, 3_000_000 + it.random.below(6_000_000)];
    let _ = call(libc::SYS_nanosleep, &[address(&nap), 0]);
    exit(0);
}

/// A child that is another user: it may not open anything, and has what is open.
fn stranger(it: &mut Worker) {
    if let Some(child) = fork() {
        return wait(child);
    }
    it.name.push('s');
    it.depth = 2;
    let nobody = 65_534;
    let _ = call(libc::SYS_setresuid, &[nobody, nobody, nobody]);
    for step in [
        open,
        pread,
        write,
        read,
        writev,
        pwritev2,
        ftruncate,
        fallocate,
        copy_file_range,
        fsync,
    ] {
        step(it);
    }
    exit(0);
}

/// A program that lies in the view.
fn executed_from_the_view(it: &mut Worker) {
    let name = it.new_name();
    let path = name.as_ptr().addr() as u64;
    let from = call(libc::SYS_open, &[c"/bin/true".as_ptr().addr() as u64, 0]);
    let flags = u64::from((libc::O_WRONLY | libc::O_CREAT).unsigned_abs());
    let (Ok(from), Ok(to)) = (from, call(libc::SYS_open, &[path, flags, 0o755])) else {
        return;
    };
    let _ = call(libc::SYS_sendfile, &[to, from, NULL, 1 << 24]);
    shut(from);
    shut(to);
    if let Some(child) = fork() {
        return wait(child);
    }
    let words = [path, NULL];
    let words = words.as_ptr().addr() as u64;
    let _ = call(libc::SYS_execve, &[path, words, words + 8]);
    exit(9);
}

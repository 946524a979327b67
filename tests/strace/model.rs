//! From what strace saw to what must be recorded: descriptor tables are followed through open, dup, fork, exec
//! and exit, and each call on a file of the view becomes what is expected, or is one that the kernel answers alone.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::calls::{Call, Moment, Returned, Seen};

/// What a call must leave in the trace.
#[derive(Clone, Debug)]
pub(crate) enum Want {
    Open {
        flags: u64,
    },
    /// An open that failed: the trace has it only if SOURCE was asked.
    Refused,
    /// `at`: where, if the call says so itself.
    Data {
        writes: bool,
        size: Option<u64>,
        at: Option<u64>,
        appends: bool,
        /// Where an append ended, if the program asked at once.
        end: Option<u64>,
        /// Of the open file, and of the call.
        flags: u64,
    },
    Sync {
        data: bool,
    },
    MappingSync,
    Truncate {
        size: u64,
    },
    Fallocate {
        mode: u64,
        offset: u64,
        size: u64,
    },
    Copy {
        to: usize,
        at: Option<u64>,
        to_at: Option<u64>,
        size: u64,
    },
    Seek {
        offset: u64,
        hole: bool,
    },
    Close,
    /// Of several, in any order.
    Closes(Vec<usize>),
}

/// What a call must leave in the trace, and of which file.
#[derive(Clone, Debug)]
pub(crate) struct Expected {
    pub(crate) call: usize,
    pub(crate) want: Want,
    /// The open file description.
    pub(crate) file: Option<usize>,
    pub(crate) fd: Option<i32>,
    /// Why it may be missing.
    pub(crate) maybe: Option<&'static str>,
}

/// What moves a file position.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Moved {
    /// What is expected of a thread, by its place in the list.
    By(u32, usize),
    /// The same, of the file that is copied to.
    ByCopyTo(u32, usize),
    To(u64),
    On(u64),
}

/// An open file description.
#[derive(Debug)]
pub(crate) struct File {
    pub(crate) path: String,
    pub(crate) flags: u64,
    pub(crate) is_directory: bool,
    /// By which call, and when.
    pub(crate) moves: Vec<(usize, Moved)>,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    file: usize,
    closes_on_exec: bool,
}

#[derive(Clone, Debug, Default)]
struct Process {
    /// Its first thread.
    tgid: u32,
    /// RLIMIT_FSIZE is set.
    limited: bool,
    /// It is not of the user who mounted the view.
    stranger: bool,
    /// Shared mappings by address.
    maps: HashMap<u64, usize>,
}

#[derive(Clone, Copy, Debug)]
struct Thread {
    table: usize,
    process: usize,
}

/// Everything that is expected.
#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) files: Vec<File>,
    /// By thread, in order.
    pub(crate) expected: BTreeMap<u32, Vec<Expected>>,
    /// Files that are closed by the end of each process: by process.
    pub(crate) at_exit: Vec<(u32, Vec<usize>)>,
    /// Files that it may have closed beside these: it was killed when it opened or closed them.
    pub(crate) maybe_at_exit: Vec<(u32, usize)>,
    /// Which process a thread was of.
    pub(crate) process_of: HashMap<u32, u32>,
    /// Why the kernel answered alone, and how often.
    pub(crate) alone: BTreeMap<&'static str, u64>,
    /// The calls on files of the view, variants told apart.
    pub(crate) kinds: BTreeSet<String>,
    view: String,
    tables: Vec<HashMap<i32, Slot>>,
    processes: Vec<Process>,
    threads: HashMap<u32, Thread>,
    parents: HashMap<u32, usize>,
    /// The call before the one that a thread is in.
    last_of_thread: HashMap<u32, usize>,
    /// The call that a thread is in.
    under_way: HashMap<u32, usize>,
    /// Files that calls under way are about, as at their entry.
    about: HashMap<usize, [Option<usize>; 3]>,
}

const O_PATH: u64 = 0x20_0000;
const O_APPEND: u64 = 0x400;
const O_DIRECT: u64 = 0x4000;
const O_CLOEXEC: u64 = 0x8_0000;
const O_DIRECTORY: u64 = 0x1_0000;
const CLONE_FILES: u64 = 0x400;
const CLONE_VM: u64 = 0x100;
const CLONE_THREAD: u64 = 0x1_0000;
/// fs/read_write.c MAX_RW_COUNT
const TRANSFER_MAX: u64 = 0x7fff_f000;

/// Why a call that syncs may be told an error without a request of its own: where changed pages of a mapping could not be
/// written the kernel asks for no more (fs/fuse/file.c fuse_fsync()).
pub(crate) const PAGES_NOT_WRITTEN: &str = "fsync, msync: pages of a mapping could not be written";

fn pages_not_written(call: &Call) -> Option<&'static str> {
    call.failed_with(&["ENOSPC"]).then_some(PAGES_NOT_WRITTEN)
}

impl Model {
    /// Of a view whose files have paths below `view`.
    pub(crate) fn of(seen: &Seen, view: &str) -> Model {
        let mut model = Model {
            view: view.to_owned(),
            ..Model::default()
        };
        for (at, call) in seen.calls.iter().enumerate() {
            if let (true, Some(child)) = (makes_a_thread(call), call.ok()) {
                model.parents.insert(u32::try_from(child).unwrap(), at);
            }
        }
        model.find_parents_killed(seen);
        for moment in &seen.moments {
            match *moment {
                Moment::Enter(at) => {
                    model.meet(seen, seen.calls[at].tid);
                    model.under_way.insert(seen.calls[at].tid, at);
                    model.enter(seen, at);
                }
                Moment::Leave(at) => {
                    if let Some(child) = model.child_of(seen, at) {
                        model.meet(seen, child);
                    }
                    model.under_way.remove(&seen.calls[at].tid);
                    model.leave(seen, at);
                    model.last_of_thread.insert(seen.calls[at].tid, at);
                }
                Moment::Gone(tid) => {
                    model.meet(seen, tid);
                    // It may have made one that is heard of only later.
                    let made = |parent: &usize| model.under_way.get(&tid) == Some(parent);
                    let child = model.parents.iter().find(|(_, parent)| made(parent));
                    if let Some(child) = child.map(|(child, _)| *child) {
                        model.meet(seen, child);
                    }
                    // Killed in the middle of it.
                    if let Some(call) = model.under_way.remove(&tid) {
                        model.leave(seen, call);
                    }
                    model.gone(tid);
                }
            }
        }
        model
    }

    /// A thread whose parent is not known is the child of one that was killed while it made it: the last before it was
    /// heard of.
    fn find_parents_killed(&mut self, seen: &Seen) {
        let mut makes: Vec<usize> = Vec::new();
        let mut heard: HashSet<u32> = HashSet::new();
        for moment in &seen.moments {
            let tid = match *moment {
                Moment::Enter(at) => {
                    let call = &seen.calls[at];
                    if makes_a_thread(call) && call.returned == Returned::Never {
                        makes.push(at);
                    }
                    call.tid
                }
                Moment::Leave(at) => seen.calls[at].tid,
                Moment::Gone(tid) => tid,
            };
            let is_first = heard.is_empty();
            if heard.insert(tid)
                && !is_first
                && !self.parents.contains_key(&tid)
                && let Some(call) = makes.pop()
            {
                self.parents.insert(tid, call);
            }
        }
    }

    fn child_of(&self, seen: &Seen, at: usize) -> Option<u32> {
        let child = u32::try_from(seen.calls[at].ok()?).ok()?;
        (self.parents.get(&child) == Some(&at)).then_some(child)
    }

    /// A thread that is heard of for the first time has what its parent has.
    fn meet(&mut self, seen: &Seen, tid: u32) {
        if self.threads.contains_key(&tid) || self.process_of.contains_key(&tid) {
            return;
        }
        let thread = match self.parents.get(&tid) {
            None => {
                assert!(self.threads.is_empty(), "nobody made thread {tid}");
                self.tables.push(HashMap::new());
                self.processes.push(Process {
                    tgid: tid,
                    ..Process::default()
                });
                Thread {
                    table: 0,
                    process: 0,
                }
            }
            Some(call) => {
                let call = &seen.calls[*call];
                let parent = self.threads[&call.tid];
                let flags = clone_flags(call);
                let table = if flags & CLONE_FILES != 0 {
                    parent.table
                } else {
                    self.tables.push(self.tables[parent.table].clone());
                    self.tables.len() - 1
                };
                let process = if flags & CLONE_THREAD != 0 {
                    parent.process
                } else {
                    let mut process = self.processes[parent.process].clone();
                    process.tgid = tid;
                    if flags & CLONE_VM != 0 {
                        process.maps.clear();
                    }
                    self.processes.push(process);
                    self.processes.len() - 1
                };
                Thread { table, process }
            }
        };
        self.process_of
            .insert(tid, self.processes[thread.process].tgid);
        self.threads.insert(tid, thread);
    }

    fn gone(&mut self, tid: u32) {
        let thread = self.threads.remove(&tid).unwrap();
        if self
            .threads
            .values()
            .any(|other| other.table == thread.table)
        {
            return;
        }
        let table = std::mem::take(&mut self.tables[thread.table]);
        let files = table
            .values()
            .map(|slot| slot.file)
            .filter(|file| self.is_open_file(*file));
        let tgid = self.processes[thread.process].tgid;
        self.at_exit.push((tgid, files.collect()));
    }

    /// Whether FUSE is told of its close.
    fn is_open_file(&self, file: usize) -> bool {
        let file = &self.files[file];
        file.flags & O_PATH == 0 && !file.is_directory
    }

    fn table(&mut self, tid: u32) -> &mut HashMap<i32, Slot> {
        let table = self.threads[&tid].table;
        &mut self.tables[table]
    }

    fn process(&mut self, tid: u32) -> &mut Process {
        let process = self.threads[&tid].process;
        &mut self.processes[process]
    }

    fn file_at(&mut self, call: &Call, arg: usize) -> Option<usize> {
        let found = self
            .table(call.tid)
            .get(&call.fd(arg))
            .map(|slot| slot.file);
        let inside = call
            .path_of(arg)
            .is_some_and(|path| path.starts_with(&self.view));
        assert_eq!(
            found.is_some(),
            inside,
            "the test lost track of descriptors: {} {}",
            call.tid,
            call.text
        );
        found
    }

    fn enter(&mut self, seen: &Seen, at: usize) {
        let call = &seen.calls[at];
        let mut about = [None; 3];
        match call.name.as_str() {
            "close" => {
                about[0] = self.file_at(call, 0);
                self.table(call.tid).remove(&call.fd(0));
            }
            "dup2" | "dup3" if call.fd(0) != call.fd(1) => {
                about[0] = self.file_at(call, 0);
                if call.ok().is_some() {
                    let table = self.table(call.tid);
                    about[1] = table.remove(&call.fd(1)).map(|slot| slot.file);
                }
            }
            "close_range" => self.close_range(at, call),
            // Before it is left another thread may be given the same address.
            "munmap" => {
                self.process(call.tid).maps.remove(&call.bits(0));
            }
            "sendfile" => about = [self.file_at(call, 0), self.file_at(call, 1), None],
            "splice" | "copy_file_range" => {
                about = [self.file_at(call, 0), self.file_at(call, 2), None];
            }
            "mmap" => about[0] = self.table(call.tid).get(&call.fd(4)).map(|slot| slot.file),
            "read" | "pread64" | "readv" | "preadv" | "preadv2" | "write" | "pwrite64"
            | "writev" | "pwritev" | "pwritev2" | "fsync" | "fdatasync" | "ftruncate"
            | "fallocate" | "lseek" | "dup" | "dup2" | "dup3" | "fcntl" => {
                about[0] = self.file_at(call, 0)
            }
            _ => {}
        }
        if about.iter().any(Option::is_some) {
            self.kinds.insert(kind(call));
        }
        self.about.insert(at, about);
    }

    fn close_range(&mut self, at: usize, call: &Call) {
        let (first, last, flags) = (call.bits(0), call.bits(1), call.bits(2));
        let within = |fd: &i32| (first..=last).contains(&u64::try_from(*fd).unwrap());
        let table = self.table(call.tid);
        if flags & 4 != 0 {
            for (fd, slot) in table.iter_mut() {
                slot.closes_on_exec |= within(fd);
            }
            return;
        }
        let numbers: Vec<i32> = table.keys().copied().filter(within).collect();
        let files: Vec<usize> = numbers
            .iter()
            .map(|fd| table.remove(fd).unwrap().file)
            .collect();
        let files: Vec<usize> = files
            .into_iter()
            .filter(|file| self.is_open_file(*file))
            .collect();
        match files[..] {
            [] => {}
            [file] if first == last => {
                self.expect(at, call, Want::Close, Some(file), i32::try_from(first).ok())
            }
            _ => self.expect(at, call, Want::Closes(files), None, None),
        }
    }

    fn expect(&mut self, at: usize, call: &Call, want: Want, file: Option<usize>, fd: Option<i32>) {
        self.expect_maybe(at, call, want, (file, fd), None);
    }

    fn expect_maybe(
        &mut self,
        at: usize,
        call: &Call,
        want: Want,
        (file, fd): (Option<usize>, Option<i32>),
        maybe: Option<&'static str>,
    ) {
        let killed = (call.returned == Returned::Never).then_some("killed in the call");
        self.expected.entry(call.tid).or_default().push(Expected {
            call: at,
            want,
            file,
            fd,
            maybe: maybe.or(killed),
        });
    }

    fn leave(&mut self, seen: &Seen, at: usize) {
        let call = &seen.calls[at];
        let Some(about) = self.about.remove(&at) else {
            return;
        };
        if call.returned == Returned::Again {
            return self.alone("interrupted before anything was done, and made again");
        }
        match call.name.as_str() {
            "open" | "openat" | "openat2" | "creat" => self.opened(at, call),
            "close" | "dup2" | "dup3" | "dup" | "fcntl" => self.installed(at, call, about),
            "execve" if call.ok() == Some(0) => self.executed(at, call),
            "prlimit64" => {
                if call.bits(1) == 1 && call.args[2].starts_with('{') {
                    self.process(call.tid).limited = true;
                }
            }
            "setresuid" => self.process(call.tid).stranger = true,
            "mmap" => {
                if let (Some(address), Some(file), 1) = (call.ok(), about[0], call.bits(3) & 1) {
                    self.process(call.tid).maps.insert(address, file);
                }
            }
            "msync" => {
                let file = self.process(call.tid).maps.get(&call.bits(0)).copied();
                if let (Some(file), 4) = (file, call.bits(2) & 4) {
                    let maybe = pages_not_written(call);
                    self.expect_maybe(at, call, Want::MappingSync, (Some(file), None), maybe);
                }
            }
            "truncate" => self.truncated(at, call),
            "sendfile" => self.spliced(at, call, (about[1], 1, 2), (about[0], 0, usize::MAX), 3),
            "splice" => self.spliced(at, call, (about[0], 0, 1), (about[1], 2, 3), 4),
            "copy_file_range" => self.copied(at, call, about),
            _ => {
                if let Some(file) = about[0] {
                    self.on_file(at, call, file);
                }
            }
        }
    }

    fn opened(&mut self, at: usize, call: &Call) {
        let flags = match call.name.as_str() {
            "open" => call.bits(1),
            "creat" => 0x241,
            "openat2" => how_flags(call),
            _ => call.bits(2),
        };
        if call.returned == Returned::Never {
            let file = self.new_file(String::new(), flags, false);
            self.maybe_at_exit.push((self.process_of[&call.tid], file));
            self.expect(at, call, Want::Open { flags }, Some(file), None);
            return;
        }
        let Some(fd) = call.ok() else {
            self.expect_maybe(
                at,
                call,
                Want::Refused,
                (None, None),
                Some("the kernel refuses alone"),
            );
            return;
        };
        let path = call.path.clone().unwrap_or_default();
        let Some(below) = path.strip_prefix(&self.view) else {
            return;
        };
        let is_directory = below.is_empty() || flags & O_DIRECTORY != 0;
        let file = self.new_file(path, flags, is_directory);
        let fd = i32::try_from(fd).unwrap();
        let closes_on_exec = flags & O_CLOEXEC != 0;
        let slot = Slot {
            file,
            closes_on_exec,
        };
        let old = self.table(call.tid).insert(fd, slot);
        assert!(
            old.is_none(),
            "the test lost track of descriptors: {}",
            call.text
        );
        self.kinds.insert(call.name.clone());
        if self.is_open_file(file) {
            self.expect(at, call, Want::Open { flags }, Some(file), None);
        }
    }

    fn new_file(&mut self, path: String, flags: u64, is_directory: bool) -> usize {
        self.files.push(File {
            path,
            flags,
            is_directory,
            moves: Vec::new(),
        });
        self.files.len() - 1
    }

    fn installed(&mut self, at: usize, call: &Call, about: [Option<usize>; 3]) {
        let (replaced, fd) = match call.name.as_str() {
            "close" => (about[0], call.fd(0)),
            _ => (about[1], call.fd(1)),
        };
        if let Some(file) = replaced.filter(|file| self.is_open_file(*file)) {
            self.expect(at, call, Want::Close, Some(file), Some(fd));
            if call.returned == Returned::Never {
                self.maybe_at_exit.push((self.process_of[&call.tid], file));
            }
        }
        if let (Returned::Never, Some(file)) = (&call.returned, about[0]) {
            self.maybe_at_exit.push((self.process_of[&call.tid], file));
        }
        let Some(value) = call.ok() else { return };
        let closes_on_exec = match (call.name.as_str(), call.bits(1)) {
            ("dup", _) | ("fcntl", 0) => false,
            ("dup2", _) if call.fd(0) != call.fd(1) => false,
            ("dup3", _) => call.bits(2) & O_CLOEXEC != 0,
            ("fcntl", 0x406) => true,
            ("fcntl", 2) => {
                let fd = call.fd(0);
                if let Some(slot) = self.table(call.tid).get_mut(&fd) {
                    slot.closes_on_exec = call.bits(2) & 1 != 0;
                }
                return;
            }
            ("fcntl", 4) => {
                if let Some(file) = about[0] {
                    const CHANGEABLE: u64 = O_APPEND | 0x4000 | 0x800 | 0x4_0000;
                    let flags = &mut self.files[file].flags;
                    *flags = *flags & !CHANGEABLE | call.bits(2) & CHANGEABLE;
                }
                return;
            }
            _ => return,
        };
        if let Some(file) = about[0] {
            let slot = Slot {
                file,
                closes_on_exec,
            };
            let fd = i32::try_from(value).unwrap();
            self.table(call.tid).insert(fd, slot);
        }
    }

    fn executed(&mut self, at: usize, call: &Call) {
        self.process(call.tid).maps.clear();
        let table = self.table(call.tid);
        let closed: Vec<i32> = table
            .iter()
            .filter(|(_, slot)| slot.closes_on_exec)
            .map(|(fd, _)| *fd)
            .collect();
        let files: Vec<usize> = closed
            .iter()
            .map(|fd| table.remove(fd).unwrap().file)
            .collect();
        let files: Vec<usize> = files
            .into_iter()
            .filter(|file| self.is_open_file(*file))
            .collect();
        if !files.is_empty() {
            self.expect(at, call, Want::Closes(files), None, None);
        }
    }

    fn alone(&mut self, why: &'static str) {
        *self.alone.entry(why).or_default() += 1;
    }

    fn truncated(&mut self, at: usize, call: &Call) {
        // By name: whether the name is there, only the lookup tells.
        let maybe = (call.ok().is_none()).then_some("refused by name");
        let want = Want::Truncate { size: call.bits(1) };
        self.expect_maybe(at, call, want, (None, None), maybe);
    }

    /// What is read goes through the page cache; what is written are calls.
    fn spliced(
        &mut self,
        at: usize,
        call: &Call,
        from: (Option<usize>, usize, usize),
        to: (Option<usize>, usize, usize),
        size: usize,
    ) {
        let given = |pointer: usize| {
            let text = call.args.get(pointer).map_or("NULL", String::as_str);
            super::calls::number(text.trim_start_matches('[').split(']').next().unwrap())
        };
        let done = call.ok().unwrap_or(0);
        match from.0 {
            None => {}
            // Not with O_DIRECT, which is as good as a read.
            Some(file) if self.files[file].flags & O_DIRECT != 0 && to.0.is_none() => {
                if call.ok().is_none() {
                    return self.alone("sendfile, splice: EBADF, EINVAL");
                }
                let want = Want::Data {
                    writes: false,
                    size: Some(call.bits(size).min(TRANSFER_MAX)),
                    at: given(from.2).map(i64::cast_unsigned),
                    appends: false,
                    end: None,
                    flags: self.files[file].flags,
                };
                return match call.bits(size) {
                    0 => self.alone("0 bytes"),
                    _ => self.expect_data(at, call, want, (file, call.fd(from.1))),
                };
            }
            Some(file) => {
                self.alone("sendfile, splice: what is read comes from the page cache");
                if given(from.2).is_none() {
                    self.files[file].moves.push((at, Moved::On(done)));
                }
            }
        }
        let Some(file) = to.0 else { return };
        let offset = given(to.2).map(i64::cast_unsigned);
        if call.ok() == Some(0) || call.failed_with(&["EBADF", "EINVAL", "EAGAIN"]) {
            self.alone("sendfile, splice: nothing to write, EBADF, EINVAL");
            return;
        }
        if self.process(call.tid).limited && call.failed_with(&["EFBIG"]) {
            return self.alone("RLIMIT_FSIZE: EFBIG");
        }
        let want = Want::Data {
            writes: true,
            size: Some(call.bits(size).min(TRANSFER_MAX)),
            at: offset,
            appends: self.files[file].flags & O_APPEND != 0,
            end: None,
            flags: self.files[file].flags,
        };
        self.expect_data(at, call, want, (file, call.fd(to.1)));
    }

    fn expect_data(&mut self, at: usize, call: &Call, want: Want, (file, fd): (usize, i32)) {
        let list = self.expected.entry(call.tid).or_default();
        let place = list.len();
        if matches!(want, Want::Data { at: None, .. }) && call.returned != Returned::Never {
            self.files[file]
                .moves
                .push((at, Moved::By(call.tid, place)));
        }
        // What came before the missing memory may have been asked for, and been nothing.
        let missing = call
            .failed_with(&["EFAULT"])
            .then_some("memory that is not there: EFAULT");
        self.expect_maybe(at, call, want, (Some(file), Some(fd)), missing);
    }

    fn copied(&mut self, at: usize, call: &Call, about: [Option<usize>; 3]) {
        let (from, to) = match about {
            [Some(from), Some(to), _] => (from, to),
            [None, None, _] => return,
            _ => return self.alone("copy_file_range from or to another filesystem"),
        };
        if call.ok().is_none() && self.copy_is_refused(call, from, to) {
            return self.alone("copy_file_range: EBADF, EINVAL, EISDIR, EFBIG by the limit");
        }
        let size = call.bits(4);
        if size == 0 {
            return self.alone("0 bytes");
        }
        let given = |text: &str| super::calls::number(text.trim_matches(['[', ']']));
        let (from_at, to_at) = (given(&call.args[1]), given(&call.args[3]));
        let done = call.ok().unwrap_or(0);
        let place = self.expected.entry(call.tid).or_default().len();
        if from_at.is_none() {
            self.files[from]
                .moves
                .push((at, Moved::By(call.tid, place)));
        }
        if to_at.is_none() {
            self.files[to]
                .moves
                .push((at, Moved::ByCopyTo(call.tid, place)));
        }
        let want = Want::Copy {
            to,
            at: from_at.map(i64::cast_unsigned),
            to_at: to_at.map(i64::cast_unsigned),
            size,
        };
        let maybe = (done == 0).then_some("copy_file_range at the end of the file");
        let about = (Some(from), Some(call.fd(0)));
        self.expect_maybe(at, call, want, about, maybe);
    }

    fn copy_is_refused(&mut self, call: &Call, from: usize, to: usize) -> bool {
        let limited = self.process(call.tid).limited;
        let (from, to) = (&self.files[from], &self.files[to]);
        let bad = !readable(from.flags) || !writable(to.flags) || to.flags & O_APPEND != 0;
        match &call.returned {
            Returned::Error(name) => match name.as_str() {
                "EBADF" => bad,
                // Overlapping ranges of one file; flags.
                "EINVAL" => from.path == to.path || call.bits(5) != 0,
                "EISDIR" => from.is_directory || to.is_directory,
                "EFBIG" => limited,
                _ => false,
            },
            _ => false,
        }
    }

    fn on_file(&mut self, at: usize, call: &Call, file: usize) {
        if let Some(why) = self.answered_alone(call, file) {
            return self.alone(why);
        }
        let fd = call.fd(0);
        let want = match call.name.as_str() {
            "fsync" => Want::Sync { data: false },
            "fdatasync" => Want::Sync { data: true },
            "ftruncate" => Want::Truncate { size: call.bits(1) },
            "fallocate" => Want::Fallocate {
                mode: call.bits(1),
                offset: call.bits(2),
                size: call.bits(3),
            },
            "lseek" => {
                if let Some(to) = call.ok() {
                    self.files[file].moves.push((at, Moved::To(to)));
                    if (call.bits(1), call.bits(2)) == (0, 2) {
                        self.end_is(at, call, file, to);
                    }
                }
                match call.bits(2) {
                    3 | 4 => Want::Seek {
                        offset: call.bits(1),
                        hole: call.bits(2) == 4,
                    },
                    _ => return self.alone("lseek: SEEK_SET, SEEK_CUR, SEEK_END"),
                }
            }
            _ => {
                let want = self.data(call, file);
                return self.expect_data(at, call, want, (file, fd));
            }
        };
        let maybe = match want {
            Want::Sync { .. } => pages_not_written(call),
            _ => None,
        };
        self.expect_maybe(at, call, want, (Some(file), Some(fd)), maybe);
    }

    /// The program asked where a file ends: if it did so right after an append of a thread that alone writes to the
    /// file, that ended there.
    fn end_is(&mut self, at: usize, call: &Call, file: usize, to: u64) {
        let name = &self.files[file].path;
        if name.contains("/common") || name.contains("/shared") {
            return;
        }
        let last = self
            .expected
            .get_mut(&call.tid)
            .and_then(|list| list.last_mut());
        if let Some(last) = last
            && self.last_of_thread.get(&call.tid) == Some(&last.call)
            && last.file == Some(file)
            && let Want::Data {
                at: Some(_),
                appends: true,
                end,
                ..
            } = &mut last.want
        {
            debug_assert!(last.call < at);
            *end = Some(to);
        }
    }

    fn data(&self, call: &Call, file: usize) -> Want {
        let name = call.name.as_str();
        let size = match name.contains('v') {
            true => call.vector_bytes(1),
            false => call.number(2).map(i64::cast_unsigned),
        };
        let at = match name {
            "pread64" | "pwrite64" | "preadv" | "pwritev" => Some(call.bits(3)),
            "preadv2" | "pwritev2" => call
                .number(3)
                .filter(|at| *at != -1)
                .map(i64::cast_unsigned),
            _ => None,
        };
        let flags = if name.ends_with("v2") {
            call.bits(4)
        } else {
            0
        };
        let writes = name.contains("write");
        let sync = match flags & 6 {
            0 => 0,
            // RWF_DSYNC alone
            2 => 0x1000,
            _ => 0x10_1000,
        };
        Want::Data {
            writes,
            size: size.map(|size| size.min(TRANSFER_MAX)),
            at,
            appends: writes && (self.files[file].flags & O_APPEND != 0 || flags & 0x10 != 0),
            end: None,
            flags: self.files[file].flags | sync,
        }
    }

    /// Why FUSE is not asked, if it is not.
    fn answered_alone(&mut self, call: &Call, file: usize) -> Option<&'static str> {
        let Process {
            limited, stranger, ..
        } = *self.process(call.tid);
        let file = &self.files[file];
        let name = call.name.as_str();
        let transfers = name.contains("read") || name.contains("write");
        if file.is_directory {
            return Some("a directory: EISDIR, EINVAL, or another operation");
        }
        if file.flags & O_PATH != 0 {
            return call.failed_with(&["EBADF"]).then_some("O_PATH: EBADF");
        }
        if call.failed_with(&["EBADF"]) {
            let wrong = match name {
                _ if name.contains("read") => !readable(file.flags),
                _ => !writable(file.flags),
            };
            return wrong.then_some("not open for that: EBADF");
        }
        if transfers {
            let vector = name.contains('v');
            let size = if vector {
                call.vector_bytes(1)
            } else {
                Some(call.bits(2))
            };
            let too_many = vector && call.bits(2) > 1024;
            let negative = match name {
                "pread64" | "pwrite64" | "preadv" | "pwritev" => call.number(3)? < 0,
                "preadv2" | "pwritev2" => call.number(3)? < -1,
                _ => false,
            };
            let beyond = call.number(3).zip(size).is_some_and(|(at, size)| {
                name.starts_with('p')
                    && at >= 0
                    && i64::try_from(size).is_ok_and(|size| at.checked_add(size).is_none())
            });
            let long = size.is_some_and(|size| i64::try_from(size).is_err());
            if call.failed_with(&["EINVAL"]) && (too_many || negative || long || beyond) {
                return Some("arguments that cannot be: EINVAL");
            }
            if call.failed_with(&["EOPNOTSUPP"]) && name.ends_with("v2") && call.bits(4) != 0 {
                return Some("RWF_ flags that FUSE does not know: EOPNOTSUPP");
            }
            if call.failed_with(&["EFAULT"]) && name.contains("write") {
                return Some("memory that is not there: EFAULT");
            }
            if size == Some(0) && call.ok() == Some(0) {
                return Some("0 bytes");
            }
        }
        // fs/attr.c inode_newsize_ok(), which is not asked where the size stays.
        let keeps_size = name == "fallocate" && call.bits(1) & 1 != 0;
        if limited && call.failed_with(&["EFBIG"]) && !keeps_size {
            return Some("RLIMIT_FSIZE: EFBIG");
        }
        if name == "ftruncate" && stranger && call.failed_with(&["EACCES"]) {
            return Some("another user without allow_other: EACCES");
        }
        match name {
            "ftruncate"
                if call.failed_with(&["EINVAL"])
                    && (call.number(1)? < 0 || !writable(file.flags)) =>
            {
                Some("arguments that cannot be: EINVAL")
            }
            "fallocate"
                if call.failed_with(&["EINVAL"])
                    && (call.number(2)? < 0 || call.number(3)? <= 0) =>
            {
                Some("arguments that cannot be: EINVAL")
            }
            "fallocate" if call.failed_with(&["EOPNOTSUPP"]) && call.bits(1) & !0x13 != 0 => {
                Some("fallocate modes that FUSE does not know: EOPNOTSUPP")
            }
            "lseek"
                if call.failed_with(&["EINVAL"]) && (call.bits(2) > 4 || call.number(1)? < 0) =>
            {
                Some("arguments that cannot be: EINVAL")
            }
            _ => None,
        }
    }
}

pub(crate) fn readable(flags: u64) -> bool {
    flags & 3 != 1
}

pub(crate) fn writable(flags: u64) -> bool {
    flags & 3 != 0
}

/// The call, and what makes another one of it.
fn kind(call: &Call) -> String {
    let name = &call.name;
    match name.as_str() {
        "lseek" => format!("{name} whence {}", call.bits(2)),
        "fallocate" => format!("{name} mode {}", call.bits(1)),
        "fcntl" => format!("{name} command {}", call.bits(1)),
        "preadv2" | "pwritev2" => {
            let at = if call.number(3) == Some(-1) {
                "-1"
            } else {
                "given"
            };
            format!("{name} at {at} flags {}", call.bits(4))
        }
        _ => name.clone(),
    }
}

fn makes_a_thread(call: &Call) -> bool {
    matches!(call.name.as_str(), "clone" | "clone3" | "fork" | "vfork")
}

fn clone_flags(call: &Call) -> u64 {
    match call.name.as_str() {
        "fork" => 0,
        "vfork" => CLONE_VM,
        _ => {
            // Killed before strace read them: one of the threads that all but fork(2) make here.
            let Some((_, rest)) = call.text.split_once("flags=") else {
                assert_eq!(call.returned, Returned::Never, "{}", call.text);
                return CLONE_VM | CLONE_FILES | CLONE_THREAD;
            };
            let end = rest.find([',', '}', ')']).unwrap();
            super::calls::number(&rest[..end]).unwrap().cast_unsigned()
        }
    }
}

/// None where the thread was killed before strace read them.
fn how_flags(call: &Call) -> u64 {
    let flags = call.args.get(2).and_then(|how| how.split_once("flags="));
    let Some((_, rest)) = flags else {
        assert_eq!(call.returned, Returned::Never, "{}", call.text);
        return 0;
    };
    let end = rest.find([',', '}']).unwrap();
    super::calls::number(&rest[..end]).unwrap().cast_unsigned()
}

//! Who sends a FUSE request, told by the kernel as it is sent: a BPF program at the tracepoint `fuse_request_send`
//! puts the registers with which the sending thread entered the kernel into a table that is mapped here.
//!
//! It needs `CAP_BPF` and `CAP_PERFMON`, the tracepoint (Linux 6.11, tracefs mounted), and x86-64, whose registers it
//! knows. It runs for requests alone, of all FUSE connections, and notes those of one. It reads nothing but registers.
//! Sources: man 2 bpf, man 2 perf_event_open, Documentation/bpf/standardization/instruction-set.rst, fs/fuse/dev.c
//! fuse_send_one().

use std::fmt;
use std::fs;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use super::{SysResult, check};
use crate::error::Errno;

/// Requests that are remembered: those under way, unless there are more.
const ENTRIES: u32 = 4096;
/// Words of an entry: the request's number, process and thread, system call, its arguments, stack pointer.
const WORDS: usize = 10;
/// Bytes of an entry.
const ENTRY_BYTES: u32 = 80;

/// Where tracefs is mounted, as a rule.
const TRACEFS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// A thread as it sent a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sender {
    /// The thread.
    pub tid: u32,
    /// Its system call; negative outside of one.
    pub call: i32,
    /// What that was given.
    pub args: [u64; 6],
    /// Its stack pointer.
    pub stack: u64,
}

/// The senders of the last requests of one FUSE connection. They are noted until it is dropped.
pub struct Senders {
    table: NonNull<AtomicU64>,
    /// Holds the program, which holds the table.
    _event: OwnedFd,
}

// SAFETY: the table is the kernel's to write; here it is read by atomic loads alone.
unsafe impl Send for Senders {}
// SAFETY: as above.
unsafe impl Sync for Senders {}

impl fmt::Debug for Senders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Senders").finish_non_exhaustive()
    }
}

impl Drop for Senders {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length, and nobody has a reference into it any more.
        unsafe { libc::munmap(self.table.as_ptr().cast(), table_bytes()) };
    }
}

impl Senders {
    /// Notes who sends requests of the connection with this device number from now on.
    ///
    /// # Errors
    /// `ENOSYS` for another kind of machine, `ENOENT` without the tracepoint, `EINVAL` where it or the kernel is not as
    /// expected, `EPERM` without the capabilities.
    pub fn watch(major: u32, minor: u32) -> SysResult<Senders> {
        if cfg!(not(target_arch = "x86_64")) {
            return Err(Errno::ENOSYS);
        }
        let tracepoint = Tracepoint::find()?;
        let map = create_table()?;
        // include/linux/kdev_t.h MKDEV.
        let connection = major << 20 | minor;
        let program = load(&program(&tracepoint, connection, map.as_raw_fd()))?;
        let event = attach(tracepoint.id, &program)?;
        let protection = libc::PROT_READ;
        // SAFETY: a new mapping of a descriptor of ours, wherever the kernel likes.
        let table = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                table_bytes(),
                protection,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        if table == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        Ok(Senders {
            table: NonNull::new(table.cast()).ok_or(Errno::ENOMEM)?,
            _event: event,
        })
    }

    /// Who sent the request of that number, if it is remembered.
    #[must_use]
    pub fn of(&self, unique: u64) -> Option<Sender> {
        let at = usize::try_from(place(unique)).ok()? * WORDS;
        // SAFETY: the place is below ENTRIES, so all words of the entry lie within the mapping, which lives as long as
        // this does; the kernel writes aligned words.
        let word = |index: usize| unsafe { self.table.add(at + index).as_ref() };
        // Only relaxed loads are sure to work on memory that cannot be written to (std::sync::atomic).
        if word(0).load(Ordering::Relaxed) != unique {
            return None;
        }
        fence(Ordering::Acquire);
        let read = |index: usize| word(index).load(Ordering::Relaxed);
        let sender = Sender {
            // The upper half is the process.
            tid: u32::try_from(read(1) & 0xffff_ffff).ok()?,
            // The kernel looks at the lower half alone (arch/x86/entry/syscall_64.c do_syscall_64()).
            call: lower_half(read(2)),
            args: [read(3), read(4), read(5), read(6), read(7), read(8)],
            stack: read(9),
        };
        // Whoever replaces it takes the number away first.
        fence(Ordering::Acquire);
        (word(0).load(Ordering::Relaxed) == unique).then_some(sender)
    }
}

fn lower_half(register: u64) -> i32 {
    let [a, b, c, d, ..] = register.to_le_bytes();
    i32::from_le_bytes([a, b, c, d])
}

/// Requests are numbered by twos (fs/fuse/fuse_dev_i.h FUSE_REQ_ID_STEP).
fn place(unique: u64) -> u64 {
    (unique >> 1) & u64::from(ENTRIES - 1)
}

fn table_bytes() -> usize {
    const { assert!(ENTRIES.is_power_of_two() && ENTRY_BYTES as usize == WORDS * 8) };
    usize::try_from(ENTRIES).unwrap_or(0) * WORDS * 8
}

/// The tracepoint: its number, and where its record has what.
#[derive(Debug, PartialEq, Eq)]
struct Tracepoint {
    id: u64,
    connection: i16,
    unique: i16,
}

impl Tracepoint {
    fn find() -> SysResult<Tracepoint> {
        let read = |root: &str, name: &str| {
            fs::read_to_string(format!("{root}/events/fuse/fuse_request_send/{name}"))
        };
        let format = |root| Some((root, read(root, "format").ok()?));
        let found = TRACEFS.into_iter().find_map(format);
        let (root, format) = found.ok_or(Errno::ENOENT)?;
        let id = read(root, "id").map_err(Errno::from)?;
        Tracepoint::parse(&id, &format).ok_or(Errno::EINVAL)
    }

    fn parse(id: &str, format: &str) -> Option<Tracepoint> {
        Some(Tracepoint {
            id: id.trim().parse().ok()?,
            connection: offset_of(format, "connection", "4")?,
            unique: offset_of(format, "unique", "8")?,
        })
    }
}

/// Where a field of so many bytes stands (Documentation/trace/events.rst).
fn offset_of(format: &str, name: &str, size: &str) -> Option<i16> {
    let field = format.lines().find_map(|line| {
        let mut parts = line.trim().split(';').map(str::trim);
        let declared = parts.next()?.strip_prefix("field:")?;
        (declared.split_whitespace().last() == Some(name)).then_some(parts)
    })?;
    let mut values = field.filter_map(|part| part.split_once(':'));
    let (_, offset) = values.find(|(key, _)| *key == "offset")?;
    let (_, bytes) = values.find(|(key, _)| *key == "size")?;
    (bytes == size).then(|| offset.parse().ok()).flatten()
}

/// An instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Insn(u64);

/// Registers: of the result, of arguments, of what a call leaves alone, and of the stack.
const R0: u8 = 0;
const R1: u8 = 1;
const R2: u8 = 2;
const UNIQUE: u8 = 7;
const CONNECTION: u8 = 8;
const ENTRY: u8 = 9;
const FRAME: u8 = 10;

/// Functions of the kernel (include/uapi/linux/bpf.h).
const MAP_LOOKUP_ELEM: i32 = 1;
const GET_CURRENT_PID_TGID: i32 = 14;
const GET_CURRENT_TASK_BTF: i32 = 158;
const TASK_PT_REGS: i32 = 175;

/// `orig_ax`, arguments in their order, `sp` (arch/x86/include/asm/ptrace.h struct pt_regs).
const REGISTERS: [i16; 8] = [120, 112, 104, 96, 56, 72, 64, 152];

impl Insn {
    fn new(code: u8, (to, from): (u8, u8), offset: i16, value: i32) -> Insn {
        let [low, high] = offset.to_le_bytes();
        let [a, b, c, d] = value.to_le_bytes();
        Insn(u64::from_le_bytes([
            code,
            from << 4 | to,
            low,
            high,
            a,
            b,
            c,
            d,
        ]))
    }

    fn copy(to: u8, from: u8) -> Insn {
        Insn::new(0xbf, (to, from), 0, 0)
    }

    fn load(to: u8, from: u8, offset: i16) -> Insn {
        Insn::new(0x79, (to, from), offset, 0)
    }

    fn load_half(to: u8, from: u8, offset: i16) -> Insn {
        Insn::new(0x61, (to, from), offset, 0)
    }

    fn store(to: u8, offset: i16, from: u8) -> Insn {
        Insn::new(0x7b, (to, from), offset, 0)
    }

    fn call(function: i32) -> Insn {
        Insn::new(0x85, (0, 0), 0, function)
    }
}

/// The program. Its argument is the tracepoint's record.
fn program(tracepoint: &Tracepoint, connection: u32, table: RawFd) -> Vec<Insn> {
    let mut body = vec![
        Insn::load(UNIQUE, R1, tracepoint.unique),
        // The place in the table, as `place` has it, on the stack.
        Insn::copy(R1, UNIQUE),
        Insn::new(0x77, (R1, 0), 0, 1),
        Insn::new(0x57, (R1, 0), 0, (ENTRIES - 1).cast_signed()),
        Insn::new(0x63, (FRAME, R1), -4, 0),
        Insn::copy(R2, FRAME),
        Insn::new(0x07, (R2, 0), 0, -4),
        // The table, by its descriptor (BPF_PSEUDO_MAP_FD): two words.
        Insn::new(0x18, (R1, 1), 0, table),
        Insn(0),
        Insn::call(MAP_LOOKUP_ELEM),
    ];
    let mut note = vec![
        Insn::copy(ENTRY, R0),
        Insn::new(0x7a, (ENTRY, 0), 0, 0),
        Insn::call(GET_CURRENT_PID_TGID),
        Insn::store(ENTRY, 8, R0),
        Insn::call(GET_CURRENT_TASK_BTF),
        Insn::copy(R1, R0),
        Insn::call(TASK_PT_REGS),
    ];
    for (register, to) in REGISTERS.into_iter().zip((16..).step_by(8)) {
        note.extend([Insn::load(R1, R0, register), Insn::store(ENTRY, to, R1)]);
    }
    // Last, so that who sees the number sees the rest.
    note.push(Insn::store(ENTRY, 0, UNIQUE));
    let past = |insns: &[Insn]| i16::try_from(insns.len()).unwrap_or(i16::MAX);
    // No entry: past the note. Another connection: past all of it.
    body.push(Insn::new(0x15, (R0, 0), past(&note), 0));
    body.extend(note);
    let mut all = vec![
        Insn::load_half(CONNECTION, R1, tracepoint.connection),
        Insn::new(0x56, (CONNECTION, 0), past(&body), connection.cast_signed()),
    ];
    all.extend(body);
    // 1: others who watch the tracepoint get their events.
    all.extend([
        Insn::new(0xb7, (R0, 0), 0, 1),
        Insn::new(0x95, (0, 0), 0, 0),
    ]);
    all
}

/// `union bpf_attr`, as much as the commands here use.
#[repr(C, align(8))]
struct Attributes([u32; 18]);

fn bpf(command: libc::c_int, attributes: &Attributes) -> SysResult<OwnedFd> {
    // SAFETY: the record is valid for its size; what it points to outlives the call.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            &raw const *attributes,
            size_of::<Attributes>(),
        )
    };
    owned(ret)
}

fn owned(ret: libc::c_long) -> SysResult<OwnedFd> {
    let fd = RawFd::try_from(ret).unwrap_or(-1);
    // SAFETY: the call has just made it, so it is nobody else's.
    check(fd).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The halves of an address.
fn halves(address: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = address.to_ne_bytes();
    [
        u32::from_ne_bytes([a, b, c, d]),
        u32::from_ne_bytes([e, f, g, h]),
    ]
}

/// A name of 16 bytes, from this word on.
fn name(attributes: &mut Attributes, at: usize) {
    attributes.0[at] = u32::from_ne_bytes(*b"iole");
    attributes.0[at + 1] = u32::from_ne_bytes(*b"ns\0\0");
}

fn create_table() -> SysResult<OwnedFd> {
    const MAP_CREATE: libc::c_int = 0;
    const MAP_TYPE_ARRAY: u32 = 2;
    const MMAPABLE: u32 = 1 << 10;
    let mut attributes = Attributes([0; 18]);
    let asked = [MAP_TYPE_ARRAY, 4, ENTRY_BYTES, ENTRIES, MMAPABLE];
    attributes.0[..5].copy_from_slice(&asked);
    name(&mut attributes, 7);
    bpf(MAP_CREATE, &attributes)
}

fn load(program: &[Insn]) -> SysResult<OwnedFd> {
    const PROG_LOAD: libc::c_int = 5;
    const PROG_TYPE_TRACEPOINT: u32 = 5;
    // The functions that it calls are for programs under this licence alone.
    let license = c"Dual MIT/GPL";
    let words: Vec<u64> = program.iter().map(|insn| insn.0).collect();
    let mut attributes = Attributes([0; 18]);
    attributes.0[0] = PROG_TYPE_TRACEPOINT;
    attributes.0[1] = u32::try_from(words.len()).map_err(|_| Errno::E2BIG)?;
    attributes.0[2..4].copy_from_slice(&halves(words.as_ptr() as u64));
    attributes.0[4..6].copy_from_slice(&halves(license.as_ptr() as u64));
    name(&mut attributes, 12);
    bpf(PROG_LOAD, &attributes)
}

/// Runs the program at each pass of the tracepoint, on whatever CPU, for as long as the event is open.
fn attach(id: u64, program: &OwnedFd) -> SysResult<OwnedFd> {
    const TYPE_TRACEPOINT: u32 = 2;
    const FLAG_FD_CLOEXEC: libc::c_ulong = 8;
    /// include/uapi/linux/perf_event.h.
    const IOC_SET_BPF: libc::c_ulong = 0x4004_2408;
    const DISABLED: u64 = 1;
    // struct perf_event_attr, version 0: type and size, config, and the flags in the sixth word. The event itself counts
    // nothing: the program runs as long as it is there (kernel/trace/trace_event_perf.c perf_trace_event_reg()).
    let mut attributes = [0_u64; 8];
    let [low, high] = [TYPE_TRACEPOINT, 64].map(u64::from);
    attributes[0] = high << 32 | low;
    attributes[1] = id;
    attributes[5] = DISABLED;
    // SAFETY: the record is valid for the size that it names; the rest are plain numbers.
    let event = owned(unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            attributes.as_ptr(),
            -1,
            0,
            -1,
            FLAG_FD_CLOEXEC,
        )
    })?;
    // SAFETY: the request takes a plain number.
    check(unsafe { libc::ioctl(event.as_raw_fd(), IOC_SET_BPF, program.as_raw_fd()) })?;
    Ok(event)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMAT: &str = "name: fuse_request_send\nID: 1293\nformat:\n\
        \tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\
        \tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;\n\n\
        \tfield:dev_t connection;\toffset:8;\tsize:4;\tsigned:0;\n\
        \tfield:uint64_t unique;\toffset:16;\tsize:8;\tsigned:0;\n\n\
        print fmt: \"connection %u req %llu\", REC->connection, REC->unique\n";

    fn tracepoint() -> Tracepoint {
        Tracepoint::parse("1293\n", FORMAT).unwrap()
    }

    #[test]
    fn the_fields_of_the_tracepoint_are_found_where_its_format_says() {
        let wanted = Tracepoint {
            id: 1293,
            connection: 8,
            unique: 16,
        };
        assert_eq!(tracepoint(), wanted);
        let other = FORMAT.replace("size:8", "size:4");
        assert_eq!(Tracepoint::parse("1293", &other), None);
        assert_eq!(
            Tracepoint::parse("1293", &FORMAT.replace("unique;", "id;")),
            None
        );
        assert_eq!(Tracepoint::parse("x", FORMAT), None);
    }

    #[test]
    fn every_jump_of_the_program_leads_to_its_end() {
        let program = program(&tracepoint(), 39, 5);
        let end = program.len() - 2;
        let jumps = program.iter().enumerate().filter_map(|(at, insn)| {
            let [code, _, low, high, ..] = insn.0.to_le_bytes();
            let by = i16::from_le_bytes([low, high]);
            [0x15, 0x56]
                .contains(&code)
                .then(|| at + 1 + usize::try_from(by).unwrap())
        });
        assert_eq!(jumps.collect::<Vec<_>>(), [end, end]);
        assert_eq!(program[end + 1], Insn::new(0x95, (0, 0), 0, 0));
    }

    #[test]
    fn two_requests_that_follow_each_other_have_different_places() {
        assert_eq!(place(2), 1);
        assert_eq!(place(4), 2);
        assert_eq!(place(2 * 4096 + 2), 1);
        assert!(place(u64::MAX) < u64::from(ENTRIES));
    }
}

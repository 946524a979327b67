//! Golden lines.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::op::blocks;
use super::*;
use crate::event::{
    CacheDid, Caller, Lost, Op, OpKind, OwnCause, Reason, Resume, SetAttrs, open_flag_names,
};
use crate::types::{Fh, Ino, Pid, Seq, Tid};

fn line(event: Event) -> String {
    let mut out = Vec::new();
    Text::utc().write(&event, &mut out);
    let text = String::from_utf8(out).unwrap();
    assert_eq!(text.matches('\n').count(), 1);
    text.trim_end_matches('\n').to_owned()
}

/// An operation of python3[7805] on /out.txt that took 5 us.
fn op(kind: OpKind, set: impl FnOnce(&mut Op)) -> String {
    let time = (23 * 3600 + 35 * 60 + 56) * 1_000_000_000 + 123_456_789;
    let mut op = Op::new(kind, Seq(1), Nanos(time));
    op.dur_ns = Nanos(5_999);
    op.path = Some("out.txt".into());
    op.comm = Some("python3".into());
    op.pid = Some(Pid(7805));
    op.tid = Some(Tid(7805));
    op.ret = Some(0);
    set(&mut op);
    line(Event::Op(Box::new(op)))
}

/// What follows time and process.
fn call(kind: OpKind, set: impl FnOnce(&mut Op)) -> String {
    let text = op(kind, set);
    text.strip_prefix("23:35:56.123456 python3[7805] ")
        .expect(&text)
        .to_owned()
}

fn fail(op: &mut Op, errno: &'static str) {
    op.ret = None;
    op.errno = Some(errno.into());
}

#[test]
fn a_buffered_write_reads_as_the_contract_shows_it() {
    let text = op(OpKind::Write, |op| {
        op.fd = Some(3);
        op.fh = Some(Fh(7));
        (op.size, op.offset, op.ret) = (Some(8188), Some(0), Some(8188));
        op.cache = vec![CacheDid::Buffered {
            offset: 0,
            size: 8188,
            overwrote: 0,
        }];
        op.dirty = Some(8188);
    });
    assert_eq!(
        text,
        "23:35:56.123456 python3[7805] write(3</out.txt>, size=8188, offset=0) = 8188 \
         <0.000005> fh=7 buffered 8188 (2 blocks), dirty 8188"
    );
}

#[test]
fn failures_name_the_error_and_threads_their_process() {
    let text = op(OpKind::Write, |op| {
        op.tid = Some(Tid(7810));
        (op.size, op.offset) = (Some(1), Some(0));
        fail(op, "ENOSPC");
    });
    let expected = "python3[7805:7810] write(</out.txt>, size=1, offset=0) = -1 ENOSPC \
                    (No space left on device) <0.000005>";
    assert_eq!(text, format!("23:35:56.123456 {expected}"));
    let nobody = op(OpKind::Release, |op| {
        (op.comm, op.pid, op.tid) = (None, None, None);
        op.caller = Caller::Opener;
    });
    assert!(nobody.ends_with("?[?] release(</out.txt>) = 0 <0.000005> by its opener"));
}

#[track_caller]
fn check<const N: usize>(cases: [(String, &str); N]) {
    for (text, expected) in cases {
        assert_eq!(text, expected);
    }
}

#[test]
fn operations_on_names_show_their_arguments() {
    check([
        (
            call(OpKind::Create, |op| {
                op.flags = open_flag_names(libc::O_RDWR | libc::O_CREAT);
                (op.mode, op.fh, op.file_size) = (Some(0o644), Some(Fh(7)), Some(0));
            }),
            "create(</out.txt>, O_RDWR|O_CREAT, 0644) = 0 <0.000005> fh=7 file_size=0",
        ),
        (
            call(OpKind::Rename, |op| op.to = Some("b.txt".into())),
            "rename(</out.txt> -> </b.txt>) = 0 <0.000005>",
        ),
        (
            call(OpKind::Symlink, |op| op.set_target(OsStr::new("../x"))),
            "symlink(</out.txt> -> \"../x\") = 0 <0.000005>",
        ),
        (
            call(OpKind::Readlink, |op| {
                op.set_target(OsStr::new("../x"));
                op.ret = Some(4);
            }),
            "readlink(</out.txt>) = 4 \"../x\" <0.000005>",
        ),
        (
            call(OpKind::Setattr, |op| {
                op.set = Some(Box::new(SetAttrs {
                    size: Some(0),
                    mode: Some(0o600),
                    uid: Some(1),
                    gid: Some(2),
                    atime: Some(-1_000_000_000),
                    mtime: Some(1_500_000_000),
                }));
            }),
            "setattr(</out.txt>, {size=0, mode=0600, uid=1, gid=2, \
             atime=1969-12-31T23:59:59Z, mtime=1970-01-01T00:00:01.5Z}) = 0 <0.000005>",
        ),
    ]);
}

#[test]
fn operations_on_data_show_their_arguments() {
    check([
        (
            call(OpKind::Getxattr, |op| {
                op.name = Some("user.tag".into());
                (op.size, op.ret) = (Some(64), Some(5));
            }),
            "getxattr(</out.txt>, user.tag, size=64) = 5 <0.000005>",
        ),
        (
            call(OpKind::Lseek, |op| {
                (op.fd, op.offset, op.ret) = (Some(3), Some(0), Some(4096));
                op.name = Some("SEEK_DATA".into());
            }),
            "lseek(3</out.txt>, SEEK_DATA, offset=0) = 4096 <0.000005>",
        ),
        (
            call(OpKind::CopyFileRange, |op| {
                (op.size, op.offset, op.ret) = (Some(9), Some(1), Some(9));
                (op.path_out, op.offset_out, op.fh_out) =
                    (Some("copy".into()), Some(2), Some(Fh(8)));
            }),
            "copy_file_range(</out.txt>, size=9, offset=1 -> </copy>, offset=2, fh=8) = 9 \
             <0.000005>",
        ),
        (
            call(OpKind::Fallocate, |op| {
                (op.mode, op.offset, op.size) = (Some(0x83), Some(0), Some(10));
            }),
            "fallocate(</out.txt>, FALLOC_FL_KEEP_SIZE|FALLOC_FL_PUNCH_HOLE|0x80, size=10, \
             offset=0) = 0 <0.000005>",
        ),
        (
            call(OpKind::Access, |op| op.mode = Some(6)),
            "access(</out.txt>, R_OK|W_OK) = 0 <0.000005>",
        ),
        (
            call(OpKind::Fsync, |op| op.datasync = true),
            "fsync(</out.txt>, datasync) = 0 <0.000005>",
        ),
        (
            call(OpKind::Readdir, |op| {
                op.path = Some(".".into());
                (op.fh, op.entries) = (Some(Fh(2)), Some(12));
            }),
            "readdir(</>) = 0 <0.000005> fh=2 entries=12",
        ),
        (
            call(OpKind::Getattr, |op| {
                op.path = None;
                op.ino = Some(Ino(17));
            }),
            "getattr(<#17>) = 0 <0.000005>",
        ),
    ]);
}

#[test]
fn every_kind_of_operation_shows_its_name() {
    for &kind in OpKind::ALL {
        let text = call(kind, |_| {});
        assert_eq!(text, format!("{}(</out.txt>) = 0 <0.000005>", kind.name()));
    }
}

#[test]
fn what_the_caller_and_the_buffer_did_is_noted() {
    let text = call(OpKind::Read, |op| {
        op.syscall = Some("readv".into());
        (op.call, op.call_size, op.pos, op.seek_from) = (Some(4), Some(99), Some(5), Some(6));
        (op.unlinked, op.mapped, op.page_cache) = (true, true, true);
        op.file_size = Some(100);
        op.cache = vec![
            CacheDid::Wait {
                ns: 1_200_000,
                reason: Reason::DirtyLimit,
            },
            CacheDid::Hit {
                size: 5,
                dirty: 2,
                readahead: 0,
            },
            CacheDid::Miss { size: 6 },
            CacheDid::Hole { size: 7 },
            CacheDid::Bypass {
                size: 8,
                reason: Reason::Policy,
            },
            CacheDid::Readahead { size: 9 },
            CacheDid::WriteThrough {
                size: 1,
                reason: Reason::OSync,
            },
            CacheDid::Writeback {
                size: 2,
                runs: 1,
                reason: Reason::Fsync,
            },
            CacheDid::Discard {
                size: 3,
                reason: Reason::Truncate,
            },
            CacheDid::Invalidate {
                size: 4,
                reason: Reason::ChangedBelow,
            },
            CacheDid::Buffered {
                offset: 4095,
                size: 2,
                overwrote: 1,
            },
        ];
    });
    assert_eq!(
        text,
        "read(</out.txt>) = 0 <0.000005> via readv call=4 call_size=99 pos=5 seek_from=6 unlinked \
         mapped page_cache wait 0.001200 (dirty_limit), hit 5 (dirty 2), miss 6, hole 7, \
         bypass 8 (policy), readahead 9, write_through 1 (o_sync), writeback 2 in 1 run (fsync), \
         discard 3 (truncate), invalidate 4 (changed_below), buffered 2 (2 blocks) (overwrote 1)"
    );
}

#[test]
fn hostile_names_stay_on_their_line() {
    let name = OsStr::from_bytes(b"a\nb\x1b[31m\"'<\xff>\\ \xe2\x80\xae");
    let text = call(OpKind::Rename, |op| {
        op.set_path(ByteText::new(name));
        op.set_to(ByteText::new(name));
        op.comm = Some("python3".into());
    });
    let escaped = r#"</a\nb\x1b[31m\"'\x3c\xff\x3e\\ \u{202e}>"#;
    assert_eq!(
        text,
        format!("rename({escaped} -> {escaped}) = 0 <0.000005>")
    );
    let comm = op(OpKind::Read, |op| op.comm = Some("\x1b]0;x\x07\n".into()));
    assert!(comm.contains(r"\x1b]0;x\x07\n[7805] read("), "{comm}");
}

#[test]
fn a_writeback_has_a_line_with_its_cause() {
    let done = Writeback {
        ts_ns: Nanos(1_000_000_000),
        dur_ns: Nanos(2000),
        path: ByteText::new(OsStr::new("out.txt")),
        size: 8192,
        ret: Some(8192),
        blocks: 2,
        reason: Reason::Fsync,
        cause: Cause::Op(Seq(9)),
        writes: 3,
        first_seq: Seq(4),
        last_seq: Seq(8),
        age_ns: Nanos(1_500_000_000),
        conflict: true,
        ..Writeback::default()
    };
    let failed = Writeback {
        ret: None,
        errno: Some("EIO".into()),
        cause: Cause::Own(OwnCause::Unmount),
        conflict: false,
        ..done.clone()
    };
    check([
        (
            line(Event::Writeback(Box::new(done))),
            "00:00:01.000000 iolens writeback(</out.txt>, size=8192, offset=0) = 8192 <0.000002> \
             fsync for #9, 2 blocks, 3 writes (#4..#8), age 1.500000, conflict",
        ),
        (
            line(Event::Writeback(Box::new(failed))),
            "00:00:01.000000 iolens writeback(</out.txt>, size=8192, offset=0) = -1 EIO \
             (Input/output error) <0.000002> fsync by unmount, 2 blocks, 3 writes (#4..#8), \
             age 1.500000",
        ),
    ]);
}

#[test]
fn what_else_iolens_does_has_lines_too() {
    let path = ByteText::new(OsStr::new("out.txt"));
    let ts_ns = Nanos(2_000_000_000);
    let evict = Evict {
        ts_ns,
        path: path.clone(),
        blocks: 4,
        reason: Reason::Memory,
        ..Evict::default()
    };
    let discard = Discard {
        ts_ns,
        path,
        offset: 1,
        size: 2,
        reason: Reason::Unlink,
        ..Discard::default()
    };
    let seq = Seq(1);
    let reason = "killed\n".into();
    check([
        (
            line(Event::Evict(Box::new(evict))),
            "00:00:02.000000 iolens evict(</out.txt>, blocks=4) memory",
        ),
        (
            line(Event::Discard(Box::new(discard))),
            "00:00:02.000000 iolens discard(</out.txt>, size=2, offset=1) unlink by timer",
        ),
        (
            line(Event::Lost(Lost {
                seq,
                ts_ns,
                count: 5,
            })),
            "00:00:02.000000 iolens lost 5 events could not be recorded",
        ),
        (
            line(Event::Resume(Resume { seq, ts_ns, reason })),
            r"00:00:02.000000 iolens resume killed\n",
        ),
    ]);
}

#[test]
fn the_footer_tells_what_is_wrong() {
    let footer = Footer {
        ops: 3,
        lost: 1,
        dirty_bytes: 7,
        write_errors: 2,
        abandoned: true,
        exit: 3,
        cmd_exit: Some(1),
        ..Footer::default()
    };
    assert_eq!(
        line(Event::Footer(Box::new(footer))),
        "00:00:00.000000 # end: 3 operations, 1 lost, 7 bytes not written back, \
         2 write errors, abandoned, exit 3, command's exit 1",
    );
}

#[test]
fn the_header_is_one_short_line_and_tells_the_block_size() {
    let header = Header {
        version: "0.1.0".into(),
        source: "/src".into(),
        mountpoint: "/m\n".into(),
        kernel: "6.12".into(),
        kernel_cache: "off".into(),
        policy: "write-back".into(),
        block_size: 1 << 16,
        cmd: Some(vec!["sh".into(), "-c".into(), "\x1b".into()]),
        ..Header::default()
    };
    let mut text = Text::utc();
    let mut out = Vec::new();
    text.write(&Event::Header(Box::new(header)), &mut out);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "# iolens 0.1.0 records /src at /m\\n, policy write-back, kernel cache off, kernel 6.12: \
         sh -c \\x1b\n"
    );
    assert_eq!(text.block_size, 1 << 16);
    assert_eq!(blocks(0, 1 << 17, text.block_size), 2);
    assert_eq!(blocks(5, 0, 4096), 0);
}

#[test]
fn only_a_call_of_several_requests_says_so() {
    let shown = |first: u64, call_size: Option<u64>| {
        call(OpKind::Write, |op| {
            op.seq = Seq(7);
            op.size = Some(4096);
            op.call = Some(first);
            op.call_size = call_size;
        })
    };
    assert!(!shown(7, Some(4096)).contains("call"));
    assert!(shown(7, Some(9000)).contains("call=7 call_size=9000"));
    assert!(shown(5, None).contains("call=5"));
}

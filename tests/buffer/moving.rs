//! Data that the kernel moves, vectors, and asynchronous calls: cases 19 to 21.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;

use iolens::event::OpKind;
use libc::{O_CREAT, O_RDWR};
use nix::errno::Errno;

use crate::call::{copy_range, fd, fork};
use crate::record::{sources, told};
use crate::view::{View, all_of, each, each_then, open_at, pattern, same};

/// A call's count of bytes.
fn count(result: isize) -> usize {
    usize::try_from(Errno::result(result).unwrap()).unwrap()
}

#[test]
fn case_19_copy_file_range_copies_what_is_dirty_in_out_and_within() {
    each(|v| {
        let data = pattern(100_000, 1);
        let (a, b) = (v.create("a"), v.create("b"));
        a.write_all_at(&data, 0).unwrap();
        b.write_all_at(&pattern(60_000, 2), 0).unwrap();
        assert_eq!(copy_range(&a, 1_000, &b, 50_000, 30_000), 30_000);
        let mut wanted = pattern(60_000, 2);
        wanted.truncate(50_000);
        wanted.extend(&data[1_000..31_000]);
        v.shows("b", &wanted);
        // Within one file, over dirty data.
        b.write_all_at(b"dirty again", 10).unwrap();
        wanted[10..21].copy_from_slice(b"dirty again");
        assert_eq!(copy_range(&b, 0, &b, 40_000, 5_000), 5_000);
        wanted.copy_within(..5_000, 40_000);
        v.shows("b", &wanted);
        b.write_all_at(b"over the copy", 41_000).unwrap();
        wanted[41_000..41_013].copy_from_slice(b"over the copy");
        drop((a, b));
        v.shows("b", &wanted);
        v.holds_as_closed("b", &wanted);
        v.shows("a", &data);
    });
}

#[test]
fn case_19_copies_between_the_view_and_another_place_have_what_is_dirty() {
    each(|v| {
        let data = pattern(100_000, 1);
        let f = v.create("f");
        f.write_all_at(&data, 0).unwrap();
        let mut from = v.open("f", libc::O_RDONLY);
        let mut out = open_at(&v.bare("out"), O_RDWR | O_CREAT);
        std::io::copy(&mut from, &mut out).unwrap();
        same("out of the view", &all_of(&out), &data);
        out.write_all_at(b"changed outside", 500).unwrap();
        let (mut out, mut back) = (open_at(&v.bare("out"), O_RDWR), v.create("back"));
        std::io::copy(&mut out, &mut back).unwrap();
        v.shows("back", &all_of(&out));
        drop(back);
        v.holds_as_closed("back", &all_of(&out));
    });
}

/// Sends all of `file` to a pipe in pieces of 10 000 bytes; what came out.
fn sent(file: &File, send: impl Fn(i32, &mut i64) -> isize) -> Vec<u8> {
    let (mut from, to) = std::io::pipe().unwrap();
    let (mut data, mut offset) = (Vec::new(), 0_i64);
    let size = file.metadata().unwrap().len();
    while data.len() < usize::try_from(size).unwrap() {
        let moved = count(send(std::os::fd::AsRawFd::as_raw_fd(&to), &mut offset));
        assert!(moved > 0, "ends at {offset}");
        let mut piece = vec![0; moved];
        from.read_exact(&mut piece).unwrap();
        data.extend(piece);
    }
    data
}

#[test]
fn case_19_sendfile_and_splice_send_what_is_dirty_also_when_repeated() {
    each(|v| {
        let mut data = pattern(50_000, 1);
        let f = v.create("f");
        f.write_all_at(&data, 0).unwrap();
        let sendfile = |to: i32, offset: &mut i64| {
            // SAFETY: the offset lives.
            unsafe { libc::sendfile(to, fd(&f), offset, 10_000) }
        };
        let splice = |to: i32, offset: &mut i64| {
            let null = std::ptr::null_mut();
            // SAFETY: the offset lives.
            unsafe { libc::splice(fd(&f), offset, to, null, 10_000, 0) }
        };
        for round in 0..3_u8 {
            same("sendfile", &sent(&f, sendfile), &data);
            same("splice", &sent(&f, splice), &data);
            same("sendfile again", &sent(&f, sendfile), &data);
            // What the kernel keeps must not outlive a write.
            f.write_all_at(&[round; 300], 9_900).unwrap();
            data[9_900..10_200].fill(round);
            if round == 1 {
                f.sync_all().unwrap();
            }
        }
        v.shows("f", &data);
    });
}

#[test]
fn case_19_splice_into_a_file_is_a_write() {
    each(|v| {
        let data = pattern(50_000, 1);
        let f = v.create("f");
        let (from, mut to) = std::io::pipe().unwrap();
        let mut offset = 0_i64;
        for piece in data.chunks(10_000) {
            to.write_all(piece).unwrap();
            let (mut left, null) = (piece.len(), std::ptr::null_mut());
            while left > 0 {
                let from = std::os::fd::AsRawFd::as_raw_fd(&from);
                // SAFETY: the offset lives.
                left -= count(unsafe { libc::splice(from, null, fd(&f), &mut offset, left, 0) });
            }
        }
        v.shows("f", &data);
        drop(f);
        v.holds_as_closed("f", &data);
    });
}

fn vectors(pieces: &[Vec<u8>]) -> Vec<libc::iovec> {
    let vector = |piece: &Vec<u8>| libc::iovec {
        iov_base: piece.as_ptr().cast_mut().cast(),
        iov_len: piece.len(),
    };
    pieces.iter().map(vector).collect()
}

#[test]
fn case_20_vectors_of_any_number_and_size_are_one_call_with_the_right_bytes() {
    let body = |v: &View| {
        let f = v.create("f");
        let mut wanted = Vec::new();
        for (vectors_count, size) in [(1, 4_097), (3, 1_000_001), (1_024, 33)] {
            let pieces: Vec<Vec<u8>> = (0..vectors_count)
                .map(|i| pattern(size + i % 5, i as u64 + 1))
                .collect();
            let (iov, offset) = (vectors(&pieces), wanted.len().cast_signed() as i64);
            wanted.extend(pieces.concat());
            let vectors_count = i32::try_from(vectors_count).unwrap();
            // SAFETY: vectors over live pieces, which are only read.
            let written = unsafe { libc::pwritev(fd(&f), iov.as_ptr(), vectors_count, offset) };
            assert_eq!(count(written), pieces.concat().len());
        }
        same("written", &all_of(&f), &wanted);
        let pieces: Vec<Vec<u8>> = (0..1_000).map(|i| vec![0; 2_500 + i]).collect();
        let iov = vectors(&pieces);
        // SAFETY: vectors over live pieces, made for this call alone.
        let got = count(unsafe { libc::preadv(fd(&f), iov.as_ptr(), 1_000, 7) });
        same(
            "read in vectors",
            &std::hint::black_box(pieces).concat()[..got],
            &wanted[7..7 + got],
        );
        v.shows("f", &wanted);
        drop(f);
        v.holds_as_closed("f", &wanted);
    };
    each_then(&[], body, |_, trace| {
        let writes = trace.of(OpKind::Write, "f");
        let mut calls: Vec<(u64, u64)> = Vec::new();
        for op in &writes {
            // A request that is alone needs no `call`.
            let call = op.call.unwrap_or(op.seq.0 << 32);
            match calls.last_mut() {
                Some((last, size)) if *last == call => *size += op.ret.unwrap(),
                _ => calls.push((call, op.ret.unwrap())),
            }
        }
        let sizes: Vec<u64> = calls.iter().map(|(_, size)| *size).collect();
        let last: u64 = (0..1_024).map(|i| 33 + i % 5).sum();
        assert_eq!(sizes.iter().sum::<u64>(), 4_097 + 3_000_006 + last);
        if trace.knows_calls() {
            assert_eq!(sizes, [4_097, 3_000_006, last]);
        }
        for read in trace.of(OpKind::Read, "f") {
            assert_eq!(sources(read).all(), read.ret.unwrap(), "{}", told(read));
        }
    });
}

#[test]
fn case_20_a_vector_that_cannot_be_read_leaves_what_came_before_it_or_nothing() {
    each(|v| {
        let f = v.create("f");
        let good = pattern(5_000, 1);
        let bad = libc::iovec {
            iov_base: std::ptr::without_provenance_mut(16),
            iov_len: 5_000,
        };
        let iov = [vectors(std::slice::from_ref(&good))[0], bad];
        // SAFETY: the kernel checks the address that is not ours.
        let written = unsafe { libc::pwritev(fd(&f), iov.as_ptr(), 2, 0) };
        let written = match Errno::result(written) {
            Ok(written) => usize::try_from(written).unwrap(),
            Err(errno) => {
                assert_eq!(errno, Errno::EFAULT);
                0
            }
        };
        assert!(written <= good.len());
        v.shows("f", &good[..written]);
        f.write_all_at(&good, 0).unwrap();
        v.shows("f", &good);
    });
}

/// A context of io_submit(2).
struct Aio(u64);

impl Aio {
    fn new() -> Aio {
        let mut context = 0_u64;
        // SAFETY: the context lives.
        let made = unsafe { libc::syscall(libc::SYS_io_setup, 64, &mut context) };
        assert_eq!(made, 0, "io_setup: {}", Errno::last());
        Aio(context)
    }

    /// Submits one write a piece, one after the other; true when all were taken.
    fn write(&self, file: &File, pieces: &[Vec<u8>]) -> bool {
        let mut offset = 0_i64;
        let blocks = pieces.iter().map(|piece| {
            // SAFETY: all zeros is a valid iocb.
            let mut block: libc::iocb = unsafe { std::mem::zeroed() };
            block.aio_lio_opcode = 1; // IOCB_CMD_PWRITE
            block.aio_fildes = fd(file).cast_unsigned();
            block.aio_buf = piece.as_ptr() as u64;
            block.aio_nbytes = piece.len() as u64;
            block.aio_offset = offset;
            offset += piece.len().cast_signed() as i64;
            block
        });
        let mut blocks: Vec<_> = blocks.collect();
        let pointers: Vec<_> = blocks.iter_mut().map(std::ptr::from_mut).collect();
        let (number, first) = (pointers.len(), pointers.as_ptr());
        // SAFETY: `pieces` outlive the calls: the caller waits, or leaves.
        let taken = unsafe { libc::syscall(libc::SYS_io_submit, self.0, number, first) };
        usize::try_from(taken) == Ok(number)
    }

    /// Waits for so many; their answers.
    fn wait(&self, number: usize) -> Vec<i64> {
        // data, obj, res, res2
        let mut events = vec![[0_i64; 4]; number];
        let (null, first) = (std::ptr::null::<libc::timespec>(), events.as_mut_ptr());
        // SAFETY: room for so many events.
        let got =
            unsafe { libc::syscall(libc::SYS_io_getevents, self.0, number, number, first, null) };
        assert_eq!(usize::try_from(got), Ok(number));
        events.iter().map(|event| event[2]).collect()
    }
}

impl Drop for Aio {
    fn drop(&mut self) {
        // SAFETY: the context is ours.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.0) };
    }
}

#[test]
fn case_21_asynchronous_writes_are_there_when_they_are_reported_and_fsync_has_them() {
    each(|v| {
        let pieces: Vec<Vec<u8>> = (0..32).map(|i| pattern(10_000 + i, i as u64 + 1)).collect();
        let (f, aio) = (v.create("f"), Aio::new());
        assert!(aio.write(&f, &pieces));
        let mut answers = aio.wait(pieces.len());
        answers.sort_unstable();
        assert_eq!(answers, (10_000..10_032).collect::<Vec<i64>>());
        v.shows("f", &pieces.concat());
        f.sync_all().unwrap();
        v.holds("f", &pieces.concat());
    });
}

#[test]
fn case_21_a_process_that_exits_with_writes_under_way_leaves_whole_bytes_or_none() {
    each(|v| {
        let pieces: Vec<Vec<u8>> = (1..=32).map(|seed| pattern(10_000, seed)).collect();
        let f = v.create("f");
        f.set_len(320_000).unwrap();
        assert_eq!(
            fork(|| std::mem::ManuallyDrop::new(Aio::new()).write(&f, &pieces)).wait(),
            0
        );
        f.sync_all().unwrap();
        let (data, wanted) = (all_of(&f), pieces.concat());
        assert_eq!(data.len(), wanted.len());
        let fine = data
            .iter()
            .zip(&wanted)
            .all(|(&got, &w)| got == w || got == 0);
        assert!(fine, "neither written nor zero");
        v.holds("f", &data);
    });
}

//! Every operation under plans of failures: whatever fails, and whenever, the file is what was answered for.

use proptest::prelude::*;

use super::*;
use crate::backing::{Call, Faulty, When};

#[derive(Clone, Debug)]
enum Step {
    Write {
        place: Place,
        len: usize,
    },
    Through {
        at: u64,
        len: usize,
    },
    Read {
        at: u64,
        len: usize,
    },
    WriteBack {
        range: ByteRange,
    },
    Truncate {
        size: u64,
    },
    Zero {
        at: u64,
        len: usize,
    },
    Direct {
        at: u64,
        len: usize,
    },
    Flush,
    Fail {
        call: Call,
        when: When,
        error: Errno,
    },
    Cut {
        when: When,
        bytes: u64,
    },
    Heal,
}

fn when() -> impl Strategy<Value = When> {
    prop_oneof![
        Just(When::Always),
        (1u64..4).prop_map(When::Nth),
        (1u64..4).prop_map(When::From),
        (1u16..600, any::<u64>()).prop_map(|(per_mille, seed)| When::Chance { per_mille, seed }),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let at = || 0u64..40_000;
    let len = || prop_oneof![1usize..200, 1usize..9_000, Just(4096usize)];
    let place = prop_oneof![
        4 => at().prop_map(Place::At),
        1 => Just(Place::End),
        1 => at().prop_map(Place::Within),
    ];
    let range = prop_oneof![
        2 => Just(ByteRange::ALL),
        1 => (at(), 1u64..20_000).prop_map(|(at, len)| ByteRange::at(at, len)),
    ];
    let call = prop_oneof![
        4 => Just(Call::Write),
        1 => Just(Call::Read),
        1 => Just(Call::SetSize),
        1 => Just(Call::Stat),
        1 => Just(Call::SetMtime),
    ];
    let error = prop_oneof![Just(Errno::ENOSPC), Just(Errno::EDQUOT), Just(Errno::EIO)];
    let step = prop_oneof![
        6 => (place, len()).prop_map(|(place, len)| Step::Write { place, len }),
        1 => (at(), len()).prop_map(|(at, len)| Step::Through { at, len }),
        3 => (at(), len()).prop_map(|(at, len)| Step::Read { at, len }),
        3 => range.prop_map(|range| Step::WriteBack { range }),
        1 => (0u64..50_000).prop_map(|size| Step::Truncate { size }),
        1 => (at(), len()).prop_map(|(at, len)| Step::Zero { at, len }),
        1 => (at(), len()).prop_map(|(at, len)| Step::Direct { at, len }),
        2 => Just(Step::Flush),
        3 => (call, when(), error).prop_map(|(call, when, error)| Step::Fail { call, when, error }),
        1 => (when(), 1u64..6_000).prop_map(|(when, bytes)| Step::Cut { when, bytes }),
        1 => Just(Step::Heal),
    ];
    proptest::collection::vec(step, 1..40)
}

struct Run {
    bench: Bench,
    backing: Arc<Faulty<Memory>>,
    model: Vec<u8>,
    clock: u8,
    buffered: u64,
    overwritten: u64,
}

impl Run {
    fn bytes(&mut self, len: usize) -> Vec<u8> {
        self.clock = self.clock.wrapping_add(41);
        let clock = self.clock;
        (0..len)
            .map(|n| clock.wrapping_add((n / 3) as u8))
            .collect()
    }

    fn put(&mut self, put: Put, data: &[u8]) {
        let (at, end) = (put.at as usize, put.at as usize + put.count);
        if put.count > 0 && self.model.len() < end {
            self.model.resize(end, 0);
        }
        self.model[at.min(end)..][..put.count].copy_from_slice(&data[..put.count]);
    }

    fn write(&mut self, place: Place, len: usize) {
        let data = self.bytes(len);
        let (by, mut did) = (self.bench.by(), Did::new());
        let writer = &self.bench.backing;
        match self.bench.file.write(&by, &mut did, writer, place, &data) {
            Ok(Some(put)) if put.count > 0 => self.put(put, &data),
            Ok(Some(_)) | Err(_) => {}
            Ok(None) => self.through(place, &data),
        }
        for did in did {
            if let CacheDid::Buffered {
                size, overwrote, ..
            } = did
            {
                self.buffered += size;
                self.overwritten += overwrote;
            }
        }
    }

    fn through(&mut self, place: Place, data: &[u8]) {
        if let Ok((put, _)) = self.bench.try_through(place, data, Reason::OSync)
            && put.count > 0
        {
            self.put(put, data);
        }
    }

    fn read(&self, read: SysResult<usize>, out: &[u8], at: u64) {
        let Ok(count) = read else { return };
        let at = (at as usize).min(self.model.len());
        let end = (at + out.len()).min(self.model.len());
        assert_eq!(out[..count], self.model[at..end]);
    }

    fn step(&mut self, step: &Step) {
        let (by, mut did) = (self.bench.by(), Did::new());
        let file = Arc::clone(&self.bench.file);
        let backing = Arc::clone(&self.backing);
        match *step {
            Step::Write { place, len } => self.write(place, len),
            Step::Through { at, len } => {
                let data = self.bytes(len);
                self.through(Place::At(at), &data);
            }
            Step::Read { at, len } => {
                let mut out = vec![0xaa; len];
                let read = file.read(
                    &mut did,
                    &self.bench.backing,
                    &self.bench.stream,
                    at,
                    &mut out,
                );
                self.read(read, &out, at);
            }
            Step::Direct { at, len } => {
                let mut out = vec![0xaa; len];
                let around = (ByteRange::at(at, len as u64), Reason::ODirect);
                let read = file.settled(&by, &mut did, around, || {
                    backing.read_at(&mut [std::io::IoSliceMut::new(&mut out)], at)
                });
                // What lies behind SOURCE's end is still in the buffer.
                if read.is_ok_and(|count| count == len) {
                    self.read(read, &out, at);
                }
            }
            Step::WriteBack { range } => {
                let done = file.write_back(&by, &mut did, range, Reason::Fsync);
                if done.is_ok() && range == ByteRange::ALL {
                    assert_eq!(file.dirty_bytes(), 0, "0 means that all is in SOURCE");
                }
            }
            Step::Truncate { size } => {
                let set = || backing.set_size(size);
                let stat = || backing.stat();
                if file.truncate(&by, &mut did, size, set, stat).is_ok() {
                    self.model.resize(size as usize, 0);
                }
            }
            Step::Zero { at, len } => {
                let end = (at as usize + len).min(self.model.len());
                let len = end.saturating_sub(at as usize);
                let zeros = vec![0; len];
                let around = (ByteRange::at(at, len as u64), Reason::Fallocate);
                let change = || {
                    backing.stat()?;
                    let slices = [std::io::IoSlice::new(&zeros)];
                    let wrote = backing.inner().write_at(&slices, at, sys::SyncKind::None);
                    wrote.error.map_or(Ok(()), Err)
                };
                let stat = || backing.stat();
                if len > 0 && file.rewriting(&by, &mut did, around, change, stat).is_ok() {
                    self.model[at as usize..end].fill(0);
                }
            }
            Step::Flush => {
                // The pause after a failure is over.
                let later = 10_000_000_000;
                self.bench.memo.clock.fetch_add(later, Ordering::SeqCst);
                self.bench.buffers.flush();
            }
            Step::Fail { call, when, error } => backing.fail(call, when, error),
            Step::Cut { when, bytes } => backing.cut_writes(when, bytes, Errno::ENOSPC),
            Step::Heal => backing.heal(),
        }
    }

    /// Law 3, and how many bytes were told not to be written.
    fn account(&self) -> u64 {
        let (mut written, mut discarded, mut failed) = (0, 0, 0);
        for told in &*lock(&self.bench.memo.told) {
            match told {
                Told::Wrote {
                    range, error: None, ..
                } => written += range.len(),
                Told::Wrote { range, .. } => failed += range.len(),
                Told::Discarded { range, .. } => discarded += range.len(),
                Told::Evicted { .. } => {}
            }
        }
        let dirty = self.bench.buffers.dirty_bytes();
        let sum = written + discarded + self.overwritten + dirty;
        assert_eq!(self.buffered, sum, "law 3");
        failed
    }
}

fn run(steps: &[Step]) {
    let small = Options {
        cache_bytes: 96 << 10,
        dirty_limit: 40 << 10,
        dirty_age: Some(Nanos(1_000)),
        ..options()
    };
    let backing = Arc::new(Faulty::new(Memory::new()));
    let mut run = Run {
        bench: Bench::new(small, backing.clone()),
        backing,
        model: Vec::new(),
        clock: 0,
        buffered: 0,
        overwritten: 0,
    };
    let told = AtomicU64::new(run.bench.file.errors_told());
    for step in steps {
        run.step(step);
        run.bench.check();
        run.account();
    }
    run.backing.heal();
    assert_eq!(run.bench.contents(), run.model, "read through the buffer");
    run.bench.write_back(ByteRange::ALL).unwrap();
    assert_eq!(run.bench.buffers.dirty_bytes(), 0);
    assert_eq!(run.backing.inner().contents(), run.model, "in SOURCE");
    let failed = run.account() > 0;
    assert_eq!(run.bench.file.news(&told).is_some(), failed, "told");
    assert_eq!(run.bench.file.news(&told), None, "once");
    // The next one is a success that says so.
    run.bench.write(Place::At(0), b"x");
    run.bench.write_back(ByteRange::ALL).unwrap();
    assert_eq!(run.bench.file.news(&told), None, "the error is gone");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn whatever_fails_the_file_is_what_was_answered_for(steps in steps()) {
        run(&steps);
    }
}

/// A page of a mapping that lies beyond the end, past a buffer that is not to be used.
#[test]
fn regression_nothing_written_past_the_buffer_makes_no_file_longer() {
    run(&[
        Step::Cut {
            when: When::From(1),
            bytes: 1,
        },
        Step::Write {
            place: Place::At(0),
            len: 1,
        },
        Step::Fail {
            call: Call::Stat,
            when: When::Always,
            error: Errno::ENOSPC,
        },
        Step::Write {
            place: Place::At(6958),
            len: 7259,
        },
        Step::Zero { at: 0, len: 1 },
        Step::Write {
            place: Place::Within(16384),
            len: 1,
        },
        Step::Heal,
        Step::WriteBack {
            range: ByteRange::ALL,
        },
        Step::Write {
            place: Place::At(14218),
            len: 1,
        },
    ]);
}

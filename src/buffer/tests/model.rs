//! Random operations of one thread, over memory and over a real file, against a `Vec<u8>`.

use proptest::prelude::*;

use super::*;
use crate::backing::Real;

#[derive(Clone, Debug)]
enum Step {
    Write {
        at: u64,
        len: usize,
    },
    Append {
        len: usize,
    },
    Page {
        at: u64,
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
        at: u64,
        len: u64,
    },
    Truncate {
        size: u64,
    },
    Flush,
    /// Another program writes to SOURCE, and the view looks.
    Outside {
        at: u64,
        len: usize,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let at = 0u64..40_000;
    let len = prop_oneof![1usize..200, 1usize..9_000, Just(4096usize)];
    let step = prop_oneof![
        5 => (at.clone(), len.clone()).prop_map(|(at, len)| Step::Write { at, len }),
        1 => len.clone().prop_map(|len| Step::Append { len }),
        1 => (at.clone(), len.clone()).prop_map(|(at, len)| Step::Page { at, len }),
        1 => (at.clone(), len.clone()).prop_map(|(at, len)| Step::Through { at, len }),
        4 => (at.clone(), len.clone()).prop_map(|(at, len)| Step::Read { at, len }),
        2 => (at.clone(), 1u64..40_000).prop_map(|(at, len)| Step::WriteBack { at, len }),
        1 => (0u64..50_000).prop_map(|size| Step::Truncate { size }),
        1 => Just(Step::Flush),
        1 => (at, len).prop_map(|(at, len)| Step::Outside { at, len }),
    ];
    proptest::collection::vec(step, 1..40)
}

struct Run {
    bench: Bench,
    model: Vec<u8>,
    clock: u8,
    buffered: u64,
    overwritten: u64,
}

fn put(model: &mut Vec<u8>, at: u64, data: &[u8]) {
    let end = at as usize + data.len();
    if model.len() < end {
        model.resize(end, 0);
    }
    model[at as usize..end].copy_from_slice(data);
}

impl Run {
    fn bytes(&mut self, len: usize) -> Vec<u8> {
        self.clock = self.clock.wrapping_add(41);
        let clock = self.clock;
        (0..len)
            .map(|n| clock.wrapping_add((n / 3) as u8))
            .collect()
    }

    fn count(&mut self, did: &Did) {
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

    fn write(&mut self, place: Place, len: usize) {
        let mut data = self.bytes(len);
        let end = self.model.len() as u64;
        let (put_at, did) = self.bench.write(place, &data);
        self.count(&did);
        let at = match place {
            Place::End => end,
            Place::At(at) => at,
            Place::Within(at) => {
                data.truncate(end.saturating_sub(at) as usize);
                at
            }
        };
        assert_eq!((put_at.at, put_at.count), (at, data.len()));
        if !data.is_empty() {
            put(&mut self.model, at, &data);
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Write { at, len } => self.write(Place::At(at), len),
            Step::Append { len } => self.write(Place::End, len),
            Step::Page { at, len } => self.write(Place::Within(at), len),
            Step::Through { at, len } => {
                let data = self.bytes(len);
                self.bench
                    .write_through(Place::At(at), &data, Reason::OSync);
                put(&mut self.model, at, &data);
                let below = self.source();
                assert_eq!(below[at as usize..at as usize + len], data);
            }
            Step::Read { at, len } => {
                let (read, did) = self.bench.read(at, len);
                let at = (at as usize).min(self.model.len());
                let end = (at + len).min(self.model.len());
                assert_eq!(read, self.model[at..end]);
                let sum: u64 = did.iter().map(read_bytes).sum();
                assert_eq!(sum, read.len() as u64, "{did:?}");
            }
            Step::WriteBack { at, len } => {
                self.bench.write_back(ByteRange::at(at, len)).unwrap();
            }
            Step::Truncate { size } => {
                self.bench.truncate(size);
                self.model.resize(size as usize, 0);
            }
            Step::Flush => {
                self.bench.buffers.flush();
            }
            Step::Outside { at, len } => {
                // Where nothing is dirty, so that the model knows who wins.
                self.bench.write_back(ByteRange::ALL).unwrap();
                let data = self.bytes(len);
                let slices = [std::io::IoSlice::new(&data)];
                let wrote = self
                    .bench
                    .backing
                    .write_at(&slices, at, sys::SyncKind::None);
                assert_eq!(wrote.error, None);
                put(&mut self.model, at, &data);
                let mut did = Did::new();
                let backing = &self.bench.backing;
                self.bench
                    .file
                    .attributes(&mut did, || backing.stat())
                    .unwrap();
            }
        }
    }

    fn source(&self) -> Vec<u8> {
        let size = self.bench.backing.stat().unwrap().size;
        let mut bytes = vec![0; size as usize];
        let mut vectors = [std::io::IoSliceMut::new(&mut bytes)];
        let read = self.bench.backing.read_at(&mut vectors, 0);
        assert_eq!(read.unwrap() as u64, size);
        bytes
    }

    fn account(&self) {
        let (mut written, mut discarded) = (0, 0);
        for told in &*lock(&self.bench.memo.told) {
            match told {
                Told::Wrote { range, .. } => written += range.len(),
                Told::Discarded { range, .. } => discarded += range.len(),
                Told::Evicted { .. } => {}
            }
        }
        let dirty = self.bench.buffers.dirty_bytes();
        let sum = written + discarded + self.overwritten + dirty;
        assert_eq!(self.buffered, sum, "law 3");
    }
}

fn read_bytes(did: &CacheDid) -> u64 {
    match did {
        CacheDid::Hit { size, .. }
        | CacheDid::Miss { size }
        | CacheDid::Hole { size }
        | CacheDid::Bypass { size, .. } => *size,
        _ => 0,
    }
}

fn run(backing: Arc<dyn Backing>, steps: &[Step]) {
    // Fewer slots than the file has blocks.
    let small = Options {
        cache_bytes: 48 << 10,
        dirty_limit: 20 << 10,
        ..options()
    };
    let mut run = Run {
        bench: Bench::new(small, backing),
        model: Vec::new(),
        clock: 0,
        buffered: 0,
        overwritten: 0,
    };
    for step in steps {
        run.step(step);
        run.bench.check();
        run.account();
        let stat = {
            let backing = &run.bench.backing;
            run.bench
                .file
                .attributes(&mut Did::new(), || backing.stat())
        };
        assert_eq!(stat.unwrap().size, run.model.len() as u64);
    }
    assert_eq!(run.bench.contents(), run.model);
    run.bench.write_back(ByteRange::ALL).unwrap();
    assert_eq!(run.source(), run.model);
    run.account();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn over_memory_it_is_an_array_of_bytes(steps in steps()) {
        run(Arc::new(Memory::new()), &steps);
    }

    #[test]
    fn over_a_real_file_it_is_an_array_of_bytes(steps in steps()) {
        let file = tempfile::tempfile().unwrap();
        run(Arc::new(Real::new(Arc::new(file.into()))), &steps);
    }
}

//! What each request costs beside the kernel: the filesystem with its buffer and without, the recorder, and the readers
//! of traces. `cargo bench`; the figures that matter to users are those of `tools/bench/`.

#![allow(clippy::unwrap_used)] // A benchmark that cannot go on has failed.
#![allow(missing_docs)] // The macros make a function.

use std::fs::File;
use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use iolens::analysis::audit::Audit;
use iolens::analysis::report::Reporter;
use iolens::buffer;
use iolens::event::{Event, Header, Op, OpKind};
use iolens::fs::{
    Attribution, Call, Fs, KernelCache, NewEntry, Options, Owners, Permissions, ReadFrom, ReadHow,
    WriteFrom, WriteHow,
};
use iolens::sys::open_path;
use iolens::trace::reader::{Item, Reader};
use iolens::trace::{Config, FooterFacts, Recorder, for_file};
use iolens::types::{Fh, Nanos, NodeId, Tid};

const TRACE: &str = include_str!("../tests/fixtures/trace.jsonl");
const ME: Call = Call {
    uid: 0,
    gid: 0,
    tid: Tid(1),
};

/// A view of a directory, without FUSE and unrecorded, and a file that is open in it.
fn view(dir: &std::path::Path, buffer: Option<buffer::Options>) -> (Fs, Fh) {
    let options = Options {
        permissions: Permissions::Source,
        owners: Owners::AsTheyAre,
        descriptors: 100,
        hidden: None,
        quiet: Vec::new(),
        attribution: Attribution::Process,
        buffer,
        kernel_cache: KernelCache::Off,
        shared: None,
    };
    let fs = Fs::new(open_path(dir.as_os_str()).unwrap(), None, options).unwrap();
    let new = NewEntry {
        mode: libc::S_IFREG | 0o644,
        umask: 0,
    };
    let flags = libc::O_RDWR | libc::O_CREAT;
    let (_, fh) = fs
        .create(&ME, NodeId::ROOT, "f".as_ref(), flags, new)
        .unwrap();
    (fs, fh)
}

fn requests(c: &mut Criterion) {
    let buffered = buffer::Options {
        policy: buffer::Policy::WriteBack,
        cache_bytes: 256 << 20,
        dirty_limit: 64 << 20,
        dirty_age: None,
        dirty_files: 100,
        on_close: buffer::OnClose::Keep,
    };
    for (name, buffer) in [("write-back", Some(buffered)), ("off", None)] {
        let dir = tempfile::tempdir().unwrap();
        let (fs, fh) = view(dir.path(), buffer);
        let mut group = c.benchmark_group(name);
        for size in [100_usize, 4096] {
            let data = vec![b'x'; size];
            let mut into = vec![0; size];
            // Within 16 MiB: everything stays in the buffer, and nothing is written back.
            let places = (16 << 20) / size as u64;
            let mut n = 0;
            let mut next = move || {
                n = (n + 1) % places;
                n * size as u64
            };
            let write = WriteHow {
                flags: 0,
                from: WriteFrom::Call,
            };
            let read = ReadHow {
                flags: 0,
                from: ReadFrom::Call,
            };
            group.throughput(Throughput::Elements(1));
            group.bench_function(format!("write {size}"), |b| {
                b.iter(|| {
                    fs.write(&ME, fh, next(), black_box(&data), write)
                        .wait()
                        .unwrap()
                });
            });
            group.bench_function(format!("read {size}"), |b| {
                b.iter(|| {
                    fs.read(&ME, fh, next(), black_box(&mut into), read)
                        .unwrap()
                });
            });
        }
    }
}

fn recorder(c: &mut Criterion) {
    /// Fewer than a thread's buffer holds.
    const BATCH: u64 = 4000;
    /// By then the writer has fetched them.
    const FETCHED: Duration = Duration::from_millis(40);
    let null = File::options().write(true).open("/dev/null").unwrap();
    let recorder = Recorder::start(Config::new(Header::default(), for_file(null))).unwrap();
    let record = || {
        let mut op = Op::new(OpKind::Write, recorder.next_seq(), Nanos(1));
        (op.offset, op.size, op.ret) = (Some(4096), Some(100), Some(100));
        recorder.record(Event::Op(Box::new(op)));
    };
    let mut group = c.benchmark_group("recorder");
    group.throughput(Throughput::Elements(1)).sample_size(10);
    // What the thread of a request pays.
    group.bench_function("record", |b| {
        b.iter_custom(|count| {
            let mut spent = Duration::ZERO;
            let mut left = count;
            while left > 0 {
                let begun = Instant::now();
                (0..left.min(BATCH)).for_each(|_| record());
                spent += begun.elapsed();
                left -= left.min(BATCH);
                std::thread::sleep(FETCHED);
            }
            spent
        });
    });
    recorder.finish(FooterFacts::default());
}

fn readers(c: &mut Criterion) {
    let mut group = c.benchmark_group("readers");
    let lines = TRACE.lines().count() as u64;
    group.throughput(Throughput::Elements(lines));
    let events = || {
        Reader::new(TRACE.as_bytes()).filter_map(|item| match item.unwrap() {
            Item::Event(line, event) => Some((line, event)),
            Item::End(_) => None,
        })
    };
    group.bench_function("parse", |b| b.iter(|| black_box(events().count())));
    group.bench_function("report", |b| {
        b.iter(|| {
            let mut reporter = Reporter::default();
            events().for_each(|(_, event)| reporter.push(event));
            black_box(reporter.finish())
        });
    });
    group.bench_function("audit", |b| {
        b.iter(|| {
            let mut audit = Audit::default();
            events().for_each(|(line, event)| audit.push(line, &event));
            black_box(audit.finish(0))
        });
    });
}

criterion_group!(all, requests, recorder, readers);
criterion_main!(all);

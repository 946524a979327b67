//! What each request costs beside the kernel: the filesystem with its buffer and without, the recorder, and the readers
//! of traces. `cargo bench`; the figures that matter to users are those of `tools/bench/`.

#![allow(clippy::unwrap_used)] // A benchmark that cannot go on has failed.
#![allow(missing_docs)] // The macros make a function.

use std::fs::File;
use std::hint::black_box;
use std::sync::Arc;
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
use nix::fcntl::{FcntlArg, OFlag, fcntl};

const TRACE: &str = include_str!("../tests/fixtures/trace.jsonl");
const ME: Call = Call {
    uid: 0,
    gid: 0,
    tid: Tid(1),
    unique: 0,
};

/// A view of a directory, without FUSE, and a file that is open in it.
fn view(
    dir: &std::path::Path,
    buffer: Option<buffer::Options>,
    (recorder, attribution): (Option<Arc<Recorder>>, Attribution),
) -> (Fs, Fh) {
    let options = Options {
        permissions: Permissions::Source,
        owners: Owners::AsTheyAre,
        descriptors: 100,
        hidden: None,
        quiet: Vec::new(),
        attribution,
        callers_sleep: false,
        told: None,
        buffer,
        kernel_cache: KernelCache::Off,
        shared: None,
    };
    let fs = Fs::new(open_path(dir.as_os_str()).unwrap(), recorder, options).unwrap();
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

const BUFFERED: buffer::Options = buffer::Options {
    policy: buffer::Policy::WriteBack,
    cache_bytes: 256 << 20,
    dirty_limit: 64 << 20,
    dirty_age: None,
    dirty_files: 100,
    on_close: buffer::OnClose::Keep,
};
const WRITE: WriteHow = WriteHow {
    flags: 0,
    from: WriteFrom::Call,
};
const READ: ReadHow = ReadHow {
    flags: 0,
    from: ReadFrom::Call,
};

fn requests(c: &mut Criterion) {
    for (name, buffer) in [("write-back", Some(BUFFERED)), ("off", None)] {
        let dir = tempfile::tempdir().unwrap();
        let (fs, fh) = view(dir.path(), buffer, (None, Attribution::Nothing));
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
            group.throughput(Throughput::Elements(1));
            group.bench_function(format!("write {size}"), |b| {
                b.iter(|| {
                    fs.write(&ME, fh, next(), black_box(&data), WRITE)
                        .wait()
                        .unwrap()
                });
            });
            group.bench_function(format!("read {size}"), |b| {
                b.iter(|| {
                    fs.read(&ME, fh, next(), black_box(&mut into), READ)
                        .unwrap()
                });
            });
        }
    }
}

/// Fewer events than a thread's buffer holds.
const BATCH: u64 = 4000;
/// By then the writer has fetched them.
const FETCHED: Duration = Duration::from_millis(40);

/// How long `work` takes so many times, without what the writer of the trace does meanwhile.
fn in_batches(count: u64, mut work: impl FnMut()) -> Duration {
    let mut spent = Duration::ZERO;
    let mut left = count;
    while left > 0 {
        let begun = Instant::now();
        (0..left.min(BATCH)).for_each(|_| work());
        spent += begun.elapsed();
        left -= left.min(BATCH);
        std::thread::sleep(FETCHED);
    }
    spent
}

/// A thread that waits in `work`, as one does whose request is served.
fn caller(work: impl FnOnce() + Send + 'static) -> Call {
    let (told, heard) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        told.send(nix::unistd::gettid()).unwrap();
        work();
    });
    let tid = heard.recv().unwrap();
    // It is about to.
    std::thread::sleep(FETCHED);
    let tid = Tid(tid.as_raw().cast_unsigned());
    Call { tid, ..ME }
}

/// One that waits in a write(2) of 100 bytes, and one in a read(2) of 4096.
fn callers() -> (Call, Call) {
    let (nobody_reads, full) = nix::unistd::pipe2(OFlag::O_NONBLOCK).unwrap();
    while nix::unistd::write(&full, &[0; 4096]).is_ok() {}
    fcntl(&full, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
    let (empty, nobody_writes) = nix::unistd::pipe().unwrap();
    std::mem::forget((nobody_reads, nobody_writes));
    let writes = caller(move || {
        let _ = nix::unistd::write(&full, &[0; 100]);
    });
    let reads = caller(move || {
        let _ = nix::unistd::read(&empty, &mut [0; 4096]);
    });
    (writes, reads)
}

/// What it costs to record a request: the same one unrecorded, recorded with its process, and with its system call.
fn recorded(c: &mut Criterion) {
    let mut group = c.benchmark_group("recorded");
    group.throughput(Throughput::Elements(1)).sample_size(10);
    let variants = [
        ("not", None),
        ("pid", Some(Attribution::Process)),
        ("full", Some(Attribution::Full)),
    ];
    for (name, attribution) in variants {
        let dir = tempfile::tempdir().unwrap();
        let null = File::options().write(true).open("/dev/null").unwrap();
        let recorder = attribution
            .map(|_| Recorder::start(Config::new(Header::default(), for_file(null))).unwrap());
        let how = (
            recorder.clone(),
            attribution.unwrap_or(Attribution::Nothing),
        );
        let (fs, fh) = view(dir.path(), Some(BUFFERED), how);
        let (writes, reads) = callers();
        let mut block = [b'x'; 4096];
        let mut n = 0;
        group.bench_function(format!("write 100, {name}"), |b| {
            b.iter_custom(|count| {
                in_batches(count, || {
                    n = (n + 1) % 100_000;
                    let data = black_box(&block[..100]);
                    let write = fs.write(&writes, fh, n * 100, data, WRITE);
                    assert_eq!(write.wait().unwrap(), 100);
                })
            });
        });
        group.bench_function(format!("read 4096, {name}"), |b| {
            b.iter_custom(|count| {
                in_batches(count, || {
                    n = (n + 1) % 1000;
                    let read = fs.read(&reads, fh, n * 4096, black_box(&mut block), READ);
                    read.unwrap();
                })
            });
        });
        if let Some(recorder) = recorder {
            recorder.finish(FooterFacts::default());
        }
    }
}

fn recorder(c: &mut Criterion) {
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
        b.iter_custom(|count| in_batches(count, record));
    });
    recorder.finish(FooterFacts::default());
    // What the writer pays for each event, and what it would by what derives from the events.
    let events: Vec<Event> = ops().map(|op| Event::Op(Box::new(op))).collect();
    group.throughput(Throughput::Elements(events.len() as u64));
    let mut out = Vec::with_capacity(1 << 20);
    group.bench_function("lines", |b| {
        b.iter(|| {
            out.clear();
            for event in &events {
                event.put_line(&mut out).unwrap();
            }
            black_box(out.len())
        });
    });
    group.bench_function("lines by serde", |b| {
        b.iter(|| {
            out.clear();
            for event in &events {
                serde_json::to_writer(&mut out, event).unwrap();
                out.push(b'\n');
            }
            black_box(out.len())
        });
    });
}

/// The operations of a small trace.
fn ops() -> impl Iterator<Item = Op> {
    Reader::new(TRACE.as_bytes()).filter_map(|item| match item.unwrap() {
        Item::Event(_, Event::Op(op)) => Some(*op),
        _ => None,
    })
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

criterion_group!(all, requests, recorded, recorder, readers);
criterion_main!(all);

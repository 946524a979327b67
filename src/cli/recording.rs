//! The options that `mount` and `run` share, and what they mean.
//!
//! Layer: edge (`cli`).

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;

use super::units::{parse_duration, parse_size};
use crate::buffer;
use crate::event::OpKind;
use crate::fs::{self, Attribution};
use crate::mount::options::MountOptions;
use crate::server::record::{Form, Recording, Target};
use crate::server::view::{self, Serving};
use crate::trace::{CaptureFilter, PathGlobs};
use crate::types::{Nanos, Pid};

/// Default of `--cache-size`.
const CACHE_BYTES: u64 = 256 << 20;
/// The least that holds a block and what is kept beside it.
const CACHE_MIN: u64 = 8 << 10;
/// Default of `--dirty-limit`.
const DIRTY_BYTES: u64 = 64 << 20;
/// Default of `--dirty-age`: what Linux's flusher waits at most between two rounds
/// (dirty_writeback_centisecs, Documentation/admin-guide/sysctl/vm.rst).
const DIRTY_AGE: Duration = Duration::from_secs(5);
/// The most request threads; each has a 16 MiB buffer (fuser's, touched lazily).
const THREADS_MAX: i64 = 1024;

/// `--format`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// The trace: one JSON object a line
    Jsonl,
    /// For eyes
    Text,
}

/// `--policy`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Policy {
    WriteBack,
    WriteThrough,
    Off,
}

/// `--kernel-cache`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum KernelCache {
    Off,
    Read,
    WriteBack,
}

/// `--transport`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Transport {
    Auto,
    Dev,
    Uring,
}

/// `--on-close`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OnClose {
    Writeback,
    Keep,
}

/// `--caller`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Caller {
    Full,
    Pid,
}

/// Options of `mount` and `run`
#[derive(Clone, Debug, clap::Args)]
pub struct RecordArgs {
    /// Where the trace goes [default: kept under $XDG_STATE_HOME/iolens]; `-` is stdout (mount -f only)
    #[arg(short, long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// The form of the trace
    #[arg(long, value_enum, default_value = "jsonl")]
    format: Format,
    /// Print each operation to stderr as it happens
    #[arg(long)]
    live: bool,
    /// The buffer cache: do writes wait in it, go past it, or is there none?
    #[arg(long, value_enum, default_value = "write-back")]
    policy: Policy,
    /// Memory for cached blocks, clean and dirty, with their bookkeeping [default: 256MiB]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    cache_size: Option<u64>,
    /// Dirty bytes at which writers start to wait [default: 64MiB, at most half the cache]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    dirty_limit: Option<u64>,
    /// Age at which a dirty block is written back, or `never` [default: 5s]
    #[arg(long, value_name = "TIME", value_parser = parse_age)]
    dirty_age: Option<Age>,
    /// Does close(2) write back?
    #[arg(long, value_enum, default_value = "writeback")]
    on_close: OnClose,
    /// May the kernel cache file data? (off: every call is seen)
    #[arg(long, value_enum, default_value = "off")]
    kernel_cache: KernelCache,
    /// Request threads [default: number of CPUs]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=THREADS_MAX))]
    threads: Option<u16>,
    /// How requests arrive: by /dev/fuse, or by io_uring; auto takes io_uring where root has enabled it
    #[arg(long, value_enum, default_value = "auto")]
    transport: Transport,
    /// What is found out about each caller: its system call and descriptor too, or only who it is
    #[arg(long, value_enum, default_value = "full")]
    caller: Caller,
    /// Record only files whose path below SOURCE matches
    #[arg(long, value_name = "GLOB")]
    only_path: Vec<String>,
    /// Record only this operation
    #[arg(long, value_name = "OP", value_parser = parse_op)]
    only_op: Vec<OpKind>,
    /// Record only this process
    #[arg(long, value_name = "PID")]
    only_pid: Vec<u32>,
    /// Stop recording at this size of the trace
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    trace_limit: Option<u64>,
    /// Options of mount(8): allow_other, ro, suid, dev, default_permissions, fsname=, ...
    #[arg(short = 'o', value_name = "OPT[,OPT]")]
    options: Vec<String>,
    /// More of iolens's own messages
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// `--dirty-age`: `None` is never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Age(Option<Duration>);

fn parse_age(text: &str) -> Result<Age, String> {
    if text == "never" {
        return Ok(Age(None));
    }
    parse_duration(text)
        .map(|age| Age(Some(age)))
        .map_err(|error| format!("{error}, or `never`"))
}

fn parse_op(text: &str) -> Result<OpKind, String> {
    OpKind::ALL
        .iter()
        .copied()
        .find(|kind| kind.name() == text)
        .ok_or_else(|| {
            let names: Vec<&str> = OpKind::ALL.iter().map(|kind| kind.name()).collect();
            format!(
                "there is no operation {text:?}: known are {}",
                names.join(" ")
            )
        })
}

/// What the options mean.
#[derive(Debug)]
pub struct Meant {
    /// What is recorded, and where to.
    pub recording: Recording,
    /// `-o`
    pub options: MountOptions,
    /// `--threads` and `--transport`
    pub serving: Serving,
    /// `--policy` and what goes with it; `None` for `off`.
    pub buffer: Option<buffer::Options>,
}

/// Whether the table is printed at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// It is.
    Printed,
    /// It is not.
    None,
}

impl RecordArgs {
    /// Checks the options against each other.
    ///
    /// # Errors
    /// One sentence for a usage error.
    pub fn meant(self, table: Table) -> Result<Meant, String> {
        let buffer = self.buffer()?;
        let options = MountOptions::parse(&self.options).map_err(|problem| problem.to_string())?;
        let threads = match self.threads {
            Some(threads) => usize::from(threads),
            None => std::thread::available_parallelism().map_or(2, usize::from),
        };
        let target =
            match self.trace {
                None => Target::Store,
                Some(path) if path.as_os_str() == "-" => Target::Stdout,
                // Made absolute before anybody changes directory.
                Some(path) => Target::File(std::path::absolute(&path).map_err(|error| {
                    format!("cannot write the trace {}: {error}", path.display())
                })?),
            };
        let filter = CaptureFilter {
            paths: PathGlobs::new(&self.only_path)?,
            ops: self.only_op,
            pids: self.only_pid.into_iter().map(Pid).collect(),
        };
        let recording = Recording {
            target,
            form: if self.format == Format::Text {
                Form::Text
            } else {
                Form::Jsonl
            },
            live: self.live,
            filter,
            limit: self.trace_limit,
            table: table == Table::Printed,
            cmd: None,
            invisible: Vec::new(),
            limits: Vec::new(),
            attribution: match self.caller {
                Caller::Full => Attribution::Full,
                Caller::Pid => Attribution::Process,
            },
        };
        Ok(Meant {
            recording,
            options,
            serving: Serving {
                threads,
                kernel_cache: match self.kernel_cache {
                    KernelCache::Off => fs::KernelCache::Off,
                    KernelCache::Read => fs::KernelCache::Read,
                    KernelCache::WriteBack => fs::KernelCache::WriteBack,
                },
                transport: match self.transport {
                    Transport::Auto => view::Transport::Auto,
                    Transport::Dev => view::Transport::Dev,
                    Transport::Uring => view::Transport::Uring,
                },
            },
            buffer,
        })
    }

    fn buffer(&self) -> Result<Option<buffer::Options>, String> {
        let cache = self.cache_size.unwrap_or(CACHE_BYTES);
        if cache < CACHE_MIN {
            return Err(format!(
                "--cache-size {cache} is out of range: give at least 8KiB, or --policy off"
            ));
        }
        let limit = self.dirty_limit.unwrap_or(DIRTY_BYTES.min(cache / 2));
        if limit > cache {
            return Err(format!(
                "--dirty-limit {limit} is above --cache-size {cache}: dirty bytes are part of the cache"
            ));
        }
        if self.dirty_limit == Some(0) {
            return Err("--dirty-limit 0 is out of range: writers would wait for ever".to_owned());
        }
        let age = self.dirty_age.unwrap_or(Age(Some(DIRTY_AGE))).0;
        if age == Some(Duration::ZERO) {
            return Err("--dirty-age 0 is out of range: use --policy write-through".to_owned());
        }
        let policy = match self.policy {
            Policy::Off => return Ok(None),
            Policy::WriteBack => buffer::Policy::WriteBack,
            Policy::WriteThrough => buffer::Policy::WriteThrough,
        };
        Ok(Some(buffer::Options {
            policy,
            cache_bytes: cache,
            dirty_limit: limit,
            dirty_age: age.map(|age| Nanos(u64::try_from(age.as_nanos()).unwrap_or(u64::MAX))),
            dirty_files: buffer::DIRTY_FILES_MAX,
            on_close: match self.on_close {
                OnClose::Writeback => buffer::OnClose::Writeback,
                OnClose::Keep => buffer::OnClose::Keep,
            },
        }))
    }
}

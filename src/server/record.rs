//! Starts the recorder: where the trace goes, in which form, and the header's facts.
//!
//! Layer: edge (`server`).

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::kernel;
use super::view::ViewConfig;
use crate::analysis::report::Reporter;
use crate::analysis::summary::Summary as Account;
use crate::buffer::{self, BLOCK_SIZE, OnClose, Policy};
use crate::error::Errno;
use crate::event::{Event, Header, SCHEMA_VERSION};
use crate::fs::{Attribution, Hidden, KernelCache};
use crate::mount::Problem;
use crate::render::report;
use crate::render::table::{self, Layout, Style};
use crate::render::text::Text;
use crate::sys::{self, terminal};
use crate::trace::reader::{Item, Reader};
use crate::trace::store::Store;
use crate::trace::{self, CaptureFilter, Config, Formatter, Pace, Recorder, Summary};

/// Where the trace goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Among the kept traces of the user.
    Store,
    /// An absolute path.
    File(PathBuf),
    /// Standard output.
    Stdout,
}

/// The form of the trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One JSON object a line.
    Jsonl,
    /// For eyes.
    Text,
}

/// What to record, and where to.
#[derive(Clone, Debug)]
pub struct Recording {
    /// Where the trace goes.
    pub target: Target,
    /// Its form.
    pub form: Form,
    /// Each operation to stderr as well.
    pub live: bool,
    /// Which operations.
    pub filter: CaptureFilter,
    /// Bytes at which recording stops.
    pub limit: Option<u64>,
    /// The table at the end.
    pub table: bool,
    /// The program and its arguments (`run`).
    pub cmd: Option<Vec<String>>,
    /// What no request tells, found out at start.
    pub invisible: Vec<String>,
    /// What works differently here.
    pub limits: Vec<String>,
    /// What is to be found out about each caller.
    pub attribution: Attribution,
}

pub(super) struct Started {
    pub(super) recorder: Arc<Recorder>,
    pub(super) path: Option<PathBuf>,
    /// The trace, where it is a file.
    pub(super) id: Option<Hidden>,
    pub(super) tally: Tally,
}

/// The account for the table at the end, kept while recording.
#[derive(Clone, Debug, Default)]
pub struct Tally(Option<Arc<Mutex<Account>>>);

impl Tally {
    /// The table, or what went wrong with the trace where no table was asked for.
    #[must_use]
    pub fn table(&self, summary: &Summary, trace: Option<&Path>) -> String {
        let mut text = String::new();
        if let Some(account) = &self.0 {
            let account = account.lock().unwrap_or_else(PoisonError::into_inner);
            text = table::render(&account, layout());
            text.push_str(&what_stands_out(trace));
            text.push_str(&table::notes(&account, trace));
        }
        if !summary.footer {
            text.push_str("iolens: the end of the trace could not be written\n");
        }
        text
    }

    fn wrap(&self, mut inner: Formatter) -> Formatter {
        let Some(account) = self.0.clone() else {
            return inner;
        };
        Box::new(move |event: &Event, out: &mut Vec<u8>| {
            account
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(event);
            inner(event, out);
        })
    }
}

/// Longer traces are for `iolens report`: reading one again takes a second for each 150 MB.
const READ_AGAIN_MAX: u64 = 64 << 20;

/// Findings at the end of a run.
const FINDINGS: usize = 3;

/// The findings of a trace that was just written, where it is a file and not too long.
fn what_stands_out(trace: Option<&Path>) -> String {
    let short = |path: &&Path| {
        let length = std::fs::metadata(path).map(|metadata| metadata.len());
        length.is_ok_and(|length| length <= READ_AGAIN_MAX)
    };
    let Some(Ok(reader)) = trace.filter(short).map(Reader::open) else {
        return String::new();
    };
    let mut reporter = Reporter::default();
    for item in reader {
        match item {
            Ok(Item::Event(_, event)) => reporter.push(event),
            Ok(Item::End(_)) | Err(_) => break,
        }
    }
    report::brief(&reporter.finish(), layout(), FINDINGS)
}

fn layout() -> Layout {
    let stderr = io::stderr();
    Layout {
        width: terminal::columns(&stderr),
        style: Style::of(terminal::shows_colours(&stderr)),
    }
}

pub(super) fn start(
    recording: Recording,
    view: &ViewConfig,
    over_rings: bool,
) -> Result<Started, Problem> {
    kernel::check(&kernel::release())?;
    let (file, path) = open(&recording.target, recording.form)?;
    let metadata = file.metadata().ok().filter(std::fs::Metadata::is_file);
    let id = metadata.map(|metadata| Hidden {
        number: (metadata.dev(), metadata.ino()),
        name: path
            .as_deref()
            .and_then(Path::file_name)
            .unwrap_or_default()
            .to_owned(),
    });
    let tally = Tally(recording.table.then(Arc::default));
    let mut config = Config::new(header(&recording, view, over_rings), trace::for_file(file));
    config.format = tally.wrap(match recording.form {
        Form::Jsonl => trace::jsonl(),
        Form::Text => Text::local().into_formatter(),
    });
    if recording.target == Target::Stdout {
        config.pace = Pace::Prompt;
    }
    if recording.live {
        let stderr = duplicate(&io::stderr())?;
        config.live = Some((trace::for_file(stderr), Text::local().into_formatter()));
        config.pace = Pace::Prompt;
    }
    config.filter = recording.filter;
    config.limit = recording.limit;
    config.at_start = sys::work_in_background;
    let recorder = Recorder::start(config)
        .map_err(|error| Problem::new(format!("cannot start recording: {}", Errno::from(error))))?;
    Ok(Started {
        recorder,
        path,
        id,
        tally,
    })
}

fn open(target: &Target, form: Form) -> Result<(File, Option<PathBuf>), Problem> {
    match target {
        Target::Stdout => Ok((duplicate(&io::stdout())?, None)),
        Target::File(path) => {
            let file = trace::create_file(path).map_err(|error| explain(path, &error))?;
            // A pipe or a text cannot be read again, and `iolens log` should not be pointed at it.
            if form == Form::Text || !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
                return Ok((file, None));
            }
            // Only so that `iolens log` finds it unnamed: no home directory is no reason to fail.
            if let Err(error) = Store::locate().and_then(|store| store.note_latest(path)) {
                log::info!("{error}");
            }
            Ok((file, Some(path.clone())))
        }
        Target::Store => {
            let extension = if form == Form::Jsonl { "jsonl" } else { "txt" };
            let made = Store::locate().and_then(|store| store.create(extension));
            let (path, file) = made.map_err(|error| Problem::new(error.to_string()))?;
            Ok((file, Some(path)))
        }
    }
}

fn explain(path: &Path, error: &io::Error) -> Problem {
    let advice = match error.raw_os_error() {
        Some(libc::ENOENT) => "; the directory must exist",
        Some(libc::EISDIR) => "; name a file in it",
        Some(libc::EACCES | libc::EROFS) => "; choose a place where you may write",
        _ => "",
    };
    let why = match error.raw_os_error() {
        Some(raw) => Errno::from_raw(raw).to_string(),
        None => error.to_string(),
    };
    Problem::new(format!(
        "cannot write the trace {}: {why}{advice}",
        path.display()
    ))
}

fn duplicate(stream: &impl AsFd) -> Result<File, Problem> {
    let owned = stream.as_fd().try_clone_to_owned();
    owned.map(File::from).map_err(|error| {
        Problem::new(format!(
            "cannot use a standard stream: {}",
            Errno::from(error)
        ))
    })
}

fn header(recording: &Recording, view: &ViewConfig, over_rings: bool) -> Header {
    let release = kernel::release();
    let mut invisible = kernel::invisible(view.kernel_permissions, view.serving.kernel_cache);
    invisible.extend(recording.invisible.iter().cloned());
    let mut limits = kernel::limits(&release);
    limits.extend(recording.limits.iter().cloned());
    let (_, attribution) = recording.attribution.possible();
    Header {
        schema: SCHEMA_VERSION,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        source: view.source_path.to_string_lossy().into_owned(),
        mountpoint: view.mountpoint.to_string_lossy().into_owned(),
        kernel: release,
        transport: if over_rings { "uring" } else { "dev" }.to_owned(),
        kernel_cache: match view.serving.kernel_cache {
            KernelCache::Off => "off",
            KernelCache::Read => "read",
            KernelCache::WriteBack => "write-back",
        }
        .to_owned(),
        block_size: BLOCK_SIZE as u64,
        cmd: recording.cmd.clone(),
        attribution,
        invisible,
        limits,
        ..buffering(view.buffer.as_ref())
    }
}

/// What the header says of the buffer cache.
fn buffering(options: Option<&buffer::Options>) -> Header {
    let Some(options) = options else {
        return Header {
            policy: "off".to_owned(),
            on_close: "writeback".to_owned(),
            ..Header::default()
        };
    };
    Header {
        policy: match options.policy {
            Policy::WriteBack => "write-back",
            Policy::WriteThrough => "write-through",
        }
        .to_owned(),
        cache_size: options.cache_bytes,
        dirty_limit: options.dirty_limit,
        dirty_age_ns: options.dirty_age.map(|age| age.0),
        on_close: match options.on_close {
            OnClose::Writeback => "writeback",
            OnClose::Keep => "keep",
        }
        .to_owned(),
        ..Header::default()
    }
}

//! A lesson of the document, followed: its commands run, its output compared, its traces read.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use iolens::event::{Event, Op, OpKind, Writeback};
use iolens::trace::reader::{Item, Reader};

use crate::document::{self, Step};
use crate::root;
use crate::support::{IOLENS, Outcome, Running, Scratch, USER};

/// Who follows the lesson.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Student {
    Root,
    Ordinary,
}

/// Facts of the Python that runs, on which sizes depend.
pub(crate) struct Python {
    /// Bytes of a binary file's buffer, with `buffering` left out.
    pub(crate) buffer: u64,
    /// The document was written with such a Python, and such a filesystem.
    documented: bool,
}

/// What a lesson left behind.
pub(crate) struct Lesson {
    pub(crate) python: Python,
    /// The trace of each `iolens run`, in order.
    pub(crate) traces: Vec<Trace>,
    /// What each command printed.
    pub(crate) printed: Vec<String>,
}

/// One trace, in order of arrival.
pub(crate) struct Trace {
    pub(crate) ops: Vec<Op>,
    pub(crate) writebacks: Vec<Writeback>,
}

/// Between what commands print.
const SEPARATOR: char = '\u{1e}';

impl Lesson {
    /// Follows the section of this title as root.
    pub(crate) fn follow(title: &str) -> Lesson {
        Lesson::follow_as(title, Student::Root)
    }

    pub(crate) fn follow_as(title: &str, student: Student) -> Lesson {
        let steps = document::steps(document::section(title));
        let scratch = Scratch::new();
        prepare(&scratch);
        let outcome = run(&scratch, &script(&scratch, &steps), student);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        let mut printed = outcome.stdout.split(SEPARATOR).map(str::to_owned);
        let python = Python::parse(&printed.next().unwrap());
        let printed: Vec<String> = printed.take(steps.len()).collect();
        if python.documented {
            for (step, printed) in steps.iter().zip(&printed) {
                let differs = document::difference(&step.shown, printed);
                assert!(
                    differs.is_none(),
                    "{}\n{}\nThe run printed:\n{printed}",
                    step.command,
                    differs.unwrap()
                );
            }
        } else {
            eprintln!("this Python or filesystem has other buffers: {title} is not compared");
        }
        let runs = steps.iter().filter(|step| is_run(&step.command)).count();
        let traces = (0..runs).map(|n| Trace::read(&scratch.path(&format!("state/{n}.jsonl"))));
        Lesson {
            python,
            traces: traces.collect(),
            printed,
        }
    }

    /// The only trace.
    pub(crate) fn trace(&self) -> &Trace {
        assert_eq!(self.traces.len(), 1);
        &self.traces[0]
    }
}

fn is_run(command: &str) -> bool {
    command.contains("iolens run ")
}

/// SOURCE belongs to the ordinary user, and the examples are where everybody may read them.
fn prepare(scratch: &Scratch) {
    fs::remove_file(scratch.source.join("a")).unwrap();
    chown(&scratch.source, Some(USER), Some(USER)).unwrap();
    copy(&root().join("examples"), &scratch.path("examples"));
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    fs::set_permissions(to, Permissions::from_mode(0o755)).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), &to).unwrap();
            fs::set_permissions(&to, Permissions::from_mode(0o644)).unwrap();
        }
    }
}

/// The commands as they stand, a separator behind each; each trace is audited and kept.
fn script(scratch: &Scratch, steps: &[Step]) -> String {
    let examples = scratch.path("examples");
    let examples = examples.to_str().unwrap();
    let mut script = format!("set -e\nPATH=\"$(dirname \"$IOLENS\"):$PATH\"\n{PROBE}\n");
    let mut runs = 0;
    for step in steps {
        let command = step.command.replace("../../../examples", examples);
        let command = command.replace("../../examples", examples);
        script += &format!("printf '\\036'\n{command}\n");
        if is_run(&command) {
            script += "iolens audit > \"$XDG_STATE_HOME/audit\" || { cat \"$XDG_STATE_HOME/audit\"; exit 9; }\n";
            script +=
                &format!("cp \"$XDG_STATE_HOME/iolens/latest\" \"$XDG_STATE_HOME/{runs}.jsonl\"\n");
            runs += 1;
        }
    }
    script
}

fn run(scratch: &Scratch, script: &str, student: Student) -> Outcome {
    if student == Student::Ordinary {
        let user = USER.to_string();
        let ids = [format!("--reuid={user}"), format!("--regid={user}")];
        return scratch.as_user(&[&ids[0], &ids[1], "--clear-groups"], script);
    }
    let mut command = Command::new("sh");
    command
        .args(["-c", script])
        .current_dir(&scratch.source)
        .env("IOLENS", IOLENS)
        .env("XDG_STATE_HOME", scratch.path("state"))
        .env_remove("IOLENS_LOG");
    Running::start(&mut command).finish()
}

/// Prints what `Python::parse` reads.
const PROBE: &str = "python3 -c 'import io, os, sys; \
    print(*sys.version_info[:2], io.DEFAULT_BUFFER_SIZE, os.stat(\".\").st_blksize)'";

impl Python {
    fn parse(printed: &str) -> Python {
        let mut numbers = printed
            .split_whitespace()
            .map(|n| n.parse::<u64>().unwrap());
        let mut next = || numbers.next().unwrap();
        let (version, default, block) = ((next(), next()), next(), next());
        // Modules/_io/_iomodule.c, _io_open_impl().
        let buffer = match version {
            (3, ..=13) if block > 1 => block,
            (3, ..=13) => default,
            _ => default.max(block.min(8 << 20)),
        };
        Python {
            buffer,
            documented: (default, block) == (8192, 4096),
        }
    }
}

impl Trace {
    fn read(path: &Path) -> Trace {
        let (mut ops, mut writebacks) = (Vec::new(), Vec::new());
        for item in Reader::open(path).unwrap() {
            match item.unwrap() {
                Item::Event(_, Event::Op(op)) => ops.push(*op),
                Item::Event(_, Event::Writeback(writeback)) => writebacks.push(*writeback),
                _ => {}
            }
        }
        ops.sort_by_key(|op| op.seq);
        writebacks.sort_by_key(|writeback| writeback.seq);
        Trace { ops, writebacks }
    }

    /// The operations on a file.
    pub(crate) fn on(&self, path: &str) -> Vec<&Op> {
        let on = |op: &&Op| op.path.as_deref() == Some(path);
        self.ops.iter().filter(on).collect()
    }

    /// Those of one kind.
    pub(crate) fn of(&self, path: &str, kind: OpKind) -> Vec<&Op> {
        let mut ops = self.on(path);
        ops.retain(|op| op.op == kind);
        ops
    }

    /// What the program did with an open file, in order: what it asked about names and attributes is left out,
    /// and the release, which comes when the kernel likes.
    pub(crate) fn acts(&self, path: &str) -> Vec<OpKind> {
        use OpKind::{Create, Flush, Fsync, Open, Read, Write};
        let kinds = self.on(path).into_iter().map(|op| op.op);
        kinds
            .filter(|kind| [Create, Open, Read, Write, Fsync, Flush].contains(kind))
            .collect()
    }

    /// Bytes of each read or write that worked.
    pub(crate) fn sizes(&self, path: &str, kind: OpKind) -> Vec<u64> {
        let ops = self.of(path, kind);
        ops.iter().filter_map(|op| op.ret).collect()
    }

    /// Bytes that reached SOURCE.
    pub(crate) fn written_back(&self, path: &str) -> u64 {
        let of = |w: &&Writeback| w.path.path.as_deref() == Some(path);
        self.writebacks
            .iter()
            .filter(of)
            .filter_map(|w| w.ret)
            .sum()
    }
}

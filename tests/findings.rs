//! What stands out in real programs: each rule with a program that provokes it and the same program as it should be,
//! of which nothing stands out. The rules themselves are tested in `src/analysis/report/tests.rs`.

#![allow(clippy::unwrap_used)] // A test that cannot go on has failed.
#![allow(dead_code)] // The support is shared with tests that use more of it.

#[path = "support/process.rs"]
mod support;

use serde_json::Value;
use support::Scratch;

/// The report of a program of Python, run in a view. It may fail: that is what some do.
fn report(options: &[&str], script: &str) -> Value {
    let scratch = Scratch::new();
    std::fs::write(scratch.source.join("old"), vec![b'o'; 100_000]).unwrap();
    let mut args = vec!["run"];
    args.extend(options);
    args.extend(["--", "timeout", "60", "python3", "-I", "-c", script]);
    scratch.run(&args);
    let audit = scratch.run(&["audit"]);
    assert_eq!(audit.code, 0, "{}", audit.stdout);
    let report = scratch.run(&["report", "--json"]);
    assert_eq!(report.code, 0, "{report:?}");
    serde_json::from_str(&report.stdout).unwrap()
}

fn rules(report: &Value, list: &str) -> Vec<String> {
    let found = report[list].as_array().unwrap().iter();
    let mut rules: Vec<String> = found
        .map(|finding| finding["rule"].as_str().unwrap().to_owned())
        .collect();
    rules.dedup();
    rules
}

/// `bad` is found to be what `rule` says, with evidence, and of `good` nothing is found.
fn stands_out(rule: &str, bad: &str, good: &str) {
    let report_of_bad = report(&[], bad);
    assert_eq!(
        rules(&report_of_bad, "findings"),
        [rule],
        "{report_of_bad:#}"
    );
    let finding = &report_of_bad["findings"][0];
    for text in ["path", "what", "why", "remedy", "comm"] {
        assert!(!finding[text].as_str().unwrap().is_empty(), "{finding}");
    }
    let [first, last] = [0, 1].map(|end| finding["seq"][end].as_u64().unwrap());
    assert!(0 < first && first <= last, "{finding}");
    assert!(finding["calls"].as_u64().unwrap() > 0, "{finding}");
    let report_of_good = report(&[], good);
    let none: [&str; 0] = [];
    assert_eq!(
        rules(&report_of_good, "findings"),
        none,
        "{report_of_good:#}"
    );
}

#[test]
fn tiny_writes() {
    stands_out(
        "tiny_writes",
        "with open('f', 'wb', buffering=0) as f:\n for _ in range(1000): f.write(b'a line\\n')",
        "with open('f', 'wb') as f:\n for _ in range(1000): f.write(b'a line\\n')",
    );
}

#[test]
fn tiny_reads() {
    stands_out(
        "tiny_reads",
        "f = open('old', 'rb', buffering=0)\nfor _ in range(1000): f.read(10)",
        "f = open('old', 'rb')\nfor _ in range(1000): f.read(10)",
    );
}

#[test]
fn sync_after_little() {
    stands_out(
        "sync_after_little",
        "import os
f = os.open('f', os.O_WRONLY | os.O_CREAT)
for _ in range(20): os.write(f, b'x' * 4096); os.fsync(f)
os.close(f)",
        "import os
f = os.open('f', os.O_WRONLY | os.O_CREAT)
for _ in range(20): os.write(f, b'x' * 4096)
os.fsync(f)
os.close(f)",
    );
}

const REPLACED: &str = "import os
f = os.open('new', os.O_WRONLY | os.O_CREAT)
os.write(f, b'new')
SYNC
os.close(f)
os.rename('new', 'old')
DIRECTORY";

const SYNC: &str = "os.fsync(f)";
const DIRECTORY: &str = "d = os.open('.', os.O_RDONLY); os.fsync(d); os.close(d)";

fn replaced(sync: &str, directory: &str) -> String {
    REPLACED
        .replace("SYNC", sync)
        .replace("DIRECTORY", directory)
}

#[test]
fn renamed_without_sync() {
    let good = replaced(SYNC, DIRECTORY);
    stands_out("renamed_without_sync", &replaced("", ""), &good);
}

#[test]
fn directory_not_synced() {
    let good = replaced(SYNC, DIRECTORY);
    stands_out("directory_not_synced", &replaced(SYNC, ""), &good);
}

#[test]
fn closed_unsynced() {
    stands_out(
        "closed_unsynced",
        "import os
with open('f', 'w') as f:
 f.write('head'); f.flush(); os.fsync(f.fileno())
 f.write('tail')",
        "import os
with open('f', 'w') as f:
 f.write('head'); f.write('tail')
 f.flush(); os.fsync(f.fileno())",
    );
}

#[test]
fn overwritten_in_place() {
    stands_out(
        "overwritten_in_place",
        "text = open('old').read()
with open('old', 'w') as f: f.write(text.upper())",
        "import os
text = open('old').read()
f = open('new', 'w')
f.write(text.upper()); f.flush(); os.fsync(f.fileno()); f.close()
os.replace('new', 'old')
d = os.open('.', os.O_RDONLY); os.fsync(d); os.close(d)",
    );
}

#[test]
fn overwritten_at_once() {
    stands_out(
        "overwritten_at_once",
        "import os
f = os.open('f', os.O_WRONLY | os.O_CREAT)
for _ in range(5): os.pwrite(f, b'x' * 65536, 0)
os.close(f)",
        "import os
f = os.open('f', os.O_WRONLY | os.O_CREAT)
for n in range(5): os.pwrite(f, b'x' * 65536, n * 65536)
os.close(f)",
    );
}

#[test]
fn read_what_it_wrote() {
    stands_out(
        "read_what_it_wrote",
        "import os
f = os.open('f', os.O_RDWR | os.O_CREAT)
os.write(f, b'x' * 200000)
os.pread(f, 200000, 0)
os.close(f)",
        "import os
f = os.open('f', os.O_RDWR | os.O_CREAT)
os.write(f, b'x' * 200000)
os.pread(f, 10, 0)
os.close(f)",
    );
}

#[test]
fn read_at_once() {
    stands_out(
        "read_at_once",
        "import os; os.truncate(os.open('f', os.O_RDWR | os.O_CREAT), 80 << 20); open('f', 'rb').read()",
        "import os; os.truncate(os.open('f', os.O_RDWR | os.O_CREAT), 80 << 20)
with open('f', 'rb') as f:
 while f.read(1 << 20): pass",
    );
}

#[test]
fn read_again_and_again() {
    stands_out(
        "read_again_and_again",
        "for _ in range(3): open('old', 'rb').read()",
        "for _ in range(1): open('old', 'rb').read()",
    );
}

#[test]
fn opened_again_and_again() {
    stands_out(
        "opened_again_and_again",
        "for _ in range(30):\n with open('log', 'a') as f: f.write('line\\n')",
        "with open('log', 'a') as f:\n for _ in range(30): f.write('line\\n')",
    );
}

#[test]
fn left_open() {
    stands_out(
        "left_open",
        "import os\nf = open('f', 'wb', buffering=0)\nf.write(b'x')\nos._exit(0)",
        "import os\nwith open('f', 'wb', buffering=0) as f: f.write(b'x')\nos._exit(0)",
    );
}

#[test]
fn descriptors_left() {
    stands_out(
        "descriptors_left",
        "import os\nleft = [os.open('old', os.O_RDONLY) for _ in range(19)]\nos._exit(0)",
        "import os\nfor _ in range(19): os.close(os.open('old', os.O_RDONLY))\nos._exit(0)",
    );
}

/// A file object in a reference cycle is closed when the collector comes by.
#[test]
fn closed_late() {
    let program = "import gc, os
gc.disable()
class Writer: pass
w = Writer(); w.me = w
w.file = open('f', 'wb', buffering=0)
w.file.write(b'x' * 1000)
CLOSE
del w
for n in range(40):
 f = os.open(f'other{n}', os.O_RDWR | os.O_CREAT)
 for _ in range(5): os.pread(f, 10, 0)
 os.close(f)
gc.collect()";
    stands_out(
        "closed_late",
        &program.replace("CLOSE", ""),
        &program.replace("CLOSE", "w.file.close()"),
    );
}

#[test]
fn append_and_seek() {
    stands_out(
        "append_and_seek",
        "with open('old', 'rb+', buffering=0) as f: f.read(10); f.write(b'in the middle')
with open('old', 'ab+', buffering=0) as f: f.seek(0); f.read(10); f.write(b'at the end')",
        "with open('old', 'rb+', buffering=0) as f: f.read(10); f.write(b'in the middle')
with open('old', 'ab+', buffering=0) as f: f.write(b'at the end')",
    );
}

/// On a filesystem of 1 MiB, where each write tells at once.
fn on_a_small_filesystem(script: &str) -> Value {
    let scratch = Scratch::new();
    std::fs::write(scratch.path("state/p.py"), script).unwrap();
    const SCRIPT: &str = r#"
        set -e
        state=$(cd ../state && pwd)
        mount -t tmpfs -o size=1m none ../source
        cd ../source
        "$IOLENS" run --policy write-through -t "$state/t.jsonl" -- timeout 60 python3 -I "$state/p.py" > "$state/out" 2>&1 || cat "$state/out" >&2
        "$IOLENS" report --json "$state/t.jsonl"
    "#;
    let outcome = scratch.as_user(&["--reuid=root"], SCRIPT);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    serde_json::from_str(&outcome.stdout).unwrap()
}

#[test]
fn error_and_short_write_ignored() {
    let full = "import os
f = os.open('f', os.O_WRONLY | os.O_CREAT)
for n in range(30):
 try: WRITE
 except OSError: ERROR
os.close(f)";
    let ignores = full
        .replace("WRITE", "os.write(f, b'x' * 100000)")
        .replace("ERROR", "os.truncate(f, n * 1000)");
    let found = rules(&on_a_small_filesystem(&ignores), "findings");
    assert_eq!(found, ["short_ignored", "error_ignored"]);
    let stops = full
        .replace(
            "WRITE",
            "rest = b'x' * 100000\n  while rest: rest = rest[os.write(f, rest):]",
        )
        .replace("ERROR", "break");
    let none: [&str; 0] = [];
    assert_eq!(rules(&on_a_small_filesystem(&stops), "findings"), none);
}

#[test]
fn the_programs_own_buffer_and_chunks_are_noted() {
    let report = report(
        &[],
        "with open('f', 'w') as f:
 for _ in range(1000): f.write('a line\\n' * 3)
open('old', 'rb').read()",
    );
    assert_eq!(rules(&report, "notes"), ["own_buffer", "whole_or_chunks"]);
    let note = report["notes"][0]["what"].as_str().unwrap();
    assert!(note.contains("a buffer of 8192 bytes"), "{note}");
}

/// The report says what the trace says, and what the audit has counted.
#[test]
fn the_report_agrees_with_the_trace_and_the_audit() {
    let scratch = Scratch::new();
    let script = "import os
for n in range(30):
 with open(f'f{n % 7}', 'w') as f: f.write('x' * (n * 997))
 open(f'f{n % 7}').read(n)
 if n % 5 == 0: os.unlink(f'f{n % 7}')
try: open('missing')
except OSError: pass
";
    let run = scratch.run(&["run", "--", "timeout", "60", "python3", "-I", "-c", script]);
    assert_eq!(run.code, 0, "{run:?}");
    let audit = scratch.run(&["audit"]);
    assert_eq!(audit.code, 0, "{audit:?}");
    let report: Value = serde_json::from_str(&scratch.run(&["report", "--json"]).stdout).unwrap();
    let figures = &report["summary"]["figures"];
    let counted = format!("{} operations", figures["ops"]);
    assert!(
        audit.stdout.contains(&counted),
        "{counted}: {}",
        audit.stdout
    );
    let trace = scratch.trace();
    let events: Vec<Value> = trace
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let sum = |op: &str, field: &str| -> u64 {
        let all = events.iter().filter(|event| event["op"] == op);
        all.map(|event| event[field].as_u64().unwrap_or(0)).sum()
    };
    assert_eq!(figures["writes"]["bytes"], sum("write", "ret"));
    assert_eq!(figures["reads"]["bytes"], sum("read", "ret"));
    let of = |kind: &str, field: &str| -> u64 {
        let all = events.iter().filter(|event| event["kind"] == kind);
        all.map(|event| event[field].as_u64().unwrap_or(0)).sum()
    };
    let cache = &figures["cache"];
    assert_eq!(cache["written_back"], of("writeback", "ret"));
    assert_eq!(cache["discarded"], of("discard", "size"));
    assert_eq!(cache["buffered"], figures["writes"]["bytes"]);
}

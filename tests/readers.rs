//! What reads traces, given traces that nobody should have written: a real one, changed here and there.

#![allow(clippy::unwrap_used)] // A test that cannot go on has failed.

#[path = "../fuzz/every_reader.rs"]
mod every_reader;

use every_reader::{FORGED, read_in_every_way};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Value, json};

/// Every kind of event, of a program that does a little of everything.
const TRACE: &str = include_str!("fixtures/trace.jsonl");

/// Values that stand where they do not belong.
fn strange() -> impl Strategy<Value = Value> {
    let values = [
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(i64::MIN),
        json!(u64::MAX),
        json!(1e308),
        json!(""),
        json!("\u{1b}]0;title\u{7}\u{1b}[2J\u{9b}31m\r\n"),
        json!("../../etc/passwd"),
        json!(format!("x\n{FORGED}\ny")),
        json!("\u{202e}\u{0}"),
        json!("x".repeat(70_000)),
        json!([]),
        json!([[[[]]]]),
        json!({}),
        json!({"b64": "/w=="}),
        json!({"b64": "no base64"}),
        json!({"b64": "G1sybQ=="}),
    ];
    select(values.to_vec())
}

/// One change of one line.
#[derive(Clone, Debug)]
enum Change {
    Put(Index, Index, Value),
    /// A number that is one less or more, or far away.
    Shift(Index, Index, i64),
    Take(Index, Index),
    Drop(Index),
    Repeat(Index, Index),
    Swap(Index, Index),
    Cut(Index),
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<Index>;
    prop_oneof![
        4 => (at(), at(), strange()).prop_map(|(line, key, value)| Change::Put(line, key, value)),
        4 => (at(), at(), select(vec![1, -1, 4096, 1 << 40, i64::MAX]))
            .prop_map(|(line, key, by)| Change::Shift(line, key, by)),
        2 => (at(), at()).prop_map(|(line, key)| Change::Take(line, key)),
        1 => at().prop_map(Change::Drop),
        1 => (at(), at()).prop_map(|(line, to)| Change::Repeat(line, to)),
        1 => (at(), at()).prop_map(|(line, with)| Change::Swap(line, with)),
        1 => at().prop_map(Change::Cut),
    ]
}

/// All places within a value that hold something, as JSON pointers.
fn places(value: &Value, at: &str, out: &mut Vec<String>) {
    let mut child = |key: String, value: &Value| {
        let place = format!("{at}/{key}");
        out.push(place.clone());
        places(value, &place, out);
    };
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                child(key.replace('~', "~0").replace('/', "~1"), value);
            }
        }
        Value::Array(items) => {
            for (n, value) in items.iter().enumerate() {
                child(n.to_string(), value);
            }
        }
        _ => {}
    }
}

/// Changes one place of a line; one that is no JSON any more stays as it is.
fn edit(line: &mut String, key: &Index, with: impl FnOnce(&mut Value, &str)) {
    let Ok(mut value) = serde_json::from_str::<Value>(line) else {
        return;
    };
    let mut all = Vec::new();
    places(&value, "", &mut all);
    if !all.is_empty() {
        let place = key.get(&all).clone();
        with(&mut value, &place);
        *line = value.to_string();
    }
}

impl Change {
    fn apply(&self, lines: &mut Vec<String>) {
        if lines.is_empty() {
            return;
        }
        let count = lines.len();
        match self {
            Change::Put(line, key, value) => edit(&mut lines[line.index(count)], key, |all, at| {
                *all.pointer_mut(at).unwrap() = value.clone();
            }),
            Change::Shift(line, key, by) => edit(&mut lines[line.index(count)], key, |all, at| {
                let value = all.pointer_mut(at).unwrap();
                if let Some(number) = value.as_u64() {
                    *value = json!(number.wrapping_add_signed(*by));
                }
            }),
            Change::Take(line, key) => edit(&mut lines[line.index(count)], key, |all, at| {
                let (parent, key) = at.rsplit_once('/').unwrap();
                if let Some(Value::Object(fields)) = all.pointer_mut(parent) {
                    fields.remove(key);
                }
            }),
            Change::Drop(line) => drop(lines.remove(line.index(count))),
            Change::Repeat(line, to) => {
                let line = lines[line.index(count)].clone();
                lines.insert(to.index(count), line);
            }
            Change::Swap(line, with) => lines.swap(line.index(count), with.index(count)),
            Change::Cut(line) => {
                let line = &mut lines[line.index(count)];
                let half = (0..=line.len() / 2)
                    .rev()
                    .find(|at| line.is_char_boundary(*at));
                line.truncate(half.unwrap_or(0));
            }
        }
    }
}

#[test]
fn a_real_trace_is_read_without_complaint() {
    read_in_every_way(TRACE.as_bytes());
    for kind in ["op", "writeback", "evict", "discard", "footer"] {
        assert!(
            TRACE.contains(&format!("{{\"kind\":\"{kind}\"")),
            "no {kind}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn no_changed_trace_makes_a_reader_panic_or_reach_the_terminal(
        changes in proptest::collection::vec(change(), 1..6),
    ) {
        let mut lines: Vec<String> = TRACE.lines().map(str::to_owned).collect();
        for change in &changes {
            change.apply(&mut lines);
        }
        read_in_every_way(lines.join("\n").as_bytes());
    }

    #[test]
    fn no_changed_bytes_do_either(
        bytes in proptest::collection::vec((any::<Index>(), any::<u8>()), 1..8),
        cut in any::<Index>(),
    ) {
        let mut trace = TRACE.as_bytes().to_vec();
        for (at, byte) in bytes {
            let at = at.index(trace.len());
            trace[at] = byte;
        }
        trace.truncate(cut.index(trace.len() * 4));
        read_in_every_way(&trace);
    }
}

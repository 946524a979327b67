//! `docs/TRACE.md` and the code say the same: every field that is written is documented, every documented
//! field is written, and the example lines are traces.

use std::collections::BTreeSet;

use iolens::event::{
    ByteText, CacheDid, Cause, Discard, Event, Evict, Footer, Header, Lost, Op, OpKind, OwnCause,
    Reason, Resume, SetAttrs, Writeback,
};
use iolens::types::{Fh, Ino, Nanos, Pid, Seq, Tid};
use serde_json::Value;

const DOC: &str = include_str!("../docs/TRACE.md");

/// The part of the page under `### kind`.
fn section(kind: &str) -> &'static str {
    let start = DOC.find(&format!("\n### {kind}\n")).expect(kind) + 1;
    let rest = &DOC[start..];
    let end = rest[1..].find("\n#").map_or(rest.len(), |at| at + 1);
    let next = rest[3..].find("\n### ").map_or(rest.len(), |at| at + 3);
    let chapter = rest[3..].find("\n## ").map_or(rest.len(), |at| at + 3);
    assert!(end <= next);
    &rest[..next.min(chapter)]
}

/// The first words in backticks of table rows.
fn documented(kind: &str) -> BTreeSet<String> {
    let rows = section(kind)
        .lines()
        .filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| row.split('`').next())
        .map(str::to_owned)
        .collect()
}

fn keys(event: &Event) -> BTreeSet<String> {
    let Ok(Value::Object(object)) = serde_json::to_value(event) else {
        panic!("{event:?}")
    };
    object
        .keys()
        .filter(|key| *key != "kind")
        .cloned()
        .collect()
}

/// Not UTF-8, so that the exact bytes are written too.
fn bytes() -> &'static std::ffi::OsStr {
    use std::os::unix::ffi::OsStrExt;
    std::ffi::OsStr::from_bytes(b"a\xff")
}

fn every_did() -> Vec<CacheDid> {
    let reason = Reason::Policy;
    vec![
        CacheDid::Buffered {
            offset: 1,
            size: 1,
            overwrote: 1,
        },
        CacheDid::WriteThrough { size: 1, reason },
        CacheDid::Hit {
            size: 1,
            dirty: 1,
            readahead: 1,
        },
        CacheDid::Miss { size: 1 },
        CacheDid::Hole { size: 1 },
        CacheDid::Bypass { size: 1, reason },
        CacheDid::Readahead { size: 1 },
        CacheDid::Writeback {
            size: 1,
            runs: 1,
            reason,
        },
        CacheDid::Discard { size: 1, reason },
        CacheDid::Invalidate { size: 1, reason },
        CacheDid::Wait { ns: 1, reason },
    ]
}

/// An operation with every field. Written as one literal, so that a new field does not compile
/// before it is here.
fn full_op() -> Op {
    let text = || Some("x".into());
    Op {
        seq: Seq(1),
        ts_ns: Nanos(1),
        dur_ns: Nanos(1),
        op: OpKind::Write,
        ino: Some(Ino(1)),
        path: text(),
        path_b64: text(),
        unlinked: true,
        fh: Some(Fh(1)),
        fd: Some(1),
        syscall: Some("write".into()),
        call: Some(1),
        call_size: Some(1),
        pid: Some(Pid(1)),
        tid: Some(Tid(1)),
        comm: text(),
        uid: Some(1),
        gid: Some(1),
        caller: iolens::event::Caller::Request,
        offset: Some(1),
        size: Some(1),
        ret: Some(1),
        errno: Some("EIO".into()),
        flags: vec!["O_SYNC".into()],
        datasync: true,
        mode: Some(1),
        to: text(),
        to_b64: text(),
        name: text(),
        target: text(),
        target_b64: text(),
        fh_out: Some(Fh(2)),
        path_out: text(),
        offset_out: Some(1),
        set: Some(Box::new(full_set())),
        file_size: Some(1),
        entries: Some(1),
        mapped: true,
        page_cache: true,
        pos: Some(1),
        seek_from: Some(1),
        cache: every_did(),
        dirty: Some(1),
    }
}

fn full_set() -> SetAttrs {
    SetAttrs {
        size: Some(1),
        mode: Some(1),
        uid: Some(1),
        gid: Some(1),
        atime: Some(1),
        mtime: Some(1),
    }
}

fn full_header() -> Header {
    Header {
        schema: 1,
        version: "0".into(),
        source: "/s".into(),
        mountpoint: "/s".into(),
        kernel: "6".into(),
        transport: "dev".into(),
        kernel_cache: "off".into(),
        policy: "off".into(),
        cache_size: 0,
        dirty_limit: 0,
        dirty_age_ns: Some(1),
        on_close: "keep".into(),
        block_size: 4096,
        start_ns: Nanos(1),
        cmd: Some(vec!["true".into()]),
        attribution: "full".into(),
        invisible: vec!["x".into()],
        limits: vec!["x".into()],
        filters: vec!["x".into()],
    }
}

fn full_writeback() -> Writeback {
    Writeback {
        seq: Seq(1),
        ts_ns: Nanos(1),
        dur_ns: Nanos(1),
        ino: 1,
        path: ByteText::new(bytes()),
        offset: 0,
        size: 1,
        ret: Some(1),
        errno: Some("EIO".into()),
        blocks: 1,
        reason: Reason::Age,
        cause: Cause::Own(OwnCause::Timer),
        writes: 1,
        first_seq: Seq(1),
        last_seq: Seq(1),
        age_ns: Nanos(1),
        conflict: true,
    }
}

/// One event of each kind, with every field.
fn full_events() -> Vec<(&'static str, Event)> {
    let (seq, ts_ns, ino, reason) = (Seq(1), Nanos(1), 1, Reason::Memory);
    let path = ByteText::new(bytes());
    let cause = Cause::Op(Seq(1));
    let evict = Evict {
        seq,
        ts_ns,
        ino,
        path: path.clone(),
        blocks: 1,
        reason,
    };
    let discard = Discard {
        seq,
        ts_ns,
        ino,
        path,
        offset: 0,
        size: 1,
        reason,
        cause,
    };
    let footer = Footer {
        ops: 1,
        events: 1,
        lost: 0,
        dirty_bytes: 0,
        write_errors: 0,
        abandoned: false,
        end_ns: ts_ns,
        exit: 0,
        cmd_exit: Some(0),
    };
    vec![
        ("header", Event::Header(Box::new(full_header()))),
        ("op", Event::Op(Box::new(full_op()))),
        ("writeback", Event::Writeback(Box::new(full_writeback()))),
        ("evict", Event::Evict(Box::new(evict))),
        ("discard", Event::Discard(Box::new(discard))),
        (
            "lost",
            Event::Lost(Lost {
                seq,
                ts_ns,
                count: 1,
            }),
        ),
        (
            "resume",
            Event::Resume(Resume {
                seq,
                ts_ns,
                reason: "x".into(),
            }),
        ),
        ("footer", Event::Footer(Box::new(footer))),
    ]
}

#[test]
fn every_field_is_documented_and_every_documented_field_exists() {
    for (kind, event) in full_events() {
        let mut documented = documented(kind);
        if kind == "op" {
            // The tables of `set` and `cache` have tests of their own.
            documented.retain(|key| !key.contains('.'));
            for did in every_did() {
                let name = serde_json::to_value(did).unwrap()["did"]
                    .as_str()
                    .unwrap()
                    .to_owned();
                documented.remove(&name);
            }
            documented.remove("did");
        }
        assert_eq!(keys(&event), documented, "fields of {kind}");
    }
}

#[test]
fn the_parts_of_an_operation_are_documented_both_ways() {
    let documented = documented("op");
    let below = |prefix: &str| -> BTreeSet<String> {
        documented
            .iter()
            .filter_map(|key| key.strip_prefix(prefix))
            .map(str::to_owned)
            .collect()
    };
    let object_keys = |value: &Value| -> BTreeSet<String> {
        value.as_object().unwrap().keys().cloned().collect()
    };
    let set = serde_json::to_value(full_set()).unwrap();
    assert_eq!(object_keys(&set), below("set."));
    let mut all = BTreeSet::new();
    for did in every_did() {
        let value = serde_json::to_value(did).unwrap();
        let mut fields = object_keys(&value);
        all.append(&mut fields.clone());
        fields.remove("did");
        let name = value["did"].as_str().unwrap();
        let row = section("op")
            .lines()
            .find(|line| line.starts_with(&format!("| `{name}` | `")));
        let cell = row.expect(name).split('|').nth(2).unwrap();
        let said: BTreeSet<String> = cell
            .split('`')
            .skip(1)
            .step_by(2)
            .map(str::to_owned)
            .collect();
        assert_eq!(fields, said, "fields of did {name}");
    }
    assert_eq!(all, below("cache."));
}

/// The words in backticks from `begin` to the next full stop.
fn listed(begin: &str) -> BTreeSet<String> {
    let text = &DOC[DOC.find(begin).expect(begin) + begin.len()..];
    let text = &text[..text.find('.').expect("a full stop")];
    text.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_operation_reason_and_cause_is_listed() {
    let ops: BTreeSet<String> = OpKind::ALL.iter().map(|op| op.name().to_owned()).collect();
    assert_eq!(listed("`op` is one of\n"), ops);
    let reasons: BTreeSet<String> = Reason::ALL
        .iter()
        .map(|one| one.name().to_owned())
        .collect();
    assert_eq!(listed("here and below, is one of\n"), reasons);
    for reason in Reason::ALL {
        assert_eq!(serde_json::to_value(reason).unwrap(), reason.name());
    }
    for cause in ["timer", "memory", "sync", "unmount", "signal"] {
        assert!(
            section("writeback").contains(&format!("`\"{cause}\"`")),
            "{cause}"
        );
        serde_json::from_value::<OwnCause>(Value::String(cause.to_owned())).unwrap();
    }
}

#[test]
fn every_example_line_is_one_of_its_kind_and_has_no_unknown_field() {
    for (kind, _) in full_events() {
        let line = section(kind)
            .lines()
            .find(|line| line.starts_with("{\"kind\""))
            .expect(kind);
        let event: Event = serde_json::from_str(line).expect(line);
        let written: Value = serde_json::to_value(&event).unwrap();
        assert_eq!(
            written,
            serde_json::from_str::<Value>(line).unwrap(),
            "{kind}"
        );
        assert_eq!(written["kind"], kind);
    }
}

#[test]
fn every_event_reads_back_as_it_was_written() {
    for (_, event) in full_events() {
        let line = serde_json::to_string(&event).unwrap();
        assert!(!line.contains('\n'));
        assert_eq!(serde_json::from_str::<Event>(&line).unwrap(), event);
    }
}

#[test]
fn hostile_names_keep_to_their_line_and_come_back_exactly() {
    use std::os::unix::ffi::OsStrExt;
    let name = std::ffi::OsStr::from_bytes(b"a\nb\x1b[31m\"\\\xff\xfe");
    let mut op = Op::new(OpKind::Open, Seq(1), Nanos(2));
    op.set_path(ByteText::new(name));
    let line = serde_json::to_string(&Event::Op(Box::new(op))).unwrap();
    assert_eq!(
        line,
        "{\"kind\":\"op\",\"seq\":1,\"ts_ns\":2,\"dur_ns\":0,\"op\":\"open\",\
         \"path\":\"a\\nb\\u001b[31m\\\"\\\\\u{fffd}\u{fffd}\",\"path_b64\":\"YQpiG1szMW0iXP/+\",\
         \"caller\":\"unknown\"}"
    );
    let Event::Op(back) = serde_json::from_str(&line).unwrap() else {
        panic!("{line}")
    };
    let text = ByteText {
        path: back.path,
        path_b64: back.path_b64,
    };
    assert_eq!(text.bytes().unwrap(), name.as_bytes());
}

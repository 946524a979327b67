//! The line of an operation. Operations are nearly all of a trace, and are put down while programs wait for a processor:
//! so their members are written one by one here. What serde makes of an [`Op`] is the measure, byte by byte.

use std::borrow::Cow;
use std::sync::Arc;

use super::{CacheDid, Caller, Op, OpKind, Reason, SetAttrs};
use crate::types::{Fh, Ino, Nanos, Pid, Seq, Tid};

/// Room for the lines of most operations, bytes.
const USUAL: usize = 512;

/// Appends the members of these names, from variables that are called so. An object has another one before them.
macro_rules! members {
    ($out:ident, $($name:ident)*) => {
        $(
            if $name.is_there() {
                $out.extend_from_slice(concat!(",\"", stringify!($name), "\":").as_bytes());
                $name.put($out);
            }
        )*
    };
}

/// The same for all members of a struct, each of which has to be named.
macro_rules! members_of {
    ($out:ident, $whole:ident: $type:ident, $($name:ident)*) => {
        let $type { $($name),* } = $whole;
        members!($out, $($name)*);
    };
}

/// Appends the JSON object of an operation.
pub(super) fn put(op: &Op, out: &mut Vec<u8>) {
    out.reserve(USUAL);
    out.extend_from_slice(br#"{"kind":"op""#);
    members_of!(out, op: Op,
        seq ts_ns dur_ns op ino path path_b64 unlinked fh fd syscall call call_size pid tid comm uid gid caller offset size ret
        errno flags datasync mode to to_b64 name target target_b64 fh_out path_out offset_out set file_size entries mapped
        page_cache pos seek_from cache dirty
    );
    out.push(b'}');
}

/// What stands behind a name.
trait Value {
    /// Whether there is a member for it.
    fn is_there(&self) -> bool {
        true
    }

    fn put(&self, out: &mut Vec<u8>);
}

macro_rules! numbers {
    ($($type:ty)*) => {
        $(
            impl Value for $type {
                fn put(&self, out: &mut Vec<u8>) {
                    out.extend_from_slice(itoa::Buffer::new().format(*self).as_bytes());
                }
            }
        )*
    };
}

numbers!(u64 u32 i32);

macro_rules! ids {
    ($($type:ident)*) => {
        $(
            impl Value for $type {
                fn put(&self, out: &mut Vec<u8>) {
                    self.0.put(out);
                }
            }
        )*
    };
}

ids!(Seq Nanos Ino Fh Pid Tid);

/// Names in which nothing has to be escaped.
macro_rules! words {
    ($($type:ident)*) => {
        $(
            impl Value for $type {
                fn put(&self, out: &mut Vec<u8>) {
                    quote(self.name(), out);
                }
            }
        )*
    };
}

words!(OpKind Caller Reason);

impl Value for str {
    fn put(&self, out: &mut Vec<u8>) {
        let escaped = |byte: u8| byte < b' ' || byte == b'"' || byte == b'\\';
        // Without a way out, so that many bytes are looked at together.
        let any = self.bytes().fold(false, |any, byte| any | escaped(byte));
        if any {
            by_serde(self, out);
        } else {
            quote(self, out);
        }
    }
}

impl Value for Arc<str> {
    fn put(&self, out: &mut Vec<u8>) {
        (**self).put(out);
    }
}

impl Value for Cow<'static, str> {
    fn put(&self, out: &mut Vec<u8>) {
        (**self).put(out);
    }
}

impl Value for bool {
    fn is_there(&self) -> bool {
        *self
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"true");
    }
}

impl<T: Value> Value for Option<T> {
    fn is_there(&self) -> bool {
        self.is_some()
    }

    fn put(&self, out: &mut Vec<u8>) {
        if let Some(value) = self {
            value.put(out);
        }
    }
}

impl<T: Value> Value for Vec<T> {
    fn is_there(&self) -> bool {
        !self.is_empty()
    }

    fn put(&self, out: &mut Vec<u8>) {
        let mut before = b'[';
        for value in self {
            out.push(before);
            value.put(out);
            before = b',';
        }
        out.push(b']');
    }
}

impl Value for Box<SetAttrs> {
    fn put(&self, out: &mut Vec<u8>) {
        by_serde(self, out);
    }
}

impl Value for CacheDid {
    fn put(&self, out: &mut Vec<u8>) {
        macro_rules! did {
            ($name:literal, $($member:ident)*) => {{
                out.extend_from_slice(concat!("{\"did\":\"", $name, "\"").as_bytes());
                members!(out, $($member)*);
            }};
        }
        match self {
            CacheDid::Buffered {
                offset,
                size,
                overwrote,
            } => did!("buffered", offset size overwrote),
            CacheDid::WriteThrough { size, reason } => did!("write_through", size reason),
            CacheDid::Hit {
                size,
                dirty,
                readahead,
            } => did!("hit", size dirty readahead),
            CacheDid::Miss { size } => did!("miss", size),
            CacheDid::Hole { size } => did!("hole", size),
            CacheDid::Bypass { size, reason } => did!("bypass", size reason),
            CacheDid::Readahead { size } => did!("readahead", size),
            CacheDid::Writeback { size, runs, reason } => did!("writeback", size runs reason),
            CacheDid::Discard { size, reason } => did!("discard", size reason),
            CacheDid::Invalidate { size, reason } => did!("invalidate", size reason),
            CacheDid::Wait { ns, reason } => did!("wait", ns reason),
        }
        out.push(b'}');
    }
}

fn quote(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
}

fn by_serde<T: serde::Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) {
    if let Err(error) = serde_json::to_writer(out, value) {
        // Neither text nor plain structs can fail.
        log::error!("a bug in iolens: a member of an event has no JSON form: {error}");
    }
}

#[cfg(test)]
mod tests {
    use proptest::option::of;
    use proptest::prelude::*;

    use super::*;

    fn text() -> impl Strategy<Value = Arc<str>> {
        // Of all kinds of characters, those that are escaped more often.
        "([a-z/.]|[\"\\\\\u{0}-\u{1f}]|\\PC|\u{7f}){0,20}".prop_map(Arc::from)
    }

    fn word() -> impl Strategy<Value = Cow<'static, str>> {
        prop_oneof![
            Just(Cow::Borrowed("pwrite64")),
            text().prop_map(|text| Cow::Owned(text.to_string()))
        ]
    }

    fn number() -> impl Strategy<Value = u64> {
        prop_oneof![0..3_u64, any::<u64>()]
    }

    fn did() -> impl Strategy<Value = CacheDid> {
        let reason = proptest::sample::select(Reason::ALL);
        (0..11, number(), number(), number(), reason).prop_map(|(kind, a, b, c, reason)| {
            let size = a;
            match kind {
                0 => CacheDid::Buffered {
                    offset: a,
                    size: b,
                    overwrote: c,
                },
                1 => CacheDid::WriteThrough { size, reason },
                2 => CacheDid::Hit {
                    size,
                    dirty: b,
                    readahead: c,
                },
                3 => CacheDid::Miss { size },
                4 => CacheDid::Hole { size },
                5 => CacheDid::Bypass { size, reason },
                6 => CacheDid::Readahead { size },
                7 => CacheDid::Writeback {
                    size,
                    runs: b,
                    reason,
                },
                8 => CacheDid::Discard { size, reason },
                9 => CacheDid::Invalidate { size, reason },
                _ => CacheDid::Wait { ns: a, reason },
            }
        })
    }

    fn set() -> impl Strategy<Value = SetAttrs> {
        let words = || of(any::<u32>());
        let times = || of(any::<i64>());
        let members = (of(number()), words(), words(), words(), times(), times());
        members.prop_map(|(size, mode, uid, gid, atime, mtime)| SetAttrs {
            size,
            mode,
            uid,
            gid,
            atime,
            mtime,
        })
    }

    /// Every member: where there is a new one, this does not compile.
    fn op() -> impl Strategy<Value = Op> {
        let caller = prop_oneof![
            Just(Caller::Request),
            Just(Caller::Opener),
            Just(Caller::Unknown)
        ];
        let first = (
            (number(), number(), number()),
            proptest::sample::select(OpKind::ALL),
            (of(number()), of(number()), of(any::<i32>())),
            (of(word()), of(number()), of(number())),
            (of(any::<u32>()), of(any::<u32>()), of(text())),
            (of(any::<u32>()), of(any::<u32>()), caller),
        );
        let texts = proptest::collection::vec(of(text()), 8);
        let numbers = proptest::collection::vec(of(number()), 10);
        let flags = proptest::collection::vec(word(), 0..3);
        let rest = (
            (texts, numbers, any::<[bool; 4]>()),
            (of(word()), flags, of(any::<u32>())),
            (of(set()), proptest::collection::vec(did(), 0..4)),
        );
        (first, rest).prop_map(|(first, rest)| {
            let ((seq, ts, dur), op, (ino, fh, fd), (syscall, call, call_size), who, owner) = first;
            let ((texts, numbers, bits), (errno, flags, mode), (set, cache)) = rest;
            let text = |at: usize| texts[at].clone();
            Op {
                seq: Seq(seq),
                ts_ns: Nanos(ts),
                dur_ns: Nanos(dur),
                op,
                ino: ino.map(Ino),
                path: text(0),
                path_b64: text(1),
                unlinked: bits[0],
                fh: fh.map(Fh),
                fd,
                syscall,
                call,
                call_size,
                pid: who.0.map(Pid),
                tid: who.1.map(Tid),
                comm: who.2,
                uid: owner.0,
                gid: owner.1,
                caller: owner.2,
                offset: numbers[0],
                size: numbers[1],
                ret: numbers[2],
                errno,
                flags,
                datasync: bits[1],
                mode,
                to: text(2),
                to_b64: text(3),
                name: text(4),
                target: text(5),
                target_b64: text(6),
                fh_out: numbers[3].map(Fh),
                path_out: text(7),
                offset_out: numbers[4],
                set: set.map(Box::new),
                file_size: numbers[5],
                entries: numbers[6],
                mapped: bits[2],
                page_cache: bits[3],
                pos: numbers[7],
                seek_from: numbers[8],
                cache,
                dirty: numbers[9],
            }
        })
    }

    proptest! {
        #[test]
        fn the_line_is_what_serde_makes_of_the_operation(op in op()) {
            let mut line = Vec::new();
            put(&op, &mut line);
            let event = super::super::Event::Op(Box::new(op));
            let expected = serde_json::to_string(&event).unwrap();
            prop_assert_eq!(std::str::from_utf8(&line).unwrap(), expected);
        }
    }
}

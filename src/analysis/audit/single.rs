//! What the laws ask of one operation alone.

use super::findings::{Evidence, Findings, Weight};
use crate::event::{CacheDid, Op, OpKind};

/// Whether there is a buffer, as the header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Policy {
    Off,
    Buffered,
}

/// Law 6.
pub(super) fn reads(line: u64, op: &Op, policy: Policy, findings: &mut Findings) {
    let (OpKind::Read, Some(ret)) = (op.op, op.ret) else {
        return;
    };
    let breach = |what: &str, expected: String, found: String| Evidence {
        seq: Some(op.seq),
        line,
        what: what.to_owned(),
        expected,
        found,
    };
    let end = op.offset.map(|offset| offset.saturating_add(ret));
    if let (Some(end), Some(size)) = (end, op.file_size)
        && ret > 0
        && end > size
    {
        findings.add(Weight::Certain, || {
            breach(
                "the end of a read",
                format!("at most file_size {size}"),
                end.to_string(),
            )
        });
    }
    let sum = op.cache.iter().map(read_bytes).fold(0, u64::saturating_add);
    if sum != ret && !(policy == Policy::Off && op.cache.is_empty()) {
        findings.add(Weight::Certain, || {
            breach(
                "hit + miss + hole + bypass of a read",
                format!("ret {ret}"),
                sum.to_string(),
            )
        });
    }
}

/// Of law 3: what a write says it buffered is what it told the application it took.
pub(super) fn writes(line: u64, op: &Op, findings: &mut Findings) {
    let (OpKind::Write, Some(ret)) = (op.op, op.ret) else {
        return;
    };
    let taken: Vec<u64> = op.cache.iter().filter_map(taken_bytes).collect();
    let sum = taken.iter().copied().fold(0, u64::saturating_add);
    if !taken.is_empty() && sum != ret {
        findings.add(Weight::Certain, || Evidence {
            seq: Some(op.seq),
            line,
            what: "buffered + write_through of a write".to_owned(),
            expected: format!("ret {ret}"),
            found: sum.to_string(),
        });
    }
}

/// Of a write: bytes that went somewhere.
fn taken_bytes(did: &CacheDid) -> Option<u64> {
    match did {
        CacheDid::Buffered { size, .. }
        | CacheDid::WriteThrough { size, .. }
        | CacheDid::Bypass { size, .. } => Some(*size),
        _ => None,
    }
}

/// Of a read: bytes that came from somewhere.
fn read_bytes(did: &CacheDid) -> u64 {
    match did {
        CacheDid::Hit { size, .. }
        | CacheDid::Miss { size }
        | CacheDid::Hole { size }
        | CacheDid::Bypass { size, .. } => *size,
        _ => 0,
    }
}

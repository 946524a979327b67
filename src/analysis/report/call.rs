//! What the application calls, where the trace has requests.

use super::open::Open;
use crate::event::{Op, OpKind};
use crate::types::Seq;

/// The first request of a call that moves data: what the application asked for, and where its last one ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub(super) size: u64,
    pub(super) before: Option<u64>,
}

impl Call {
    pub(super) fn of(op: &Op, open: Option<&Open>) -> Option<Call> {
        let data = matches!(op.op, OpKind::Read | OpKind::Write) && !op.mapped && !op.page_cache;
        let first = op.call.is_none_or(|call| Seq(call) == op.seq);
        (data && first).then(|| Call {
            size: op.call_size.or(op.size).unwrap_or(0),
            before: open.and_then(|open| open.end_of_last(op.op)),
        })
    }
}

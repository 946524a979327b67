//! Laws 3, 4 and 5: what became of every buffered byte.
//!
//! Law 3 is sums, in any order. Laws 4 and 5 need the order in which things happened, which `seq` does
//! not tell: it orders arrivals, while a write is in the buffer somewhere between arrival and answer,
//! and a writeback has cleaned its bytes when it is over. So each event becomes actions in time:
//!
//! - bytes are dirty from the *arrival* of the operation that buffered them (a writeback issued later
//!   by another thread may take them before the operation is answered);
//! - they are clean at the *end* of a writeback whose `last_seq` reaches them;
//! - an fsync is judged at its *answer*, by the bytes whose operation was answered before it *arrived*.
//!
//! Where operations overlap in time, each doubt is resolved towards no breach: what is reported is one.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::dirty::{DirtyMap, Origin};
use super::findings::{Evidence, Findings, Weight};
use super::step::Step;
use crate::types::Seq;

/// How much later than its number an event may read the clock: a thread that is preempted between the
/// two. Generous; it only costs memory for the actions of that span.
const SLACK_NS: u64 = 2_000_000_000;

/// Actions held for [`SLACK_NS`]; beyond, the earliest are judged at once (96 MiB).
const ACTIONS_MAX: usize = 1 << 20;

/// What an event did to dirty bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Data {
    None,
    Buffered(Vec<Buffered>),
    Written {
        offset: u64,
        size: u64,
        last_seq: u64,
    },
    /// `superseded`: newer bytes are dirty in the same place, and stay so.
    Dropped {
        offset: u64,
        size: u64,
        superseded: bool,
    },
    Fsync,
    Flush,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Buffered {
    pub(super) offset: u64,
    pub(super) size: u64,
    pub(super) overwrote: u64,
}

/// Bytes of one file since it last had no dirty ones.
#[derive(Clone, Debug, Default)]
struct Account {
    buffered: i128,
    written: i128,
    overwritten: i128,
    discarded: i128,
    last: (u64, u64),
    path: Option<Arc<str>>,
}

impl Account {
    fn dirty(&self) -> i128 {
        self.buffered - self.written - self.overwritten - self.discarded
    }
}

enum Action {
    Insert {
        offset: u64,
        size: u64,
        origin: Origin,
    },
    Remove {
        offset: u64,
        size: u64,
        last_seq: u64,
    },
    Judge {
        law: SyncLaw,
        seq: u64,
        line: u64,
        start: u64,
        path: Option<Arc<str>>,
    },
}

impl Action {
    /// At one time bytes get dirty, then clean, then a sync is judged.
    fn rank(&self) -> u8 {
        match self {
            Action::Insert { .. } => 0,
            Action::Remove { .. } => 1,
            Action::Judge { .. } => 2,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum SyncLaw {
    Fsync,
    Flush,
}

/// The findings of the three laws.
pub(super) struct Laws<'a> {
    pub(super) account: &'a mut Findings,
    pub(super) fsync: &'a mut Findings,
    pub(super) flush: &'a mut Findings,
}

#[derive(Default)]
pub(super) struct Bytes {
    accounts: HashMap<u64, Account>,
    dirty: HashMap<u64, DirtyMap>,
    /// By time, then [`Action::rank`], then in the order of coming.
    actions: BTreeMap<(u64, u8, u64), (u64, Action)>,
    coming: u64,
    now: u64,
}

impl Bytes {
    /// Takes a step in order of arrival; `ino` is the file whose bytes it is about.
    pub(super) fn take(&mut self, step: &Step, ino: u64, laws: &mut Laws<'_>) {
        self.count(step, ino);
        self.plan(step, ino);
        self.now = self.now.max(step.start);
        let until = self.now.saturating_sub(SLACK_NS);
        while let Some(first) = self.actions.first_entry()
            && (first.key().0 < until || self.actions.len() > ACTIONS_MAX)
        {
            self.act(laws);
        }
    }

    /// A step whose number was passed over: it counts, but what it did happened in a past already judged.
    pub(super) fn take_late(&mut self, step: &Step, ino: u64, laws: &mut Laws<'_>) {
        if step.data != Data::None {
            const WHY: &str = "an operation took so long that events between could not be held";
            laws.fsync.doubt(WHY);
            laws.flush.doubt(WHY);
        }
        self.count(step, ino);
    }

    fn count(&mut self, step: &Step, ino: u64) {
        if matches!(step.data, Data::None | Data::Fsync | Data::Flush) {
            return;
        }
        let account = self.accounts.entry(ino).or_default();
        match &step.data {
            Data::Buffered(pieces) => {
                for piece in pieces {
                    account.buffered += i128::from(piece.size);
                    account.overwritten += i128::from(piece.overwrote);
                }
            }
            Data::Written { size, .. } => account.written += i128::from(*size),
            Data::Dropped { size, .. } => account.discarded += i128::from(*size),
            Data::None | Data::Fsync | Data::Flush => {}
        }
        account.last = (step.seq, step.line);
        account.path.clone_from(&step.path);
        if account.dirty() == 0 {
            self.accounts.remove(&ino);
        }
    }

    fn plan(&mut self, step: &Step, ino: u64) {
        match &step.data {
            Data::None => {}
            Data::Buffered(pieces) => pieces
                .iter()
                .for_each(|piece| self.dirtied(step, ino, piece)),
            Data::Written {
                offset,
                size,
                last_seq,
            } => {
                self.cleaned(step, ino, (*offset, *size), *last_seq);
            }
            Data::Dropped {
                superseded: true, ..
            } => {}
            Data::Dropped { offset, size, .. } => {
                self.cleaned(step, ino, (*offset, *size), step.seq);
            }
            Data::Fsync => self.judged(step, ino, SyncLaw::Fsync),
            Data::Flush => self.judged(step, ino, SyncLaw::Flush),
        }
    }

    fn dirtied(&mut self, step: &Step, ino: u64, piece: &Buffered) {
        let &Step {
            seq, start, end, ..
        } = step;
        let origin = Origin { seq, start, end };
        let &Buffered { offset, size, .. } = piece;
        self.at(
            start,
            ino,
            Action::Insert {
                offset,
                size,
                origin,
            },
        );
    }

    fn cleaned(&mut self, step: &Step, ino: u64, (offset, size): (u64, u64), last_seq: u64) {
        self.at(
            step.end,
            ino,
            Action::Remove {
                offset,
                size,
                last_seq,
            },
        );
    }

    fn judged(&mut self, step: &Step, ino: u64, law: SyncLaw) {
        let &Step {
            seq, line, start, ..
        } = step;
        let path = step.path.clone();
        self.at(
            step.end,
            ino,
            Action::Judge {
                law,
                seq,
                line,
                start,
                path,
            },
        );
    }

    fn at(&mut self, time: u64, ino: u64, action: Action) {
        self.coming += 1;
        self.actions
            .insert((time, action.rank(), self.coming), (ino, action));
    }

    fn act(&mut self, laws: &mut Laws<'_>) {
        let Some((_, (ino, action))) = self.actions.pop_first() else {
            return;
        };
        match action {
            Action::Insert {
                offset,
                size,
                origin,
            } => {
                self.dirty
                    .entry(ino)
                    .or_default()
                    .insert(offset, size, origin);
            }
            Action::Remove {
                offset,
                size,
                last_seq,
            } => {
                let Some(map) = self.dirty.get_mut(&ino) else {
                    return;
                };
                map.remove(offset, size, last_seq);
                if map.is_empty() {
                    self.dirty.remove(&ino);
                }
            }
            Action::Judge {
                law,
                seq,
                line,
                start,
                path,
            } => {
                let Some(old) = self.dirty.get(&ino).and_then(|map| map.older_than(start)) else {
                    return;
                };
                let (what, findings) = match law {
                    SyncLaw::Fsync => ("fsync", &mut *laws.fsync),
                    SyncLaw::Flush => ("flush", &mut *laws.flush),
                };
                findings.add(Weight::IfComplete, || {
                    left_dirty(what, ino, path, (seq, line), old)
                });
            }
        }
    }

    /// The end of the trace. `dirty_bytes` is what the footer says was never written.
    pub(super) fn finish(mut self, dirty_bytes: Option<u64>, laws: &mut Laws<'_>) {
        while !self.actions.is_empty() {
            self.act(laws);
        }
        let left: i128 = self.accounts.values().map(Account::dirty).sum();
        let agrees = dirty_bytes.is_none_or(|bytes| i128::from(bytes) == left);
        let mut accounts: Vec<_> = self.accounts.into_iter().collect();
        accounts.sort_by_key(|(_, account)| account.last);
        let balances = |account: &Account| account.dirty() > 0 && agrees;
        if accounts.is_empty() && !agrees {
            laws.account.add(Weight::IfComplete, || Evidence {
                seq: None,
                line: 0,
                what: "dirty bytes at the end".to_owned(),
                expected: "0, as all files together tell".to_owned(),
                found: format!("{} in the footer", dirty_bytes.unwrap_or_default()),
            });
        }
        for (ino, account) in accounts.iter().filter(|(_, account)| !balances(account)) {
            laws.account.add(Weight::IfComplete, || {
                unbalanced(*ino, account, dirty_bytes)
            });
        }
    }
}

fn file(ino: u64, path: Option<&Arc<str>>) -> String {
    match path {
        // Debug escapes what would disturb a terminal.
        Some(path) => format!("{path:?} (ino {ino})"),
        None => format!("ino {ino}"),
    }
}

fn left_dirty(
    what: &str,
    ino: u64,
    path: Option<Arc<str>>,
    (seq, line): (u64, u64),
    (bytes, offset, origin): (u64, u64, Origin),
) -> Evidence {
    Evidence {
        seq: Some(Seq(seq)),
        line,
        what: format!("{what} of {}", file(ino, path.as_ref())),
        expected: "nothing dirty from before it".to_owned(),
        found: format!(
            "{bytes} dirty bytes from offset {offset}, buffered by seq {}",
            origin.seq
        ),
    }
}

fn unbalanced(ino: u64, account: &Account, dirty_bytes: Option<u64>) -> Evidence {
    let (seq, line) = account.last;
    Evidence {
        seq: Some(Seq(seq)),
        line,
        what: format!("bytes of {}", file(ino, account.path.as_ref())),
        expected: format!("{} bytes buffered to be accounted for", account.buffered),
        found: format!(
            "{} written back + {} overwritten + {} discarded, leaving {} (all files at the end: {})",
            account.written,
            account.overwritten,
            account.discarded,
            account.dirty(),
            dirty_bytes.unwrap_or_default(),
        ),
    }
}

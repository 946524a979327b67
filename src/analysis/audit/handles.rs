//! Law 2: the life of each open file description.
//!
//! Judged in the order of arrival, and that is enough: the kernel knows an fh only from the answer to
//! its open, so whatever names it arrives later; and it sends the release only when nobody holds the
//! description any more, which is after the answer to everything that named it.

use std::collections::HashMap;

use super::findings::{Evidence, Findings, Weight};
use super::step::Step;
use crate::analysis::seqset::SeqSet;
use crate::types::Seq;

/// What an operation does with the description that it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FhUse {
    Open { writable: bool },
    Use,
    Release,
}

/// An open description.
#[derive(Clone, Copy, Debug)]
pub(super) struct Handle {
    pub(super) ino: Option<u64>,
    pub(super) writable: bool,
}

#[derive(Debug, Default)]
pub(super) struct Handles {
    open: HashMap<u64, Handle>,
    /// All that were ever opened. Numbers are given in order, so this is a few intervals.
    known: SeqSet,
}

impl Handles {
    pub(super) fn get(&self, fh: u64) -> Option<Handle> {
        self.open.get(&fh).copied()
    }

    /// Takes a step in order of arrival.
    pub(super) fn take(&mut self, step: &Step, findings: &mut Findings) {
        if let Some((fh, usage)) = step.fh {
            self.one(step, fh, usage, findings);
        }
        if let Some(fh) = step.fh_out {
            self.one(step, fh, FhUse::Use, findings);
        }
    }

    fn one(&mut self, step: &Step, fh: u64, usage: FhUse, findings: &mut Findings) {
        let breach = |expected: &str, found: &str| Evidence {
            seq: Some(Seq(step.seq)),
            line: step.line,
            what: format!("{} of fh {fh}", step.name),
            expected: expected.to_owned(),
            found: found.to_owned(),
        };
        match usage {
            FhUse::Open { writable } => {
                if !self.known.insert(fh) {
                    findings.add(Weight::Certain, || breach("one open of it", "a second one"));
                }
                self.open.insert(
                    fh,
                    Handle {
                        ino: step.ino,
                        writable,
                    },
                );
            }
            FhUse::Use if self.open.contains_key(&fh) => {}
            FhUse::Release if self.open.remove(&fh).is_some() => {}
            FhUse::Use | FhUse::Release if self.known.contains(fh) => {
                findings.add(Weight::Certain, || {
                    breach("nothing after its release", "this")
                });
            }
            FhUse::Use | FhUse::Release => {
                findings.add(Weight::IfComplete, || breach("an open before it", "none"));
                // Told once: what follows on it says nothing new, until it is released.
                self.known.insert(fh);
                if usage == FhUse::Use {
                    self.open.insert(
                        fh,
                        Handle {
                            ino: step.ino,
                            writable: true,
                        },
                    );
                }
            }
        }
    }

    /// A step whose number was passed over: what it opened may have been used and released meanwhile.
    pub(super) fn take_late(&mut self, step: &Step) {
        match step.fh {
            Some((fh, FhUse::Open { writable })) if self.known.insert(fh) => {
                self.open.insert(
                    fh,
                    Handle {
                        ino: step.ino,
                        writable,
                    },
                );
            }
            Some((fh, FhUse::Release)) => {
                self.open.remove(&fh);
            }
            _ => {}
        }
    }
}

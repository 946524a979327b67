//! A row of the table: what is promised, which operations it exercises, and how.

use iolens::event::OpKind;

use crate::side::Side;

pub(crate) struct Step {
    /// A sentence of behaviour; also the name of the step's directory.
    pub(crate) name: &'static str,
    /// What the step is there to exercise; others may occur too.
    pub(crate) ops: &'static [OpKind],
    /// Whether it only means something to root (it switches users, makes devices, ...).
    pub(crate) needs_root: bool,
    /// Whether it takes seconds, and touches no file's data.
    pub(crate) is_slow: bool,
    pub(crate) run: fn(&mut Side),
}

impl Step {
    pub(crate) const fn new(
        name: &'static str,
        ops: &'static [OpKind],
        run: fn(&mut Side),
    ) -> Step {
        Step {
            name,
            ops,
            needs_root: false,
            is_slow: false,
            run,
        }
    }

    pub(crate) const fn for_root(self) -> Step {
        Step {
            needs_root: true,
            ..self
        }
    }

    pub(crate) const fn slow(self) -> Step {
        Step {
            is_slow: true,
            ..self
        }
    }
}

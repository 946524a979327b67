//! What an audit found, law by law.

use std::fmt;

use crate::types::Seq;

/// Examples told of one broken law; all are counted.
pub const EVIDENCE_MAX: usize = 5;

/// The laws of `docs/TRACE.md`, numbered from 1.
pub const LAWS: [&str; 8] = [
    "seq has no gap but what lost counts",
    "every fh is opened once, released at most once, and not used outside",
    "bytes buffered = written back + overwritten + discarded + still dirty",
    "an fsync that returned 0 leaves nothing dirty from before it",
    "with on_close=writeback, likewise a flush that returned 0",
    "reads stay within file_size and are accounted for by the buffer",
    "every writeback and discard has a cause",
    "unwritten bytes at the end mean write errors or an abandoned run, and exit 3",
];

/// One thing that a law forbids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// The event, where it is one.
    pub seq: Option<Seq>,
    /// The line of the trace; 0 for the trace as a whole.
    pub line: u64,
    /// What was looked at.
    pub what: String,
    /// What the law asks for.
    pub expected: String,
    /// What the trace says.
    pub found: String,
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str("the trace: ")?,
            line => write!(f, "line {line}")?,
        }
        if let Some(seq) = self.seq {
            write!(f, ", seq {seq}")?;
        }
        if self.line > 0 {
            f.write_str(": ")?;
        }
        write!(
            f,
            "{}: expected {}, found {}",
            self.what, self.expected, self.found
        )
    }
}

/// What became of a law.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The whole trace obeys it.
    Holds,
    /// It does not.
    Broken {
        /// How often.
        count: u64,
        /// The first few times.
        evidence: Vec<Evidence>,
    },
    /// Nothing breaks it, but the trace does not tell enough; why.
    NotProvable(String),
}

/// A law with its verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LawReport {
    /// From 1; see [`LAWS`].
    pub number: usize,
    /// What it says, in short.
    pub text: &'static str,
    /// What became of it.
    pub verdict: Verdict,
}

/// What an audit found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Events between header and footer.
    pub events: u64,
    /// Operations among them.
    pub ops: u64,
    /// Why the trace is not complete; `None` for one with a footer, nothing lost and no filter.
    pub incomplete: Option<String>,
    /// All laws in order.
    pub laws: Vec<LawReport>,
}

impl Report {
    /// Whether any law is broken.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.laws
            .iter()
            .any(|law| matches!(law.verdict, Verdict::Broken { .. }))
    }
}

/// Whether missing lines could explain what was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weight {
    /// No.
    Certain,
    /// Yes: it counts only in a complete trace.
    IfComplete,
}

/// One law's evidence as it is gathered.
#[derive(Clone, Debug, Default)]
pub(super) struct Findings {
    certain: Kept,
    if_complete: Kept,
    /// Why it cannot be proven even of a complete trace.
    doubt: Option<String>,
}

#[derive(Clone, Debug, Default)]
struct Kept {
    count: u64,
    evidence: Vec<Evidence>,
}

impl Kept {
    fn add(&mut self, evidence: impl FnOnce() -> Evidence) {
        self.count += 1;
        if self.evidence.len() < EVIDENCE_MAX {
            self.evidence.push(evidence());
        }
    }
}

impl Findings {
    /// Counts a breach; `evidence` is made only for the first few.
    pub(super) fn add(&mut self, weight: Weight, evidence: impl FnOnce() -> Evidence) {
        match weight {
            Weight::Certain => self.certain.add(evidence),
            Weight::IfComplete => self.if_complete.add(evidence),
        }
    }

    /// The law cannot be proven, whether or not the trace is complete.
    pub(super) fn doubt(&mut self, why: &str) {
        self.doubt.get_or_insert_with(|| why.to_owned());
    }

    /// The verdict, given why the trace does not tell enough for this law.
    pub(super) fn verdict(mut self, incomplete: Option<&str>) -> Verdict {
        let why = self.doubt.take().or_else(|| incomplete.map(str::to_owned));
        if why.is_none() {
            let room = EVIDENCE_MAX.saturating_sub(self.certain.evidence.len());
            self.certain.count += self.if_complete.count;
            self.certain
                .evidence
                .extend(self.if_complete.evidence.into_iter().take(room));
        }
        match (self.certain.count, why) {
            (0, None) => Verdict::Holds,
            (0, Some(why)) => Verdict::NotProvable(why),
            (count, _) => Verdict::Broken {
                count,
                evidence: self.certain.evidence,
            },
        }
    }
}

//! What a trace says: folds over its events, in the order of its lines.
//!
//! Layer: offline; imports the vocabulary and `event`, never the filesystem or the cache, so that an
//! audit judges what was recorded and not what the code meant. Pure: whoever calls reads the trace.

pub mod audit;
pub mod report;
mod seqset;
pub mod story;
pub mod summary;
mod timeline;

/// Adds a figure of a trace, where any number may stand: a sum beyond what a `u64` holds stays the largest.
fn add(sum: &mut u64, figure: u64) {
    *sum = sum.saturating_add(figure);
}

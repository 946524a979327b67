//! Events for eyes: one line each, and a short table.
//!
//! Layer: offline; imports the vocabulary, `event` and `analysis`. Pure: it reads no file and asks no
//! terminal. Whatever the names in a trace contain, what comes out is printable.

pub mod escape;
mod grid;
pub mod report;
pub mod story;
pub mod table;
pub mod text;

pub use escape::{escape_bytes, escape_text};

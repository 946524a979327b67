//! The trace on its way to disk and back: recorder, sinks, reader and the place where traces live.
//!
//! Layer: an effect; imports the vocabulary and `event`. It knows neither requests nor FUSE: others
//! make the events. It does not know the text form either: whoever starts a [`Recorder`] hands the
//! [`Formatter`] in.
//!
//! ```text
//! request threads --record()--> one buffer each --+
//!                                                  +--> writer thread --> Sink (file, pipe, memory)
//! flusher, ...    --record()--> one buffer each --+        `--> live lines
//! ```
//!
//! Invariants:
//!
//! 1. A line is written whole or not at all. What a full disk cut in two is taken back with
//!    ftruncate(2), or, in a pipe, finished before anything else is written.
//! 2. Memory is bounded: [`BUFFER_EVENTS`] events or [`BUFFER_BYTES`] bytes for each thread, as much
//!    again while the writer formats them, and [`TEXT_BYTES`] of formatted lines.
//! 3. Nothing is lost silently. A full buffer makes its thread wait for the writer; when the writer
//!    has come no further for [`STALL`], events are counted instead, each having taken a `seq`, and
//!    a `lost` line says how many as soon as lines can be written again.
//! 4. An idle recorder uses no CPU: its writer sleeps without a timeout.
//! 5. Lines stand in the order of their answers, except that lines of different threads may be
//!    exchanged within one batch interval ([`Pace`]), longer while the sink stalls. Readers order by `seq`.

mod buffer;
mod clock;
mod filter;
mod output;
pub mod reader;
mod recorder;
mod sink;
pub mod store;
mod writer;

pub use buffer::{BUFFER_BYTES, BUFFER_EVENTS};
pub use clock::Clock;
pub use filter::{CaptureFilter, PathGlobs};
pub use output::TEXT_BYTES;
pub use recorder::{Config, FooterFacts, Pace, Recorder, STALL, Summary};
pub use sink::{FileSink, MemorySink, Sink, StreamSink, create_file, for_fd, for_file};

use crate::event::Event;

/// Turns an event into one line, newline included, appended to the bytes.
pub type Formatter = Box<dyn FnMut(&Event, &mut Vec<u8>) + Send>;

/// The trace proper: one JSON object a line.
#[must_use]
pub fn jsonl() -> Formatter {
    Box::new(|event, out| {
        let start = out.len();
        // Every event is a plain struct, so this is a bug; a missing line shows as a gap in audit.
        if let Err(error) = event.put_line(out) {
            log::error!("an event has no JSON form: {error}");
            out.truncate(start);
        }
    })
}

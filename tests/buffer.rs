//! The buffer cache through a mount: what programs see in the view, what lies in SOURCE at that moment, and
//! which decisions the trace tells.
//!
//! `case_NN_...` are the tricky cases that concern data, sizes, times and order; each runs on a mount of
//! every row of `view::MATRIX`, unless it is about one. `IOLENS_BUFFER='part of the options'` runs only such
//! rows.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "buffer/appends.rs"]
mod appends;
#[path = "buffer/attrs.rs"]
mod attrs;
#[path = "buffer/call.rs"]
mod call;
#[path = "buffer/delayed.rs"]
mod delayed;
#[path = "buffer/dying.rs"]
mod dying;
#[path = "buffer/figures.rs"]
mod figures;
#[path = "buffer/full.rs"]
mod full;
#[path = "buffer/held.rs"]
mod held;
#[path = "buffer/load.rs"]
mod load;
#[path = "buffer/maps.rs"]
mod maps;
#[path = "buffer/moving.rs"]
mod moving;
#[path = "buffer/names.rs"]
mod names;
#[path = "buffer/outside.rs"]
mod outside;
#[path = "support/process.rs"]
mod process;
#[path = "buffer/reads.rs"]
mod reads;
#[path = "buffer/reasons.rs"]
mod reasons;
#[path = "buffer/record.rs"]
mod record;
#[path = "buffer/setid.rs"]
mod setid;
#[path = "buffer/sizes.rs"]
mod sizes;
#[path = "buffer/space.rs"]
mod space;
mod support;
#[path = "buffer/sync.rs"]
mod sync;
#[path = "buffer/times.rs"]
mod times;
#[path = "buffer/tree.rs"]
mod tree;
#[path = "buffer/view.rs"]
mod view;
#[path = "buffer/writes.rs"]
mod writes;

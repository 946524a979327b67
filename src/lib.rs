//! iolens shows what file I/O really does: a FUSE passthrough view of a directory that records every
//! request a program makes there. `docs/ARCHITECTURE.md` is the map.

pub mod analysis;
pub mod backing;
pub mod buffer;
pub mod cache;
pub mod caller;
pub mod cli;
pub mod error;
pub mod event;
pub mod fs;
pub mod fuse;
pub mod mount;
pub mod render;
pub mod run;
pub mod server;
pub mod sys;
pub mod trace;
pub mod types;
pub mod uring;
pub mod workers;

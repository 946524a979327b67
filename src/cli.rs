//! The command line: one module a subcommand.

pub mod audit;
pub mod input;
pub mod log;
pub mod units;

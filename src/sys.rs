//! The only `unsafe` of iolens: what neither std nor nix offers as a safe call.
//!
//! Layer: vocabulary; imports nothing of iolens but `error`. No policy lives here.

pub mod process;

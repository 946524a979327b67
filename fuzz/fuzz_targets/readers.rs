//! `mkdir -p fuzz/corpus/readers; cargo +nightly fuzz run readers fuzz/corpus/readers fuzz/seeds/readers`: what it finds goes to the
//! first directory.

#![no_main]

#[path = "../every_reader.rs"]
mod every_reader;

libfuzzer_sys::fuzz_target!(|trace: &[u8]| every_reader::read_in_every_way(trace));

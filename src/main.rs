//! The `iolens` command.

fn main() {}

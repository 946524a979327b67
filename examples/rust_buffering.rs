//! The lesson on buffering in Rust: 1000 writes of 9 bytes to a `File`, a `BufWriter` and a `LineWriter`.
//!
//! `File` has no buffer: each `write!` is at least one write(2). What `drop` writes, nobody can check.

use std::fs::File;
use std::io::{self, BufWriter, LineWriter, Write};

const COUNT: u32 = 1000;

/// COUNT lines of 9 bytes, one call of `write_all` for each.
fn write_lines(out: &mut impl Write) -> io::Result<()> {
    for number in 0..COUNT {
        let line = format!("{number:08}\n");
        out.write_all(line.as_bytes())?;
    }
    Ok(())
}

fn main() -> io::Result<()> {
    write_lines(&mut File::create("rust-file.txt")?)?;

    let mut out = BufWriter::new(File::create("rust-default.txt")?);
    write_lines(&mut out)?;
    out.flush()?; // Without it, drop would write the rest and lose the error.

    let mut out = BufWriter::with_capacity(1024, File::create("rust-1024.txt")?);
    write_lines(&mut out)?;
    out.flush()?;

    let mut out = LineWriter::new(File::create("rust-line.txt")?);
    write_lines(&mut out)?;
    out.flush()?;

    // Formatting is many small writes: one for each piece of the format string and each argument.
    let mut out = File::create("rust-format.txt")?;
    for number in 0..COUNT {
        writeln!(out, "{number:08}")?;
    }
    println!("5 files of {COUNT} lines of 9 bytes");
    Ok(())
}

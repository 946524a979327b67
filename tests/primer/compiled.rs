//! The lesson on buffering in C and in Rust.

use iolens::event::OpKind::Write;

use crate::lesson::Lesson;
use crate::lessons::{pieces, whole_lines};

#[test]
fn the_buffers_of_c_are_filled_to_the_last_byte_and_those_of_rust_keep_lines_whole() {
    let lesson = Lesson::follow("Buffering in C and Rust");
    assert_eq!(lesson.traces.len(), 2);
    let (c, rust) = (&lesson.traces[0], &lesson.traces[1]);
    let default = c.of("c-default.txt", Write)[0].ret.unwrap();
    for (file, buffer) in [
        // `st_blksize`, of which glibc makes its buffer.
        ("c-default.txt", default),
        ("c-no-memory.txt", default),
        ("c-1024.txt", 1024),
        ("c-line.txt", 9),
        ("c-none.txt", 9),
    ] {
        assert_eq!(c.sizes(file, Write), pieces(buffer, 9000), "{file}");
    }
    assert!(default.is_power_of_two());
    for (file, sizes) in [
        ("rust-file.txt", pieces(9, 9000)),
        ("rust-default.txt", whole_lines(8192, 9000)),
        ("rust-1024.txt", whole_lines(1024, 9000)),
        ("rust-line.txt", pieces(9, 9000)),
    ] {
        assert_eq!(rust.sizes(file, Write), sizes, "{file}");
        assert_eq!(rust.written_back(file), 9000);
    }
    let formatted = rust.sizes("rust-format.txt", Write);
    assert!(formatted.len() > 2000, "{}", formatted.len());
    assert_eq!(formatted.iter().sum::<u64>(), 9000);
}

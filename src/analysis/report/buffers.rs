//! The application's own buffer, recognised by the sizes of its calls.

/// Sizes of buffers that are common, bytes, and who has them: the runtime's own name for it, and the name of the
/// program where that says more.
///
/// Sources: CPython Modules/_io (`DEFAULT_BUFFER_SIZE`, the text layer's `_CHUNK_SIZE`; a binary file's buffer is as large
/// as `st_blksize`), glibc libio/filedoalloc.c (`st_blksize`), Rust library/std/src/sys/io (`DEFAULT_BUF_SIZE`), Go
/// bufio/bufio.go (`defaultBufSize`) and io/io.go (`copyBuffer`), OpenJDK java.base BufferedOutputStream and
/// BufferedWriter, coreutils src/ioblksize.h (`IO_BUFSIZE`).
const KNOWN: [(u64, &str, &str); 8] = [
    (4096, "python", "CPython's binary files"),
    (4096, "", "C's stdio and Go's bufio"),
    (8192, "python", "CPython's text files"),
    (
        8192,
        "java",
        "Java's BufferedWriter and BufferedOutputStream",
    ),
    (8192, "", "Rust's BufWriter and BufReader"),
    (32 << 10, "", "Go's io.Copy"),
    (128 << 10, "", "CPython's from 3.15 on, and GNU coreutils'"),
    (256 << 10, "", "GNU coreutils'"),
];

/// Sizes that are told apart, bytes.
const SIZES: [u64; 5] = [4096, 8192, 32 << 10, 128 << 10, 256 << 10];

/// So many full calls are no accident; where the program is known to have such a buffer, one shows it.
const FULL_MIN: u64 = 3;

/// Calls by size, as far as buffers show in them.
#[derive(Clone, Debug, Default)]
pub(super) struct SizeTally {
    full: [u64; SIZES.len()],
    others: u64,
}

/// A buffer that was recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Buffer {
    pub(super) size: u64,
    pub(super) calls: u64,
    pub(super) owner: &'static str,
}

impl SizeTally {
    pub(super) fn add(&mut self, size: u64) {
        // A buffer of text is emptied when the next line does not fit.
        let fills = |full: &u64| size <= *full && size > full - full / 8;
        match SIZES.iter().position(fills) {
            Some(class) => self.full[class] += 1,
            None => self.others += 1,
        }
    }

    /// The buffer of a program of that name, if all calls are one buffer full, but for the last or the first.
    pub(super) fn buffer(&self, comm: &str) -> Option<Buffer> {
        let class = (0..SIZES.len()).max_by_key(|class| self.full[*class])?;
        let (size, calls) = (SIZES[class], self.full[class]);
        let others = self.full.iter().sum::<u64>() - calls + self.others;
        let (_, program, owner) = KNOWN
            .iter()
            .find(|(known, program, _)| *known == size && comm.starts_with(program))?;
        let enough = if program.is_empty() { FULL_MIN } else { 1 };
        (calls >= enough && others <= 2).then_some(Buffer { size, calls, owner })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recognised(comm: &str, sizes: &[u64]) -> Option<(u64, &'static str)> {
        let mut tally = SizeTally::default();
        sizes.iter().for_each(|size| tally.add(*size));
        tally.buffer(comm).map(|buffer| (buffer.size, buffer.owner))
    }

    #[test]
    fn full_buffers_and_a_rest_are_recognised_by_size_and_program() {
        let text = [8190, 8192, 8188, 411];
        assert_eq!(
            recognised("python3.11", &text),
            Some((8192, "CPython's text files"))
        );
        assert_eq!(
            recognised("tool", &text),
            Some((8192, "Rust's BufWriter and BufReader"))
        );
        assert_eq!(
            recognised("a.out", &[4096, 4096, 4096, 4096, 10]),
            Some((4096, "C's stdio and Go's bufio"))
        );
    }

    #[test]
    fn few_or_uneven_calls_are_no_buffer() {
        assert_eq!(recognised("a", &[8192, 8192]), None);
        assert_eq!(
            recognised("python3", &[8190, 700]),
            Some((8192, "CPython's text files"))
        );
        assert_eq!(recognised("a", &[8192, 8192, 8192, 10, 20, 30]), None);
        assert_eq!(recognised("a", &[100; 50]), None);
        assert_eq!(recognised("a", &[7000, 7100, 7050, 7010]), None);
    }
}

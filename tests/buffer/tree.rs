//! A directory as lines, to compare two of them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Files up to this size are compared byte for byte at the end.
const COMPARED_MAX: u64 = 64 << 20;

/// One line for each file: name, type, mode, owner, size, mtime and a checksum.
pub(crate) fn tree(top: &Path, dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(top.join(dir))
        .unwrap()
        .map(|entry| dir.join(entry.unwrap().file_name()))
        .collect();
    names.sort();
    let mut lines = Vec::new();
    for name in names {
        let path = top.join(&name);
        let st = fs::symlink_metadata(&path).unwrap();
        let mut line = format!(
            "{} {:o} {}:{}",
            name.display(),
            st.mode(),
            st.uid(),
            st.gid()
        );
        if st.is_file() {
            line += &format!(
                " {} bytes of {}.{:09}",
                st.size(),
                st.mtime(),
                st.mtime_nsec()
            );
        }
        if st.is_file() && st.size() <= COMPARED_MAX {
            line += &format!(" sum {:016x}", sum(&fs::read(&path).unwrap()));
        }
        lines.push(line);
        if st.is_dir() {
            lines.extend(tree(top, &name));
        }
    }
    lines
}

fn sum(data: &[u8]) -> u64 {
    let (words, rest) = data.as_chunks::<8>();
    let mix = |hash: u64, word: u64| (hash ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(5);
    let hash = words
        .iter()
        .fold(1, |hash, word| mix(hash, u64::from_le_bytes(*word)));
    rest.iter()
        .fold(hash, |hash, &byte| mix(hash, u64::from(byte)))
}

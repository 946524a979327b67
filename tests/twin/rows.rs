//! The options that the table runs with, and which of them run now.

/// A row: what `iolens mount` is given beside the options of the mount itself.
pub(crate) type Row = &'static str;

/// Each policy with little memory and much, with data that ages at once and data that does not; a close that
/// keeps; and a cache that is smaller than many files of the table.
const MATRIX: &[Row] = &[
    DEFAULT,
    "--policy off",
    KERNEL_READS,
    "--kernel-cache read --policy off",
    "--policy write-through --cache-size 1MiB",
    "--policy write-through --cache-size 256MiB",
    TIGHT,
    "--policy write-back --cache-size 1MiB --dirty-age 5s",
    "--policy write-back --cache-size 256MiB --dirty-age 1ms",
    "--policy write-back --cache-size 256MiB --dirty-age 5s",
    "--policy write-back --cache-size 256MiB --dirty-age 5s --on-close keep",
    "--policy write-back --cache-size 64KiB --dirty-limit 16KiB --dirty-age 1ms",
];

/// As it comes.
pub(crate) const DEFAULT: Row = "";
/// The flusher and eviction are at work all the time.
const TIGHT: Row = "--policy write-back --cache-size 1MiB --dirty-age 1ms";
/// The kernel's page cache answers reads.
const KERNEL_READS: Row = "--kernel-cache read";
/// Those that are furthest from each other.
const USUAL: &[Row] = &[DEFAULT, "--policy off", TIGHT, KERNEL_READS];

/// The rows that shall run, and whether somebody has asked for them. `IOLENS_TWIN_ROWS` is `all`, or the
/// options of one row, or a part that several have in common, or options of no row, which make one.
pub(crate) fn rows() -> (Vec<Row>, bool) {
    match std::env::var("IOLENS_TWIN_ROWS") {
        Ok(asked) => (matching(&asked), true),
        Err(_) => (USUAL.to_vec(), false),
    }
}

fn matching(asked: &str) -> Vec<Row> {
    if asked == "all" {
        return MATRIX.to_vec();
    }
    if let Some(&row) = MATRIX.iter().find(|row| **row == asked) {
        return vec![row];
    }
    let rows = MATRIX.iter().copied();
    let found: Vec<Row> = rows.filter(|row| row.contains(asked)).collect();
    match found[..] {
        [] if asked.starts_with('-') => vec![asked.to_owned().leak()],
        [] => panic!("IOLENS_TWIN_ROWS={asked}: no such row, and not options either"),
        _ => found,
    }
}

#[test]
fn rows_are_asked_for_by_a_part_of_their_options() {
    assert_eq!(matching("all"), MATRIX);
    assert_eq!(matching(""), [DEFAULT]);
    assert_eq!(matching("write-through").len(), 2);
    assert_eq!(matching("--kernel-cache").len(), 2);
    assert_eq!(matching(TIGHT), [TIGHT]);
    assert_eq!(matching("--cache-size 8KiB"), ["--cache-size 8KiB"]);
    assert!(USUAL.iter().all(|row| MATRIX.contains(row)));
}

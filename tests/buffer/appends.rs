//! Appending: case 5.

use std::fs::{self, File};
use std::io::Write;

use libc::{O_APPEND, O_CREAT, O_WRONLY};

use crate::call::fork;
use crate::view::{View, each, open_at, pattern, same};

const RECORD: usize = 32;
/// Records of each handle.
const RECORDS: usize = 400;

/// `HANDLE NUMBER` and dots up to a newline.
fn record(handle: usize, number: usize) -> Vec<u8> {
    format!("{:.<31}\n", format!("{handle} {number} ")).into_bytes()
}

/// A process with two handles, which takes turns with them.
fn append_with_two_handles(v: &View, first: usize) -> bool {
    let mut handles = [first, first + 1].map(|n| (n, v.open("f", O_WRONLY | O_APPEND)));
    (0..RECORDS).all(|number| {
        handles
            .iter_mut()
            .all(|(handle, file)| file.write(&record(*handle, number)).ok() == Some(RECORD))
    })
}

#[test]
fn case_05_appends_of_two_processes_with_two_handles_each_are_all_there_and_whole() {
    each(|v| {
        drop(v.create("f"));
        let processes = [0, 2].map(|first| fork(|| append_with_two_handles(v, first)));
        assert_eq!(processes.map(crate::call::Forked::wait), [0, 0]);
        let data = v.read("f");
        v.shows("f", &data);
        v.holds_as_closed("f", &data);
        assert_eq!(data.len(), RECORD * RECORDS * 4);
        let mut next = [0; 4];
        for found in data.chunks(RECORD) {
            let handle = usize::from(found[0] - b'0');
            same("a record", found, &record(handle, next[handle]));
            next[handle] += 1;
        }
    });
}

#[test]
fn case_05_an_append_lands_behind_what_was_appended_to_source_from_outside() {
    each(|v| {
        let (one, two, three, four) = (b"through the view\n", b"outside\n", b"again\n", b"end\n");
        let mut f = v.open("f", O_WRONLY | O_CREAT | O_APPEND);
        f.write_all(one).unwrap();
        f.sync_all().unwrap();
        append_outside(v, two);
        // The description that was open all the time learns of it by its attributes.
        let size = f.metadata().unwrap().len();
        assert_eq!(size, (one.len() + two.len()) as u64);
        f.write_all(three).unwrap();
        v.shows("f", &[&one[..], two, three].concat());
        f.sync_all().unwrap();
        drop(f);
        append_outside(v, &pattern(10_000, 1));
        // And a new one by being opened.
        let mut f = v.open("f", O_WRONLY | O_APPEND);
        f.write_all(four).unwrap();
        drop(f);
        let wanted = [&one[..], two, three, &pattern(10_000, 1), four].concat();
        v.shows("f", &wanted);
        v.holds_as_closed("f", &wanted);
    });
}

fn append_outside(v: &View, data: &[u8]) {
    let mut below: File = open_at(&v.below("f"), O_WRONLY | O_APPEND);
    below.write_all(data).unwrap();
    assert!(fs::metadata(v.below("f")).unwrap().len() >= data.len() as u64);
}

#[test]
fn case_05_appends_follow_the_end_as_the_view_has_it_also_where_that_is_a_hole() {
    each(|v| {
        let mut appender = v.open("f", O_WRONLY | O_CREAT | O_APPEND);
        let mut wanted = Vec::new();
        for round in 0..20 {
            let piece = pattern(777, round);
            appender.write_all(&piece).unwrap();
            wanted.extend(piece);
            // A hole at the end is an end, too.
            wanted.resize(wanted.len() + 100, 0);
            appender.set_len(wanted.len() as u64).unwrap();
        }
        v.shows("f", &wanted);
        drop(appender);
        v.holds_as_closed("f", &wanted);
    });
}
